"""The clean stage: identify, run what can be run, collect proposals. Nothing that is read is changed."""

from dataclasses import asdict
from typing import Any, NamedTuple

import polars as pl

from pairwright.clean.comparisons import clean_comparisons
from pairwright.clean.evidence import RATED, SOFT, Case, Cleaned, Cleaning, Evidence, nothing
from pairwright.clean.identify import FEW_COLUMNS, LEAST_SHARE, identify
from pairwright.clean.judges import judges
from pairwright.clean.matrix import clean_models, clean_raters, with_proposals
from pairwright.errors import DataError, NotConverged, NotIdentifiable
from pairwright.tables import PROPOSALS, SCORES, conform, empty

OF = {"lad": ("comparisons",), "columns": ("raters",), "two_way": ("models", "raters"), "low_rank": ("models",)}


class Result(NamedTuple):
    """`facts` is JSON: the cases with what each of them found."""

    proposals: pl.DataFrame
    scores: pl.DataFrame  # NAME.bt: strengths out of comparisons; NAME.clean: safe proposals put in, where asked
    soft: pl.DataFrame
    facts: dict[str, Any]


def clean(evidence: Evidence, settings: Cleaning) -> Result:
    """What can be known, found and proposed. NotIdentifiable where a forced method has nothing to work on."""
    evidence = _of_raters(evidence, settings.raters)
    cases = identify(evidence, settings)
    chosen = _chosen(cases, settings)
    parts: list[Cleaned] = []
    told: list[dict[str, Any]] = []
    for case in cases:
        facts = case.told()
        if case in chosen:
            done, outcome = _run(case, evidence, settings)
            parts.append(done)
            facts |= {"found": done.facts, **outcome}
        told.append(facts)
    proposals = _stacked([part.proposals for part in parts], empty(PROPOSALS))
    scores = _stacked([part.scores for part in parts], empty(SCORES))
    soft = _stacked([part.soft for part in parts], pl.DataFrame(schema=SOFT))
    reliability: dict[str, Any] = {}
    if evidence.comparisons.height and not evidence.derived:
        reliability, better = judges(evidence.comparisons, seed=settings.seed)
        soft = soft if better.is_empty() else better
    if settings.apply == "safe":
        scores = pl.concat([scores, with_proposals(evidence.scores.select(RATED.keys()).drop("model"), proposals)])
    facts = {"settings": asdict(settings), "cases": told, "judges": reliability, "applied": settings.apply}
    facts |= {"proposals": proposals.height, "safe": int((proposals["status"] == "safe").sum())}
    return Result(conform(proposals, PROPOSALS, where="clean"), conform(scores, SCORES, where="clean"), soft, facts)


def _of_raters(evidence: Evidence, raters: list[str]) -> Evidence:
    """What the named raters said; all of it where none is named."""
    if not raters:
        return evidence
    known = sorted({*evidence.scores["rater"].unique(), *evidence.comparisons["rater"].unique()})
    if unknown := [name for name in raters if name not in known]:
        raise DataError(f"there is no rater {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    mine = pl.col("rater").is_in(raters)
    return evidence._replace(scores=evidence.scores.filter(mine), comparisons=evidence.comparisons.filter(mine))


def _chosen(cases: list[Case], settings: Cleaning) -> list[Case]:
    """The cases that are run: all that can be, or those of the forced method."""
    if settings.method == "auto":
        return [case for case in cases if case.method is not None]
    mine = [case for case in cases if case.case in OF[settings.method]]
    if not mine:
        held = ", ".join(case.case for case in cases) or "nothing that can be checked"
        wanted = " or ".join(OF[settings.method])
        raise NotIdentifiable(f"method {settings.method} works on {wanted}, and the data has {held}")
    able = [case for case in mine if settings.force or not _refused(case, settings)]
    if not able:
        raise NotIdentifiable(
            f"method {settings.method} was asked for, but {_refused(mine[0], settings)} --set force=true runs it all the same"
        )
    return able


def _refused(case: Case, settings: Cleaning) -> str:
    """Why the method cannot know anything here, in words; "" where it can."""
    if case.method is None:
        return case.words
    if settings.method == "low_rank" != case.method:
        return (
            f"low rank plus sparse needs {FEW_COLUMNS} models and {LEAST_SHARE:.0%} of the cells, and there are "
            f"{case.facts['models']} with {case.facts['observed']:.0%}: two_way takes them."
        )
    return ""


def _run(case: Case, evidence: Evidence, settings: Cleaning) -> tuple[Cleaned, dict[str, Any]]:
    """A case by its method. One that does not settle gives nothing, and says so."""
    forced = {"forced": why} if (why := _refused(case, settings)) else {}
    method = str(settings.method if settings.method != "auto" else case.method)
    told = {"ran": method, **forced}
    try:
        match case.case:
            case "comparisons":
                done = clean_comparisons(evidence.comparisons, settings)
            case "raters":
                done = clean_raters(evidence.scores, settings, method=method)
            case _:
                done = clean_models(evidence.scores, settings, rater=str(case.rater), method=method)
    except NotConverged as failed:
        return nothing(), {"outcome": "not_converged", "why": str(failed), **told}
    except NotIdentifiable as refused:
        return nothing(), {"outcome": "not_identifiable", "why": str(refused), **told}
    if forced:  # nothing can be known here: no proposal is safe
        done = done._replace(proposals=done.proposals.with_columns(status=pl.lit("contested")))
    return done, {"outcome": "done", **told}


def _stacked(parts: list[pl.DataFrame], none: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([none, *parts]) if parts else none
