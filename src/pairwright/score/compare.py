"""Raters side by side: what each of them says, how much of its scale it uses, and whether they agree.

Agreement is looked at within prompts only: two raters that merely find the same prompts hard do not agree about
responses. Spearman's rho is taken in every prompt and averaged; Krippendorff's alpha is taken on the mid-ranks within
each prompt, so that raters with different scales can be compared. Raw scores are not touched.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from pairwright.core.agreement import agreement_within, alpha_interval, krippendorff_alpha, ties_within
from pairwright.core.rewards import midrank, standard
from pairwright.core.segments import Floats, Ints, starts
from pairwright.score.judged import PositionBias, position_bias

FEW = 0.2  # a mean rho below it is called hardly any agreement
DRAWS = 200  # of the bootstrap
LARGE = 200_000  # responses from which on there is no bootstrap: its interval would be narrower than it is honest


def voices(names: Iterable[str]) -> list[str]:
    """The raters that stand for themselves: not the parts of a score ("rules.words") whose whole is there."""
    names = list(names)
    return [name for name in names if "." not in name or name.partition(".")[0] not in names]


TEXTS = ("prompt_id", "response_id", "prompt", "response", "source", "finish_reason", "n_tokens")


def beside(responses: pl.DataFrame, scores: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Responses (with their `prompt`) and one column of raw scores per name, parts included; null is missing."""
    key = ["prompt_id", "response_id"]
    wide = responses.select(TEXTS)
    for name in names:
        held = scores.filter(pl.col("rater") == name).select(*key, pl.col("score").alias(name))
        wide = wide.join(held, on=key, how="left", maintain_order="left")
    return wide


def z_beside(wide: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """The same rows with every rater's z within its prompt (population sd); null where missing or where it is constant."""
    start_P = starts(wide["prompt_id"].rle_id().to_numpy())
    ids = wide.select("prompt_id", "response_id")
    if ids.is_empty():
        return ids.with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    z_RJ = standard(wide.select(names).cast(pl.Float64).fill_null(np.nan).to_numpy(), start_P)
    return ids.with_columns(pl.Series(name, z_RJ[:, j]).fill_nan(None) for j, name in enumerate(names))


class SideBySide:
    """Gathers shards of scores; numbers only, 8 bytes per response and rater."""

    def __init__(self, raters: Sequence[str]) -> None:
        self.raters = voices(raters)
        self._scores: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self._sizes: list[Ints] = []
        self._nulls: dict[str, Counter[str]] = {}
        self._scale: dict[str, tuple[float | None, float | None]] = {}

    def add(self, responses: pl.DataFrame, scores: pl.DataFrame) -> None:
        """One shard: its responses, sorted by prompt, and the scores of all raters."""
        key = ["prompt_id", "response_id"]
        wide = responses.select(key)
        for rater in self.raters:
            held = scores.filter(pl.col("rater") == rater)
            self._nulls.setdefault(rater, Counter()).update(_counts(held.filter(pl.col("score").is_null())["reason"]))
            if held.height:
                self._scale[rater] = (held["scale_min"][0], held["scale_max"][0])
            wide = wide.join(
                held.select(*key, pl.col("score").alias(f"rater:{rater}")), on=key, how="left", maintain_order="left"
            )
        self._gather(wide["prompt_id"], wide.drop(key))

    def add_columns(self, candidates: pl.DataFrame, columns: Sequence[str]) -> None:
        """One batch of whole prompts whose scores stand in these columns, in the order of the raters."""
        for rater, column in zip(self.raters, columns, strict=True):
            lost = candidates[column].is_null().sum()
            self._nulls.setdefault(rater, Counter()).update({"score_missing": lost} if lost else {})
        self._gather(candidates["prompt_id"], candidates.select(columns))

    def _gather(self, prompts: pl.Series, scores: pl.DataFrame) -> None:
        self._scores.append(scores.cast(pl.Float64).fill_null(np.nan).to_numpy())
        self._sizes.append(np.diff(starts(prompts.rle_id().to_numpy())))

    def facts(self) -> dict[str, Any]:
        """`raters`, `agreement` of every two of them, `alpha` of all, and `advice` in words."""
        score_RJ = np.concatenate(self._scores) if self._scores else np.zeros((0, len(self.raters)))
        sizes = np.concatenate(self._sizes) if self._sizes else np.zeros(0, np.int64)
        start_P = np.concatenate(([0], np.cumsum(sizes)))
        lines = [self._rater(name, score_RJ[:, j], start_P) for j, name in enumerate(self.raters)]
        speaking = [j for j, line in enumerate(lines) if line["n"] and not line["constant"]]
        rank_RJ = midrank(score_RJ[:, speaking], start_P) if len(speaking) > 1 and len(sizes) else None
        both = [
            self._agreement(a, b, score_RJ, start_P, None if rank_RJ is None else rank_RJ[:, [i, k]])
            for (i, a), (k, b) in combinations(enumerate(speaking), 2)
        ]
        alpha = None if rank_RJ is None else _alpha(rank_RJ, [self.raters[j] for j in speaking])
        facts = {"raters": lines, "agreement": both, "alpha": alpha}
        return facts | {"advice": list(_advice(lines, both))}

    def _rater(self, name: str, score_R: Floats, start_P: Ints) -> dict[str, Any]:
        known = score_R[np.isfinite(score_R)]
        low, high = self._scale.get(name, (None, None))
        spread = bool(len(known)) and float(known.min()) < float(known.max())
        ends = (
            low if low is not None else known.min(initial=np.inf),
            high if high is not None else known.max(initial=-np.inf),
        )
        return {
            "rater": name,
            "n": len(known),
            "nulls": dict(sorted(self._nulls.get(name, Counter()).items())),
            "distinct": len(np.unique(known)),
            "constant": bool(len(known)) and not spread,
            "low": _number(known.min(initial=np.inf)),
            "high": _number(known.max(initial=-np.inf)),
            "scale": [low, high],
            "at_low": float((known <= ends[0]).mean()) if spread else None,
            "at_high": float((known >= ends[1]).mean()) if spread else None,
            "ties": _number(ties_within(score_R, start_P)),
        }

    def _agreement(self, a: int, b: int, score_RJ: Any, start_P: Ints, rank_RJ: Any) -> dict[str, Any]:
        told = agreement_within(score_RJ[:, a], score_RJ[:, b], start_P)
        return {
            "a": self.raters[a],
            "b": self.raters[b],
            "rho": _number(told.mean),
            "se": _number(told.se),
            "prompts": told.used,
            "too_few": told.too_few,
            "constant": told.constant,
            "alpha": _number(krippendorff_alpha(rank_RJ, metric="interval")),
        }


def _alpha(rank_RJ: Any, raters: list[str]) -> dict[str, Any]:
    """Of all raters together; the interval is a bootstrap over responses with a fixed seed."""
    low = high = np.nan
    if len(rank_RJ) <= LARGE:
        low, high = alpha_interval(rank_RJ, metric="interval", rng=np.random.default_rng(0), draws=DRAWS)
    value = krippendorff_alpha(rank_RJ, metric="interval")
    return {"raters": raters, "value": _number(value), "low": _number(low), "high": _number(high)}


def proof(rater: str, about: Any) -> Iterator[str]:
    """What the self-test of a reward model noticed: said every time its scores are looked at."""
    test = about.get("self_test") if isinstance(about, Mapping) else None
    for finding in test["findings"] if test else []:
        how = "was taken all the same (--allow-variant)" if finding["changes"] else "was noted and changes no score"
        yield f"{rater}: {finding['code']} {how}: {finding['message']}"


def position_facts(comparisons: pl.DataFrame, rater: str) -> dict[str, Any]:
    """How much the first place attracts a pairwise judge, and what to make of it."""
    told = position_bias(comparisons)
    facts: dict[str, Any] = {
        name: value if isinstance(value, int) else _number(value) for name, value in told._asdict().items()
    }
    return facts | {"consistency": _number(told.consistency), "advice": list(_about_place(told, rater))}


def _about_place(told: PositionBias, rater: str) -> Iterator[str]:
    if told.n and told.consistency < 0.8:
        yield (
            f"{rater} contradicts itself on {told.n - told.consistent} of {told.n} pairs when their order is turned "
            f"(order_inconsistent): such pairs have no outcome. {told.first_picks} of its {told.verdicts} verdicts go to "
            "the response shown first."
        )
    elif told.n and told.p_value < 0.01:
        place = "first" if told.first_both > told.second_both else "second"
        yield (
            f"{rater} prefers the {place} place (position_bias): {told.first_picks} of its {told.verdicts} verdicts go "
            "to the response shown first."
        )


def _advice(lines: list[dict[str, Any]], both: list[dict[str, Any]]) -> Iterator[str]:
    for line in lines:
        name, lost = line["rater"], sum(line["nulls"].values())
        if line["constant"] and line["n"] > 1:
            yield f"{name} says {line['low']:g} about all {line['n']} responses: it decides nothing (constant_judge)."
        if lost and lost >= 0.1 * (lost + line["n"]):
            why = max(line["nulls"], key=line["nulls"].get)
            yield f"{name} has no score for {lost} of {lost + line['n']} responses, mostly {why}."
        if (line["at_high"] or 0) > 0.3 and line["distinct"] > 2:
            yield f"{line['at_high']:.0%} of the scores of {name} stand at the top of its scale: it cannot tell those apart."
        if (line["ties"] or 0) > 0.5 and not line["constant"]:
            yield f"{name} ties {line['ties']:.0%} of the comparisons within prompts."
    for line in both:
        if line["rho"] is not None and line["rho"] < FEW and line["prompts"] >= 5:
            what = "hardly agree" if line["rho"] > -FEW else "contradict each other"
            yield (
                f"{line['a']} and {line['b']} {what} about responses to the same prompt (mean Spearman "
                f"{line['rho']:.2f} over {line['prompts']} prompts): which of them is right cannot be told from here."
            )


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.fill_null("score_missing").value_counts().iter_rows()) if len(values) else {}
