"""Questions as search engines want them: a few words that matter, without anything that could be an operator."""

from __future__ import annotations

from collections import Counter

from rlhf_loop.reward.lexical import content_words, words

#: CirrusSearch refuses queries of more than 300 characters; this leaves room for what joins the words.
_CHARS = 200
_LONGEST_WORD = 50


def search_words(question: str, *, at_most: int) -> list[str]:
    """Return the words that carry the question's meaning, in its order, casefolded, letters and digits only.

    Of a long question, those that it repeats come first, then the longest. Where no word carries meaning, all count.
    """
    found = [word[:_LONGEST_WORD] for word in content_words(question) or dict.fromkeys(words(question))]
    counts = Counter(word[:_LONGEST_WORD] for word in words(question))
    chosen: list[str] = []
    for word in sorted(dict.fromkeys(found), key=lambda word: (-counts[word], -len(word))):
        if len(chosen) < at_most and sum(map(len, chosen)) + len(word) <= _CHARS:
            chosen.append(word)
    return [word for word in dict.fromkeys(found) if word in chosen]


def longest_first(chosen: list[str]) -> list[str]:
    """Return the same words, the longest first: of two words, it is mostly the rarer one."""
    return sorted(chosen, key=lambda word: -len(word))
