"""Tuned layers: the encoder's last layers, fitted on ratings with torch (extra [torch]); `docs/RLHF_STEP2_README.md`.

Question and passage are read apart, so that a passage has one vector for all questions. The logit of a passage starts
as the frozen encoder's own cosine, which is what makes a few hundred ratings enough; the layers below stay as they are,
and what they make of a text is computed once. A model knows the answers that it was fitted on: so the scores that the
regression learns from come of others, one for each fold of the questions.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_loop.domain import Progress, Question
from rlhf_loop.encoders import TextEncoder
from rlhf_loop.encoders.runtime import Vectors, abilities, cores
from rlhf_loop.encoders.tokenizer import by_length
from rlhf_loop.encoders.tuned import SHARPNESS, Checkpoint, TunedLayers
from rlhf_loop.errors import EncoderError
from rlhf_loop.reward.splitting import folds
from rlhf_loop.training.data import JudgedAnswer
from rlhf_loop.utils.arrays import Floats, Ints, Mask
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.files import whole_file

logger = logging.getLogger(__name__)
Tokens = NDArray[np.int32]
#: Layers that are tuned, the last ones.
LAYERS = 3
#: Tokens that are read of a question, without markers; the passages of an answer that are scored.
QUESTION_TOKENS, PASSAGES = 80, 3
#: Models whose questions are left out in turn, to score these.
FOLDS = 3
#: What a rating of 1 to 5 says of the chance that the answer is correct.
_TARGETS = np.array([0.03, 0.15, 0.5, 0.85, 0.97], dtype=np.float32)
#: By more than this answers have to be rated differently to be a pair: the decimals of a judge say little.
_HALF_A_GRADE = 0.5
#: The fold of what no layers leave out, and none score.
_NOBODYS = -1
#: How much pairs of answers to one question count beside the ratings themselves.
_PAIRS = 0.5
_RATE, _HEAD_RATE, _DECAY = 5e-5, 5e-3, 0.01
_WARM_UP, _LAST_RATE = 0.1, 0.05
#: Passes over the ratings, and after an adaptation, which has moved the layers already.
_EPOCHS, _EPOCHS_ADAPTED = 3, 2
#: Answers of a step, in whole questions; of a question with more a sample.
_STEP = 32
#: How often an answer's best passage is read in a step; else its second best is.
_DRAWN = 0.65
#: Of an adaptation: steps, after so many of which its state is kept, neighbourhoods of a step and pairs of each.
_STEPS, _KEPT_STEPS, _NEIGHBOURHOODS, _NEAR = 100, 20, 8, 6
#: Questions or answers of a corpus that are read at a time, for each of the `at_once`: by default those of a step.
_PIECE = 3
#: Pairs of a corpus among which neighbours are looked for.
MOST_PAIRS = 20_000
#: What a cosine is multiplied by in an adaptation, so that a softmax over a step can be sure.
_SCALE = 20.0
#: Tokens that are read at a time where nothing is learnt, and bytes of outputs of the layers below that are kept.
_READ, _KEPT = 8192, 10**9
#: Steps by which the time of all is told.
_TIMED = 6
#: Part of each state's name: raise it when a training would go another way.
_VERSION, _KEY_LENGTH = 1, 32
_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)


@dataclass(frozen=True, slots=True)
class Tuning:
    """The options of a tuning.

    `at_once` answers are read at a time, which bounds the memory and changes a result by rounding alone. In `folder`
    the state of a training is kept, from which one that was stopped goes on. `corpus` has questions with an answer
    each, to adapt to before any rating is seen, `judged` answers with labels of judges. Where nobody `serves` the
    layers, and nothing is held out, the last fit is left out: out of fold there is a score for all that is rated
    without it.
    """

    at_once: int = 16
    threads: int = 0
    folder: Path | None = None
    corpus: Sequence[tuple[str, str]] = ()
    judged: Sequence[JudgedAnswer] = ()
    serves: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """Token sequences, each once: one for each question, and those of each candidate, the best passage first.

    `of` is the number of each candidate's question.
    """

    tokens: list[Tokens] = field(default_factory=list)
    question: list[int] = field(default_factory=list)
    passages: list[Ints] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(self, questions: Sequence[Question], best: Sequence[Sequence[Ints]], encoder: TextEncoder) -> None:
        """Read questions with their candidates; of each the places of its `best` passages, the best one first."""
        responses = [response for question in questions for response in question.responses]
        asked, answers = encoder.token_ids([each.prompt for each in questions], responses, tokens=QUESTION_TOKENS)
        passages = iter(answers)
        for tokens, of_question in zip(asked, best, strict=True):
            self.question.append(self._number(tokens))
            for places in of_question:
                own = next(passages)
                numbers = [self._number(own[place]) for place in places[:PASSAGES] if place < len(own)]
                self.passages.append(np.array(numbers, dtype=np.intp))
                self.of.append(len(self.question) - 1)

    def _number(self, tokens: Sequence[int]) -> int:
        own = np.array(tokens, dtype=np.int32)
        number = self._known.setdefault(own.tobytes(), len(self.tokens))
        if number == len(self.tokens):
            self.tokens.append(own)
        return number


@dataclass(frozen=True, slots=True)
class RatedCandidates:
    """Rated candidates of a reading: which ones, their ratings from 1 to 5, and what each counts."""

    candidate: Ints
    rating: Ints | Floats
    weight: Floats

    def with_others(self, others: RatedCandidates) -> RatedCandidates:
        """Return these and then the others."""
        candidate = np.append(self.candidate, others.candidate)
        rating: Floats = np.append(self.rating, others.rating).astype(np.float64)
        return RatedCandidates(candidate, rating, np.append(self.weight, others.weight))


@dataclass(frozen=True, slots=True)
class Scores:
    """Layers fitted on all that is not held out, and logits by layers that have not seen the question."""

    layers: TunedLayers
    candidates: Floats
    pairs: Floats


def tuned_scores(
    rated: RatedCandidates,
    group: Ints,
    held: Mask,
    *,
    reading: Reading,
    pairs: Reading,
    pair_group: Ints,
    pair_held: Mask,
    encoder: TextEncoder,
    seed: int,
    options: Tuning,
    progress: Progress | None = None,
    judged: RatedCandidates | None = None,
    judged_group: Ints | None = None,
) -> Scores:
    """Tune the encoder's last layers on ratings, and score all candidates and pairs that were read.

    Each question is scored by layers that were not fitted on any of its group: what is `held` by the layers that are
    returned, and others by those of the folds that leave it out.

    Args:
        rated: the rated answers.
        group: the number of each one's group of questions.
        held: which of them no fit may see.
        reading: all candidates.
        pairs: pairs of answers, two candidates each; no layers are fitted on them.
        pair_group: the group of each pair's question, -1 where none of its answers is rated.
        pair_held: which of them no fit may see.
        judged: candidates with labels of judges, which teach the layers besides, are never held out and never scored.
        judged_group: the group of each one's question, -1 where none of its answers is rated.

    Raises:
        MissingExtraError: torch is not installed.
        EncoderError: the encoder has no layers that can be tuned.
        ValueError: the labels or questions do not allow folds.
    """
    torch, base = require("torch", "torch"), checked(encoder)
    inside = ~held
    label = (rated.rating >= 4).astype(np.intp)
    fold = folds(group[inside], label[inside], count=FOLDS, seed=seed)
    parts = [*np.unique(fold).tolist(), *([FOLDS] if options.serves else [])]
    # What is held out, and pairs of questions that were not drawn, by the last.
    others = np.append(pair_group, [] if judged_group is None else judged_group).astype(np.intp)
    fold_of = np.full(max(group.max(), others.max(initial=-1)) + 2, FOLDS, dtype=np.intp)
    fold_of[group[inside]] = fold
    fold_of[-1] = parts[0]  # pairs whose question nobody knows
    of_rated, every = fold_of[group], rated
    if judged is not None and judged_group is not None and len(judged.rating):
        every, inside = rated.with_others(judged), np.append(inside, np.ones(len(judged.rating), dtype=np.bool_))
        # Of rated questions that were not drawn, nothing is scored in a fold.
        of_rated = np.append(of_rated, np.where(np.isin(judged_group, group), fold_of[judged_group], _NOBODYS))
    of_question = np.full(len(reading.question), FOLDS, dtype=np.intp)
    of_question[np.array(reading.of)[rated.candidate]] = fold_of[group]
    of_candidate = of_question[reading.of]
    if every is not rated and judged is not None:
        of_candidate[judged.candidate] = _NOBODYS
    of_pair = np.where(pair_held, FOLDS, fold_of[pair_group])
    with _machine(torch, options) as machine:
        states, start = _States(options.folder), _Layers.of(base, machine)
        steps = {
            part: _rating_steps(reading, every, np.flatnonzero(inside & (of_rated != part)), options, seed)
            for part in parts
        }
        bar = _Bar(progress, sum(len(epoch) for each in steps.values() for epoch in each))
        if options.corpus:
            adaptation = _CorpusLoss.of(options, encoder, start, base, seed=seed)
            bar.total += sum(map(len, adaptation.steps))
            states.fit(start, adaptation.steps, adaptation.gradient, bar=bar, key=adaptation.key)
        lower, of_pairs = _Lower(base, reading.tokens, machine), _Lower(base, pairs.tokens, machine)
        read = (part.read for epochs in steps.values() for epoch in epochs for step in epoch for part in step)
        lower.keep(np.unique(np.concatenate(list(read))))
        scores, margins = np.full(len(reading.passages), np.nan), np.full(len(pairs.passages), np.nan)
        key = _digest(*reading.tokens, every.rating, every.weight)
        for part in parts:
            layers = start.copy()
            states.fit(layers, steps[part], partial(_learn_ratings, layers, lower, every, options), bar=bar, key=key)
            for found, source, rows, below in (
                (scores, reading, of_candidate == part, lower),
                (margins, pairs, np.repeat(of_pair, 2) == part, of_pairs),
            ):
                found[rows] = layers.scores(below, source, np.flatnonzero(rows))
        return Scores(layers.exported(encoder.id), scores, margins)


def checked(encoder: TextEncoder) -> Checkpoint:
    """Return what an encoder is tuned from, before any work is done for it.

    Raises:
        MissingExtraError: torch is not installed.
        EncoderError: the encoder has no layers that can be tuned.
    """
    require("torch", "torch")
    base = encoder.checkpoint()
    if base.layers < 2:
        raise EncoderError(
            f"The encoder {encoder.id} has {base.layers} layer, and tuning needs two. Set RLHF_ENCODER to another one."
        )
    return base


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of one question in a step: places among the rated, and sequences, the question's own at the end."""

    places: Ints
    read: Ints


def _rating_steps(
    reading: Reading, rated: RatedCandidates, places: Ints, options: Tuning, seed: int
) -> list[list[list[_Part]]]:
    """Return the steps of each epoch: some questions each, with passages drawn anew for each answer."""
    question = np.array(reading.of)[rated.candidate[places]]
    order = np.argsort(question, kind="stable")
    each = np.split(places[order], np.flatnonzero(np.diff(question[order])) + 1)
    epochs = []
    for epoch in range(_EPOCHS_ADAPTED if options.corpus else _EPOCHS):
        rng = np.random.default_rng([seed, epoch])
        steps: list[list[_Part]] = []
        room = 0
        for one in rng.permutation(len(each)):
            some = each[one] if len(each[one]) <= _STEP else np.sort(rng.choice(each[one], _STEP, replace=False))
            if room <= 0:
                steps.append([])
                room = _STEP
            room -= len(some)
            read = [_drawn(reading.passages[rated.candidate[place]], rng) for place in some]
            asked = reading.question[reading.of[rated.candidate[some[0]]]]
            steps[-1].append(_Part(some, np.array([*read, asked], dtype=np.intp)))
        epochs.append(steps)
    return epochs


def _drawn(passages: Ints, rng: np.random.Generator) -> int:
    second = len(passages) > 1 and rng.random() >= _DRAWN
    return int(passages[int(second)])


def _learn_ratings(layers: _Layers, lower: _Lower, rated: RatedCandidates, options: Tuning, step: list[_Part]) -> None:
    """Add the gradient of one step: cross-entropy to what the ratings say, and pairs of one question."""
    torch = layers.machine.torch
    functional = torch.nn.functional
    ratings = (rated.rating[part.places] for part in step)
    better = [np.nonzero(rating[:, np.newaxis] - rating > _HALF_A_GRADE) for rating in ratings]
    answers, pairs = sum(len(part.places) for part in step), sum(len(each[0]) for each in better)
    for some in _at_once(step, options.at_once):
        reads = np.concatenate([step[one].read for one in some])
        vectors = layers.vectors(*lower(reads))
        loss: Any = 0.0
        place = 0
        for one in some:
            part, (above, below) = step[one], better[one]
            end = place + len(part.places)
            logit = layers.logits(vectors[end], vectors[place:end])
            place = end + 1
            target = np.interp(rated.rating[part.places], np.arange(1, 6), _TARGETS).astype(np.float32)
            target = layers.machine.tensor(target)
            weight = layers.machine.tensor(rated.weight[part.places].astype(np.float32))
            surprise = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
            loss = loss + (weight * surprise).sum() / answers
            if len(above):
                counts = torch.minimum(weight[above], weight[below])
                loss = loss + _PAIRS * (counts * functional.softplus(logit[below] - logit[above])).sum() / pairs
        loss.backward()


def _at_once(step: list[_Part], most: int) -> Iterator[list[int]]:
    """Yield questions of a step that are read together: whole ones, and at least one."""
    some: list[int] = []
    for one, part in enumerate(step):
        if some and sum(len(step[other].places) for other in some) + len(part.places) > most:
            yield some
            some = []
        some.append(one)
    yield some


@dataclass(frozen=True, slots=True)
class _CorpusLoss:
    """Questions and their answers in neighbourhoods: each question has to find its own answer among those of a step."""

    steps: list[list[tuple[Ints, Ints]]]
    key: str
    layers: _Layers
    lower: _Lower
    at_once: int

    @classmethod
    def of(cls, options: Tuning, encoder: TextEncoder, start: _Layers, base: Checkpoint, *, seed: int) -> _CorpusLoss:
        """Draw the steps, and read no more of the corpus than these need."""
        rng, corpus = np.random.default_rng(seed), options.corpus
        corpus = [corpus[one] for one in rng.permutation(len(corpus))[:MOST_PAIRS]]
        vectors = encoder.encode_whole([question for question, _ in corpus])
        _, same = np.unique([question for question, _ in corpus], return_inverse=True)
        hoods = [_nearest(vectors, same, one) for one in range(min(len(corpus), _STEPS * _NEIGHBOURHOODS))]
        reading, rows = Reading(), {}
        for one in dict.fromkeys(np.concatenate(hoods).tolist()):
            rows[one] = len(reading.of)
            # The first two: an answer begins with what it is about, and no other has to be looked for.
            reading.add([Question(corpus[one][0], (corpus[one][1],))], [[np.arange(2)]], encoder)
        steps = []
        for begin in range(0, len(hoods), _NEIGHBOURHOODS):
            own = [rows[one] for one in dict.fromkeys(np.concatenate(hoods[begin : begin + _NEIGHBOURHOODS]).tolist())]
            answers = [_drawn(reading.passages[row], rng) for row in own]
            steps.append((np.array([reading.question[row] for row in own]), np.array(answers)))
        kept = [steps[begin : begin + _KEPT_STEPS] for begin in range(0, len(steps), _KEPT_STEPS)]
        lower = _Lower(base, reading.tokens, start.machine)
        return cls(kept, _digest(*reading.tokens), start, lower, _PIECE * options.at_once)

    def gradient(self, step: tuple[Ints, Ints]) -> None:
        """Add the gradient of one step."""
        torch, (questions, answers) = self.layers.machine.torch, step
        pieces = [some[at : at + self.at_once] for some in step for at in range(0, len(some), self.at_once)]
        whole = len(pieces) == len(step)
        with torch.set_grad_enabled(whole):
            vectors = torch.cat([self.layers.vectors(*self.lower(some)) for some in pieces])
        u, v = (vectors if whole else vectors.requires_grad_()).split(len(questions))
        logits = _SCALE * u @ v.T
        # What is an answer to several questions, or a question with several answers, is no wrong one.
        same = (answers[:, np.newaxis] == answers) | (questions[:, np.newaxis] == questions)
        np.fill_diagonal(same, False)
        logits = logits.masked_fill(self.layers.machine.tensor(same), -torch.inf)
        torch.nn.functional.cross_entropy(logits, torch.arange(len(answers), device=logits.device)).backward()
        # In pieces they are read once more, each with its part of the gradient (Gao et al. 2021, "Scaling Deep
        # Contrastive Learning Batch Size under Memory Limited Setup").
        for some, part in () if whole else zip(pieces, vectors.grad.split([*map(len, pieces)]), strict=True):
            self.layers.vectors(*self.lower(some)).backward(part)


def _nearest(vectors: Vectors, same: Ints, one: int) -> Ints:
    """Return a pair with the nearest ones by their questions, each once: its other answers are right, too."""
    # From the pair on, so that of a question with several answers not always the first one is taken.
    places = np.roll(np.arange(len(vectors)), -one)
    order = places[np.argsort(-(vectors[places] @ vectors[one]), kind="stable")]
    _, first = np.unique(same[order], return_index=True)
    found: Ints = order[np.sort(first)[:_NEAR]]
    return found


@dataclass(frozen=True, slots=True)
class _Machine:
    """Torch and its device."""

    torch: Any
    device: str
    half: bool

    def tensor(self, values: NDArray[np.generic]) -> Any:
        """Take over an array."""
        return self.torch.from_numpy(np.array(values)).to(self.device)

    def reduced(self) -> Any:
        """Return what multiplies in 16 bits while it is open, where the machine can."""
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=self.half)


@contextmanager
def _machine(torch: Any, options: Tuning) -> Iterator[_Machine]:
    """Choose the device, and give torch its threads for as long as it is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Without the instructions for it, 16 bits take several times as long as 32.
        yield _Machine(torch, device, half=device == "cuda" or "bf16" in abilities())
    finally:
        torch.set_num_threads(before)


class _Lower:
    """The frozen layers: what they make of token sequences, in 16 bits."""

    def __init__(self, base: Checkpoint, tokens: Sequence[Tokens], machine: _Machine) -> None:
        self._base, self._tokens, self._machine = base, tokens, machine
        self._first = first_tuned(base)
        names = ["embeddings.LayerNorm", *_names(range(self._first))]
        self._weights = _taken(base, names, machine)
        self._words = machine.tensor(base.weights["embeddings.word_embeddings.weight"])
        types = base.weights["embeddings.token_type_embeddings.weight"][0]
        self._places = machine.tensor(
            base.weights["embeddings.position_embeddings.weight"][base.first_position :] + types
        )
        self._lengths = np.array([len(each) for each in tokens], dtype=np.intp)
        self._kept: list[Any] = [None] * len(tokens)

    def keep(self, wanted: Ints) -> None:
        """Compute what is read again and again, once and as far as there is memory for it."""
        bytes_each = 2 * self._base.width * self._lengths[wanted]
        for some in _batches(self._lengths, wanted[np.cumsum(bytes_each) <= _KEPT]):
            hidden = self._computed(some)[0]
            for row, one in enumerate(some):
                self._kept[one] = hidden[row, : self._lengths[one]].clone()

    def __call__(self, some: Ints) -> tuple[Any, Any]:
        """Return the outputs for some sequences, (n, tokens, width), and the mask that leaves out padding."""
        torch, kept = self._machine.torch, [self._kept[one] for one in some]
        if any(each is None for each in kept):
            hidden, mask = self._computed(some)
        else:
            hidden, mask = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True), self._mask(some)
        return hidden.float(), mask

    def _mask(self, some: Ints) -> Any:
        lengths = self._lengths[some]
        return self._machine.tensor(np.arange(lengths.max()) < lengths[:, np.newaxis])

    def _computed(self, some: Ints) -> tuple[Any, Any]:
        torch, form, mask = self._machine.torch, self._base, self._mask(some)
        ids = np.zeros(mask.shape, dtype=np.int64)
        for row, one in enumerate(some):
            ids[row, : self._lengths[one]] = self._tokens[one]
        with torch.no_grad(), self._machine.reduced():
            hidden = self._words[self._machine.tensor(ids)] + self._places[: ids.shape[1]]
            hidden = _norm(torch, hidden, self._weights, "embeddings.LayerNorm", form)
            for layer in range(self._first):
                hidden = _layer(torch, hidden, mask, self._weights, layer, form)
        return hidden.half(), mask


@dataclass(frozen=True, slots=True)
class _Layers:
    """The tuned layers in the making, and their head."""

    base: Checkpoint
    machine: _Machine
    weights: Mapping[str, Any]
    head: Mapping[str, Any]

    @classmethod
    def of(cls, base: Checkpoint, machine: _Machine) -> _Layers:
        """Take them from the frozen encoder."""
        weights = _taken(base, _names(range(first_tuned(base), base.layers)), machine)
        w = np.zeros(base.width, dtype=np.float32)
        head = {"a": np.array(1, np.float32), "b": np.array(-0.5, np.float32), "w": w}
        return cls(base, machine, weights, {name: machine.tensor(value) for name, value in head.items()}).copy()

    def copy(self) -> _Layers:
        """Return the same once more, ready to learn."""
        weights, head = (
            {name: value.detach().clone().requires_grad_() for name, value in of.items()}
            for of in (self.weights, self.head)
        )
        return _Layers(self.base, self.machine, weights, head)

    def vectors(self, hidden: Any, mask: Any) -> Any:
        """Return a unit vector a sequence."""
        torch, form = self.machine.torch, self.base
        with self.machine.reduced():
            for layer in range(first_tuned(self.base), form.layers):
                hidden = _layer(torch, hidden, mask, self.weights, layer, form)
        hidden = hidden.float()
        if self.base.pooling == "cls":
            return torch.nn.functional.normalize(hidden[:, 0], dim=-1)
        real = mask.unsqueeze(-1).float()
        return torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=-1)

    def logits(self, u: Any, v: Any) -> Any:
        """Return the logit of each passage."""
        product = u * v
        return SHARPNESS * (self.head["a"] * product.sum(-1) + self.head["b"] + product @ self.head["w"])

    def scores(self, lower: _Lower, reading: Reading, candidates: Ints) -> Floats:
        """Return the highest logit of each candidate's passages."""
        asked = [reading.question[reading.of[one]] for one in candidates]
        wanted = np.unique([*asked, *(place for one in candidates for place in reading.passages[one])]).astype(np.intp)
        vectors = np.empty((len(wanted), self.base.width), dtype=np.float32)
        lengths = np.array([len(reading.tokens[one]) for one in wanted], dtype=np.intp)
        with self.machine.torch.no_grad():
            for some in _batches(lengths, np.arange(len(wanted))):
                vectors[some] = self.vectors(*lower(wanted[some])).cpu().numpy()
        layers = self.exported("")
        u = vectors[np.searchsorted(wanted, asked)]
        passages = (vectors[np.searchsorted(wanted, reading.passages[one])] for one in candidates)
        return np.array([layers.logits(own, each).max() for own, each in zip(u, passages, strict=True)])

    def exported(self, encoder: str) -> TunedLayers:
        """Return them without torch."""
        head = {name: value.detach().cpu().numpy().copy() for name, value in self.head.items()}
        return TunedLayers(
            encoder=encoder,
            first=first_tuned(self.base),
            tensors={name: value.detach().cpu().numpy().copy() for name, value in self.weights.items()},
            question_tokens=QUESTION_TOKENS,
            passages=PASSAGES,
            a=float(head["a"]),
            b=float(head["b"]),
            w=head["w"],
        )


def first_tuned(base: Checkpoint) -> int:
    """Return the first layer that is tuned: never the very first, as what that makes serves the frozen encoder, too."""
    return max(1, base.layers - LAYERS)


def _names(layers: range) -> list[str]:
    return [f"encoder.layer.{layer}.{part}" for layer in layers for part in _LAYER]


def _taken(base: Checkpoint, names: Sequence[str], machine: _Machine) -> dict[str, Any]:
    parts = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    return {name: machine.tensor(base.weights[name].astype(np.float32)) for name in parts}


def _norm(torch: Any, hidden: Any, weights: Mapping[str, Any], name: str, form: Checkpoint) -> Any:
    scale, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return torch.nn.functional.layer_norm(hidden, (form.width,), scale, bias, form.epsilon)


def _layer(torch: Any, hidden: Any, mask: Any, weights: Mapping[str, Any], layer: int, form: Checkpoint) -> Any:
    """Return the output of one layer of BERT."""
    functional, at = torch.nn.functional, f"encoder.layer.{layer}."

    def linear(name: str, inputs: Any) -> Any:
        return functional.linear(inputs, weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"])

    texts, tokens, width = hidden.shape
    apart = (texts, tokens, form.heads, width // form.heads)
    parts = [linear(f"attention.self.{part}", hidden).view(apart).transpose(1, 2) for part in ("query", "key", "value")]
    # Without padding there is nothing to mask, which is faster.
    context = functional.scaled_dot_product_attention(
        *parts, attn_mask=None if bool(mask.all()) else mask[:, None, None, :]
    )
    context = context.transpose(1, 2).reshape(texts, tokens, width)
    attended = linear("attention.output.dense", context) + hidden
    attended = _norm(torch, attended, weights, f"{at}attention.output.LayerNorm", form)
    inner = functional.gelu(linear("intermediate.dense", attended), approximate=form.approximate)
    return _norm(torch, linear("output.dense", inner) + attended, weights, f"{at}output.LayerNorm", form)


def _batches(lengths: Ints, some: Ints) -> Iterator[Ints]:
    """Yield sequences of like length, so that there is little padding."""
    return (some[places] for places in by_length(lengths[some], most=_READ))


@dataclass(slots=True)
class _Bar:
    """The steps of all fits, as one progress."""

    progress: Progress | None
    total: int
    done: int = 0
    taken: int = 0
    started: float = 0.0

    def step(self) -> None:
        """Count a step that was taken, and say early on how long all will take: nobody may look at the progress."""
        self.taken += 1
        if self.taken == 1:
            self.started = perf_counter()  # the first one is slower than others
        elif self.taken == _TIMED:
            minutes = (self.total - self.done) * (perf_counter() - self.started) / (_TIMED - 1) / 60
            logger.info("Tuning takes %d steps more, about %d minutes.", self.total - self.done, math.ceil(minutes))
        self.skip(1)

    def skip(self, count: int) -> None:
        """Count steps that were taken before."""
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


@dataclass(frozen=True, slots=True)
class _States:
    """The states of the fits of one training: after each epoch, a file that is written whole, of plain numbers."""

    folder: Path | None

    def fit(
        self, layers: _Layers, epochs: Sequence[Sequence[Any]], learn: Callable[[Any], None], *, bar: _Bar, key: str
    ) -> None:
        """Take the steps of all epochs that are not done yet; `key` names all that the steps do not."""
        torch = layers.machine.torch
        # Read one after the other, what is fitted takes the same way wherever it begins.
        optimiser = torch.optim.AdamW(
            [
                {"params": list(layers.weights.values()), "lr": _RATE, "weight_decay": _DECAY},
                {"params": list(layers.head.values()), "lr": _HEAD_RATE, "weight_decay": 0.0},
            ]
        )
        total = sum(map(len, epochs))
        file = None if self.folder is None else self.folder / f"{_key(layers, epochs, key)}.safetensors"
        begin = _resumed(file, layers, optimiser) if file else 0
        done = 0
        for epoch, steps in enumerate(epochs):
            if epoch < begin:
                done += len(steps)
                bar.skip(len(steps))
                continue
            for step in steps:
                for group, rate in zip(optimiser.param_groups, (_RATE, _HEAD_RATE), strict=True):
                    group["lr"] = rate * _share(done, total)
                optimiser.zero_grad()
                learn(step)
                optimiser.step()
                done += 1
                bar.step()
            if file:
                _keep(file, layers, optimiser, epoch + 1)


def forget(folder: Path) -> None:
    """Delete the states of trainings in a folder, and the folder where nothing else is in it."""
    with suppress(OSError):
        for file in folder.glob(f"{'[0-9a-f]' * _KEY_LENGTH}.safetensors"):
            file.unlink()
        folder.rmdir()


def _share(done: int, total: int) -> float:
    """Return the share of the rate of a step: rising at first, then falling."""
    warm = max(1, round(_WARM_UP * total))
    if done < warm:
        return (done + 1) / warm
    return 1 - (1 - _LAST_RATE) * (done - warm) / max(1, total - warm)


def _parameters(layers: _Layers) -> dict[str, Any]:
    return {**layers.weights, **{f"head.{name}": value for name, value in layers.head.items()}}


def _keep(file: Path, layers: _Layers, optimiser: Any, epochs: int) -> None:
    """Write the state after so many epochs; where that fails, the training goes on without it."""
    from safetensors.numpy import save

    tensors = {}
    for name, value in _parameters(layers).items():
        state = optimiser.state.get(value, {})
        for kind, tensor in (("value", value), *((kind, state[kind]) for kind in sorted(state))):
            tensors[f"{kind} {name}"] = tensor.detach().cpu().numpy()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as stream:
            stream.write(save(tensors, metadata={"epochs": str(epochs)}))
    except OSError as error:
        logger.warning("Cannot keep the state of the tuning in %s: %s. If it is stopped, it begins anew.", file, error)


def _resumed(file: Path, layers: _Layers, optimiser: Any) -> int:
    """Take over a state if there is one, and return after how many epochs it was; a damaged one is passed over."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as kept:
            epochs = int(kept.metadata()["epochs"])
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118  (it is no mapping)
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, TypeError):
        return 0
    machine, torch = layers.machine, layers.machine.torch
    with torch.no_grad():
        for name, value in _parameters(layers).items():
            value.copy_(machine.tensor(tensors.pop(f"value {name}")))
            state = {kind: f"{kind} {name}" for kind in ("exp_avg", "exp_avg_sq", "step")}
            if state["step"] in tensors:
                optimiser.state[value] = {kind: machine.tensor(tensors[of]) for kind, of in state.items()}
                optimiser.state[value]["step"] = optimiser.state[value]["step"].cpu()
    return epochs


def _key(layers: _Layers, epochs: Sequence[Sequence[Any]], key: str) -> str:
    """Name a fit by all that decides it."""
    sequences: list[NDArray[np.generic]] = []
    for step in (step for steps in epochs for step in steps):
        for part in step:
            sequences += [part] if isinstance(part, np.ndarray) else [part.places, part.read]
    start = layers.exported(layers.machine.device).to_bytes()
    said = np.frombuffer(
        f"{_VERSION} {layers.base.pooling} {[*map(len, epochs)]} {key}".encode() + start, dtype=np.uint8
    )
    return _digest(said, *sequences)


def _digest(*arrays: NDArray[np.generic]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_KEY_LENGTH]
