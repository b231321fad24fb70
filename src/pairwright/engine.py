"""Maps a function over shards: in this process, or in several on this machine. Results come as they are finished."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

R = TypeVar("R")


def over_shards(function: Callable[[int], R], shards: Sequence[int], *, workers: int = 1) -> Iterator[tuple[int, R]]:
    """(shard, result) as they are finished. With several workers `function` must be picklable."""
    if workers <= 1 or len(shards) <= 1:
        for shard in shards:
            yield shard, function(shard)
        return
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(function, shard): shard for shard in shards}
        for done in as_completed(pending):
            yield pending[done], done.result()
