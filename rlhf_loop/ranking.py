"""Re-ranking: the best candidate first, by the model that is live at this moment."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Question, RankedCandidate, Ranking
from rlhf_loop.errors import ModelFileError
from rlhf_loop.utils.concurrency import Worker

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder
    from rlhf_loop.reward.model import RewardModel
    from rlhf_loop.reward.model_file import LoadedModel

    _Live = tuple[LoadedModel, TextEncoder]

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], tuple[int, int, int] | None]
_Entry = TypeVar("_Entry")

#: A recipe looks texts up in two calls; whatever is new in one of them is found by an attempt of its own.
_ATTEMPTS = 3


class Ranker:
    """Ranks candidates by the reward model at `settings.model_path`. Safe to share between threads.

    The encoder is loaded once, at the first ranking. A model file that appears or changes is picked up by the next
    ranking; one that then turns out damaged is reported in the log, and the last good model stays.
    """

    def __init__(self, settings: Settings, *, encoder: TextEncoder | None = None) -> None:
        if not isinstance(settings, Settings):
            raise ValueError(
                f"The settings are a {type(settings).__name__}. Pass Settings(...) or Settings.from_env()."
            )
        self._settings = settings
        self._encoder = encoder
        self._lock = threading.Lock()
        self._queue: Worker | None = None
        self._process = os.getpid()
        self._loaded: LoadedModel | None = None
        self._stamp: _Stamp | None = None
        self._warned = False

    @property
    def model_version(self) -> str | None:
        """The name of the live model, None while there is none."""
        live = self._live()
        return live[0].version if live else None

    @property
    def model_path(self) -> Path:
        """The file that it looks at for the live model."""
        return self._settings.model_path

    @property
    def encoder(self) -> TextEncoder | None:
        """What reads texts here, None before the first ranking of a ranker that loads its own."""
        return self._encoder

    def __deepcopy__(self, memo: object) -> Ranker:
        # Frameworks copy what holds one; a second encoder would bring nothing but its memory.
        return self

    def rank(self, query: str, candidates: Sequence[Candidate]) -> list[RankedCandidate]:
        """Return the candidates best first; without a model in the incoming order, with the score None.

        Raises:
            ValueError: an empty query, or a candidate without text.
            ModelFileError: there is a model file, but it cannot be trusted, and no good one was loaded before.
        """
        return list(self.ranking(query, candidates).candidates)

    def ranking(self, query: str, candidates: Sequence[Candidate]) -> Ranking:
        """Return what `rank` does, with the version of the very model that did it.

        Raises:
            ValueError, ModelFileError: see `rank`.
        """
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
        live = self._live()
        ranked = self._in_turn(live, query, [candidate.text for candidate in candidates], finish=list)
        return Ranking(tuple(ranked), live[0].version if live else None)

    def _in_turn(
        self,
        live: _Live | None,
        query: str,
        texts: Sequence[str],
        *,
        finish: Callable[[list[RankedCandidate]], list[_Entry]],
    ) -> list[_Entry]:
        """Rank, and make of the result what the caller wants; in the worker, too, which has the processor then."""
        if live is None or not texts:
            incoming = enumerate(texts, start=1)
            return finish(
                [RankedCandidate(text, rank=place, score=None, position=place - 1) for place, text in incoming]
            )
        from rlhf_loop.encoders.text_encoder import UnknownTextError

        loaded, encoder = live
        question = Question(query, tuple(texts))
        known = encoder.only_known()
        for _ in range(_ATTEMPTS):
            try:
                return self._worker().run(lambda: finish(_ranked(question, loaded.model, known)))
            except UnknownTextError as unknown:
                # To embed is other work, on all cores and outside of Python: it must not hold up who needs none.
                encoder.remember(unknown)
        # The cache does not keep what it is given, be it full of others' texts or out of order.
        return finish(_ranked(question, loaded.model, encoder))

    def _worker(self) -> Worker:
        with self._lock:
            if self._queue is None:
                self._queue = Worker("rlhf-ranking")
            return self._queue

    def _live(self) -> _Live | None:
        """Return the model and its encoder, loaded anew if the file is another than last time."""
        path = self._settings.model_path
        stamp = _stamp(path)
        if self._process != os.getpid():
            # After a fork: threads of the parent do not exist here; they will never release a lock, nor rank.
            self._lock, self._queue, self._process = threading.Lock(), None, os.getpid()
        with self._lock:
            if stamp is None and self._loaded is None:
                self._warn_once(path)
                return None
            if stamp != self._stamp:
                self._reload(path, stamp)
            if self._loaded is None or self._encoder is None:
                return None
            return self._loaded, self._encoder

    def _reload(self, path: Path, stamp: _Stamp | None) -> None:
        # Imported here: whoever only imports the package need not wait for numpy and ONNX Runtime.
        from rlhf_loop.encoders import load_encoder
        from rlhf_loop.reward import recipe_named
        from rlhf_loop.reward.model_file import load

        if self._encoder is None:
            self._encoder = load_encoder(self._settings)
        try:
            self._loaded = load(path, encoder=self._encoder.id)
        except ModelFileError as error:
            if self._loaded is None:
                raise
            logger.error("Keeping the model %s: %s", self._loaded.version, error)
        else:
            recipe = recipe_named(self._loaded.model.recipe)
            if not recipe.reads_all:
                logger.warning("The live model's recipe %s reads only the first 256 tokens of a text.", recipe.name)
        self._stamp = stamp

    def _warn_once(self, path: Path) -> None:
        if not self._warned:
            logger.warning(
                "No reward model at %s yet: candidates keep their incoming order. Run: rlhf-loop train", path
            )
            self._warned = True


def _ranked(question: Question, model: RewardModel, encoder: TextEncoder) -> list[RankedCandidate]:
    (scores,) = model.score([question], encoder)
    # sorted() is stable, so ties keep the incoming order.
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [
        RankedCandidate(question.responses[index], rank=place, score=float(scores[index]), position=index)
        for place, index in enumerate(order, start=1)
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
        answer 4 or 5), `rank` from 1, and all other keys of the candidate. Ties keep the incoming order. Without a
        trained model: the incoming order, `score` None, and one warning in the log.

    Raises:
        ValueError: an empty query, or a candidate without text; the message names its position, from 0.
        ModelFileError: the model file is altered, foreign, or of another encoder.
        ConfigError, EncoderError: at the first call, if the settings or the encoder's weights are no good.
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
    return ranker._in_turn(
        ranker._live(),
        query,
        [candidate["text"] for candidate in given],
        finish=lambda ranked: [{**given[of.position], "score": of.score, "rank": of.rank} for of in ranked],
    )


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
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"The query must be a text that is not empty, but it is {query!r}. Pass the user's question.")


def _check_text(text: object, position: int) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"Candidate {position} has no text: {text!r}. Give it a 'text' that is not empty.")
