"""Warming of the vector cache: the answers of a file are embedded before the first request comes."""

from __future__ import annotations

import gzip
import platform
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter

from rlhf_loop.config import Settings
from rlhf_loop.domain import Progress, Question, Rating
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.cluster import EncoderCluster
from rlhf_loop.encoders.text_encoder import UnknownTextError
from rlhf_loop.encoders.vector_cache import VectorCache
from rlhf_loop.errors import ConfigError, EncoderError, ImportFileError
from rlhf_loop.exchange.formats.base import FileRow
from rlhf_loop.exchange.reader import RatingsReader
from rlhf_loop.reward import Recipe, recipe_named
from rlhf_loop.reward.model_file import load
from rlhf_loop.reward.recipes import JointRecipe, PassagesRecipe
from rlhf_loop.utils.files import TemporaryFolder
from rlhf_loop.utils.ray_engine import patient

#: The format of a file with an answer on each line, beside those of ratings files.
TEXT = "txt"
#: How many of the rows that cannot be read a report lists; all are counted.
LISTED_ROWS = 20
#: Rows at a time: bounds the memory, and what Ctrl-C can lose.
_CHUNK = 64
#: Seconds that the shared cache has to take the vectors of a chunk from a worker, which has them in memory meanwhile.
_SETTLING_S = 60.0
_TEMPORARY = "rlhf-warm-"


@dataclass(frozen=True, slots=True)
class WarmReport:
    """The counts of a warming, with the number of `answers` in the file.

    A text is whatever has a vector of its own: an answer, its title, a question, its sentences and words. `new` ones
    were computed, `known` ones were there. `invalid` lists the first of the `invalid_count` rows that were left out.
    """

    answers: int
    new: int
    known: int
    invalid_count: int
    invalid: tuple[FileRow, ...]
    seconds: float


def warm(
    path: Path,
    settings: Settings,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    progress: Progress | None = None,
    encoder: TextEncoder | None = None,
    cluster: EncoderCluster | None = None,
) -> WarmReport:
    """Embed all that a ranking of the answers in a file will look up, by the recipe of the live model.

    On a `cluster` its machines do, and the vectors go into the shared cache alone; what is there already is skipped.

    The file is a ratings file, whose ratings are not needed, or has one answer a line (`TEXT`, also gzip-compressed).
    Chunks that are done stay done, however the rest ends. A row that cannot be read is left out.

    Raises:
        ImportFileError: the file cannot be read, or nothing in it can be used.
        ModelFileError: there is a live model, but it cannot be trusted.
        EncoderError: no weights, or not the official ones; or the cache does not keep what it is given.
        ConfigError: a cluster without a shared cache.
    """
    started = perf_counter()
    if cluster is not None and not settings.cache_url:
        raise ConfigError(
            "RLHF_CACHE_URL is empty, and what a cluster embeds goes into the shared cache that it names. Set it here "
            "and on all machines, with the same RLHF_SECRET_KEY; or warm the cache of this machine: --engine local."
        )
    settings = settings if cluster is None else patient(settings)
    reader = _reader(path, format=format, columns=columns)
    encoder = encoder or load_encoder(settings)
    live = load(settings.model_path, encoder=encoder.full_id).model if settings.model_path.exists() else None
    # Which passages of an answer its tuned layers read depends on the question, so all of them.
    # A cross-encoder reads answers beside their question, which answers alone do not have.
    cross = live is not None and live.cross_encoder != "" and reader.format != TEXT
    name, layers = (live.recipe, live.tuned) if live else (PassagesRecipe.name, None)
    recipe = recipe_named(name, layers=layers, every=True, cross=cross)
    if recipe.name == JointRecipe.name and reader.format == TEXT:
        raise ImportFileError(
            f"The live model's recipe {recipe.name} embeds each answer together with its question, and "
            f"{str(path)!r} holds answers only. Give a file with the columns user_prompt and ai_response."
        )
    new = known = answers = invalid_count = 0
    invalid: list[FileRow] = []
    questions: list[Question] = []
    # Of the chunks that are being embedded: how far the file was read, a cluster has several at a time.
    positions: deque[int] = deque()

    def chunks() -> Iterator[Sequence[Question]]:
        nonlocal answers, invalid_count, questions
        rest = iter(reader)
        while rows := list(islice(rest, _CHUNK)):
            bad = [row for row in rows if row.rating is None]
            invalid_count += len(bad)
            invalid.extend(bad[: LISTED_ROWS - len(invalid)])
            ratings = [row.rating for row in rows if row.rating is not None]
            answers += len(ratings)
            positions.append(reader.position)
            questions = _questions(ratings)
            yield questions

    with closing(_warmed(recipe, chunks(), encoder, cluster)) as warmed:
        for counts in warmed:
            new, known = new + counts.new, known + counts.known
            if progress:
                progress(positions.popleft(), reader.size)
    if not answers:
        reason = f", first line {invalid[0].line}: {invalid[0].reason}" if invalid else ""
        raise ImportFileError(
            f"The file {str(path)!r} has no answer that can be used ({invalid_count} invalid rows{reason}). Correct it."
        )
    if cluster is None:
        _check_kept(recipe, questions, encoder, settings)
    else:
        _check_shared(recipe, questions, encoder)
    return WarmReport(
        answers=answers,
        new=new,
        known=known,
        invalid_count=invalid_count,
        invalid=tuple(invalid),
        seconds=perf_counter() - started,
    )


@dataclass(frozen=True, slots=True)
class _Counts:
    """The counts of a chunk's texts: those that were computed, and those that were there."""

    new: int
    known: int


def _warmed(
    recipe: Recipe, chunks: Iterable[Sequence[Question]], encoder: TextEncoder, cluster: EncoderCluster | None
) -> Generator[_Counts, None, None]:
    if cluster is not None:
        yield from cluster.do(partial(_Sharer, recipe), chunks, encoder=encoder.full_id)
    else:
        yield from (_warm(recipe, encoder, questions) for questions in chunks)


def _warm(recipe: Recipe, encoder: TextEncoder, questions: Sequence[Question]) -> _Counts:
    new, known = encoder.computed, encoder.remembered
    # Through the features themselves, although nobody wants them here: so nothing can be looked up but not warmed.
    recipe.features(questions, encoder)
    return _Counts(encoder.computed - new, encoder.remembered - known)


class _Sharer:
    """A worker that fills the shared cache from a machine of a cluster, with what is not there yet."""

    def __init__(self, recipe: Recipe, encoder: TextEncoder) -> None:
        if encoder.shared is None:
            raise ConfigError(
                f"RLHF_CACHE_URL is not set on the machine {platform.node()!r} of the cluster, where ray start ran. "
                "Set it there, with RLHF_SECRET_KEY, and start Ray anew."
            )
        self._recipe, self._shared = recipe, encoder.shared
        # With an empty cache before it: of what this machine knew before, the others would never hear.
        self._folder = TemporaryFolder(_TEMPORARY)
        self._encoder = encoder.with_cache(VectorCache(self._folder.path / "vectors.db", shared=self._shared))

    def __call__(self, questions: Sequence[Question]) -> _Counts:
        """Embed what is new, and wait until the server has it."""
        counts = _warm(self._recipe, self._encoder, questions)
        self._shared.settle(within_s=_SETTLING_S)
        if lost := self._shared.take_counts().get("dropped", 0):
            raise EncoderError(_unshared(f"{lost} vectors of {platform.node()!r} were lost", self._shared.state()))
        return counts


def _check_shared(recipe: Recipe, questions: Sequence[Question], encoder: TextEncoder) -> None:
    """Look the last chunk up as a machine that serves would: with another key it finds nothing."""
    with TemporaryFolder(_TEMPORARY) as folder:
        counts = _warm(recipe, encoder.with_cache(VectorCache(folder / "vectors.db", shared=encoder.shared)), questions)
    if counts.new:
        state = encoder.shared.state() if encoder.shared else ""
        raise EncoderError(_unshared(f"{counts.new} texts of the last rows are not found there", state))


def _unshared(what: str, state: str) -> str:
    return (
        f"The shared vector cache does not keep what it is given: {what}{state and f' ({state})'}. Give all machines "
        "the same RLHF_CACHE_URL and RLHF_SECRET_KEY, look whether the server has memory (rlhf-loop doctor), and run "
        "the same command again."
    )


def _check_kept(recipe: Recipe, questions: Sequence[Question], encoder: TextEncoder, settings: Settings) -> None:
    """Look the last chunk up again: a cache that cannot be written only says so in the log, as serving goes on."""
    try:
        recipe.features(questions, encoder.only_known())
    except UnknownTextError as error:
        raise EncoderError(
            f"The vector cache in {settings.cache_dir} does not keep what it is given: of the last rows {error} The "
            "log has the reason. Set RLHF_CACHE_DIR to a folder that can be written, or raise RLHF_CACHE_MAX_MB."
        ) from error


class _TextReader(RatingsReader):
    """Reads a file with an answer on each line; blank lines do not count."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, format="jsonl")
        self.format = TEXT

    def __iter__(self) -> Iterator[FileRow]:
        with ExitStack() as stack:
            try:
                for line, raw in enumerate(self._open(stack), start=1):
                    yield from _text_row(line, raw)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ImportFileError(f"The file {str(self.path)!r} is damaged: {error}. Make it anew.") from error


def _text_row(line: int, raw: bytes) -> Iterator[FileRow]:
    try:
        text = raw.decode("utf-8-sig" if line == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        yield FileRow(line, None, f"byte {error.start + 1} of the line is not UTF-8")
    else:
        if text:
            yield FileRow(line, Rating("", text))


def _reader(path: Path, *, format: str | None, columns: Mapping[str, str] | None) -> RatingsReader:
    if format == TEXT or (format is None and path.name.lower().removesuffix(".gz").endswith(f".{TEXT}")):
        if columns:
            raise ImportFileError(f"The file {str(path)!r} is read line by line: it has no columns. Omit --column.")
        return _TextReader(path)
    return RatingsReader(path, format=format, columns=columns)


def _questions(ratings: Sequence[Rating]) -> list[Question]:
    """Put the answers to a question together; answers alone belong to the empty one."""
    answers: dict[str, list[str]] = {}
    for rating in ratings:
        answers.setdefault(rating.user_prompt, []).append(rating.ai_response)
    return [Question(prompt, tuple(texts)) for prompt, texts in answers.items()]
