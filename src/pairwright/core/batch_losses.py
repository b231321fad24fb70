"""Losses that couple the pairs of a batch, and weights that are made outside a loss.

A batch loss gives one value per batch and depends on what else is in the batch, so it is kept apart from LOSSES.
"""

from collections.abc import Callable

from pairwright.core.losses import dpo
from pairwright.core.pair_terms import Array, PairTerms, fixed, namespace, positive
from pairwright.errors import DataError


def soft_minimum(loss_I: Array, *, temperature: float = 1.0, count_I: Array | None = None) -> Array:
    """-b log(mean exp(-l / b)), b = temperature, in the unit of the loss; () from (I,).

    Between min l and mean l, and at most min l + b log(count): b -> infinity is the mean, b -> 0 the minimum. With
    `count_I` each value stands for so many pairs: the soft minimum of the shards' soft minima, with the sizes of the
    shards, is that of the whole batch. A mean over shards is another, wrong number.
    """
    positive(temperature=temperature)
    if len(loss_I) == 0:
        raise DataError("a soft minimum of no pairs; drop the empty batch")
    xp = namespace(loss_I)
    low = fixed(loss_I).min()
    rise_I = xp.expm1(-(loss_I - low) / temperature)  # expm1 and log1p: exact for large b, where exp is nearly 1
    mean = rise_I.mean() if count_I is None else (rise_I * count_I).sum() / count_I.sum()
    return low - temperature * xp.log1p(mean)


def shares(loss_I: Array, *, temperature: float = 1.0) -> Array:
    """softmax(-l / b): what each pair contributes to the gradient of `soft_minimum`; sums to 1."""
    positive(temperature=temperature)
    xp, loss_I = namespace(loss_I), fixed(loss_I)
    up_I = xp.exp(-(loss_I - loss_I.min()) / temperature)
    return up_I / up_I.sum()


def effective_pairs(share_I: Array) -> float:
    """1 / sum of squared shares: how many pairs the batch is worth; a hard pair counts as little as a wrong one."""
    return float(1 / (share_I**2).sum())


def dr_dpo(t: PairTerms, *, beta: float = 0.1, temperature: float = 1.0) -> Array:
    """Dr.DPO: the soft minimum of the dpo losses, which lowers the weight of suspicious pairs. Wu et al. 2024 (arXiv 2407.07880).

    A batch of one is dpo. Over several processes combine with `soft_minimum(..., count_I=...)`. An unknown ratio (nan)
    makes the batch nan.
    """
    return soft_minimum(dpo(t, beta=beta), temperature=temperature)


def wpo_weight(chosen: Array, rejected: Array, *, clamp: bool = True) -> Array:
    """exp(chosen + rejected), the on-policy weight of a pair, without a gradient. Zhou et al. 2024 (arXiv 2406.11827), eq. 2.

    Each side is its mean over tokens of log pi(token) - log sum_v pi(v)^2 (nats, float32 or wider): 0 for a uniform
    policy, 0 or more for a greedy answer. clamp caps the weight at 1, as the authors' code does and TRL does not.
    """
    weight = namespace(chosen).exp(fixed(chosen) + fixed(rejected))
    return weight.clip(max=1.0) if clamp else weight


BATCH_LOSSES: dict[str, Callable[..., Array]] = {loss.__name__: loss for loss in (dr_dpo,)}
BATCH_NEEDS: dict[str, tuple[str, ...]] = {"dr_dpo": ("chosen", "rejected")}
