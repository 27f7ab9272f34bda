"""When two questions are the same one in other words: a wrong answer to a near question is worse than none.

Vectors alone cannot tell. To the encoder "type 1" and "type 2", two drugs, or a question and its denial are nearly the
same, and in medicine they are not. So beside the vectors each word with a meaning has to have its like in the other
question; only how they are put together may differ. `python -m tools.near_questions` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import Stemmer

#: The cosine of two questions from which they may be the same. By `tools.near_questions` it costs 1 % of rewordings,
#: and leaves out what has the same words and is put together quite differently.
NEAR = 0.8

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
#: What carries no meaning here. Not in it: numbers, denials, who and when and where, before and after, more and less.
_EMPTY = set(
    """
    a an the this that these those of for in on at to by with about regarding concerning and or as
    is are was were be been being am has have had having will would shall can could may might should
    what which how please tell me us you your we i my our it its they them their there he she his her
    know want describe explain any some information info question hello hi thanks thank
    people patient patients someone somebody person exactly really generally usually also just so then
    """.split()  # noqa: SIM905
)
#: A question that begins with one of them asks for yes or no: whether one can, which is not whether one should.
_ASKING = {
    **dict.fromkeys(("is", "are", "was", "were", "am"), "is"),
    **dict.fromkeys(("do", "does", "did"), "do"),
    **dict.fromkeys(("has", "have", "had"), "have"),
    **dict.fromkeys(("can", "could", "may", "might"), "can"),
    **dict.fromkeys(("should", "must", "shall"), "should"),
    **dict.fromkeys(("will", "would"), "will"),
}
#: "do" after one of them only asks; elsewhere, as in "what can I do", it is what one asks for.
_BEFORE_DO = {"what", "how", "which", "why", "when", "where", "who", "much", "many", "long", "often"}
_DENIED = {"no", "not", "non", "never", "without", "none", "neither", "nor", "cannot"}
#: Words that stand for each other in the questions of laypeople. Short on purpose.
_SAME = {"sign": "symptom", "kid": "child", "children": "child", "women": "woman", "men": "man", "therapi": "treat"}
_SAME |= {"treatment": "treat", "medic": "medicin", "prognosi": "outlook", "diagnosi": "diagnos"}
#: With one of them in it, the order of the others is what the question is about.
_DIRECTED = {"caus", "lead", "affect", "after", "befor", "than", "instead", "trigger", "increas", "decreas", "reduc"}
_DIRECTED |= {"lower", "rais", "prevent", "turn", "becom", "worsen", "interact", "follow", "result", "replac", "versus"}
_DIRECTED |= {"from", "into", "switch", "chang"}


class QuestionWords:
    """What a question is about: its words by their stems, and their order where that matters."""

    __slots__ = ("_forms", "_order")

    def __init__(self, question: str) -> None:
        found = list(_found(question))
        self._forms: dict[str, set[str]] = {}
        for stem, word in found:
            self._forms.setdefault(stem, set()).add(word)
        directed = len(found) > 2 and not _DIRECTED.isdisjoint(self._forms)
        self._order = tuple(stem for stem, _ in found) if directed else ()

    def same_as(self, other: QuestionWords) -> bool:
        """Tell whether each has all that the other has. Questions without a word of meaning are never the same."""
        return (
            bool(self._forms)
            and self._forms.keys() == other._forms.keys()
            and self._order == other._order
            and not any(_two_names(words, other._forms[stem]) for stem, words in self._forms.items())
        )


def _found(question: str) -> Iterator[tuple[str, str]]:
    """Yield the words that have a meaning here, each with its stem before it."""
    before, meant = "", False
    for place, written in enumerate(_WORD.findall(question.replace("’", "'"))):
        word = written.casefold()
        bare = word.removesuffix("'s").replace("'", "")
        stem = ""
        if word.endswith("n't") or bare in _DENIED:
            stem = "not"
        elif place == 0 and bare in _ASKING:
            stem = f"{_ASKING[bare]}?"
        elif bare in ("do", "does", "did"):
            stem = "" if before in _BEFORE_DO else "do"
        elif bare in ("a", "i"):
            # Hepatitis A, type I: no article and no pronoun stands there, or at least nobody can be sure.
            stem = bare if meant or (written == "A" and place) else ""
        elif bare not in _EMPTY:
            stem = _stem(bare)
        if stem:
            yield stem, bare
        before, meant = bare, bool(stem) and stem != "not" and place > 0


def _two_names(words: set[str], others: set[str]) -> bool:
    """Tell whether a mute e makes two names of one stem: Tietz syndrome is not Tietze syndrome."""
    return words.isdisjoint(others) and any(
        f"{word}e" == other or f"{other}e" == word for word in words for other in others
    )


@lru_cache(maxsize=20_000)
def _stem(word: str) -> str:
    # A stemmer of its own for each word: one of them must not be used by two threads.
    stem = str(Stemmer.Stemmer("english", 0).stemWord(word)) if word.isascii() and word.isalpha() else word
    return _SAME.get(stem, stem)
