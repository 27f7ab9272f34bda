"""Names that are none, in every parameter and field that takes a text: over HTTP, and to the commands."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from rlhf_loop.utils.text import blank
from tools.attack.product import Finding, Product, Running, closing_connection

PART = "names"
#: What no name may be: it leads elsewhere, has no end, cannot be stored, cannot be seen, or turns what follows round.
NAMES = {
    "nothing": "",
    "..": "..",
    "../../x": "../../x",
    "4,000 characters": "x" * 4000,
    "NUL": "a\0b",
    "half a pair": "\ud800",
    "no width": "\u200b",
    "marks of direction": "\u202e\u2066",
    "blanks of all kinds": "\u3000\u2800 \ufeff",
    "4,000 digits": "9" * 4000,
    "a line end": "a\r\nX: y",
    "a terminal's commands": "\x1b[2J",
}
#: Where names are kept.
_KEPT = {
    "rlhf_interactions": ("external_id", "source", "title", "licence", "candidate_group", "model_version"),
    "rlhf_reviews": ("reviewer",),
    "rlhf_preferences": ("reviewer",),
    "rlhf_users": ("name",),
    "rlhf_tokens": ("name",),
}
#: Commands that take a name, which stands where the braces are.
COMMANDS = (
    "users add {} --role rater",
    "users link {}",
    "tokens add {} --user fuzz --scope interactions:read",
    "models show {}",
    "models promote {}",
    "models compare {} {}",
    "index delete {}",
    "ratings import ratings.jsonl --reviewer {}",
    "ratings import ratings.jsonl --source {}",
)


def attack(product: Product) -> Iterator[Finding]:
    """Put each in the place of each text of each operation's example, and of each command's name."""
    with product.served() as server:
        document = json.loads(server.get("/openapi.json")[1])
        for words, name in NAMES.items():
            yield _over_http(product, server, document, words, name)
    (product.folder / "ratings.jsonl").write_text('{"user_prompt": "Why?", "ai_response": "Because."}\n')
    for words in ("nothing", "../../x", "no width", "4,000 characters"):
        yield _by_command(product, words, NAMES[words])


def _over_http(product: Product, server: Running, document: Any, words: str, name: str) -> Finding:
    statuses, failed, before = Counter[int](), [], _unseen(product)
    headers = {"Authorization": f"Bearer {product.token}", "Content-Type": "application/json"}
    for method, path, body in requests(document, name):
        status, _ = server.request(method, path, body, headers=headers)
        statuses[status] += 1
        if status >= 500 or not status:
            failed.append(f"{method} {path[:60]}")
    unseen = _unseen(product) - before
    said = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(statuses.items()))
    said += f"; {unseen} kept that cannot be seen" + (f"; {failed[0]}" if failed else "")
    return Finding(PART, f"{words}, in {statuses.total()} places", said, not failed and not unseen)


def requests(document: Any, name: str) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield requests of each operation: its example, with the name for one of its texts."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in ("get", "post", "put", "delete"):
                continue
            asked = operation.get("parameters", [])
            known = {each["name"]: "known-1" for each in asked if each["in"] == "path"}
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            examples = [each["value"] for each in content.get("examples", {}).values()] or [content.get("example")]
            body = None if examples[0] is None else json.dumps(examples[0]).encode()
            for each in asked:
                if each["in"] == "path":
                    yield method.upper(), _filled(path, {**known, each["name"]: name}), body
                elif each["in"] == "query":
                    query = urlencode({each["name"]: name}, errors="surrogatepass")
                    yield method.upper(), f"{_filled(path, known)}?{query}", body
            for example in filter(None, examples):
                for place in places(example):
                    yield method.upper(), _filled(path, known), json.dumps(changed(example, place, name)).encode()


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the places of the texts in a value of JSON, each as the keys that lead there."""
    if isinstance(value, str):
        yield ()
    elif isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inside:
            yield from ((key, *rest) for rest in places(each))


def changed(value: Any, place: tuple[Any, ...], text: str) -> Any:
    """Return a copy of a value with another text at a place."""
    if not place:
        return text
    found = copy.copy(value)
    found[place[0]] = changed(value[place[0]], place[1:], text)
    return found


def _filled(path: str, names: dict[str, str]) -> str:
    for key, name in names.items():
        path = path.replace(f"{{{key}}}", quote(name, safe="", errors="surrogatepass"))
    return path


def _by_command(product: Product, words: str, name: str) -> Finding:
    codes, wrong, before = Counter[int](), [], _unseen(product)
    for command in COMMANDS:
        ran = product.run(*(word.replace("{}", name) for word in command.split()))
        codes[ran.code] += 1
        if not ran.clear or (ran.code == 0 and not command.startswith("ratings") and blank(name)):
            wrong.append(command)
    unseen = _unseen(product) - before
    said = ", ".join(f"exit code {code}: {count}" for code, count in sorted(codes.items()))
    said += f"; {unseen} kept that cannot be seen" + (f"; {wrong[0]}" if wrong else "")
    return Finding(PART, f"{words}, to {len(COMMANDS)} commands", said, not wrong and not unseen)


def _unseen(product: Product) -> int:
    """Count the names in the database that cannot be seen, or have no end."""
    with closing_connection(product.database) as connection:
        return sum(
            value is not None and (blank(value) or len(value) > 2_000)
            for table, columns in _KEPT.items()
            for row in connection.execute(f"SELECT {', '.join(columns)} FROM {table}")
            for value in row
        )
