"""Measure the recipes on real expert ratings and write docs/RESULTS.md: `make results`."""
