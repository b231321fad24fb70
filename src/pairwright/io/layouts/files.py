"""Rows of any layout from files and into files: .parquet, .jsonl and .json (one list of objects)."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pairwright.errors import DataError, StoreError
from pairwright.io.jsonl import read_lines
from pairwright.io.layouts.kinds import Kinds, add_kinds, frame, schema
from pairwright.io.layouts.model import Layout, Row
from pairwright.io.layouts.rows import META, begins_group
from pairwright.store import atomic

BATCH = 5_000  # rows in memory at a time
PARQUET = frozenset({".parquet", ".pq"})
LINES = frozenset({".jsonl", ".ndjson"})


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a file, one dict each."""
    if not path.exists():
        raise StoreError(f"there is no file {path}")
    if path.suffix in PARQUET:
        return _parquet(path)
    if path.suffix in LINES or (path.suffix == ".json" and not _is_list(path)):
        return (row for _, row in read_lines(path, dict))
    if path.suffix == ".json":
        return iter(_list(path))
    raise DataError(f"{path}: the name must end in .parquet, .jsonl or .json to say what it is")


def _parquet(path: Path) -> Iterator[Row]:
    try:
        for part in pl.scan_parquet(path).collect_batches(maintain_order=True, chunk_size=BATCH):
            yield from part.iter_rows(named=True)
    except (OSError, pl.exceptions.ComputeError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}; is it whole?") from error


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).lstrip().startswith(b"[")


def _list(path: Path) -> list[Row]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass  # perhaps a NaN, which JSON does not have and Python writes
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; it must hold one list of objects") from error
    if not isinstance(held, list) or not all(isinstance(row, dict) for row in held):
        raise DataError(f"{path} does not hold one list of objects")
    return held


def fold(rows: Iterable[Row], layout: Layout) -> Iterator[tuple[int, Row]]:
    """(number of its first row, row), with the rows of one prompt joined where a row is one response.

    The rows of a prompt may stand anywhere; what belongs to the prompt as a whole is taken from the first that has it.
    A row with our own part of the meta begins a group of its own, as `unfold` wrote it. One id of two prompts joins
    nothing.
    """
    if layout.group is None:
        yield from enumerate(rows)
        return
    shared = (layout.group, "prompt_id", *META)
    groups: list[tuple[int, Row]] = []
    latest: dict[object, Row] = {}
    for number, row in enumerate(rows):
        key = group_key(row, layout.group)
        if key not in latest or begins_group(row):
            latest[key] = {"rows": []}
            groups.append((number, latest[key]))
        group = latest[key]
        for name in shared:
            if row.get(name) is not None or (name == layout.group and name not in group):
                group.setdefault(name, row.get(name))
        other = {name for name in META if row.get(name) is not None and row[name] != group[name]}  # of the response
        group["rows"].append({name: value for name, value in row.items() if name not in shared or name in other})
    yield from groups


def group_key(row: Row, column: str) -> tuple[object, object]:
    """What the rows of one prompt have in common."""
    name, prompt = row.get("prompt_id") or None, row.get(column)
    return name if isinstance(name, str | int) else repr(name), prompt if isinstance(prompt, str) else repr(prompt)


def unfold(row: Row, layout: Layout) -> list[Row]:
    """The rows of one prompt apart again; its meta stands in the first."""
    if layout.group is None:
        return [row]
    whole = {name: value for name, value in row.items() if name != "rows"}
    every = {name: value for name, value in whole.items() if name in (layout.group, "prompt_id")}
    return [{**(every if i else whole), **each} for i, each in enumerate(row["rows"])]


class Sink:
    """One file written piece by piece; it has its name only when all of it is there."""

    def __init__(self, temporary: Path, suffix: str, types: Mapping[str, pl.DataType]) -> None:
        self.path, self.suffix, self.types = temporary, suffix, types
        self.columns: dict[str, None] = {}
        self.rows = 0
        self._kinds: Kinds = {}
        self._parts: list[Path] = []

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            self.columns.update(dict.fromkeys(row))
        if self.suffix in PARQUET:
            add_kinds(self._kinds, rows)
            self._parts.append(self.path.with_name(f"{self.path.name}.{len(self._parts):05d}"))
            self._write(rows, self._parts[-1])
        else:
            with self.path.open("ab") as file:
                for number, row in enumerate(rows, start=self.rows):
                    file.write(self._before(number) + _line(row))
        self.rows += len(rows)

    def _write(self, rows: list[Row], part: Path) -> None:
        frame(rows, schema(self._kinds, self.types)).write_parquet(part, compression="zstd", compression_level=1)

    def _before(self, number: int) -> bytes:
        if self.suffix == ".json":
            return b",\n" if number else b"[\n"
        return b"\n" if number else b""

    def close(self) -> None:
        if self.suffix not in PARQUET:
            with self.path.open("ab") as file:
                file.write(b"\n]\n" if self.suffix == ".json" else b"\n")
            return
        types = schema(self._kinds, self.types)
        for part in self._parts:
            if list(pl.read_parquet_schema(part).items()) != list(types.items()):  # later rows widened a column
                self._write(pl.read_parquet(part).to_dicts(), part)
        pl.scan_parquet(self._parts).sink_parquet(self.path, compression="zstd")

    def clear(self) -> None:
        for part in self._parts:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def sink(path: Path, types: Mapping[str, pl.DataType]) -> Iterator[Sink]:
    if path.suffix not in PARQUET | LINES | {".json"}:
        raise DataError(f"{path}: the name must end in .parquet, .jsonl or .json to say what to write")
    with atomic(path) as temporary:
        file = Sink(temporary, path.suffix, types)
        try:
            yield file
            file.close()
        finally:
            file.clear()


def _line(row: Row) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(row).encode("ascii")
    except TypeError as error:
        raise DataError(f"a row cannot be written as JSON: {error}; write .parquet instead") from error


def batches(rows: Iterable[Any], size: int = BATCH) -> Iterator[list[Any]]:
    at = iter(rows)
    while batch := list(islice(at, size)):
        yield batch
