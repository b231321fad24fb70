"""The Parquet types of rows that are Python values: told from every value, and never text for a number.

Polars' own inference makes text of a number that stands beside a text, in silence; here that is an error.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import polars as pl

from pairwright.errors import DataError
from pairwright.io.layouts.model import Row


class Kind(NamedTuple):
    """A scalar by its name, a list by its one part, a struct by its parts; `other` is a type that only Polars knows."""

    name: str
    parts: "dict[str, Kind] | None" = None
    other: pl.DataType | None = None


NULL = Kind("null")
_SCALARS = {bool: Kind("bool"), int: Kind("int"), float: Kind("float"), str: Kind("text")}
_TYPES = {"null": pl.Null(), "bool": pl.Boolean(), "int": pl.Int64(), "float": pl.Float64(), "text": pl.String()}
_NUMBERS = {"int", "float"}
Kinds = dict[str, Kind]


def add_kinds(kinds: Kinds, rows: Sequence[Row]) -> None:
    """Widens `kinds` by the values of these rows."""
    for row in rows:
        for column, value in row.items():
            kinds[column] = _merge(kinds.get(column, NULL), _kind(value, column), column)


def _kind(value: object, column: str) -> Kind:
    if value is None:
        return NULL
    if (scalar := _SCALARS.get(type(value))) is not None:
        if scalar.name == "int" and not -(2**63) <= value < 2**63:  # type: ignore[operator]
            raise DataError(f"column {column} holds {value}, too large for Parquet; write .jsonl instead")
        return scalar
    if isinstance(value, list):
        part = NULL
        for each in value:
            part = _merge(part, _kind(each, column), column)
        return Kind("list", {"": part})
    if isinstance(value, dict):
        return Kind("struct", {key: _kind(held, column) for key, held in value.items()})
    return Kind("other", other=pl.Series([value]).dtype)


def _merge(left: Kind, right: Kind, column: str) -> Kind:
    """The kind that holds both; numbers and text have none."""
    if left == right or right is NULL:
        return left
    if left is NULL:
        return right
    if left.parts is not None and right.parts is not None and left.name == right.name:
        parts = dict(left.parts)
        for name, part in right.parts.items():
            parts[name] = _merge(parts.get(name, NULL), part, column)
        return Kind(left.name, parts)
    if {left.name, right.name} == _NUMBERS:
        return _SCALARS[float]
    raise DataError(f"column {column} holds {left.name} and {right.name}; no Parquet column holds both, write .jsonl")


def _type(kind: Kind) -> pl.DataType:
    if kind.name == "list" and kind.parts is not None:
        return pl.List(_type(kind.parts[""]))
    if kind.name == "struct" and kind.parts is not None:
        return pl.Struct({name: _type(part) for name, part in kind.parts.items()})
    return kind.other if kind.other is not None else _TYPES[kind.name]


def schema(kinds: Kinds, known: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The types of the columns; one that is null everywhere has its `known` type."""
    return {name: known.get(name, pl.Null()) if kind is NULL else _type(kind) for name, kind in kinds.items()}


def frame(rows: Sequence[Row], types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Rows as a frame of types that hold them all."""
    try:
        return pl.DataFrame(rows, schema=dict(types), strict=False)
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text is not valid Unicode ({error.reason}); Parquet cannot hold it, write .jsonl"
        ) from error
