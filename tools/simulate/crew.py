"""Runs side by side, a process for each core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from rlhf_loop.config import Settings
from rlhf_loop.encoders import TextEncoder, load_encoder
from rlhf_loop.encoders.runtime import cores
from tools.simulate.loop import Run, run
from tools.simulate.raters import Arm
from tools.simulate.world import plan, read_world


@dataclass(frozen=True, slots=True)
class Job:
    """One run: which data, for how many weeks, from which on the new topic is, the seed and the arm."""

    data: str
    weeks: int
    drift: int
    seed: int
    arm: Arm


#: Of each process, as each has its own.
_encoder: list[TextEncoder] = []


def run_all(jobs: Sequence[Job], encoder: TextEncoder, *, alone: bool) -> Iterator[Run]:
    """Yield the runs in order; `alone` keeps all of them in this process."""
    _encoder[:] = [encoder]
    if alone:
        yield from map(_run, jobs)
        return
    # The first by itself: it leaves all vectors in the cache, which the others would each compute.
    yield _run(jobs[0])
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn"), initializer=_load) as pool:
        yield from pool.map(_run, jobs[1:])


def _load() -> None:
    _encoder[:] = [load_encoder(replace(Settings.from_env(), encoder_threads=1))]


def _run(job: Job) -> Run:
    (encoder,) = _encoder
    of = plan(read_world(job.data, encoder), weeks=job.weeks, drift=job.drift, seed=job.seed)
    return run(of, job.arm, seed=job.seed, encoder=encoder)
