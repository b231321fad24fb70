"""Sums, minima and orders within the groups of a flat array.

A group is the run of rows start_P[p] .. start_P[p + 1] - 1; every group must hold at least one row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]


def starts(group_R: NDArray[np.generic]) -> Ints:
    """Offsets of the runs of equal neighbours: [a a b] -> [0 2 3]."""
    n = len(group_R)
    if n == 0:
        return np.zeros(1, np.int64)
    change = np.flatnonzero(group_R[1:] != group_R[:-1]) + 1
    return np.concatenate(([0], change, [n])).astype(np.int64)


def owner(start_P: Ints) -> Ints:
    """The group of each row: [0 2 3] -> [0 0 1]."""
    return np.repeat(np.arange(len(start_P) - 1), np.diff(start_P))


def compress(keep_R: Bools, start_P: Ints) -> Ints:
    """Offsets after only the rows `keep_R` are left; a group may become empty."""
    counted = np.concatenate(([0], np.cumsum(keep_R)))
    return counted[start_P].astype(np.int64)


def total(value_R: NDArray[Any], start_P: Ints) -> NDArray[Any]:
    """Sum of each group."""
    return np.add.reduceat(value_R, start_P[:-1]) if len(start_P) > 1 else value_R[:0]


def lowest(value_R: Floats, start_P: Ints) -> Floats:
    """Minimum of each group."""
    return np.minimum.reduceat(value_R, start_P[:-1]) if len(start_P) > 1 else value_R[:0]


def highest(value_R: Floats, start_P: Ints) -> Floats:
    """Maximum of each group."""
    return np.maximum.reduceat(value_R, start_P[:-1]) if len(start_P) > 1 else value_R[:0]


def first_true(hit_R: Bools, start_P: Ints) -> Ints:
    """Row of the first hit of each group, -1 where a group has none."""
    hit = np.flatnonzero(hit_R)
    if len(hit) == 0:
        return np.full(len(start_P) - 1, -1, np.int64)
    at = np.minimum(np.searchsorted(hit, start_P[:-1]), len(hit) - 1)
    row_P = hit[at]
    return np.where((row_P >= start_P[:-1]) & (row_P < start_P[1:]), row_P, -1)


def first_lowest(value_R: Floats, start_P: Ints, eligible_R: Bools | None = None) -> Ints:
    """Row of the lowest value of each group, the first of equals; -1 where no row is eligible."""
    if eligible_R is not None:
        value_R = np.where(eligible_R, value_R, np.inf)
    best_R = np.repeat(lowest(value_R, start_P), np.diff(start_P))
    hit_R = value_R == best_R
    return first_true(hit_R if eligible_R is None else hit_R & eligible_R, start_P)


def order_within(value_R: NDArray[np.generic], start_P: Ints) -> Ints:
    """Rows sorted by value within each group, lowest first; equal values keep their order."""
    return np.lexsort((value_R, owner(start_P)))


def mix(key: Keys) -> Keys:
    """splitmix64: spreads the bits of each key, a bijection of the 64-bit numbers (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        key = key + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def text_keys(text_R: NDArray[np.bytes_]) -> Keys:
    """A 64-bit number per byte string (FNV-1a, then spread); the same on every machine. Final NULs do not count."""
    width = text_R.dtype.itemsize
    bytes_RT = text_R.view(np.uint8).reshape(len(text_R), width)
    ends = np.strings.str_len(text_R)
    key = np.full(len(text_R), 0xCBF29CE484222325, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(width):  # over the width of an id, not over rows
            grown = (key ^ bytes_RT[:, at]) * np.uint64(0x100000001B3)
            key = np.where(at < ends, grown, key)
    return mix(key)


def draw(seed: int, prompt_key_P: Keys, response_key_R: Keys, start_P: Ints) -> Keys:
    """One pseudo-random number per row that depends on (seed, prompt, response) alone: not on rows nor workers."""
    seeded_P = mix(prompt_key_P ^ mix(np.array([seed % 2**64], np.uint64)))
    return mix(mix(response_key_R) ^ np.repeat(seeded_P, np.diff(start_P)))
