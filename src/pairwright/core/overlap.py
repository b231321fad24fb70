"""How far two selections of one pool agree, and how far they would by chance."""

import numpy as np

from pairwright.core.segments import Bools


def overlap(a_I: Bools, b_I: Bools) -> float:
    """|a and b| / the smaller of the two, 0 .. 1; nan where one is empty."""
    small = min(int(a_I.sum()), int(b_I.sum()))
    return float((a_I & b_I).sum() / small) if small else float("nan")


def chance_overlap(a_I: Bools, b_I: Bools) -> float:
    """What `overlap` is on average for random sets of these sizes: max(p, q), the larger share. Exact."""
    return float(max(a_I.mean(), b_I.mean())) if len(a_I) else float("nan")


def beyond_chance(a_I: Bools, b_I: Bools) -> float:
    """(overlap - chance) / (1 - chance): 0 as random sets, 1 one inside the other, below 0 they avoid each other."""
    chance = chance_overlap(a_I, b_I)
    return (overlap(a_I, b_I) - chance) / (1 - chance) if chance < 1 else float("nan")


def spread_of_chance(a_I: Bools, b_I: Bools) -> float:
    """Standard deviation of `overlap` of random sets of these sizes: hypergeometric."""
    n, a, b = len(a_I), int(a_I.sum()), int(b_I.sum())
    if n < 2 or not min(a, b):
        return float("nan")
    variance = a * b * (n - a) * (n - b) / (n**2 * (n - 1))
    return float(np.sqrt(variance) / min(a, b))
