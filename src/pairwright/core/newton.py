"""Newton's method for the strengths of many prompts at once; `ratings` holds the model and the public face."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairwright.core import graphs
from pairwright.core.blocks import Chunk, chunks, laplacian, scatter, solve
from pairwright.core.comparisons import Comparisons
from pairwright.core.segments import Bools, Floats, Ints


class Task(NamedTuple):
    """What to fit, and when to stop."""

    ridge: float
    position: bool
    davidson: bool
    covariance: bool
    tol: float
    max_iter: int


class Solved(NamedTuple):
    strength_R: Floats
    covariance: Floats
    converged_P: Bools
    n_iter: int
    gradient: float
    shared: Floats  # gamma, log nu; 0 where not fitted
    shared_sd: Floats  # nan where not fitted


class Terms(NamedTuple):
    """Per vote at difference d: derivatives of log(2 cosh(d / 2) + nu)."""

    slope: Floats  # by d: (P(left) - P(right)) / 2
    curvature: Floats  # by d, twice
    tie: Floats  # by log nu: P(tie); by log nu twice tie * (1 - tie), by both -tie * slope


def terms(d: Floats, nu: float) -> Terms:
    """No overflow, no cancellation for large |d|: all over exp(|d| / 2)."""
    half = np.exp(-np.abs(d) / 2)
    other, tied = half * half, nu * half
    weight = 1 + other + tied
    slope = np.sign(d) * (1 - other) / (2 * weight)
    return Terms(slope, (4 * other + tied * (1 + other)) / (2 * weight) ** 2, tied / weight)


@dataclass(slots=True)
class _Block:
    """A stack of prompts on its way to the answer."""

    chunk: Chunk
    pull_I: Floats  # wins - K / 2
    votes_I: Floats
    first_I: Floats
    centre_nnB: Floats  # projector on the constants of each component
    w_nB: Floats


class _Step(NamedTuple):
    gradient_nB: Floats
    change_nB: Floats  # H^-1 gradient
    border_nkB: Floats  # H^-1 (d2 / dw dshared), k shared numbers
    shared_k: Floats  # gradient by the shared numbers
    schur_kk: Floats


def _block(pairs: Comparisons, chunk: Chunk, label_R: Ints) -> _Block:
    label = label_R[chunk.item_nB]
    same = (label[:, None] == label[None]).astype(np.float64)
    rows = chunk.row_I
    votes = pairs.votes_I[rows]
    pull = pairs.wins_I[rows] - votes / 2
    return _Block(chunk, pull, votes, pairs.first_I[rows], same / same.sum(0), np.zeros(chunk.item_nB.shape))


def _difference(block: _Block, w_nB: Floats, gamma: float) -> Floats:
    flat = w_nB.ravel()
    return flat[block.chunk.left()] - flat[block.chunk.right()] + gamma * block.first_I


def _gradient(block: _Block, at: Terms, ridge: float) -> Floats:
    return scatter(block.chunk, block.pull_I - block.votes_I * at.slope) - ridge * block.w_nB


def _hessian(block: _Block, at: Terms, ridge: float) -> Floats:
    """Its centre term lifts the constants, which no gradient contains, away from the ridge: well conditioned."""
    matrix = laplacian(block.chunk, block.votes_I * at.curvature) + block.centre_nnB
    diagonal = np.arange(block.chunk.n)
    matrix[diagonal, diagonal] += ridge
    return matrix


def _pace(reach: Floats) -> Floats:
    """Share of a Newton step that cannot raise the objective: log(1 + r) / r for differences that move by up to r.

    Along a step the third derivative is at most r times the second, so the slope at t is at most that of
    (exp(rt) - 1) / r - 1, which is not positive up to this t.
    """
    return np.log1p(reach) / np.maximum(reach, 1e-300)


class _Answer(NamedTuple):
    """Arrays of the whole batch, filled block by block."""

    strength_R: Floats
    covariance: Floats
    covariance_start_P: Ints
    converged_P: Bools


def covariance_start(item_start_P: Ints) -> Ints:
    """Offsets of each prompt's n x n block in `Fit.covariance`."""
    return np.concatenate(([0], np.cumsum(np.diff(item_start_P) ** 2))).astype(np.int64)


def _empty(pairs: Comparisons, covariance: bool) -> _Answer:
    start_P = covariance_start(pairs.item_start_P)
    size = int(start_P[-1]) if covariance else 0
    count = len(start_P) - 1
    return _Answer(np.zeros(int(pairs.item_start_P[-1])), np.zeros(size), start_P, np.ones(count, bool))


def _keep(answer: _Answer, block: _Block, converged_B: Bools, inverse_nnB: Floats | None) -> None:
    chunk = block.chunk
    answer.strength_R[chunk.item_nB] = block.w_nB
    answer.converged_P[chunk.prompt_B] = converged_B
    if inverse_nnB is not None:
        cell = np.arange(chunk.n * chunk.n)[:, None] + answer.covariance_start_P[chunk.prompt_B]
        answer.covariance[cell] = inverse_nnB.reshape(chunk.n * chunk.n, -1)


def alone(pairs: Comparisons, task: Task) -> Solved:
    """Every prompt for itself."""
    label_R = graphs.components(pairs)
    answer, n_iter, gradient = _empty(pairs, task.covariance), 0, 0.0
    for chunk in chunks(pairs):
        block = _block(pairs, chunk, label_R)
        converged_B, steps, largest = _fit_alone(block, task)
        n_iter, gradient = max(n_iter, steps), max(gradient, largest)
        _keep(answer, block, converged_B, _inverse(block, 0.0, 0.0, task.ridge) if task.covariance else None)
    none = np.zeros(2)
    return Solved(answer.strength_R, answer.covariance, answer.converged_P, n_iter, gradient, none, none + np.nan)


def _fit_alone(block: _Block, task: Task) -> tuple[Bools, int, float]:
    """Prompts without shared numbers: (converged_B, iterations, largest gradient). A finished prompt is left alone."""
    moving_B = np.ones(len(block.chunk.prompt_B), bool)
    n_iter = 0
    while n_iter < task.max_iter and moving_B.any():
        n_iter += 1
        at = terms(_difference(block, block.w_nB, 0.0), 0.0)
        gradient_nB = _gradient(block, at, task.ridge)
        change_nB = solve(_hessian(block, at, task.ridge), gradient_nB[:, None])[:, 0]
        reach_B = np.ptp(change_nB, axis=0)
        block.w_nB += np.where(moving_B, _pace(reach_B), 0.0) * change_nB
        moving_B &= reach_B > task.tol
    at = terms(_difference(block, block.w_nB, 0.0), 0.0)
    return ~moving_B, n_iter, float(np.abs(_gradient(block, at, task.ridge)).max(initial=0.0))


def together(pairs: Comparisons, task: Task) -> Solved:
    """gamma and log nu together with all strengths: bordered blocks, solved by the Schur complement."""
    label_R = graphs.components(pairs)
    blocks = [_block(pairs, chunk, label_R) for chunk in chunks(pairs)]
    shared = np.zeros(2)
    inverse_kk: Floats = np.zeros((0, 0))
    used = np.flatnonzero([task.position, task.davidson])
    pull = np.array([0.0, pairs.ties_I.sum()])
    n_iter, reach = 0, np.inf
    while n_iter < task.max_iter and reach > task.tol:
        n_iter += 1
        steps = [_bordered(block, shared, task, used) for block in blocks]
        schur_kk = sum((step.schur_kk for step in steps), task.ridge * np.eye(len(used)))
        inverse_kk = np.linalg.inv(schur_kk).astype(np.float64, copy=False)
        move = np.zeros(2)
        move[used] = inverse_kk @ sum((step.shared_k for step in steps), (pull - task.ridge * shared)[used])
        changes = [step.change_nB - np.einsum("nkB,k->nB", step.border_nkB, move[used]) for step in steps]
        reach = max((_reach(block, change, move) for block, change in zip(blocks, changes, strict=True)), default=0.0)
        pace = float(_pace(np.array(reach)))
        shared += pace * move
        for block, change in zip(blocks, changes, strict=True):
            block.w_nB += pace * change
    return _together(blocks, pairs, task, _Stop(shared, inverse_kk, n_iter, reach <= task.tol))


class _Stop(NamedTuple):
    shared: Floats
    inverse_kk: Floats
    n_iter: int
    converged: bool


def _together(blocks: list[_Block], pairs: Comparisons, task: Task, stop: _Stop) -> Solved:
    used = np.flatnonzero([task.position, task.davidson])
    answer, gradient = _empty(pairs, task.covariance), 0.0
    shared_k = (np.array([0.0, pairs.ties_I.sum()]) - task.ridge * stop.shared)[used]
    for block in blocks:
        step = _bordered(block, stop.shared, task, used)
        shared_k = shared_k + step.shared_k
        gradient = max(gradient, float(np.abs(step.gradient_nB).max(initial=0.0)))
        inverse = None
        if task.covariance:
            spread = np.einsum("nkB,kl,mlB->nmB", step.border_nkB, stop.inverse_kk, step.border_nkB)
            inverse = _inverse(block, float(stop.shared[0]), _nu(stop.shared, task), task.ridge) + spread
        _keep(answer, block, np.full(len(block.chunk.prompt_B), stop.converged), inverse)
    gradient = max(gradient, float(np.abs(shared_k).max()))
    sd = np.full(2, np.nan)
    sd[used] = np.sqrt(np.diag(stop.inverse_kk))
    return Solved(answer.strength_R, answer.covariance, answer.converged_P, stop.n_iter, gradient, stop.shared, sd)


def _nu(shared: Floats, task: Task) -> float:
    return float(np.exp(shared[1])) if task.davidson else 0.0


def _reach(block: _Block, change_nB: Floats, move: Floats) -> float:
    d = np.abs(_difference(block, change_nB, float(move[0])))
    return float(np.maximum(d, d / 2 + abs(move[1])).max(initial=0.0))


def _bordered(block: _Block, shared: Floats, task: Task, used: Ints) -> _Step:
    gamma, nu, ridge = float(shared[0]), _nu(shared, task), task.ridge
    at = terms(_difference(block, block.w_nB, gamma), nu)
    votes, first = block.votes_I, block.first_I
    gradient_nB = _gradient(block, at, ridge)
    cross = -votes * at.tie * at.slope
    border = np.stack([scatter(block.chunk, votes * at.curvature * first), scatter(block.chunk, cross)], axis=1)[
        :, used
    ]
    corner = np.array(
        [
            [(votes * at.curvature * first**2).sum(), (cross * first).sum()],
            [(cross * first).sum(), (votes * at.tie * (1 - at.tie)).sum()],
        ]
    )[np.ix_(used, used)]
    pull = np.array([(first * (block.pull_I - votes * at.slope)).sum(), -(votes * at.tie).sum()])[used]
    x = solve(_hessian(block, at, ridge), np.concatenate([gradient_nB[:, None], border], axis=1))
    shared_k = pull - np.einsum("nkB,nB->k", border, x[:, 0])
    return _Step(gradient_nB, x[:, 0], x[:, 1:], shared_k, corner - np.einsum("nkB,nlB->kl", border, x[:, 1:]))


def _inverse(block: _Block, gamma: float, nu: float, ridge: float) -> Floats:
    """Inverse of the penalised Hessian without the constants of each component."""
    n, size = block.w_nB.shape
    at = terms(_difference(block, block.w_nB, gamma), nu)
    unit = np.broadcast_to(np.eye(n)[:, :, None], (n, n, size))
    return solve(_hessian(block, at, ridge), unit) - block.centre_nnB / (1 + ridge)
