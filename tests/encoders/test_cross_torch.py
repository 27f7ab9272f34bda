"""Cross-encoders beside transformers' own: needs the extra [torch], as `make tuning` has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rlhf_loop.encoders.cross_encoder import load_cross_encoder
from rlhf_loop.encoders.text_encoder import pair

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra [torch])")
torch = pytest.importorskip("torch", reason="torch is not installed (extra [torch])")

#: One is cut on both sides.
PAIRS = [
    ("the cat", "a dog sat on the mat ."),
    ("a dog sat", "the cat"),
    ("a " * 30, "the cat sat on " * 10),
    ("cat", "zebra"),
]
_SIZES = {"num_labels": 1, "vocab_size": 20, "max_position_embeddings": 40}
_USUAL = _SIZES | {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
_MODERN = _USUAL | {"pad_token_id": 0, "local_attention": 4}
_QWEN = _USUAL | {"num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _USUAL | {"pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", _USUAL | {"pad_token_id": 19, "max_position_embeddings": 80}),
    "distilbert": ("DistilBert", _SIZES | {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}),
    "mpnet": ("MPNet", _USUAL | {"pad_token_id": 1}),
    "modernbert": ("ModernBert", _MODERN),
    "modernbert, mean": ("ModernBert", _MODERN | {"classifier_pooling": "mean"}),
    "qwen3": ("Qwen3", _QWEN),
}


def written(folder: Path, kind: str) -> tuple[Any, Any]:
    """Write a model of random weights with its tokenizer, and return both."""
    name, config = KINDS[kind]
    torch.manual_seed(0)
    of = getattr(transformers, f"{name}ForSequenceClassification")
    model = of(getattr(transformers, f"{name}Config")(**config)).eval()
    for weights in model.parameters():
        weights.data = 0.4 * torch.randn_like(weights)
    model.save_pretrained(folder)
    words = {word: place for place, word in enumerate(["[PAD]", "[NO]", *WORDS[2:], "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    both = "[CLS] $A [SEP] $B:1 [SEP]:1" if kind == "bert" else "[CLS] $A [SEP] [SEP] $B [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=both, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (kind == "bert")
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=32, model_input_names=names, **marks
    )
    own.save_pretrained(folder)
    return model, own


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    """Each kind scores pairs as transformers does, cut as its tokenizer cuts them, within rounding."""
    model, tokenizer = written(tmp_path / "tiny", kind)
    expected = []
    with torch.no_grad():
        for asked, passage in PAIRS:
            read = tokenizer(asked, passage, truncation="longest_first", return_tensors="pt")
            expected.append(float(model(**read).logits[0, 0]))
    found = load_cross_encoder(str(tmp_path / "tiny"), tmp_path / "cache", threads=1)
    assert np.allclose(found.encode([pair(*each) for each in PAIRS])[:, 0], expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3
