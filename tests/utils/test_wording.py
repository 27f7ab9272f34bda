from __future__ import annotations

import pytest

from rlhf_loop.utils.wording import QuestionWords, numbers_in, question_key, without_frame


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What are the symptoms of Crohn's disease?", "what are the symptoms of crohn’s disease"),
        ("What are the symptoms of Crohn's disease?", "WHAT ARE THE SYMPTOMS OF CROHNS DISEASE?!"),
        ("Sjögren: what causes it?", "Sjo\u0308gren - what causes it"),
        ("Sjögren: what causes it?", "Sjogren… what causes it?"),
        ("Is 5\u00a0mg of ＡＳＰＩＲＩＮ safe?", "is 5 mg of aspirin safe"),
        ("Is aspirin\u200b safe?", "Is aspi\u00adrin safe?"),
        ("Isn't ibuprofen safe?", "Isnt ibuprofen safe?"),
        ("How is diabetes treated?", "Hi doctor, could you please tell me how diabetes is treated? Thanks a lot!"),
        ("How is diabetes treated?", "I was wondering if you know how diabetes is treated."),
        ("What's this?", "whats this"),
        ("什么是糖尿病？", "什么是糖尿病"),
        ("फ़ोन कितना सुरक्षित है?", "फ\u093cोन कितना सुरक्षित है"),
        ("が安全ですか", "か\u3099安全ですか"),
        ("Is it safe ❤\ufe0f?", "is it safe ❤"),
        ("¿Qué es la diabetes?", "que es la diabetes, por favor"),
        ("???", " ??? "),
    ],
)
def test_spellings_of_one_question(one: str, other: str) -> None:
    """Punctuation, apostrophes, case, Unicode form and a polite frame make no other question."""
    assert question_key(one) == question_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is ibuprofen safe?", "Isn't ibuprofen safe?"),
        ("What is type 1 diabetes?", "What is type 2 diabetes?"),
        ("Can I take 5 mg?", "Can I take 50 mg?"),
        ("What causes gout?", "What prevents gout?"),
        ("What is this?", "What is that?"),
        ("👍", "👎"),
        ("कितना", "कितनी"),
        ("मधुमेह का इलाज", "मधुमोह की इलाज"),
        ("ยาแก้ปวด", "ยาแก่ปวด"),
        ("がん", "かん"),
        ("", "?"),
    ],
)
def test_other_questions(one: str, other: str) -> None:
    """A denial, a number or a word with a meaning makes another one."""
    assert question_key(one) != question_key(other)


def test_numbers() -> None:
    """Words with a digit are found in any spelling, sorted and once."""
    assert numbers_in("B12, 5 mg or ５ mg of b12?") == "5 b12"
    assert numbers_in("None here") == ""


def test_words_of_every_script() -> None:
    """Signs of vowels and tones are part of a word, also where two questions taken for one get a wrong answer."""
    for one, other in (("कितना", "कितनी"), ("ยาแก้ปวด", "ยาแก่ปวด"), ("がん", "かん")):
        assert not QuestionWords(one).same_as(QuestionWords(other))
        assert QuestionWords(one).same_as(QuestionWords(f"{one}?"))
    assert QuestionWords("Sjögren's 'cause'").same_as(QuestionWords("Sjo\u0308gren’s cause"))
    assert without_frame("कितना, फ़ोन?") == "कितना फ\u093cोन"
