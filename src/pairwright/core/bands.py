"""Bands of a score by rank: its middle, its ends, and how far a band must widen to hold enough.

A band is two shares of the ranking, low .. high, both ends included. Equal values share a rank and so a side. nan is
outside of every band.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pairwright.core.margins import midrank_share
from pairwright.core.segments import Bools, Floats
from pairwright.errors import ConfigError

Band = tuple[float, float]
NEAR = 1e-12  # ranks are whole: what is nearer to an edge than this is on it, on both sides alike


class Inside(NamedTuple):
    """`inside_SI` per score, `keep_I` in all of them, the bands as they were used, and by how much they were widened."""

    keep_I: Bools
    inside_SI: list[Bools]
    bands: list[Band]
    widened: float
    off_I: (
        Floats  # distance of the rank from the middle of its band, in halves of the band; the largest over the scores
    )


def inside(value_SI: Sequence[Floats], bands: Sequence[Band], *, floor: float = 0.0) -> Inside:
    """Pairs whose rank lies in the band of every score; all bands widen by one amount on both sides for the floor.

    `floor` is the least share of all pairs to keep: then at least ceil(floor * n) are kept, or all that have every score.
    """
    for low, high in bands:
        if not (0 <= low < high <= 1 and high - low > NEAR):
            raise ConfigError(f"a band is two rank shares, low below high, from 0 to 1; not {low:g} .. {high:g}")
    n = len(value_SI[0])
    need_I, off_I = np.zeros(n), np.zeros(n)
    need_SI = []
    for value_I, (low, high) in zip(value_SI, bands, strict=True):
        share_I = midrank_share(value_I)
        away_I = np.maximum(low - share_I, share_I - high)
        need_SI.append(np.where(np.isnan(share_I), np.inf, np.where(away_I > NEAR, away_I, 0.0)))
        need_I = np.maximum(need_I, need_SI[-1])
        off_I = np.maximum(off_I, np.abs(share_I - (low + high) / 2) / ((high - low) / 2))  # nan stays
    widened, least = 0.0, int(np.ceil(floor * n))
    if least and (need_I == 0).sum() < least:
        able = np.sort(need_I[np.isfinite(need_I)])
        widened = float(able[min(least, len(able)) - 1]) if len(able) else 0.0
    used = [(max(0.0, low - widened), min(1.0, high + widened)) for low, high in bands]
    reach = widened + NEAR
    return Inside(need_I <= reach, [each_I <= reach for each_I in need_SI], used, widened, off_I)
