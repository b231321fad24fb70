"""A judge as work: one call is one question, its record the reply, whole, with what was read out of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from pairwright.backends.endpoint import Endpoint
from pairwright.pipeline import Frames
from pairwright.rating.calls import Record, Unit
from pairwright.rating.works import Name, Rating, with_drops
from pairwright.score.judge import JudgeSettings, Question, Rubric, check, pairwise_asks, pointwise_asks
from pairwright.score.judged import comparisons_of, judged, judgements_of, pairwise_scores, pointwise_scores
from pairwright.tables import COMPARISONS, JUDGEMENTS, SCORES, Table, canonical_json, text_hash

JUDGED: tuple[Table, ...] = (SCORES, JUDGEMENTS, COMPARISONS)
_READ = ("reply", "score", "outcome", "reason", "n_tokens", "model", "request_id")


@dataclass(frozen=True)
class Judging:
    """Where the judge is, what it judges, and how it is asked."""

    endpoint: Endpoint
    rubric: Rubric = field(default_factory=Rubric)
    asked: JudgeSettings = field(default_factory=JudgeSettings)

    def __post_init__(self) -> None:
        check(self.asked, self.rubric)

    def named(self, name: str) -> "Judging":
        return replace(self, asked=replace(self.asked, name=name))


class JudgeRating(Rating):
    """Responses one by one, or in pairs and both orders."""

    tables: tuple[Table, ...] = JUDGED

    def __init__(self, settings: Judging, opening: Callable[[], Any]) -> None:
        super().__init__(settings.asked.name, opening)
        self.settings = settings

    def units(self, prompts: pl.DataFrame, responses: pl.DataFrame) -> list[Unit]:
        asks = pointwise_asks if self.settings.asked.mode == "pointwise" else pairwise_asks
        return [_unit(each) for each in asks(prompts, responses, self.settings.asked, self.settings.rubric)]

    def call(self, units: Sequence[Unit]) -> Iterator[tuple[Name, Record]]:
        names = {_place(unit.payload): unit.id for unit in units}
        asked = (_numbered(unit.payload, key) for key, unit in enumerate(units))
        for row in judged(asked, self._opened(), self.settings.asked, self.settings.rubric):
            place = tuple(row[name] for name in JUDGEMENTS.key)
            yield names[place], {name: row[name] for name in _READ}

    def frames(self, prompts: pl.DataFrame, responses: pl.DataFrame, found: Mapping[Name, Record]) -> Frames:
        rows = []
        for unit in self.units(prompts, responses):
            question: Any = unit.payload
            read = {name: found[unit.id][name] for name in _READ}
            rows.append(dict(zip(JUDGEMENTS.key, question.place, strict=True)) | read)
        judgements = judgements_of(rows)
        comparisons = comparisons_of(judgements)
        given = (responses, self.settings.asked, self.settings.rubric)
        if self.settings.asked.mode == "pointwise":
            scores = pointwise_scores(judgements, *given)
        else:
            scores = pairwise_scores(comparisons, *given)
        return {**with_drops(scores), "judgements": judgements, "comparisons": comparisons}


def _unit(question: Question) -> Unit:
    """Named by ids, order, draw and a hash of all that the judge sees; the aspect is in there, the rater's name is not."""
    seen = text_hash(canonical_json([list(question.ask.messages), question.ask.max_tokens, question.ask.temperature]))
    place = (question.prompt_id, question.left_id, question.right_id, question.shown_first, question.draw)
    return Unit((*("" if each is None else str(each) for each in place), seen), question)


def _place(question: Any) -> tuple[object, ...]:
    return tuple(question.place)


def _numbered(question: Any, key: int) -> Question:
    numbered: Question = question._replace(ask=question.ask._replace(key=key))
    return numbered
