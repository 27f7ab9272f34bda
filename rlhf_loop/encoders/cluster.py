"""Encoders on a cluster of Ray: each worker loads one, and all have the vectors that the command's own would have."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from rlhf_loop.config import Settings
from rlhf_loop.encoders import choose, load_encoder
from rlhf_loop.encoders.text_encoder import TextEncoder
from rlhf_loop.errors import EncoderError
from rlhf_loop.utils.ray_engine import for_workers, on_cluster, with_shared_cache

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class EncoderCluster:
    """A cluster: its address (None: the one that Ray finds), and how many work there at most (0: as many as cores).

    `settings` are those of the encoder that `load` loads in each worker; passwords and keys stay here.
    """

    settings: Settings
    address: str | None = None
    workers: int = 0
    load: Callable[[Settings], TextEncoder] = load_encoder

    def do(
        self, make: Callable[[TextEncoder], Callable[[_Item], _Result]], items: Iterable[_Item], *, encoder: str
    ) -> Generator[_Result, None, None]:
        """Do items on whichever machine is free, by what `make` makes of its encoder of that id; yield in order.

        Raises:
            EncoderError: a machine has no encoder, or another one.
            MissingExtraError, RlhfLoopError: see `on_cluster`.
        """
        # Which precision suits the processor is asked here alone: all vectors are of one.
        precision = choose(self.settings).precision
        settings = replace(for_workers(self.settings), encoder_threads=1, encoder_precision=precision)
        loaded = partial(_with_encoder, make, self.load, settings, encoder)
        return on_cluster(loaded, items, workers=self.workers, address=self.address)


def _with_encoder(
    make: Callable[[TextEncoder], Callable[[_Item], _Result]],
    load: Callable[[Settings], TextEncoder],
    settings: Settings,
    id: str,
) -> Callable[[_Item], _Result]:
    encoder = load(with_shared_cache(settings))
    if encoder.full_id != id:
        raise EncoderError(
            f"The machine {platform.node()!r} of the cluster has the encoder {encoder.full_id}, and {id} was asked "
            "for. Install the same weights on all machines."
        )
    return make(encoder)
