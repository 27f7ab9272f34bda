"""Best of n: several drafts of an answer in a chat, drawn at once from language models, for others to pick from.

What is asked is passed on as it came; only whatever says how many drafts there are, and of which model, is ours.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from rlhf_loop.answering.drafting import chat_client
from rlhf_loop.config import Settings
from rlhf_loop.errors import ConfigError, LanguageModelError
from rlhf_loop.utils.breaker import Breaker
from rlhf_loop.utils.concurrency import start_thread
from rlhf_loop.utils.text import clause
from rlhf_loop.utils.timed_transport import all_by

logger = logging.getLogger(__name__)

MOST_DRAFTS = 16
#: Drafts that may be under way at once.
_RUNNING = 64
#: Once half of the drafts are there, the others may take that many times as long as those, and a second more.
_PATIENCE, _AT_LEAST_S = 3.0, 1.0
_RETRY_AFTER_S = 5.0
#: What is ours, and not passed on.
_OURS = ("model", "n", "best_of", "stream", "stream_options")
#: What the endpoint refuses by these is about what was asked, and says nothing of what others ask.
_ASKED_WRONGLY = (400, 403, 404, 409, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft as the endpoint gave it; `model` is the one that was asked for, `text` what can be read of it."""

    completion: Mapping[str, Any]
    model: str

    @property
    def choice(self) -> Mapping[str, Any]:
        """The endpoint's first choice, with its message."""
        found: Mapping[str, Any] = self.completion["choices"][0]
        return found

    @property
    def text(self) -> str:
        """The message's text; empty where there is none."""
        content = self.choice["message"].get("content")
        return content if isinstance(content, str) else ""

    @property
    def acts(self) -> bool:
        """True where it calls a tool in place of an answer."""
        return bool(self.choice["message"].get("tool_calls") or self.choice["message"].get("function_call"))


class BestOf:
    """Draws drafts from the endpoint at `llm_url`. Safe to share between threads.

    Raises:
        ConfigError: an endpoint without a model's name, or a temperature that is not valid.
        MissingExtraError: an endpoint without the extra [llm].
    """

    def __init__(self, settings: Settings) -> None:
        self._models = settings.best_of_models or (settings.llm_model,)
        self._temperatures = [_temperature(each) for each in settings.best_of_temperatures]
        self._drafts, self._timeout_s = settings.best_of, settings.llm_timeout_s
        self._client = chat_client(settings, connections=_RUNNING)
        self._breaker = Breaker()
        self._lock = threading.Lock()
        self._running = 0

    def draw(self, asked: Mapping[str, Any]) -> list[Draft]:
        """Return the drafts that came in time, in the order in which they were asked for; at least one.

        Raises:
            LanguageModelError: there is none.
        """
        if not self._breaker.may_try():
            rest = self._breaker.rest_s()
            raise LanguageModelError(
                f"The language model is paused for {rest:.0f} s after repeated failures. Come again then.",
                status=503,
                retry_after_s=rest,
            )
        started = monotonic()
        plans = [plan for plan in self._plans(asked) if self._may_run()]
        if not plans:
            self._breaker.succeeded()
            raise LanguageModelError(
                f"The language model is busy with {_RUNNING} drafts. Come again in a moment.",
                status=503,
                retry_after_s=_RETRY_AFTER_S,
            )
        until = started + self._timeout_s
        futures = [start_thread(partial(self._write, plan, until), name="rlhf-best-of") for plan in plans]
        _wait(futures, started, until)
        drafts: list[Draft] = []
        errors: list[BaseException | None] = []
        for future in futures:
            if not future.done():
                errors.append(None)
            elif error := future.exception():
                errors.append(error)
                logger.warning("A draft failed: %r", error)
            else:
                drafts.append(future.result())
        if drafts:
            self._breaker.succeeded()
            return drafts
        found = self._failure(errors)
        # Else anybody could turn it off for others.
        self._breaker.succeeded() if found.status == 400 else self._breaker.failed()
        raise found

    def wanted(self, asked: Mapping[str, Any]) -> int:
        """Return how many drafts are asked for; fewer come where some fail or are late, or too many are under way."""
        return max(asked.get("best_of") or self._drafts, asked.get("n") or 1)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _plans(self, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the bodies of the requests for the drafts."""
        models = (asked["model"],) if asked.get("model") in self._models else self._models
        rest = {name: value for name, value in asked.items() if name not in _OURS}
        plans = []
        for place in range(self.wanted(asked)):
            plan = {"model": models[place % len(models)], **rest}
            if self._temperatures and plan.get("temperature") is None:
                plan["temperature"] = self._temperatures[place // len(models) % len(self._temperatures)]
            if isinstance(seed := plan.get("seed"), int):
                # By the same one all drafts would be the same.
                plan["seed"] = seed + place
            plans.append(plan)
        return plans

    def _may_run(self) -> bool:
        with self._lock:
            free = self._running < _RUNNING
            self._running += free
            return free

    def _write(self, plan: Mapping[str, Any], until: float) -> Draft:
        try:
            with all_by(until):
                found = self._client.post("/chat/completions", cast_to=object, body=plan)
        finally:
            with self._lock:
                self._running -= 1
        return Draft(_checked(found), str(plan["model"]))

    def _failure(self, errors: Sequence[BaseException | None]) -> LanguageModelError:
        import openai

        refusals = [each for each in errors if isinstance(each, openai.APIStatusError)]
        if len(refusals) == len(errors) and all(each.status_code in _ASKED_WRONGLY for each in refusals):
            return LanguageModelError(f"The language model refuses this: {clause(refusals[0].message)}.", status=400)
        if any(each.status_code == 429 for each in refusals):
            return LanguageModelError(
                "The language model has too many requests at the moment. Come again in a moment.",
                status=429,
                retry_after_s=_RETRY_AFTER_S,
            )
        kinds = dict.fromkeys("no answer in time" if each is None else type(each).__name__ for each in errors)
        return LanguageModelError(
            f"None of {len(errors)} drafts could be had from the language model ({', '.join(kinds)}). Try again; the "
            "server's log says more.",
            status=504 if None in errors else 502,
        )


def _wait(futures: Sequence[Future[Draft]], started: float, until: float) -> None:
    """Wait for the drafts, for those that are late no longer than makes sense."""
    pending = set(futures)
    while pending and (left := until - monotonic()) > 0:
        _, pending = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
        good = sum(future.done() and future.exception() is None for future in futures)
        if 2 * good >= len(futures):
            now = monotonic()
            until = min(until, started + _PATIENCE * (now - started) + _AT_LEAST_S)
            wait(pending, timeout=max(0.0, until - now))
            return


def _checked(found: object) -> Mapping[str, Any]:
    """Return what the endpoint gave, if it is a chat completion.

    Raises:
        ValueError: it is not.
    """
    choices = found.get("choices") if isinstance(found, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(found, dict) or not isinstance(message, dict):
        raise ValueError("The endpoint's answer is not a chat completion. Check RLHF_LLM_URL.")
    content, calls = message.get("content"), message.get("tool_calls") or []
    if isinstance(content, list):
        # Parts, as some endpoints write them: what can be read of them is the text, for streams as well.
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        message["content"] = content = "".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str | None) or not all(isinstance(call, dict) for call in calls):
        raise ValueError("The endpoint's message has neither a text nor calls of tools. Check RLHF_LLM_URL.")
    return found


def _temperature(written: str) -> float:
    try:
        found = float(written)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 2:
        raise ConfigError(
            f"RLHF_BEST_OF_TEMPERATURES has {written!r}, which is not a valid temperature. Give numbers from 0 to 2, "
            "with commas."
        )
    return found
