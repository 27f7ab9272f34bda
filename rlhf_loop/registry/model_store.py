"""Object store of the versions: their files come here when they are wanted, and go there when they were made.

It has them by the names that a folder has. On this machine are the versions that were used last, and those that could
not be brought there: each waits beside a marker, and is brought with the next look (`promotion.settle`).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from rlhf_loop.config import Settings
from rlhf_loop.errors import MissingExtraError, ModelFileError, ObjectStoreError
from rlhf_loop.reward.model_file import (
    WEIGHTS_ENDING,
    StoredModel,
    is_version_name,
    put,
    sum_file,
    verified,
    weights_file,
    weights_of,
)
from rlhf_loop.utils.translation import Message

if TYPE_CHECKING:
    from rlhf_loop.utils.object_store import Place

#: Versions whose files stay on this machine, those that were used last.
_CACHED = 8
#: Endings of a version's files; the model is the last to come, so that where it is the others are.
_ENDINGS = (".fitted.npy", ".md", ".joblib.sha256", ".joblib")
#: Those without which a version is a version, too.
_BESIDE = (".fitted.npy", ".md")
_WAITING = ".waiting"
#: Seconds that another process of this machine may take to bring the same version.
_LOCK_TIMEOUT_S = 120
#: A killed upload of this age is none that goes on.
_DRAFTS_STAY = timedelta(days=1)
_ELSE = Message("Restore the file from a copy, or promote another version: rlhf-loop models promote")


def home(settings: Settings) -> Place:
    """Return the folder of all versions, in the object store or on this machine.

    Raises:
        ObjectStoreError: its address is not a valid one.
        MissingExtraError: there is no pyarrow.
    """
    # Imported here: where a folder has the versions, no process that serves needs 30 MB of pyarrow.
    from rlhf_loop.utils.object_store import Place

    return Place.of(settings.models_store or settings.models_folder)


def fetch(settings: Settings, version: str, *, sha256: str) -> None:
    """Have the files of a version on this machine, verified; where a folder has all versions, they are.

    Raises:
        ModelFileError: the store cannot be reached, or its file is missing or altered.
    """
    if not settings.models_store:
        return
    path = settings.models_folder / f"{version}.joblib"
    if _is_here(path, sha256):
        with suppress(OSError):
            os.utime(path)  # what was used last stays
        return
    with _alone(settings):
        if _is_here(path, sha256):
            return
        try:
            _fetched(settings, path, sha256)
        except ModelFileError as error:
            # The store has lost it, or was named after it was trained; the live file is it as well.
            if not (isinstance(error.__cause__, FileNotFoundError) and _is_here(settings.model_path, sha256)):
                raise
            put(verified(settings.model_path), path)
        _trim(settings)


def bring(settings: Settings, version: str) -> None:
    """Bring what this machine has of a version into the store.

    Raises:
        ModelFileError: the store cannot be written, or the version's files are not here.
    """
    path = settings.models_folder / f"{version}.joblib"
    with _translated():
        weights = weights_of(path)
        names = [f"{weights}{WEIGHTS_ENDING}"] if weights else []
        for name in (*names, *(f"{version}{ending}" for ending in _ENDINGS)):
            try:
                home(settings).inside(name).put(settings.models_folder / name)
            except FileNotFoundError as error:
                if not name.endswith(_BESIDE):
                    raise ModelFileError(
                        f"{settings.models_folder / name} is not there, so the version {version} is not brought into "
                        f"the object store. Restore it from a copy, or train anew and delete "
                        f"{_marker(settings, version)}."
                    ) from error


def ensure(settings: Settings, version: str, *, weights: str | None) -> None:
    """Make sure that the store has a version of which this machine has the files.

    Raises:
        ModelFileError: the store cannot be reached or written.
    """
    if settings.models_store:
        names = [f"{version}.joblib", f"{version}.joblib.sha256"]
        names += [f"{weights}{WEIGHTS_ENDING}"] if weights else []
        with _translated():
            whole = all(home(settings).inside(name).entry() for name in names)
        if not whole:
            bring(settings, version)


def stored(settings: Settings, version: str) -> StoredModel:
    """Return a version as the folder or the object store has it, its sums verified; nothing is kept of it.

    Raises:
        ModelFileError: it cannot be reached, or its file is missing or altered.
    """
    if not settings.models_store:
        return verified(settings.models_folder / f"{version}.joblib")
    with TemporaryDirectory(prefix="rlhf-model-") as folder:
        return _downloaded(settings, version, Path(folder))


def set_waiting(settings: Settings, version: str) -> None:
    """Note that a version is not in the store yet.

    Raises:
        OSError: it cannot be noted.
    """
    _marker(settings, version).touch()


def waiting(settings: Settings) -> list[str]:
    """Return the versions that this machine has not brought into the store yet."""
    if not settings.models_store:
        return []
    names = sorted(each.name.removesuffix(_WAITING) for each in settings.models_folder.glob(f"*{_WAITING}"))
    return [name for name in names if is_version_name(name)]


def arrived(settings: Settings, version: str) -> None:
    """Note that a version is in the store."""
    with suppress(OSError):
        _marker(settings, version).unlink()


def delete_weights(
    settings: Settings, *, wanted: Collection[str | None], known: Mapping[str, str | None], young_s: float
) -> list[str]:
    """Delete the tuned layers in the store that no version wants, unless they are younger; return their addresses.

    `known` are the versions of the database with their layers. Where others are in the same folder, only what versions
    of this one name is deleted.

    Raises:
        ModelFileError: the store cannot be reached.
    """
    deleted = []
    with _translated():
        entries, now = home(settings).entries(), datetime.now(UTC)
        models = {each.name.removesuffix(".joblib") for each in entries if each.name.endswith(".joblib")}
        strange = models - known.keys()
        for each in entries:
            weights = each.name.removesuffix(WEIGHTS_ENDING)
            if weights == each.name or len(weights) != 64 or weights in wanted:
                continue
            if (now - each.modified).total_seconds() > young_s and (not strange or weights in known.values()):
                place = home(settings).inside(each.name)
                place.delete()
                deleted.append(place.address)
        home(settings).delete_drafts(older_than=now - _DRAFTS_STAY)
    return deleted


def _is_here(path: Path, sha256: str) -> bool:
    """Tell whether the file is there, whole, with this sum."""
    try:
        if verified(path).sha256 != sha256:
            return False
    except ModelFileError:
        return False
    return True


def _fetched(settings: Settings, path: Path, sha256: str) -> None:
    version = path.stem
    try:
        with TemporaryDirectory(prefix=".fetch-", dir=path.parent) as folder:
            found = _downloaded(settings, version, Path(folder))
            if found.sha256 != sha256:
                raise ModelFileError(
                    Message(
                        "{path} is not the model {version}: its sha256 is {found}, the registry has {sha256}. {else_}",
                        path=home(settings).inside(path.name).address,
                        version=version,
                        found=found.sha256,
                        sha256=sha256,
                        else_=_ELSE,
                    )
                )
            for ending in _BESIDE:
                beside = Path(folder) / f"{version}{ending}"
                with _translated(), suppress(FileNotFoundError):
                    home(settings).inside(beside.name).get(beside)
                    beside.replace(path.with_name(beside.name))
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    put(found, path)


def _downloaded(settings: Settings, version: str, folder: Path) -> StoredModel:
    """Read a version's model from the store by way of a folder; only what is verified is looked into."""
    path, there = folder / f"{version}.joblib", home(settings)
    with _translated():
        try:
            for name in (path.name, sum_file(path).name):
                there.inside(name).get(folder / name)
            verified(path, weights=False)
            if weights := weights_of(path):
                beside = weights_file(path, weights)
                there.inside(beside.name).get(beside)
            return verified(path)
        except FileNotFoundError as error:
            raise ModelFileError(
                Message(
                    "There is no {file}, so the version {version} cannot be had. {else_}",
                    file=str(error.filename),
                    version=version,
                    else_=_ELSE,
                )
            ) from error
        except ModelFileError as error:
            # Said of the copy; what is to be mended is there.
            raise ModelFileError(str(error).replace(str(folder), there.address)) from error


def _trim(settings: Settings) -> None:
    """Delete what is here of the versions that were not used for longest; their tuned layers go with `tidy`."""
    files = []
    for file in settings.models_folder.glob("*.joblib"):
        with suppress(OSError):
            files.append((file.stat().st_mtime, file))
    for _, file in sorted(files, reverse=True)[_CACHED:]:
        if not _marker(settings, file.stem).exists():
            for ending in reversed(_ENDINGS):
                with suppress(OSError):
                    file.with_name(f"{file.stem}{ending}").unlink()


def _marker(settings: Settings, version: str) -> Path:
    return settings.models_folder / f"{version}{_WAITING}"


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    folder = settings.models_folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".fetch.lock", timeout=_LOCK_TIMEOUT_S).acquire()
    except Timeout:
        raise ModelFileError(
            f"Another process brings a version from the object store to {folder} for more than {_LOCK_TIMEOUT_S} s. "
            "Try again when it has ended."
        ) from None
    except OSError as error:
        raise _not_writable(folder, error) from error
    with lock:
        yield


def _not_writable(folder: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"Cannot write the files of models to {folder}: {error.strerror or error}. Make space there, or set "
        "RLHF_OUTBOX_PATH to another place."
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (MissingExtraError, ObjectStoreError) as error:
        raise ModelFileError(str(error)) from error
