"""Entries of a recipe's `score` list: {rater: KIND, name: NAME, settings ...}, or FILE.py:FUNCTION for a user's own.

`KINDS` is the one place where the name of a kind meets its settings, its code and its model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pairwright.backends.functions import FunctionRater, FunctionSettings
from pairwright.backends.functions import fingerprint as function_fingerprint
from pairwright.errors import ConfigError
from pairwright.rating.calls import Work
from pairwright.rating.works import Pointwise
from pairwright.score.raters import RATERS, Rater
from pairwright.settings import from_table
from pairwright.tables import SCORES, Table

LOCAL = (*RATERS, "column")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Entry:
    """One rater of a run: its name in the tables, its kind, and that kind's own settings."""

    name: str
    kind: str
    settings: Any

    @property
    def local(self) -> bool:
        """It reads the text alone and costs nothing: no call of it is stored."""
        return self.kind in LOCAL

    def told(self) -> dict[str, object]:
        """For the manifest and the fingerprint."""
        return {
            "rater": self.kind,
            "name": self.name,
            **{k: v for k, v in asdict(self.settings).items() if k != "rater"},
        }


@dataclass(frozen=True, slots=True)
class ColumnSettings:
    """Scores that stand in the file of candidates, in this column."""

    column: str


class Kind(NamedTuple):
    """A kind of rater that is called: settings, modules whose change makes its scores anew, weights, opening."""

    settings: type
    code: tuple[str, ...]
    facts: Callable[[Any], Mapping[str, object]]
    work: Callable[..., Work]  # (entry, allow_variant=)
    tables: tuple[Table, ...] = (SCORES,)


def _function(entry: Entry, *, allow_variant: bool) -> Work:
    scale = (entry.settings.scale_min, entry.settings.scale_max)
    return Pointwise(entry.name, partial(FunctionRater, entry.settings), scale)


KINDS: dict[str, Kind] = {
    "function": Kind(
        FunctionSettings,
        ("pairwright.backends.functions",),
        lambda settings: {"function": function_fingerprint(settings)},
        _function,
    ),
}


def parse_entries(given: Sequence[object], *, folder: Path, where: str, before: Sequence[Entry] = ()) -> list[Entry]:
    """The entries of a `score` list behind those `before`; a name stands once. Paths are relative to `folder`."""
    entries = [*before, *(parse_entry(each, folder=folder, where=f"score {i}") for i, each in enumerate(given))]
    names = [entry.name for entry in entries]
    if again := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"[{where}] a rater stands twice under score: {again[0]}; give one of them another name")
    return entries


def parse_entry(given: object, *, folder: Path, where: str) -> Entry:
    """One entry: a kind alone, FILE.py:FUNCTION alone, or a table with the key `rater`."""
    table = {"rater": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("rater"), str):
        raise ConfigError(f"[{where}] lacks: rater; known: {', '.join((*LOCAL, *KINDS))}, or FILE.py:FUNCTION")
    rest = {str(key): value for key, value in table.items() if key not in ("rater", "name")}
    kind = str(table["rater"])
    if ".py:" in kind:
        file, _, function = kind.rpartition(":")
        kind, rest = "function", {**rest, "function": f"{(folder / file).resolve()}:{function}"}
    if kind in RATERS:
        settings: Any = from_table(Rater, {"rater": kind, **rest, "name": table.get("name")}, where=where)
    elif kind == "column":
        settings = from_table(ColumnSettings, rest, where=where)
    elif kind in KINDS:
        settings = from_table(KINDS[kind].settings, rest, where=where)
    else:
        raise ConfigError(
            f"[{where}] unknown rater {kind!r}; known: {', '.join((*LOCAL, *KINDS))}, or FILE.py:FUNCTION"
        )
    name = table.get("name") or getattr(settings, "name", None) or getattr(settings, "column", None) or kind
    if not NAME.fullmatch(str(name)):
        raise ConfigError(f"[{where}] name {name!r}: letters, digits, _ and -, up to 64 of them")
    return Entry(str(name), kind, settings)


def works(entry: Entry, *, allow_variant: bool = False) -> Work:
    """The work of an entry that is called."""
    return KINDS[entry.kind].work(entry, allow_variant=allow_variant)


def names_of(entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries]
