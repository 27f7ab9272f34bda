"""Exports as Label Studio's own converter writes them: `python label_studio.py URL TOKEN FOLDER`."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

_CONFIG = """<View>
  <Text name="prompt" value="$prompt"/> <Text name="answer" value="$answer"/>
  <Rating name="rating" toName="answer"/> <TextArea name="comment" toName="answer"/>
</View>"""
#: What each kind of file is called by us, and by the converter, with the file that it makes.
FORMS = {"JSON": "result.json", "JSON_MIN": "result.json", "CSV": "result.csv", "TSV": "result.csv"}


def _annotation(id: int, rating: int, comment: str | None = None) -> dict[str, Any]:
    common = {"to_name": "answer", "origin": "manual"}
    result = [{"id": "a", "from_name": "rating", "type": "rating", "value": {"rating": rating}, **common}]
    if comment is not None:
        result.append({"id": "b", "from_name": "comment", "type": "textarea", "value": {"text": [comment]}, **common})
    times = dict.fromkeys(("created_at", "updated_at"), "2026-01-31T09:30:00.000000Z")
    return {"id": id, "completed_by": {"id": id, "email": f"{id}@example.org"}, "result": result, **times}


TASKS = [
    {"id": 1, "data": {"prompt": "What is flu?", "answer": "A virus."}, "annotations": [_annotation(1, 4, "Short.")]},
    {"id": 2, "data": {"prompt": "Why?", "answer": "So."}, "annotations": [_annotation(2, 1), _annotation(3, 2)]},
]


def main(folder: Path) -> None:
    from label_studio_sdk.converter import Converter

    tasks = folder / "label_studio_tasks.json"
    tasks.write_text(json.dumps(TASKS))
    for form, name in FORMS.items():
        made = folder / f"label_studio_{form}"
        made.mkdir()
        Converter(_CONFIG, str(made)).convert(str(tasks), str(made), form, is_dir=False)
        what = f"its converter's {form}"
        line = {"what": what, "version": version("label-studio-sdk"), "format": "label-studio", "ratings": [4, 1, 2]}
        sys.stdout.write(json.dumps({**line, "file": [str(made / name)]}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[3]))
