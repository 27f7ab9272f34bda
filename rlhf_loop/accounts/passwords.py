"""Passwords: Argon2id, and one time for a right one, a wrong one and one of nobody's."""

from __future__ import annotations

import secrets
import threading
import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from rlhf_loop.errors import AccountError

SHORTEST = 12
LONGEST = 1_000
#: Fewer would be "aaaaaaaaaaaa" and the like.
_DIFFERENT = 5

# The library's parameters are RFC 9106's for machines without much memory: 64 MiB and some 50 ms for each password.
_HASHER = PasswordHasher()
#: So many are worked out at a time in a process: a flood of sign-ins must not take all of its memory.
_AT_A_TIME = threading.BoundedSemaphore(2)


def hashed(password: str, *, name: str) -> str:
    """Return what is stored of a new password of the user of that name.

    Raises:
        AccountError: it is too short, too long or too simple.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise AccountError(
            f"The password has {len(password):,} characters. Choose one of {SHORTEST} to {LONGEST:,}; "
            "a few words that nobody would guess are good."
        )
    if len(set(password)) < _DIFFERENT or password.lower() == name:
        raise AccountError(
            f"The password is one that others try first: it is the name, or has fewer than {_DIFFERENT} different "
            "characters. Choose a few words that nobody would guess."
        )
    try:
        encoded = _encoded(password)
    except UnicodeEncodeError as error:
        raise AccountError("The password is not valid text. Type it again, or send it as UTF-8.") from error
    with _AT_A_TIME:
        return _HASHER.hash(encoded)


def matches(stored: str | None, password: str) -> bool:
    """Tell whether the password is the stored one; without one, find out that it is not in the same time."""
    try:
        encoded = _encoded(password)
    except UnicodeEncodeError:
        encoded = b""
    with _AT_A_TIME:
        try:
            # First, so that the first unknown name of a process takes no longer than others.
            nobodys = _nobodys()
            return _HASHER.verify(stored or nobodys, encoded) and stored is not None
        except (VerificationError, InvalidHashError):
            return False


def renewed(stored: str, password: str) -> str | None:
    """Return the hash by today's parameters if the stored one has others; None if it has not."""
    if not _HASHER.check_needs_rehash(stored):
        return None
    with _AT_A_TIME:
        return _HASHER.hash(_encoded(password))


def _encoded(password: str) -> bytes:
    # One character can be typed in several ways, depending on the keyboard.
    return unicodedata.normalize("NFC", password).encode()


@cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_bytes(32))
