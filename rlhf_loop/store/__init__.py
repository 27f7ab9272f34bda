"""The ratings database: tables, migrations, and what is recorded, rated and audited."""
