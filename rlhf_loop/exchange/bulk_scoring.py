"""Bulk scoring of the candidates in a file or folder, part by part, on one machine or on a cluster.

A part is scored by `PartScorer`, which is the same on both engines, and is written whole under its name. So a run that
was killed goes on with the parts that are not there, and whoever scores a part twice writes the same file. What
identifies a run stands in `_score.json` beside the parts: the input's files, and the sum of the model.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import islice
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from rlhf_loop.config import Settings
from rlhf_loop.domain import Candidate, Progress, Ranking
from rlhf_loop.encoders import load_encoder
from rlhf_loop.encoders.runtime import cores
from rlhf_loop.errors import ImportFileError, ModelFileError, RlhfLoopError
from rlhf_loop.exchange.candidate_files import (
    SCORED,
    Columns,
    Staged,
    bad_rows_writer,
    input_files,
    place_of,
    read_staged,
    stage,
    staged_name,
    texts_of,
    translated,
)
from rlhf_loop.ranking import Ranker, WithoutModel, is_off
from rlhf_loop.reward.model_file import StoredModel, put, verified
from rlhf_loop.utils.concurrency import single_threaded_blas, spared_ctrl_c
from rlhf_loop.utils.extras import require
from rlhf_loop.utils.files import TemporaryFolder
from rlhf_loop.utils.object_store import Place, shown
from rlhf_loop.utils.ray_engine import for_workers, on_cluster, with_shared_cache
from rlhf_loop.utils.text import clause

require("pyarrow", "index")  # before the imports, which would only name a module

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pyarrow import fs  # noqa: E402

#: Files of the output that are no part of it, which readers of a folder of Parquet pass over for their first character.
RUN_FILE, BAD_ROWS_FILE = "_score.json", "_bad_rows.jsonl"
_WORK, _LOCK, _TEMPORARY = "_work", ".score.lock", "rlhf-score-"
#: Rows of a part, of small inputs: a few seconds of a core where all texts are new.
PART_ROWS = 2000
#: The key of Parquet's metadata under which a part has its run.
_RUN = b"rlhf_run"
#: Rows of a piece in which a part is written.
_ROW_GROUP = 50_000
_AGAIN = "Remove the folder to begin anew, or name another OUTPUT."


class Engine(StrEnum):
    """The place where parts are scored: processes of this machine, or a cluster of Ray."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """The result of a bulk scoring: `known_rows` of the rows were scored by an earlier run of the same."""

    rows: int
    known_rows: int
    bad_rows: int
    parts: int
    model_version: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """A scoring as its workers get it, wherever they run: all but the rows."""

    output: str
    settings: Settings
    model: StoredModel | None
    model_version: str
    columns: Columns
    schema: bytes
    sizes: Mapping[int, int]
    make_ranker: Callable[[Settings], Ranker]
    #: What tells the parts of this run from those of another one.
    run: str
    #: The folder of the model's file, where all workers are on one machine.
    folder: str | None


def bulk_ranker(settings: Settings) -> Ranker:
    """Return a ranker whose vectors do not depend on what else is embedded, so that each worker computes the same."""
    return Ranker(settings, encoder=load_encoder(settings, serving=True).singly())


def score_dataset(
    input: str | Path,
    output: str | Path,
    settings: Settings | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    engine: str = Engine.LOCAL,
    workers: int = 0,
    address: str | None = None,
    part_rows: int = PART_ROWS,
    progress: Callable[[str, str], Progress] | None = None,
    make_ranker: Callable[[Settings], Ranker] = bulk_ranker,
) -> ScoreReport:
    """Score and rank each candidate of a dataset, as `rerank_candidates` does, and write the result as Parquet.

    Args:
        input: a file or folder of Parquet, JSONL or CSV, or its address in an object store (s3://, gs://, abfs://). A
            row is a candidate (question, text, and group where a question is asked more than once), or a question with
            a list of candidates.
        output: a folder, which gets the input's columns with `score`, `rank` and `model_version`. Of a run that was
            stopped, the same call does what is left.
        settings: by default those of the environment.
        columns: names of the columns, by field (question, text, group, candidates).
        engine: local, with processes of this machine, or ray. A program that calls this with several workers needs
            `if __name__ == "__main__":`, as Python's own process pools do.
        workers: processes, or cores of the cluster, at most; 0 means all cores, 1 on one machine none but this process.
        address: of a Ray cluster; by default the one that Ray finds, or one of its own here.
        part_rows: candidates in a part, about; more in inputs of many millions.
        progress: gets what is done now and the unit that it is counted in, and returns what takes how much is done.
        make_ranker: for an encoder of one's own: makes the ranker in each worker, from settings with its model.

    Raises:
        ImportFileError: the input cannot be read, the output is something else or of another input or model.
        ModelFileError: there is no model, it cannot be trusted, or it is switched off.
        MissingExtraError: Ray is not installed.
    """
    started = perf_counter()
    chosen = _checked_engine(engine, workers=workers, address=address, part_rows=part_rows)
    settings = settings or Settings.from_env()
    source, target = place_of(input), place_of(output)
    _refuse_overlap(source, target)
    with translated(output), ExitStack() as stack:
        if (here := target.local) is not None:
            if here.exists() and not here.is_dir():
                raise ImportFileError(f"{str(here)!r} is a file. The result is a folder; name another OUTPUT.")
            here.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(here / _LOCK, timeout=0))
            except Timeout:
                raise ImportFileError(f"Another run writes to {str(here)!r} now. Wait for it, or stop it.") from None
        with translated(input):
            format, files = input_files(source)
        identity = {
            "input": [[_within(source, file.path), file.size, file.modified] for file in files],
            "columns": dict(sorted((columns or {}).items())),
        }
        model = verified(settings.model_path) if settings.model_path.exists() else None
        worker_settings = replace(for_workers(settings), encoder_threads=1)
        folder = stack.enter_context(TemporaryFolder(_TEMPORARY))
        version = _version(worker_settings, model, make_ranker, folder)
        run = _begun(target, identity, version, model)
        if run is None:
            said = progress and progress("Reading", "bytes")
            staged = _staged(target, stack, part_rows, said, source, format, files, columns or {})
            with translated(input):
                again = input_files(source)
            if (format, files) != again:
                raise ImportFileError(
                    f"{shown(input)!r} was changed while it was read. Run this again when it is whole."
                )
            run = _noted(target, identity, version, model, staged)
        job = Job(
            output=str(output) if here is None else str(here),
            settings=worker_settings,
            model=model,
            model_version=version,
            columns=Columns(**run["fields"]),
            schema=b64decode(run["schema"]),
            sizes={int(part): rows for part, rows in run["parts"].items()},
            make_ranker=make_ranker,
            run=run.get("run", ""),
            folder=str(folder) if chosen == Engine.LOCAL else None,
        )
        known = _finished(target, job)
        total, done = sum(job.sizes.values()), sum(known.values())
        report = progress("Scoring", "rows") if progress else lambda done, total: None
        report(done, total)
        left = sorted(job.sizes.keys() - known.keys())
        if left and run.get("finished"):
            raise ImportFileError(f"Parts of the finished result in {shown(output)!r} are gone. {_AGAIN}")
        if left:
            with closing(_scored(chosen, job, left, workers=workers, address=address)) as scored:
                for rows in scored:
                    done += rows
                    report(done, total)
                    _refuse_off(settings)
                    _refuse_other(target, job)
        if not run.get("finished"):
            if missing := sorted(job.sizes.keys() - _finished(target, job).keys()):
                raise ImportFileError(f"{len(missing)} parts in {shown(output)!r} are not whole. Run this again.")
            _write_run(target, run | {"finished": True})
            target.files.delete_dir(target.inside(_WORK).path)
    return ScoreReport(
        rows=total,
        known_rows=sum(known.values()),
        bad_rows=run["bad_rows"],
        parts=len(job.sizes),
        model_version=version,
        seconds=perf_counter() - started,
    )


def _checked_engine(engine: str, *, workers: int, address: str | None, part_rows: int) -> Engine:
    try:
        chosen = Engine(engine)
    except ValueError:
        raise ValueError(f"engine={engine!r} is not a valid engine. Choose from: {', '.join(Engine)}.") from None
    if address is not None and chosen != Engine.RAY:
        raise ValueError(f"address={address!r} is that of a Ray cluster. Add engine='ray', or omit it.")
    if workers < 0 or part_rows < 1:
        raise ValueError(f"workers={workers}, part_rows={part_rows}: they are not valid numbers. Give 1 or more.")
    return chosen


def _refuse_overlap(source: Place, target: Place) -> None:
    one, two = (Path(os.path.realpath(of.path)) if of.local else Path(of.path) for of in (source, target))
    if type(source.files) is type(target.files) and (one == two or one in two.parents or two in one.parents):
        raise ImportFileError(
            f"The output {target.path!r} and the input {source.path!r} lie in each other. Name another OUTPUT."
        )


def _within(source: Place, path: str) -> str:
    return path.removeprefix(source.path).lstrip("/") or Path(path).name


def _refuse_off(settings: Settings) -> None:
    if is_off(settings.model_path):
        raise ModelFileError(
            f"The model at {settings.model_path} is switched off, so nothing can be scored; what was scored before is "
            "kept. Switch it on again: rlhf-loop models on"
        )


def _version(
    settings: Settings, model: StoredModel | None, make_ranker: Callable[[Settings], Ranker], folder: Path
) -> str:
    _refuse_off(settings)
    if model is None and settings.rerank_without_model != WithoutModel.PRIOR:
        raise ModelFileError(
            f"There is no reward model at {settings.model_path}, so nothing can be scored. Train one (rlhf-loop "
            "train), set RLHF_MODEL_PATH to where it is, or have the prior score: RLHF_RERANK_WITHOUT_MODEL=prior"
        )
    rank = _pinned(settings, model, make_ranker, folder)
    return rank("Which?", [Candidate("This.")]).model_version or ""


def _pinned(
    settings: Settings, model: StoredModel | None, make_ranker: Callable[[Settings], Ranker], folder: Path
) -> Callable[[str, Sequence[Candidate]], Ranking]:
    """Return what ranks by this very model, whichever is promoted meanwhile, or by the prior; `folder` gets a file."""
    path = folder / "model.joblib"
    if model is None:
        return make_ranker(replace(settings, model_path=path)).ranking_by_prior
    if not path.exists():
        put(model, path)
    return make_ranker(replace(settings, model_path=path)).ranking


def _begun(
    target: Place, identity: Mapping[str, Any], version: str, model: StoredModel | None
) -> dict[str, Any] | None:
    """Return the run of which the folder has the beginning or all, None if it is empty.

    Raises:
        ImportFileError: the folder holds something else, or a run of another input or model.
    """
    names = target.names()
    if RUN_FILE not in names:
        if foreign := sorted(names - {_WORK, _LOCK, BAD_ROWS_FILE}):
            raise ImportFileError(f"{target.path!r} is not empty, and no run of this: {foreign[0]!r}. {_AGAIN}")
        return None
    try:
        run: dict[str, Any] = json.loads(target.inside(RUN_FILE).read())
        before, of_model = run["identity"], (run["model_version"], run["model_sha256"])
    except (ValueError, KeyError, TypeError):
        raise ImportFileError(f"{target.inside(RUN_FILE).path!r} cannot be read. {_AGAIN}") from None
    if before["columns"] != identity["columns"]:
        raise ImportFileError(f"{target.path!r} was begun with the columns {before['columns']}. {_AGAIN}")
    if before["input"] != identity["input"]:
        changed = {each[0] for each in before["input"] if each not in identity["input"]}
        changed |= {each[0] for each in identity["input"] if each not in before["input"]}
        raise ImportFileError(
            f"The input is not the one that {target.path!r} was begun with: {sorted(changed)[0]!r} is new, gone or was "
            f"written to. {_AGAIN}"
        )
    if of_model != (version, model and model.sha256):
        raise ImportFileError(
            f"{target.path!r} was begun with the model {of_model[0]}, and {version} is live now; one result is of one "
            f"model. {_AGAIN} Or promote that one again (rlhf-loop models promote)."
        )
    return run


def _staged(
    target: Place,
    stack: ExitStack,
    part_rows: int,
    progress: Progress | None,
    source: Place,
    format: str,
    files: Sequence[Any],
    columns: Mapping[str, str],
) -> Staged:
    """Stage the input in the folder of the run; what goes to an object store is made whole on this machine first."""
    work, here = target.inside(_WORK), target.local
    if _WORK in target.names():
        target.files.delete_dir(work.path)
    target.files.create_dir(work.path)
    folder = Path(work.path) if here else stack.enter_context(TemporaryFolder(_TEMPORARY))
    draft = folder / BAD_ROWS_FILE
    with draft.open("wb") as stream:
        staged = stage(
            source,
            format,
            files,
            columns=columns,
            folder=folder,
            part_rows=part_rows,
            bad_row=bad_rows_writer(stream),
            progress=progress,
        )
    bad = target.inside(BAD_ROWS_FILE)
    if staged.bad_rows:
        fs.copy_files(str(draft), work.inside("bad").path, fs.LocalFileSystem(), target.files)
        target.files.move(work.inside("bad").path, bad.path)
    elif BAD_ROWS_FILE in target.names():
        target.files.delete_file(bad.path)
    draft.unlink()
    if not here:
        fs.copy_files(str(folder), work.path, fs.LocalFileSystem(), target.files)
        shutil.rmtree(folder)
    return staged


def _noted(
    target: Place, identity: Mapping[str, Any], version: str, model: StoredModel | None, staged: Staged
) -> dict[str, Any]:
    run = {
        "identity": identity,
        "run": secrets.token_hex(8),
        "model_version": version,
        "model_sha256": model and model.sha256,
        "fields": asdict(staged.columns),
        "bad_rows": staged.bad_rows,
        "schema": b64encode(staged.schema.serialize().to_pybytes()).decode(),
        "parts": dict(sorted(staged.sizes.items())),
    }
    _write_run(target, run)
    return json.loads(json.dumps(run))  # type: ignore[no-any-return]


def _write_run(target: Place, run: Mapping[str, Any]) -> None:
    target.inside(RUN_FILE).write(json.dumps(run, indent=1).encode(), by=target.inside(_WORK).inside("run"))


def _part_name(part: int) -> str:
    return f"part-{part:05}.parquet"


def _refuse_other(target: Place, job: Job) -> None:
    """Stop if another run has begun in the folder: no lock reaches from one machine to another in an object store."""
    if json.loads(target.inside(RUN_FILE).read()).get("run", "") != job.run:
        raise ImportFileError(f"Another run writes to {target.path!r} now. Name another OUTPUT for one of them.")


def _finished(target: Place, job: Job) -> dict[int, int]:
    """Return the parts that are there, with their rows; one that a crash of the machine has cut is not.

    In an object store nothing is ever cut, and to look at each part would take minutes.
    """
    names, found = target.names(), {}
    for part, rows in job.sizes.items():
        name = _part_name(part)
        if name in names and (target.local is None or _is_whole(target.inside(name), rows, job.run)):
            found[part] = rows
    return found


def _is_whole(part: Place, rows: int, run: str) -> bool:
    try:
        with part.files.open_input_file(part.path) as stream:
            found = pq.read_metadata(stream)
    except (pa.ArrowException, OSError):
        return False
    return bool(found.num_rows == rows and (found.metadata or {}).get(_RUN, b"").decode() == run)


def _scored(
    engine: Engine, job: Job, parts: Sequence[int], *, workers: int, address: str | None
) -> Generator[int, None, None]:
    """Score parts; yield the rows of each once it is written."""
    if engine == Engine.RAY:
        yield from on_cluster(partial(PartScorer, job), parts, workers=workers, address=address)
    elif workers == 1 or len(parts) == 1:
        yield from map(PartScorer(job), parts)
    else:
        yield from _in_processes(job, parts, workers=min(workers or cores(), len(parts)))


class PartScorer:
    """Scores parts of a job: reads a staged part, ranks question by question, and writes the result whole."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._target = place_of(job.output)
        self._schema = pa.ipc.read_schema(pa.py_buffer(job.schema))
        folder = job.folder
        if folder is None:
            # For as long as this: a ranker looks at its model's file again and again.
            self._own = TemporaryFolder(_TEMPORARY)
            folder = str(self._own.path)
        self._rank = _pinned(with_shared_cache(job.settings), job.model, job.make_ranker, Path(folder))

    def __call__(self, part: int) -> int:
        """Score a part, unless it is there; return its rows.

        Raises:
            ImportFileError: the staged rows are not there, or the result cannot be written.
        """
        rows = self._job.sizes[part]
        work, whole = self._target.inside(_WORK), self._target.inside(_part_name(part))
        with translated(self._job.output):
            if _is_whole(whole, rows, self._job.run):
                return rows  # whoever did it was lost before it could say so
            table = read_staged(work.inside(staged_name(part)), schema=self._schema)
            if len(table) != rows:
                raise ImportFileError(
                    f"Part {part} of {shown(self._job.output)!r} has {len(table)} staged rows, not {rows}. {_AGAIN}"
                )
            columns = self._job.columns
            with single_threaded_blas():  # so many workers as cores
                scored = self._lists(table) if columns.candidates else self._rows(table)
            table = table.append_column(SCORED[0], scored[0]).append_column(SCORED[1], scored[1])
            table = table.append_column(SCORED[2], pa.array([self._job.model_version] * rows, pa.string()))
            table = table.replace_schema_metadata({_RUN: self._job.run} if self._job.run else None)
            draft = work.inside(f"{_part_name(part)}.{secrets.token_hex(4)}")
            with draft.files.open_output_stream(draft.path) as stream:
                pq.write_table(table, stream, row_group_size=_ROW_GROUP)
            self._target.files.move(draft.path, whole.path)
        return rows

    def _rows(self, table: Any) -> tuple[Any, Any]:
        columns = self._job.columns
        texts, questions = (table.column(name).to_pylist() for name in (columns.text, columns.question))
        groups = table.column(columns.group).to_pylist() if columns.group else [None] * len(texts)
        together: dict[tuple[str | None, str], list[int]] = {}
        for row, (group, question) in enumerate(zip(groups, questions, strict=True)):
            together.setdefault((None if group is None else str(group), question), []).append(row)
        scores, ranks = np.empty(len(texts)), np.empty(len(texts), dtype=np.int32)
        for (_, question), places in together.items():
            scores[places], ranks[places] = self._ranked(question, [texts[row] for row in places])
        return pa.array(scores), pa.array(ranks)

    def _lists(self, table: Any) -> tuple[Any, Any]:
        columns = self._job.columns
        scores, ranks = [], []
        for question, given in zip(
            table.column(columns.question).to_pylist(), table.column(columns.candidates).to_pylist(), strict=True
        ):
            of_row = self._ranked(question, texts_of(given))
            scores.append(of_row[0])
            ranks.append(of_row[1])
        return pa.array(scores, pa.list_(pa.float64())), pa.array(ranks, pa.list_(pa.int32()))

    def _ranked(self, question: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """Return scores and ranks of a question's candidates, in their order."""
        ranking = self._rank(question, [Candidate(text) for text in texts])
        if ranking.model_version != self._job.model_version:
            raise ModelFileError(
                f"{ranking.model_version} ranks here, and the run was begun with {self._job.model_version}. Give all "
                "machines the same settings."
            )
        order = sorted(ranking.candidates, key=lambda each: each.position)
        return [each.score or 0.0 for each in order], [each.rank for each in order]


_scorer: PartScorer | None = None


def _start_worker(job: Job) -> None:
    global _scorer  # one a process is what a pool is for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `spared_ctrl_c` cannot spare it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scorer = PartScorer(job)


def _end_with_parent() -> None:
    """End this process if the one that started it was killed: nothing else would."""
    if (parent := multiprocessing.parent_process()) is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _score_part(part: int) -> int:
    return _scorer(part) if _scorer else 0


def _in_processes(job: Job, parts: Iterable[int], *, workers: int) -> Iterator[int]:
    """Score parts in processes that are started anew: a fork would copy threads of libraries that are at work."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job,))
    rest, before = iter(parts), set(multiprocessing.active_children())
    try:
        with spared_ctrl_c():
            waiting = {pool.submit(_score_part, part) for part in islice(rest, 2 * workers)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()
            with spared_ctrl_c():
                waiting |= {pool.submit(_score_part, part) for part in islice(rest, len(done))}
    except BrokenProcessPool as error:
        raise RlhfLoopError(
            f"A process that scored ended ({clause(error)}), as if memory had run out or somebody had killed it. What "
            "is done is kept: the same command goes on, with fewer of them (--workers) if memory is short."
        ) from error
    except BaseException:
        # What is under way would take up to minutes, and is scored by the next run.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    pool.shutdown()
