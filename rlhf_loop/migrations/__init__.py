"""The schema's history, run by `rlhf_loop.db.migrate`; there is no ini file."""
