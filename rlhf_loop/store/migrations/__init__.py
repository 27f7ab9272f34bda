"""The schema's history, run by `rlhf_loop.store.engine.migrate`; there is no ini file."""
