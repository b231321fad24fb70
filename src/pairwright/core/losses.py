"""Every preference loss: a function of `PairTerms` that gives one value per pair, with keyword-only settings.

    LOSSES["rating_dpo"](PairTerms(chosen, rejected, gap), beta=0.1, beta1=0.5).mean()

LOSSES holds them under their own names, NEEDS the fields that each one reads; the losses that read a score gap are in
`rating_losses`, those that couple the pairs of a batch in `batch_losses`. m = beta (chosen - rejected) is the implied
margin in logits, l(m) = softplus(-m). A value outside the domain of a field gives that pair the loss nan and no other:
a loss never waits for an accelerator to look at its data. `require` looks, once, before training.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from pairwright.core.pair_terms import (
    Array,
    PairTerms,
    finite,
    fixed,
    given,
    held,
    implied,
    known_where,
    need,
    not_negative,
    per_token,
    positive,
    softplus,
)
from pairwright.core.rating_losses import (
    distilled_dpo,
    mappo,
    margin_dpo,
    ml_rdpo,
    mmpo,
    odpo,
    rating_dpo,
    rating_ipo,
    rebel,
    rpo_bwd_kl,
    rpo_fwd_kl,
    rpo_sq,
    scaled_dpo,
)
from pairwright.errors import ConfigError, DataError


def dpo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """softplus(-m) = -log sigmoid(m). dL/dm = -sigmoid(-m). Rafailov et al. 2023 (arXiv 2305.18290), eq. 7."""
    return softplus(-implied(t, beta))


def cdpo(t: PairTerms, *, beta: float = 0.1, flip: float) -> Array:
    """Conservative DPO: (1 - flip) l(m) + flip l(-m); minimal at m = logit(1 - flip). Mitchell 2023.

    flip is the share of wrong labels, 0 .. 1/2, 0 being dpo. At 1/2 no preference is learnt: a warning.
    """
    _flip(flip)
    if flip == 0.5:
        warnings.warn("flip = 0.5: the loss is symmetric and learns no preference", stacklevel=2)
    m = implied(t, beta)
    return (1 - flip) * softplus(-m) + flip * softplus(m)


def soft_dpo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """p l(m) + (1 - p) l(-m), p = p_chosen; minimal at m = logit(p). p = 1 is dpo, p = 1 - flip is cdpo, p outside 0 .. 1 nan."""
    p = given(t, "p_chosen")
    p = known_where((p >= 0) & (p <= 1), p)
    m = implied(t, beta, p)
    return p * softplus(-m) + (1 - p) * softplus(m)


def rdpo_robust(t: PairTerms, *, beta: float = 0.1, flip: float) -> Array:
    """rDPO: ((1 - flip) l(m) - flip l(-m)) / (1 - 2 flip). Chowdhury et al. 2024 (arXiv 2403.00409).

    Its mean over labels that are wrong at the rate flip is the loss of the true ones. Not bounded below: where flip is
    above the true rate the margin grows without end. 0 is dpo, 1/2 is refused.
    """
    _flip(flip)
    if flip == 0.5:
        raise ConfigError(
            "flip = 0.5: labels that are wrong every second time say nothing; estimate the rate, or use cdpo"
        )
    m = implied(t, beta)
    return ((1 - flip) * softplus(-m) - flip * softplus(m)) / (1 - 2 * flip)


def _flip(flip: float) -> None:
    not_negative(flip=flip)
    if flip > 0.5:
        raise ConfigError(f"flip = {flip!r} says that most labels are wrong; turn the pairs round and pass 1 - flip")


def ipo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """(chosen - rejected - 1 / (2 beta))^2, nats^2. Azar et al. 2023 (arXiv 2310.12036), eq. 17, beta being its tau.

    On *summed* log-probabilities, as in the paper; what trainers call ipo is `ipo_norm`.
    """
    positive(beta=beta)
    return (need(t, "chosen") - need(t, "rejected") - 1 / (2 * beta)) ** 2


def ipo_norm(t: PairTerms, *, beta: float = 0.1) -> Array:
    """ipo on log-ratios per token, (nats per token)^2: TRL's `ipo`. A completion without tokens: nan."""
    positive(beta=beta)
    return (per_token(t, "chosen", "chosen") - per_token(t, "rejected", "rejected") - 1 / (2 * beta)) ** 2


def length_dpo(t: PairTerms, *, beta: float = 0.1, alpha: float) -> Array:
    """l(m + alpha (chosen_length - rejected_length)), alpha in logits per token. Park et al. 2024 (arXiv 2403.19159).

    With the reward r - alpha length the margin of r is m + alpha (difference of lengths): a longer chosen side pulls
    *less*. Copies with a minus sign reward length. Known as R-DPO, a name that others use for `rating_dpo`. 0 is dpo.
    """
    not_negative(alpha=alpha)
    longer = alpha * given(t, "chosen_length") - alpha * given(t, "rejected_length")
    return softplus(-(implied(t, beta, longer) + longer))


def simpo(t: PairTerms, *, beta: float = 2.0, gamma: float) -> Array:
    """SimPO: l(beta (log pi per token of chosen - of rejected) - gamma), gamma in logits. Meng et al. 2024 (arXiv 2405.14734).

    No reference. A completion without tokens: nan.
    """
    positive(beta=beta)
    not_negative(gamma=gamma)
    lead = per_token(t, "chosen_logps", "chosen") - per_token(t, "rejected_logps", "rejected")
    return softplus(gamma - beta * lead)


def alpha_dpo(t: PairTerms, *, beta: float = 2.5, gamma: float, alpha: float, mean: float, sd: float) -> Array:
    """simpo with the margin gamma + beta alpha (g - mean) / sd, g = (chosen - rejected) per token, without a gradient.

    mean and sd of g, nats per token, are running ones of the trainer (factor 0.9); before the first batch pass alpha = 0,
    which is simpo. Wu et al. 2024 (arXiv 2410.10148); pairs that the policy already separates must lead by more.
    """
    finite(mean=mean)
    positive(beta=beta, sd=sd)
    not_negative(gamma=gamma, alpha=alpha)
    lead = per_token(t, "chosen_logps", "chosen") - per_token(t, "rejected_logps", "rejected")
    g = fixed(per_token(t, "chosen", "chosen") - per_token(t, "rejected", "rejected"))
    return softplus(gamma + beta * alpha * (g - mean) / sd - beta * lead)


def sft(t: PairTerms) -> Array:
    """-log pi per token of the chosen side, nats: a mean per completion, then over pairs. A completion without tokens: nan."""
    return -per_token(t, "chosen_logps", "chosen")


def rpo_nll(t: PairTerms, *, beta: float = 0.1, alpha: float = 1.0) -> Array:
    """dpo + alpha sft. Pang et al. 2024 (arXiv 2404.19733). Called RPO, as is the reward-aware `rpo_sq`."""
    not_negative(alpha=alpha)
    return dpo(t, beta=beta) + alpha * sft(t)


_RATIOS = ("chosen", "rejected")
_RATED = (*_RATIOS, "gap")
_POLICY = ("chosen_logps", "rejected_logps", "chosen_length", "rejected_length")

NEEDS: dict[str, tuple[str, ...]] = {
    "dpo": _RATIOS,
    "cdpo": _RATIOS,
    "soft_dpo": (*_RATIOS, "p_chosen"),
    "rdpo_robust": _RATIOS,
    "ipo": _RATIOS,
    "ipo_norm": (*_RATIOS, "chosen_length", "rejected_length"),
    "length_dpo": (*_RATIOS, "chosen_length", "rejected_length"),
    "simpo": _POLICY,
    "alpha_dpo": (*_RATIOS, *_POLICY),
    "sft": ("chosen_logps", "chosen_length"),
    "rpo_nll": (*_RATIOS, "chosen_logps", "chosen_length"),
    "rating_dpo": _RATED,
    "rating_ipo": _RATED,
    "ml_rdpo": _RATED,
    "distilled_dpo": _RATED,
    "odpo": _RATED,
    "margin_dpo": (*_RATIOS, "margin"),
    "scaled_dpo": _RATED,
    "mmpo": _RATED,
    "rpo_sq": _RATED,
    "rpo_bwd_kl": _RATED,
    "rpo_fwd_kl": _RATED,
    "mappo": _RATED,
    "rebel": _RATED,
}

LOSSES: dict[str, Callable[..., Array]] = {
    loss.__name__: loss
    for loss in (
        *(dpo, cdpo, soft_dpo, rdpo_robust, ipo, ipo_norm, length_dpo, simpo, alpha_dpo, sft, rpo_nll),
        *(rating_dpo, rating_ipo, ml_rdpo, distilled_dpo, odpo, margin_dpo, scaled_dpo),
        *(mmpo, rpo_sq, rpo_bwd_kl, rpo_fwd_kl, mappo, rebel),
    )
}


def weighted(loss_I: Array, weight_I: Array) -> Array:
    """weight x loss. No gradient passes through the weight; below 0 it would turn the label round: nan."""
    weight_I = fixed(weight_I)
    weight_I = known_where(weight_I >= 0, weight_I)
    return weight_I * held(loss_I, weight_I)


def require(name: str, t: PairTerms, **settings: Any) -> None:
    """Refuses pairs that have no finite loss, with their number and the first of them; the fail-closed check of a trainer.

    Before training, when there are no log-ratios yet, pass zeros for them. Reads every value: not for every step.
    """
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    if lacks := [field for field in NEEDS[name] if getattr(t, field) is None]:
        raise DataError(f"{name} needs {', '.join(lacks)} of every pair, and the batch has none; add the column")
    fields = {field: _array(getattr(t, field)) for field in NEEDS[name]}
    sizes = {field: value.shape for field, value in fields.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{name}: fields of different shapes: {sizes}; pass one value per pair in each")
    for field in set(fields) - {"chosen_length", "rejected_length"}:
        if fields[field].dtype.kind != "f" or fields[field].dtype.itemsize < 4:
            raise DataError(f"{name}: {field} is {fields[field].dtype}; pass float32 or wider")
    bad = np.flatnonzero(~np.isfinite(LOSSES[name](PairTerms(**fields), **settings)))
    if len(bad):
        row = ", ".join(f"{field} {value[bad[0]]:g}" for field, value in fields.items())
        raise DataError(
            f"{name}: {len(bad)} of {len(fields[NEEDS[name][0]])} pairs have no loss, first row {bad[0]} ({row})"
        )


def _array(x: Array) -> Any:
    """NumPy's view of it; what NumPy does not have (bfloat16) as float16, which `require` refuses alike."""
    if isinstance(x, np.ndarray):
        return x
    x = x.detach().cpu()
    return (x if x.element_size() > 2 or not x.is_floating_point() else x.half()).numpy()
