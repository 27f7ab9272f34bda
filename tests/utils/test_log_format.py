from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from rlhf_loop.errors import ConfigError
from rlhf_loop.utils import log_format

logger = logging.getLogger(__name__)


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    ("format", "stream", "text"),
    [("auto", Terminal(), True), ("auto", StringIO(), False), ("text", StringIO(), True), ("json", Terminal(), False)],
)
def test_the_form_of_a_line(format: str, stream: StringIO, text: bool) -> None:
    """By default text at a terminal and JSON elsewhere; the setting decides otherwise."""
    log_format.configure(format, stream)
    logger.warning("The disk is %s.", "full", extra={"duration_ms": 12.5, "degraded": [], "path": "/data"})
    (line,) = stream.getvalue().splitlines()
    if text:
        assert line[2] == line[5] == ":"
        assert line[9:] == "Warning: The disk is full. duration_ms=12.5"
    else:
        found = json.loads(line)
        assert (found["level"], found["message"], found["degraded"]) == ("WARNING", "The disk is full.", [])


def test_a_terminal_gets_no_control_characters() -> None:
    """Nor a line that somebody else made up, nor the secret part of a link; a traceback keeps its lines."""
    stream = Terminal()
    log_format.configure("text", stream)
    try:
        raise ValueError("of /welcome/secret\x1b[2J")
    except ValueError:
        logger.exception("GET %s", "/x\x1b[31m\n12:00:00 All is well")
    said = stream.getvalue()
    assert "\x1b" not in said
    assert "secret" not in said
    assert said.splitlines()[0].endswith(r"Error: GET /x\x1b[31m\n12:00:00 All is well")
    assert said.splitlines()[-1] == r"ValueError: of /welcome/..."


def test_an_unknown_format_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(ConfigError, match=r"RLHF_LOG_FORMAT='xml' is not a valid format.*auto, text, json"):
        log_format.configure("xml")
