"""Random subsets of the size of a selection: what any claim about it is held against."""

import numpy as np
import polars as pl

from pairwright.core import segments
from pairwright.core.ranking import place_within
from pairwright.core.segments import Bools, Keys
from pairwright.select.pool import Pool


def random_subset(pool: Pool, keep_I: Bools, able_I: Bools, seed: int, *, same_prompts: bool = False) -> Bools:
    """As many pairs as `keep_I` has, drawn from `able_I` by (seed, ids); per prompt as many as are kept of it, if asked."""
    key_I = _control_keys(pool, seed)
    drawn_I = np.zeros(pool.n, bool)
    rows = np.flatnonzero(able_I)
    k = int(keep_I.sum())
    if not same_prompts:
        if k:
            drawn_I[rows[np.argpartition(key_I[rows], k - 1)[:k]]] = True
        return drawn_I
    code_I = pool.codes("prompt_id")
    names, at = np.unique(code_I, return_inverse=True)
    wanted_P = np.bincount(at[keep_I], minlength=len(names))
    rows = rows[np.argsort(key_I[rows])]
    drawn_I[rows[place_within(at[rows]) < wanted_P[at[rows]]]] = True
    return drawn_I


def _control_keys(pool: Pool, seed: int) -> Keys:
    """Other numbers than those of the rule `random` with the same seed, which would be no control of it."""
    return segments.mix(pool.keys(seed) ^ np.uint64(0x5EED_C0DE_5EED_C0DE))


def control_rows(pool: Pool, drawn_I: Bools, seed: int) -> pl.DataFrame:
    """seed and ids of one random subset."""
    ids = list(dict.fromkeys([*(["prompt_id"] if "prompt_id" in pool.frame.columns else []), *pool.ids]))
    held = pool.frame.select(ids).filter(pl.Series(drawn_I))
    return held.select(pl.lit(seed, pl.Int64).alias("seed"), *ids)
