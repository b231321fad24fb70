"""Raters as work: which calls a shard needs, how they are made, and the tables that come of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from pairwright.pipeline import Frames
from pairwright.protocols import Item, Message, RewardModel
from pairwright.rating.calls import WINDOW, Record, Unit
from pairwright.tables import SCORES, Table, canonical_json, drops, frame, text_hash

Name = tuple[str, ...]


class Asked(NamedTuple):
    """A response with the prompt it answers."""

    prompt_id: str
    response_id: str
    messages: list[Message]
    response: str
    seen: str  # hash of both


def asked(prompts: pl.DataFrame, responses: pl.DataFrame) -> list[Asked]:
    """Every response of a shard beside its prompt."""
    turns = dict(prompts.select("prompt_id", "prompt").iter_rows())
    said_before: dict[str, str] = {}
    rows = []
    for name, response_id, text in responses.select("prompt_id", "response_id", "response").iter_rows():
        if name not in said_before:
            said_before[name] = canonical_json(turns[name])
        rows.append(Asked(name, response_id, turns[name], text, text_hash(said_before[name] + "\0" + text)))
    return rows


def with_drops(scores: pl.DataFrame) -> Frames:
    """A missing score stays, as null with its reason, and is named among the drops as well.

    A reason "code: detail" is cut there: the table keeps the code, the drops name the detail.
    """
    told = pl.col("reason").str.splitn(": ", 2).struct
    parts = scores.with_columns(reason=told.field("field_0"), detail=told.field("field_1"))
    nulls = parts.filter(pl.col("score").is_null())
    said = pl.concat_str("rater", "detail", separator=": ", ignore_nulls=True)
    return {"scores": parts.drop("detail"), "dropped": drops("score", nulls, pl.col("reason"), detail=said)}


class Rating:
    """What all raters share: their name, how their model is opened, and that it is opened once, when first needed."""

    window: float = WINDOW  # calls handed over together
    tables: tuple[Table, ...] = (SCORES,)

    def __init__(self, name: str, opening: Callable[[], Any]) -> None:
        self.name, self._opening = name, opening
        self._held: Any = None
        self.noted: Mapping[str, object] = {}  # what was noted of it when its calls were made

    def _opened(self) -> Any:
        if self._held is None:
            self._held = self._opening()
        return self._held

    def about(self) -> Mapping[str, object]:
        return dict(self._opened().about)


class Pointwise(Rating):
    """A reward model, a reward server or a function of the user: one response, one call."""

    def __init__(
        self,
        name: str,
        opening: Callable[[], RewardModel],
        scale: tuple[float | None, float | None] = (None, None),
    ) -> None:
        super().__init__(name, opening)
        self.scale = scale

    def units(self, prompts: pl.DataFrame, responses: pl.DataFrame) -> list[Unit]:
        rows = asked(prompts, responses)
        return [Unit((each.prompt_id, each.response_id, each.seen), each) for each in rows]

    def call(self, units: Sequence[Unit]) -> Iterator[tuple[Name, Record]]:
        payloads: list[Any] = [unit.payload for unit in units]
        items = [Item(key, each.messages, each.response) for key, each in enumerate(payloads)]
        for scored in self._opened()(items):
            yield units[scored.key].id, {"scores": dict(scored.scores), "reason": scored.reason}

    def frames(self, prompts: pl.DataFrame, responses: pl.DataFrame, found: Mapping[Name, Record]) -> Frames:
        records = [(unit.id, found[unit.id]) for unit in self.units(prompts, responses)]
        told = self._told_heads() or sorted({head for _, record in records for head in record["scores"]})  # type: ignore[attr-defined]
        return with_drops(
            frame(SCORES, [self._row(name, record, head) for name, record in records for head in told or [""]])
        )

    def _told_heads(self) -> list[str]:
        """The outputs of the model, as it named them when it was opened, in this run or an earlier one."""
        heads: Any = self.about().get("heads") if self._held is not None else self.noted.get("heads")
        return [str(head) for head in heads or []]

    def _row(self, name: Name, record: Record, head: str) -> Record:
        given: Any = record["scores"]
        score = given.get(head)
        held = score is not None and math.isfinite(score)
        return {
            "prompt_id": name[0],
            "response_id": name[1],
            "rater": f"{self.name}.{head}" if head else self.name,
            "score": score if held else None,
            "reason": None if held else record["reason"] or "score_missing",
            "scale_min": self.scale[0],
            "scale_max": self.scale[1],
        }
