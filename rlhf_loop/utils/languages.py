"""The languages of the texts: stems, words without a meaning, and where words and sentences end.

All are named by ISO 639-1. Where there are no stems, a word stands for itself; where words are not apart, pairs of
characters stand for them, as in the indices of search engines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rlhf_loop.errors import ConfigError

ENGLISH = "en"
#: Languages with stems in Snowball, under its names, which are those of `RLHF_INDEX_LANGUAGE`, too.
STEMMED = {
    "ar": "arabic",
    "ca": "catalan",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "es": "spanish",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
#: Languages that are written without blanks between words.
UNSPACED = {"ja": "japanese", "km": "khmer", "lo": "lao", "my": "burmese", "th": "thai", "zh": "chinese"}
_OTHERS = {"bg": "bulgarian", "cs": "czech", "fa": "persian", "he": "hebrew", "hr": "croatian", "ko": "korean"}
_OTHERS |= {"pl": "polish", "sk": "slovak", "sl": "slovenian", "uk": "ukrainian", "vi": "vietnamese"}
NAMES = STEMMED | UNSPACED | _OTHERS

#: Words that say nothing about the subject of a question. A language that is not here has none.
_STOP_WORDS = {
    "en": (
        "a about am an and any are as at be been but by can could did do does for from get had has have he "
        "help her his how i if in information into is it its just know like me my need no not of on or our "
        "please she should so some tell than that the their then there these they this those to us was we "
        "what when where which who why will with would you your"
    ),
    "de": (
        "aber alle als am an auch auf aus bei bin bis bitte da damit dann das dass dein dem den denn der des "
        "die dies diese diesem diesen dieser dieses doch du durch ein eine einem einen einer eines er es "
        "etwas euch für gibt habe haben hat hatte ich ihm ihn ihnen ihr ihre im in ins ist ja kann können "
        "könnte man mein mich mir mit muss nach nicht noch nur ob oder sein seine sich sie sind so soll "
        "sollte über um und uns unser vom von vor war warum was welche welcher welches wenn wer werden wie "
        "wieso wir wird wo wurde zu zum zur"
    ),
    "es": (
        "a al algo algún alguna ante antes aquí así aún cada como cómo con cual cuál cuáles cuando cuándo de "
        "del desde donde dónde durante e el ella ellas ellos en entre era es esa ese eso esta está están este "
        "esto estos fue ha hace hacer hasta hay la las le les lo los más me mi mis muy nada ni no nos o para "
        "pero por porque puede pueden puedo que qué quien quién se sea según ser si sí sin sobre son su sus "
        "también te tengo tiene tienen todo tu tus un una uno unos y ya yo"
    ),
    "fr": (
        "à ai alors au aussi aux avec avoir ce ces cet cette comme comment dans de des dois doit donc du elle "
        "elles en est et être eu eux fait faire faut il ils j je la le les leur leurs lui ma mais me mes moi "
        "mon ne nos notre nous on ont ou où par pas peut peuvent peux plus pour pourquoi qu quand que quel "
        "quelle quelles quels qui quoi s sa sans se ses si son sont sur ta te tes toi ton tu un une vos votre "
        "vous y"
    ),
    "it": (
        "a ad ai al alla alle anche che chi ci come con cosa da dal dalla dei del della delle di dove e è ed "
        "fa fare gli ha hanno ho i il in io l la le lo loro ma mi mia mio ne nei nel nella no non nostro o "
        "ogni per perché più può quale quali quando quanto questa questo se sei si sia sono su sua sul suo ti "
        "tra tu un una uno voi"
    ),
    "pt": (
        "a ao aos as até com como da das de do dos e é ela elas ele eles em entre era essa esse esta está "
        "este eu foi há isso já lhe mais mas me meu minha muito na não nas nem no nos nós o onde os ou para "
        "pela pelo pode podem por porque posso qual quais quando que quem se sem ser seu seus só sua suas são "
        "também te tem tenho um uma você"
    ),
    "nl": (
        "aan al als bij dan dat de der deze die dit door een en er geen haar had heb hebben heeft het hij hoe "
        "hun ik in is ja je kan kunnen me meer met mij mijn moet na naar niet nog nu of om omdat ons ook op "
        "over te tot u uit van veel voor waar waarom wanneer want waren was wat we wel welke werd wie wij "
        "worden wordt zal ze zich zij zijn zo"
    ),
    "zh": (
        "一个 一些 不是 什么 从而 他们 你们 你的 哪些 哪个 因为 如何 如果 它们 就是 应该 怎么 怎样 我们 我的 "
        "所以 是否 有的 没有 这个 这些 那个 那些 为什 可以 可能 以及 但是 的是 是什 的话"
    ),
}


@dataclass(frozen=True, slots=True)
class Language:
    """A language of texts: its ISO code, Snowball's name of its stems (None: it has none), and its empty words.

    `spaced` tells whether blanks stand between its words.
    """

    code: str
    stems: str | None
    stop_words: frozenset[str]
    spaced: bool

    @property
    def name(self) -> str:
        """Its English name."""
        return NAMES[self.code]


@lru_cache(maxsize=64)
def language_named(name: str, *, setting: str = "RLHF_LANGUAGE") -> Language:
    """Return the language of an ISO code (`de`, `zh-CN`) or an English name (`german`).

    Raises:
        ConfigError: there is none of that name, by the `setting` that it comes from.
    """
    wanted = name.strip().lower()
    code = next((code for code, known in NAMES.items() if known == wanted), re.split("[-_]", wanted)[0])
    if code not in NAMES:
        raise ConfigError(
            f"{setting}={name!r} is not a known language. Choose one of {', '.join(sorted(NAMES))}, or an English name."
        )
    stop_words = frozenset(_STOP_WORDS.get(code, "").split())
    return Language(code, STEMMED.get(code), stop_words, spaced=code not in UNSPACED)
