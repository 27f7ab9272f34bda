"""Install packages into an environment: by uv, in a tenth of pip's time and with its settings; by pip where it cannot.

    .venv/bin/python -m tools.install .venv-docs/bin/python zensical

It needs nothing that is installed, and no pip in the environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Settings of pip that uv has under the same name, and those that make no difference to what gets installed.
_SAME = {"cert", "constraint", "extra-index-url", "find-links", "index-url"}
_NO_MATTER = {"cache-dir", "default-timeout", "disable-pip-version-check", "no-cache-dir", "no-input", "progress-bar"}
_NO_MATTER |= {"quiet", "require-virtualenv", "retries", "root-user-action", "timeout", "verbose"}


def main(python: str, *wanted: str) -> int:
    """Install what is wanted for this Python, with a progress bar at a terminal; return the exit code."""
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    pip, uv = [sys.executable, "-m", "pip", "--disable-pip-version-check"], Path(sys.executable).with_name("uv")
    if not uv.exists():
        subprocess.run([*pip, "install", *quiet, "uv>=0.9"])
    options = as_for_uv(subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout)
    if uv.exists() and options is not None:
        # Of all indexes the newest version, as with pip.
        command = [str(uv), "pip", "install", *quiet, "--index-strategy", "unsafe-best-match", "--python", python]
        if subprocess.run([*command, *options, *wanted]).returncode == 0:
            return 0
    return subprocess.run([*pip, "--python", python, "install", *quiet, *wanted]).returncode


def as_for_uv(listed: str) -> list[str] | None:
    """Read what `pip config list` printed as options of uv; None where a setting is one that uv does not have."""
    found: dict[str, str] = {}
    # Of a setting in several places the environment's counts, then that of the command, then that of all commands.
    lines = listed.splitlines()
    for line in sorted(lines, key=lambda line: (not line.startswith(":env:"), line.startswith("global."))):
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if section not in (":env:", "install", "global") or name in _NO_MATTER:
            continue
        if name not in _SAME:
            return None
        found.setdefault(name, value.strip("'\""))
    return [f"--{name}={each}" for name, value in found.items() for each in value.split()]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
