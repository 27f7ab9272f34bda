"""The process that serves: gunicorn, its worker, and what watches the live model."""
