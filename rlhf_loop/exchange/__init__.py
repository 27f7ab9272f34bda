"""Ratings in and out: every file format, datasets, one piece of feedback."""
