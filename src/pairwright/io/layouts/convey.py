"""Between candidates and pairs: the pair that a file names, or best against worst; and a pair as two candidates."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pairwright.io.layouts.model import Candidate, CandidateRow, PairRow, Picked, Refused, Row
from pairwright.io.layouts.turns import assistant, only_answer

CANDIDATES = "candidates"  # the key of a pair's meta that holds all responses it was picked from


def best_worst(candidates: list[Candidate]) -> Picked:
    """Highest against lowest score, ties for either to the lower index; no pair out of equal scores or equal texts.

    Equal texts are one response with the mean of their scores, as `pairwright pair` has it.
    """
    usable = [(i, c) for i, c in enumerate(candidates) if c.score is not None and c.text and c.text.strip()]
    if len(usable) < 2:
        raise Refused("fewer_than_two_scored", f"{len(usable)} of {len(candidates)} responses have a score and a text")
    shared = _shared_scores(candidates)
    first: dict[str | None, int] = {}
    for i, each in usable:
        first.setdefault(each.text, i)
    distinct = [(i, shared[text]) for text, i in first.items()]
    best = max(distinct, key=lambda item: (item[1], -item[0]))
    worst = min(distinct, key=lambda item: (item[1], item[0]))
    if len(distinct) == 1 and len({each.score for _, each in usable}) > 1:
        raise Refused("same_text", f"all {len(usable)} scored responses are one text")
    if best[1] == worst[1]:
        raise Refused("tie", f"all {len(usable)} scored responses have {best[1]:g}")
    return Picked(best[0], worst[0])


def _shared_scores(candidates: list[Candidate]) -> dict[str | None, float]:
    """{text: the mean of the scores it has}, byte for byte."""
    scores: dict[str | None, list[float]] = {}
    for each in candidates:
        if each.score is not None:
            scores.setdefault(each.text, []).append(each.score)
    return {text: held[0] if min(held) == max(held) else math.fsum(held) / len(held) for text, held in scores.items()}


def picked_texts(row: CandidateRow) -> tuple[str | None, str | None] | None:
    """The sides of `to_pair`; None where there is no pair."""
    picked = row.pair or _would_pick(row.candidates)
    return picked and (row.candidates[picked.chosen].text, row.candidates[picked.rejected].text)


def to_pair(row: CandidateRow) -> PairRow:
    """The pair that the file names, else best against worst; all candidates stay in the meta."""
    picked = row.pair or best_worst(row.candidates)
    chosen, rejected = row.candidates[picked.chosen], row.candidates[picked.rejected]
    for what, side in (("chosen", chosen), ("rejected", rejected)):
        if side.text is None:
            raise Refused("null_side", f"{what} is null")
        if not side.text.strip():
            raise Refused("empty_side", f"{what} is empty")
    above, below = chosen.score, rejected.score
    if chosen.text != rejected.text:
        shared = _shared_scores(row.candidates)
        above, below = shared.get(chosen.text), shared.get(rejected.text)
    margin = picked.margin
    if margin is None and above is not None and below is not None:
        margin = above - below
    pair = PairRow(
        row.prompt,
        assistant(chosen.text or ""),
        assistant(rejected.text or ""),
        score_chosen=above,
        score_rejected=below,
        margin=margin,
        weight=picked.weight,
        prompt_id=row.prompt_id,
        chosen_model=chosen.source,
        rejected_model=rejected.source,
        meta=row.meta,
        score_kind=row.score_kind,
        as_read=row.as_read,
        notes=row.notes,
    )
    if [_named(chosen), _named(rejected)] != row.candidates:
        pair = replace(pair, meta={**row.meta, CANDIDATES: [as_json(each) for each in row.candidates]})
    return pair


def to_candidates(row: PairRow) -> CandidateRow:
    """The responses that a pair was picked from, or its two sides."""
    chosen = Candidate(only_answer(row.chosen, layout="a list of candidates"), row.chosen_model, row.score_chosen)
    rejected = Candidate(
        only_answer(row.rejected, layout="a list of candidates"), row.rejected_model, row.score_rejected
    )
    meta = dict(row.meta)
    candidates = [as_candidate(each) for each in meta.pop(CANDIDATES, ())]
    scored = candidates
    if chosen.text != rejected.text:  # as `to_pair` has it
        shared = _shared_scores(candidates)
        scored = [replace(each, score=shared.get(each.text)) for each in candidates]
    at = [_place(scored, side) for side in (chosen, rejected)]
    if None in at:  # new sides, or a pair that was never a list
        candidates, at = [_named(chosen), _named(rejected)], [0, 1]
    gap = None if chosen.score is None or rejected.score is None else chosen.score - rejected.score
    margin = None if row.margin == gap else row.margin
    picked = Picked(int(at[0] or 0), int(at[1] or 0), margin, row.weight)
    return CandidateRow(
        row.prompt,
        candidates,
        prompt_id=row.prompt_id,
        pair=None if picked == _would_pick(candidates) else picked,
        meta=meta,
        score_kind=row.score_kind,
        as_read=row.as_read,
        notes=row.notes,
    )


def _would_pick(candidates: list[Candidate]) -> Picked | None:
    try:
        return best_worst(candidates)
    except Refused:
        return None


def _named(side: Candidate) -> Candidate:
    """A side of a pair as a candidate: nothing but text, source and score."""
    return Candidate(side.text, side.source, side.score, reason="rating_missing" if side.score is None else None)


def _place(candidates: list[Candidate], side: Candidate) -> int | None:
    key = (side.text, side.source, side.score)
    return next((i for i, each in enumerate(candidates) if (each.text, each.source, each.score) == key), None)


def as_json(candidate: Candidate) -> Row:
    """A candidate as plain values, without what is empty."""
    told: Row = {
        "text": candidate.text,
        "source": candidate.source,
        "score": candidate.score,
        "reason": candidate.reason,
    }
    told |= {"scores": dict(candidate.scores), "gaps": dict(candidate.gaps), "extra": dict(candidate.extra)}
    return {key: value for key, value in told.items() if key == "text" or value not in (None, {})}


def as_candidate(told: Mapping[str, Any]) -> Candidate:
    return Candidate(
        told.get("text"),
        told.get("source"),
        told.get("score"),
        told.get("scores", {}),
        told.get("reason"),
        told.get("gaps", {}),
        told.get("extra", {}),
    )
