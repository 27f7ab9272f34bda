"""Files that tests of imports write, and what they read from a report."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from rlhf_loop.exchange.transfer import ImportReport, InvalidRowsError, import_ratings
from rlhf_loop.store.interactions import stats


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def counts(report: ImportReport) -> tuple[int, int, int, int, int]:
    return report.rows, report.added, report.updated, report.unchanged, report.invalid_count


def reasons(engine: Engine, path: Path, **options: Any) -> dict[int, str]:
    """Return why the rows are refused, by line; nothing is stored."""
    with pytest.raises(InvalidRowsError) as caught:
        import_ratings(engine, path, **options)
    assert stats(engine).interactions == 0
    return {row.line: row.reason for row in caught.value.report.invalid}
