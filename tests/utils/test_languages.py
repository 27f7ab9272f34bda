from __future__ import annotations

import pytest

from rlhf_loop.errors import ConfigError
from rlhf_loop.reward import lexical
from rlhf_loop.utils.languages import NAMES, language_named


@pytest.mark.parametrize(
    ("name", "code", "stems", "spaced"),
    [
        ("en", "en", "english", True),
        (" German", "de", "german", True),
        ("es-MX", "es", "spanish", True),
        ("zh_Hans", "zh", None, False),
        ("korean", "ko", None, True),
    ],
)
def test_a_language_has_a_code_and_an_english_name(name: str, code: str, stems: str | None, spaced: bool) -> None:
    """Both name it, whatever the case; a region behind the code says nothing here."""
    language = language_named(name)
    assert (language.code, language.stems, language.spaced) == (code, stems, spaced)
    assert language.name == NAMES[code]


def test_an_unknown_language_is_refused() -> None:
    """The message has the setting, the value and what there is."""
    with pytest.raises(ConfigError, match=r"RLHF_LANGUAGE='klingon' is not a known language\. Choose one of ar, .*de"):
        language_named("klingon")


GERMAN, SPANISH, CHINESE = (language_named(name) for name in ("de", "es", "zh"))


def test_words_with_a_meaning_are_those_of_the_language() -> None:
    """Stems and empty words go by it; Chinese, which has no blanks, is cut into pairs of characters."""
    assert lexical.terms("Was hilft den Häusern?", GERMAN) == lexical.terms("Hilft es dem Haus?", GERMAN)
    assert lexical.terms("What helps the houses?", GERMAN) != lexical.terms("helps house", GERMAN)
    assert lexical.content_words("¿Qué es la gripe?", SPANISH) == ["gripe"]
    assert lexical.words("不吃药，AB12怎样？", CHINESE) == ["不吃", "吃药", "ab12", "怎样"]
    assert lexical.content_words("怎样降低血压？", CHINESE) == ["样降", "降低", "低血", "血压"]
    assert lexical.words("药", CHINESE) == ["药"]


def test_sentences_and_titles_end_where_the_language_ends_them() -> None:
    """A full stop of Chinese needs no blank behind it."""
    assert lexical.sentences("多喝水。少吃盐！然后呢？", CHINESE) == ["多喝水。", "少吃盐！", "然后呢？"]
    assert lexical.title("高血压：多喝水。少吃盐。", CHINESE) == "高血压："
    assert lexical.sentences("Viel trinken. Wenig Salz!", GERMAN) == ["Viel trinken.", "Wenig Salz!"]
    assert lexical.title("Bluthochdruck senken. Wie das geht", GERMAN) == "Bluthochdruck senken."
