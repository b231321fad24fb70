"""Arms against each other on the same prompts: differences with intervals over prompts and seeds, and at equal KL.

Values are (S, P): one per training seed and prompt, a mean over the prompt's draws, nan where there is none. Prompts and
seeds are drawn anew, each independently of the other (a two-way bootstrap), so that an interval covers both other prompts
and another run of the training. With one seed it covers prompts alone.
"""

from typing import NamedTuple

import numpy as np

from pairwright.core.segments import Floats
from pairwright.errors import DataError

DRAWS = 2000


class Interval(NamedTuple):
    """The value, and the ends between which 95 % of the draws lie."""

    value: float
    low: float
    high: float


class Weights(NamedTuple):
    """How often each seed and each prompt is drawn: (D, S) and (D, P). The same for all arms: differences are paired."""

    seed_DS: Floats
    prompt_DP: Floats


def weights(seeds: int, prompts: int, *, rng: np.random.Generator, draws: int = DRAWS) -> Weights:
    """Two-way bootstrap weights."""
    seed_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) if seeds > 1 else np.ones((draws, 1))
    return Weights(
        seed_DS.astype(np.float64),
        rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64),
    )


def means(value_SP: Floats, drawn: Weights) -> Floats:
    """The mean of each draw, (D,); values that are nan count for nothing."""
    known_SP = np.isfinite(value_SP)
    filled_SP = np.where(known_SP, value_SP, 0.0)
    total_D = np.einsum("ds,sp,dp->d", drawn.seed_DS, filled_SP, drawn.prompt_DP, optimize=True)
    count_D = np.einsum("ds,sp,dp->d", drawn.seed_DS, known_SP.astype(np.float64), drawn.prompt_DP, optimize=True)
    return np.where(count_D > 0, total_D / np.maximum(count_D, 1e-300), np.nan)


def interval(value: float, value_D: Floats) -> Interval:
    """Percentiles of the draws around the value."""
    known_D = value_D[np.isfinite(value_D)]
    if not len(known_D) or not np.isfinite(value):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known_D, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def mean_interval(value_SP: Floats, drawn: Weights) -> Interval:
    """The mean over seeds and prompts."""
    if not np.isfinite(value_SP).any():
        raise DataError("no prompt has a value: nothing can be compared")
    return interval(float(np.nanmean(value_SP)), means(value_SP, drawn))


def wins(a_PK: Floats, b_PK: Floats) -> Floats:
    """Share of pairs of draws (one of a, one of b) of a prompt that a wins, ties 1/2, (P,); nan without a pair."""
    difference = np.sign(a_PK[:, :, None] - b_PK[:, None, :])
    known = np.isfinite(difference)
    count_P = known.sum(axis=(1, 2))
    won_P = np.where(known, 0.5 * (difference + 1), 0.0).sum(axis=(1, 2))
    return np.where(count_P > 0, won_P / np.maximum(count_P, 1), np.nan)


def length_slope(reward_R: Floats, length_R: Floats, group_R: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> float:
    """What a rater gives for one more token among answers of one arm to one prompt: the slope within groups.

    nan where no group holds answers of different lengths.
    """
    known_R = np.isfinite(reward_R) & np.isfinite(length_R)
    reward_R, length_R, group_R = reward_R[known_R], length_R[known_R], group_R[known_R]
    if not len(group_R):
        return float("nan")
    count_G = np.bincount(group_R)
    held = np.maximum(count_G, 1)
    off_R = length_R - (np.bincount(group_R, weights=length_R) / held)[group_R]
    rise_R = reward_R - (np.bincount(group_R, weights=reward_R) / held)[group_R]
    spread = float((off_R**2).sum())
    return float((off_R * rise_R).sum() / spread) if spread > 0 else float("nan")


def at_equal_length(reward_SP: Floats, length_SP: Floats, slope: float) -> Floats:
    """Differences of reward less what the rater gives for the difference of length, (S, P); as they are without a slope."""
    return reward_SP - slope * length_SP if np.isfinite(slope) else reward_SP


class Path(NamedTuple):
    """An arm along its training: KL and reward at each checkpoint, (C, S, P)."""

    kl_CSP: Floats
    reward_CSP: Floats


class Matched(NamedTuple):
    """Two arms at one KL: nats, and the difference of their rewards there."""

    kl: float
    difference: Interval


def at_equal_kl(a: Path, b: Path, base_SP: Floats, drawn: Weights) -> Matched:
    """Reward of a less reward of b where both have gone equally far: the smaller of their last KLs.

    Between checkpoints, and from the base model (KL 0), the reward is taken as linear in the root of KL, as it is to first
    order (Gao et al. 2023, arXiv 2210.10760). The KL is fixed; in each draw both paths are read at it, and a path that
    ends before it is read at its end.
    """
    last = [float(np.nanmean(each.kl_CSP[-1])) for each in (a, b)]
    target = max(0.0, min(last))
    base_D, base = means(base_SP, drawn), float(np.nanmean(base_SP))
    values = []
    for path in (a, b):
        kl_CD = np.stack([means(kl_SP, drawn) for kl_SP in path.kl_CSP])
        reward_CD = np.stack([means(reward_SP, drawn) for reward_SP in path.reward_CSP])
        point_C = [
            (float(np.nanmean(k)), float(np.nanmean(r))) for k, r in zip(path.kl_CSP, path.reward_CSP, strict=True)
        ]
        read_D = np.array(
            [_read(kl_CD[:, d], reward_CD[:, d], float(base_D[d]), target) for d in range(kl_CD.shape[1])]
        )
        values.append(
            (_read(np.array([k for k, _ in point_C]), np.array([r for _, r in point_C]), base, target), read_D)
        )
    (a_value, a_D), (b_value, b_D) = values
    return Matched(target, interval(a_value - b_value, a_D - b_D))


def _read(kl_C: Floats, reward_C: Floats, base: float, target: float) -> float:
    """Reward at a KL on the line through the base and the checkpoints, in order of their KL."""
    order = np.argsort(kl_C, kind="stable")
    root = np.sqrt(np.maximum(np.concatenate(([0.0], kl_C[order])), 0.0))
    return float(np.interp(np.sqrt(target), root, np.concatenate(([base], reward_C[order]))))
