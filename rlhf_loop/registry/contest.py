"""Comparison of two versions, or of two encoders, on today's ratings, on questions that neither was fitted on."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from time import perf_counter

import numpy as np
from sqlalchemy.engine import Engine

from rlhf_loop.config import Settings
from rlhf_loop.domain import Progress
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.runtime import resident_megabytes
from rlhf_loop.registry.versions import Version, find, fitted_questions, load
from rlhf_loop.training.comparison import Comparison, Comparisons, compare, predict
from rlhf_loop.training.data import TrainingSet, training_set
from rlhf_loop.training.train import TrainingResult, train
from rlhf_loop.utils.concurrency import spared_ctrl_c
from rlhf_loop.utils.text import html_table


@dataclass(frozen=True, slots=True)
class Contest:
    """The result of comparing two versions. `answers` to `questions` could be used; `unknown` names the versions whose
    training questions are not known: these may have seen some of the questions.
    """

    first: Version
    second: Version
    questions: int
    answers: int
    found: Comparisons
    unknown: tuple[str, ...]

    def __repr__(self) -> str:
        measured = (each for each in self.found.named().values() if each)
        said = "; ".join(f"{each.measure} {_difference(each)}" for each in measured) or "nothing can be told"
        return (
            f"Contest({self.first.version} against {self.second.version} on {self.answers} answers to "
            f"{self.questions} questions: {said})"
        )

    def _repr_html_(self) -> str:
        above = [f"{self.answers} answers to {self.questions} questions that neither was fitted on."]
        above += [f"It is not known what {name} was fitted on: it may have seen some of them." for name in self.unknown]
        rows = [
            (label, f"{of.ours:.3f}", f"{of.theirs:.3f}", _difference(of)) if of else (label, "-", "-", "-")
            for label, of in self.found.named().items()
        ]
        return html_table(("", self.first.version, self.second.version, "difference (95 %)"), rows, above=above)


def compare_models(
    engine: Engine,
    settings: Settings,
    first: str | int | Version,
    second: str | int | Version,
    *,
    encoder: TextEncoder | None = None,
    progress: Progress | None = None,
) -> Contest:
    """Compare two versions by experts' ratings, on questions that neither was fitted on; the first less the second.

    A version is known by its name, the beginning of it, or its number. Without an `encoder`, that of the settings is
    loaded. `progress` gets how much is scored, and how much there is.

    Raises:
        RegistryError: there is no such version, or several.
        ModelFileError: the file of one is missing, damaged, or of another encoder.
    """
    both = find(engine, first), find(engine, second)
    encoder = encoder or load_encoder(settings)
    models = [load(settings, version, encoder=encoder.full_id).model for version in both]
    data = training_set(engine).grouped(encoder, progress=progress)
    rows = np.ones(len(data.row), dtype=np.bool_)
    unknown = []
    for version in both:
        fitted = fitted_questions(settings, version.version)
        if fitted is None:
            unknown.append(version.version)
        else:
            rows &= ~data.seen(fitted)
    ours, theirs = (
        predict(model, data, rows, encoder, progress=_part_of_two(progress, place))
        for place, model in enumerate(models)
    )
    rows &= np.isfinite(ours) & np.isfinite(theirs)
    found = compare(data.predictions(ours[rows], rows), theirs[rows])
    return Contest(*both, len(np.unique(data.prompt[rows])), int(rows.sum()), found, tuple(unknown))


#: Rated answers that encoders are compared on: each text is new to one of them at least.
MOST_ANSWERS = 2_000
#: Texts by which their speed is measured.
_TIMED = 64


@dataclass(frozen=True, slots=True)
class EncoderResult:
    """The costs of an encoder: milliseconds for a new text on this machine, and megabytes of memory, where that can be
    told. `foreign` says what tells that it does not know the texts' language.
    """

    name: str
    dimension: int
    ms: float
    megabytes: float | None
    foreign: str | None


@dataclass(frozen=True, slots=True)
class EncoderContest:
    """The result of comparing two encoders, by recipe passages trained with each on the same ratings."""

    first: EncoderResult
    second: EncoderResult
    questions: int
    answers: int
    found: Comparisons


def compare_encoders(
    engine: Engine, settings: Settings, first: str, second: str, *, seed: int = 0, progress: Progress | None = None
) -> EncoderContest:
    """Compare two encoders, named as `RLHF_ENCODER` names them, by experts' ratings; the first less the second.

    With each a model is trained, and judged on questions that it was not fitted on. Of very many ratings a sample of
    the questions is taken. `progress` gets how much of both trainings is done, and how much there is.

    Raises:
        EncoderError: one of them is not there.
        NotEnoughDataError: too few ratings to train on.
    """
    data = training_set(engine)
    if len(data.row) > MOST_ANSWERS:
        order = np.random.default_rng(seed).permutation(int(data.prompt.max()) + 1)
        data = data.only(order[data.prompt] < len(order) * MOST_ANSWERS / len(data.row))
    results, trained = [], []
    for place, name in enumerate((first, second)):
        own = _settings_for(settings, name)
        encoder = load_encoder(own)
        of = train(data, encoder=encoder, recipe="passages", seed=seed, progress=_part_of_two(progress, place))
        results.append(_measured(encoder, own, data, of))
        trained.append(of)
    ours, theirs = (of.probability for of in trained)
    of = trained[0]
    rows = of.judged & np.isfinite(ours) & np.isfinite(theirs)
    found = compare(of.data.predictions(ours[rows], rows), theirs[rows])
    return EncoderContest(results[0], results[1], len(np.unique(of.data.prompt[rows])), int(rows.sum()), found)


def _part_of_two(progress: Progress | None, place: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(place * total + done, 2 * total)


def _settings_for(settings: Settings, name: str) -> Settings:
    """Return the settings with another encoder; a path and a precision are those of the one that they name."""
    if name == settings.encoder:
        return settings
    return replace(settings, encoder=name, encoder_path=None, encoder_precision="auto", encoder_runtime="onnxruntime")


def _measured(encoder: TextEncoder, settings: Settings, data: TrainingSet, of: TrainingResult) -> EncoderResult:
    texts = [text for question in next(iter(data.chunks())).questions for text in question.responses][:_TIMED]
    alone = encoder.uncached()
    alone.encode(texts[:1])
    started = perf_counter()
    alone.encode_passages(texts)
    ms = 1000 * (perf_counter() - started) / len(texts)
    return EncoderResult(encoder.id, encoder.dimension, ms, encoder_megabytes(settings), of.report.foreign)


def encoder_megabytes(settings: Settings) -> float | None:
    """Return what the encoder adds to the memory of a process, None where the system does not tell."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # A process of its own: in this one are other things.
    process = multiprocessing.get_context("spawn").Process(target=_send_memory, args=(sender, settings))
    with spared_ctrl_c():
        process.start()
    sender.close()
    try:
        grown: float | None = receiver.recv()
    except EOFError:
        grown = None
    finally:
        process.terminate()
        process.join()
    return grown


def _send_memory(sender: Connection[float | None, None], settings: Settings) -> None:
    import onnxruntime  # noqa: F401  (what is there with any encoder does not count)
    import tokenizers  # noqa: F401

    before = resident_megabytes()
    load_encoder(settings, download=False).uncached().encode(["A text to begin with."])
    after = resident_megabytes()
    sender.send(None if before is None or after is None else after - before)


def _difference(of: Comparison) -> str:
    by = of.difference
    return f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})"
