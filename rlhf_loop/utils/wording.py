"""Wordings of questions: the words with a meaning in one, and the key that all its spellings share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import Stemmer

from rlhf_loop.utils.text import visible

#: Signs of vowels and tones, which stand in the words of many languages: of Hindi, Thai, Tamil, Burmese.
_MARKS = ("Mn", "Mc")
#: Words without a meaning here. Not among them: numbers, denials, who, when, where, before, after, more, less.
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
#: Accents on letters, and whatever people type for an apostrophe; U+2019 is what word processors make of it.
_LEFT_OUT = re.compile("[\u0300-\u036f'`\u00b4\u02b9\u02bb-\u02bd\u02c8\u2018\u2019\u201b\u2032\uff07]")
#: Denials whose apostrophe is gone.
_CONTRACTED = set(
    """
    isnt arent wasnt werent dont doesnt didnt hasnt havent hadnt cant wont
    couldnt shouldnt wouldnt mustnt mightnt neednt aint
    """.split()  # noqa: SIM905
)
#: Words that only ask, greet or thank, in the languages people do it in; around a question they change nothing.
_FRAME = (
    _EMPTY
    | _ASKING.keys()
    | set(
        """
        do does did if whether whats hows whos wheres whens whys thats theres its im ive id youre ill ok okay well
        hey dear sir madam doctor dr doc kindly sorry excuse regards cheers thx pls plz quick quickly mind
        wonder wondering curious interested ask asking advise learn understand find out let give show say clarify help
        like love need wish possible able anyone anybody else one ones there advance much very many lot appreciate
        appreciated grateful good morning afternoon evening day greetings answer got get
        bitte danke hallo guten tag por favor gracias hola merci bonjour svp grazie ciao
        """.split()  # noqa: SIM905
    )
)


class QuestionWords:
    """The words with a meaning in a question, by their stems, and their order where that matters."""

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


def question_key(question: str) -> str:
    """Return a key that is equal for all spellings of a question, to keep these together in a split.

    Punctuation, apostrophes, case, Unicode form, accents, polite frames, the order of the words and their endings in
    English do not matter; numbers and denials do. Far coarser than `QuestionWords.same_as`, where two questions that
    are taken for one get a wrong answer; here they only share their part of a split.
    """
    return " ".join(sorted({_stem(word) for word in _meant(question)})) or " ".join(question.casefold().split())


def without_frame(question: str) -> str:
    """Return the words with a meaning in a question, in order: what an encoder compares best, as frames blur it."""
    return " ".join(_meant(question)) or question


def numbers_in(question: str) -> str:
    """Return the words with a digit in a question, sorted: with others in it, it is another question."""
    return " ".join(sorted({word for word in _plain(question) if any(map(str.isdigit, word))}))


def _meant(question: str) -> list[str]:
    words = _plain(question)
    return [word for word in words if word not in _FRAME] or words


def _plain(question: str) -> list[str]:
    """Return the words without accents, apostrophes and what is invisible; a denial is "not"."""
    text = _LEFT_OUT.sub("", unicodedata.normalize("NFKD", visible(question)).casefold())
    words = _words(unicodedata.normalize("NFC", text))
    return ["not" if word in _DENIED or word in _CONTRACTED else word for word in words]


def _words(text: str, *, within: str = "") -> list[str]:
    """Return the words of a text: letters, digits and marks, and the characters `within`; others part them."""
    return "".join(
        letter
        if letter.isalnum() or letter in within or (kind := unicodedata.category(letter)) in _MARKS
        else ("" if kind == "Cf" else " ")
        for letter in text
    ).split()


def _found(question: str) -> Iterator[tuple[str, str]]:
    """Yield the words that have a meaning here, each with its stem before it."""
    before, meant = "", False
    words = (word.strip("'") for word in _words(visible(question).replace("’", "'"), within="'"))
    for place, written in enumerate(filter(None, words)):
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
