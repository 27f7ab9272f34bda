"""Numbers of an answer alone: how it is written, whatever the question.

Where all candidates are about the question, what tells good ones from bad is how they speak of it: one hedges, gives
reasons, names years and sources, another shouts, refuses or breaks off. Words are counted by lists of English and
German, which have no word in common with a different meaning; the other numbers know no language.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf_loop.reward.lexical import words
from rlhf_loop.utils.arrays import Floats
from rlhf_loop.utils.lru import LRUCache

QUALITY_FEATURES = (
    "log of words",
    "words a sentence",
    "letters a word",
    "long words",
    "readability (LIX)",
    "distinct words",
    "digits",
    "capitals",
    "punctuation",
    "commas a sentence",
    "questions",
    "exclamations",
    "hedges",
    "absolutes",
    "first person",
    "second person",
    "negations",
    "reasons",
    "refusals",
    "imperatives",
    "years",
    "links",
    "list items",
    "begins like a sentence",
    "ends like a sentence",
)
#: Characters that are read: a long page. Whatever is behind them is written in the same way.
MAX_CHARS = 5_000
_MAX_BYTES = 4 * 1024**2
#: Letters from which on a word is long (Björnsson 1968).
_LONG = 7

_COUNTED = {
    "hedges": """
        may might could perhaps possibly probably likely usually often sometimes generally typically appears seems
        suggests approximately roughly some
        vielleicht möglicherweise wahrscheinlich vermutlich meist meistens oft manchmal gelegentlich üblicherweise
        ungefähr etwa könnte könnten dürfte scheint""",
    "absolutes": """
        always never all every everyone everything nobody nothing none only must completely totally definitely certainly
        guaranteed proven impossible immer nie niemals alle jeder jede jedes nichts niemand muss müssen völlig absolut
        garantiert sicher bewiesen unmöglich""",
    "first person": "i me my mine we us our ours ich mich mir mein meine meinem meinen wir uns unser unsere",
    "second person": "you your yours yourself du dich dir dein deine deinen sie ihnen ihr ihre ihren ihrem",
    "negations": """
        not no nor neither cannot cant don doesn didn isn aren wasn won without nicht kein keine keinen keinem keiner
        weder ohne""",
    "reasons": """
        because since therefore thus hence due so reason causes caused leads why
        weil da denn daher deshalb darum deswegen somit folglich grund wegen führt""",
}
_OF_WORD = {word: place for place, listed in enumerate(_COUNTED.values()) for word in listed.split()}
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not (?:able|sure))|i (?:can(?:no|')t|do(?: not|n't) know)|as an ai"
    r"|(?:es )?tut mir leid|das wei(?:ß|ss) ich nicht|(?:ich )?kann (?:ich )?(?:ihnen|dir|das)? ?(?:leider )?nicht)\b",
    re.IGNORECASE,
)
_BEGINNINGS = re.compile(r"(?:^|[.!?:;]\s+|\n)[\s\-*•\d.)]*([^\W\d_]+)")
_IMPERATIVES = frozenset(
    """
    ask avoid call check consider contact do drink eat find follow get go keep look make see seek stop take talk tell
    try use visit wash wear
    bitte fragen vermeiden rufen prüfen beachten trinken essen nehmen suchen gehen achten nutzen verwenden waschen
    frag vermeide ruf prüfe beachte trink iss nimm such geh achte nutze verwende wasch
    """.split()  # noqa: SIM905
)
_DIGITS = "0123456789"
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d\b")
_LINKS = ("http://", "https://", "www.", "doi:")
_ITEM = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?。！？]+(?:[\s\"')\]”’»]|$)")
_PUNCTUATION = re.compile(r"[^\w\s]")
_BEGINNING = re.compile(r"[\W_]*(\w)")


class QualityIndex:
    """Measures answers by themselves; what it has measured lately it remembers."""

    def __init__(self, *, max_bytes: int = _MAX_BYTES) -> None:
        self._known: LRUCache[Floats] = LRUCache(max_bytes=max_bytes)

    def features(self, responses: Sequence[str]) -> Floats:
        """Return a row of `QUALITY_FEATURES` for each response."""
        return np.stack([self._of(response) for response in responses])

    def _of(self, response: str) -> Floats:
        key = hashlib.sha256(response.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is None:
            known = quality(response)
            self._known.put(key, known, known.nbytes)
        return known


def quality(text: str) -> Floats:
    """Measure an answer: shares of its words, sentences or characters, or numbers that have a scale of their own."""
    text = text[:MAX_CHARS].strip()
    found = words(text)
    count, sentences = max(len(found), 1), max(len(_SENTENCE_END.findall(text)), 1)
    lengths = [*map(len, found)]
    letters, characters = sum(lengths), max(len(text), 1)
    long = sum(length >= _LONG for length in lengths)
    listed = Counter(map(_OF_WORD.get, found))
    beginning = _BEGINNING.match(text)
    return np.array(
        [
            np.log1p(len(found)),
            count / sentences,
            letters / count,
            long / count,
            count / sentences + 100 * long / count,
            # Of more words fewer are distinct: Guiraud's index, whose scale does not depend on length.
            len(set(found)) / count**0.5,
            sum(map(text.count, _DIGITS)) / characters,
            sum(map(str.isupper, text)) / characters,
            len(_PUNCTUATION.findall(text)) / characters,
            text.count(",") / sentences,
            text.count("?") / sentences,
            text.count("!") / sentences,
            *(listed[place] / count for place in range(len(_COUNTED))),
            float(_REFUSAL.search(text) is not None),
            sum(word.casefold() in _IMPERATIVES for word in _BEGINNINGS.findall(text)) / sentences,
            len(_YEAR.findall(text)) / count,
            min(sum(map(text.count, _LINKS)), 3),
            len(_ITEM.findall(text)) / sentences,
            float(beginning is not None and not beginning.group(1).islower()),
            float(_SENTENCE_END.search(text[-3:]) is not None),
        ]
    )
