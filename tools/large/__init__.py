"""Large tables: PostgreSQL filled to millions of rows, and what the service and its jobs take with them."""
