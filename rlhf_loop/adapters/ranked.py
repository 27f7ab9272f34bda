"""The common part of all adapters: check the options, rank the texts, and choose those that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rlhf_loop.errors import ModelFileError
from rlhf_loop.ranking import Ranker, WithoutModel, default_ranker, rank_documents

#: What to do while there is no model; `WithoutModel` as users of the adapters write it.
Fallback: TypeAlias = Literal["error", "incoming", "prior"]


@dataclass(frozen=True, slots=True)
class RankedText:
    """A text that is kept, by its index in the list that was given; without a model it has no score.

    `interaction_id` is the id by which it can be rated, None where the ranking is not recorded.
    """

    index: int
    score: float | None
    interaction_id: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The id as an adapter adds it to a text's metadata: nothing where there is none."""
        return {} if self.interaction_id is None else {"interaction_id": self.interaction_id}


def ranked(
    query: str,
    texts: Sequence[str | None],
    *,
    ranker: Ranker | None = None,
    top: int | None = None,
    threshold: float | None = None,
    without_model: Fallback = "error",
    door: str | None = None,
) -> list[RankedText]:
    """Return what an adapter hands on, best first; ties keep the incoming order.

    Args:
        query: the question; may be blank only where there are no texts.
        texts: None and blank ones have the score 0 and come last. The same text several times is ranked as often.
        ranker: by default the one of the process, made from the environment's `RLHF_*` variables.
        top: keep no more than the best so many.
        threshold: keep only what has this score; without a model all is kept, as nothing has one.
        without_model: "error", "incoming" for the incoming order, or "prior" for that of the prior, whose scores are
            not calibrated.
        door: the adapter's name, under which the ranking is recorded, if the ranker records any; None records none.

    Raises:
        ValueError: one of the arguments is not valid.
        ModelFileError: there is no usable model, and `without_model` is "error".
        ConfigError, EncoderError: at the first call, if the settings or the encoder's weights cannot be used.
    """
    checked(top=top, threshold=threshold, without_model=without_model)
    if not texts:
        return []
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"The query must be a text that is not empty, but it is {query!r}. Pass the user's question.")
    ranker = ranker or default_ranker()
    try:
        found = rank_documents(ranker, query, [text or "" for text in texts], otherwise=WithoutModel(without_model))
    except ModelFileError as error:
        if isinstance(error.__cause__, ModelFileError):
            raise error.__cause__ from None  # it names file and reason, which only strangers must not read
        raise ModelFileError(
            f"There is no reward model at {ranker.model_path} yet, so nothing can be ranked. Train one (rlhf-loop "
            "train), set RLHF_MODEL_PATH, or have the incoming order kept meanwhile: without_model='incoming'."
        ) from None
    judged = found.model_version is not None
    kept = [each for each in found.documents if threshold is None or not judged or each.score >= threshold][:top]
    recorded = None
    if door is not None:
        candidates = found.candidates([text or "" for text in texts])
        recorded = ranker.record(query, candidates, model_version=found.model_version, door=door, returned=len(kept))
    ids = recorded.interaction_ids if recorded else {}
    return [RankedText(each.index, each.score if judged else None, ids.get(each.index)) for each in kept]


def checked(*, top: int | None, threshold: float | None, without_model: Fallback) -> None:
    """Look at an adapter's options before there is anything to rank.

    Raises:
        ValueError: one of them is not valid.
    """
    if top is not None and top < 1:
        raise ValueError(f"The best {top} of the documents cannot be kept. Keep at least 1, or None for all of them.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold={threshold!r} is not valid: scores are probabilities. Give it from 0 to 1, or None."
        )
    if without_model not in tuple(WithoutModel):
        raise ValueError(f"without_model={without_model!r} is not known. Choose from: {', '.join(WithoutModel)}.")
