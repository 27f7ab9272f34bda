"""Files of different tools look alike in places; none may be taken for another's, or its ratings would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from test_formats_label_studio import JSON, JSON_MIN
from test_formats_langfuse import score, trace
from test_formats_openwebui import chat, feedback, two_answers
from test_formats_phoenix import annotation, span

from rlhf_loop.errors import ImportFileError
from rlhf_loop.exchange.formats.base import Labels
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.store.interactions import stats

ARGILLA = {
    "id": "1",
    "fields": {"prompt": "q", "response": "a"},
    "metadata": {},
    "responses": {"rating": [{"value": 4, "user_id": "u"}]},
}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "openwebui": [feedback(), chat(*two_answers(annotation={"rating": 1}), id="c2")],
    "langfuse": [trace(score()), score(traceId="t1")],
    "label-studio": [JSON, JSON_MIN[0]],
    "phoenix": [{name: value for name, value in span().items() if "time" not in name} | annotation()],
    "argilla": [ARGILLA],
}


@pytest.mark.parametrize("format", RECORDS)
@pytest.mark.parametrize("tool", RECORDS)
def test_no_file_is_taken_for_another_tools(sqlite_engine: Engine, tmp_path: Path, tool: str, format: str) -> None:
    """A file of another tool is refused, and nothing stored; its own are read."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record, default=str) + "\n" for record in RECORDS[tool]), encoding="utf-8")
    labels = Labels(thumbs=True, score_name="user feedback") if tool == format == "phoenix" else Labels()
    if tool == format:
        assert import_ratings(sqlite_engine, path, format=format, labels=labels).added > 0
    else:
        with pytest.raises(ImportFileError, match=r"could be read as|are invalid"):
            import_ratings(sqlite_engine, path, format=format, labels=labels)
        assert stats(sqlite_engine).interactions == 0
