from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from forked_process import program
from patience import PATIENCE_S, until

from rlhf_loop.utils.files import TemporaryFolder, whole_file, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new content is there under the name, with the permissions asked for, and nothing beside it."""
    path = tmp_path / "file"
    write_whole(path, b"first", mode=0o640)
    write_whole(path, b"second", mode=0o640)
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, or where the block raises, the old file stays and no draft is left."""
    path = tmp_path / "file"
    write_whole(path, b"first")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half of it", "no bytes"])  # type: ignore[list-item]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """Nor is what a link leads to one: a file in the place of /dev/null breaks a machine."""
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="it is a pipe or a device"):
            write_whole(tmp_path / name, b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


HOLDING = """
import time
from rlhf_loop.utils.files import TemporaryFolder

held = TemporaryFolder("held-")
print("there", flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.kill
def test_a_folder_that_a_killed_process_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes when the next one is made, and no sooner than its process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "held-by-others").mkdir()
    held = program(HOLDING, folder=tmp_path, TMPDIR=str(tmp_path))
    until(lambda: "there" in held.said())
    (its,) = (folder for folder in tmp_path.glob("held-*") if (folder / ".lock").exists())
    with TemporaryFolder("held-") as mine:
        assert its.is_dir()
        assert mine.is_dir()
    assert not mine.exists()
    held.send(signal.SIGKILL)
    held.wait(PATIENCE_S)
    assert its.is_dir()
    with TemporaryFolder("held-"):
        assert not its.exists()
    assert [folder.name for folder in tmp_path.glob("*held-*")] == ["held-by-others"]


def test_folders_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link nor a folder of another user is looked into, whatever its name: its lock could be any file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / ".lock").write_text("a file of mine")
    link = tmp_path / "held-link"
    link.symlink_to(precious)
    with TemporaryFolder("held-"):
        assert link.is_symlink()
    assert (precious / ".lock").read_text() == "a file of mine"
    link.unlink()
    foreign = precious.rename(tmp_path / "held-foreign")
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with TemporaryFolder("held-"):
        assert (foreign / ".lock").read_text() == "a file of mine"
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with TemporaryFolder("held-"):
        assert not foreign.exists()
