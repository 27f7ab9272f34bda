"""The files of versions: model, checksum, questions that it was fitted on, and card, all in one folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.config import Settings
from rlhf_loop.errors import ModelFileError
from rlhf_loop.registry.versions import Version
from rlhf_loop.reward.model_file import LoadedModel, put, replace_file, verified
from rlhf_loop.reward.model_file import load as load_file


def folder(settings: Settings) -> Path:
    """Return where the files of all versions are."""
    return settings.models_folder


def version_path(settings: Settings, version: str) -> Path:
    """Return where the model file of a version is."""
    return folder(settings) / f"{version}.joblib"


def card_path(settings: Settings, version: str) -> Path:
    """Return where the card of a version is."""
    return folder(settings) / f"{version}.md"


def load(settings: Settings, version: Version, *, encoder: str) -> LoadedModel:
    """Read the model of a version, for use with the encoder of that id.

    Raises:
        ModelFileError: the file is missing, altered, or of another version.
    """
    path = version_path(settings, version.version)
    loaded = load_file(path, encoder=encoder)
    _check(path, loaded.sha256, version)
    return loaded


def fitted_questions(settings: Settings, version: str) -> NDArray[np.int64] | None:
    """Return the questions that the version was fitted on, None where nobody knows."""
    try:
        found = np.load(_fitted_path(settings, version), allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.dtype == np.int64 and found.ndim == 1 else None


def keep(settings: Settings, version: str, content: bytes, *, fitted: NDArray[np.int64] | None, card: str) -> None:
    """Write the files of a version; its model file last, so that where it is the others are, too.

    Raises:
        ModelFileError: they cannot be written.
    """
    path = version_path(settings, version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fitted is not None:
            buffer = io.BytesIO()
            np.save(buffer, fitted, allow_pickle=False)
            replace_file(_fitted_path(settings, version), buffer.getvalue())
        replace_file(card_path(settings, version), card.encode())
    except OSError as error:
        raise ModelFileError(
            f"Cannot write the files of the model {version} to {path.parent}: {error.strerror or error}. Set "
            "RLHF_MODELS_PATH to another place."
        ) from error
    put(content, path)


def deploy(settings: Settings, version: Version) -> None:
    """Put the version's file where serving processes look for the live model.

    Raises:
        ModelFileError: the version's file is missing or altered, or the live one cannot be written.
    """
    path = version_path(settings, version.version)
    content, found = verified(path)
    _check(path, found, version)
    put(content, settings.model_path)


def _check(path: Path, found: str, version: Version) -> None:
    if found != version.sha256:
        raise ModelFileError(
            f"{path} is not the model {version.version}: its sha256 is {found}, the registry has {version.sha256}. "
            "Restore the file from a copy, or promote another version: rlhf-loop models promote"
        )


def _fitted_path(settings: Settings, version: str) -> Path:
    return folder(settings) / f"{version}.fitted.npy"
