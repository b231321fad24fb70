"""Low rank plus sparse on whole score matrices, against tensorly and against the usual full-SVD program.

    python bench/speed/cleaning_matrices.py [--small] [--rounds 3]

805 x 200 of rank 5 (a leaderboard) and 5000 x 64 of rank 3, 5 % gross errors, no noise. tensorly counts the nuclear norm
for both unfoldings of a matrix, so its weights are set to reg_E = 1 / sqrt(max(m, n)), reg_J = 1/2: the same program as
principal component pursuit. Best of the rounds; relative error of the low-rank part against the truth. Nothing is asserted.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from machine import describe
from pairwright.core.lowrank import split_convex, split_low_rank

SEED = 0
SHAPES = [(805, 200, 5), (5000, 64, 3)]
SMALL = [(120, 40, 3), (200, 32, 2)]


def planted(rows: int, columns: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The true low-rank matrix and the one with 5 % gross errors, of 5 to 15 either way."""
    rng = np.random.default_rng(SEED)
    truth = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    size = rng.uniform(5, 15, truth.shape) * rng.choice([-1, 1], truth.shape)
    return truth, truth + np.where(rng.random(truth.shape) < 0.05, size, 0.0)


def altproj(value: np.ndarray, rank: int) -> np.ndarray:
    return split_low_rank(value, rank=rank).low_PJ


def convex(value: np.ndarray, _: int) -> np.ndarray:
    return split_convex(value).low_PJ


def full_svd(value: np.ndarray, _: int) -> np.ndarray:
    """Inexact augmented Lagrangian as it is copied around: numpy's SVD in every round."""
    weight, top = 1 / max(value.shape) ** 0.5, np.linalg.norm(value, 2)
    mu, limit = 1.25 / top, 1.25e7 / top
    dual = value / max(top, np.abs(value).max() / weight)
    low = np.zeros_like(value)
    for _ in range(1000):
        sparse = value - low + dual / mu
        sparse = np.sign(sparse) * np.maximum(np.abs(sparse) - weight / mu, 0)
        left, singular, right = np.linalg.svd(value - sparse + dual / mu, full_matrices=False)
        low = (left * np.maximum(singular - 1 / mu, 0)) @ right
        rest = value - low - sparse
        dual, mu = dual + mu * rest, min(1.5 * mu, limit)
        if np.linalg.norm(rest) < 1e-7 * np.linalg.norm(value):
            break
    return low


def tensorly(value: np.ndarray, _: int) -> np.ndarray:
    from tensorly.decomposition import robust_pca

    tol = 1e-7 * float(np.linalg.norm(value))  # its tolerance is absolute
    weight = 1 / max(value.shape) ** 0.5
    return robust_pca(value, reg_E=weight, reg_J=0.5, tol=tol, n_iter_max=1000, verbose=0)[0]


JOBS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "ours, alternating": altproj,
    "ours, convex": convex,
    "numpy, full SVD": full_svd,
    "tensorly robust_pca": tensorly,
}


def compare(rows: int, columns: int, rank: int, rounds: int) -> None:
    truth, value = planted(rows, columns, rank)
    print(f"\n{rows} x {columns}, rank {rank}, 5 % gross errors")
    ours = 0.0
    for name, job in JOBS.items():
        try:
            job(planted(60, 40, 2)[1], 2)  # imports and first calls are not timed
        except ImportError:
            print(f"  {name:22} not run: it is not installed here; pip install tensorly")
            continue
        best = np.inf
        for _ in range(rounds):
            begun = time.perf_counter()
            low = job(value, rank)
            best = min(best, time.perf_counter() - begun)
        ours = ours or best
        error = np.linalg.norm(low - truth) / np.linalg.norm(truth)
        print(f"  {name:22} {best:8.3f} s {best / ours:8.1f} x ours   relative error {error:.1e}")


def main(small: bool = False, rounds: int = 3) -> None:
    print(describe("numpy", "scipy", "tensorly"))
    for shape in SMALL if small else SHAPES:
        compare(*shape, rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    main(options.small, options.rounds)
