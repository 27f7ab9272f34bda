"""Attacks on a running copy of the product, on loopback and in a folder of its own, with the figures of each."""
