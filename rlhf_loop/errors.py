"""Every deliberate exception, so that a caller can catch one tree and know nothing else was meant.

    RlhfLoopError
    ├── ConfigError          a setting is unknown or unusable
    ├── MissingExtraError    an optional package is not installed
    ├── DatabaseError        the database cannot be reached or upgraded
    ├── ImportFileError      a ratings file cannot be read or written
    │   └── InvalidRowsError     some of its rows cannot be stored (in exchange.py: it carries the rows)
    ├── EncoderError         weights missing, altered, or of another model
    ├── TrainingError        training cannot start or end well
    │   └── NotEnoughDataError   too few rated answers, or only one class of them
    └── ModelFileError       the reward model file is missing, altered, foreign or incompatible

A message has three parts: what happened, the value seen, what to do next. Bad arguments of a call stay plain
`ValueError`, as Python users expect.
"""

from __future__ import annotations


class RlhfLoopError(Exception):
    """Base of all deliberate errors of this package."""


class ConfigError(RlhfLoopError):
    """A setting is unknown or unusable."""


class MissingExtraError(RlhfLoopError):
    """An optional package is not installed; the message names the extra that brings it."""


class DatabaseError(RlhfLoopError):
    """The database cannot be reached, or its schema cannot be brought up to date."""


class ImportFileError(RlhfLoopError):
    """A ratings file cannot be read or written, or some of its rows are invalid; nothing was stored."""


class EncoderError(RlhfLoopError):
    """The encoder's weights are missing, altered, or belong to another model."""


class TrainingError(RlhfLoopError):
    """Training cannot start or cannot end well."""


class NotEnoughDataError(TrainingError):
    """Too few rated answers, or only one class of them."""


class ModelFileError(RlhfLoopError):
    """The reward model file is missing, altered, foreign or incompatible."""
