"""Calls to raters that cost something, stored as they end: nothing that was stored is ever asked again.

A call is named by the ids it is about, a hash of the texts it saw, and what else tells it from its like (order, draw).
Calls live beside the shards of a run and outlive them: more samples, another pairing rule, a run that was killed.

    DIR/stages/.calls/<rater>-<hash of settings, weights and code>/00003-of-00008.jsonl
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import polars as pl

from pairwright.pipeline import Frames, Watch
from pairwright.store import Journal, JournalWriter, read_json, shard_of, write_json
from pairwright.tables import Table

Record = dict[str, object]
WINDOW = 4096  # calls handed to a rater together: enough to sort by length, little enough to hold

# reasons that may be gone at the next try: such a call is not stored, and --retry asks again
PASSING = ("judge_failed", "scoring_failed", "function_failed", "out_of_memory")


class Unit(NamedTuple):
    """One call: its name, and what the rater needs for it."""

    id: tuple[str, ...]  # starts with the prompt's id
    payload: object


class Work(Protocol):
    """One rater of a run: what it would call, how it calls, and the tables that come of the stored records."""

    name: str
    tables: tuple[Table, ...]
    window: float  # calls handed over together
    noted: Mapping[str, object]

    def units(self, prompts: pl.DataFrame, responses: pl.DataFrame, /) -> list[Unit]: ...

    def call(self, units: Sequence[Unit], /) -> Iterator[tuple[tuple[str, ...], Record]]: ...

    def frames(
        self, prompts: pl.DataFrame, responses: pl.DataFrame, found: Mapping[tuple[str, ...], Record], /
    ) -> Frames: ...

    def about(self) -> Mapping[str, object]:
        """What the manifest says of the rater, once it was opened."""
        ...


class Calls:
    """The stored calls of one rater."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards = folder, shards

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}-of-{self.shards:05d}.jsonl"

    def read(self, shard: int) -> dict[tuple[str, ...], Record]:
        """The records of a shard by name; those of a run with another number of shards are found too."""
        others = [path for path in self.folder.glob("*-of-*.jsonl") if not path.stem.endswith(f"-{self.shards:05d}")]
        found: dict[tuple[str, ...], Record] = {}
        for path in [*others, self._path(shard)]:
            for record in Journal(path).read()[0]:
                name = record.get("call")
                if isinstance(name, list) and name and shard_of(str(name[0]), self.shards) == shard:
                    found[tuple(map(str, name))] = record
        return found

    def journal(self, shard: int) -> Journal:
        return Journal(self._path(shard))

    def about(self) -> dict[str, object]:
        return read_json(self.folder / "about.json")

    def note(self, about: Mapping[str, object]) -> None:
        write_json(self.folder / "about.json", dict(about))


def passing(record: Mapping[str, object]) -> bool:
    """The call failed for a reason that says nothing about the response."""
    return str(record.get("reason") or "").startswith(PASSING)


def rate_shards(
    work: Work,
    todo: Sequence[int],
    read: "Reader",
    calls: Calls,
    watch: Watch,
) -> Iterator[tuple[int, Frames]]:
    """The tables of every shard as soon as its last call ends. Shards go to the rater some thousand calls at a time."""
    waiting: list[_Shard] = []
    work.noted = calls.about()
    for shard in todo:
        waiting.append(_opened(work, shard, read, calls))
        if sum(len(each.missing) for each in waiting) >= work.window:
            yield from _window(work, waiting, calls, watch)
            waiting = []
    yield from _window(work, waiting, calls, watch)


class Reader(Protocol):
    """The prompts and responses of a shard."""

    def __call__(self, shard: int, /) -> tuple[pl.DataFrame, pl.DataFrame]: ...


class _Shard(NamedTuple):
    shard: int
    prompts: pl.DataFrame
    responses: pl.DataFrame
    found: dict[tuple[str, ...], Record]
    missing: list[Unit]


def _opened(work: Work, shard: int, read: Reader, calls: Calls) -> _Shard:
    prompts, responses = read(shard)
    found = calls.read(shard)
    return _Shard(
        shard, prompts, responses, found, [each for each in work.units(prompts, responses) if each.id not in found]
    )


def _window(work: Work, waiting: Sequence[_Shard], calls: Calls, watch: Watch) -> Iterator[tuple[int, Frames]]:
    owner = {unit.id: each for each in waiting for unit in each.missing}
    left = {each.shard: len({unit.id for unit in each.missing}) for each in waiting}
    for each in waiting:
        if not left[each.shard]:
            yield each.shard, work.frames(each.prompts, each.responses, each.found)
    if not owner:
        return
    watch.begin(len(owner), work.name)
    with contextlib.ExitStack() as open_files:
        writers: dict[int, JournalWriter] = {}
        for name, record in work.call([unit for each in waiting for unit in each.missing]):
            each = owner[name]
            if not writers:
                calls.note(work.about())  # before the first row: what the self-test found
            if each.shard not in writers:
                writers[each.shard] = open_files.enter_context(calls.journal(each.shard).writing())
            if not passing(record):
                writers[each.shard].append({"call": list(name), **record})
            each.found[name] = record
            watch.done(1, int(str(record.get("n_tokens") or 0)))
            left[each.shard] -= 1
            if not left[each.shard]:
                yield each.shard, work.frames(each.prompts, each.responses, each.found)
        calls.note(work.about())
    if short := [shard for shard, n in left.items() if n]:
        raise AssertionError(f"rater {work.name} left calls of shards {short} without an answer")
