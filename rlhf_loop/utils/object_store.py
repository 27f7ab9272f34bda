"""Files and folders on this machine or in an object store, by pyarrow's file systems.

An object appears under its name whole or not at all: it is written under another name first, read back, and copied by
the store. An upload that was killed leaves a name that begins with a dot, which no listing here has.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from rlhf_loop.config import without_secrets
from rlhf_loop.errors import AlteredObjectError, ObjectStoreError
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.files import whole_file
from rlhf_loop.utils.text import clause

require("pyarrow", "index")  # before the imports, which would only name a module

import pyarrow as pa  # noqa: E402
from pyarrow import fs  # noqa: E402

#: Seconds to connect, and seconds of silence after which a request counts as lost; each is tried twice.
_CONNECT_S, _SILENCE_S, _ATTEMPTS = 3, 10, 2
#: Seconds in which Google's client tries again; its own default is a quarter of an hour.
_GOOGLE_S = 15
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "file")
_S3_OPTIONS = ("region", "scheme", "endpoint_override")
#: The environment's name for another endpoint than Amazon's, as all of its tools read it.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_CHUNK = 1 << 20
#: How the names of uploads end that are not whole yet.
_DRAFT = ".part"
_OURS = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(_DRAFT)}", re.DOTALL)
#: S3 copies no larger object within one request.
_MOST_COPIED = 5 * 1024**3
#: Words of the stores' errors, and what to do then.
_ADVICE = {
    r"NETWORK_CONNECTION|Timeout|Could not connect|Could not resolve|timed out|UNAVAILABLE|retry policy": (
        "Check the network, and the endpoint: AWS_ENDPOINT_URL, or ?endpoint_override=HOST:PORT&scheme=http behind the "
        "address."
    ),
    r"NO_SUCH_BUCKET|ContainerNotFound|does not exist \(": "Check the bucket's name, or make it; it is not made here.",
    r"INVALID_ACCESS_KEY_ID|SIGNATURE|InvalidAccessKeyId|EXPIRED_TOKEN|ExpiredToken|UNRECOGNIZED_CLIENT": (
        "Check the key: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or whatever else the store's own tools read."
    ),
    r"ACCESS_DENIED|\b403\b|Forbidden|\b401\b|Unauthorized": (
        "Give this process credentials that may list, read, write and delete there: AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, a role, or whatever else the store's own tools read."
    ),
}
_FORM = (
    "it is not of the form s3://bucket/folder or s3://KEY:SECRET@bucket/folder, in which /, ? and # of a secret are "
    "written %2F, %3F and %23"
)
_OTHERWISE = "Check its name, your rights, and space."


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a folder: its name, its bytes, and when it was written."""

    name: str
    bytes: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder, on this machine or in an object store; `address` is its name for people."""

    files: Any
    path: str
    address: str

    @classmethod
    def of(cls, where: str | Path) -> Place:
        """Return the place that a path or an address such as s3://bucket/folder names.

        Raises:
            ObjectStoreError: it is not a valid address, or its store cannot be reached.
        """
        if not str(where):
            raise ObjectStoreError("An empty text names no file or folder. Give its name.")
        if isinstance(where, Path) or "://" not in where:
            path = str(Path(where).absolute())
            return cls(fs.LocalFileSystem(), path, path)
        with translated(where):
            files, path = _opened(where)
            path = path.rstrip("/")
            if isinstance(files, fs.LocalFileSystem):
                return cls(files, path, path)
            return cls(files, path, f"{where.partition('://')[0]}://{path}")

    @property
    def local(self) -> Path | None:
        """The path on this machine, None in an object store."""
        return Path(self.path) if isinstance(self.files, fs.LocalFileSystem) else None

    def inside(self, name: str) -> Place:
        """Return what has that name in the folder."""
        return Place(self.files, f"{self.path}/{name}", f"{self.address}/{name}")

    def _beside(self, name: str) -> Place:
        path, address = (each.rpartition("/")[0] for each in (self.path, self.address))
        return Place(self.files, f"{path}/{name}", f"{address}/{name}")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def names(self) -> set[str]:
        """Return the names in the folder, none where it is not there."""
        found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return {each.base_name for each in found}

    def entries(self) -> list[Entry]:
        """Return the files in the folder by name, none where it is not there; what begins with a dot is left out.

        Raises:
            ObjectStoreError: the store cannot be reached, or has no such bucket.
        """
        return [each for each in self._all() if not each.name.startswith(".")]

    def _all(self) -> list[Entry]:
        with translated(self.address):
            found = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
            if not found:
                self._refuse_no_bucket()
        files = (each for each in found if each.type == fs.FileType.File)
        entries = (Entry(each.base_name, each.size, each.mtime or datetime.now(UTC)) for each in files)
        return sorted(entries, key=lambda entry: entry.name)

    def entry(self) -> Entry | None:
        """Return the file, None where it is not there.

        Raises:
            ObjectStoreError: the store cannot be reached, or has no such bucket.
        """
        with translated(self.address):
            (found,) = self.files.get_file_info([self.path])
            if found.type == fs.FileType.File:
                return Entry(found.base_name, found.size, found.mtime or datetime.now(UTC))
            self._refuse_no_bucket()
        return None

    def read(self) -> bytes:
        """Return the file's content."""
        with self.files.open_input_stream(self.path) as stream:
            return cast(bytes, stream.read())

    def write(self, content: bytes, *, by: Place) -> None:
        """Write the file under the name `by` first, so that it is there whole or not at all."""
        with self.files.open_output_stream(by.path) as stream:
            stream.write(content)
        self.files.move(by.path, self.path)

    def parts(self) -> Iterator[bytes]:
        """Yield the file's content, part after part.

        Raises:
            FileNotFoundError: there is none.
            ObjectStoreError: the store cannot be reached, or has no such bucket.
        """
        with translated(self.address):
            try:
                stream = self.files.open_input_stream(self.path)
            except FileNotFoundError:
                self._refuse_no_bucket()
                stream = None
        if stream is None:
            raise FileNotFoundError(errno.ENOENT, "There is no such file", self.address)
        with stream:
            while True:
                with translated(self.address):
                    part = stream.read(_CHUNK)
                if not part:
                    return
                yield part

    def put(self, source: bytes | Path) -> str:
        """Write the file whole or not at all, in place of what is there, and return its sha256.

        Raises:
            OSError: the source cannot be read.
            ObjectStoreError: it cannot be written, or is not there as it was written; what was there is there.
        """
        if (here := self.local) is not None:
            with translated(self.address):
                here.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(here) as out:
                    return _summed(_parts(source), out.write)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > _MOST_COPIED and self.entry() is not None:
            raise ObjectStoreError(
                f"{self.address!r} is there, and {size:,} bytes, more than {_MOST_COPIED:,}, cannot be put in its "
                "place whole or not at all. Give it a new name, or delete what is there."
            )
        # Whatever ends an upload closes its stream, and the store makes an object of what has come.
        draft = self if size > _MOST_COPIED else self._beside(f".{self.name}.{secrets.token_hex(4)}{_DRAFT}")
        try:
            written = draft._upload(source)
            if (found := _summed(draft.parts())) != written:
                raise ObjectStoreError(
                    f"{self.address!r} is not what was written to it: its sha256 is {found}, not {written}. Try again, "
                    "and look after the store."
                )
            if draft is not self:
                with translated(self.address):
                    self.files.copy_file(draft.path, self.path)
        except BaseException:
            with suppress(ObjectStoreError):
                draft.delete()
            raise
        if draft is not self:
            with suppress(ObjectStoreError):
                draft.delete()
        return written

    def _upload(self, source: bytes | Path) -> str:
        with translated(self.address):
            stream = self.files.open_output_stream(self.path)

        def write(part: bytes) -> None:
            with translated(self.address):
                stream.write(part)

        try:
            return _summed(_parts(source), write)
        finally:
            with translated(self.address):
                stream.close()

    def get(self, target: Path, *, sha256: str | None = None) -> str:
        """Write the file's content to a file on this machine, whole or not at all, and return its sha256.

        Raises:
            FileNotFoundError: there is none.
            ObjectStoreError: it cannot be read, or its sha256 is another one.
            OSError: the target cannot be written.
        """
        with whole_file(target) as out:
            found = _summed(self.parts(), out.write)
            if sha256 not in (None, found):
                raise AlteredObjectError(
                    f"{self.address!r} was altered or damaged: its sha256 is {found}, not {sha256}. Restore it from a "
                    "copy."
                )
        return found

    def delete(self) -> None:
        """Delete the file, if it is there.

        Raises:
            ObjectStoreError: it cannot be deleted.
        """
        with translated(self.address), suppress(FileNotFoundError):
            self.files.delete_file(self.path)

    def delete_drafts(self, *, older_than: datetime) -> None:
        """Delete what killed uploads to the folder have left.

        Raises:
            ObjectStoreError: it cannot be read or written.
        """
        for each in self._all():
            if _OURS.fullmatch(each.name) and each.modified < older_than:
                self.inside(each.name).delete()

    def _refuse_no_bucket(self) -> None:
        """Refuse a bucket that is not there, which a listing takes for an empty one."""
        if self.local is None:
            bucket = self.path.partition("/")[0]
            try:
                (found,) = self.files.get_file_info([bucket])
            except OSError:
                return  # whoever may not look at the bucket may still read what is in it
            if found.type == fs.FileType.NotFound:
                raise ObjectStoreError(
                    f"There is no bucket {bucket!r}, so {self.address!r} cannot be read or written. Check its name, or "
                    "make it; it is not made here."
                )


def shown(where: str | Path) -> str:
    """Return a path or an address without the key and the secret that may stand before its bucket or behind it."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", without_secrets(str(where)))


@contextmanager
def translated(where: str | Path) -> Iterator[None]:
    """Make errors of files and object stores errors of this package that name the place.

    Raises:
        ObjectStoreError: instead of OSError and pyarrow's errors.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        advice = next((each for words, each in _ADVICE.items() if re.search(words, said)), _OTHERWISE)
        why = clause(error).replace(str(where), shown(where))
        raise ObjectStoreError(f"{shown(where)!r} cannot be read or written: {why}. {advice}") from error


def _opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address, which gives up in seconds, and the path in it."""
    scheme = address.partition("://")[0]
    if scheme not in _SCHEMES:
        raise ObjectStoreError(
            f"{shown(address)!r} is not a valid address of an object store: {scheme!r} is not among "
            f"{', '.join(_SCHEMES)}. Give one such as s3://bucket/folder, or a path."
        )
    if scheme == "s3":
        return _s3(address)
    if scheme.startswith("g") and "retry_limit_seconds" not in address:
        address += f"{'&' if '?' in address else '?'}retry_limit_seconds={_GOOGLE_S}"
    return cast(tuple[Any, str], fs.FileSystem.from_uri(address))


def _s3(address: str) -> tuple[Any, str]:
    # By hand, as pyarrow's own reading of an address knows no timeouts.
    try:
        parts = urlsplit(address)
        bucket, options = parts.hostname or "", dict(parse_qsl(parts.query, keep_blank_values=True))
        port = parts.port
    except ValueError:
        # What it says may be a part of a secret.
        raise _not_valid(address, _FORM) from None
    if not bucket or port or parts.fragment or "@" in parts.query or (parts.username and not parts.password):
        raise _not_valid(address, _FORM)
    if strange := sorted(options.keys() - {*_S3_OPTIONS}):
        raise _not_valid(address, f"it has the option {strange[0]!r}; the options are {', '.join(_S3_OPTIONS)}")
    endpoint = options.get("endpoint_override") or next(filter(None, map(os.environ.get, _ENDPOINTS)), None)
    keys = {name: unquote(value) for name, value in _keys(parts.username, parts.password).items()}
    files = fs.S3FileSystem(
        **keys,
        region=options.get("region") or _region(bucket, endpoint),
        scheme=options.get("scheme"),
        endpoint_override=endpoint,
        connect_timeout=_CONNECT_S,
        request_timeout=_SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
    return files, f"{bucket}{unquote(parts.path)}"


def _not_valid(address: str, why: str) -> ObjectStoreError:
    return ObjectStoreError(
        f"{shown(address)!r} is not a valid address of an object store: {why}. Correct it; "
        "s3://bucket/folder?region=eu-central-1 is one."
    )


def _keys(key: str | None, secret: str | None) -> Mapping[str, str]:
    return {"access_key": key, "secret_key": secret} if key and secret else {}


def _region(bucket: str, endpoint: str | None) -> str | None:
    """Return the region of a bucket of Amazon's; other stores take any."""
    if endpoint or any(map(os.environ.get, ("AWS_REGION", "AWS_DEFAULT_REGION"))):
        return None
    return cast(str, fs.resolve_s3_region(bucket))


def _parts(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as opened:
        while part := opened.read(_CHUNK):
            yield part


def _summed(parts: Iterator[bytes], write: Callable[[bytes], object] = len) -> str:
    """Write all parts, and return their sha256."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
        write(part)
    return digest.hexdigest()
