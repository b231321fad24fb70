"""The order of stages: what must run, what is still right, what is left of an interrupted run.

A stage is named by its fingerprint: its settings, the code it runs (comments and docstrings apart), the fingerprints of
the stages it reads and of its input files. The same fingerprint means that finished shards are kept; another one moves
them aside, and moves them back when the recipe goes back.
"""

import ast
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pairwright.store import Stage, digest, locked
from pairwright.tables import Table

Frames = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Step:
    """A stage of a run. `work(shards)` yields (shard, tables) as they are ready."""

    name: str
    tables: tuple[Table, ...]
    shards: int
    work: Callable[[list[int]], Iterator[tuple[int, Frames]]]
    settings: Mapping[str, object] = field(default_factory=dict)
    code: tuple[str, ...] = ()  # modules
    reads: tuple[str, ...] = ()  # earlier stages
    files: tuple[Path, ...] = ()  # what it writes beside its shards
    facts: Mapping[str, object] = field(default_factory=dict)  # hashes of input files and of weights
    redraws: bool = False  # making a shard again may give another result


@dataclass(frozen=True)
class Watch:
    """What a long stage tells while it runs: how many calls are to come, of what, and the tokens of those that end."""

    begin: Callable[[int, str], None] = lambda _, __: None
    done: Callable[[int, int], None] = lambda _, __: None


SILENT = Watch()


@dataclass(frozen=True)
class Outcome:
    """What became of a stage: how many shards were made now, why, and in how many seconds."""

    stage: str
    made: int
    kept: int
    why: str
    seconds: float


def code_digest(modules: Sequence[str]) -> str:
    """Names the code of these modules; a comment, a docstring or a blank line does not change it."""
    texts = []
    for name in modules:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(name)
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
        texts.append(ast.dump(tree))
    return digest(texts)


_DOCUMENTED = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def describe(step: Step, known: Mapping[str, str]) -> dict[str, object]:
    """All that the fingerprint of a stage stands for."""
    return {
        "settings": dict(step.settings),
        "code": code_digest(step.code),
        "facts": dict(step.facts),
        "reads": {name: known[name] for name in step.reads},
        "shards": step.shards,
    }


def plan(folder: Path, steps: Sequence[Step]) -> list[tuple[Step, Stage, dict[str, object], str]]:
    """Every stage with its folder, its description, and why it would run ("" when it would not)."""
    known: dict[str, str] = {}
    would: set[str] = set()
    planned = []
    for step in steps:
        stage = Stage(folder, step.name, step.shards, step.tables)
        told = describe(step, known)
        known[step.name] = digest({"stage": step.name, **told})
        why = _why(step, stage, told, known[step.name])
        again = [name for name in step.reads if name in would]
        if again or (why and step.redraws):
            would.add(step.name)
        why = why or (f"{' and '.join(again)} will be made again" if again else "")
        planned.append((step, stage, {"fingerprint": known[step.name], **told}, why))
    return planned


def _why(step: Step, stage: Stage, told: Mapping[str, object], fingerprint: str) -> str:
    record = stage.record
    if not record:
        return "not run yet"
    if record.get("fingerprint") != fingerprint:
        changed = [name for name in told if record.get(name) != told[name]]
        return f"{' and '.join(_in_words(name, record.get(name), told[name]) for name in changed)} changed"
    left = sum(not stage.finished(shard) for shard in range(step.shards))
    if left:
        return f"{left} of {step.shards} shards are not finished"
    if gone := [path.name for path in step.files if not path.exists()]:
        return f"{', '.join(gone)} is not there"
    return ""


def _in_words(name: str, old: object, new: object) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{name} ({', '.join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)))})"
    return name


def run(folder: Path, steps: Sequence[Step], *, tell: Callable[[str], None] = lambda _: None) -> list[Outcome]:
    """Runs what must run; the rest is left as it is. An interrupted stage goes on with its unfinished shards.

    Before a shard of draws is made again, what was made of it is discarded: no score outlives the text it was given to.
    """
    with locked(folder):
        return [_run_step(planned, steps, folder, tell) for planned in plan(folder, steps)]


def _run_step(
    planned: tuple[Step, Stage, dict[str, object], str],
    steps: Sequence[Step],
    folder: Path,
    tell: Callable[[str], None],
) -> Outcome:
    step, stage, told, _ = planned
    fingerprint = str(told.pop("fingerprint"))
    why = _why(step, stage, told, fingerprint)
    if not why:
        return Outcome(step.name, 0, step.shards, "unchanged", 0.0)
    tell(f"{step.name}: {why}")
    opened = stage.open(fingerprint, told)
    if step.files and (opened or any(not path.exists() for path in step.files)):
        stage.discard(range(step.shards))  # its files are not in the shards: they are written anew
    todo = [shard for shard in range(step.shards) if not stage.finished(shard)]
    if step.redraws:
        discard_readers(folder, step, steps, todo)
    begun = time.monotonic()
    for shard, frames in step.work(todo):
        stage.write(shard, frames)
    seconds = time.monotonic() - begun
    earlier = stage.record.get("seconds", 0.0)
    stage.note(seconds=round(seconds + (earlier if isinstance(earlier, float) else 0.0), 3))
    return Outcome(step.name, len(todo), step.shards - len(todo), why, seconds)


def discard_readers(folder: Path, step: Step, steps: Sequence[Step], shards: Sequence[int]) -> None:
    """Makes unfinished what was made of these shards of a step."""
    for reader in readers(step.name, steps):
        same = reader.shards == step.shards
        Stage(folder, reader.name, reader.shards, reader.tables).discard(shards if same else range(reader.shards))


def readers(name: str, steps: Sequence[Step]) -> list[Step]:
    """The steps that read this one, or read what reads it."""
    found: list[Step] = []
    names = {name}
    for step in steps:
        if names & set(step.reads):
            found.append(step)
            names.add(step.name)
    return found
