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
        ("مَا هُوَ السُّكَّرِيّ؟", "ما هو السكـــري"),
        ("מַהִי סוּכֶּרֶת?", "מהי סוכרת"),
        ("Œdème : que faire ?", "oedeme, que faire?"),
        ("मधुमेह क्या है।", "मधुमेह क्या है?"),
        ("Was hilft bei Migräne?", "Können Sie mir bitte sagen, was bei Migraene hilft?"),
        ("Was hilft bei Migräne?", "Guten Tag, ich wüsste gern: was hilft bei MIGRÄNE?! Vielen Dank im Voraus"),
        ("Wie wird Gicht behandelt?", "Sehr geehrte Frau Doktor, wie Gicht behandelt wird, würde ich gerne wissen."),
        ("¿Qué es la gota?", "Buenos días, ¿podría decirme qué es la gota? Muchas gracias"),
        ("¿Cuáles son los síntomas de la gripe?", "Me gustaría saber los sintomas de la gripe"),
        ("Qu’est-ce que l’asthme ?", "Bonjour docteur, pourriez-vous me dire ce qu'est l'asthme, s'il vous plaît ?"),
        ("Comment traite-t-on la goutte ?", "J'aimerais savoir comment on traite la goutte. Merci d'avance"),
        ("Cos'è l'asma?", "Buongiorno, vorrei sapere cos’è l’asma, grazie mille"),
        ("O que é a gota?", "Olá, poderia me dizer o que é a gota? Obrigado"),
        ("Wat is jicht?", "Goedemorgen, kunt u mij vertellen wat jicht is? Alvast bedankt"),
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
        ("Hilft Kaffee bei Migräne?", "Hilft Kaffee nicht bei Migräne?"),
        ("Was tun vor der Operation?", "Was tun nach der Operation?"),
        ("¿Se cura con antibióticos?", "¿Se cura sin antibióticos?"),
        ("¿Quién puede donar sangre?", "¿Dónde puedo donar sangre?"),
        ("Peut-on guérir du diabète ?", "Ne peut-on pas guérir du diabète ?"),
        ("Pourquoi tousse-t-on ?", "Quand tousse-t-on ?"),
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


def test_a_question_is_read_in_its_own_language() -> None:
    """It is that of most words without a meaning, else the given one: endings are cut off as it has them."""
    assert question_key("Behandlung Gicht", language="de") == question_key("Welche Behandlungen der Gicht gibt es?")
    assert question_key("Behandlung Gicht") != question_key("Welche Behandlungen der Gicht gibt es?")
    assert question_key("Was sind Ursachen der Gicht?") == question_key("Was ist die Ursache der Gicht?", language="es")
    assert question_key("Лечение гриппа", language="ru") == question_key("лечения грипп!", language="ru")
    assert without_frame("Können Sie mir sagen, was Gicht ist?") == "gicht"
