"""A file of one layout into a file of another: nothing is lost in silence, and the row that is lost has a reason."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pairwright.errors import ConfigError, DataError
from pairwright.io.layouts.catalogue import LAYOUTS
from pairwright.io.layouts.convey import to_pair
from pairwright.io.layouts.declare import declaration
from pairwright.io.layouts.detect import SAMPLE, detect
from pairwright.io.layouts.files import batches, fold, group_key, rows_of, sink, unfold
from pairwright.io.layouts.model import DEFAULT, FIELDS, CandidateRow, Layout, Lost, Options, PairRow, Row
from pairwright.io.layouts.rows import AnyRow, begin_group, read_row, write_row
from pairwright.io.trl import ROWS
from pairwright.store import atomic
from pairwright.tables import MESSAGES, prompt_id

SHOWN = 5  # rows that a finding names
PROMPTS = 10_000  # per batch of candidates
CANDIDATES = {
    "prompt_id": pl.String(),
    "prompt": MESSAGES,
    "response_id": pl.Int64(),
    "response": pl.String(),
    "score": pl.Float64(),
    "source": pl.String(),
    "reason": pl.String(),
}


class Numbered(NamedTuple):
    """A row that was read, the number of its row in the file, from 0, and the row itself."""

    number: int
    read: AnyRow | Lost
    row: Row


@dataclass(slots=True)
class Tally:
    """What happened to the rows, as it happens."""

    rows_in: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)
    findings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def lose(self, number: int, name: str | None, lost: Lost) -> None:
        self.dropped.append({"row": number, "id": name, "reason": lost.reason, "detail": lost.detail})

    def find(self, number: int, name: str | None, codes: Iterable[str]) -> None:
        for code in dict.fromkeys(codes):
            self.findings.setdefault(code, []).append({"row": number, "id": name})

    def reasons(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for each in self.dropped:
            counts[each["reason"]] = counts.get(each["reason"], 0) + 1
        return counts

    def told(self) -> list[dict[str, Any]]:
        return [
            {
                "code": code,
                "count": len(seen),
                "rows": [s["row"] for s in seen[:SHOWN]],
                "ids": [s["id"] for s in seen[:SHOWN]],
            }
            for code, seen in self.findings.items()
        ]


def open_layout(
    path: Path, layout: str | None = None, options: Options = DEFAULT
) -> tuple[Layout, Iterator[tuple[int, Row]]]:
    """The layout of a file, named or detected, and its rows with their numbers."""
    rows = rows_of(path)
    first = [row for _, row in zip(range(SAMPLE), rows, strict=False)]
    if not first:
        raise DataError(f"{path} holds no rows; there is nothing to read")
    columns = list(dict.fromkeys(name for row in first for name in row))
    if options.score not in (None, "aspects", *columns):
        raise ConfigError(f"{path} has no score column {options.score!r}; it has {', '.join(columns)}")
    found = detect(first, columns, where=str(path)) if layout is None else named(layout)
    return found, fold(chain(first, rows), found)


def named(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]


def read_rows(path: Path, layout: str | None = None, options: Options = DEFAULT) -> Iterator[Numbered]:
    """Every row of a file, read or lost."""
    found, rows = open_layout(path, layout, options)
    yield from _read(found, rows, options, path)


def _read(layout: Layout, rows: Iterable[tuple[int, Row]], options: Options, path: Path) -> Iterator[Numbered]:
    for number, row in rows:
        if absent := _absent(row, layout):
            yield Numbered(number, Lost("column_missing", f"{layout.name} needs {', '.join(absent)}"), row)
            continue
        read = read_row(layout, row, options)
        if (
            number == 0
            and isinstance(read, Lost)
            and read.reason == "prompt_boundary_unknown"
            and not options.prompt_end
        ):
            raise DataError(
                f"{path}, row 0: {read.reason}: {read.detail} (--prompt-end); the answer's first words would move"
            )
        yield Numbered(number, read, row)


def _absent(row: Row, layout: Layout) -> list[str]:
    """The columns that the layout needs and this row, or the first of its joined rows, does not have."""
    there = row if layout.group is None else {**row, **row["rows"][0]}
    return [names for names in layout.needs if not any(name in there for name in names.split("|"))]


def convert_file(
    source: Path,
    target: Path,
    *,
    to: str,
    layout: str | None = None,
    options: Options = DEFAULT,
    lossy: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Writes `source` in the layout `to` and says what happened: rows in = rows out + dropped.

    Candidates become a pair by best against worst unless the file names its pair. `lossy` leaves out what the layout
    has no column of its own for. Lost rows stand in TARGET.dropped.jsonl with row number, id and reason.
    """
    into = named(to)
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the input itself; choose another name for the output")
    if target.exists() and not force:
        raise ConfigError(f"{target} is there already; choose another name or pass --force")
    found, rows = open_layout(source, layout, options)
    tally = Tally()
    with sink(target, _types(into)) as out:
        for batch in batches(_written(_read(found, rows, options, source), into, options, lossy, tally)):
            out.add(batch)
        if not out.rows:
            told = ", ".join(f"{reason} {count}" for reason, count in tally.reasons().items())
            raise DataError(
                f"{source}: none of {tally.rows_in} rows could be written as {to} ({told}); first: {tally.dropped[0]}"
            )
        columns = list(out.columns)
    _side_file(target, tally.dropped)
    return {
        "detected": found.name,
        "about": found.about,
        "score_kind": found.score_kind,
        "to": to,
        "unit": "prompt" if found.group else "row",
        "rows_in": tally.rows_in,
        "rows_out": tally.rows_in - len(tally.dropped),
        "dropped": tally.reasons(),
        "findings": tally.told(),
        "left_out": sorted(tally.left_out),
        "declaration": declaration(to, target, columns),
    }


def _written(numbered: Iterable[Numbered], into: Layout, options: Options, lossy: bool, tally: Tally) -> Iterator[Row]:
    groups: set[int] = set()  # of prompts whose rows were written
    for number, read, row in numbered:
        tally.rows_in += 1
        if isinstance(read, Lost):
            tally.lose(number, _name(row), read)
            continue
        name = read.prompt_id or _name(row)
        written = write_row(into, read, options, lossy=lossy)
        if isinstance(written, Lost):
            tally.lose(number, name, written)
            continue
        tally.find(number, name, _codes(read))
        if lossy:
            tally.left_out |= _beside(into, read) - set(written)
        elif into.group is not None:
            key = hash(group_key(written, into.group))
            written = begin_group(written) if key in groups else written
            groups.add(key)
        yield from unfold(written, into)


def _codes(read: AnyRow) -> list[str]:
    codes = list(read.notes)
    if isinstance(read, CandidateRow):
        if read.pair is not None:
            codes += _contradicts(*(read.candidates[i].score for i in read.pair[:2]))
        return (
            codes
            + [c.reason for c in read.candidates if c.reason]
            + [g for c in read.candidates for g in c.gaps.values()]
        )
    if read.score_chosen is not None and read.score_chosen == read.score_rejected:
        codes.append("tie")
    codes += _contradicts(read.score_chosen, read.score_rejected)
    return codes + (["identical_sides"] if read.chosen == read.rejected else [])


def _contradicts(chosen: float | None, rejected: float | None) -> list[str]:
    return ["label_contradicts_score"] if chosen is not None and rejected is not None and chosen < rejected else []


def _beside(into: Layout, read: AnyRow) -> set[str]:
    """What a lossy writing of this row leaves out: the meta, and the fields that the layout has no column for."""
    if isinstance(read, CandidateRow) and into.kind == "pairs":
        read = to_pair(read)  # the meta holds all candidates as soon as the pair does not tell them all
    held = set(read.meta)
    if isinstance(read, PairRow):
        held |= {
            name
            for name in FIELDS
            if name not in into.own and name not in into.carries and getattr(read, name) is not None
        }
    return held


def _name(row: Row) -> str | None:
    """Whatever the row calls itself."""
    for name in ("prompt_id", "id", "row_id", "uid"):
        if isinstance(row.get(name), str | int):
            return str(row[name])
    return None


def _types(layout: Layout) -> dict[str, pl.DataType]:
    """The types of the columns that a file may leave all null."""
    return {layout.own.get(name, name): ROWS[name] for name in FIELDS} | {"meta": pl.String()}


def _side_file(target: Path, dropped: list[dict[str, Any]]) -> None:
    path = target.with_name(f"{target.name}.dropped.jsonl")
    if not dropped:
        path.unlink(missing_ok=True)
        return
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(each) + "\n" for each in dropped), encoding="utf-8")


def candidate_frames(
    path: Path | str,
    layout: str | None = None,
    options: Options = DEFAULT,
    *,
    dropped: list[dict[str, Any]] | None = None,
) -> Iterator[pl.DataFrame]:
    """A candidates layout in the batches of `read_candidates`; lost rows are appended to `dropped`.

    A prompt that comes again in a row of its own gets an id of its own: its responses were scored apart.
    """
    path = Path(path)
    found, rows = open_layout(path, layout, options)
    if found.kind != "candidates":
        raise DataError(f"{path}: {found.name} holds finished pairs, not scored candidates; convert it instead")
    seen: dict[str, int] = {}  # {id: how many ids were made of it}
    tally = Tally(dropped=dropped if dropped is not None else [])
    for batch in batches(_kept(_read(found, rows, options, path), tally), PROMPTS):
        yield pl.DataFrame([line for row in batch for line in _lines(row, seen)], schema=CANDIDATES, orient="row")


def _lines(row: CandidateRow, seen: dict[str, int]) -> list[tuple[object, ...]]:
    name = _free(row.prompt_id or prompt_id(row.prompt), seen)
    return [(name, row.prompt, k, c.text, c.score, c.source, c.reason) for k, c in enumerate(row.candidates)]


def _free(name: str, seen: dict[str, int]) -> str:
    """The id itself, or with the first number behind it that gives an id which was not there yet."""
    new = name
    while new in seen:
        seen[name] += 1
        new = f"{name}-{seen[name]}"
    seen[new] = 1
    return new


def _kept(numbered: Iterable[Numbered], tally: Tally) -> Iterator[CandidateRow]:
    for number, read, row in numbered:
        if isinstance(read, Lost):
            tally.lose(number, _name(row), read)
        elif isinstance(read, CandidateRow):
            if read.candidates:
                yield read
            else:
                tally.lose(number, read.prompt_id or _name(row), Lost("no_responses", "the list of responses is empty"))
