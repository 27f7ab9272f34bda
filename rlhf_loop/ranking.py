"""Re-ranking: the best candidate first, by the model that is live at this moment.

`Ranker` and `rerank_candidates` rank the answers to a question; `rank_documents` ranks those of somebody else's search,
for the rerank API and the adapters.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Question, RankedCandidate, Ranking, RecordedRanking
from rlhf_loop.errors import ConfigError, EncoderError, ModelFileError
from rlhf_loop.utils.concurrency import Worker, trim_memory
from rlhf_loop.utils.languages import language_named
from rlhf_loop.utils.text import blank, unstorable

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder
    from rlhf_loop.reward.model_file import LoadedModel, RewardModel
    from rlhf_loop.store.recording import Recorder

    _Live = tuple[LoadedModel, TextEncoder]

logger = logging.getLogger(__name__)

#: The score of a text in which there is nothing to read.
_NOTHING = 0.0
_Stamp = tuple[tuple[int, int, int], tuple[int, int, int] | None]
_Entry = TypeVar("_Entry")

#: A recipe looks texts up in up to five calls; whatever is new in one of them is found by an attempt of its own.
_ATTEMPTS = 6


class Ranker:
    """A ranker of candidates by the reward model at `settings.model_path`. Safe to share between threads.

    The encoder is loaded once, at the first ranking. A model file that appears or changes is picked up by the next
    ranking; one that then turns out damaged is reported in the log, and the last good model stays.

    `record` is the share of the rankings by `rerank_candidates` and the adapters that is recorded in the settings'
    database, 0 to 1, by default that of the settings (`RLHF_RECORD_RANKINGS`). While the model is switched off
    (`rlhf-loop models off`) all keep their incoming order, unless it ranks `even_if_off`, to look into the model.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        encoder: TextEncoder | None = None,
        record: float | None = None,
        even_if_off: bool = False,
    ) -> None:
        if not isinstance(settings, Settings):
            raise ValueError(
                f"The settings are a {type(settings).__name__}. Pass Settings(...) or Settings.from_env()."
            )
        # Whatever ranks, a setting with a typing mistake is not passed over.
        language_named(settings.language)
        self._share = settings.record_rankings if record is None else checked_share("record", record)
        self._recorder: Recorder | None = None
        self._even_if_off = even_if_off
        self._settings = settings
        self._encoder = encoder
        self._lock = threading.Lock()
        self._queue: Worker | None = None
        self._process = os.getpid()
        self._loaded: LoadedModel | None = None
        self._stamp: _Stamp | None = None
        self._prior: LoadedModel | None = None
        self._warned = False

    @property
    def model_version(self) -> str | None:
        """The name of the live model, or of the prior where that ranks meanwhile; None while nothing does."""
        live = self._live()
        return live[0].version if live else None

    @property
    def model_path(self) -> Path:
        """The file that it looks at for the live model."""
        return self._settings.model_path

    @property
    def off(self) -> bool:
        """True while the model is switched off (`rlhf-loop models off`), so that nothing ranks."""
        return not self._even_if_off and is_off(self._settings.model_path)

    @property
    def encoder(self) -> TextEncoder | None:
        """The encoder, None before the first ranking of a ranker that loads its own."""
        return self._encoder

    def __deepcopy__(self, memo: object) -> Ranker:
        # Frameworks copy what holds one; a second encoder would bring nothing but its memory.
        return self

    def rank(self, query: str, candidates: Sequence[Candidate]) -> list[RankedCandidate]:
        """Return the candidates best first; without a model in the incoming order, with the score None.

        With `rerank_without_model="prior"` in the settings the prior ranks until there is a model; its scores are in
        [0, 1], but not calibrated.

        Raises:
            ValueError: an empty query, or a candidate without text.
            ModelFileError: there is a model file, but it cannot be trusted, and no good one was loaded before.
        """
        return list(self.ranking(query, candidates).candidates)

    def ranking(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        """Return what `rank` does, with the version of the very model that did it.

        With `pointwise` a score does not depend on the other candidates; a model of earlier versions has none such.

        Raises:
            ValueError, ModelFileError: see `rank`.
        """
        return self._ranking(query, candidates, self._live(), pointwise=pointwise)

    def ranking_by_prior(self, query: str, candidates: Sequence[Candidate], *, pointwise: bool = False) -> Ranking:
        """Return the ranking by the prior, whether or not there is a model, unless it is switched off.

        Raises:
            ValueError: see `rank`.
            ModelFileError: the prior is of another encoder.
        """
        with self._lock:
            live = None if self.off else self._by_prior()
        return self._ranking(query, candidates, live, pointwise=pointwise)

    def _ranking(self, query: str, candidates: Sequence[Candidate], live: _Live | None, *, pointwise: bool) -> Ranking:
        _check_query(query)
        if not isinstance(candidates, Iterable):
            raise ValueError(f"The candidates are a {type(candidates).__name__}. Pass a list of Candidate(text).")
        candidates = list(candidates)
        for position, candidate in enumerate(candidates):
            if not isinstance(candidate, Candidate):
                raise ValueError(
                    f"Candidate {position} is a {type(candidate).__name__}. Pass Candidate(text), or use "
                    "rerank_candidates, which takes texts."
                )
            _check_text(candidate.text, position)
        ranked = self._in_turn(live, query, candidates, finish=list, pointwise=pointwise)
        return Ranking(tuple(ranked), live[0].version if live else None)

    def record(
        self,
        query: str,
        ranked: Iterable[RankedCandidate],
        *,
        model_version: str | None,
        door: str,
        returned: int | None = None,
    ) -> RecordedRanking | None:
        """Record a ranking of this process's own, if chance says so; return what is recorded, None for nothing.

        `returned` is how many of them were handed on.
        """
        if not is_drawn(self._share):
            return None
        ranking = to_record(
            query,
            ranked,
            model_version=model_version,
            door=door,
            most=self._settings.record_documents,
            returned=returned,
        )
        if ranking is None or not self._recording().record_ranking(ranking):
            return None
        return ranking

    def _recording(self) -> Recorder:
        # Imported here: whoever only ranks need not wait for SQLAlchemy.
        from rlhf_loop.store.recording import Recorder

        with self._lock:
            if self._recorder is None:
                self._recorder = Recorder(self._settings)
                # A program may end right behind its ranking; what is not written then waits for the next one.
                atexit.register(self._recorder.settle)
            return self._recorder

    def related(self, query: str, candidates: Sequence[Candidate]) -> bool:
        """Tell whether any candidate is nearer to the question than questions are that have nothing in common.

        Raises:
            ModelFileError, EncoderError: as by `rank`.
        """
        live = self._live()
        texts = [candidate.text for candidate in candidates if not blank(candidate.text)]
        return live is None or live[1].related(query, texts)

    def _in_turn(
        self,
        live: _Live | None,
        query: str,
        candidates: Sequence[Candidate],
        *,
        finish: Callable[[list[RankedCandidate]], list[_Entry]],
        pointwise: bool = False,
    ) -> list[_Entry]:
        """Rank, and make of the result what the caller wants; in the worker, too, which has the processor then."""
        if live is None or not candidates:
            return finish(incoming_order(candidates))
        from rlhf_loop.encoders.text_encoder import UnknownTextError

        loaded, encoder = live
        if pointwise and not loaded.model.is_pointwise:
            logger.warning("The model %s has no scores for batches. Train anew: rlhf-loop train", loaded.version)
        known = encoder.only_known()
        for _ in range(_ATTEMPTS):
            try:
                return self._worker().run(
                    lambda: finish(_ranked(query, candidates, loaded.model, known, pointwise=pointwise))
                )
            except UnknownTextError as unknown:
                # To embed is other work, on all cores and outside of Python: it must not hold up who needs none.
                unknown.compute()
        # The cache does not keep what it is given, be it full of others' texts or out of order.
        return finish(_ranked(query, candidates, loaded.model, encoder, pointwise=pointwise))

    def _dicts(self, query: str, given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Do what `rerank_candidates` does, with candidates that are checked."""
        live, seen = self._live(), list[RankedCandidate]()

        def finish(ranked: list[RankedCandidate]) -> list[dict[str, Any]]:
            seen[:] = ranked
            return [{**given[of.position], "score": of.score, "rank": of.rank} for of in ranked]

        found = self._in_turn(live, query, [Candidate(each["text"]) for each in given], finish=finish)
        version = live[0].version if live else None
        if recorded := self.record(query, seen, model_version=version, door="rerank_candidates", returned=len(seen)):
            ids = recorded.interaction_ids
            found = [
                {**each, "interaction_id": ids[of.position]} if of.position in ids else each
                for of, each in zip(seen, found, strict=True)
            ]
        return found

    def _worker(self) -> Worker:
        with self._lock:
            if self._queue is None:
                self._queue = Worker("rlhf-ranking")
            return self._queue

    def _live(self) -> _Live | None:
        """Return the model and its encoder, loaded anew if the file is another than last time."""
        path = self._settings.model_path
        if self.off:
            return None
        stamp = _stamp(path)
        if self._process != os.getpid():
            # After a fork: threads of the parent do not exist here; they will never release a lock, nor rank.
            self._lock, self._queue, self._process = threading.Lock(), None, os.getpid()
            self._recorder = None
        with self._lock:
            if stamp is None and self._loaded is None:
                by_prior = self._settings.rerank_without_model == WithoutModel.PRIOR
                self._warn_once(path, by_prior=by_prior)
                return self._by_prior() if by_prior else None
            if stamp != self._stamp:
                self._reload(path, stamp)
            if self._loaded is None or self._encoder is None:
                return None
            return self._loaded, self._encoder

    def _reload(self, path: Path, stamp: _Stamp | None) -> None:
        # Imported here: whoever only imports the package need not wait for numpy and ONNX Runtime.
        from rlhf_loop.encoders import load_encoder
        from rlhf_loop.reward.model_file import load

        if self._encoder is None:
            self._encoder = load_encoder(self._settings, serving=True)
        try:
            loaded = load(path, encoder=self._encoder.full_id)
            if loaded.model.tuned:
                # At once, so that no question waits for it, and layers that do not fit replace no model.
                self._encoder.tuned(loaded.model.tuned)
                loaded.model.tuned.release()
        except (ModelFileError, EncoderError) as error:
            if self._loaded is None:
                raise
            logger.error("Keeping the model %s: %s", self._loaded.version, error)
        else:
            self._loaded, recipe = loaded, loaded.model.feature_recipe
            if not recipe.reads_all:
                logger.warning("The live model's recipe %s reads only the first 256 tokens of a text.", recipe.name)
        self._stamp = stamp
        trim_memory()

    def _by_prior(self) -> _Live:
        from rlhf_loop.encoders import load_encoder
        from rlhf_loop.reward.prior import model_of_prior

        if self._encoder is None:
            self._encoder = load_encoder(self._settings, serving=True)
        if self._prior is None:
            self._prior = model_of_prior(self._encoder.id)
        return self._prior, self._encoder

    def _warn_once(self, path: Path, *, by_prior: bool) -> None:
        if not self._warned:
            meanwhile = "the prior ranks, and its scores are not calibrated"
            logger.warning(
                "No reward model at %s yet: %s. Run: rlhf-loop train; or set RLHF_MODEL_PATH to where it is",
                path.absolute(),
                meanwhile if by_prior else "candidates keep their incoming order",
            )
            self._warned = True


def off_marker(model_path: Path) -> Path:
    """Return the file that is beside the live model while that is switched off, in whatever state the database is."""
    return model_path.with_name(model_path.name + ".off")


#: Live files that are switched off in this process alone: the database says so, and the marker cannot be written.
_off_here = set[Path]()


def is_off(model_path: Path) -> bool:
    """Tell whether the model is switched off for this process."""
    return model_path in _off_here or off_marker(model_path).exists()


def keep_off_here(model_path: Path, *, off: bool) -> None:
    """Have this process heed that the model is off, or no more, without its marker."""
    (_off_here.add if off else _off_here.discard)(model_path)


def checked_share(name: str, share: float) -> float:
    """Return a share.

    Raises:
        ValueError: it is not one.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"{name}={share!r} is not a valid share. Give a number from 0 (never) to 1 (always).")
    return float(share)


def is_drawn(share: float) -> bool:
    """Tell whether a ranking is one of this share of all."""
    return share > 0 and random.random() < share


def to_record(
    query: str,
    ranked: Iterable[RankedCandidate],
    *,
    model_version: str | None,
    door: str,
    most: int,
    caller: str | None = None,
    returned: int | None = None,
) -> RecordedRanking | None:
    """Return what is recorded of a ranking: the first `most` candidates; None where nothing can be.

    A candidate without a source gets the caller, else the door. Of `returned` candidates 0 are noted where one of those
    that went back cannot be recorded.
    """
    source = caller or door
    first = list(islice(ranked, most))
    kept = [
        each if each.candidate.source else replace(each, candidate=replace(each.candidate, source=source))
        for each in first
        if not blank(each.text) and not unstorable(each.text)
    ]
    if returned and sum(each.rank <= returned for each in kept) < sum(each.rank <= returned for each in first):
        # Else what is said of all that went back would be said of those that happen to be recorded.
        returned = 0
    if not kept or unstorable(query) or blank(query):
        return None
    return RecordedRanking(
        id=uuid.uuid4().hex,
        query=query,
        candidates=tuple(kept),
        door=door,
        policy="incoming" if model_version is None else "prior" if is_prior(model_version) else "live",
        ranked_at=datetime.now(UTC),
        model_version=model_version,
        caller=caller,
        returned=returned,
    )


def incoming_order(candidates: Sequence[Candidate]) -> list[RankedCandidate]:
    """Return the candidates as they came, without scores."""
    return [
        RankedCandidate(candidate, rank=position + 1, score=None, position=position)
        for position, candidate in enumerate(candidates)
    ]


def _ranked(
    query: str, candidates: Sequence[Candidate], model: RewardModel, encoder: TextEncoder, *, pointwise: bool
) -> list[RankedCandidate]:
    readable = [position for position, candidate in enumerate(candidates) if not blank(candidate.text)]
    scores: dict[int, float] = {}
    if readable:
        question = Question(query, tuple(candidates[place].text for place in readable))
        (known,) = model.score([question], encoder, pointwise=pointwise)
        scores = dict(zip(readable, known, strict=True))
    # Last, so that they are behind whatever else is 0.
    scores |= {position: _NOTHING for position in range(len(candidates)) if position not in scores}
    # sorted() is stable, so ties keep the incoming order.
    order = sorted(scores, key=lambda position: -scores[position])
    return [
        RankedCandidate(candidates[position], rank=rank, score=float(scores[position]), position=position)
        for rank, position in enumerate(order, start=1)
    ]


def _stamp(path: Path) -> _Stamp | None:
    """Return what changes when the file is replaced or written to, None if there is no file.

    Raises:
        ModelFileError: nobody can tell, because a folder on the way cannot be entered.
    """
    try:
        return _of(path.stat()), _of_sum(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ModelFileError(f"Cannot look for the reward model {path}: {error.strerror}. Check its rights.") from error


def _of_sum(path: Path) -> tuple[int, int, int] | None:
    # Of both files: whoever copies a model may be seen between the two.
    try:
        return _of(path.with_name(path.name + ".sha256").stat())
    except FileNotFoundError:
        return None


def _of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


_default: Ranker | None = None
_default_lock = threading.Lock()


def default_ranker() -> Ranker:
    """Return the process's ranker, made from the environment at the first call."""
    global _default  # one ranker a process is the point
    with _default_lock:
        if _default is None:
            _default = Ranker(Settings.from_env())
        return _default


def rerank_candidates(
    query: str, candidates: Iterable[str | Mapping[str, Any]], *, ranker: Ranker | None = None
) -> list[dict[str, Any]]:
    """Put the best answer first.

    Args:
        query: the question.
        candidates: the answers in their incoming order: strings, or mappings with `text` and any other keys.
        ranker: which ranker to use; by default one that the environment's `RLHF_*` variables describe.

    Returns:
        One new dict a candidate, best first: `text`, `score` in [0, 1] (the probability that an expert would rate the
        answer 4 or 5), `rank` from 1, and all other keys of the candidate; where the ranking is recorded
        (`RLHF_RECORD_RANKINGS`, `Ranker(record=...)`), also `interaction_id`, by which it can be rated. Ties keep the
        incoming order. A text without any visible character has the score 0 and comes last. Without a trained model:
        the incoming order, `score` None, and one warning in the log; with `RLHF_RERANK_WITHOUT_MODEL=prior` the order
        of the prior, and scores that are not calibrated.

    Raises:
        ValueError: an empty query, or a candidate without text; the message names its position, from 0.
        ModelFileError: the model file is altered, foreign, or of another encoder.
        ConfigError, EncoderError: at the first call, if the settings or the encoder's weights cannot be used.
    """
    _check_query(query)
    if isinstance(candidates, str | bytes | Mapping) or not isinstance(candidates, Iterable):
        raise ValueError(
            f"The candidates must be a list of answers, but they are one {type(candidates).__name__}. Pass a list of "
            "texts, or of dicts with the key 'text'."
        )
    if hasattr(candidates, "columns"):
        # To go through a table is to go through the names of its columns.
        raise ValueError(
            f"The candidates are a table ({type(candidates).__name__}). Pass the column with the answers, such as "
            "table['text'], or table.to_dict('records')."
        )
    if ranker is not None and not isinstance(ranker, Ranker):
        raise ValueError(f"The ranker is a {type(ranker).__name__}. Pass Ranker(settings), or none for the default.")
    given = [_as_dict(candidate, position) for position, candidate in enumerate(candidates)]
    ranker = ranker or default_ranker()
    return ranker._dicts(query, given)


def _as_dict(candidate: object, position: int) -> dict[str, Any]:
    if isinstance(candidate, str):
        candidate = {"text": candidate}
    if not isinstance(candidate, Mapping):
        raise ValueError(
            f"Candidate {position} is a {type(candidate).__name__}. Pass a string, or a dict with the key 'text'."
        )
    _check_text(candidate.get("text"), position)
    return dict(candidate)


def _check_query(query: object) -> None:
    if not isinstance(query, str) or blank(query):
        raise ValueError(f"The query must be a text that is not empty, but it is {query!r}. Pass the user's question.")


def _check_text(text: object, position: int) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"Candidate {position} has no text: {text!r}. Give it a 'text' that is not empty.")


#: Probabilities this near to 0 or 1 have no finite logit that would say more.
_SURE = 1e-12


class WithoutModel(StrEnum):
    """The behaviour while there is no model that could rank: raise an error, keep the incoming order, or rank by the
    prior.
    """

    ERROR = "error"
    INCOMING = "incoming"
    PRIOR = "prior"


def is_prior(version: str | None) -> bool:
    """Tell whether that is the name of a prior: nothing is learnt from ratings yet, and scores are not calibrated."""
    return version is not None and version.startswith(f"{WithoutModel.PRIOR}-")


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

    def candidates(self, texts: Sequence[str]) -> Iterator[RankedCandidate]:
        """Yield the documents as candidates, with these texts; without a model they have no scores."""
        for rank, of in enumerate(self.documents, start=1):
            score = None if self.model_version is None else of.score
            yield RankedCandidate(Candidate(texts[of.index]), rank=rank, score=score, position=of.index)

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
    pointwise: bool = False,
) -> DocumentRanking:
    """Put the best document first; ties keep the incoming order, and a document without any text comes last.

    Args:
        ranker: what ranks; None where its encoder cannot be loaded.
        query: not blank.
        documents: may be empty texts, and the same text several times.
        otherwise: what to do without a model, be it missing or unusable. While one is switched off, all
            keep their incoming order, whatever this says.
        longest: tokens that are read of each document; by default all.
        count: have the tokens counted, which takes a little while for texts that are new.
        pointwise: score each document whatever the others are, so that scores of several requests can be compared.

    Raises:
        ModelFileError: there is no model to rank by, and `otherwise` does not say what else to do.
    """
    readable = [index for index, text in enumerate(documents) if not blank(text)]
    texts = [_beginning(ranker, documents[index], longest) for index in readable]
    ranking = _document_ranking(ranker, query, texts, otherwise, pointwise=pointwise)
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
    ranker: Ranker | None, query: str, texts: Sequence[str], otherwise: WithoutModel, *, pointwise: bool
) -> Ranking | None:
    """Rank by the model, or by what may take its place; None where there is none, and that is allowed."""
    trouble: ModelFileError | None = None
    candidates = [Candidate(text) for text in texts]
    if ranker is not None:
        try:
            ranking = ranker.ranking(query, candidates, pointwise=pointwise)
            if ranking.model_version is None and otherwise is WithoutModel.PRIOR:
                ranking = ranker.ranking_by_prior(query, candidates, pointwise=pointwise)
        except ModelFileError as error:
            logger.error("No documents are ranked: %s", error)
            trouble = error
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of a library written in Rust is not an Exception
            raise RuntimeError(f"A library failed: {type(error).__name__}.") from error
        else:
            if ranking.model_version is not None:
                return ranking
    if otherwise is WithoutModel.INCOMING or (ranker is not None and ranker.off):
        return None
    if ranker is not None and trouble is not None and otherwise is WithoutModel.PRIOR:
        with suppress(ModelFileError):
            return ranker.ranking_by_prior(query, candidates, pointwise=pointwise)
    # Without the path, and without the reason: whoever asked may be anybody; the log has them.
    raise ModelFileError(
        "There is no usable reward model here, so nothing can be ranked. Train one (rlhf-loop train), or have the "
        "incoming order kept meanwhile (RLHF_RERANK_WITHOUT_MODEL=incoming) or that of the prior (prior)."
    ) from trouble


def _beginning(ranker: Ranker | None, text: str, longest: int | None) -> str:
    if longest is None or ranker is None or ranker.encoder is None:
        return text
    return ranker.encoder.beginning(text, tokens=longest)


def _tokens(ranker: Ranker | None, texts: Sequence[str]) -> int:
    return 0 if ranker is None or ranker.encoder is None else sum(ranker.encoder.count_tokens(texts))
