from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from adapter_models import BAD, GOOD, MIDDLING, QUERY, promote_its_opposite, without_model

from rlhf_loop.adapters.trl import LIMIT, RewardFunction, as_reward, split_query
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker, logit
from rlhf_loop.reward import RewardModel


def user(words: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": words}]


def assistant(words: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": words}]


def test_a_better_answer_has_a_higher_reward(ranker: Ranker) -> None:
    """In the order in which they came, as texts and as messages, whatever other columns there are."""
    reward, logged = RewardFunction(ranker=ranker), dict[str, float]()
    texts = reward([QUERY] * 3, [BAD, GOOD, MIDDLING], log_metric=logged.__setitem__, topic=["a", "b", "c"])
    assert texts[1] > texts[2] > texts[0]
    assert reward([user(QUERY)] * 3, [assistant(each) for each in (BAD, GOOD, MIDDLING)]) == texts
    assert logged["rlhf_loop/words"] > 10
    assert [answer.response for answer in reward.seen] == [BAD, GOOD, MIDDLING] * 2
    assert reward.__name__ == "rlhf_loop"


def test_rewards_are_log_odds_or_probabilities(ranker: Ranker) -> None:
    """Log-odds are cut, so that one blank answer does not outweigh all others."""
    logits = RewardFunction(ranker=ranker)([QUERY] * 2, [GOOD, " "])
    probabilities = RewardFunction(ranker=ranker, scale="probability")([QUERY] * 2, [GOOD, " "])
    assert logits == [pytest.approx(logit(probabilities[0])), -LIMIT]
    assert (probabilities[1], as_reward(1.0), as_reward(0.5)) == (0.0, LIMIT, 0.0)


def test_alone_no_reward_depends_on_the_others(ranker: Ranker) -> None:
    """What is drawn beside it may be anything."""
    alone = RewardFunction(ranker=ranker, together=False)
    found = alone([QUERY] * 2, [MIDDLING, GOOD])[0]
    assert found == pytest.approx(alone([QUERY] * 2, [MIDDLING, BAD])[0], abs=1e-5)
    assert found != pytest.approx(RewardFunction(ranker=ranker)([QUERY] * 2, [MIDDLING, GOOD])[0], abs=1e-3)
    assert alone([QUERY, "Anything else?"], [GOOD, GOOD])[0] == pytest.approx(alone([QUERY], [GOOD])[0], abs=1e-5)


@pytest.mark.parametrize(
    ("completion", "blank"),
    [
        (f"<think>Burns?</think>\n{GOOD}", False),
        ("<think>Burns? I wonder", True),
        ([], True),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], True),
        ([*assistant("Wait."), {"role": "tool", "content": "x"}, *assistant(GOOD)], False),
    ],
)
def test_only_the_answer_is_rewarded(ranker: Ranker, completion: Any, blank: bool) -> None:
    """Not what a policy thought, nor its calls of tools."""
    [reward] = RewardFunction(ranker=ranker)([QUERY], [completion])
    assert reward == (-LIMIT if blank else RewardFunction(ranker=ranker)([QUERY], [GOOD])[0])


def test_the_model_that_is_live_then_rewards(ranker: Ranker, reward_model: RewardModel) -> None:
    """A promotion changes the next call."""
    reward = RewardFunction(ranker=ranker)
    before = reward([QUERY] * 2, [GOOD, BAD])
    promote_its_opposite(ranker, reward_model)
    after = reward([QUERY] * 2, [GOOD, BAD])
    assert (before[0] > before[1], after[0] > after[1]) == (True, False)


def test_what_cannot_reward_says_why(tmp_path: Path, encoder: TextEncoder) -> None:
    """There is no model, or an option is not valid."""
    reward = RewardFunction(ranker=without_model(tmp_path, encoder))
    with pytest.raises(ModelFileError, match="no usable reward model"):
        reward([QUERY], [GOOD])
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        reward([QUERY] * 2, [GOOD])
    for options, words in (({"scale": "stars"}, "'stars'"), ({"without_model": "incoming"}, "no reward")):
        with pytest.raises(ValueError, match=words):
            RewardFunction(**options)  # type: ignore[arg-type]


def test_it_goes_to_other_processes(ranker: Ranker) -> None:
    """Trainers send it there; what it has seen comes along, the model does not."""
    reward = RewardFunction(ranker=ranker)
    reward([QUERY], [GOOD])
    assert pickle.loads(pickle.dumps(reward)).seen == reward.seen


_CHATML = f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUERY}<|im_end|>\n<|im_start|>assistant\n"
_LLAMA = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    f"{QUERY}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_GEMMA = f"<bos><start_of_turn>user\n{QUERY}<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.parametrize(
    ("template", "end"),
    [
        (_CHATML, "<|im_end|>"),
        (_LLAMA, "<|eot_id|>"),
        (_GEMMA, "<end_of_turn>\n"),
        (f"<s>[INST] {QUERY} [/INST]", "</s>"),
        (f"<|user|>\n{QUERY}</s>\n<|assistant|>\n", "</s>"),
    ],
    ids=["ChatML", "Llama 3", "Gemma", "Mistral", "Zephyr"],
)
def test_a_query_of_openrlhf_is_taken_apart(template: str, end: str, with_prompt: bool) -> None:
    """By the prompt that comes along, or by the turns of the template; marks are no words."""
    assert split_query(f"{template}{GOOD}{end}", template if with_prompt else None) == (QUERY, GOOD)


def test_a_query_of_several_turns_has_them_all_in_the_question() -> None:
    """As an import of chats has them; without a template only the prompt tells."""
    earlier = f"<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n{_CHATML}"
    question, answer = split_query(f"{earlier}{GOOD}<|im_end|>")
    assert question == f"user: Hello\n\nassistant: Hi\n\nuser: {QUERY}"
    assert answer == GOOD
    assert split_query(f"{QUERY} {GOOD}", QUERY) == (QUERY, GOOD)
    with pytest.raises(ValueError, match="Send prompts"):
        split_query(f"{QUERY} {GOOD}")
