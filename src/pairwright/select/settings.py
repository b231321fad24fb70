"""How to select. Tables that are rarely used are nested; a key that nobody knows is an error everywhere."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import msgspec
import numpy as np

from pairwright.core.margins import EPS, LOW
from pairwright.errors import ConfigError

Combine = Literal["bayes", "add", "min", "max", "mean", "min_rank"]
T = TypeVar("T")


@dataclass(frozen=True)
class Scoring:
    """How a margin becomes a number in 0 .. 1. By source: `bounds` [M1, M2], `divisors` of the search, `scale` of the sigmoid.

    Without them M1 = low, M2 is searched from max / 1.5 (implicit sources: max / 2), and the scale is fitted.
    """

    kind: Literal["clipped", "sigmoid", "rank"] = "clipped"
    low: float = LOW
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    divisors: dict[str, float] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    eps: float = EPS  # 1e-2: the tempered variant
    conflict: Literal["last", "half"] = "last"  # of sources that say 1 and 0: ranked after all others, or log-odds 0
    rescale: Literal["none", "iqr", "sd"] = "none"  # margins to an IQR (sd) of 5 first; a deviation from the paper

    def __post_init__(self) -> None:
        if not 0 < self.eps < 0.5:
            raise ConfigError(f"eps = {self.eps:g} cannot be: scores are clamped to eps .. 1 - eps; take 0 < eps < 0.5")
        if not np.isfinite(self.low):
            raise ConfigError(f"scoring.low = {self.low:g} cannot be: it is a margin, a finite number")
        for name, scale in self.scale.items():
            if not 0 < scale < np.inf:
                raise ConfigError(f"scale of {name} = {scale:g} cannot be: it is a width, above 0 and finite")
        for name, divisor in self.divisors.items():
            if not 0 < divisor < np.inf:
                raise ConfigError(
                    f"divisors of {name} = {divisor:g} cannot be: the search starts at max / divisor, above 0 and finite"
                )
        for name, (low, high) in self.bounds.items():
            if not -np.inf < low < high < np.inf:
                raise ConfigError(
                    f"bounds of {name} = {low:g} .. {high:g} cannot be: two finite margins, the lower one first"
                )


@dataclass(frozen=True)
class Limits:
    """Caps and bands around the ranking.

    per_prompt and per_source: at most so many kept of one; per_source = "proportional": every source the same share.
    per_group: at most so many of one group of near-duplicates (column near_group; `near` says how it is made).
    bands: {column: [low, high]}, rank shares outside of which nothing is kept; floor: the least share that they must
    leave, by widening.
    """

    per_prompt: int | None = None
    per_source: int | Literal["proportional"] | None = None
    source: str = "source"
    per_group: int | None = None
    near: dict[str, Any] = field(default_factory=dict)
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    floor: float = 0.0
    include_seed: bool = False  # rank pairs that the model behind a score was trained on, as the published recipe does

    def __post_init__(self) -> None:
        caps = {"per_prompt": self.per_prompt, "per_source": self.per_source, "per_group": self.per_group}
        for name, cap in caps.items():
            if isinstance(cap, int) and cap < 1:
                raise ConfigError(f"{name} = {cap} cannot be: a cap counts pairs, from 1")
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor is a share from 0 to 1, not {self.floor:g}")
        _ = self.alike
        if self.near and self.per_group is None:
            raise ConfigError("limits.near groups near-duplicates for limits.per_group, which is not set; set it too")

    @cached_property
    def alike(self) -> "Near":
        return parsed(Near, self.near, where="limits.near")


@dataclass(frozen=True)
class Near:
    """When two pairs are near-duplicates: MinHash of the words of `text`, or the cosine of vectors in `column`."""

    by: Literal["minhash", "embedding"] = "minhash"
    threshold: float = 0.8  # Jaccard similarity of word n-grams, or cosine
    text: Literal["prompt", "chosen", "pair"] = "prompt"
    column: str = "embedding"
    permutations: int = 128
    words: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is a similarity above 0, at most 1; not {self.threshold:g}")
        if self.words < 1 or self.permutations < 16:
            raise ConfigError("words counts from 1 and permutations from 16")


@dataclass(frozen=True)
class Controls:
    """The random subsets written beside a selection: how many, and whether with the same number of pairs per prompt."""

    n: int = 3
    same_prompts: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.n <= 1000:
            raise ConfigError(f"controls.n = {self.n} cannot be: it counts random subsets, 0 to 1000")


@dataclass(frozen=True)
class Options:
    """Numbers that single rules read; docs/selection.md says which."""

    column: str | None = None  # another column than the rule's own
    eta: float = 0.85  # rs_dpo: sigmoid((r_i - r_j) / tau) > eta
    tau: float = 1.0
    threshold: float = 0.0  # fdpo: dropped where fresh - chosen >= threshold
    warm_up: bool = False  # perpcorrect: the surrogate was aligned on labels known to be clean
    lam: float = 1.0  # ensemble: mean - lam * sd; inf: the worst member
    match: float = 0.2  # length_matched: | |y_w| - |y_l| | / max at most this
    bins: int = 10  # length_balanced: margin bins

    def __post_init__(self) -> None:
        if not 0.5 <= self.eta < 1:
            raise ConfigError(
                f"eta = {self.eta:g} cannot be: below 1/2 both orders of a pair would qualify; 0.5 <= eta < 1"
            )
        if not self.tau > 0 or self.bins < 1 or not 0 <= self.match <= 1:
            raise ConfigError("tau is above 0, bins counts from 1, match is a share from 0 to 1")
        if not self.lam >= 0:
            raise ConfigError(f"lam = {self.lam:g} cannot be: below 0 disagreement would count for a pair; 0 or more")


@dataclass(frozen=True)
class Selection:
    """`keep`: a share (0 .. 1] of all pairs, or a count above 1; null: what the rule's source keeps.

    margins: external (column margin), implicit (margin_implicit), or the NAME of a column margin_NAME.
    The tables are `Scoring`, `Limits`, `Controls` and `Options`.
    """

    margins: list[str] = field(default_factory=lambda: ["external"])
    combine: Combine = "bayes"
    keep: float | None = None
    rule: str = "margins"
    seed: int = 0
    scoring: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.margins or len(set(self.margins)) < len(self.margins):
            raise ConfigError(f"margins names each source once, and at least one; not {self.margins}")
        if self.combine not in get_args(Combine):
            raise ConfigError(f"unknown combine {self.combine!r}; known: {', '.join(get_args(Combine))}")
        if self.keep is not None and not (0 <= self.keep <= 1 or (1 < self.keep < np.inf and self.keep % 1 == 0)):
            raise ConfigError(f"keep = {self.keep:g} is neither a share from 0 to 1 nor a whole number of pairs")
        _ = self.scored, self.limited, self.controlled, self.tuned
        if not 0 <= self.seed < 2**63 - self.controlled.n:
            raise ConfigError(
                f"seed = {self.seed} cannot be: the seeds of the random subsets count from it, 0 to 2^63 - 1"
            )
        for key in ("bounds", "divisors", "scale"):
            if unknown := [name for name in getattr(self.scored, key) if name not in self.margins]:
                raise ConfigError(
                    f"scoring.{key} names {', '.join(unknown)}, which is no source here; margins: {', '.join(self.margins)}"
                )

    @cached_property
    def scored(self) -> Scoring:
        return parsed(Scoring, self.scoring, where="scoring")

    @cached_property
    def limited(self) -> Limits:
        return parsed(Limits, self.limits, where="limits")

    @cached_property
    def controlled(self) -> Controls:
        return parsed(Controls, self.controls, where="controls")

    def of(self, margins: list[str]) -> "Selection":
        """The same of other sources, with the scoring that belongs to these."""
        keys = ("bounds", "divisors", "scale")
        mine = {
            key: {n: v for n, v in self.scoring[key].items() if n in margins} for key in keys if key in self.scoring
        }
        return dataclasses.replace(self, margins=margins, scoring={**self.scoring, **mine})

    @cached_property
    def tuned(self) -> Options:
        return parsed(Options, self.options, where="options")

    def budget(self, n: int, default: float) -> int:
        """The number of pairs to keep out of n; the nearest whole number to a share."""
        keep = default if self.keep is None else self.keep
        return min(n, int(keep)) if keep > 1 else int(keep * n + 0.5)


def parsed(kind: type[T], table: Mapping[str, Any], *, where: str) -> T:
    names = sorted(each.name for each in dataclasses.fields(kind))  # type: ignore[arg-type]
    if unknown := [str(key) for key in table if key not in names]:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(names)}")
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
