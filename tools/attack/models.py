"""Model files that somebody else made: each with the right checksum, and something in it that cannot be served."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.attack.product import Finding, Product

PART = "models"
_MOST_MB = 400.0
_QUESTION = b'{"query": "Why?", "texts": ["Because.", "Nobody knows."]}'


def _doubled() -> list[Any]:
    """Return a list of the same list twice, 40 levels deep: a few bytes in the file, a million millions when read."""
    found: list[Any] = [1.0]
    for _ in range(40):
        found = [found, found]
    return found


def _deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100):
        found = [found]
    return found


#: Added to an object that is being read: a key of one tuple twice, 34 levels deep (EMPTY_TUPLE; DUP, TUPLE2; NONE,
#: SETITEM), which would be hashed 2^34 times.
TUPLE_KEY = b")" + b"2\x86" * 34 + b"Ns"

#: Fields -> what they are instead; a function makes it of what it was.
CHANGES: dict[str, dict[str, Any]] = {
    "recipe ../../x": {"recipe": "../../x"},
    "recipe of an absolute path": {"recipe": "{folder}/x"},
    "no recipe": {"recipe": ""},
    "recipe of 4,000 characters": {"recipe": "x" * 4000},
    "recipe with NUL": {"recipe": "joint\0"},
    "recipe with a line end": {"recipe": "joint\nx"},
    "recipe of another kind": {"recipe": ["joint"]},
    "recipe not known here": {"recipe": "nothing"},
    "recipe of another version": {"recipe_version": 99},
    "recipe's version of another kind": {"recipe_version": True},
    "encoder ../../x": {"encoder": "../../x"},
    "encoder of another kind": {"encoder": None},
    "intercept 10**400": {"intercept": 10**400},
    "intercept nan": {"intercept": float("nan")},
    "intercept as text": {"intercept": "1"},
    "intercept true": {"intercept": True},
    "slope 1e308": {"slope": 1e308},
    "slope below 0": {"slope": -1.0},
    "offset inf": {"offset": float("inf")},
    "coef of 1e308": {"coef": lambda old: [1e308] * len(old)},
    "coef of 10**400": {"coef": lambda old: [10**400] * len(old)},
    "coef with nan": {"coef": lambda old: [float("nan"), *old[1:]]},
    "coef one too short": {"coef": lambda old: old[1:]},
    "coef of lists": {"coef": lambda old: [[value] for value in old]},
    "coef of texts": {"coef": lambda old: [str(value) for value in old]},
    "coef of 3 million numbers": {"coef": [0.5] * 3_000_000},
    "coef doubled 40 times": {"coef": _doubled()},
    "coef not a list": {"coef": 1.0},
    "low above high": {"low": lambda old: [1e9] * len(old)},
    "low and high nan": {"low": lambda old: [float("nan")] * len(old)},
    "low -1e308, high 1e308": {"low": lambda old: [-1e308] * len(old), "high": lambda old: [1e308] * len(old)},
    "card not an object": {"card": "a card"},
    "card 100 lists deep": {"card": {"metrics": {"overall": _deep()}}},
    "card doubled 40 times": {"card": {"metrics": {"overall": _doubled()}}},
    "card's run of another kind": {"card": {"run_id": ["a"]}},
    "card's run of 4,000 characters": {"card": {"run_id": "x" * 4000}},
    "card's metrics of other kinds": {"card": {"metrics": {"overall": "good", "held_out": 3, "pairs": [1]}}},
    "card's metrics of texts": {
        "card": {"metrics": {"overall": {"accuracy": {"value": "high"}, "orders": {"model": 1}}}}
    },
    "card's metrics of bytes": {"card": {"metrics": {"overall": b"\xff", "n": {1, 2}}}},
    "card's metrics of 10**400": {"card": {"metrics": {"trained_on": 10**400, "end_user_weight": 10**400}}},
    "card's metrics of nan": {"card": {"metrics": {"overall": {"accuracy": {"value": float("nan")}}}}},
    "card's time of year 0": {"card": {"trained_at": "0000-01-01"}},
    "card's time of year 9999": {"card": {"trained_at": "9999-12-31T23:59:59-23:59"}},
    "format of another version": {"format_version": "1"},
    "nothing but the format": {},
    "a key of tuples 34 deep": {"": TUPLE_KEY},
}


def attack(bare: Product, trained: Product) -> Iterator[Finding]:
    """Put each where there is no registry yet, and then, in one running server, where the live model is."""
    good = pickle.loads(trained.model.read_bytes())
    top = bare.folder.parent / "models"
    served, house = bare.copy(top / "a" / "b" / "served"), top / "a" / "b" / "house"
    with served.served() as server:
        for name, change in CHANGES.items():
            if isinstance(recipe := change.get("recipe"), str):
                change = {**change, "recipe": recipe.replace("{folder}", str(top))}
            product, content = bare.copy(house), changed(good, change)
            outside = _files(top, house)
            _put(product.model, content)
            ran, adopted = product.run("models", "list"), product.count("rlhf_models")
            written = sorted(path.name for path in _files(top, house) - outside)
            _put(served.model, content)
            status, _ = server.get("/data?query=Why")
            ranked, _ = server.request("POST", "/rerank", _QUESTION, headers={"Content-Type": "application/json"})
            shown = product.run("models", "show", "1") if adopted else ran
            words = [
                f"{adopted} adopted" if adopted and not name.startswith("card") else "",
                f"written outside: {', '.join(written)[:60]}" if written else "",
                "" if ran.clear and ran.code == 0 else f"models list: exit code {ran.code}",
                "" if shown.clear else f"models show: exit code {shown.code}",
                "" if status == 200 else f"a question: {status or 'no answer'}",
                "" if ranked in (200, 503) else f"/rerank: {ranked or 'no answer'}",
                f"peak {ran.megabytes:.0f} MB" if ran.megabytes > _MOST_MB else "",
            ]
            bad = ", ".join(filter(None, words))
            good_end = "adopted, and can be shown" if adopted else "not adopted, questions answered"
            yield Finding(PART, name, bad or good_end, not bad)
            shutil.rmtree(house)
        _put(served.model, pickle.dumps(good))
        status, body = server.get("/data?query=Why")
        found = json.loads(body).get("model_version") if status == 200 else None
    yield Finding(PART, "the good one again", f"a question: {status}, by {found}", bool(found))
    yield _huge(bare.copy(house))


def changed(good: dict[str, Any], change: dict[str, Any]) -> bytes:
    """Return a model file with something else in it; without any change one with the format's name only.

    What has no name are opcodes for the end of the file.
    """
    if not change:
        return pickle.dumps({"format": good["format"]})
    new: dict[str, Any] = {}
    opcodes = change.get("", b"")
    for name, value in change.items():
        make: Callable[[Any], Any] | None = value if callable(value) else None
        new[name] = make(good[name]) if make else value
    new.pop("", None)
    return pickle.dumps({**good, **new})[:-1] + opcodes + pickle.STOP


def _huge(product: Product) -> Finding:
    """Put a model file of 10 GB there, without any content."""
    with product.model.open("wb") as file:
        file.truncate(10 * 2**30)
    product.model.with_name(product.model.name + ".sha256").write_text(f"{'0' * 64}  {product.model.name}\n")
    ran = product.run("models", "list")
    holds = ran.code == 0 and ran.clear and ran.megabytes < _MOST_MB and ran.cpu_seconds < 10
    return Finding(PART, "a file of 10 GB", str(ran), holds)


def _put(path: Path, content: bytes) -> None:
    path.with_name(path.name + ".sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    path.write_bytes(content)


def _files(top: Path, house: Path) -> set[Path]:
    """Return the files that are neither in the house nor in the one that is served."""
    own = {house, house.with_name("served")}
    return {path for path in top.rglob("*") if path.is_file() and not own & {*path.parents}}
