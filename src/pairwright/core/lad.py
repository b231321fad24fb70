"""Weighted least absolute deviations of strength differences: w that minimises sum omega |M - (w_left - w_right)|.

Three routes. `lad_cuts` walks down the cuts of small graphs: exact, many problems at once. `lad_program` solves the linear
program by its dual, a flow: exact, any size. `lad_irls` reweights least squares: approximate, and says how far it is off.
The objective is L-natural convex, so w is optimal iff raising no set of items by a little lowers it, and unique iff every
such move raises it (Murota 2003, by the co-area formula). M in logits; `pairs` has one row per pair and gives the graph.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from pairwright.core.blocks import Chunk, chunks, laplacian, scatter, solve
from pairwright.core.comparisons import Comparisons, pair_start, prompt_of, sum_at
from pairwright.core.graphs import components
from pairwright.core.segments import Bools, Floats, Ints, mix, owner
from pairwright.errors import ConfigError, NotConverged

MOST_CUTS = 8  # items: 2^8 - 2 cuts
ZERO = 1e-9  # a residual or a slope below this share of its scale is 0
STACK = 20_000  # pairs in one linear program
IMMATERIAL = 1e-3  # answers closer than this share of the largest difference are one: no order of theirs differs


class Lad(NamedTuple):
    strength_R: Floats  # logits, mean 0 in each component
    residual_I: Floats  # M - (w_left - w_right)
    converged_P: Bools
    unique_P: Bools  # no other w does as well
    gap_P: Floats  # bound on objective - optimum, as a share of the objective at w = 0; 0 for an exact route


def lad(pairs: Comparisons, difference_I: Floats, weight_I: Floats) -> Lad:
    """Exact: cuts for prompts of up to MOST_CUTS items, the linear program for larger ones."""
    small_P = np.diff(pairs.item_start_P) <= MOST_CUTS
    if small_P.all():
        return lad_cuts(pairs, difference_I, weight_I)
    small_I = small_P[prompt_of(pairs)]
    parts = []
    for route, keep_I in ((lad_cuts, small_I), (lad_program, ~small_I)):
        here = pairs._replace(left_I=pairs.left_I[keep_I], right_I=pairs.right_I[keep_I])
        parts.append(route(here, difference_I[keep_I], weight_I[keep_I]))
    few, many = parts
    w_R = np.where(small_P[owner(pairs.item_start_P)], few.strength_R, many.strength_R)
    by_prompt = [np.where(small_P, a, b) for a, b in zip(few[2:], many[2:], strict=True)]
    return Lad(w_R, _residual(pairs, difference_I, w_R), by_prompt[0], by_prompt[1], by_prompt[2])


def _residual(pairs: Comparisons, difference_I: Floats, w_R: Floats) -> Floats:
    return difference_I - (w_R[pairs.left_I] - w_R[pairs.right_I])


def _finish(pairs: Comparisons, difference_I: Floats, w_R: Floats, by_prompt: tuple[Bools, Bools, Floats]) -> Lad:
    label_R = components(pairs)
    w_R = w_R - (sum_at(label_R, w_R, len(w_R)) / np.maximum(np.bincount(label_R, minlength=len(w_R)), 1))[label_R]
    return Lad(w_R, _residual(pairs, difference_I, w_R), *by_prompt)


def objective(pairs: Comparisons, lad: Lad, weight_I: Floats) -> Floats:
    """sum omega |residual| of each prompt."""
    return sum_at(prompt_of(pairs), weight_I * np.abs(lad.residual_I), len(pairs.item_start_P) - 1)


def lad_cuts(pairs: Comparisons, difference_I: Floats, weight_I: Floats, *, max_iter: int = 1000) -> Lad:
    """Descent over all sets of items, each step to the weighted median of the residuals across the cut."""
    size_P = np.diff(pairs.item_start_P)
    if pairs.left_I.size and int(size_P[prompt_of(pairs)].max()) > MOST_CUTS:
        raise ConfigError(f"lad_cuts is for at most {MOST_CUTS} responses per prompt, here {size_P.max()}: lad_program")
    w_R = np.zeros(int(pairs.item_start_P[-1]))
    converged_P, unique_P = np.ones(len(size_P), bool), np.ones(len(size_P), bool)
    for chunk in chunks(pairs, 1 << 15):
        if len(chunk.row_I) == 0:
            continue
        w_nB, done_B, unique_B = _walk(chunk, difference_I[chunk.row_I], weight_I[chunk.row_I], max_iter)
        w_R[chunk.item_nB] = w_nB
        converged_P[chunk.prompt_B], unique_P[chunk.prompt_B] = done_B, unique_B
    return _finish(pairs, difference_I, w_R, (converged_P, unique_P, np.zeros(len(size_P))))


class _Table(NamedTuple):
    """Pairs e = (i, j) of n items, and all sets S of items but none and all."""

    i: Ints
    j: Ints
    inside_Sn: Floats  # 1: the item is in the set
    across_Se: Floats  # 1: i alone is in the set, -1: j alone


def _table(n: int) -> _Table:
    i, j = np.triu_indices(n, 1)
    inside_Sn = (np.arange(1, 2**n - 1)[:, None] >> np.arange(n) & 1).astype(np.float64)
    return _Table(i, j, inside_Sn, inside_Sn[:, i] - inside_Sn[:, j])


def _walk(chunk: Chunk, difference_I: Floats, weight_I: Floats, max_iter: int) -> tuple[Floats, Bools, Bools]:
    """Steepest first, which is quick; what has not settled after a few steps is done again by scaling, which is sure."""
    n, size = chunk.n, len(chunk.prompt_B)
    table = _table(n)
    slot_nn = np.zeros((n, n), np.int64)
    slot_nn[table.i, table.j] = np.arange(len(table.i))
    m_eB, weight_eB = np.zeros((len(table.i), size)), np.zeros((len(table.i), size))
    at = (slot_nn[chunk.left_I, chunk.right_I], chunk.block_I)
    m_eB[at], weight_eB[at] = difference_I, weight_I
    w_nB, done_B, unique_B = _descend(table, m_eB, weight_eB, np.zeros((n, size)), (min(4 * n, max_iter), False))
    late = np.flatnonzero(~done_B)
    if len(late) and max_iter > 4 * n:
        told = _descend(table, m_eB[:, late], weight_eB[:, late], w_nB[:, late], (max_iter, True))
        w_nB[:, late], done_B[late], unique_B[late] = told
    return w_nB, done_B, unique_B


def _descend(
    table: _Table, m_eB: Floats, weight_eB: Floats, w_nB: Floats, how: tuple[int, bool]
) -> tuple[Floats, Bools, Bools]:
    """Down from w, (most steps, by scaling?): (w, optimal, unique)."""
    steps, scaled = how
    blocks, across_Se = np.arange(m_eB.shape[1]), table.across_Se
    empty_SB = np.abs(across_Se) @ weight_eB == 0  # a cut without pairs moves nothing
    height_B = np.maximum(1, np.abs(m_eB).max(0))
    zero_B, slack_B, delta_B = ZERO * height_B, ZERO * weight_eB.sum(0), height_B
    for _ in range(steps):
        res_eB = m_eB - (w_nB[table.i] - w_nB[table.j])
        flat_eB = np.abs(res_eB) <= zero_B
        slope_SB = np.abs(across_Se) @ (weight_eB * flat_eB) - across_Se @ (weight_eB * np.sign(res_eB) * ~flat_eB)
        slope_SB[empty_SB] = np.inf
        lowest_B = slope_SB.min(0)
        open_B = lowest_B < -slack_B
        if not open_B.any():
            break
        if scaled:
            rise_SB = np.where(delta_B > zero_B, _rise(across_Se, res_eB, weight_eB, delta_B), slope_SB)
            pick_B = np.argmin(rise_SB, axis=0)
            falls_B = rise_SB[pick_B, blocks] < -slack_B * np.minimum(delta_B, 1)
            delta_B = np.where(falls_B, delta_B, delta_B / 4)
        else:
            pick_B, falls_B = np.argmin(slope_SB, axis=0), open_B
        step_B = _median_across(across_Se[pick_B].T, res_eB, weight_eB)
        w_nB = w_nB + np.where(open_B & falls_B, step_B, 0.0) * table.inside_Sn[pick_B].T
    return w_nB, lowest_B >= -slack_B, lowest_B > slack_B


def _rise(across_Se: Floats, res_eB: Floats, weight_eB: Floats, delta_B: Floats) -> Floats:
    """Change of the objective when a set is raised by delta."""
    up_eB = weight_eB * (np.abs(res_eB - delta_B) - np.abs(res_eB))
    down_eB = weight_eB * (np.abs(res_eB + delta_B) - np.abs(res_eB))
    rise_SB: Floats = (across_Se > 0) @ up_eB + (across_Se < 0) @ down_eB
    return rise_SB


def _median_across(across_eB: Floats, res_eB: Floats, weight_eB: Floats) -> Floats:
    """How far to raise the set: the lower weighted median of the residuals across its cut, seen from inside."""
    reach_eB = across_eB * res_eB
    mass_eB = np.abs(across_eB) * weight_eB
    order_eB = np.argsort(reach_eB, axis=0)
    below_eB = np.cumsum(np.take_along_axis(mass_eB, order_eB, 0), axis=0)
    first_B = np.argmax(below_eB >= below_eB[-1] / 2 * (1 - 1e-12), axis=0)
    step_B: Floats = reach_eB[order_eB[first_B, np.arange(len(first_B))], np.arange(len(first_B))]
    return step_B


def lad_program(pairs: Comparisons, difference_I: Floats, weight_I: Floats, *, nudge: float = 1e-4) -> Lad:
    """The linear program max M y, |y| <= omega, y balanced at every item (HiGHS); w are its multipliers.

    Solved again with weights nudged up and down by the same pattern: two answers that differ mean that w is not unique.
    The nudge stands clear of the solver's tolerance, 1e-7; one in some hundred ties still goes unseen.
    """
    count = len(pairs.item_start_P) - 1
    w_R = np.zeros((3, int(pairs.item_start_P[-1])))
    pattern_I = _pattern(pairs)
    start_P = pair_start(pairs)
    size_P, at = np.diff(start_P), 0
    while at < count:
        end = at + max(1, int(np.searchsorted(np.cumsum(size_P[at:]), STACK, "right")))
        rows, items = slice(start_P[at], start_P[end]), slice(pairs.item_start_P[at], pairs.item_start_P[end])
        if start_P[end] > start_P[at]:
            ends = (pairs.left_I[rows] - items.start, pairs.right_I[rows] - items.start)
            for k, sign in enumerate((0, 1, -1)):
                weight = weight_I[rows] * (1 + sign * nudge * pattern_I[rows])
                w_R[k, items] = _dual(*ends, difference_I[rows], weight, items.stop - items.start)
        at = end
    plain, up, down = (_finish(pairs, difference_I, w, _fine(count)) for w in w_R)
    apart_R = np.abs(up.strength_R - down.strength_R)
    apart_P = np.zeros(count)
    np.maximum.at(apart_P, owner(pairs.item_start_P), apart_R)
    return plain._replace(unique_P=apart_P <= IMMATERIAL * np.abs(difference_I).max(initial=1.0))


def _fine(count: int) -> tuple[Bools, Bools, Floats]:
    return np.ones(count, bool), np.ones(count, bool), np.zeros(count)


def _pattern(pairs: Comparisons) -> Floats:
    """Numbers in 0 .. 1 without regularity, of the pair's place in its prompt alone."""
    place_I = np.arange(len(pairs.left_I)) - pair_start(pairs)[prompt_of(pairs)]
    return (mix(place_I.astype(np.uint64)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _dual(left_I: Ints, right_I: Ints, difference_I: Floats, weight_I: Floats, n: int) -> Floats:
    m = np.arange(len(left_I))
    signs = np.repeat([1.0, -1.0], len(m))
    balance = sparse.csr_array((signs, (np.concatenate((left_I, right_I)), np.tile(m, 2))), shape=(n, len(m)))
    bounds = np.stack([-weight_I, weight_I], axis=1)
    told = linprog(-difference_I, A_eq=balance, b_eq=np.zeros(n), bounds=bounds, method="highs-ds")
    if told.status != 0:
        raise NotConverged(f"linear program of {n} items and {len(m)} pairs: {told.message}; use lad_irls")
    w: Floats = -told.eqlin.marginals
    return w


def lad_irls(
    pairs: Comparisons,
    difference_I: Floats,
    weight_I: Floats,
    *,
    floor: float = 1e-4,
    tol: float = 1e-3,
    max_iter: int = 200,
) -> Lad:
    """Least squares with weights omega / max(|residual|, floor), the floor brought down to `floor` as it goes.

    Stops when the duality gap is at most tol * sum omega |M|: y = omega * residual / max(|residual|, floor) is a feasible flow
    up to its imbalance. Whether w is unique is not asked (True).
    """
    count = len(pairs.item_start_P) - 1
    w_R, gap_P, label_R = np.zeros(int(pairs.item_start_P[-1])), np.zeros(count), components(pairs)
    for chunk in chunks(pairs):
        label = label_R[chunk.item_nB]
        same = (label[:, None] == label[None]).astype(np.float64)
        w_nB, gap_B = _reweigh(
            chunk, difference_I[chunk.row_I], weight_I[chunk.row_I], same / same.sum(0), (floor, tol, max_iter)
        )
        w_R[chunk.item_nB], gap_P[chunk.prompt_B] = w_nB, gap_B
    return _finish(pairs, difference_I, w_R, (gap_P <= tol, np.ones(count, bool), gap_P))


def _reweigh(
    chunk: Chunk, difference_I: Floats, weight_I: Floats, centre_nnB: Floats, stop: tuple[float, float, int]
) -> tuple[Floats, Floats]:
    floor, tol, max_iter = stop
    size = len(chunk.prompt_B)
    curve_I, w_nB, gap_B, best_B = weight_I, np.zeros((chunk.n, size)), np.full(size, np.inf), np.full(size, np.inf)
    best_nB = w_nB
    whole_B = np.maximum(sum_at(chunk.block_I, weight_I * np.abs(difference_I), size), 1e-300)
    height = float(np.abs(difference_I).max(initial=0.0))
    for _ in range(max_iter):
        scale_B = np.maximum(sum_at(chunk.block_I, curve_I, size), 1e-300)
        matrix = laplacian(chunk, curve_I) + centre_nnB * scale_B
        w_nB = solve(matrix, scatter(chunk, curve_I * difference_I)[:, None])[:, 0]
        flat = w_nB.ravel()
        res_I = difference_I - (flat[chunk.left()] - flat[chunk.right()])
        height = max(floor, height * 0.5)
        curve_I = weight_I / np.maximum(np.abs(res_I), height)
        missing_B = sum_at(chunk.block_I, weight_I * np.abs(res_I) - curve_I * res_I**2, size)
        imbalance_B = np.abs(scatter(chunk, curve_I * res_I)).sum(0) * np.ptp(w_nB, axis=0) / 2
        gap_B = (missing_B + imbalance_B) / whole_B
        better_B = gap_B < best_B
        best_B, best_nB = np.where(better_B, gap_B, best_B), np.where(better_B, w_nB, best_nB)
        if (best_B <= tol).all():
            break
    return best_nB, best_B


ROUTES: dict[str, Callable[..., Lad]] = {route.__name__: route for route in (lad_cuts, lad_program, lad_irls)}
