"""Named margins into one number per pair: scores in 0 .. 1, fusion, and what to say about the sources."""

from typing import Any, NamedTuple

import numpy as np

from pairwright.core import margins as core
from pairwright.core.segments import Bools, Floats
from pairwright.errors import ConfigError, DataError
from pairwright.select.pool import LARGEST, Pool
from pairwright.select.settings import Scoring, Selection

NAMED = {"external": "margin", "implicit": "margin_implicit"}
FORMS = ("margin_per_token", "implicit_per_token")  # of margin_implicit, as cross-fitting writes it
MODELLED = {
    *FORMS, "irm", "influence", "loss", "loss_cross", "loss_val", "lossdiff", "wpo_weight", "ppl_diff",
}  # fmt: skip
WIDE = 5.0  # the IQR (or sd) that `rescale` gives a margin: the published constants suit spreads of this order
ALIKE = 0.9  # rank correlation above which two sources count as one given twice


class Fused(NamedTuple):
    """score_I is log-odds (bayes) or the number that `combine` says, nan where a source is missing; tie_I the unclipped sum."""

    score_I: Floats
    tie_I: Floats
    conflict_I: Bools
    near_I: Bools
    scores: dict[str, Floats]  # per source, 0 .. 1
    raw: dict[str, Floats]  # per column, as it was given
    facts: dict[str, Any]
    warnings: list[str]


def column_of(pool: Pool, source: str) -> str:
    """The column behind the name of a source."""
    if source in NAMED:
        return NAMED[source]
    return f"margin_{source}" if pool.has(f"margin_{source}") else source


def implicit(source: str) -> bool:
    return "implicit" in source or source in ("irm", "per_token")


def modelled(column: str) -> bool:
    """Whether a model that was trained on pairs made the number."""
    return "implicit" in column or column in MODELLED


def voice(column: str) -> str:
    """What a column is the opinion of: all numbers of trained models count as one voice, whatever their form."""
    return "implicit" if modelled(column) else "margin" if column in ("score_chosen", "score_rejected") else column


def stem(column: str) -> str:
    """The margin that a column is another form of: per token or summed, it is the same model's."""
    return "margin_implicit" if column in FORMS else column.removesuffix("_per_token")


def fuse(pool: Pool, settings: Selection, usable_I: Bools) -> Fused:
    """The sources of `settings.margins` over the usable pairs (the bounds are theirs); nan elsewhere."""
    how, names = settings.scored, settings.margins
    able_I = usable_I.copy()
    given = {column_of(pool, name): pool.number(column_of(pool, name)) for name in names}
    for margin_I in given.values():
        able_I &= ~np.isnan(margin_I)
    if not able_I.any():
        raise DataError(f"no pair has all of the margins {', '.join(names)}; there is nothing to rank")
    facts: dict[str, Any] = {}
    scores, warnings, tie_I = {}, [], np.zeros(pool.n)
    if len({stem(column) for column in given}) < len(given):
        warnings.append(
            f"{', '.join(given)} hold one model's margin in two forms: one opinion is counted twice; leave one out"
        )
    raw = {name: _rescaled(margin_I, able_I, how) for name, margin_I in zip(names, given.values(), strict=True)}
    for name, margin_I in raw.items():
        told, score_I = _score(name, margin_I, able_I, how)
        facts[name] = {"column": column_of(pool, name), **told}
        if len(names) > 1:  # alone, a source ranks the same at every scale
            warnings += _scale_warnings(name, told, how, settings.combine)
        scores[name] = score_I
        tie_I += margin_I
    list_SI = list(scores.values())
    conflict_I = core.conflicts(list_SI) & able_I if how.kind == "clipped" else np.zeros(pool.n, bool)
    near_I = core.near_conflicts(list_SI) & able_I if len(names) > 1 else np.zeros(pool.n, bool)
    ranked = list(raw.values()) if settings.combine == "min_rank" else list_SI
    score_I = _combined(settings, ranked, tie_I, able_I)
    if how.conflict == "half" and settings.combine == "bayes":
        score_I = np.where(conflict_I, 0.0, score_I)
    if not able_I.all():
        score_I = np.where(able_I, score_I, np.nan)
    return Fused(score_I, tie_I, conflict_I, near_I, scores, given, facts, warnings)


def _rescaled(margin_I: Floats, able_I: Bools, how: Scoring) -> Floats:
    if how.rescale == "none":
        return margin_I
    spread = core.iqr(margin_I[able_I]) if how.rescale == "iqr" else float(np.std(margin_I[able_I]))
    if not spread > 0:
        raise DataError(f"rescale = {how.rescale}: the margins do not spread ({how.rescale} 0); leave rescale out")
    if not WIDE / spread < LARGEST:
        raise DataError(
            f"rescale = {how.rescale}: the margins spread by {spread:.3g}, next to nothing; leave rescale out"
        )
    return margin_I * (WIDE / spread)


def _score(name: str, margin_I: Floats, able_I: Bools, how: Scoring) -> tuple[dict[str, Any], Floats]:
    """The score in 0 .. 1 of one source, and what belongs to it."""
    known_I = _of(margin_I, able_I)
    told: dict[str, Any] = {
        "n": len(known_I),
        "max": float(known_I.max()),
        "iqr": core.iqr(known_I),
        "kind": how.kind,
    }
    if how.kind == "rank":
        score_I = np.full(len(margin_I), np.nan)
        score_I[able_I] = core.midrank_share(known_I)
        return told, score_I
    if how.kind == "sigmoid":
        scale = how.scale.get(name) or core.fit_scale(known_I)
        return {**told, "scale": scale}, core.sigmoid(margin_I, scale)
    low, high = how.bounds.get(name, (how.low, None))
    if told["max"] <= low:
        raise DataError(
            f"degenerate_bounds: every margin of {name} is at or below {low:g} (largest {told['max']:g}); is its sign right? "
            "Set scoring.bounds by hand to go on"
        )
    if high is None:
        divisor = how.divisors.get(name, 2.0 if implicit(name) else 1.5)
        if not divisor > 0:
            raise ConfigError(f"divisors of {name} = {divisor:g} cannot be; the search starts at max / divisor")
        high = core.upper_bound(known_I, divisor=divisor)
    score_I = core.clipped_linear(margin_I, low, high)
    known_I = _of(score_I, able_I)
    told |= {"low": low, "high": high, "at_one": int((known_I == 1).sum()), "at_zero": int((known_I == 0).sum())}
    told["score_of_zero"] = float(core.clipped_linear(np.zeros(1), low, high)[0])
    return told, score_I


def _of(value_I: Floats, able_I: Bools) -> Floats:
    """The numbers of these pairs; no copy where these are all."""
    return value_I if able_I.all() else value_I[able_I]


def _scale_warnings(name: str, told: dict[str, Any], how: Scoring, combine: str) -> list[str]:
    warnings = []
    if how.kind == "clipped" and combine != "add" and name not in how.bounds and (told["max"] < 5 or told["iqr"] < 1):
        warnings.append(
            f"margins of {name} are small (largest {told['max']:.3g}, quartiles {told['iqr']:.3g} apart): the bounds suit "
            "margins of order 10, so its scores are nearly flat; scoring.rescale = iqr spreads them"
        )
    if told["n"] < core.FEW and how.kind == "clipped":
        warnings.append(
            f"{told['n']} margins of {name}: below {core.FEW} the search for the upper bound ends where it starts"
        )
    return warnings


def _combined(settings: Selection, score_SI: list[Floats], sum_I: Floats, able_I: Bools) -> Floats:
    match settings.combine:
        case "bayes":
            total_I = np.zeros(len(sum_I))
            for score_I in score_SI:
                total_I += core.log_odds(score_I, settings.scored.eps)
            return total_I
        case "add":
            return sum_I
        case "min":
            return np.asarray(np.minimum.reduce(score_SI))
        case "max":
            return np.asarray(np.maximum.reduce(score_SI))
        case "mean":
            return np.asarray(sum(score_SI) / len(score_SI))
        case "min_rank":
            worst_I = np.full(len(sum_I), np.inf)
            for score_I in score_SI:
                worst_I = np.minimum(worst_I, core.midrank_share(np.where(able_I, score_I, np.nan)))
            return worst_I
