"""From the columns of a data set to the terms of a loss: which columns are read, as what, and what is refused."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pairwright.core.losses import LOSSES, NEEDS
from pairwright.core.pair_terms import PairTerms
from pairwright.errors import ConfigError, DataError

log = logging.getLogger(__name__)

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
COLUMNS = ("score_chosen", "score_rejected", "margin", "weight", "objective", "p_chosen")  # that a loss can read
RATIOS = ("chosen", "rejected")
LENGTHS = ("chosen_logps", "rejected_logps", "chosen_length", "rejected_length")
ROW = "pair_row"  # the place of a pair in the data set that was given


@dataclass(frozen=True, slots=True)
class Plan:
    """Which columns become which terms of the loss: batch key (`pair_...`) -> columns."""

    terms: Mapping[str, tuple[str, ...]]
    imported: bool

    @property
    def columns(self) -> list[str]:
        return [ROW, *(column for columns in self.terms.values() for column in columns)]


def bound_loss(name: str, settings: Mapping[str, object], beta: float) -> partial[Any]:
    """The loss with its settings; ConfigError for a name or a setting that it does not have, or one that it lacks."""
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}; known: {', '.join(sorted(LOSSES))}")
    takes = {
        key: argument.default is argument.empty
        for key, argument in inspect.signature(LOSSES[name]).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY
    }
    needs_beta = takes.pop("beta", None) is not None
    known = ", ".join(sorted(takes)) or "none"
    if unknown := sorted(set(settings) - set(takes)):
        hint = "; beta is a key of its own" if "beta" in unknown else ""
        raise ConfigError(f"loss {name} has no setting {', '.join(unknown)}; its loss_settings are {known}{hint}")
    if lacks := sorted(key for key, obligatory in takes.items() if obligatory and key not in settings):
        raise ConfigError(f"loss {name} needs {', '.join(lacks)} in loss_settings; no value fits every data set")
    return partial(LOSSES[name], **settings, **({"beta": beta} if needs_beta else {}))


def make_plan(columns: Sequence[str], *, loss: str, gap: str, where: str) -> Plan:
    """Which of the columns are used; ConfigError naming what the loss needs and the data set does not have."""
    terms: dict[str, tuple[str, ...]] = {}
    if {"gap", "margin"} & {*NEEDS[loss]}:
        from_scores = gap == "scores" or (gap == "auto" and "margin" not in columns)
        terms["pair_gap"] = ("score_chosen", "score_rejected") if from_scores else ("margin",)
    if "p_chosen" in NEEDS[loss]:
        terms["pair_p_chosen"] = ("p_chosen",)
    terms |= {f"pair_{name}": (name,) for name in ("weight", "objective") if name in columns}
    if lacks := [name for read in terms.values() for name in read if name not in columns]:
        told = "margin, or score_chosen and score_rejected" if gap == "auto" and len(lacks) == 2 else ", ".join(lacks)
        raise ConfigError(f"{where}: loss {loss} needs the column {told}; the data set has {', '.join(columns)}")
    given = [name for name in REFERENCE if name in columns]
    if len(given) == 1:
        raise ConfigError(f"{where}: the column {given[0]} is there without its other side; give both or neither")
    used = {name for read in terms.values() for name in read}
    if idle := [name for name in COLUMNS if name in columns and name not in used]:
        log.info("%s: the loss %s does not read the column %s", where, loss, ", ".join(idle))
    return Plan(terms, bool(given))


def numbers(values: Sequence[Any], column: str, *, where: str) -> Any:
    """A column as float64, null as nan; an objective as 1 for sft and 0 for dpo."""
    if column == "objective":
        if strange := [(row, value) for row, value in enumerate(values) if value not in ("dpo", "sft")]:
            row, value = strange[0]
            raise DataError(f"{where}: row {row}: objective is {value!r}, not 'dpo' or 'sft'")
        return np.array([value == "sft" for value in values], np.float64)
    try:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: column {column} is not of numbers: {error}") from error


def read_terms(columns: Mapping[str, Sequence[Any]], plan: Plan, *, where: str) -> dict[str, Any]:
    """One float64 array per batch key."""
    made = {}
    for key, names in plan.terms.items():
        lacks = [name for name in names if name not in columns]
        if lacks:
            raise ConfigError(f"{where}: the column {lacks[0]} was dropped before the batch was made; keep it")
        first, *more = (numbers(columns[name], name, where=where) for name in names)
        made[key] = first - more[0] if more else first
    return made


def pair_terms(given: Mapping[str, Any], scale: float | None, **told: Any) -> PairTerms:
    """The terms of the loss: what the data set gives by batch key, the gap in logits, and what the model told."""
    gap = given.get("pair_gap")
    gap = gap if gap is None or scale is None else gap * scale
    return PairTerms(gap=gap, margin=gap, p_chosen=given.get("pair_p_chosen"), **told)


def pair_ids(dataset: Any) -> list[str]:
    """What the pairs are called: the column id, pair_id or prompt_id, else the number of the row."""
    for name in ("id", "pair_id", "prompt_id"):
        if name in dataset.column_names:
            return [str(value) for value in dataset[name]]
    return [f"row {row}" for row in range(len(dataset))]


@dataclass(frozen=True)
class PairBatch:
    """A collator: what `inner` makes of the examples, and one tensor of float32 per batch key; `pair_row` is int64."""

    inner: Callable[..., dict[str, Any]]
    plan: Plan

    def __call__(self, examples: list[dict[str, Any]], *more: Any) -> dict[str, Any]:
        import torch

        batch = self.inner(examples, *more)
        columns = {name: [example[name] for example in examples] for name in examples[0]}
        for key, values in read_terms(columns, self.plan, where="batch").items():
            batch[key] = torch.tensor(values, dtype=torch.float32)
        if ROW in columns:
            batch[ROW] = torch.tensor(columns[ROW], dtype=torch.int64)
        return batch
