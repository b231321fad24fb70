"""The pairs that are selected from: ids that name a pair, numbers by column, a seeded number per pair."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from pairwright.core import segments
from pairwright.core.ranking import Codes
from pairwright.core.segments import Bools, Floats, Ints, Keys
from pairwright.errors import DataError

SIDES = ("chosen_id", "rejected_id")
NEEDS = {
    "margin": "score_chosen and score_rejected, or a margin of your own (signed, chosen - rejected)",
    "margin_implicit": "log-probabilities of a policy and its reference: --policy-logps and --reference-logps",
    "loss_val": "the loss of each pair under models that were not trained on it",
    "influence": "the influence of each pair on validation pairs",
    "lossdiff": "loss and loss_val of each pair",
    "irm": "the implicit reward margin of each pair under the current model",
    "wpo_weight": "the weight of each pair under the current model",
    "reward_fresh": "the reward of a fresh answer of the current policy to each prompt",
    "ppl_diff": "NLL(chosen) - NLL(rejected) under a surrogate model",
}
LENGTHS = (("n_tokens_{}", "tokens"), ("tokens_{}", "tokens"), ("n_chars_{}", "characters"))
BLOCK = 1_000_000
LARGEST = 1e150  # numbers beyond count as infinite: sums and squares of what is left stay within floats


class Lengths(NamedTuple):
    chosen_I: Floats
    rejected_I: Floats
    unit: str

    @property
    def gap_I(self) -> Floats:
        return self.chosen_I - self.rejected_I


class Pool:
    """A frame of pairs whose ids are checked. Numbers are float64 with nan for what is missing or beyond `LARGEST`."""

    def __init__(self, pairs: pl.DataFrame) -> None:
        self.frame, self.n = pairs, pairs.height
        self.ids = _id_columns(pairs)
        for name in self.ids:
            if pairs[name].null_count():
                row = int(pairs[name].is_null().arg_max() or 0)
                raise DataError(f"row {row}: {name} is null; every pair needs an id, or leave the row out")
        _refuse_repeats(pairs.select(self.ids))

    def has(self, name: str) -> bool:
        if name == "margin" and {"score_chosen", "score_rejected"} <= set(self.frame.columns):
            return True
        if name == "lossdiff" and {"loss", "loss_val"} <= set(self.frame.columns):
            return True
        return name in self.frame.columns

    def number(self, name: str, rows: Ints | None = None) -> Floats:
        """A column, or some rows of it; `margin` and `lossdiff` are made where their parts are there instead."""
        columns = self.frame.columns
        if name not in columns and self.has(name):
            left, right = ("score_chosen", "score_rejected") if name == "margin" else ("loss", "loss_val")
            return self.number(left, rows) - self.number(right, rows)
        if name not in columns:
            held = ", ".join(each for each in columns if self.frame.schema[each].is_numeric()) or "no number at all"
            raise DataError(
                f"the pairs have no column {name!r} ({NEEDS.get(name, 'a number per pair')}); they have {held}"
            )
        kind = self.frame.schema[name]
        if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
            raise DataError(f"column {name} is {kind}, not a number")
        column = self.frame[name] if rows is None else self.frame[name].gather(rows)
        values: Floats = column.cast(pl.Float64).to_numpy()
        if len(values) and not (values.min() >= -LARGEST and values.max() <= LARGEST):  # a nan, or too large
            values = np.where(np.abs(values) <= LARGEST, values, np.nan)
        return values

    def why_missing(self, name: str) -> str:
        return f"{name}_missing"

    def flag(self, name: str) -> Bools | None:
        """A column of truth values, null counting as false; None where it is not there."""
        if name not in self.frame.columns:
            return None
        held = self.frame[name]
        if held.dtype.is_integer() and held.is_between(0, 1).fill_null(True).all():
            held = held.cast(pl.Boolean)
        if held.dtype not in (pl.Boolean, pl.Null):
            raise DataError(f"column {name} is {held.dtype}, not true or false, nor 1 or 0")
        return held.cast(pl.Boolean).fill_null(False).to_numpy()

    def codes(self, name: str) -> Codes:
        """A whole number per value of a column, equal where the values are; null is a value of its own."""
        if name not in self.frame.columns:
            raise DataError(f"the pairs have no column {name!r}; they have {', '.join(self.frame.columns)}")
        held = self.frame[name]
        if held.dtype.is_integer() and not held.null_count():
            return held.to_numpy()
        return held.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()

    def id_ties(self, rows: Ints) -> list[Codes]:
        """The ids of some rows as keys whose order is that of the ids."""
        held = self.frame.select(self.ids)[rows]
        return [
            column.to_numpy() if column.dtype.is_integer() else column.rank("dense").to_numpy()
            for column in held.get_columns()
        ]

    def keys(self, seed: int) -> Keys:
        """One seeded number per pair that depends on (seed, ids) alone: not on rows, machine or version."""
        return _mixed(self._names ^ segments.mix(np.array([seed % 2**64], np.uint64)))

    @cached_property
    def _names(self) -> Keys:
        """A number per pair that its ids give it."""
        key_I = np.zeros(self.n, np.uint64)
        for name in self.ids:
            column = self.frame[name]
            for start in range(0, self.n, BLOCK):
                part = key_I[start : start + BLOCK]
                part[:] = segments.mix(part ^ _own(column[start : start + BLOCK]))
        return key_I

    def lengths(self, rows: Ints | None = None) -> Lengths | None:
        """Of both sides, in the first unit that is there."""
        for form, unit in LENGTHS:
            names = [form.format(side) for side in ("chosen", "rejected")]
            if set(names) <= set(self.frame.columns):
                return Lengths(self.number(names[0], rows), self.number(names[1], rows), unit)
        return None


def _mixed(key_I: Keys) -> Keys:
    """`mix` in place, block by block."""
    for start in range(0, len(key_I), BLOCK):
        key_I[start : start + BLOCK] = segments.mix(key_I[start : start + BLOCK])
    return key_I


def _own(column: pl.Series) -> Keys:
    if column.dtype.is_integer():
        return segments.mix(column.cast(pl.Int64).to_numpy().astype(np.uint64))
    return segments.text_keys(np.array([text.encode("utf-8", "surrogatepass") for text in column], np.bytes_))


def _id_columns(pairs: pl.DataFrame) -> list[str]:
    """pair_id names a pair alone; else prompt, chosen and rejected response together."""
    columns = set(pairs.columns)
    ids = ["pair_id"] if "pair_id" in columns else ["prompt_id", *SIDES]
    if lacks := [name for name in ids if name not in columns]:
        raise DataError(
            f"the pairs lack {', '.join(lacks)}: they need pair_id, or prompt_id, chosen_id and rejected_id"
        )
    for name in (*ids, "prompt_id"):
        kind = pairs.schema.get(name, pl.String())
        if kind != pl.String and not kind.is_integer():
            raise DataError(f"column {name} is {kind}; an id is text or a whole number")
        if kind in (pl.UInt64, pl.Int128, pl.UInt128) and pairs[name].max() is not None:
            least, most = int(pairs[name].min()), int(pairs[name].max())  # type: ignore[arg-type]
            if not (least >= -(2**63) and most < 2**63):
                raise DataError(f"column {name} has whole numbers beyond 64 signed bits ({most}); write them as text")
    return ids


def _refuse_repeats(ids: pl.DataFrame) -> None:
    """By 64-bit hashes first, so that ten million ids cost a sort and no table; equal hashes are looked at."""
    if ids.width == 1 and ids.get_columns()[0].dtype.is_integer():
        hash_I = ids.get_columns()[0].cast(pl.Int64).to_numpy()
    else:
        hash_I = ids.hash_rows().to_numpy()
    ranked = np.sort(hash_I)
    again = np.unique(ranked[1:][ranked[1:] == ranked[:-1]])
    if not len(again):
        return
    suspects = ids.with_row_index("_row").filter(pl.Series(np.isin(hash_I, again)))
    twice = suspects.filter(pl.struct(ids.columns).is_duplicated())
    if twice.height:
        row = twice.row(1, named=True)
        told = ", ".join(f"{name} {row[name]}" for name in ids.columns)
        raise DataError(
            f"row {row['_row']}: {told} stands twice; a pair is selected once: drop one or give ids of their own"
        )
