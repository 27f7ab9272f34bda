"""Wordings of questions: the words with a meaning in one, and the key that all its spellings share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import Stemmer

from rlhf_loop.utils.languages import ENGLISH, STEMMED, language_named
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
#: Accents on letters, vowels that Hebrew and Arabic mostly leave out, Arabic's stretch of a line, and whatever people
#: type for an apostrophe; U+2019 is what word processors make of it.
_LEFT_OUT = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u0640\u064b-\u0652'`\u00b4\u02b9\u02bb-\u02bd\u02c8\u2018\u2019\u201b\u2032\uff07]"
)
_WORD = re.compile(r"\w\w+|[^\W\x00-\x7f]")
#: Two letters in one.
_LIGATURES = str.maketrans({"œ": "oe", "æ": "ae"})
_APOSTROPHES = str.maketrans(dict.fromkeys("'\u2019\u00b4`\u02bc\uff07", " "))
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
#: The same in other languages, beside their words without a meaning.
_FRAMES = {
    "de": """
        konnen kannst konnten konntest koennen koennten koennte wurden wurdest wuerde wuerden mochte mochten moechte
        durfte durfen darf mussen mussten sollen gern gerne wissen wusste wuesste weiss weisst sagen sag sagt erklaren
        erklaeren erklar erklart erlautern verraten helfen frage fragen interessiert interessieren jemand hallo guten
        gute tag morgen abend liebe lieber geehrte geehrter damen herren herr frau doktor danke dank vielen herzlichen
        sehr voraus freundlichen grussen gruss gruesse entschuldigung entschuldigen verzeihung nett freundlich dankbar
        mal eigentlich vielleicht kurz hatte hatten haetten
    """,
    "es": """
        podria podrias podrian puedes poder decirme decirnos decir dime digame explicar explicarme explique expliqueme
        gustaria quisiera querria quiero queria saber sabe sabes alguien usted ustedes pregunta preguntar pregunto
        ayudar ayudarme ayuda contarme informarme indicarme favor gracias muchas antemano hola buenos buenas dias tardes
        noches estimado estimada doctor doctora senor senora disculpe disculpa perdon amable cordial cordiales saludo
        saludos deberia
    """,
    "fr": """
        pourriez pourrais pourrait pouvez pouvoir dire dites dis expliquer expliquez explique aimerais aimerait voudrais
        voudrait souhaite souhaiterais savoir savez sais sait quelqu question demande demander renseigner aider aidez
        auriez auriez plait svp merci beaucoup avance bonjour bonsoir salut docteur monsieur madame pardon excusez
        cordialement c d l m n t j te devrais faudrait
    """,
    "it": """
        potrebbe potresti puoi dirmi dire spiegare spiegarmi vorrei sapere sa sai qualcuno domanda chiedere aiutarmi
        cos favore cortesia grazie mille anticipo buongiorno buonasera salve ciao dottore dottoressa scusi scusa saluti
        c d l m n t s un
    """,
    "pt": """
        poderia poderias podem dizer diga explicar gostaria queria quero saber sabe alguem pergunta ajudar favor
        obrigado obrigada muito ola bom boa dia tarde noite doutor doutora desculpe cumprimentos
    """,
    "nl": """
        kunt kun zou zoudt vertellen zeggen uitleggen graag willen wil weten weet iemand vraag vragen helpen
        alvast alstublieft alsjeblieft aub dank bedankt hallo goedemorgen goedemiddag goedenavond dag dokter heer
        mevrouw mag groeten vriendelijke
    """,
}
#: What means something here of the words without a meaning: denials, who, when, where, why, before, after, more, all.
_MEANING = {
    "de": "nicht nur alle aus bis durch nach noch vor warum wer wieso wo",
    "es": "antes ante como mas muy nada ni no porque quien cuando donde desde hasta sin sobre todo entre",
    "fr": "pas plus sans pourquoi qui ou",
    "it": "non piu perche chi dove quando ogni tra",
    "pt": "nao nem sem mais porque quem onde quando ate so",
    "nl": "niet geen meer na uit tot voor wie waar waarom wanneer",
}
#: Languages in which an apostrophe ends a word.
_ELIDED = ("fr", "it")


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


def question_key(question: str, *, language: str = ENGLISH) -> str:
    """Return a key that is equal for all spellings of a question, to keep these together in a split.

    Punctuation, apostrophes, case, Unicode form, accents, polite frames, the order of the words and their endings do
    not matter; numbers and denials do. A question may be in any of the languages with frames: it is in that of which
    it has the most words without a meaning, on a tie in `language`. Far coarser than `QuestionWords.same_as`, where two
    questions that are taken for one get a wrong answer; here they only share their part of a split.
    """
    words, language = _meant(question, language)
    return " ".join(sorted({_stem(word, language) for word in words})) or " ".join(question.casefold().split())


def without_frame(question: str, *, language: str = ENGLISH) -> str:
    """Return the words with a meaning in a question, in order: what an encoder compares best, as frames blur it."""
    return " ".join(_meant(question, language)[0]) or question


def numbers_in(question: str) -> str:
    """Return the words with a digit in a question, sorted: with others in it, it is another question."""
    return " ".join(sorted({word for word in _plain(question) if any(map(str.isdigit, word))}))


def _meant(question: str, language: str) -> tuple[list[str], str]:
    """Return the words with a meaning, all if none has any, and the language."""
    words = set(_WORD.findall(unicodedata.normalize("NFC", question).casefold()))
    language = max((language, ENGLISH, *_FRAMES), key=lambda code: len(words & _asking(code)))
    plain = _plain(question.translate(_APOSTROPHES) if language in _ELIDED else question)
    return [word for word in plain if word not in _frame(language)] or plain, language


@lru_cache
def _asking(code: str) -> frozenset[str]:
    """Return the words without a meaning of a language."""
    own = _FRAME if code == ENGLISH else set(_FRAMES.get(code, "").split())
    return language_named(code).stop_words | own


@lru_cache
def _frame(code: str) -> frozenset[str]:
    """Return the words that only ask, as `_plain` gives them."""
    if code == ENGLISH:
        return frozenset(_FRAME)
    return frozenset(plain for word in _asking(code) for plain in _plain(word)) - {*_MEANING.get(code, "").split()}


def _plain(question: str) -> list[str]:
    """Return the words without accents, apostrophes and what is invisible; a denial is "not"."""
    text = _LEFT_OUT.sub("", unicodedata.normalize("NFKD", visible(question)).casefold().translate(_LIGATURES))
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
            stem = _stem(bare, ENGLISH)
        if stem:
            yield stem, bare
        before, meant = bare, bool(stem) and stem != "not" and place > 0


def _two_names(words: set[str], others: set[str]) -> bool:
    """Tell whether a mute e makes two names of one stem: Tietz syndrome is not Tietze syndrome."""
    return words.isdisjoint(others) and any(
        f"{word}e" == other or f"{other}e" == word for word in words for other in others
    )


@lru_cache(maxsize=20_000)
def _stem(word: str, language: str) -> str:
    # A stemmer of its own for each word: one of them must not be used by two threads.
    stems = STEMMED.get(language) if word.isalpha() and (word.isascii() or language != ENGLISH) else None
    stem = str(Stemmer.Stemmer(stems, 0).stemWord(word)) if stems else word
    return _SAME.get(stem, stem) if language == ENGLISH else stem
