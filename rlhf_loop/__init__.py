"""RLHF Loop: expert ratings become a reward model that puts the best answer first."""

__version__ = "0.1.0"
