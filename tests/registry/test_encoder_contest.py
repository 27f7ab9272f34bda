from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from quick_encoder import QuickRuntime
from sqlalchemy.engine import Engine
from tokenizers import Tokenizer

from rlhf_loop import sample
from rlhf_loop.cli.output import print_encoders
from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, Vectors
from rlhf_loop.exchange.transfer import import_ratings
from rlhf_loop.registry import contest


class BlindRuntime(QuickRuntime):
    """A runtime whose vectors say nothing."""

    id = "blind/fp32"

    def encode(self, texts: Sequence[str]) -> Vectors:
        found: Vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), 384)).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_better_encoder_is_told(
    sqlite_engine: Engine,
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both are judged on the same ratings, and what they cost stands beside; the table fits into 80 columns."""
    import_ratings(sqlite_engine, sample.RATINGS_FILE)
    asked: list[Settings] = []

    def load(settings: Settings) -> TextEncoder:
        asked.append(settings)
        return TextEncoder(BlindRuntime() if settings.encoder == "blind" else QuickRuntime(), tokenizer)

    monkeypatch.setattr(contest, "load_encoder", load)
    monkeypatch.setattr(contest, "encoder_megabytes", lambda settings: 12.3 if settings.encoder == "blind" else None)
    settings = Settings(encoder="quick", encoder_path=tmp_path, encoder_precision="fp32")
    seen = list[tuple[int, int]]()
    found = contest.compare_encoders(
        sqlite_engine, settings, "quick", "blind", progress=lambda *done: seen.append(done)
    )
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert [each.encoder_path for each in asked] == [tmp_path, None]
    assert (found.questions, found.answers) == (50, 200)
    assert found.found.auc is not None
    assert found.found.auc.ours > found.found.auc.theirs
    assert (found.first.name, found.second.name, found.second.megabytes) == ("quick", "blind/fp32", 12.3)
    print_encoders(found)
    printed = capsys.readouterr().out
    assert "A is quick, B is blind/fp32" in printed
    assert "MB of memory" in printed
    assert max(map(len, printed.splitlines())) <= 80
