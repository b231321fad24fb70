"""What a preference loss reads of a batch of pairs, and the few functions that every loss is written with.

A formula is written once: `namespace` gives torch for a tensor and NumPy for the rest, so the gradient is torch's own.
"""

import math
import sys
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from pairwright.errors import ConfigError, DataError

Array: TypeAlias = Any  # a NumPy array or a torch tensor, float32 or wider; of one pair batch, all of one kind


class PairTerms(NamedTuple):
    """One value per pair in every field; None where the batch does not have it. In a field, nan is "unknown".

    Log-probabilities are sums over the tokens of the completion, in nats; lengths are numbers of those tokens.
    """

    chosen: Array = None  # log pi - log ref of the chosen side, nats
    rejected: Array = None  # the same of the rejected side
    gap: Array = None  # score of chosen - score of rejected, rating points
    margin: Array = None  # what the chosen side must lead by, Bradley-Terry logits
    p_chosen: Array = None  # probability that chosen is the better one, 0 .. 1
    weight: Array = None  # of the pair, 0 or more; no loss reads it, `losses.weighted` takes it
    chosen_logps: Array = None  # log pi of the chosen side, nats
    rejected_logps: Array = None
    chosen_length: Array = None  # tokens, 1 or more
    rejected_length: Array = None


def namespace(x: Array) -> Any:
    """torch for a tensor, NumPy for the rest; never imports torch itself."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(x, torch.Tensor) else np


def softplus(z: Array) -> Array:
    """log(1 + e^z) = -log sigmoid(-z), without overflow; nan stays nan."""
    xp = namespace(z)
    with np.errstate(invalid="ignore"):
        return xp.logaddexp(xp.zeros_like(z), z)


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z), without overflow; sigmoid(-z) is 1 - sigmoid(z) without cancellation."""
    return namespace(z).exp(-softplus(-z))


def fixed(x: Array) -> Array:
    """The same numbers without a gradient."""
    return x if namespace(x) is np else x.detach()


def known_where(valid: Array, x: Array) -> Array:
    """x, and nan where not valid."""
    return namespace(x).where(valid, x, math.nan)


def need(t: PairTerms, name: str) -> Array:
    """A field that the loss cannot do without."""
    value = getattr(t, name)
    if value is None:
        raise DataError(
            f"the loss needs {name!r} of every pair, and the batch has none; add the column or take another loss"
        )
    return value


def given(t: PairTerms, name: str) -> Array:
    """A field of the data: no gradient passes through it, and what is not finite becomes nan."""
    value = fixed(need(t, name))
    return known_where(namespace(value).isfinite(value), value)


def held(x: Array, data: Array) -> Array:
    """x without a gradient where `data` is nan: a pair that has no loss can be left out afterwards without a trace.

    Else the gradient there is nan, also where the caller takes the loss times 0 or selects other pairs.
    """
    xp = namespace(x)
    return x if xp is np else xp.where(xp.isnan(data), x.detach(), x)


def implied(t: PairTerms, beta: float, data: Array | None = None) -> Array:
    """m = beta (chosen - rejected), the margin of the implied rewards, logits; `held` where `data` is nan."""
    positive(beta=beta)
    m = beta * (need(t, "chosen") - need(t, "rejected"))
    return m if data is None else held(m, data)


def per_token(t: PairTerms, name: str, side: str) -> Array:
    """The field over the length of its side; nan for a completion without tokens."""
    total, length = need(t, name), given(t, f"{side}_length")
    filled = length > 0
    return known_where(filled, total / namespace(length).where(filled, length, 1))


def finite(**settings: Any) -> None:
    """ConfigError for a setting that is not a finite number."""
    for name, value in settings.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ConfigError(f"{name} = {value!r} is no finite number; set it, no value of it fits every data set")


def positive(**settings: Any) -> None:
    """ConfigError for a setting that is not a finite number above 0."""
    finite(**settings)
    for name, value in settings.items():
        if value <= 0:
            raise ConfigError(f"{name} = {value!r} must be above 0")


def not_negative(**settings: Any) -> None:
    """ConfigError for a setting that is not a finite number of 0 or more."""
    finite(**settings)
    for name, value in settings.items():
        if value < 0:
            raise ConfigError(f"{name} = {value!r} must not be below 0")
