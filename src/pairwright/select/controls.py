"""Random subsets of the size of a selection: what any claim about it is held against."""

import numpy as np
import polars as pl

from pairwright.core.ranking import place_within, take
from pairwright.core.segments import Bools, Keys
from pairwright.select.pool import Pool
from pairwright.select.rank import Chosen, by_source
from pairwright.select.settings import Limits


def capped_subset(pool: Pool, chosen: Chosen, limits: Limits, seed: int) -> Bools:
    """As many pairs as were kept, drawn by (seed, ids) from those that could be ranked, under the caps of the selection.

    Where two caps together stop a draw short of that number, it is filled up without them.
    """
    key_I, k = _control_keys(pool, seed), int(chosen.keep_I.sum())
    rows = np.flatnonzero(chosen.able_I)
    rows = by_source(pool, limits, rows[np.argsort(key_I[rows])])
    taken, _ = take(k, [(pool.codes(column)[rows], most) for column, most in chosen.caps], len(rows))
    drawn_I = np.zeros(pool.n, bool)
    drawn_I[rows[taken]] = True
    drawn_I[rows[~taken][: k - int(taken.sum())]] = True
    return drawn_I


def random_subset(pool: Pool, keep_I: Bools, able_I: Bools, seed: int, *, same_prompts: bool = False) -> Bools:
    """As many pairs as `keep_I` has, drawn from `able_I` by (seed, ids); per prompt as many as are kept of it, if asked."""
    key_I = _control_keys(pool, seed)
    if not same_prompts:
        return _smallest(np.where(able_I, key_I, np.uint64(2**64 - 1)), int(keep_I.sum())) & able_I
    drawn_I, rows = np.zeros(pool.n, bool), np.flatnonzero(able_I)
    code_I = pool.codes("prompt_id")
    names, at = np.unique(code_I, return_inverse=True)
    wanted_P = np.bincount(at[keep_I], minlength=len(names))
    rows = rows[np.argsort(key_I[rows])]
    drawn_I[rows[place_within(at[rows]) < wanted_P[at[rows]]]] = True
    return drawn_I


def _smallest(key_I: Keys, k: int) -> Bools:
    """The k smallest keys; of equal ones, which 64 bits all but rule out, the earlier rows."""
    if k == 0:
        return np.zeros(len(key_I), bool)
    last = np.partition(key_I, k - 1)[k - 1]
    in_I: Bools = key_I <= last
    if over := int(in_I.sum()) - k:
        in_I[np.flatnonzero(key_I == last)[-over:]] = False
    return in_I


def _control_keys(pool: Pool, seed: int) -> Keys:
    """Other numbers than those of the rule `random` with the same seed, which would be no control of it."""
    return pool.keys(seed ^ 0x5EED_C0DE_5EED_C0DE)


def control_rows(pool: Pool, drawn_I: Bools, seed: int) -> pl.DataFrame:
    """seed and ids of one random subset."""
    ids = list(dict.fromkeys([*(["prompt_id"] if "prompt_id" in pool.frame.columns else []), *pool.ids]))
    held = pool.frame.select(ids).filter(pl.Series(drawn_I))
    return held.select(pl.lit(seed, pl.Int64).alias("seed"), *ids)
