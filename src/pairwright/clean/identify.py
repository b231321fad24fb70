"""What can be known about a data set from its own redundancy, before anything is repaired.

    comparisons   n responses, graph of compared pairs, lambda its edge connectivity: at most floor((lambda - 1) / 2) wrong
                  pairs of a prompt can be corrected, lambda - 1 detected; cycle rank 0: none
    raters        q raters of one response: floor((q - 1) / 2) wrong cells of a row corrected, q - 1 detected
    models        prompts x models by one rater, q observed in a row: the same, if the columns mean the same in every row

A refusal is an answer: it says what is missing, and what would make more possible. Source: CURATRON (arXiv 2403.02745)
for the question; the limits are ours (docs/cleaning.md).
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from pairwright.clean.evidence import Case, Cleaning, Evidence, votes_of
from pairwright.core.graphs import redundancy
from pairwright.core.segments import Ints

OPTIONS = (
    "merge prompts and responses that are the same by hash: what is compared twice can be checked",
    "label 200 to 500 pairs, taken at random, a second time: that gives the flip rate with an interval",
    "score the responses with two reward models or more and list where they disagree: that is their opinion, no proof",
    "where new answers can be judged: four responses or more per prompt, all pairs of them",
)
MORE_RATERS = "add a rater: with three or more, one wrong score of a response can be told from the others"
SAME_COLUMNS = "score the responses of the same models (or by the same raters) for every prompt"
FEW_COLUMNS = 20  # models below which a low-rank fit is not tried
LEAST_SHARE = 0.5  # of the cells observed, for a low-rank fit
LEAST_ROWS = 10


def identify(evidence: Evidence, settings: Cleaning) -> list[Case]:
    """Every redundancy that the data could have, with what it allows."""
    found: list[Case] = []
    if evidence.comparisons.height:
        found.append(_comparisons(evidence))
    if evidence.scores.height:
        scores = evidence.scores
        if settings.raters:
            scores = scores.filter(pl.col("rater").is_in(settings.raters))
        found.append(_raters(scores))
        found += _models(scores)
    return found


def _comparisons(evidence: Evidence) -> Case:
    votes = votes_of(evidence.comparisons)
    pairs = votes.pairs
    counts = redundancy(pairs)
    n_P = np.diff(pairs.item_start_P)
    several = float((pairs.votes_I > 1).mean()) if len(pairs.votes_I) else 0.0
    total, cyclic = len(n_P), int((counts.cycle_rank_P > 0).sum())
    facts = {
        "prompts": total,
        "responses": int(n_P.sum()),
        "pairs": len(pairs.left_I),
        "votes": float(pairs.votes_I.sum()),
        "missing": votes.dropped.missing,
        "votes_per_pair": float(np.median(pairs.votes_I)) if len(pairs.votes_I) else 0.0,
        "pairs_with_several_votes": several,
        "raters": evidence.comparisons["rater"].n_unique(),
        "split": int((counts.components_P > 1).sum()),
        "without_cycle": int((counts.cycle_rank_P == 0).sum()),
        "detectable": int((counts.cap_detect_P > 0).sum()),
        "correctable": int((counts.cap_safe_P > 0).sum()),
        "cap_safe": _counted(counts.cap_safe_P),
        "cap_detect": _counted(counts.cap_detect_P),
    }
    if evidence.derived:
        words = (
            "derived_pairs: the comparisons were made from scores, and differences of numbers never contradict each "
            "other: consistency checks are vacuous. Check the scores themselves."
        )
        return Case("comparisons", "derived_pairs", None, words, ("judge the pairs independently", MORE_RATERS), facts)
    if not facts["pairs"]:
        return Case("comparisons", "no_outcomes", None, "no comparison has an outcome.", (), facts)
    if facts["without_cycle"] == total and not several:
        words = (
            f"not_identifiable: each of the {facts['pairs']} comparisons is seen once and none closes a cycle: 0 errors "
            "detectable, 0 correctable within prompts. Nothing was repaired."
        )
        return Case("comparisons", "not_identifiable", None, words, OPTIONS, facts)
    if facts["without_cycle"] == total:
        words = (
            f"rate_only: no cycle in any of {total} prompts, but {several:.0%} of the pairs have several votes: the flip "
            "rate can be estimated; which pair is wrong is decided by its votes alone."
        )
        return Case("comparisons", "rate_only", "lad", words, OPTIONS[2:], facts)
    if not several:
        words = (
            f"detect_only: {cyclic} of {total} prompts have a cycle, but every pair was judged "
            "once: a contradiction says that something is wrong, rarely which pair. No pair is flagged; the cycles are "
            "counted against those that honest noise makes."
        )
        return Case("comparisons", "detect_only", "lad", words, OPTIONS[1:2], facts)
    if not facts["correctable"]:
        words = (
            f"detect_only: {cyclic} of {total} prompts can show a contradiction, none can always "
            "say which pair is wrong: each has responses that two pairs or fewer hold to the rest (as in a triangle)."
        )
        return Case("comparisons", "detect_only", "lad", words, OPTIONS[3:], facts)
    words = (
        f"{facts['correctable']} of {total} prompts can correct at least one wrong pair, {facts['detectable']} can show "
        f"one, {facts['without_cycle']} have no cycle and can show nothing."
    )
    return Case("comparisons", "correctable", "lad", words, (), facts)


def _counted(value_P: Ints) -> dict[str, int]:
    values, counts = np.unique(value_P, return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def _raters(scores: pl.DataFrame) -> Case:
    held = scores.filter(pl.col("score").is_not_null())
    per_row = held.group_by("prompt_id", "response_id").agg(pl.col("rater").n_unique())["rater"]
    raters = held["rater"].unique(maintain_order=True).to_list()
    q = int(per_row.median() or 0) if per_row.len() else 0  # type: ignore[arg-type]
    facts = {"responses": per_row.len(), "raters": raters, "observed_in_a_row": q}
    facts |= {"correctable": max(0, (q - 1) // 2), "detectable": max(0, q - 1)}
    complete = int((per_row == len(raters)).sum())
    facts["complete"] = complete
    if len(raters) < 2:
        words = (
            "one_rater: a single score of a response can be held against nothing; it is neither right nor wrong here."
        )
        return Case("raters", "one_rater", None, words, (MORE_RATERS,), facts)
    few = complete < LEAST_ROWS or complete <= len(raters)
    if few and q >= 3 and per_row.len() >= LEAST_ROWS:
        words = (
            f"{len(raters)} raters, {q} of them on a response: with one scale up to an offset per rater, "
            f"{facts['correctable']} wrong scores of a response can be corrected."
        )
        return Case("raters", "correctable", "two_way", words, (), facts)
    if few:
        words = f"too_few: {complete} responses have all {len(raters)} scores; a regression of one on the others needs more."
        return Case("raters", "too_few", None, words, (), facts)
    if len(raters) == 2:
        words = (
            "detect_only: two scores of a response can disagree, and nothing says which of them is wrong. Disagreements "
            "are listed."
        )
        return Case("raters", "detect_only", "columns", words, (MORE_RATERS,), facts)
    words = (
        f"{len(raters)} raters score the same responses: each is held against the others. With {q} scores in a row "
        f"{facts['correctable']} wrong ones can be corrected and {facts['detectable']} detected."
    )
    return Case("raters", "correctable" if facts["correctable"] else "detect_only", "columns", words, (), facts)


def _models(scores: pl.DataFrame) -> Iterator[Case]:
    """Prompts x models, one matrix per rater; not where the responses of a prompt are draws of one model."""
    given = scores.filter(pl.col("score").is_not_null())
    named = given.filter(pl.col("model").is_not_null())
    n = given.group_by("prompt_id").agg(n=pl.col("response_id").n_unique())["n"]
    if named.is_empty() and 2 * (n > 1).sum() > len(n):
        words = (
            "slot_columns: nobody says which model wrote which response, so that the columns of a matrix would be slots, "
            "not the same thing in every row."
        )
        yield Case("models", "slot_columns", None, words, (SAME_COLUMNS,), {"prompts": len(n)})
    for (rater,), held in named.group_by("rater", maintain_order=True):
        rows = held.group_by("prompt_id").agg(models=pl.col("model").n_unique(), n=pl.len())
        models, prompts = held["model"].n_unique(), rows.height
        if models < 2:
            continue
        cells = held.select(pl.struct("prompt_id", "model").n_unique()).item()
        facts = {"prompts": prompts, "models": models, "observed": cells / (prompts * models)}
        q = int(rows["models"].median() or 0)  # type: ignore[arg-type]
        facts |= {"observed_in_a_row": q, "correctable": max(0, (q - 1) // 2), "detectable": max(0, q - 1)}
        yield _matrix(str(rater), facts, repeated=int((rows["n"] > rows["models"]).sum()))


def _matrix(rater: str, facts: dict[str, float], *, repeated: int) -> Case:
    q, share, models = facts["observed_in_a_row"], facts["observed"], facts["models"]
    if repeated > 0.5 * facts["prompts"]:
        words = (
            "slot_columns: most prompts have several responses of one model, so that the columns of a matrix would be "
            "slots, not the same thing in every row."
        )
        return Case("models", "slot_columns", None, words, (SAME_COLUMNS,), facts, rater)
    if q < 3 or facts["prompts"] < LEAST_ROWS:
        words = (
            f"too_few: {q:g} models are observed for a prompt and {facts['prompts']} prompts; its offset takes up one."
        )
        return Case("models", "too_few", None, words, (SAME_COLUMNS,), facts, rater)
    method = "low_rank" if models >= FEW_COLUMNS and share >= LEAST_SHARE else "two_way"
    words = (
        f"{facts['prompts']} prompts x {models} models by {rater}, {share:.0%} observed: if models differ by offsets, "
        f"{facts['correctable']:g} wrong scores of a prompt can be corrected; what is particular to a model on a prompt "
        "looks like an error of that size."
    )
    return Case("models", "correctable" if facts["correctable"] else "detect_only", method, words, (), facts, rater)
