"""Import of optional packages, with an error that names the extra that brings them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from rlhf_loop.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say how to install the extra that brings it.

    Only the absence of `module` or of a package that holds it is translated: one that is installed but broken shows its
    own error.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Of packages that share a top level, any may be missing.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise _missing(str(error.name), extra) from error


def require_installed(package: str, extra: str) -> None:
    """Say how to install the extra that brings `package`, if it is not there; it is not imported, which may take long.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra)


def _missing(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"The optional package {package!r} is not installed. Run: pip install 'rlhf-loop[{extra}]'"
    )
