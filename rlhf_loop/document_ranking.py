"""The documents of somebody else's search, ranked: what stands behind the rerank API, whatever its dialect."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Ranking
from rlhf_loop.errors import ConfigError, ModelFileError
from rlhf_loop.ranking import Ranker

logger = logging.getLogger(__name__)

#: Of a document in which there is nothing to read.
_NOTHING = 0.0
#: Probabilities this near to 0 or 1 have no finite logit that would say more.
_SURE = 1e-12


class WithoutModel(StrEnum):
    """What becomes of documents while there is no model that could rank them."""

    ERROR = "error"
    INCOMING = "incoming"


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """A document by its index in the list that was given, with a score in [0, 1]."""

    index: int
    score: float


@dataclass(frozen=True, slots=True)
class DocumentRanking:
    """Documents best first, by the model of this version.

    Without one they have their incoming order, and a score says nothing but the place: 1, 1/2, 1/3 and so on, so that
    whoever sorts by it gets that order again.
    """

    documents: tuple[ScoredDocument, ...]
    model_version: str | None
    #: Tokens of the query, once, and of all documents; 0 where nothing was read.
    tokens: int = 0

    def raw(self, document: ScoredDocument) -> float:
        """Return the score before it was a probability: its logit; without a model as it is."""
        return document.score if self.model_version is None else logit(document.score)


def without_model(settings: Settings) -> WithoutModel:
    """Tell what the settings want while there is no model.

    Raises:
        ConfigError: they name something that there is not.
    """
    try:
        return WithoutModel(settings.rerank_without_model)
    except ValueError:
        raise ConfigError(
            f"RLHF_RERANK_WITHOUT_MODEL={settings.rerank_without_model!r} is not known. "
            f"Choose from: {', '.join(WithoutModel)}."
        ) from None


def rank_documents(
    ranker: Ranker | None,
    query: str,
    documents: Sequence[str],
    *,
    otherwise: WithoutModel = WithoutModel.ERROR,
    longest: int | None = None,
    count: bool = False,
) -> DocumentRanking:
    """Put the best document first; ties keep the incoming order, and a document without any text comes last.

    Args:
        ranker: what ranks; None where its encoder cannot be loaded.
        query: not blank.
        documents: may be empty texts, and the same text several times.
        otherwise: what to do without a model, be it missing or unusable.
        longest: tokens that are read of each document; by default all.
        count: have the tokens counted, which takes a little while for texts that are new.

    Raises:
        ModelFileError: there is no model to rank by, and `otherwise` does not say what else to do.
    """
    readable = [index for index, text in enumerate(documents) if text.strip()]
    texts = [_beginning(ranker, documents[index], longest) for index in readable]
    ranking = _document_ranking(ranker, query, texts, otherwise)
    if ranking is None:
        places = range(len(documents))
        return DocumentRanking(tuple(ScoredDocument(place, 1 / (place + 1)) for place in places), None)
    ranked = [ScoredDocument(readable[of.position], of.score or _NOTHING) for of in ranking.candidates]
    seen = set(readable)
    rest = [ScoredDocument(index, _NOTHING) for index in range(len(documents)) if index not in seen]
    return DocumentRanking((*ranked, *rest), ranking.model_version, _tokens(ranker, [query, *texts]) if count else 0)


def logit(probability: float) -> float:
    """Return log(p / (1 - p)), finite for any probability."""
    kept = min(max(probability, _SURE), 1 - _SURE)
    return math.log(kept) - math.log1p(-kept)


def _document_ranking(
    ranker: Ranker | None, query: str, texts: Sequence[str], otherwise: WithoutModel
) -> Ranking | None:
    """Rank by the model; None where there is none, and that is allowed."""
    trouble: ModelFileError | None = None
    if ranker is not None:
        try:
            ranking = ranker.ranking(query, [Candidate(text) for text in texts])
        except ModelFileError as error:
            logger.error("No documents are ranked: %s", error)
            trouble = error
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library written in Rust is no Exception
            raise RuntimeError(f"A library failed: {type(error).__name__}.") from error
        else:
            if ranking.model_version is not None:
                return ranking
    if otherwise is WithoutModel.INCOMING:
        return None
    # Without the path, and without the reason: whoever asked may be anybody; the log has them.
    raise ModelFileError(
        "There is no usable reward model here, so nothing can be ranked. Train one (rlhf-loop train), or have the "
        "incoming order kept meanwhile: RLHF_RERANK_WITHOUT_MODEL=incoming."
    ) from trouble


def _beginning(ranker: Ranker | None, text: str, longest: int | None) -> str:
    if longest is None or ranker is None or ranker.encoder is None:
        return text
    return ranker.encoder.beginning(text, tokens=longest)


def _tokens(ranker: Ranker | None, texts: Sequence[str]) -> int:
    return 0 if ranker is None or ranker.encoder is None else sum(ranker.encoder.count_tokens(texts))
