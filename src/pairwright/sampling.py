"""The sample stage of a run: draws that a journal or an earlier run holds are not made again."""

from collections.abc import Callable, Iterator, Mapping

import polars as pl

from pairwright.pipeline import Frames, Watch
from pairwright.protocols import Sampler
from pairwright.sample import Sampling, draw, missing_calls, to_tables
from pairwright.store import Journal, Stage
from pairwright.tables import RESPONSES


def sample_shards(
    settings: Sampling, todo: list[int], stages: tuple[Stage, Stage], opening: Callable[[], Sampler], watch: Watch
) -> Iterator[tuple[int, Frames]]:
    """Draws what neither the journal nor an earlier run of the same draws holds; a shard ends with its last draw."""
    prompts, sampled = stages
    held = {shard: prompts.read("prompts", shard) for shard in todo}
    wanted = {name: shard for shard in todo for name in held[shard]["prompt_id"]}
    journal = Journal(sampled.folder / "journal.jsonl")
    recorded, torn = journal.read()
    if torn:
        sampled.note(half_written_lines=torn)
    rows: dict[int, dict[tuple[str, int], dict[str, object]]] = {shard: {} for shard in todo}
    for row in [*_earlier(sampled, settings), *recorded]:
        if row.keys() >= _DRAWN and row["prompt_id"] in wanted and int(str(row["sample"])) < settings.n:
            rows[wanted[str(row["prompt_id"])]][str(row["prompt_id"]), int(str(row["sample"]))] = row
    have: dict[str, set[int]] = {}
    for name, sample in (key for of_shard in rows.values() for key in of_shard):
        have.setdefault(name, set()).add(sample)
    calls = [c for shard in todo for c in missing_calls(held[shard], have, settings)]
    calls = [c._replace(ask=c.ask._replace(key=i)) for i, c in enumerate(calls)]
    for shard in [s for s in todo if len(rows[s]) == held[s].height * settings.n]:
        yield shard, _tables(rows.pop(shard))
    if calls:
        sampler = opening()
        watch.begin(sum(call.ask.n for call in calls), "sampling")
        with journal.writing() as writer:
            for row in draw(calls, sampler, settings):
                writer.append(row)
                watch.done(1, int(str(row["n_tokens"] or 0)))
                shard = wanted[str(row["prompt_id"])]
                rows[shard][str(row["prompt_id"]), int(str(row["sample"]))] = row
                if len(rows[shard]) == held[shard].height * settings.n:
                    yield shard, _tables(rows.pop(shard))
    journal.delete()


_DRAWN = {*RESPONSES.columns, "lost"}  # what a line of the journal must hold


def _tables(rows: Mapping[tuple[str, int], dict[str, object]]) -> Frames:
    split = to_tables(rows.values())
    return {"responses": split.kept, "dropped": split.dropped}


def _earlier(sampled: Stage, sampling: Sampling) -> Iterator[dict[str, object]]:
    """Draws of earlier runs into this folder that differ only in n, prompts or shards: they are what would be drawn."""
    same = {"settings": {**sampling.deciding(), "n": None}}
    now = sampled.record
    for folder in sampled.earlier():
        was = Stage.record_of(folder)
        settings = was.get("settings")
        if not isinstance(settings, dict) or {"settings": {**settings, "n": None}} != same:
            continue
        if was.get("facts") != now.get("facts") or was.get("code") != now.get("code"):
            continue
        for path in sorted(folder.glob("responses-*.parquet")):
            for row in pl.read_parquet(path).iter_rows(named=True):
                yield {**row, "lost": None}
        yield from Journal(folder / "journal.jsonl").read()[0]
