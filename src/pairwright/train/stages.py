"""The order of a routed run inside the trainer: its schedule, what each objective gets of it, and that it was kept.

A step trains `batch` pairs, over all processes and accumulated parts; a pass over the data is ceil(pairs / batch) steps.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import numpy as np

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import ConfigError, DataError
from pairwright.train.routing import check_batch, stages
from pairwright.train.schedule import HardStage, Schedule, Spent, lr_factor

SCHEDULES: dict[str, Schedule] = {
    "cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant",
}  # fmt: skip  # TRL's names
HARD_STAGE = get_args(HardStage)


def require_order(order: Sequence[Any], *, where: str) -> None:
    """The rows stand as they were routed; DataError where they were shuffled. Rows may have been dropped."""
    for row, (before, after) in enumerate(pairwise(order)):
        if not before < after:
            raise DataError(
                f"{where}: row {row + 1} has order {after} behind {before}: the rows were shuffled after routing; train on "
                "them as `route` gave them, or drop the column order"
            )


def staged_factor(
    sft_I: Bools, n_steps: int, *, batch: int, kind: str, warmup_steps: int, hard_stage_lr: HardStage
) -> Floats:
    """Learning rate of each step over its peak, shape (steps,), for hard_stage_lr "constant" or "restart".

    The hard stage begins with the first step that trains an sft pair. ConfigError where there is no such stage: the
    objectives alternate, another schedule, or more than one pass.
    """
    steps = -(-len(sft_I) // batch)
    if kind not in SCHEDULES:
        raise ConfigError(f"hard_stage_lr = {hard_stage_lr} knows the schedules {', '.join(SCHEDULES)}, not {kind}")
    if n_steps > steps:
        raise ConfigError(
            f"hard_stage_lr = {hard_stage_lr} is for one pass ({steps} steps of {batch} pairs), not {n_steps} steps"
        )
    if not stages(sft_I).any() or sft_I[0]:
        raise ConfigError(
            f"hard_stage_lr = {hard_stage_lr} needs easy pairs first and sft pairs last; route with order easy_first"
        )
    first = min(int(np.flatnonzero(sft_I)[0]) // batch, n_steps)
    return lr_factor(
        n_steps, schedule=SCHEDULES[kind], warmup_steps=warmup_steps, first_hard=first, hard_stage_lr=hard_stage_lr
    )


def step_factor(factor_S: Floats, step: int) -> float:
    """For a scheduler, which asks once beyond the last step."""
    return float(factor_S[min(step, len(factor_S) - 1)])


def scheduler(optimizer: Any, factor_S: Floats) -> Any:
    """A torch scheduler with these factors."""
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, partial(step_factor, factor_S))


def factors_of(made: Any, n_steps: int) -> Floats | None:
    """The factors of a scheduler that is a function of the step alone, shape (steps,); None of another."""
    lambdas = getattr(made, "lr_lambdas", None)
    return None if not lambdas else np.array([float(lambdas[0](step)) for step in range(n_steps)])


def lr_of_objectives(sft_I: Bools, factor_S: Floats, *, batch: int) -> dict[str, Spent]:
    """Learning-rate mass per objective over all steps, passes repeated; a mixed step counts for both in proportion."""
    step_I = np.arange(len(sft_I)) // batch
    n = int(step_I[-1]) + 1
    share_S = np.bincount(step_I, weights=sft_I, minlength=n) / np.bincount(step_I, minlength=n)
    total = float(factor_S.sum()) or 1.0
    sft = float((factor_S * share_S[np.arange(len(factor_S)) % n]).sum()) / total
    count = int(sft_I.sum())
    whole = len(sft_I)
    return {
        "dpo": Spent(whole - count, 1 - count / whole, 1 - sft if factor_S.any() else 0.0),
        "sft": Spent(count, count / whole, sft),
    }


class OrderWatch:
    """Holds the steps of a run against the order of its rows: each must train the order's own stretch."""

    def __init__(self, row_I: Sequence[int], *, batch: int) -> None:
        self.place = {int(row): at for at, row in enumerate(row_I)}
        self.batch, self.n = batch, len(row_I)
        self.steps = -(-self.n // batch)

    def check(self, rows: Ints, first: int, last: int) -> None:
        """`rows`: the numbers of the rows trained in the steps first .. last - 1, of all processes.

        The end of a pass may repeat pairs of its beginning, where the processes would have got uneven batches.
        """
        seen = np.array([self.place[int(row)] for row in rows if int(row) in self.place], np.int64)
        for step in range(first, last):
            at = step % self.steps
            wanted = np.arange(at * self.batch, min((at + 1) * self.batch, self.n))
            if not np.isin(wanted, seen).all():
                check_batch(seen, step=at, batch=self.batch, n=self.n)
                raise DataError(f"step {step} did not train its stretch of the order; use a sequential sampler")
