"""What is read of a document, however it is wrapped."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from rlhf_loop.web.api.document_text import document_text

TEXTS = (
    "Rest in a dark room: drink water, it's best.\n\nThen take 'it' early; a # b. " + "word " * 40,
    " before\n",
    "- - -",
    "1",
    "",
    "größe 😀 µ",
    "text: x",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("more", [{}, {"id": 7, "tags": ["a"], "of": {"x": 1}}, {"title": "A: b"}])
def test_objects_as_strings(text: str, more: dict[str, Any]) -> None:
    """JSON, and what yaml.dump writes, are read as the text in them, to the last character."""
    found = {**more, "text": text}
    assert document_text(json.dumps(found)) == text
    for unicode in (True, False):
        assert document_text(yaml.dump(found, sort_keys=False, allow_unicode=unicode)) == text


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("file: a.pdf\n\nRest.", "Rest."),
        ("file_path: /a b/c: d.txt\npage_label: 3\nlast_modified_date: 2026-11-02\n\nRest.\n\nMore", "Rest.\n\nMore"),
        ("source: WHO\ntitle: Burns\n\nRest.", None),
        ("passage: Rest.\n\nMore.", None),
        ("time: twice a day, after meals\n\nDo not drive.", None),
        ("type: 2, insulin dependent\nsize: 5 mg\n\nAsk.", None),
        ("file: a.pdf\nRest.", None),
        ("file: a.pdf\n\n", None),
        ("Date: today\n\nRest.", None),
        ("text: Rest.\nAnd more.", None),
        ("text: [[[[", None),
        ("text: &a x\nof: *a", None),
        ("text: a\ntext: b", None),
        ("{'text': 'Rest.'}", None),
        ('{"text": 5}', None),
        ('{"title": "Rest."}', None),
        ('{"text": "Rest."} and more}', None),
        ("{" * 5_000 + "}", None),
        ("text: |-\n  Rest.\n  More.", "Rest.\nMore."),
    ],
)
def test_strings(document: str, text: str | None) -> None:
    """Only a whole object, or a header that names a place and nothing else, is taken for a wrapping."""
    assert document_text(document) == (document if text is None else text)


@pytest.mark.parametrize(
    ("document", "fields", "text"),
    [
        ({"text": "Rest.", "content": "x"}, (), "Rest."),
        ({"content": "Rest."}, (), "Rest."),
        ({"content": [{"type": "text", "text": "Rest."}, {"type": "text", "text": "More."}]}, (), "Rest.\nMore."),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, (), ""),
        ({"content": [5]}, (), None),
        ({"content": 5}, (), None),
        ({"title": "x"}, (), None),
        ({"title": "A", "year": 5, "text": "x"}, ("year", "title"), "5\nA"),
        ('{"title": "A", "text": "x"}', ("title",), "A"),
        ("Rest.", ("title",), "Rest."),
    ],
)
def test_objects(document: Any, fields: tuple[str, ...], text: str | None) -> None:
    """An object is read by the fields that are named, else by its text or its parts."""
    assert document_text(document, fields) == text
