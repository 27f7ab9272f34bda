"""The live model as a reward of TRL's trainers: GRPO, RLOO and whatever else takes `reward_funcs`.

    from rlhf_loop.adapters.trl import RewardFunction
    from trl import GRPOTrainer

    trainer = GRPOTrainer(model="...", reward_funcs=RewardFunction(), train_dataset=questions)

Written against TRL 1.16 (`trl/trainer/grpo_trainer.py`, `_calculate_rewards`), which is not needed here.
`split_query` is for OpenRLHF (OpenRLHF/OpenRLHF, `openrlhf/utils/agent.py`, `_fetch_rewards_via_http`), which asks over
HTTP with the prompt and the answer in one text, as the chat template of the policy wrote them.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rlhf_loop.adapters.ranked import Fallback, checked
from rlhf_loop.errors import ModelFileError
from rlhf_loop.exchange.formats.messages import answer_text, prompt_text
from rlhf_loop.ranking import Ranker, WithoutModel, logit, rank_documents
from rlhf_loop.ranking import default_ranker as process_ranker
from rlhf_loop.utils.text import blank

#: A question or an answer: a text, or TRL's messages.
Conversation: TypeAlias = str | Sequence[Mapping[str, Any]]
#: Log-odds beyond are cut: one blank answer would have an advantage a hundred times that of all others.
LIMIT = 8.0
_KEPT = 2_000
#: What a policy thought is not its answer; nor is a thought that never ended.
_THOUGHT = re.compile(r"\A\s*<think>(?:.*?</think>\s*|.*\Z)", re.DOTALL)
#: Where a turn begins in the templates of Qwen and others (ChatML), Llama 3, Gemma, Zephyr and Phi.
_TURN = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|)(system|developer|user|assistant|model)"
    r"(?:<\|end_header_id\|>|\|>)?[ \t]*\n?"
)
_MARK = re.compile(r"<\|[^|<>\n]{1,60}\|>|</?s>|<(?:bos|eos|pad|unk|end_of_turn|start_of_turn)>|<<?/?SYS>>?")
#: Mistral's and Llama 2's.
_ASKED, _ANSWERED = "[INST]", "[/INST]"


@dataclass(frozen=True, slots=True)
class RewardedAnswer:
    """An answer of a policy with the probability that an expert would rate it 4 or 5."""

    prompt: str
    response: str
    score: float


class RewardFunction:
    """A reward function by the live model; each call sees the model that is live then.

    Answers to one question that come in one call are scored together, as the model has learned it; with
    `together=False` pointwise, so that no reward depends on what else was drawn. Rewards are log-odds between -8
    and 8, or with `scale="probability"` probabilities. The last 2,000 answers are kept, for
    `monitoring.gaming.policy_drift`.

    Raises:
        ValueError: an option is not valid.
    """

    def __init__(
        self,
        *,
        ranker: Ranker | None = None,
        scale: Literal["logit", "probability"] = "logit",
        together: bool = True,
        without_model: Fallback = "error",
    ) -> None:
        checked(top=None, threshold=None, without_model=without_model)
        if scale not in ("logit", "probability"):
            raise ValueError(f"scale={scale!r} is not known. Choose from: logit, probability.")
        if without_model == "incoming":
            raise ValueError("without_model='incoming' is an order and no reward. Choose from: error, prior.")
        self.__name__ = "rlhf_loop"
        self._ranker = ranker
        self._scale = scale
        self._together = together
        self._without_model = WithoutModel(without_model)
        self._lock = threading.Lock()
        self._seen: deque[RewardedAnswer] = deque(maxlen=_KEPT)

    def __call__(
        self,
        prompts: Sequence[Conversation],
        completions: Sequence[Conversation],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: object,
    ) -> list[float]:
        """Return a reward for each completion; other columns of the dataset, which TRL passes as well, mean nothing.

        Raises:
            ValueError: prompts and completions are not as many, or one is neither a text nor messages.
            ModelFileError: there is no usable model.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions. Pass as many of both.")
        asked = [prompt_text("prompt", _plain(prompt)) for prompt in prompts]
        answers = [_answer(completion) for completion in completions]
        scores = scored(
            self._ranker or process_ranker(), asked, answers, together=self._together, otherwise=self._without_model
        )
        with self._lock:
            self._seen.extend(map(RewardedAnswer, asked, answers, scores))
        if log_metric is not None and scores:
            # What a policy that games the reward changes first.
            log_metric("rlhf_loop/probability", sum(scores) / len(scores))
            log_metric("rlhf_loop/words", sum(len(answer.split()) for answer in answers) / len(answers))
        return [as_reward(score) for score in scores] if self._scale == "logit" else scores

    @property
    def seen(self) -> list[RewardedAnswer]:
        """The answers that were scored last."""
        with self._lock:
            return list(self._seen)

    def __getstate__(self) -> dict[str, Any]:
        # Trainers send it to other processes, each of which has a ranker of its own.
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_ranker")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _ranker=None)


def scored(
    ranker: Ranker | None,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    together: bool = True,
    otherwise: WithoutModel = WithoutModel.ERROR,
) -> list[float]:
    """Return the probability of each answer, pointwise if not `together`; one that is blank, or to a blank question: 0.

    Raises:
        ModelFileError: there is no usable model, or it is switched off.
    """
    groups: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(place)
    scores = [0.0] * len(answers)
    for prompt, places in groups.items():
        if blank(prompt):
            continue
        texts = [answers[place] for place in places]
        ranking = rank_documents(ranker, prompt, texts, otherwise=otherwise, pointwise=not together)
        if ranking.model_version is None:
            raise ModelFileError("The reward model is switched off, so nothing can be scored. See: rlhf-loop alarms")
        for document in ranking.documents:
            scores[places[document.index]] = document.score
    return scores


def as_reward(score: float) -> float:
    """Return a probability as log-odds, cut where one answer would outweigh all others."""
    return max(-LIMIT, min(LIMIT, logit(score)))


def _plain(value: Conversation) -> Any:
    return value if isinstance(value, str) else [dict(message) for message in value]


def _answer(completion: Conversation) -> str:
    # A policy may say nothing, or only call tools; of several messages the last one answers.
    if isinstance(completion, str):
        return _THOUGHT.sub("", completion)
    said = [message for message in completion if message.get("role") == "assistant" and message.get("content")]
    return _THOUGHT.sub("", answer_text("completion", [dict(said[-1])])) if said else ""


def split_query(query: str, prompt: str | None = None) -> tuple[str, str]:
    """Return question and answer of a text that has both, by the prompt it begins with or by its template's turns.

    Raises:
        ValueError: there is no prompt, and nothing tells where the answer begins.
    """
    before, after = None, ""
    if prompt and prompt.strip() in query:
        before, _, after = query.partition(prompt.strip())
        before = prompt
    elif begins := [turn.end() for turn in _TURN.finditer(query) if turn[1] in ("assistant", "model")]:
        before, after = query[: begins[-1]], query[begins[-1] :]
    elif _ANSWERED in query:
        before, _, after = query.rpartition(_ANSWERED)
    if before is None:
        raise ValueError(
            f"query begins with {query[:60]!r}, and neither prompts nor the marks of a chat template tell where its "
            "answer begins. Send prompts, as OpenRLHF does from version 0.6 on."
        )
    return _asked(before), _THOUGHT.sub("", _MARK.sub("", after)).strip()


def _asked(prompt: str) -> str:
    turns = list(_TURN.finditer(prompt))
    ends = [*(turn.start() for turn in turns[1:]), len(prompt)][: len(turns)]
    messages = [
        {"role": "assistant" if turn[1] == "model" else turn[1], "content": _said(prompt[turn.end() : end])}
        for turn, end in zip(turns, ends, strict=True)
    ]
    if not messages and _ASKED in prompt:
        for part in prompt.split(_ASKED)[1:]:
            question, _, answer = part.partition(_ANSWERED)
            messages += [{"role": "user", "content": _said(question)}, {"role": "assistant", "content": _said(answer)}]
    said = [message for message in messages if message["content"]]
    return prompt_text("prompt", said) if said else _said(prompt)


def _said(text: str) -> str:
    return _MARK.sub("", text).strip()
