from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from s3_server import S3Server, s3

from rlhf_loop.errors import ObjectStoreError
from rlhf_loop.utils.object_store import Place, shown

__all__ = ["s3"]

CONTENT = b"x" * 3_000_000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(s3: S3Server) -> Place:
    return Place.of("s3://bucket/some/folder")


def names(place: Place) -> list[str]:
    return [each.name for each in place.entries()]


def test_an_object_comes_and_goes_whole(folder: Place, tmp_path: Path) -> None:
    """What was put is there with its sum, replaces what was there, comes back, and can be deleted twice."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(CONTENT)
    place = folder.inside("a.bin")
    assert place.entry() is None
    assert place.put(b"first") == sha256(b"first")
    assert place.put(source) == sha256(CONTENT)
    assert names(folder) == ["a.bin"]
    entry = place.entry()
    assert entry is not None
    assert entry.bytes == len(CONTENT)
    assert abs(datetime.now(UTC) - entry.modified) < timedelta(hours=1)
    assert place.get(target, sha256=sha256(CONTENT)) == sha256(CONTENT)
    assert target.read_bytes() == place.read() == CONTENT
    place.delete()
    place.delete()
    assert place.entry() is None
    assert names(folder) == []


def test_here_it_is_the_same(tmp_path: Path) -> None:
    """A folder of this machine is a place as well, by its path and by its address."""
    assert Place.of(tmp_path.as_uri()) == Place.of(tmp_path) == Place.of(str(tmp_path))
    place = Place.of(tmp_path).inside("new").inside("a.bin")
    assert place.put(CONTENT) == sha256(CONTENT) == place.get(tmp_path / "copy", sha256=sha256(CONTENT))
    assert names(Place.of(tmp_path / "new")) == ["a.bin"]
    place.delete()
    place.delete()
    assert place.local == tmp_path / "new" / "a.bin"
    assert place.entry() is None
    with pytest.raises(FileNotFoundError, match=r"a\.bin"):
        place.get(tmp_path / "copy")


def test_what_was_altered_does_not_come(folder: Place, tmp_path: Path) -> None:
    """Another sum is refused, and what was on this machine stays."""
    folder.inside("a.bin").put(CONTENT)
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(ObjectStoreError, match=r"'s3://bucket/some/folder/a\.bin' was altered or damaged: its sha256"):
        folder.inside("a.bin").get(target, sha256=sha256(b"other"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        folder.inside("b.bin").get(target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


class Interrupted(type(Path())):  # type: ignore[misc]
    """A file whose reading is interrupted in its middle."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return Path(__file__).stat()

    def open(self, *args: object, **kwargs: object) -> Interrupted:  # type: ignore[override]
        self._left = [CONTENT]
        return self

    def read(self, size: int) -> bytes:
        if not self._left:
            raise KeyboardInterrupt
        return self._left.pop()

    def __enter__(self) -> Interrupted:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_an_interrupted_upload_leaves_what_was_there(folder: Place) -> None:
    """Half an object is nowhere, not under another name either, and the one from before is whole."""
    place = folder.inside("a.bin")
    place.put(b"before")
    with pytest.raises(KeyboardInterrupt):
        place.put(Interrupted("any"))
    assert place.read() == b"before"
    assert folder.names() == {"a.bin"}


_KILLED = """
import os, signal, sys
from pathlib import Path
from rlhf_loop.utils.object_store import Place
place = Place.of("s3://bucket/some/folder/a.bin")
class Files:
    def __getattr__(self, name):
        if name == "copy_file":
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(files, name)
files = place.files
Place(Files(), place.path, place.address).put(b"after" * 1000)
"""


def test_a_killed_upload_is_in_no_list(folder: Place) -> None:
    """Killed before the store copies, only a draft is left, which no listing has, and which is deleted in its time."""
    place = folder.inside("a.bin")
    place.put(b"before")
    killed = subprocess.run([sys.executable, "-c", _KILLED], env=dict(os.environ), check=False)
    assert killed.returncode == -9
    assert place.read() == b"before"
    assert names(folder) == ["a.bin"]
    assert len(folder.names()) == 2
    folder.delete_drafts(older_than=datetime.now(UTC) - timedelta(hours=1))
    assert len(folder.names()) == 2
    folder.delete_drafts(older_than=datetime.now(UTC) + timedelta(hours=1))
    assert folder.names() == {"a.bin"}
    for name in (".theirs.part", ".theirs.0123456.part", ".theirs.0123456g.part"):
        folder.inside(name).put(b"somebody's")
    folder.delete_drafts(older_than=datetime.now(UTC) + timedelta(hours=1))
    assert len(folder.names()) == 4


def test_what_the_store_cannot_copy_replaces_nothing(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object larger than a store copies gets a new name; another one's stays what it was."""
    monkeypatch.setattr("rlhf_loop.utils.object_store._MOST_COPIED", 8)
    folder.inside("a.bin").put(b"before")
    with pytest.raises(ObjectStoreError, match=r"a.bin' is there, and 9 bytes, more than 8, .* Give it a new name"):
        folder.inside("a.bin").put(b"afterward")
    assert folder.inside("a.bin").read() == b"before"
    folder.inside("b.bin").put(b"afterward")
    assert folder.inside("b.bin").read() == b"afterward"


def test_a_store_that_is_away(folder: Place, s3: S3Server, tmp_path: Path) -> None:
    """Each request says which place cannot be used, and where to look; afterwards all goes on."""
    folder.inside("a.bin").put(b"before")
    s3.stop()
    said = r"'s3://bucket/some/folder.*' cannot be read or written: .*NETWORK_CONNECTION.* Check the network"
    for request in (
        folder.entries,
        folder.inside("a.bin").entry,
        folder.inside("a.bin").delete,
        lambda: folder.inside("a.bin").put(b"after"),
        lambda: folder.inside("a.bin").get(tmp_path / "a.bin"),
    ):
        with pytest.raises(ObjectStoreError, match=said):
            request()
    s3.start()
    assert folder.inside("a.bin").read() == b"before"


def test_a_bucket_that_is_not_there(s3: S3Server, tmp_path: Path) -> None:
    """A misspelt bucket is not an empty one."""
    folder = Place.of("s3://buckett/folder")
    for request in (
        folder.entries,
        folder.inside("a.bin").entry,
        lambda: folder.inside("a.bin").put(b"after"),
        lambda: folder.inside("a.bin").get(tmp_path / "a.bin"),
    ):
        with pytest.raises(ObjectStoreError, match=r"(?i)bucket.*Check (its|the bucket's) name, or make it"):
            request()


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
def test_rights_that_are_missing(folder: Place, s3: S3Server, action: str) -> None:
    """What may not be written or read back says which rights are needed, and nothing is under its name."""
    s3.forbid(action)
    with pytest.raises(ObjectStoreError, match=r"ACCESS_DENIED.* Give this process credentials that may list, read"):
        folder.inside("a.bin").put(b"after")
    assert names(folder) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://host/folder", "'ftp' is not among s3, gs"),
        ("s3://", "is not a valid address"),
        ("s3:///folder", "is not of the form"),
        ("s3://key@bucket/folder", r"'s3://\*\*\*@bucket/folder' is not a valid address"),
        ("s3://me:secret/key/==@bucket/folder", r"'s3://\*\*\*@bucket/folder' is not .*are written %2F"),
        ("s3://me:4?key@bucket/folder", r"'s3://\*\*\*@bucket/folder' is not a .*: it is not of the form"),
        ("s3://me:?key@bucket/folder", "is not of the form"),
        ("abfs://me:key/==@bucket/a?client_secret=key", r"'abfs://\*\*\*@bucket/a\?client_secret=\*\*\*' cannot"),
        ("s3://bucket:80/folder", "is not of the form"),
        ("s3://bucket:x/folder", "is not a valid address"),
        ("s3://bucket/folder?regoin=a", "has the option 'regoin'; the options are region"),
        ("", "An empty text names no file"),
    ],
)
def test_addresses_that_are_none(address: str, said: str) -> None:
    """A misspelt address says what is wrong with it, and no key."""
    with pytest.raises(ObjectStoreError, match=said) as raised:
        Place.of(address)
    assert "key" not in str(raised.value).replace("s3://KEY", "").replace("secret are written", "")


def test_an_address_with_its_key_and_endpoint(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and endpoint may stand in the address, and no message shows the key."""
    endpoint = s3.environment["AWS_ENDPOINT_URL"].removeprefix("http://")
    for name in s3.environment:
        monkeypatch.delenv(name)
    address = f"s3://my%2Fkey:geheim@bucket/a%20b?endpoint_override={endpoint}&scheme=http&region=eu-central-1"
    place = Place.of(address).inside("a.bin")
    place.put(b"content")
    assert place.address == "s3://bucket/a b/a.bin"
    assert place.read() == b"content"
    assert shown(address).startswith("s3://***@bucket/a%20b?")
