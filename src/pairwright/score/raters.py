"""The score stage: raters that read one response at a time. Each writes its own rows; a failed one is null.

A rater is a function (prompt row, response text) -> rows of scores. The parts of a score are rows of their own, under
the rater's name and theirs: "rules.words".
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from pairwright.errors import ConfigError
from pairwright.score.facts import FACTS
from pairwright.score.rules import Check, grade, parse_checks
from pairwright.tables import DROPPED, SCORES, Split, drops, empty


@dataclass(frozen=True, slots=True)
class Rater:
    """A rater that reads the text alone. `checks` are for prompts that declare none; `name` is what its rows say."""

    rater: str
    checks: list[dict[str, object]] = field(default_factory=list)
    name: str | None = None

    def __post_init__(self) -> None:
        if self.rater not in RATERS:
            raise ConfigError(f"unknown rater {self.rater!r}; known: {', '.join(RATERS)}")
        if self.checks:
            parse_checks(self.checks, where=f"rater {self.rater}")

    @property
    def label(self) -> str:
        return self.name or self.rater


Row = dict[str, object]


def _rows(rater: str, score: float | None, reason: str | None, low: float | None, high: float | None) -> Row:
    return {"rater": rater, "score": score, "reason": reason, "scale_min": low, "scale_max": high}


@lru_cache(maxsize=4096)
def _declared(checks: str, where: str) -> tuple[Check, ...]:
    return parse_checks(json.loads(checks), where=where)


def _rules(entry: Rater, prompt: Mapping[str, object], text: str) -> Iterator[Row]:
    declared = prompt["checks"] or (json.dumps(entry.checks) if entry.checks else None)
    if declared is None:
        yield _rows(entry.label, None, "no_checks_declared", 0.0, 1.0)
        return
    graded = grade(text, _declared(str(declared), f"prompt {prompt['prompt_id']}"))
    yield _rows(entry.label, graded.score, None, 0.0, 1.0)
    for name, part in graded.parts:
        yield _rows(f"{entry.label}.{name}", part, None, 0.0, 1.0)


def _fact(name: str, high: float | None) -> "Callable[[Rater, Mapping[str, object], str], Iterator[Row]]":
    def rate(entry: Rater, _: Mapping[str, object], text: str) -> Iterator[Row]:
        yield _rows(entry.label, FACTS[name](text), None, 0.0, high)

    return rate


RATERS: dict[str, Callable[[Rater, Mapping[str, object], str], Iterator[Row]]] = {
    "rules": _rules,
    "length": _fact("length", None),
    "repetition": _fact("repetition", 1.0),
}


def rate(prompts: pl.DataFrame, responses: pl.DataFrame, raters: Sequence[Rater]) -> Split:
    """Every rater on every response. Null scores are kept, with their reason, and named in `dropped` as well."""
    by_id = {row["prompt_id"]: row for row in prompts.iter_rows(named=True)}
    rows: list[Row] = []
    for said in responses.select("prompt_id", "response_id", "response").iter_rows(named=True):
        for entry in raters:
            ids = {"prompt_id": said["prompt_id"], "response_id": said["response_id"]}
            rows += [ids | row for row in RATERS[entry.rater](entry, by_id[said["prompt_id"]], said["response"])]
    if not rows:
        return Split(empty(SCORES), empty(DROPPED))
    scores = pl.DataFrame(rows, schema=SCORES.schema, orient="row")
    nulls = scores.filter(pl.col("score").is_null())
    return Split(scores, drops("score", nulls, pl.col("reason"), detail=pl.col("rater")))
