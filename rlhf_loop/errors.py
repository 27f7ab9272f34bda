"""The exceptions of this package, one tree, so that a caller can catch them all by its root.

`InvalidRowsError` (in `exchange`), `InvalidDocumentsError` (in `sources.index`) and `ApiError` (in `client`) stand
beside what they carry. A message has three parts: what happened, the value seen, what to do next. Bad arguments of a
call stay plain `ValueError`, as Python users expect.
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


class BackupError(RlhfLoopError):
    """A backup cannot be written, is not whole, or cannot be restored here."""


class BackupRunningError(BackupError):
    """Another backup is being written to the same folder."""


class ObjectStoreError(RlhfLoopError):
    """An object store cannot be reached, read or written, or an address is not a valid one of such a store."""


class AlteredObjectError(ObjectStoreError):
    """An object store answers, and has something else than was written."""


class ImportFileError(RlhfLoopError):
    """A ratings file cannot be read or written, or some of its rows are invalid; nothing was stored."""


class EncoderError(RlhfLoopError):
    """The encoder's weights are missing, altered, or belong to another model."""


class TrainingError(RlhfLoopError):
    """Training cannot start or cannot end well."""


class NotEnoughDataError(TrainingError):
    """Too few rated answers, or only one class of them."""


class TrainingRunningError(TrainingError):
    """Another training is running, here or on another machine with the same database."""


class RegistryError(RlhfLoopError):
    """A version of the reward model is unknown, or may not become live."""


class ReviewChangedError(RlhfLoopError):
    """The review that would be replaced is not the one that the rater saw; nothing was stored."""


class ModelFileError(RlhfLoopError):
    """The reward model file is missing, altered, foreign or incompatible."""


class DocumentError(RlhfLoopError):
    """A file cannot be read into the vector database."""


class VectorStoreError(RlhfLoopError):
    """The vector database cannot be opened or used."""


class SourceError(RlhfLoopError):
    """A source of candidates cannot answer now; `retry_after_s` is the pause that it asks for, if it does."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LanguageModelError(RlhfLoopError):
    """The language model gives no draft; `status` is HTTP's for it: 400 is the fault of whoever asked."""

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s


class OutboxError(RlhfLoopError):
    """The outbox is full or cannot be written, so that nothing can be kept until the database answers again."""


class AccountError(RlhfLoopError):
    """A user, password, token or link is refused; the message is for whoever asked."""


class ProviderError(RlhfLoopError):
    """The identity provider cannot be asked now; nothing is known of whoever wants to sign in."""


class MailError(RlhfLoopError):
    """The mail server did not take a mail."""


class ThrottledError(AccountError):
    """Too many attempts failed; the next one may come after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
