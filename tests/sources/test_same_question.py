from __future__ import annotations

import pytest

from rlhf_loop.sources.approved_corrections import QuestionWords


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What are the symptoms of flu?", "flu symptoms"),
        ("What are the symptoms of flu?", "Please tell me about the signs and symptoms of the flu."),
        ("How is migraine treated?", "What are the treatments for migraine?"),
        ("How is migraine treated?", "Which therapies are there for migraines?"),
        ("What is type 1 diabetes?", "Diabetes type 1"),
        ("What causes Crohn's disease?", "What are the causes of Crohn disease?"),
        ("Why shouldn't I take aspirin?", "Why should I not take aspirin?"),
        ("What is a stroke?", "What is stroke"),
    ],
)
def test_the_same_in_other_words(question: str, other: str) -> None:
    """Function words, plurals, order and the commonest synonyms do not make another question."""
    assert QuestionWords(question).same_as(QuestionWords(other))
    assert QuestionWords(other).same_as(QuestionWords(question))


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What is type 1 diabetes?", "What is type 2 diabetes?"),
        ("What is type I diabetes?", "What is type II diabetes?"),
        ("How much paracetamol may I take?", "How much ibuprofen may I take?"),
        ("Can I take 5 mg of warfarin?", "Can I take 10 mg of warfarin?"),
        ("Can I take aspirin?", "Can I not take aspirin?"),
        ("Can I take aspirin?", "Can't I take aspirin?"),
        ("Is fever with a rash dangerous?", "Is fever without a rash dangerous?"),
        ("What is the treatment of migraine?", "What is the treatment of migraine in pregnancy?"),
        ("What is the treatment of migraine?", "What is migraine?"),
        ("Does diabetes cause depression?", "Does depression cause diabetes?"),
        ("How do I switch from warfarin to apixaban?", "How do I switch from apixaban to warfarin?"),
        ("Should I eat before surgery?", "Should I eat after surgery?"),
        ("Can I stop metformin?", "Should I stop metformin?"),
        ("When should I take metformin?", "How should I take metformin?"),
        ("Do I have diabetes?", "What is diabetes?"),
        ("What is shingles?", "What can I do about shingles?"),
        ("What is hepatitis?", "What is hepatitis A?"),
        ("what are vitamins", "what is vitamin a"),
        ("What is Tietz syndrome?", "What is Tietze syndrome?"),
        ("What raises blood pressure?", "What lowers blood pressure?"),
        ("What is hypothyroidism?", "What is hyperthyroidism?"),
        ("What does prednisone do?", "What does prednisolone do?"),
    ],
)
def test_another_question(question: str, other: str) -> None:
    """A number, a denial, a drug, a disease, a direction or whom it is about makes another question."""
    assert not QuestionWords(question).same_as(QuestionWords(other))
    assert not QuestionWords(other).same_as(QuestionWords(question))


def test_without_a_word_of_meaning() -> None:
    """What says nothing is like nothing, not even like itself; another language is compared word by word."""
    assert not QuestionWords("What is it?").same_as(QuestionWords("What is it?"))
    assert QuestionWords("Was hilft bei Migräne?").same_as(QuestionWords("was hilft bei migräne"))
    assert not QuestionWords("Was hilft bei Migräne?").same_as(QuestionWords("Was hilft gegen Migräne?"))
