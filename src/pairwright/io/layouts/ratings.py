"""Scores as files hold them: text, N/A, one per judge, several families of columns. Missing stays missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pairwright.io.layouts.model import Options, Refused, Row

FAMILIES = (
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("chosen_score", "rejected_score"),
    ("chosen_reward", "rejected_reward"),
)
NOT_GIVEN = {"n/a", "na", "none", "null"}
CLOSE = 1e-9  # a margin this near to the difference of the scores is that difference


class Scores(NamedTuple):
    """Both scores of a pair, the two columns they were read from, and why one is missing."""

    chosen: float | None
    rejected: float | None
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def parse_rating(value: object) -> tuple[float | None, str | None]:
    """A rating as a number, or null and the reason. Text is read only when it is one plain number: "4/5" is not."""
    if value is None:
        return None, "rating_missing"
    if isinstance(value, bool):
        return None, "rating_not_a_number"
    if isinstance(value, int | float):
        return (float(value), None) if math.isfinite(value) else (None, "rating_not_a_number")
    if not isinstance(value, str):
        return None, "rating_not_a_number"
    text = value.strip()
    if not text:
        return None, "rating_empty"
    if text.lower() in NOT_GIVEN:
        return None, "rating_na"
    try:
        number = float(text)
    except ValueError:
        return None, "ambiguous_rating" if any(sign.isdigit() for sign in text) else "rating_not_a_number"
    return (number, None) if math.isfinite(number) else (None, "rating_not_a_number")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; null when none is."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else None


def by_aspect(
    ratings: Mapping[str, object], n: int
) -> tuple[list[dict[str, float | None]], list[dict[str, str]], tuple[str, ...]]:
    """{aspect: ratings of all n responses} turned round: per response its ratings and the reasons of its gaps.

    A list that is too short or too long tells nobody whose rating is whose: that whole aspect is missing.
    """
    scores: list[dict[str, float | None]] = [{} for _ in range(n)]
    gaps: list[dict[str, str]] = [{} for _ in range(n)]
    notes = []
    for aspect, values in ratings.items():
        fits = isinstance(values, list) and len(values) == n
        if not fits:
            notes.append("rating_count_mismatch")
        for i in range(n):
            value, reason = parse_rating(values[i]) if fits else (None, "rating_count_mismatch")  # type: ignore[index]
            scores[i][aspect] = value
            if reason:
                gaps[i][aspect] = reason
    return scores, gaps, tuple(notes)


def means(scores: Sequence[Mapping[str, float | None]], *, shared: bool) -> list[float | None]:
    """Per response the mean over aspects: over those it has, or over those that every response has."""
    if shared:
        everywhere = [a for a in (scores[0] if scores else ()) if all(s.get(a) is not None for s in scores)]
        return [mean(s[a] for a in everywhere) for s in scores]
    return [mean(s.values()) for s in scores]


def find_scores(row: Row, own: tuple[str, str] | None, options: Options) -> Scores:
    """The scores of both sides. Several families of columns must order the sides alike, or the user names one."""
    families = [own, *FAMILIES] if own else list(FAMILIES)
    found = [_family(row, names, options) for names in dict.fromkeys(families) if names[0] in row or names[1] in row]
    if options.score is not None:
        named = [scores for scores in found if options.score in scores.columns]
        if named:
            return _judged(named[0])
    told = [scores for scores in found if scores.chosen is not None and scores.rejected is not None]
    if len({_sign(scores) for scores in told}) > 1:
        said = "; ".join(f"{s.columns[0]} {s.chosen:g} against {s.rejected:g}" for s in told)
        raise Refused("two_score_families_disagree", f"{said}; name the one to believe with score")
    return _judged((told or found or [Scores(None, None)])[0])


def _judged(scores: Scores) -> Scores:
    if "judges_disagree_no_rule" in scores.notes:
        raise Refused(
            "judges_disagree_no_rule", f"{scores.columns[0]} holds several judges; name one with judge, or mean"
        )
    return scores


def _sign(scores: Scores) -> int:
    gap = (scores.chosen or 0.0) - (scores.rejected or 0.0)
    return (gap > 0) - (gap < 0)


def _family(row: Row, names: tuple[str, str], options: Options) -> Scores:
    chosen, rejected = row.get(names[0]), row.get(names[1])
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return _judges(chosen, rejected, names, options)
    (better, why), (worse, why_too) = parse_rating(chosen), parse_rating(rejected)
    notes = tuple(reason for reason in (why, why_too) if reason and reason != "rating_missing")
    return Scores(better, worse, names, notes)


def _judges(chosen: Mapping[str, Any], rejected: Mapping[str, Any], names: tuple[str, str], options: Options) -> Scores:
    """{judge: score} on both sides: the judge that is named, or the mean when all judges order the sides alike."""
    each = {
        judge: (parse_rating(chosen.get(judge))[0], parse_rating(rejected.get(judge))[0])
        for judge in dict.fromkeys([*chosen, *rejected])
    }
    if options.judge is not None and options.judge != "mean":
        if options.judge not in each:
            raise Refused("judge_unknown", f"{names[0]} has no judge {options.judge!r}; it has {', '.join(each)}")
        return Scores(*each[options.judge], names)
    whole = [(c, r) for c, r in each.values() if c is not None and r is not None]
    if options.judge is None and len({(c > r) - (c < r) for c, r in whole}) > 1:
        return Scores(None, None, names, ("judges_disagree_no_rule",))
    return Scores(mean(c for c, _ in whole), mean(r for _, r in whole), names)


def settle_margin(given: object, chosen: float | None, rejected: float | None) -> tuple[float | None, tuple[str, ...]]:
    """The signed margin: the difference of the scores; a given one where a score is missing or where both agree."""
    number, _ = parse_rating(given)
    if chosen is None or rejected is None:
        return number, ()
    gap = chosen - rejected
    if number is None or abs(number - gap) <= CLOSE * max(1.0, abs(gap)):
        return (gap if number is None else number), ()
    return gap, ("margin_contradicts_scores",)
