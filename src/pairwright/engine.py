"""Maps a function over shards, in this process or in several on this machine, or over a stream in threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

R = TypeVar("R")
T = TypeVar("T")


def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int = 2) -> Iterator[R]:
    """function(item) of a stream, in its order, with `threads` items worked on while the caller has the one before.

    For work that leaves Python's lock, as NumPy and Polars do. At most threads + 1 results wait.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def over_shards(function: Callable[[int], R], shards: Sequence[int], *, workers: int = 1) -> Iterator[tuple[int, R]]:
    """(shard, result) in the order in which they are finished. With several workers `function` must be picklable."""
    if workers <= 1 or len(shards) <= 1:
        for shard in shards:
            yield shard, function(shard)
        return
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(function, shard): shard for shard in shards}
        for done in as_completed(pending):
            yield pending[done], done.result()
