"""Single judgements collapsed into compared pairs: the data form of graphs, ratings and robust fits.

A batch holds many small problems, one per prompt. Items are numbered through the batch: those of prompt p are
item_start_P[p] .. item_start_P[p + 1] - 1. Suffixes: V single judgements, I compared pairs, R items, P prompts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints, owner
from pairwright.errors import DataError


class Comparisons(NamedTuple):
    """One row per compared pair (and order of presentation, if kept), sorted by left, right: so also by prompt."""

    left_I: Ints  # item, the lower number of the two
    right_I: Ints
    wins_I: Floats  # votes for left, a tie counts 1/2
    votes_I: Floats  # K
    ties_I: Floats  # of the votes
    first_I: Floats  # 1: left was shown first, -1: right was, 0: unknown or merged
    item_start_P: Ints


class Dropped(NamedTuple):
    """Judgements that are no vote: n_in = votes used + missing + weightless."""

    missing: int  # outcome nan
    weightless: int  # weight 0


def gather(
    left_V: Ints,
    right_V: Ints,
    outcome_V: Floats,
    item_start_P: Ints,
    *,
    weight_V: Floats | None = None,
    ordered: bool = False,
) -> tuple[Comparisons, Dropped]:
    """Sums judgements into pairs with left < right. Outcome 1: left won, 0: right won, 0.5: tie, nan: dropped, counted.

    `weight_V` is worth in votes (a rater's weight). With `ordered` the item given as left is the one that was shown first,
    and the two orders of a pair stay rows of their own.
    """
    weight_V = np.ones(len(outcome_V)) if weight_V is None else np.asarray(weight_V, np.float64)
    missing_V = np.isnan(outcome_V)
    _check(left_V, right_V, np.where(missing_V, 0.5, outcome_V), weight_V, item_start_P)
    used = np.flatnonzero(~missing_V & (weight_V > 0))
    left, right, outcome, weight = left_V[used], right_V[used], outcome_V[used], weight_V[used]
    swap = left > right
    low, high = np.where(swap, right, left), np.where(swap, left, right)
    for_low = np.where(swap, 1 - outcome, outcome)
    first = np.where(swap, -1.0, 1.0) if ordered else np.zeros(len(used))
    row_V, kept = _rows(3 * _slot(low, high, item_start_P) + (1 - first).astype(np.int64))
    n = len(kept)
    pairs = Comparisons(
        low[kept].astype(np.int64),
        high[kept].astype(np.int64),
        sum_at(row_V, weight * for_low, n),
        sum_at(row_V, weight, n),
        sum_at(row_V, weight * (outcome == 0.5), n),
        first[kept],
        np.asarray(item_start_P, np.int64),
    )
    return pairs, Dropped(int(missing_V.sum()), int((~missing_V & (weight_V == 0)).sum()))


def _slot(low: Ints, high: Ints, item_start_P: Ints) -> Ints:
    """Place of a pair in the list of all pairs of the batch."""
    later_R = item_start_P[1:][owner(item_start_P)] - 1 - np.arange(int(item_start_P[-1]))
    before_R = np.cumsum(later_R) - later_R
    slot: Ints = before_R[low] + high - low - 1
    return slot


def _rows(key_V: Ints) -> tuple[Ints, Ints]:
    """The rank of each key among the distinct ones, and a place where each distinct key occurs, in order."""
    most = int(key_V.max(initial=-1)) + 1
    if most > 16 * len(key_V):
        _, kept, row_V = np.unique(key_V, return_index=True, return_inverse=True)
        return row_V, kept
    place = np.full(most, -1, np.int64)
    place[key_V] = np.arange(len(key_V))
    used = place >= 0
    return (np.cumsum(used) - 1)[key_V], place[used]


def sum_at(row_V: Ints, value_V: Floats, n: int) -> Floats:
    """Sums of the values that share a row, 0 for a row without any."""
    return np.bincount(row_V, value_V, n).astype(np.float64, copy=False)


def _check(left_V: Ints, right_V: Ints, outcome_V: Floats, weight_V: Floats, item_start_P: Ints) -> None:
    n = int(item_start_P[-1])
    outside = (np.minimum(left_V, right_V) < 0) | (np.maximum(left_V, right_V) >= n)
    _refuse(outside, f"an item outside 0 .. {n - 1}", left_V, right_V)
    prompt_R = owner(item_start_P)
    _refuse(left_V == right_V, "an item compared with itself", left_V, right_V)
    _refuse(prompt_R[left_V] != prompt_R[right_V], "items of two prompts", left_V, right_V)
    _refuse(
        (outcome_V != 0) & (outcome_V != 1) & (outcome_V != 0.5), "an outcome not 0, 0.5, 1 or nan", left_V, right_V
    )
    _refuse(~((weight_V >= 0) & np.isfinite(weight_V)), "a weight that is negative or not finite", left_V, right_V)


def _refuse(bad_V: Bools, what: str, left_V: Ints, right_V: Ints) -> None:
    if bad_V.any():
        at = int(np.argmax(bad_V))
        raise DataError(f"judgement {at} (items {left_V[at]} and {right_V[at]}): {what}; correct or drop the row")


def pair_start(pairs: Comparisons) -> Ints:
    """Offsets of each prompt's rows; a prompt without comparisons has none."""
    return np.searchsorted(pairs.left_I, pairs.item_start_P).astype(np.int64)


def prompt_of(pairs: Comparisons) -> Ints:
    """The prompt of each pair."""
    return owner(pairs.item_start_P)[pairs.left_I]


def merged(pairs: Comparisons) -> Comparisons:
    """The two orders of presentation of a pair added up: one row per pair, first_I = 0."""
    n = len(pairs.left_I)
    new = np.ones(n, bool)
    new[1:] = (pairs.left_I[1:] != pairs.left_I[:-1]) | (pairs.right_I[1:] != pairs.right_I[:-1])
    row_I, m = np.cumsum(new) - 1, int(new.sum())
    wins, votes, ties = (sum_at(row_I, value, m) for value in (pairs.wins_I, pairs.votes_I, pairs.ties_I))
    return Comparisons(pairs.left_I[new], pairs.right_I[new], wins, votes, ties, np.zeros(m), pairs.item_start_P)


def only(pairs: Comparisons, keep_I: Bools) -> Comparisons:
    """The rows that are kept, the items unchanged."""
    kept = {name: column[keep_I] for name, column in pairs._asdict().items() if name != "item_start_P"}
    return pairs._replace(**kept)


def all_pairs(item_start_P: Ints) -> tuple[Ints, Ints]:
    """Every pair i < j of every prompt: (left_I, right_I), sorted."""
    item_R = np.arange(int(item_start_P[-1]))
    later_R = item_start_P[1:][owner(item_start_P)] - 1 - item_R
    left_I = np.repeat(item_R, later_R)
    before_R = np.cumsum(later_R) - later_R
    return left_I, left_I + 1 + np.arange(len(left_I)) - before_R[left_I]


def renumbered(pairs: Comparisons, order_R: NDArray[np.int64], item_start_P: Ints) -> tuple[Comparisons, Ints]:
    """Items in a new order (order_R[k] is the old number of new item k): the pairs, and the old row of each new row.

    Left stays left where its new number is the lower; else the pair is turned round, with its votes.
    """
    new_R = np.empty(len(order_R), np.int64)
    new_R[order_R] = np.arange(len(order_R))
    left, right = new_R[pairs.left_I], new_R[pairs.right_I]
    swap = left > right
    low, high = np.where(swap, right, left), np.where(swap, left, right)
    wins = np.where(swap, pairs.votes_I - pairs.wins_I, pairs.wins_I)
    first = np.where(swap, -pairs.first_I, pairs.first_I)
    row = np.lexsort((-first, high, low))
    votes, ties = pairs.votes_I[row], pairs.ties_I[row]
    return Comparisons(low[row], high[row], wins[row], votes, ties, first[row], item_start_P), row
