"""What a judge answered: replies into judgements, judgements into scores and comparisons, and the pull of the first place.

Every reply is kept in `judgements`, word for word, also where it could not be read. A score that was not given is null
with its reason; it is never the lowest, the middle or the last one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from pairwright.protocols import ChatAsk, ChatReply
from pairwright.score.digits import expected
from pairwright.score.judge import JudgeSettings, Question, Rubric, rater_of
from pairwright.score.parse import read_score, read_verdict
from pairwright.tables import COMPARISONS, JUDGEMENTS, SCORES, frame

FAILED, INCOMPLETE, INCONSISTENT = "judge_failed", "judge_incomplete", "order_inconsistent"
NOT_JUDGED, NO_RESPONSE, NOT_COMPARED = "not_judged", "no_response", "not_compared"
OTHER = {"left": "right", "right": "left"}
Row = dict[str, object]
LazyJudge = Callable[[Iterable[ChatAsk]], Iterator[ChatReply]]  # a judge that reads its asks as it goes
_PAIR = ["prompt_id", "left_id", "right_id", "rater"]


def judged(questions: Iterable[Question], judge: LazyJudge, settings: JudgeSettings, rubric: Rubric) -> Iterator[Row]:
    """A row of `judgements` per question, as the replies come. Only questions under way are held."""
    waiting: dict[int, Question] = {}

    def asks() -> Iterator[ChatAsk]:
        for question in questions:
            waiting[question.ask.key] = question
            yield question.ask

    read = read_pointwise if settings.mode == "pointwise" else read_pairwise
    for reply in judge(asks()):
        yield read(waiting.pop(reply.key), reply, settings, rubric)


def read_pointwise(question: Question, reply: ChatReply, settings: JudgeSettings, rubric: Rubric) -> Row:
    """A row of `judgements` with a score, or why there is none."""
    if reply.text is None:
        return _row(question, reply, reason=reply.reason or FAILED)
    low, high = rubric.scale
    label = rubric.label or "Score"
    value, reason = read_score(reply.text, low=low, high=high, label=label, finish_reason=reply.finish_reason)
    if value is not None and settings.expectation:
        value, reason = expected(reply.tokens, rubric.digits, value)
    return _row(question, reply, score=value, reason=reason)


def read_pairwise(question: Question, reply: ChatReply, settings: JudgeSettings, rubric: Rubric) -> Row:
    """A row of `judgements` with an outcome in terms of left and right, whatever the order shown."""
    del settings  # the same signature for both
    if reply.text is None:
        return _row(question, reply, reason=reply.reason or FAILED)
    label = rubric.label or "Verdict"
    winner, reason = read_verdict(reply.text, names=rubric.names, label=label, finish_reason=reply.finish_reason)
    return _row(question, reply, outcome=outcome_of(winner, str(question.shown_first)), reason=reason)


def outcome_of(winner: str | None, shown_first: str) -> str | None:
    """first, second or tie, by place, into left, right or tie, by response."""
    places = {"first": shown_first, "second": OTHER[shown_first], "tie": "tie"}
    return None if winner is None else places[winner]


def _row(question: Question, reply: ChatReply, **found: object) -> Row:
    """`found` holds score, outcome, reason; what is left out is null."""
    prompt_id, left_id, right_id, rater, shown_first, draw = question.place
    return {
        "prompt_id": prompt_id,
        "left_id": left_id,
        "right_id": right_id,
        "rater": rater,
        "shown_first": shown_first,
        "draw": draw,
        "reply": reply.text,
        "score": None,
        "outcome": None,
        "reason": None,
        "n_tokens": reply.n_tokens,
        "model": reply.model,
        "request_id": reply.request_id,
        **found,
    }


def judgements_of(rows: Iterable[Row]) -> pl.DataFrame:
    """Rows as a table, sorted by its key: the order in which replies came does not show."""
    return frame(JUDGEMENTS, list(rows)).sort(JUDGEMENTS.key, nulls_last=False)


def pointwise_scores(
    judgements: pl.DataFrame, responses: pl.DataFrame, settings: JudgeSettings, rubric: Rubric
) -> pl.DataFrame:
    """`scores` of every response: the mean over the draws that could be read, per aspect and over all of them.

    The whole is null (judge_incomplete) when one aspect is: a mean over fewer aspects is of another scale.
    """
    held: dict[tuple[str, str, str], list[tuple[float | None, str | None]]] = {}
    told = judgements.filter(pl.col("right_id").is_null()).sort("draw")
    for *place, score, reason in told.select("prompt_id", "left_id", "rater", "score", "reason").iter_rows():
        held.setdefault((place[0], place[1], place[2]), []).append((score, reason))
    means = {place: _mean(draws) for place, draws in held.items()}
    return _scores(means, responses, settings, rubric, missing=NOT_JUDGED, scale=rubric.scale)


def _mean(draws: list[tuple[float | None, str | None]]) -> tuple[float | None, str | None]:
    values = [score for score, _ in draws if score is not None]
    return (float(np.mean(values)), None) if values else (None, _commonest(reason for _, reason in draws))


def _commonest(reasons: Iterable[str | None]) -> str:
    """The reason that occurs most often, the first of equals, without its details."""
    return Counter((reason or FAILED).partition(":")[0] for reason in reasons).most_common(1)[0][0]


def _scores(
    means: Mapping[tuple[str, str, str], tuple[float | None, str | None]],
    responses: pl.DataFrame,
    settings: JudgeSettings,
    rubric: Rubric,
    *,
    missing: str,
    scale: tuple[float, float],
) -> pl.DataFrame:
    """Rows of `scores` for every response and rater, the whole after its parts."""
    rows: list[tuple[object, ...]] = []
    raters = [rater_of(settings, rubric, aspect) for aspect in rubric.aspects]
    for prompt_id, response_id, text in responses.select("prompt_id", "response_id", "response").iter_rows():
        absent = (None, NO_RESPONSE if text is None else missing)
        parts = {rater: means.get((prompt_id, response_id, rater), absent) for rater in raters}
        if len(raters) > 1:
            parts[settings.name] = _whole(dict(zip(rubric.aspects, parts.values(), strict=True)))
        rows += [(prompt_id, response_id, rater, *part, *scale) for rater, part in parts.items()]
    return pl.DataFrame(rows, schema=SCORES.schema, orient="row")


def _whole(parts: Mapping[str, tuple[float | None, str | None]]) -> tuple[float | None, str | None]:
    lacks = [(aspect, reason) for aspect, (score, reason) in parts.items() if score is None]
    if len(lacks) == len(parts):
        return None, _commonest(reason for _, reason in lacks)
    if lacks:
        return None, f"{INCOMPLETE}: {', '.join(f'{aspect} {reason}' for aspect, reason in lacks)}"
    return float(np.mean([score for score, _ in parts.values() if score is not None])), None


def comparisons_of(judgements: pl.DataFrame) -> pl.DataFrame:
    """`comparisons` out of pairwise judgements: one row per pair, order and draw."""
    return judgements.filter(pl.col("right_id").is_not_null()).select(
        pl.col(name).cast(kind) for name, kind in COMPARISONS.schema.items()
    )


def settled(comparisons: pl.DataFrame) -> pl.DataFrame:
    """One row per pair and draw, out of its two orders: prompt_id, left_id, right_id, rater, draw, outcome, reason.

    The outcome holds when both orders agree on it. They disagree: null, order_inconsistent; one of them is not there or
    could not be read: null, judge_incomplete.
    """
    keys = [*_PAIR, "draw"]
    outcome = pl.col("outcome")
    grouped = comparisons.group_by(keys, maintain_order=True).agg(
        whole=(pl.col("shown_first").drop_nulls().n_unique() == 2) & (outcome.null_count() == 0),
        same=outcome.n_unique() == 1,
        outcome=outcome.first(),
    )
    holds = pl.col("whole") & pl.col("same")
    why = pl.when(~pl.col("whole")).then(pl.lit(INCOMPLETE)).when(~pl.col("same")).then(pl.lit(INCONSISTENT))
    return grouped.select(*keys, outcome=pl.when(holds).then(pl.col("outcome")), reason=why.otherwise(None))


def pairwise_scores(
    comparisons: pl.DataFrame, responses: pl.DataFrame, settings: JudgeSettings, rubric: Rubric
) -> pl.DataFrame:
    """`scores` out of comparisons: the share of wins of a response over its settled comparisons, a tie counting half.

    Scale 0 to 1. Null where none of its comparisons is settled, with the commonest reason, or not_compared.
    """
    held: dict[tuple[str, str, str], list[tuple[float | None, str | None]]] = {}
    rows = settled(comparisons).select(*_PAIR, "outcome", "reason")
    for prompt_id, left, right, rater, outcome, reason in rows.iter_rows():
        for side, response_id in (("left", left), ("right", right)):
            won = None if outcome is None else {side: 1.0, "tie": 0.5}.get(outcome, 0.0)
            held.setdefault((prompt_id, response_id, rater), []).append((won, reason))
    shares = {place: _mean(games) for place, games in held.items()}
    return _scores(shares, responses, settings, rubric, missing=NOT_COMPARED, scale=(0.0, 1.0))


class PositionBias(NamedTuple):
    """Over the pairs (and draws) of which both orders could be read. Shares are nan where there is nothing to count."""

    n: int  # pairs with both orders
    incomplete: int  # pairs without
    consistent: int  # both orders say the same
    verdicts: int  # of the 2 n, those that are no tie
    first_picks: int  # for the response shown first
    first_both: int  # pairs of which both orders say "the first"
    second_both: int  # and "the second"
    share: float  # first_picks / verdicts; 1/2 without bias
    low: float  # exact 95 % interval of the share (Clopper and Pearson 1934)
    high: float
    p_value: float  # exact, two-sided, of first_both against second_both: is 1/2 possible?

    @property
    def consistency(self) -> float:
        return self.consistent / self.n if self.n else float("nan")


def position_bias(comparisons: pl.DataFrame) -> PositionBias:
    """How much the first place attracts the judge, and how often its two verdicts on a pair agree.

    The interval counts verdicts as independent. The two on one pair are not: a consistent judge picks first exactly once
    per pair, so that the interval is wider than need be. `p_value` looks at the pairs where only the place decided.
    """
    from scipy.stats import binomtest

    by_place = pl.when(pl.col("outcome") == pl.col("shown_first")).then(pl.lit("first")).otherwise(pl.lit("second"))
    place = pl.when(pl.col("outcome").is_in(["left", "right"])).then(by_place).otherwise(pl.col("outcome"))
    pairs = comparisons.with_columns(place=place).group_by([*_PAIR, "draw"], maintain_order=True)
    table = pairs.agg(
        whole=(pl.col("shown_first").drop_nulls().n_unique() == 2) & (pl.col("place").null_count() == 0),
        same=pl.col("outcome").n_unique() == 1,
        first=(pl.col("place") == "first").sum(),
        second=(pl.col("place") == "second").sum(),
    )
    whole = table.filter("whole")
    first, second = int(whole["first"].sum()), int(whole["second"].sum())
    first_both, second_both = int((whole["first"] == 2).sum()), int((whole["second"] == 2).sum())
    interval, p_value = (float("nan"), float("nan")), float("nan")
    if first + second:
        exact = binomtest(first, first + second).proportion_ci(method="exact")
        interval = (float(exact.low), float(exact.high))
    if first_both + second_both:
        p_value = float(binomtest(first_both, first_both + second_both).pvalue)
    share = first / (first + second) if first + second else float("nan")
    counts = (whole.height, table.height - whole.height, int(whole["same"].sum()), first + second, first)
    return PositionBias(*counts, first_both, second_both, share, *interval, p_value)
