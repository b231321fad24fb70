"""What the learning-rate schedule gives to the objectives of a routed run, known before the first step.

Hard pairs come last, where a decaying schedule has little left: in the published recipe 12 % of the data get 0.4 % of the
learning-rate mass. Steps are optimizer steps, one pass, `batch` pairs per step over all ranks and accumulated parts.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, assert_never

import numpy as np

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant"]
HardStage = Literal["inherit", "constant", "restart"]


class Spent(NamedTuple):
    """What an objective gets: its pairs, their share of all pairs, its share of the sum of learning rates."""

    pairs: int
    data_share: float
    lr_share: float


def lr_factor(
    n_steps: int,
    *,
    schedule: Schedule = "cosine",
    warmup_steps: int = 0,
    first_hard: int | None = None,
    hard_stage_lr: HardStage = "inherit",
) -> Floats:
    """Learning rate of each step over its peak, shape (steps,): linear warm-up, then cosine or linear to 0, or constant.

    From step `first_hard` on: "inherit" goes on, "constant" stays at the peak, "restart" runs the schedule anew; each of
    its two stages then has warm-up steps in proportion.
    """
    if not 0 <= warmup_steps <= n_steps:
        raise ConfigError(f"warmup_steps is from 0 to the {n_steps} steps of the run, not {warmup_steps}")
    if hard_stage_lr != "inherit" and (first_hard is None or not 0 <= first_hard <= n_steps):
        raise ConfigError(
            f"hard_stage_lr = {hard_stage_lr} needs first_hard, a step from 0 to {n_steps}, not {first_hard}"
        )
    if hard_stage_lr == "restart" and first_hard is not None:
        easy_warmup = round(warmup_steps * first_hard / max(n_steps, 1))
        warmup = (easy_warmup, warmup_steps - easy_warmup)
        lengths = (first_hard, n_steps - first_hard)
        return np.concatenate([_factor(n, schedule, min(w, n)) for n, w in zip(lengths, warmup, strict=True)])
    factor_S = _factor(n_steps, schedule, warmup_steps)
    if hard_stage_lr == "constant":
        factor_S[first_hard:] = 1.0
    return factor_S


def _factor(n_steps: int, schedule: Schedule, warmup_steps: int) -> Floats:
    step_S = np.arange(n_steps, dtype=np.float64)
    done_S = (step_S - warmup_steps) / max(1, n_steps - warmup_steps)
    match schedule:
        case "cosine":
            falling_S = 0.5 * (1 + np.cos(np.pi * done_S))
        case "linear":
            falling_S = 1 - done_S
        case "constant":
            falling_S = np.ones(n_steps)
        case _:
            assert_never(schedule)
    return np.where(step_S < warmup_steps, step_S / max(1, warmup_steps), falling_S)


def last_lr_share(q: float, *, schedule: Schedule, warmup: float = 0.0) -> float:
    """Share of the sum of learning rates in the last share q of the steps, for many steps; q <= 1 - warmup.

    With u = q / (1 - w): (1 - w)(u - sin(pi u)/pi) for cosine, (1 - w) u^2 for linear, q / (1 - w/2) for constant.
    The whole is 1/2 of the peak for the first two, so that warm-up and decay together weigh 1.
    """
    if not 0 <= q <= 1 - warmup:
        raise ConfigError(f"q is the share of a last stage after warm-up, from 0 to {1 - warmup:g}, not {q}")
    u = q / (1 - warmup) if q else 0.0
    match schedule:
        case "cosine":
            return (1 - warmup) * (u - float(np.sin(np.pi * u)) / float(np.pi))
        case "linear":
            return (1 - warmup) * u**2
        case "constant":
            return q / (1 - warmup / 2)
        case _:
            assert_never(schedule)


def lr_spent(sft_I: Bools, factor_S: Floats, *, batch: int) -> dict[str, Spent]:
    """Pairs and learning-rate mass per objective; `sft_I` in training order, `batch` pairs per step, one pass.

    A step's learning rate is shared out over the pairs of its batch, so that a mixed batch counts for both.
    """
    step_I = np.arange(len(sft_I)) // batch
    if len(factor_S) != -(-len(sft_I) // batch):
        raise ConfigError(
            f"{len(sft_I)} pairs in batches of {batch} are {-(-len(sft_I) // batch)} steps, not {len(factor_S)}"
        )
    mass_I = (factor_S / np.bincount(step_I, minlength=len(factor_S)))[step_I]
    total = float(mass_I.sum())
    return {
        name: Spent(
            int(in_I.sum()), float(in_I.mean()) if len(in_I) else 0.0, float(mass_I[in_I].sum()) / (total or 1.0)
        )
        for name, in_I in (("dpo", ~sft_I), ("sft", sft_I))
    }


def told(spent: Mapping[str, Spent]) -> list[str]:
    """Lines to print before training; a warning for an objective whose share of the learning rate is under a third of
    its share of the data."""
    lines = [
        f"{name}: {each.pairs} pairs, {each.data_share:.2%} of the data, {each.lr_share:.2%} of the learning-rate mass"
        for name, each in spent.items()
    ]
    return lines + [
        f"warning: the {name} stage can hardly move the model: it gets {each.lr_share:.2%} of the learning-rate mass for "
        f"{each.data_share:.2%} of the data; set hard_stage_lr to constant or restart, or the schedule to constant"
        for name, each in spent.items()
        if each.lr_share < each.data_share / 3
    ]


def gradient_ratio(tokens_I: Ints, *, beta: float, label_smoothing: float = 0.0, sft_weight: float = 1.0) -> Floats:
    """Coefficient on grad log pi(chosen) of the preference loss at margin 0 over that of SFT: beta (1/2 - eps) |y_w| / weight.

    The SFT term is the mean over the |y_w| response tokens of a pair, the preference term has their sum. 1: the two pull
    equally hard; report its mean over the SFT pairs. An empty response counts as one token.
    """
    if not 0 <= label_smoothing <= 0.5:
        raise ConfigError(f"label_smoothing is from 0 to 0.5, not {label_smoothing}")
    if not (sft_weight > 0 and beta > 0):
        raise ConfigError(f"beta and sft_weight are above 0, not {beta} and {sft_weight}")
    return beta * (0.5 - label_smoothing) * np.maximum(tokens_I, 1) / sft_weight
