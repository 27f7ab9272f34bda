"""Experiments: the live model's order answers most questions, another one a share of them.

Ratings of what a model put first do not say what users would have thought of another order. That takes an experiment:
chance decides which order answers, and the probability is kept with each answer (`ServingRecord`). Chance is a hash of
the question, so whoever asks the same again gets the same.

Two rankings can also stand in one list, so that whoever rates it tells which is better without knowing that there are
two. That is team-draft interleaving (Radlinski, Kurup and Joachims 2008, How does clickthrough data reflect retrieval
quality?): as two captains pick their teams, so each ranking in turn takes the best answer that is left, and a coin says
who picks first in each round. Each answer belongs to the ranking that picked it. Neither gets better places than the
other, so where the two are equally good, neither is preferred.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, RankedCandidate, Ranking, prompt_key
from rlhf_loop.errors import ConfigError, ModelFileError, RlhfLoopError
from rlhf_loop.ranking import Ranker, WithoutModel, is_prior
from rlhf_loop.store.interactions import INCOMING, INTERLEAVED, LIVE, experiment_name

if TYPE_CHECKING:
    from rlhf_loop.encoders import TextEncoder


@dataclass(frozen=True, slots=True)
class Pick:
    """An answer's index, and whether the first ranking picked it."""

    position: int
    by_first: bool


def team_draft(first: Sequence[int], second: Sequence[int], *, coin: Callable[[], bool]) -> list[Pick]:
    """Merge two orders of the same indices; where `coin` gives True, the first ranking begins the round."""
    taken: set[int] = set()
    picks: list[Pick] = []
    turns = ((True, iter(first)), (False, iter(second)))
    while len(picks) < len(first):
        for by_first, left in turns if coin() else turns[::-1]:
            if (position := _next(left, taken)) is not None:
                taken.add(position)
                picks.append(Pick(position, by_first))
    return picks


def _next(left: Iterator[int], taken: set[int]) -> int | None:
    return next((position for position in left if position not in taken), None)


logger = logging.getLogger(__name__)

#: Seconds after which a model that could not be used is looked for again.
_LOOK_AGAIN_S = 30.0
_NOT_USABLE = "the other order cannot be used, so the live one answers all; the log says why"
_SAME = "the other order is that of the live model, so there is nothing to compare"


@dataclass(frozen=True, slots=True)
class Order:
    """The candidates as they are served, and how that order was chosen.

    Their scores are the live model's, whatever the order. `teams` has for interleaved candidates whose each one is.
    `trouble` says why there is no experiment although there should be one.
    """

    candidates: tuple[RankedCandidate, ...]
    policy: str
    propensity: float = 1.0
    experiment: str | None = None
    teams: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class _Other:
    """The order to compare with: a name, and what ranks by it, None for the incoming order."""

    name: str
    ranker: Ranker | None = None
    trouble: str = ""
    looked_at: float = 0.0


class Experiment:
    """Chooses the order for each question. Safe to share between threads; light until the first question."""

    def __init__(self, settings: Settings, *, encoder: TextEncoder | None) -> None:
        self._settings = settings
        self._encoder = encoder
        self._lock = threading.Lock()
        self._found: _Other | None = None
        self._said: set[str] = set()

    def order(self, query: str, candidates: Sequence[Candidate], ranking: Ranking) -> Order:
        """Return the order for these candidates, which the live model has ranked.

        Whatever is wrong with the other order is logged, and then the live one answers.
        """
        share = self._settings.experiment_share
        if ranking.model_version is None:
            return Order(ranking.candidates, INCOMING)
        if is_prior(ranking.model_version):
            return Order(ranking.candidates, WithoutModel.PRIOR.value)
        if not share:
            return Order(ranking.candidates, LIVE)
        # Looked for whatever the draw says: while the other order cannot be used, no question takes part.
        other = self._other()
        if other.trouble:
            return Order(ranking.candidates, LIVE, trouble=other.trouble)
        if other.name == ranking.model_version:
            self._say(f"The experiment is against {other.name}, which is live now. Set RLHF_EXPERIMENT_AGAINST anew.")
            return Order(ranking.candidates, LIVE, trouble=_SAME)
        name = experiment_name(other.name, interleaved=self._settings.experiment_interleave)
        if draw(query, other.name) >= share:
            return Order(ranking.candidates, LIVE, 1 - share, name)
        found = _positions(other, query, candidates)
        if found is None:
            return Order(ranking.candidates, LIVE, trouble=_NOT_USABLE)
        return _served(query, ranking, found, other.name, share, name)

    def state(self) -> str:
        """Say in words what is compared, an empty text if nothing is."""
        share, interleave = self._settings.experiment_share, self._settings.experiment_interleave
        if not share or (self._encoder is None and self._settings.experiment_against != INCOMING):
            return ""
        other = self._other()
        way = "interleaved with" if interleave else "answered by"
        return other.trouble or f"{100 * share:g} % of the questions are {way} {other.name}"

    def _other(self) -> _Other:
        with self._lock:
            found = self._found
            if found is None or (found.trouble and monotonic() - found.looked_at > _LOOK_AGAIN_S):
                self._found = found = self._look()
            return found

    def _look(self) -> _Other:
        against = self._settings.experiment_against
        if against == INCOMING:
            return _Other(INCOMING)
        try:
            file = model_file(self._settings)
            settings = replace(self._settings, model_path=file, rerank_without_model=WithoutModel.ERROR.value)
            ranker = Ranker(settings, encoder=self._encoder)
            if version := ranker.model_version:
                return _Other(version, ranker)
            trouble = f"{file} is gone."
        except (RlhfLoopError, OSError) as error:
            trouble = str(error)
        self._say(f"All questions get the live order, and none that of {against!r}: {trouble}")
        return _Other(against, trouble=_NOT_USABLE, looked_at=monotonic())

    def _say(self, message: str) -> None:
        # Once, and not with every question.
        if message not in self._said:
            self._said.add(message)
            logger.error("%s", message)


def check(settings: Settings) -> None:
    """Say at once what would keep the experiment from being one.

    Raises:
        ConfigError: the share is not valid, or the model that the settings name is unknown or damaged.
    """
    share = settings.experiment_share
    if not 0 <= share <= 1:
        raise ConfigError(
            f"RLHF_EXPERIMENT_SHARE={share!r} is not a valid share. Set a number from 0 to 1, such as 0.1."
        )
    if not share or settings.experiment_against == INCOMING:
        return
    if settings.models_store:
        # It comes here later (`web/server/watch.py`), and a store that is away is no reason not to serve.
        return
    file = model_file(settings)
    from rlhf_loop.reward.model_file import verified

    try:
        verified(file)
    except ModelFileError as error:
        raise ConfigError(
            f"RLHF_EXPERIMENT_AGAINST={settings.experiment_against!r}: {error} Or compare with another order."
        ) from error


def model_file(settings: Settings) -> Path:
    """Return the file of the version that the experiment is against.

    Raises:
        ConfigError: there is none of that name, or the beginning of a name fits several.
    """
    name, folder = settings.experiment_against, settings.models_folder
    files = {file.stem: file for file in sorted(folder.glob("*.joblib"))}
    if name in files:
        return files[name]
    fitting = [file for stem, file in files.items() if stem.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    which = f"fits {len(fitting)} models in {folder}" if fitting else f"is not a model in {folder}"
    shown = [file.stem for file in fitting] or list(files)
    known = f"{', '.join(shown[:10])}{', ...' if len(shown) > 10 else ''}" or "none there yet"
    raise ConfigError(
        f"RLHF_EXPERIMENT_AGAINST={name!r} {which}. Name one of them ({known}) or {INCOMING!r}; "
        "rlhf-loop models list shows them."
    )


def draw(query: str, other: str) -> float:
    """Return the question's number from 0 to below 1 in an experiment against that order.

    It is the same for each spelling that makes the same question, and another one in each experiment.
    """
    # 53 bits are what a float holds: with more, the largest would be rounded up to 1.
    return (_hash(query, other, b"rlhf-policy") >> 11) / 2**53


def _hash(query: str, other: str, person: bytes) -> int:
    salt = hashlib.blake2b(other.encode(), digest_size=hashlib.blake2b.SALT_SIZE).digest()
    key = prompt_key(query).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=salt, person=person).digest())


def _positions(other: _Other, query: str, candidates: Sequence[Candidate]) -> list[int] | None:
    """Return the candidates' indices in the other order; None if it cannot be had, which is logged."""
    if other.ranker is None:
        return list(range(len(candidates)))
    try:
        return [of.position for of in other.ranker.ranking(query, candidates).candidates]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of a library written in Rust is no Exception
        logger.exception("The live order answers in place of %s.", other.name)
        return None


def _served(query: str, ranking: Ranking, found: Sequence[int], other: str, share: float, name: str) -> Order:
    by_position = {of.position: of for of in ranking.candidates}
    policy, positions = other, list(found)
    teams: tuple[str, ...] = ()
    if name != other:
        coins = random.Random(_hash(query, other, b"rlhf-interleave"))
        live = [of.position for of in ranking.candidates]
        picks = team_draft(live, found, coin=lambda: bool(coins.getrandbits(1)))
        policy, positions = INTERLEAVED, [pick.position for pick in picks]
        teams = tuple(LIVE if pick.by_first else other for pick in picks)
    served = tuple(replace(by_position[position], rank=rank) for rank, position in enumerate(positions, start=1))
    return Order(served, policy, share, name, teams)
