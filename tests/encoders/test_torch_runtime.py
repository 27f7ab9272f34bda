from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.errors import MissingExtraError

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None


def test_the_missing_extra_is_named(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sentence-transformers the message says which extra brings it."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    settings = Settings(encoder_runtime="sentence-transformers", encoder_path=model_folder, cache_dir=tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlhf-loop\[torch\]'"):
        load_encoder(settings)


@pytest.mark.skipif(not INSTALLED, reason="sentence-transformers is not installed (extra [torch])")
def test_both_runtimes_give_the_same_vectors(encoder: TextEncoder, model_folder: Path, tmp_path: Path) -> None:
    """The runtimes share an id and a cache, so their vectors must be the same."""
    settings = Settings(encoder_runtime="sentence-transformers", encoder_path=model_folder, cache_dir=tmp_path)
    torch, texts = load_encoder(settings), ["", "rye bread", "the tide turned " * 200]
    assert torch.id == encoder.id
    np.testing.assert_allclose(torch.encode(texts), encoder.encode(texts), atol=1e-5)
    np.testing.assert_allclose(torch.encode_whole(texts), encoder.encode_whole(texts), atol=1e-5)
    assert torch.encode([]).shape == (0, 384)
