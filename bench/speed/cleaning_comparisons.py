"""Strengths and robust repair of comparisons against what people use today.

    python bench/speed/cleaning_comparisons.py [--small]

strengths   61,000 prompts x 5 responses x 30 comparisons: posterior mode and covariance of all prompts under a prior of
            variance 1. choix and evalica fit one problem per call: they run on a subset and their rate is multiplied up.
            `error`: mean |difference of strengths - truth| over the pairs of the subset, the same for all. `spread`: mean
            sd of a difference / sd of that error: 1 where the covariance is honest.
repair      LAD, flags and refit of one problem of 1,000 items: 50,000 pairs x 20 votes, and 50,000 votes on 5,000 pairs;
            and of all 61,000 prompts. 10 % of the pairs are turned round. choix ILSR on the same votes, not robust.

Seeds are fixed, nothing is asserted; a peer that is not installed is named and skipped.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from machine import describe
from pairwright.core import lad, ratings, robust
from pairwright.core.comparisons import Comparisons, all_pairs, gather

T = TypeVar("T")

SEED = 0
EACH = 5
VOTES = 30


def draw(prompts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Winner and loser of every judgement, the offsets of the items and the truth: strengths of variance 1."""
    rng = np.random.default_rng(SEED)
    start_P = np.arange(prompts + 1) * EACH
    truth_R = rng.normal(size=prompts * EACH)
    left = rng.integers(0, EACH, (prompts, VOTES))
    right = (left + rng.integers(1, EACH, (prompts, VOTES))) % EACH
    left_V, right_V = ((place + start_P[:-1, None]).ravel() for place in (left, right))
    won_V = rng.random(prompts * VOTES) < ratings.win_probability(truth_R[left_V] - truth_R[right_V])
    return np.where(won_V, left_V, right_V), np.where(won_V, right_V, left_V), start_P, truth_R


def accuracy(w_R: np.ndarray, truth_R: np.ndarray, variance_I: np.ndarray | None) -> str:
    left_I, right_I = all_pairs(np.arange(len(w_R) // EACH + 1) * EACH)
    miss_I = w_R[left_I] - w_R[right_I] - (truth_R[left_I] - truth_R[right_I])
    told = f"error {np.abs(miss_I).mean():.4f}"
    return told if variance_I is None else f"{told}, spread {np.sqrt(variance_I).mean() / miss_I.std():.3f}"


def choix_ilsr(data: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray | None]:
    import choix

    return choix.ilsr_pairwise(EACH, data, alpha=0.05), None  # its regulariser is not a Gaussian prior


def choix_map(data: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray | None]:
    import choix

    return choix.opt_pairwise(EACH, data, alpha=0.5), None  # alpha ||w||^2: variance 1


def choix_ep(data: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray | None]:
    import choix

    return choix.ep_pairwise(EACH, data, alpha=1.0, model="logit")


def evalica_bt(data: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray | None]:
    import evalica

    names = [f"{i}" for i in range(EACH)]
    winners, losers = [names[a] for a, _ in data], [names[b] for _, b in data]
    scores = evalica.bradley_terry(winners, losers, [evalica.Winner.X] * len(data)).scores
    return np.log(np.maximum([scores.get(name, 1.0) for name in names], 1e-3)), None


PEERS: dict[str, Callable[[list[tuple[int, int]]], tuple[np.ndarray, np.ndarray | None]]] = {
    "choix ilsr_pairwise": choix_ilsr,
    "choix opt_pairwise": choix_map,
    "choix ep_pairwise": choix_ep,
    "evalica bradley_terry": evalica_bt,
}


def strengths(prompts: int, subset: int) -> None:
    winner_V, loser_V, start_P, truth_R = draw(prompts)
    pairs, gathering = timed(lambda: gather(winner_V, loser_V, np.ones(len(winner_V)), start_P)[0])
    ratings.fit_newton(pairs, ridge=1.0, covariance=True, tol=1e-1)  # first call
    fit, seconds = timed(lambda: ratings.fit_newton(pairs, ridge=1.0, covariance=True))
    ours = gathering + seconds
    left_I, right_I = all_pairs(start_P[: subset + 1])
    variance_I = ratings.difference_sd(fit, left_I, right_I, start_P) ** 2
    some = slice(0, subset * EACH)
    print(f"\nstrengths: {prompts} prompts x {EACH} x {VOTES}; peers on {subset} prompts, multiplied up")
    told = accuracy(fit.strength_R[some], truth_R[some], variance_I)
    print(f"  {'pairwright, with covariance':28} {ours:9.2f} s   {told} (of it gathering {gathering:.2f} s)")
    per_prompt = (side[: subset * VOTES].reshape(subset, VOTES) % EACH for side in (winner_V, loser_V))
    data = [list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(*per_prompt, strict=True)]
    for name, peer in PEERS.items():
        try:
            peer(data[0])
        except ImportError as error:
            print(f"  {name:28} not run: {error}")
            continue
        told, seconds = run_peer(peer, data, truth_R[some])
        seconds *= prompts / subset
        print(f"  {name:28} {seconds:9.1f} s   {told}   {seconds / ours:6.0f} x ours")


def run_peer(
    peer: Callable[[list[tuple[int, int]]], tuple[np.ndarray, np.ndarray | None]],
    data: list[list[tuple[int, int]]],
    truth_R: np.ndarray,
) -> tuple[str, float]:
    """(accuracy, seconds). A prompt that the peer gives up on counts with strengths 0, and is counted."""
    w_R, variances, lost = np.zeros(len(truth_R)), [], 0
    i, j = np.triu_indices(EACH, 1)
    begun = time.perf_counter()
    for p, votes in enumerate(data):
        try:
            w, covariance = peer(votes)
        except (RuntimeError, ValueError):
            lost += 1
            continue
        w_R[p * EACH : (p + 1) * EACH] = w
        if covariance is not None:
            variances.append(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
    seconds = time.perf_counter() - begun
    variance_I = np.concatenate(variances) if variances and not lost else None
    return accuracy(w_R, truth_R, variance_I) + (f", {lost} prompts failed" if lost else ""), seconds


def timed(job: Callable[[], T]) -> tuple[T, float]:
    begun = time.perf_counter()
    answer = job()
    return answer, time.perf_counter() - begun


def turned(sizes: np.ndarray, pairs_wanted: int, votes: int) -> tuple[Comparisons, np.ndarray, np.ndarray]:
    """Votes of the model on pairs at random; the favourite of every tenth pair loses with 0.98."""
    rng = np.random.default_rng(SEED)
    start_P = np.concatenate(([0], np.cumsum(sizes)))
    left_I, right_I = all_pairs(start_P)
    kept = np.sort(rng.permutation(len(left_I))[:pairs_wanted])
    left_I, right_I = left_I[kept], right_I[kept]
    truth_R = rng.normal(size=start_P[-1])
    p_I = ratings.win_probability(truth_R[left_I] - truth_R[right_I])
    bad_I = rng.random(len(p_I)) < 0.1
    p_I = np.where(bad_I, np.where(p_I > 0.5, 0.02, 0.98), p_I)
    zero = np.zeros(len(p_I))
    wins_I = rng.binomial(votes, p_I).astype(float)
    return Comparisons(left_I, right_I, wins_I, zero + votes, zero, zero, start_P), truth_R, bad_I


def repairs(scale: float, prompts: int) -> None:
    n = int(1000 * scale)
    print(
        f"\nrepair: least absolute deviations, flags, refit; one pair in ten turned round; {n} items or {prompts} prompts"
    )
    for name, sizes, wanted, votes in (
        ("50 pairs per item x 20 votes", np.array([n]), 50 * n, 20),
        ("5 pairs per item x 10 votes", np.array([n]), 5 * n, 10),
        ("prompts x 5, all pairs x 20", np.full(prompts, 5), prompts * 10, 20),
    ):
        pairs, truth_R, bad_I = turned(sizes, wanted, votes)
        told, seconds = timed(lambda pairs=pairs: robust.repair(pairs))
        found = (told.flagged_I & bad_I).sum()
        print(
            f"  {name:28} {seconds:9.2f} s   recall {found / bad_I.sum():.2f}, precision "
            f"{found / max(told.flagged_I.sum(), 1):.2f}, error {error(told.strength_R, truth_R, pairs):.3f}, "
            f"plain {error(told.plain_R, truth_R, pairs):.3f}; {statuses(told)}"
        )
        if len(sizes) == 1:
            routes(pairs, truth_R)


def statuses(told: robust.Repair) -> str:
    counted = np.bincount(told.status_C, minlength=len(robust.STATUSES))
    return ", ".join(f"{count} {name}" for name, count in zip(robust.STATUSES, counted, strict=True) if count)


def error(w_R: np.ndarray, truth_R: np.ndarray, pairs: Comparisons) -> float:
    away_I = (w_R - truth_R)[pairs.left_I] - (w_R - truth_R)[pairs.right_I]
    return float(np.abs(away_I).mean())


def routes(pairs: Comparisons, truth_R: np.ndarray) -> None:
    """The parts: two routes to least absolute deviations, and choix on the same votes."""
    p_I = robust.smoothed(pairs.wins_I, pairs.votes_I)
    m_I, weight_I = np.log(p_I / (1 - p_I)), robust.omega(p_I, pairs.votes_I)
    for name in ("lad_program", "lad_irls"):
        told, seconds = timed(lambda name=name: lad.ROUTES[name](pairs, m_I, weight_I))
        loss = lad.objective(pairs, told, weight_I)[0]
        print(
            f"    {name:26} {seconds:9.2f} s   objective {loss:.4f}, error {error(told.strength_R, truth_R, pairs):.3f}"
        )
    try:
        import choix
    except ImportError as missing:
        print(f"    {'choix ilsr_pairwise_dense':26} not run: {missing}")
        return
    n = len(truth_R)
    wins = np.zeros((n, n))
    wins[pairs.left_I, pairs.right_I] = pairs.wins_I
    wins[pairs.right_I, pairs.left_I] = pairs.votes_I - pairs.wins_I
    w_R, seconds = timed(lambda: choix.ilsr_pairwise_dense(wins, alpha=0.001))
    print(f"    {'choix ilsr_pairwise_dense':26} {seconds:9.2f} s   not robust, error {error(w_R, truth_R, pairs):.3f}")


def main(small: bool = False) -> None:
    print(describe("pairwright", "numpy", "scipy", "choix", "evalica"))
    prompts = 2_000 if small else 61_000
    strengths(prompts, 100 if small else 500)
    repairs(0.2 if small else 1.0, prompts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    main(parser.parse_args().small)
