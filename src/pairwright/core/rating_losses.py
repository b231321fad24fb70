"""Preference losses that read a score gap: one value per pair, to be averaged over pairs by the caller.

m = beta (chosen - rejected) is the implied margin in logits, D the gap (score of chosen - score of rejected) in the unit
that each loss names. No gradient passes through D. A pair whose gap is unknown (nan) or infinite has the loss nan, except
in `ml_rdpo`; to write 0 there would ask less of a pair for being unrated. `losses.require` names such pairs beforehand.

The same beta is not the same strength: rating_dpo at (beta, beta1) keeps as near to the reference as dpo at
`effective_beta`, which is the control to compare with.

Sources: Viano et al. 2026 (arXiv 2602.00603) for rating_dpo, rating_ipo, ml_rdpo; the others at their function.
"""

from pairwright.core.pair_terms import (
    Array,
    PairTerms,
    given,
    held,
    implied,
    known_where,
    namespace,
    need,
    not_negative,
    positive,
    sigmoid,
    softplus,
)
from pairwright.errors import ConfigError


def effective_beta(beta: float, *, beta1: float) -> float:
    """beta beta1 / (beta + beta1): the KL strength that rating_dpo aims at when the ratings are the true rewards."""
    positive(beta=beta, beta1=beta1)
    return beta * beta1 / (beta + beta1)


def rating_dpo(t: PairTerms, *, beta: float = 0.1, beta1: float) -> Array:
    """RDPO: softplus(-(m - c D)), c = beta / beta1. dL/dm = -sigmoid(-(m - c D)).

    DPO whose reference is tilted to ref exp(rating / beta1). D in rating points, beta1 in points per nat: small = trust,
    and beta1 -> infinity or D = 0 is dpo. The offset is *subtracted*: a larger gap asks for a larger margin.
    """
    positive(beta=beta, beta1=beta1)
    gap = given(t, "gap")
    return softplus(beta / beta1 * gap - implied(t, beta, gap))


def rating_ipo(t: PairTerms, *, beta: float = 0.1, beta1: float) -> Array:
    """RIPO: (m - c D - 1/2)^2, c = beta / beta1; minimal at chosen - rejected = 1 / (2 beta) + D / beta1.

    Units as in rating_dpo. beta1 -> infinity is beta^2 `ipo`: the learning rate of one does not fit the other. On summed
    log-probabilities; per token it would have another target.
    """
    positive(beta=beta, beta1=beta1)
    gap = given(t, "gap")
    return (implied(t, beta, gap) - beta / beta1 * gap - 0.5) ** 2


def ml_rdpo(t: PairTerms, *, beta: float = 0.1, variance: float, rate_weight: float = 1.0) -> Array:
    """ML-RDPO: softplus(-m) + (D - m)^2 / (2 variance); minimal at m = D + variance sigmoid(-m).

    The likelihood of two channels, independent given the pair: the label, and a gap of Normal(m, variance). D in logits,
    variance in logits^2; variance -> infinity is dpo, 2 variance times the loss with variance -> 0 is distilled_dpo.

    Unknown gap (nan): the second term is left out, the loss of that pair is dpo's. The mean over *all* pairs is the exact
    likelihood; for the mean of the second term over rated pairs only pass rate_weight = 1 / (share rated in the data).
    """
    positive(variance=variance)
    not_negative(rate_weight=rate_weight)
    raw = need(t, "gap")
    xp = namespace(raw)
    unrated = xp.isnan(raw)
    gap = xp.where(unrated, 0.0, given(t, "gap"))  # before the arithmetic: nan times 0 is nan, in the gradient too
    m = implied(t, beta, gap)
    return softplus(-m) + xp.where(unrated, 0.0, rate_weight / (2 * variance) * (gap - m) ** 2)


def distilled_dpo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """DDPO: (D - m)^2; minimal at m = D. D in logits. Fisch et al. 2024 (arXiv 2405.19316), without its ensembles.

    A negative gap is a negative target, which fights the label.
    """
    gap = given(t, "gap")
    return (gap - implied(t, beta, gap)) ** 2


def odpo(t: PairTerms, *, beta: float = 0.1, alpha: float = 1.0, transform: str = "log") -> Array:
    """ODPO: softplus(-(m - alpha f(D))), f = log or identity. Amini et al. 2024 (arXiv 2402.10571).

    alpha f(D) in logits. With f = log the offset is negative for D < 1, and a gap of 0 or below has no logarithm: nan
    (-infinity would give the pair the loss 0 without a word). For the log of a ratio of scores pass it as the gap, with identity.
    """
    gap = given(t, "gap")
    not_negative(alpha=alpha)
    match transform:
        case "identity":
            offset = gap
        case "log":
            xp, above = namespace(gap), gap > 0
            offset = known_where(above, xp.log(xp.where(above, gap, 1.0)))
        case _:
            raise ConfigError(f"transform = {transform!r} is unknown; known: identity, log")
    return softplus(alpha * offset - implied(t, beta, offset))


def margin_dpo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """softplus(-(m - margin)), the margin in logits. Graded strengths: HelpSteer2-Preference (arXiv 2410.01257).

    A margin of 0 is dpo, of c D rating_dpo. Unknown margin (nan): nan.
    """
    margin = given(t, "margin")
    return softplus(margin - implied(t, beta, margin))


def scaled_dpo(t: PairTerms, *, beta: float = 0.1, mean: float) -> Array:
    """D / mean softplus(-m): the gap as weight, over its mean in the data, which keeps the step size.

    HelpSteer2-Preference (arXiv 2410.01257). A gap of 0 has no say; one below 0 would turn the label round: nan.
    """
    gap = given(t, "gap")
    positive(mean=mean)
    weight = known_where(gap >= 0, gap) / mean
    return weight * softplus(-implied(t, beta, weight))


def mmpo(t: PairTerms, *, beta: float = 0.1, gamma: float) -> Array:
    """MMPO: p softplus(-m) + (1 - p) softplus(m), p = sigmoid(gamma D); minimal at m = gamma D.

    Kim et al. 2024 (arXiv 2410.03145). gamma, in logits per point, depends on the scale of the scores and has no
    default. D = 0 is p = 1/2, minimal at m = 0. InfoNCA (arXiv 2402.05369) over two answers at the temperature
    1 / gamma is the same.
    """
    positive(gamma=gamma)
    target = gamma * given(t, "gap")
    m = implied(t, beta, target)
    return sigmoid(target) * softplus(-m) + sigmoid(-target) * softplus(m)


def rpo_sq(t: PairTerms, *, beta: float = 0.1, eta: float = 1.0) -> Array:
    """Reward-aware preference optimisation, squared distance: (m - eta D)^2, eta in logits per point.

    Nemotron-4 340B (arXiv 2406.11704). Its code writes 1 and 0 for missing rewards; here an unknown gap is nan.
    """
    positive(eta=eta)
    target = eta * given(t, "gap")
    return (implied(t, beta, target) - target) ** 2


def rpo_bwd_kl(t: PairTerms, *, beta: float = 0.1, eta: float = 1.0) -> Array:
    """KL(Bernoulli(sigmoid(eta D)) || Bernoulli(sigmoid(m))): mmpo at gamma = eta less an entropy, with the same gradient."""
    positive(eta=eta)
    target = eta * given(t, "gap")
    return _kl(target, implied(t, beta, target))


def rpo_fwd_kl(t: PairTerms, *, beta: float = 0.1, eta: float = 1.0) -> Array:
    """KL(Bernoulli(sigmoid(m)) || Bernoulli(sigmoid(eta D))). dL/dm = sigmoid'(m) (m - eta D).

    The gradient vanishes where m is very wrong.
    """
    positive(eta=eta)
    target = eta * given(t, "gap")
    return _kl(implied(t, beta, target), target)


def _kl(a: Array, b: Array) -> Array:
    """KL of two Bernoulli laws given by their logits, nats."""
    return sigmoid(a) * (softplus(-b) - softplus(-a)) + sigmoid(-a) * (softplus(b) - softplus(a))


def mappo(t: PairTerms, *, beta: float = 0.1) -> Array:
    """MaPPO: softplus(-beta (chosen - D rejected)), D within 0 .. 1, else nan. arXiv 2507.21183 v5.

    D = 1 is dpo, D = 0 only lifts the chosen side. Not a function of chosen - rejected alone: a constant of the prompt
    does not cancel. This is the result of the paper; its printed prior has the opposite sign.
    """
    gap = given(t, "gap")
    positive(beta=beta)
    share = known_where((gap >= 0) & (gap <= 1), gap)
    return softplus(beta * (share * held(need(t, "rejected"), share) - held(need(t, "chosen"), share)))


def rebel(t: PairTerms, *, eta: float) -> Array:
    """REBEL: (chosen - rejected - eta D)^2, nats^2; eta in nats per point. Gao et al. 2024 (arXiv 2404.16767).

    The reference is the policy of the round before. At eta = 1 / beta it is distilled_dpo / beta^2.
    """
    positive(eta=eta)
    target = eta * given(t, "gap")
    return (held(need(t, "chosen") - need(t, "rejected"), target) - target) ** 2
