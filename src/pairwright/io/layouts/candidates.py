"""The layouts that hold all responses to a prompt: UltraFeedback, HelpSteer2, Nectar, SimPO, RLHFlow, distilabel."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pairwright.io.layouts.convey import best_worst
from pairwright.io.layouts.model import Candidate, CandidateRow, Group, Messages, Options, Picked, Refused, Row
from pairwright.io.layouts.ratings import by_aspect, means, parse_rating
from pairwright.io.layouts.turns import (
    assistant,
    marked_text,
    marked_turns,
    messages,
    only_user,
    prompt_of,
    records,
    text,
    unwrap,
    whole_prompt,
)

ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
TEN_LOW = 2.0  # a 10 of 10 whose aspects average below 2 of 5 was a 1


def _said(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise Refused("unusable_turn", f"a response is {type(value).__name__}, not text")
    return value


# UltraFeedback


def read_ultrafeedback(row: Row, options: Options) -> Group:
    """Ratings are strings; the overall score, where there is none the mean of the aspects."""
    candidates = [_completion(each) for each in records(row["completions"], what="completions")]
    notes: list[str] = []
    if options.score == "aspects" or not any("overall_score" in each.extra for each in candidates):
        averaged = means([each.scores for each in candidates], shared=options.shared_aspects)
        candidates = [
            replace(each, score=score, reason="rating_missing" if score is None else None)
            for each, score in zip(candidates, averaged, strict=True)
        ]
    else:
        candidates = [_check_ten(each, options, notes) for each in candidates]
    used = frozenset({"instruction", "completions"})
    return Group(prompt_of(row["instruction"]), candidates, used, notes=tuple(notes))


def _completion(told: Mapping[str, Any]) -> Candidate:
    annotations = told.get("annotations") or {}
    parsed = {
        aspect: parse_rating(held.get("Rating") if isinstance(held, dict) else held)
        for aspect, held in annotations.items()
        if held is not None
    }
    score, reason = parse_rating(told.get("overall_score"))
    return Candidate(
        _said(told.get("response")),
        told.get("model"),
        score,
        {aspect: value for aspect, (value, _) in parsed.items()},
        reason,
        {aspect: why for aspect, (_, why) in parsed.items() if why},
        {key: value for key, value in told.items() if key not in ("response", "model")},
    )


def _check_ten(each: Candidate, options: Options, notes: list[str]) -> Candidate:
    """UltraFeedback stored ones as tens: a 10 that its aspects contradict is set aside, or repaired on request."""
    if each.score != 10.0:
        return each
    (average,) = means([each.scores], shared=False)
    if average is None:
        notes.append("ten_without_aspects")
        return each
    if average >= TEN_LOW:
        return each
    if options.repair_tens:
        notes.append("ten_was_one")
        return replace(each, score=1.0, gaps={**each.gaps, "overall_score": "ten_was_one"})
    return replace(each, score=None, reason="overall_contradicts_aspects")


def write_ultrafeedback(row: CandidateRow, options: Options) -> Row:
    completions = []
    for each in row.candidates:
        told: Row = {"model": each.source, "response": each.text, **each.extra}
        if "overall_score" not in told:
            told["overall_score"] = each.score
        if "annotations" not in told:
            told["annotations"] = {aspect: {"Rating": value} for aspect, value in each.scores.items()} or None
        completions.append(told)
    return {"instruction": only_user(row.prompt, layout="ultrafeedback"), "completions": completions}


# HelpSteer2: one row per response, `rows` holds those of one prompt


def read_helpsteer2(row: Row, options: Options) -> Group:
    """Five aspects from 0 to 4; the score is helpfulness, or what the weights make of the five."""
    candidates = []
    for told in records(row["rows"], what="rows"):
        parsed = {aspect: parse_rating(told.get(aspect)) for aspect in ASPECTS if aspect in told}
        scores = {aspect: value for aspect, (value, _) in parsed.items()}
        gaps = {aspect: why for aspect, (_, why) in parsed.items() if why}
        score, reason = _weigh(scores, gaps, options.weights or {"helpfulness": 1.0})
        extra = {key: value for key, value in told.items() if key not in (*ASPECTS, "response", "source")}
        source = told.get("source")
        candidates.append(Candidate(_said(told.get("response")), source, score, scores, reason, gaps, extra))
    prompt = whole_prompt(marked_turns(text(row["prompt"], what="prompt")))
    return Group(prompt, candidates, frozenset({"prompt", "rows"}))


def _weigh(
    scores: Mapping[str, float | None], gaps: Mapping[str, str], weights: Mapping[str, float]
) -> tuple[float | None, str | None]:
    """The weighted sum; an aspect that is missing makes the sum missing."""
    total = 0.0
    for aspect, weight in weights.items():
        value = scores.get(aspect)
        if value is None:
            return None, gaps.get(aspect, "rating_missing")
        total += weight * value
    return total, None


def write_helpsteer2(row: CandidateRow, options: Options) -> Row:
    if not row.candidates:
        raise Refused("no_responses", "helpsteer2 has a row per response, and there is none")
    rows = []
    for each in row.candidates:
        told: Row = {"response": each.text, **dict.fromkeys(ASPECTS)}
        told |= dict(each.scores) or {"helpfulness": each.score}
        rows.append({**told, **({"source": each.source} if each.source is not None else {}), **each.extra})
    return {"prompt": marked_text(row.prompt), "rows": rows}


# Nectar


def read_nectar(row: Row, options: Options) -> Group:
    """Rank 1 is best: the score is the rank with its sign turned, so that higher is better as everywhere else."""
    candidates = []
    for told in records(row["answers"], what="answers"):
        rank, reason = parse_rating(told.get("rank"))
        extra = {key: value for key, value in told.items() if key not in ("answer", "rank", "model")}
        score = -rank if rank is not None else None
        candidates.append(
            Candidate(_said(told.get("answer")), told.get("model"), score, {"rank": rank}, reason, extra=extra)
        )
    prompt = whole_prompt(unwrap(text(row["prompt"], what="prompt")))
    return Group(prompt, candidates, frozenset({"prompt", "answers"}))


def write_nectar(row: CandidateRow, options: Options) -> Row:
    ranks = _ranks(row)
    answers = [
        {"answer": each.text, "model": each.source, "rank": rank, **each.extra}
        for each, rank in zip(row.candidates, ranks, strict=True)
    ]
    turns = [*row.prompt, *assistant("")]
    if any(turn["role"] not in ("user", "assistant") for turn in turns):
        raise Refused("system_prompt_has_no_place", "a Nectar prompt knows Human and Assistant only")
    told = "".join(f"\n\n{'Human' if t['role'] == 'user' else 'Assistant'}: {t['content']}" for t in turns)
    return {"prompt": told, "answers": answers}


def _ranks(row: CandidateRow) -> list[int | None]:
    """The ranks that were read; else places by score from 1, the file's own pair first where there are only two."""
    told = [each.scores.get("rank") for each in row.candidates]
    if any(rank is not None for rank in told):
        return [None if rank is None else int(rank) for rank in told]
    if row.pair is not None and len(told) == 2:
        return [1, 2] if row.pair.chosen == 0 else [2, 1]
    scores = [each.score for each in row.candidates]
    return [None if s is None else 1 + sum(o is not None and o > s for o in scores) for s in scores]


# a prompt, a list of responses, a list of numbers


def _listed(responses: object, scores: object) -> list[Candidate]:
    if not isinstance(responses, list) or not isinstance(scores, list):
        raise Refused("rating_missing", "the list of responses or of scores is null")
    if len(responses) != len(scores):
        raise Refused("rating_count_mismatch", f"{len(responses)} responses, {len(scores)} scores")
    parsed = [parse_rating(score) for score in scores]
    return [
        Candidate(_said(each), None, score, reason=why) for each, (score, why) in zip(responses, parsed, strict=True)
    ]


def read_rlhflow(row: Row, options: Options) -> Group:
    return Group(
        prompt_of(row["prompt"]),
        _listed(row["responses"], row["rewards"]),
        frozenset({"prompt", "responses", "rewards"}),
    )


def write_rlhflow(row: CandidateRow, options: Options) -> Row:
    return {"prompt": only_user(row.prompt, layout="rlhflow"), **_lists(row.candidates, "responses", "rewards")}


def _lists(candidates: Sequence[Candidate], texts: str, scores: str) -> Row:
    return {texts: [each.text for each in candidates], scores: [each.score for each in candidates]}


def read_simpo(row: Row, options: Options) -> Group:
    """chosen and rejected, where the file has them, say which two it pairs; of a tie it has one text twice: no pair."""
    candidates = _listed(row["all_generated_responses"], row["all_rm_scores"])
    used = {"prompt", "all_generated_responses", "all_rm_scores"}
    prompt, pair = prompt_of(row["prompt"]), None
    if row.get("chosen") and row.get("rejected"):
        pair = _pointed(row, prompt, candidates)
        used |= {"chosen", "rejected"}
    return Group(prompt, candidates, frozenset(used), None if pair == _default(candidates) else pair)


def _pointed(row: Row, prompt: Messages, candidates: list[Candidate]) -> Picked | None:
    """Which candidates `chosen` and `rejected` are: of equal texts, which share one score, the first."""
    at = []
    for what in ("chosen", "rejected"):
        turns = messages(row[what], what=what)
        if turns[:-1] not in (prompt, []):
            raise Refused("prompt_column_differs_from_conversation", f"{what} belongs to another prompt")
        first = next((i for i, c in enumerate(candidates) if c.text == turns[-1]["content"]), None)
        if first is None:
            raise Refused("side_not_among_responses", f"{what} is none of all_generated_responses")
        at.append(first)
    return None if candidates[at[0]].text == candidates[at[1]].text else Picked(*at)


def _default(candidates: list[Candidate]) -> Picked | None:
    try:
        return best_worst(candidates)
    except Refused:
        return None


def write_simpo(row: CandidateRow, options: Options) -> Row:
    out = {
        "prompt": only_user(row.prompt, layout="simpo"),
        **_lists(row.candidates, "all_generated_responses", "all_rm_scores"),
    }
    pair = row.pair or _default(row.candidates)
    if pair is not None:
        for what, i in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            out[what] = [*row.prompt, *assistant(row.candidates[i].text or "")]
    return out


# distilabel before its pairing step


def read_generations(row: Row, options: Options) -> Group:
    """instruction, generations, ratings: one list, or one list per aspect whose mean is the score."""
    responses, ratings = row["generations"], row["ratings"]
    used = {"instruction", "generations", "ratings"}
    notes: tuple[str, ...] = ()
    if isinstance(ratings, dict):
        if not isinstance(responses, list):
            raise Refused("null_side", "generations is null")
        scores, gaps, notes = by_aspect(ratings, len(responses))
        averaged = means(scores, shared=options.shared_aspects)
        candidates = [
            Candidate(_said(said), None, score, held, "rating_missing" if score is None else None, why)
            for said, score, held, why in zip(responses, averaged, scores, gaps, strict=True)
        ]
    else:
        candidates = _listed(responses, ratings)
    models = row.get("generation_models")
    if isinstance(models, list) and len(models) == len(candidates):
        used.add("generation_models")
        candidates = [replace(each, source=model) for each, model in zip(candidates, models, strict=True)]
    return Group(prompt_of(row["instruction"]), candidates, frozenset(used), notes=notes)


def write_generations(row: CandidateRow, options: Options) -> Row:
    aspects = dict.fromkeys(aspect for each in row.candidates for aspect in each.scores)
    out = {
        "instruction": only_user(row.prompt, layout="distilabel_generations"),
        **_lists(row.candidates, "generations", "ratings"),
    }
    if aspects:
        out["ratings"] = {aspect: [each.scores.get(aspect) for each in row.candidates] for aspect in aspects}
    if any(each.source is not None for each in row.candidates):
        out["generation_models"] = [each.source for each in row.candidates]
    return out
