"""What is left of markup in texts that a site calls plain."""

from __future__ import annotations

import re

from rlhf_loop.utils.text import plain

#: What the house's `plain` leaves in: further control characters, byte order marks, changes of the text's direction.
_UNSEEN = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_NAMES = (
    "a|abbr|b|big|blockquote|br|center|cite|code|dd|del|div|dl|dt|em|font|h[1-6]|hr|i|img|ins|kbd|li|math|ol|p|pre|q|s|"
    "samp|script|small|span|strong|style|sub|sup|table|tbody|td|th|thead|tr|tt|u|ul|var"
)
#: Tags of HTML by name, since not all that stands between < and > is one: "p < 0.05 and n > 30".
_TAG = re.compile(
    rf"</?(?:{_NAMES})(?:\s+[\w:-]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"'=]+))?)*\s*/?>", re.IGNORECASE
)
_BLANKS = re.compile(r"[^\S\n]+")
_AROUND_LINES = re.compile(r" ?\n ?")
_GAPS = re.compile(r"\n{3,}")


def without_markup(text: str) -> str:
    """Return the text without tags of HTML, control characters and superfluous white space; paragraphs stay."""
    text = _TAG.sub("", _UNSEEN.sub("", plain(text)))
    return _GAPS.sub("\n\n", _AROUND_LINES.sub("\n", _BLANKS.sub(" ", text))).strip()
