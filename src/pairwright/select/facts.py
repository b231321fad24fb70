"""What a selection looks like beside the pool and its random subsets, as numbers for printing and for the page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from pairwright.core import margins as core
from pairwright.core.noise import judge_accuracy, noise_rate_of_two_sources
from pairwright.core.overlap import chance_overlap, overlap, spread_of_chance
from pairwright.core.segments import Bools, Floats
from pairwright.errors import ConfigError
from pairwright.select.margins import ALIKE, NAMED, column_of, voice
from pairwright.select.pool import Lengths, Pool
from pairwright.select.rank import Chosen
from pairwright.select.rules import columns_read
from pairwright.select.settings import Selection

MOST = 200_000  # pairs that correlations and quantiles are made of; beyond, those with the smallest seeded numbers
POINTS = 1_500  # of the joint plot
BINS = 40
SHOWN = ("implicit_per_token", "influence", "lossdiff", "irm", "loss_val", "wpo_weight", "ppl_diff")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class View:
    """The pool as facts see it: all of it, or a sample that stands for it."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool = pool
        self.rows = (
            np.arange(pool.n)
            if pool.n <= MOST
            else np.flatnonzero(pool.keys(seed) < np.uint64(int(2.0**64 * (MOST / pool.n))))
        )
        self.columns = _margin_columns(pool)
        self.n = len(self.rows)
        self._every = None if pool.n <= MOST else self.rows

    def number(self, column: str) -> Floats:
        return self.pool.number(column, self._every)

    def lengths(self) -> Lengths | None:
        """Lengths of both sides."""
        return self.pool.lengths(self._every)


def _margin_columns(pool: Pool) -> dict[str, str]:
    """{source: column} of the margins that the pool has, one of each voice: two forms of one margin are no two opinions."""
    found = {name: column for name, column in NAMED.items() if pool.has(column)}
    voices = {voice(column) for column in found.values()}
    for column, kind in pool.frame.schema.items():
        if column.startswith("margin_") and kind.is_numeric() and voice(column) not in voices:
            found[column.removeprefix("margin_")] = column
            voices.add(voice(column))
    return found


def describe(view: View, chosen: Chosen, controls: list[Bools], settings: Selection) -> dict[str, Any]:
    """Everything that is told about one selection."""
    sets = {"pool": np.ones(view.pool.n, bool), "kept": chosen.keep_I}
    warnings = list(chosen.warnings)
    sources, said = relations(view, settings)
    warnings += said
    facts: dict[str, Any] = {
        "pairs": view.pool.n,
        "kept": int(chosen.keep_I.sum()),
        "reasons": chosen.counts(),
        **chosen.facts,
        "described_by": view.n,
        "independence": sources,
        "sets": {name: summary(view, set_I) for name, set_I in sets.items()},
        "control": _control(view, chosen, controls, settings),
        "score_and_length": _score_and_length(view, chosen),
        "labels": labels(view, chosen, settings),
    }
    facts |= _seen(view, chosen)
    if "near_conflict" in chosen.scored.numbers:
        facts["near_conflicts_kept"] = int(chosen.scored.numbers["near_conflict"][chosen.keep_I].sum())
    lowest = [facts["sets"][name].get("rejected_is_lowest") for name in ("pool", "kept")]
    if None not in lowest and settings.rule == "margins" and lowest[1] > lowest[0] + 0.1:
        warnings.append(
            f"the rejected side is its prompt's lowest in {lowest[1]:.0%} of the kept pairs and {lowest[0]:.0%} of all: large "
            "margins across prompts collect the junk at the bottom of each; pair with another rejected rule, or look at them"
        )
    if settings.keep is not None and facts["kept"] < facts["asked"]:
        warnings.append(f"{facts['kept']} pairs were kept where {facts['asked']} were asked for: the reasons say why")
    facts["warnings"] = warnings
    return facts


def relations(view: View, settings: Selection) -> tuple[dict[str, Any], list[str]]:
    """Rank correlations of the margins with each other, with the length gap, and with each other given that gap."""
    held = {name: view.number(column) for name, column in view.columns.items()}
    lengths = view.lengths()
    gap = None if lengths is None else lengths.gap_I
    pairs, warnings = [], []
    names = list(held)
    for at, a in enumerate(names):
        for b in names[at + 1 :]:
            rho = core.spearman(held[a], held[b])
            given = None if gap is None else core.partial_spearman(held[a], held[b], gap)
            pairs.append({"a": a, "b": b, "spearman": _number(rho), "given_length": _number(given)})
            if rho > ALIKE and {column_of(view.pool, name) for name in settings.margins} >= {
                view.columns[a],
                view.columns[b],
            }:
                warnings.append(
                    f"{a} and {b} rank alike (Spearman {rho:.2f}): the product rule counts one opinion twice; leave one out"
                )
    if set(settings.margins) > {"external"} and gap is None:
        warnings.append("no lengths: whether the sources share a taste for long answers cannot be seen; add n_tokens_*")
    length = {name: _number(core.spearman(values, gap)) for name, values in held.items()} if gap is not None else {}
    return {
        "pairs": pairs,
        "length": length,
        "iqr": {name: core.iqr(v[~np.isnan(v)]) for name, v in held.items() if (~np.isnan(v)).any()},
        "caution": "a bias that all sources share cannot be seen in their margins; only length is looked at",
    }, warnings


def summary(view: View, set_I: Bools) -> dict[str, Any]:
    """Margins, lengths and coverage of a set of pairs."""
    in_I = set_I[view.rows]
    told: dict[str, Any] = {"pairs": int(set_I.sum())}
    told["margins"] = {name: _spread(view.number(column)[in_I]) for name, column in view.columns.items()}
    lengths = view.lengths()
    if lengths is not None:
        chosen, rejected = lengths.chosen_I[in_I], lengths.rejected_I[in_I]
        unequal = chosen[chosen != rejected].size
        told["length"] = {
            "unit": lengths.unit,
            "chosen": _mean(chosen),
            "rejected": _mean(rejected),
            "chosen_longer": float((chosen > rejected).sum() / unequal) if unequal else None,
        }
    frame = view.pool.frame
    if "prompt_id" in frame.columns:
        told["prompts"] = _distinct(view.pool, "prompt_id", set_I)
    if "source" in frame.columns:
        told["sources"] = _distinct(view.pool, "source", set_I)
    if (extreme_I := view.pool.flag("hit_extreme")) is not None and set_I.any():
        told["rejected_is_lowest"] = float(extreme_I[set_I].mean())
    return told


def _distinct(pool: Pool, name: str, set_I: Bools) -> int:
    column = pool.frame[name]
    if column.dtype.is_integer() and not column.null_count():
        held = np.sort(column.to_numpy()[set_I])
        return int((held[1:] != held[:-1]).sum()) + 1 if len(held) else 0
    held = np.sort(column.hash().to_numpy()[set_I])
    return int((held[1:] != held[:-1]).sum()) + 1 if len(held) else 0


def _spread(values: Floats) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {"n": 0, "mean": None, "quantiles": None, "below_zero": None}
    return {
        "n": len(known),
        "mean": float(known.mean()),
        "quantiles": np.quantile(known, QUANTILES).tolist(),
        "below_zero": float((known < 0).mean()),
    }


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _control(view: View, chosen: Chosen, controls: list[Bools], settings: Selection) -> dict[str, Any]:
    """The random subsets: their mean numbers, and their overlap with the selection beside what chance gives.

    Chance is that of sets without caps; `capped` says that these were drawn under those of the selection.
    """
    told = [summary(view, drawn_I) for drawn_I in controls]
    if not told:
        return {"n": 0}
    overlaps = [overlap(chosen.keep_I[chosen.able_I], drawn_I[chosen.able_I]) for drawn_I in controls]
    kept_I = chosen.keep_I[chosen.able_I]
    capped = bool(chosen.caps or settings.limited.per_source is not None) and not settings.controlled.same_prompts
    return {
        "n": len(told),
        "capped": capped,
        "overlap": _number(float(np.mean(overlaps))),
        "chance": _number(chance_overlap(kept_I, kept_I)),
        "chance_sd": _number(spread_of_chance(kept_I, kept_I)),
        "mean": _averaged(told),
    }


def _averaged(told: list[Any]) -> Any:
    """The mean of records of one shape, number by number."""
    first = next((each for each in told if each is not None), None)
    if isinstance(first, Mapping):
        return {key: _averaged([each.get(key) if each else None for each in told]) for key in first}
    if isinstance(first, list):
        return [_averaged(list(each)) for each in zip(*[each for each in told if each], strict=True)]
    if isinstance(first, str) or first is None:
        return first
    return float(np.mean([each for each in told if each is not None]))


def _score_and_length(view: View, chosen: Chosen) -> dict[str, Any]:
    lengths = view.lengths()
    if lengths is None:
        return {"spearman": None, "why": "no lengths: add n_tokens_chosen and n_tokens_rejected, or texts"}
    rho = core.spearman(chosen.score_I[view.rows], lengths.gap_I)
    return {"spearman": _number(rho), "unit": lengths.unit}


def labels(view: View, chosen: Chosen, settings: Selection) -> dict[str, Any]:
    """How many labels are wrong, as far as the sources can tell.

    Pool: label, external and implicit sign as three judges (errors independent given the truth). Kept: only by a source
    that the selection did not look at, whose own error rate is that of the pool; the used ones would judge themselves.
    """
    held = {name: view.number(column) for name, column in view.columns.items()}
    if len(held) < 2:
        return {
            "pool": None,
            "why": "one source or none: its disagreement with the labels has two culprits; add a second one",
        }
    names = list(held)[:4]
    vote_IJ = np.stack([np.ones(view.n), *(_sign(held[name]) for name in names)], axis=1)
    against = {
        name: _number(1 - float(np.nanmean(_sign(held[name]))))
        for name in names
        if np.isfinite(_sign(held[name])).any()
    }
    if never := [name for name in against if against[name] == 0]:
        return {
            "pool": None,
            "against": against,
            "why": f"the labels follow from {never[0]}, which contradicts none of them: a source that did not make them is "
            "needed",
        }
    judges = judge_accuracy(vote_IJ, rng=np.random.default_rng(settings.seed), draws=40)
    if not judges.identified_J[0]:
        return {
            "pool": None,
            "against": against,
            "why": "the signs of the sources agree no more than chance with each other",
        }
    told: dict[str, Any] = {
        "pool": 1 - float(judges.accuracy_J[0]),
        "se": _number(float(judges.se_J[0])),
        "against": against,
        "assumes": "label and sources err independently given the truth",
        "kept": {},
    }
    used = {voice(column) for column in columns_read(view.pool, settings)}
    kept_I = chosen.keep_I[view.rows]
    for at, name in enumerate(names, start=1):
        wrong = 1 - float(judges.accuracy_J[at])
        sign = _sign(held[name])[kept_I]
        if voice(view.columns[name]) in used or not np.isfinite(sign).any() or not 0 <= wrong < 0.5:
            continue
        two = noise_rate_of_two_sources(float(np.nanmean(sign)), first=wrong)
        told["kept"][name] = {"rate": _number(two.second), "source_wrong": wrong, "why": two.reason}
    if not told["kept"]:
        told["why_kept"] = "every source had a say in the selection, so that none can judge it; hold one out"
    return told


def _sign(values: Floats) -> Floats:
    """1 above 0, 0 below, nan for ties and what is missing."""
    return np.where(np.isnan(values) | (values == 0), np.nan, (values > 0).astype(np.float64))


def _seen(view: View, chosen: Chosen) -> dict[str, Any]:
    """Points of the joint plot and histograms, small enough for a page."""
    kept_I = chosen.keep_I[view.rows]
    told: dict[str, Any] = {"histograms": {}}
    columns = {**view.columns, **{name: name for name in SHOWN if view.pool.has(name)}}
    for name, column in columns.items():
        told["histograms"][name] = histogram(view.number(column), kept_I, chosen.facts.get("bands", {}).get(column))
    if {"external", "implicit"} <= set(view.columns):
        told["joint"] = _joint(
            view.number(view.columns["external"]), view.number(view.columns["implicit"]), kept_I, chosen
        )
    return told


def _joint(x_I: Floats, y_I: Floats, kept_I: Bools, chosen: Chosen) -> dict[str, Any] | None:
    """Points, ranges without the outermost hundredths, and the line of the last kept score where there is one."""
    both = np.flatnonzero(~np.isnan(x_I) & ~np.isnan(y_I))
    if len(both) < 2:
        return None
    ranges = []
    for values in (x_I[both], y_I[both]):
        low, high = (float(each) for each in np.quantile(values, (0.005, 0.995)))
        ranges.append([low, high] if low < high else [low - 1, high + 1])
    at = both[:: max(1, -(-len(both) // POINTS))]
    return {
        "x": "external",
        "y": "implicit",
        "points": [[float(a), float(b), bool(c)] for a, b, c in zip(x_I[at], y_I[at], kept_I[at], strict=True)],
        "of": len(both),
        "x_range": ranges[0],
        "y_range": ranges[1],
        "region": _region(ranges, chosen),
    }


def _region(ranges: list[list[float]], chosen: Chosen) -> list[list[float]]:
    """The (external, implicit) margins whose fused score is that of the last kept pair; nothing for other rules."""
    sources, combine = chosen.facts.get("sources", {}), chosen.facts.get("combine")
    if set(sources) != {"external", "implicit"} or not chosen.keep_I.any() or combine not in ("bayes", "add"):
        return []
    cut = float(chosen.score_I[chosen.keep_I].min())
    x_I = np.linspace(ranges[0][0], ranges[0][1], 121)
    if combine == "add":
        y_I = cut - x_I
    elif all(each["kind"] == "clipped" for each in sources.values()):
        ex, im = sources["external"], sources["implicit"]
        share_I = expit(cut - core.log_odds(core.clipped_linear(x_I, ex["low"], ex["high"])))
        open_I = (share_I > 1e-4) & (share_I < 1 - 1e-4)  # beyond, a source at its bound decides alone
        y_I = np.where(open_I, im["low"] + share_I * (im["high"] - im["low"]), np.nan)
    else:
        return []
    inside_I = (y_I >= ranges[1][0]) & (y_I <= ranges[1][1])
    return [[float(a), float(b)] for a, b in zip(x_I[inside_I], y_I[inside_I], strict=True)]


def histogram(values: Floats, kept_I: Bools, band: Mapping[str, Any] | None) -> dict[str, Any]:
    """Equal bins over the 0.5 to 99.5 % range; what lies outside is counted in the end bins."""
    known_I = ~np.isnan(values)
    if not known_I.any():
        return {"edges": [], "pool": [], "kept": []}
    low, high = np.quantile(values[known_I], (0.005, 0.995))
    if not low < high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(np.clip(values[mask], low, high), edges)[0] for mask in (known_I, known_I & kept_I)]
    told = {"edges": edges.tolist(), "pool": counts[0].tolist(), "kept": counts[1].tolist()}
    return told if not band or band["low"] is None else {**told, "band": [band["low"], band["high"]]}


def check_same_prompts(pool: Pool, settings: Selection) -> None:
    if settings.controlled.same_prompts and "prompt_id" not in pool.frame.columns:
        raise ConfigError("controls.same_prompts needs a column prompt_id; leave it out, or add the ids of the prompts")
