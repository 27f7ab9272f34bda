"""The language of docstrings and messages: plain English and the field's terms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rlhf_loop"
#: A docstring says what something is or does; these begin a riddle or a question.
_RIDDLE = re.compile(r"(What|Which|Who|Whose|Whom|How|Where|Whether|Why|That)\b")
#: "X is no Y" for "X is not a Y". "There is no Y" and "is no longer" are English.
_IS_NO = re.compile(r"(?<!\bthere )(?<!\bThere )\b(is|are|was|were) (no|none)\b(?! (longer|more)\b)")
_WORDS = re.compile(r"\bamiss\b|\bdear to\b|\bas good as random\b|\bof this house\b|\bleft alone\b", re.IGNORECASE)
#: What each of these has; looked for in all strings of the package, of which few have one.
_SUSPICIOUS = re.compile(r"(is|are|was|were)\s+no|[Aa]miss|[Dd]ear\s|[Aa]s\s+good|[Oo]f\s+this|[Ll]eft\s+alone")
_PARTICIPLE = re.compile(
    r"_?(Asked|Drawn|Found|Given|Held|Judged|Kept|Known|Made|Past|Rated|Recorded|Said|Seen|Shown|Told|Unsaid)"
)
#: Names of the public client that have been there before.
_PUBLIC = {"Recorded"}


def _modules() -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if "migrations" not in inside.parts:
            yield path


def _offences(path: Path) -> Iterator[str]:
    inside = path.relative_to(PACKAGE)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        where = f"{inside}:{getattr(node, 'lineno', 1)}"
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if _RIDDLE.match(first):
                yield f"{where}: begin with a noun phrase or an imperative: {first}"
        if isinstance(node, ast.ClassDef) and _PARTICIPLE.fullmatch(node.name) and node.name not in _PUBLIC:
            yield f"{where}: a class is a noun, not {node.name}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if not _SUSPICIOUS.search(node.value):
                continue
            text = " ".join(node.value.split())
            for found in (*_IS_NO.finditer(text), *_WORDS.finditer(text)):
                yield f"{where}: say it in plain English: {text[max(0, found.start() - 30) : found.end() + 30]}"


def test_docstrings_and_messages_are_plain() -> None:
    """No docstring is a riddle, no message says "is no X" for "is not a valid X", no class is a bare participle."""
    assert [offence for path in _modules() for offence in _offences(path)] == []


def test_a_file_name_tells_one_module() -> None:
    """No file name occurs twice in the package, but in the pairs whose folders say the rest."""
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    pairs = {"answers.py", "feedback.py", "trl.py"}
    assert {name for name in names if names.count(name) > 1} <= pairs
