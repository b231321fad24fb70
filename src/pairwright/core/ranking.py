"""One order over all pairs that depends on their numbers and ids alone, and caps along it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints

Codes = NDArray[np.generic]
Caps = NDArray[np.int8]
Ties = Callable[[Ints], Sequence[Codes]]


def ordered(first_I: Floats, ties: Ties) -> Ints:
    """Rows by `first_I`, ascending; rows that are equal there by the keys that `ties` gives for them, in turn.

    `ties` sees row numbers and returns one array per key; only tied rows are ever asked for.
    """
    order = np.argsort(first_I)
    if len(order) < 2:
        return order
    ranked_I = first_I[order]
    same = ranked_I[1:] == ranked_I[:-1]
    del ranked_I
    tied = np.zeros(len(order), bool)
    tied[1:] |= same
    tied[:-1] |= same
    at = np.flatnonzero(tied)
    if not len(at):
        return order
    begins = np.concatenate(([True], ~same))
    del same, tied
    group = np.cumsum(begins, dtype=np.uint32)[at]  # rows fit: ranks are 32 bits too
    rows = order[at]
    keys = list(ties(rows))
    order[at] = rows[np.lexsort((*reversed(keys), group))]
    return order


def place_within(code_I: Codes) -> Ints:
    """0, 1, 2 ... for the first, second, third row of each code, in the order in which the rows stand."""
    order = np.argsort(code_I, kind="stable")
    ranked_I = code_I[order]
    first = np.flatnonzero(np.concatenate(([True], ranked_I[1:] != ranked_I[:-1]))) if len(order) else order
    size = np.diff(np.concatenate((first, [len(order)])))
    place_I = np.empty(len(order), np.int64)
    place_I[order] = np.arange(len(order)) - np.repeat(first, size)
    return place_I


def take(k: int, caps: Sequence[tuple[Codes, int]], n: int) -> tuple[Bools, Caps]:
    """The first k of n rows that no cap forbids, as a greedy walk; and per row the cap that stopped it, -1 for none.

    A cap (code per row, m) allows m kept rows of one code. The caps do not depend on k, so what is kept for a smaller k
    is kept for a larger one.
    """
    keep_I: Bools = np.zeros(n, bool)
    stopped_I: Caps = np.full(n, -1, np.int8)
    if not caps:
        keep_I[: max(k, 0)] = True
        return keep_I, stopped_I
    if len(caps) == 1:
        code_I, most = caps[0]
        free_I = place_within(code_I) < most
        keep_I = free_I & (np.cumsum(free_I) <= k)
        reached = n if keep_I.sum() < k else int(np.flatnonzero(keep_I)[-1]) + 1 if keep_I.any() else 0
        stopped_I[:reached][~free_I[:reached]] = 0
        return keep_I, stopped_I
    return _walk(k, caps, n, keep_I, stopped_I)


def _walk(k: int, caps: Sequence[tuple[Codes, int]], n: int, keep_I: Bools, stopped_I: Caps) -> tuple[Bools, Caps]:
    used: list[dict[object, int]] = [{} for _ in caps]
    codes = [code_I.tolist() for code_I, _ in caps]
    kept = 0
    for row in range(n):
        if kept >= k:
            break
        names = [code[row] for code in codes]
        stop = next((c for c, name in enumerate(names) if used[c].get(name, 0) >= caps[c][1]), -1)
        if stop >= 0:
            stopped_I[row] = stop
            continue
        for c, name in enumerate(names):
            used[c][name] = used[c].get(name, 0) + 1
        keep_I[row] = True
        kept += 1
    return keep_I, stopped_I
