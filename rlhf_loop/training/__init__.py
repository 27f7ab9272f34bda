"""Ratings to features to a fitted, evaluated model."""
