"""The server process: gunicorn, its worker, and the watch over the live model."""
