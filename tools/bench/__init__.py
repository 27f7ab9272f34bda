"""Measure speed, size and growth and write docs/BENCHMARKS.md: `make bench`."""
