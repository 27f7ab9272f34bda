"""How `make` installs: what pip is configured to, as options of uv."""

from __future__ import annotations

import pytest

from tools.install import as_for_uv


@pytest.mark.parametrize(
    ("listed", "options"),
    [
        ("", []),
        ("global.timeout='60'\n", []),
        ("global.index-url='https://a.example/simple'\n", ["--index-url=https://a.example/simple"]),
        (
            "global.extra-index-url='file:///a file:///b'",
            ["--extra-index-url=file:///a", "--extra-index-url=file:///b"],
        ),
        ("global.cert='/one'\ninstall.cert='/two'", ["--cert=/two"]),
        (":env:.constraint='/c.txt'\nglobal.constraint='/d.txt'\ninstall.constraint='/e.txt'", ["--constraint=/c.txt"]),
        ("list.format='columns'", []),
        ("global.index-url='https://a.example'\nglobal.proxy='http://b.example'", None),
    ],
)
def test_settings_of_pip(listed: str, options: list[str] | None) -> None:
    """Indexes and limits are the same for uv; where a setting is one that it does not have, pip installs."""
    assert as_for_uv(listed) == options
