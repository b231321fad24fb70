"""Rules by name: which position of a prompt's scores a side of the pair takes.

    max  min  second  random          mu  mu-2sigma  mu+1.5sigma          rank(3)  rank(-2)
    min_of(5)  max_of(5)              median-2mad  quantile(0.05)         threshold(0.5)  length_matched(-3,-1)

`mu-2sigma` and `min_of(5)` are two rules: for n = 200 normal scores the first stands near -2 sigma, the second at -1.163
on average.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from pairwright.core import positions, segments
from pairwright.core.positions import Candidates, Moments
from pairwright.core.segments import Bools, Floats, Ints, Keys
from pairwright.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of one side. `kind` is a key of RULES, `args` are its numbers."""

    name: str
    kind: str
    args: tuple[float, ...] = ()

    @property
    def place(self) -> float:
        """Where the rule stands in the order of positions, as a k of mu + k*sigma; nan where that is not fixed."""
        match self.kind:
            case "max":
                return np.inf
            case "min":
                return -np.inf
            case "sigma" | "mad":
                return self.args[0]
            case _:
                return np.nan


class Whole(NamedTuple):
    """Facts of the whole prompt, which stay when some of its candidates are used up."""

    lowest_P: Floats
    two_valued_P: Bools  # exactly two distinct scores


class Scene(NamedTuple):
    """All that a rule may look at."""

    candidates: Candidates
    spread: Moments
    start_R: Ints  # offsets of the rows the candidates were made of
    draw_R: Keys | None  # seeded numbers per row, for the rules in SEEDED
    draw_C: Keys | None  # the same of the first row of each candidate
    length_C: Floats | None  # characters, for length_matched
    other_P: Ints | None  # what the other side picked, for the rules in RELATIVE
    given: Whole | None = None  # of the whole prompt, where these are no longer all of its candidates

    @property
    def whole(self) -> Whole:
        if self.given is not None:
            return self.given
        lowest_P = segments.lowest(self.candidates.score_C, self.candidates.start_P)
        return Whole(lowest_P, positions.two_valued(self.candidates))


def without(scene: Scene, used_C: Bools, open_P: Bools) -> tuple[Scene, Bools]:
    """The scene without the used candidates, for those of the open prompts that keep two; and which prompts these are.

    Mean and sd stay those of the whole prompt.
    """
    cands, spread = scene.candidates, scene.spread
    left_P = np.add.reduceat(~used_C, cands.start_P[:-1]) if len(open_P) else np.zeros(0, np.int64)
    alive_P = open_P & (left_P >= 2)
    keep_C = ~used_C & np.repeat(alive_P, np.diff(cands.start_P))
    keep_R = keep_C[cands.candidate_R]
    renumber_C = np.cumsum(keep_C) - 1
    start_P = np.concatenate(([0], np.cumsum(left_P[alive_P])))
    rows_P = np.diff(segments.compress(keep_R, scene.start_R))[alive_P]
    kept = Candidates(
        cands.score_C[keep_C],
        cands.count_C[keep_C],
        cands.row_C[keep_C],
        start_P,
        renumber_C[cands.candidate_R[keep_R]],
    )
    return Scene(
        kept,
        Moments(spread.n_P[alive_P], spread.mean_P[alive_P], spread.sd_P[alive_P], spread.skewness_P[alive_P]),
        np.concatenate(([0], np.cumsum(rows_P))),
        None if scene.draw_R is None else scene.draw_R[keep_R],
        None if scene.draw_C is None else scene.draw_C[keep_C],
        None if scene.length_C is None else scene.length_C[keep_C],
        None,
        Whole(scene.whole.lowest_P[alive_P], scene.whole.two_valued_P[alive_P]),
    ), alive_P


def _needs(value: T | None, what: str, rule: str) -> T:
    if value is None:
        raise ConfigError(f"the rule {rule} needs {what}")
    return value


def _subset(scene: Scene, m: float) -> Bools:
    draw_R = _needs(scene.draw_R, "response ids to draw from", "min_of / max_of")
    return positions.subset(scene.candidates, draw_R, scene.start_R, int(m))


def _random(scene: Scene) -> Ints:
    draw_C = _needs(scene.draw_C, "response ids to draw from", "random")
    return positions.uniform(scene.candidates, draw_C, scene.other_P)


def _threshold(scene: Scene, gap: float) -> Ints:
    return positions.threshold(scene.candidates, _needs(scene.other_P, "a chosen side", "threshold"), gap)


def _length_matched(scene: Scene, low: float, high: float) -> Ints:
    other_P = _needs(scene.other_P, "a chosen side", "length_matched")
    length_C = _needs(scene.length_C, "the texts of the responses", "length_matched")
    return positions.length_matched(scene.candidates, scene.spread, other_P, length_C, low=low, high=high)


RULES: dict[str, Callable[..., Ints]] = {
    "max": lambda scene: positions.maximum(scene.candidates),
    "min": lambda scene: positions.minimum(scene.candidates),
    "second": lambda scene: positions.rank(scene.candidates, 2),
    "sigma": lambda scene, k: positions.sigma(scene.candidates, scene.spread, k),
    "mad": lambda scene, k: positions.robust_sigma(scene.candidates, k),
    "quantile": lambda scene, q: positions.quantile(scene.candidates, q),
    "rank": lambda scene, j: positions.rank(scene.candidates, int(j)),
    "min_of": lambda scene, m: positions.min_of(scene.candidates, _subset(scene, m)),
    "max_of": lambda scene, m: positions.max_of(scene.candidates, _subset(scene, m)),
    "random": _random,
    "threshold": _threshold,
    "length_matched": _length_matched,
}
SEEDED = frozenset({"min_of", "max_of", "random"})
RELATIVE = frozenset({"random", "threshold", "length_matched"})  # look at what the other side picked
CHOSEN_ONLY_NEVER = frozenset({"threshold", "length_matched"})  # only the rejected side is found relative to the chosen
GRID = ("min", "mu-2sigma", "mu-1sigma", "mu", "mu+1sigma", "mu+2sigma", "max")  # low to high

_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)"
_SIGMA = re.compile(r"mu(?:(?P<k>[+-](?:\d+(?:\.\d+)?|\.\d+))\*?s(?:igma)?)?")
_MAD = re.compile(r"median(?:(?P<k>[+-](?:\d+(?:\.\d+)?|\.\d+))\*?mad)?")
_CALL = re.compile(rf"(?P<kind>[a-z_]+)\((?P<args>{_NUMBER}(?:,{_NUMBER})*)\)")
_MOST = 1e9  # n_same(k) and row numbers stay within 64 bits
_ARGS = {"min_of": 1, "max_of": 1, "quantile": 1, "rank": 1, "threshold": 1, "length_matched": 2}


def parse_rule(text: str) -> Rule:
    """A rule by its name; ConfigError shows the forms. "mu - 2*s" and "mu-2sigma" are one rule with one name."""
    name = text.replace(" ", "").lower()
    if name in {"max", "min", "second", "random"}:
        return Rule(name, name)
    for pattern, kind, centre, unit in ((_SIGMA, "sigma", "mu", "sigma"), (_MAD, "mad", "median", "mad")):
        if found := pattern.fullmatch(name):
            k = float(found["k"] or 0)
            return _sane(Rule(f"{centre}{_plain(k)}{unit}" if k else centre, kind, (k,)))
    if (found := _CALL.fullmatch(name)) and found["kind"] in _ARGS:
        rule = Rule(name, found["kind"], tuple(float(number) for number in found["args"].split(",")))
        if len(rule.args) == _ARGS[rule.kind]:
            return _sane(rule)
    raise ConfigError(
        f"unknown rule {text!r}; rules: max, min, second, random, mu, mu-2sigma (any k), median-2mad (any k), "
        "quantile(0.05), rank(3), rank(-2), min_of(5), max_of(5), threshold(0.5), length_matched(-3,-1)"
    )


def _plain(k: float) -> str:
    """+1.5, -2, +1000000: a signed number without an exponent."""
    return f"{k:+.12f}".rstrip("0").rstrip(".")


def _sane(rule: Rule) -> Rule:
    first = rule.args[0]
    complaint = {
        "min_of": first < 1 or first % 1,
        "max_of": first < 1 or first % 1,
        "rank": first == 0 or first % 1,
        "quantile": not 0 <= first <= 1,
        "threshold": first <= 0,
        "length_matched": first > rule.args[-1],
    }
    if complaint.get(rule.kind) or max(abs(number) for number in rule.args) > _MOST:
        raise ConfigError(
            f"rule {rule.name}: min_of and max_of take a whole number from 1, rank one that is not 0, quantile a share "
            "from 0 to 1, threshold a gap above 0, length_matched two positions in sigma, the lower first; none "
            "is above 1e9"
        )
    return rule


def parse_sides(chosen: str, rejected: str) -> tuple[Rule, Rule]:
    """Both rules; the chosen one must stand above the rejected one where both have a fixed place."""
    above, below = parse_rule(chosen), parse_rule(rejected)
    if above.kind in CHOSEN_ONLY_NEVER:
        raise ConfigError(f"{above.name} is found relative to the chosen response: it can only be the rejected rule")
    if above.place <= below.place:
        raise ConfigError(
            f"the chosen rule {above.name} does not stand above the rejected rule {below.name}; exchange them"
        )
    return above, below


def apply(rule: Rule, scene: Scene) -> Ints:
    """The candidate that the rule picks for each prompt, -1 where the position does not exist."""
    return RULES[rule.kind](scene, *rule.args)
