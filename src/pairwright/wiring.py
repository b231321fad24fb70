"""Where names meet functions: backends by name, a recipe into the steps of a run."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pairwright import after
from pairwright.backends.endpoint import Endpoint
from pairwright.clean.repair import soft_pairs
from pairwright.clean.run import clean
from pairwright.cleaning import evidence_of, finite, flagged, found_in_order, page_facts, write_result
from pairwright.engine import over_shards
from pairwright.errors import ConfigError
from pairwright.export import export_run, rewarded
from pairwright.io.candidates import read_candidates
from pairwright.io.given import Given, as_tables
from pairwright.io.layouts import candidate_frames
from pairwright.io.prompts import read_prompts
from pairwright.io.trl import Parts
from pairwright.manifest import manifest
from pairwright.pair.build import build_pairs
from pairwright.pipeline import SILENT, Frames, Step, Watch, code_digest, discard_readers
from pairwright.protocols import Sampler
from pairwright.rating.calls import PASSING, Calls, rate_shards
from pairwright.rating.entries import KINDS, Entry, works
from pairwright.rating.works import with_drops
from pairwright.recipe import Asked, Recipe
from pairwright.recipe import read_recipe as _read_recipe
from pairwright.report.raters import page_of as scores_page
from pairwright.sample import Sampling
from pairwright.sampling import sample_shards
from pairwright.score.combine import joined
from pairwright.score.compare import TEXTS, SideBySide, beside, position_facts, proof, voices, z_beside
from pairwright.score.raters import rate
from pairwright.score.rules import parse_checks
from pairwright.settings import from_table
from pairwright.store import (
    Stage,
    digest,
    file_hash,
    locked,
    read_json,
    write_json,
    write_parquet,
    write_text,
)
from pairwright.tables import (
    COMPARISONS,
    LOGPS,
    PAIRS,
    PROMPT_STATS,
    PROMPTS,
    PROPOSALS,
    RESPONSES,
    SCORES,
    Table,
    empty,
)


def _fake(settings: Sampling) -> Sampler:
    from pairwright.backends.fake import FakeSampler

    return FakeSampler(model=settings.model or "fake")


def _openvino(settings: Sampling) -> Sampler:
    from pairwright.backends.openvino import EMBEDDED, OpenVINOSampler

    return OpenVINOSampler(settings.model or EMBEDDED)


def _openvino_weights(settings: Sampling) -> str:
    from pairwright.backends.openvino import EMBEDDED, fingerprint

    return fingerprint(settings.model or EMBEDDED)


def _transformers(settings: Sampling) -> Sampler:
    from pairwright.backends.generate import TransformersSampler, local_model
    from pairwright.backends.openvino import EMBEDDED

    return TransformersSampler(local_model(settings.model or EMBEDDED))


def _transformers_weights(settings: Sampling) -> str:
    from pairwright.backends.generate import fingerprint, local_model
    from pairwright.backends.openvino import EMBEDDED

    return fingerprint(local_model(settings.model or EMBEDDED))


def _endpoint(settings: Sampling) -> Endpoint:
    if settings.endpoint is None or settings.model is None:
        raise ConfigError("[sample] the backend openai needs model: NAME and endpoint: {base_urls: ...}")
    return from_table(Endpoint, {"model": settings.model, **settings.endpoint}, where="sample.endpoint")


def _openai(settings: Sampling) -> Sampler:
    from pairwright.backends.openai import OpenAISampler

    return OpenAISampler(_endpoint(settings))


PLAIN = Asked()
SAMPLER_CODE = {"transformers": "pairwright.backends.generate"}  # where the module is not called as the backend is
SAMPLERS: dict[str, Callable[[Sampling], Sampler]] = {
    "fake": _fake, "openvino": _openvino, "transformers": _transformers, "openai": _openai,
}  # fmt: skip
WEIGHTS: dict[str, Callable[[Sampling], str]] = {
    "fake": lambda _: "fake",
    "openvino": _openvino_weights,
    "transformers": _transformers_weights,
    "openai": lambda settings: _endpoint(settings).fingerprint,
}


def read_recipe(path: Path, asked: Asked = PLAIN) -> Recipe:
    """A recipe file, with what a command says beside it."""
    return _read_recipe(path, asked, backends=SAMPLERS)


def forget_failures(folder: Path, todo: list[Step]) -> None:
    """Makes the shards unfinished where a rater failed for a reason that may be gone: its stored calls stay stored."""
    with locked(folder):
        for step in todo:
            stage = Stage(folder, step.name, step.shards, step.tables)
            failed = [
                shard
                for shard in (range(step.shards) if step.name.startswith("score-") else ())
                if stage.finished(shard) and stage.read("dropped", shard)["reason"].is_in(PASSING).any()
            ]
            stage.discard(failed)
            if failed:
                discard_readers(folder, step, todo, failed)


class Folders(NamedTuple):
    """The stage folders of a run; `score` has one for each rater."""

    prompts: Stage
    sample: Stage
    score: dict[str, Stage]
    clean: Stage
    pair: Stage
    select: Stage

    @property
    def columns(self) -> list[str]:
        """The names of all scores, each rater's whole before its parts."""
        found: dict[str, set[str]] = {name: set() for name in self.score}
        for name, stage in self.score.items():
            for shard in range(stage.shards):
                found[name].update(stage.read("scores", shard)["rater"].unique())
        return [each for names in found.values() for each in sorted(names)]

    @property
    def raters(self) -> list[str]:
        """The raters that stand for themselves."""
        return voices(self.columns)

    def scores(self, shard: int, raters: list[str] | None = None) -> pl.DataFrame:
        """The scores of these raters in one shard; of all by default."""
        parts = [stage.read("scores", shard) for name, stage in self.score.items() if raters is None or name in raters]
        return pl.concat(parts) if parts else empty(SCORES)


def folders(recipe: Recipe, folder: Path) -> Folders:
    def stage(name: str, *tables: Table) -> Stage:
        return Stage(folder, name, recipe.shards, tables)

    score = {entry.name: stage(f"score-{entry.name}", *_tables_of(entry)) for entry in recipe.score}
    clean, pair = stage("clean", SCORES, PROPOSALS), stage("pair", PAIRS, PROMPT_STATS)
    return Folders(stage("prompts", PROMPTS), stage("sample", RESPONSES), score, clean, pair, stage("select", PAIRS))


def _tables_of(entry: Entry) -> tuple[Table, ...]:
    return (SCORES,) if entry.local else KINDS[entry.kind].tables


def local_shard(recipe: Recipe, folder: Path, entry: Entry, shard: int) -> Frames:
    """A rater that reads the text alone, on the responses of one shard."""
    stages = folders(recipe, folder)
    split = rate(stages.prompts.read("prompts", shard), stages.sample.read("responses", shard), [entry.settings])
    return {"scores": split.kept, "dropped": split.dropped}


def pair_shard(recipe: Recipe, folder: Path, shard: int) -> Frames:
    """The pairs of one shard."""
    assert recipe.pair is not None
    assert recipe.reward is not None
    stages = folders(recipe, folder)
    held = stages.prompts.read("prompts", shard)
    scores = stages.scores(shard, _deciding(recipe))
    if recipe.clean:
        scores = pl.concat([scores, stages.clean.read("scores", shard)])
    rows = rewarded(joined(stages.sample.read("responses", shard), scores, recipe.reward), recipe.reward, recipe.pair)
    built = build_pairs(rows, recipe.pair, prompt_ids=held["prompt_id"])
    return {"pairs": built.pairs, "prompt_stats": built.stats, "dropped": built.dropped}


def _deciding(recipe: Recipe) -> list[str]:
    """The raters whose scores decide the pairs."""
    held = {name.partition(".")[0] for name in recipe.reward.raters} if recipe.reward else set()
    return [entry.name for entry in recipe.score if entry.name in held or not recipe.reward]


def steps(recipe: Recipe, folder: Path, watch: Watch = SILENT) -> list[Step]:
    """The stages of a run of this recipe into this folder."""
    stages = folders(recipe, folder)
    raters = [_score_step(recipe, folder, entry, stages, watch) for entry in recipe.score]
    start = _given_steps(recipe, stages) if recipe.candidates else _sampled_steps(recipe, stages, watch)
    cleaning = [_clean_step(recipe, folder, stages)] if recipe.clean else []
    pairing = [_pair_step(recipe, folder, stages)] if recipe.pair else []
    pairing += after.select_steps(recipe, folder, stages) if recipe.select else []
    pairing += [_export_step(recipe, folder, stages)] if recipe.pair else []
    pairing += [after.train_step(recipe, folder, watch)] if recipe.train else []
    return [*start, *raters, _side_by_side(recipe, folder, stages), *cleaning, *pairing]


def _sampled_steps(recipe: Recipe, stages: Folders, watch: Watch) -> list[Step]:
    """Prompts from their file, responses from a model."""
    source, settings, shards = recipe.source, recipe.sample, recipe.shards
    assert settings is not None

    def split_prompts(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        split = read_prompts(source)
        if any(entry.kind == "rules" for entry in recipe.score):
            for name, checks in split.kept.select("prompt_id", "checks").drop_nulls().iter_rows():
                parse_checks(json.loads(checks), where=f"{source.name}, prompt {name}")
        shard = after.shards_of(split.kept, shards)
        for each in todo:
            lost = split.dropped if each == 0 else split.dropped.clear()
            yield each, {"prompts": split.kept.filter(shard == each).sort("prompt_id"), "dropped": lost}

    def sampled(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        opening = partial(SAMPLERS[settings.backend], settings)
        return sample_shards(settings, todo, (stages.prompts, stages.sample), opening, watch)

    code = ("pairwright.sample", SAMPLER_CODE.get(settings.backend, f"pairwright.backends.{settings.backend}"))
    return [
        Step(
            "prompts", (PROMPTS,), shards, split_prompts,
            code=("pairwright.io.prompts",), facts={source.name: file_hash(source)},
        ),
        Step(
            "sample", (RESPONSES,), shards, sampled, settings.deciding(), code, ("prompts",),
            facts={"weights": weights_of(recipe)}, redraws=True,
        ),
    ]  # fmt: skip


def weights_of(recipe: Recipe) -> str | None:
    """Names the weights of the model that samples."""
    return WEIGHTS[recipe.sample.backend](recipe.sample) if recipe.sample else None


def _given_steps(recipe: Recipe, stages: Folders) -> list[Step]:
    """Prompts and responses from one file."""
    shards, given = recipe.shards, recipe.candidates
    assert given is not None

    def prompts(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        return _spread(recipe, todo, lambda batch: {"prompts": batch.prompts}, {})

    def responses(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        return _spread(recipe, todo, lambda batch: {"responses": batch.responses, "dropped": batch.dropped}, {})

    code = ("pairwright.io.given", "pairwright.io.candidates")
    facts = {given.path.name: file_hash(given.path)}
    settings = {"columns": given.columns, "layout": given.layout}
    return [
        Step("prompts", (PROMPTS,), shards, prompts, settings, code, facts=facts),
        Step("sample", (RESPONSES,), shards, responses, settings, code, ("prompts",), facts=facts, redraws=True),
    ]


def _spread(
    recipe: Recipe, todo: list[int], pick: Callable[[Given], Frames], raters: Mapping[str, str]
) -> Iterator[tuple[int, Frames]]:
    """A file of responses over the shards; `raters` are {rater: column} of scores that stand in it."""
    given, parts = recipe.candidates, {shard: list[Frames]() for shard in todo}
    assert given is not None
    if given.layout:
        batches = candidate_frames(given.path, given.layout)
    else:
        batches = read_candidates(given.path, columns=given.columns, raters=[*raters.values()], scored=False)
    named = {rater: "score" if given.layout else f"rater:{column}" for rater, column in raters.items()}
    for batch in as_tables(batches, named, where=str(given.path)):
        tables = [(name, data, after.shards_of(data, recipe.shards)) for name, data in pick(batch).items()]
        for shard in todo:
            parts[shard].append({name: data.filter(of == shard) for name, data, of in tables})
    for shard, held in parts.items():
        whole = {name: pl.concat([each[name] for each in held]) for name in held[0]}
        yield shard, {name: data.sort("prompt_id", maintain_order=True) for name, data in whole.items()}


def _score_step(recipe: Recipe, folder: Path, entry: Entry, stages: Folders, watch: Watch) -> Step:
    """One rater: local ones over processes, called ones call by call."""
    name, tables, settings = f"score-{entry.name}", _tables_of(entry), entry.deciding()
    common = ("prompts", "sample")
    if entry.kind == "column":
        if recipe.candidates is None:
            raise ConfigError("the rater column reads scores that stand in a file of candidates; this recipe samples")

        def column(todo: list[int]) -> Iterator[tuple[int, Frames]]:
            return _spread(recipe, todo, lambda batch: with_drops(batch.scores), {entry.name: entry.settings.column})

        return Step(name, tables, recipe.shards, column, settings, ("pairwright.io.given",), common)
    if entry.local:
        work = partial(local_shard, recipe, folder, entry)
        return Step(
            name, tables, recipe.shards, lambda todo: over_shards(work, todo, workers=recipe.workers),
            settings, LOCAL_CODE, common,
        )  # fmt: skip
    kind = KINDS[entry.kind]
    facts = dict(kind.facts(entry.settings))
    # where its calls are stored: another setting, weight or code is another place
    place = f"{entry.kind}-{digest([entry.stored(), facts, code_digest(kind.code)])}"

    def called(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        calls = Calls(folder / "stages" / ".calls" / place, recipe.shards)
        stage = stages.score[entry.name]

        def read(shard: int) -> tuple[pl.DataFrame, pl.DataFrame]:
            return stages.prompts.read("prompts", shard), stages.sample.read("responses", shard)

        yield from rate_shards(works(entry, allow_variant=recipe.allow_variant), todo, read, calls, watch)
        stage.note(about=calls.about())

    code = ("pairwright.rating.works", "pairwright.rating.calls", *kind.code)
    return Step(name, tables, recipe.shards, called, settings, code, common, facts=facts)


LOCAL_CODE = (
    "pairwright.score.raters",
    "pairwright.score.rules",
    "pairwright.score.checks",
    "pairwright.score.facts",
)
PAIR_CODE = (
    "pairwright.core.positions",
    "pairwright.core.segments",
    "pairwright.core.rewards",
    "pairwright.score.combine",
    "pairwright.pair.rules",
    "pairwright.pair.build",
)
EXPORT_CODE = (
    "pairwright.export",
    "pairwright.io.trl",
    "pairwright.audit.run",
    "pairwright.report.page",
    "pairwright.report.html",
    "pairwright.report.raters",
    "pairwright.report.clean",
    "pairwright.report.select",
)


def _side_by_side(recipe: Recipe, folder: Path, stages: Folders) -> Step:
    """All raters beside each other: scores.parquet, one column each, and scores.json, what they say and share."""
    files = (folder / "scores.parquet", folder / "scores.json", folder / "scores_z.parquet")
    names = [entry.name for entry in recipe.score]

    def compare(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        columns = stages.columns
        side, parts, z_parts = SideBySide(columns), Parts(files[0]), Parts(files[2])
        for shard in range(recipe.shards):
            said, scores = stages.sample.read("responses", shard), stages.scores(shard)
            side.add(said, scores)
            asked = stages.prompts.read("prompts", shard).select("prompt_id", "prompt")
            wide = beside(said.join(asked, on="prompt_id", how="left", maintain_order="left"), scores, columns)
            parts.add(wide)
            z_parts.add(z_beside(wide, side.raters))
        more = _beside_scores(folder, stages)
        texts = {**PROMPTS.schema, **RESPONSES.schema}
        parts.close({name: texts[name] for name in TEXTS} | dict.fromkeys(columns, pl.Float64()))
        z_parts.close(
            {**dict.fromkeys(("prompt_id", "response_id"), pl.String()), **dict.fromkeys(side.raters, pl.Float64())}
        )
        about = {name: stage.record["about"] for name, stage in stages.score.items() if "about" in stage.record}
        facts = side.facts()
        facts["advice"] += [line for each in more["position"].values() for line in each.pop("advice")]
        facts["advice"] += [line for name, each in about.items() for line in proof(name, each)]
        write_json(files[1], {**facts, **more, "about": about})
        if recipe.pair is None:
            _scores_alone(recipe, folder, stages, {**facts, "about": about})
        for each in todo:
            yield each, {}

    code = ("pairwright.score.compare", "pairwright.score.judged", "pairwright.core.agreement", "pairwright.core.rewards",
            "pairwright.report.raters")  # fmt: skip
    return Step("scores", (), 1, compare, {"raters": names}, code, ("prompts", "sample", *_score_names(recipe)), files)


def _scores_alone(recipe: Recipe, folder: Path, stages: Folders, facts: Mapping[str, Any]) -> None:
    """What a run that ends with its scores leaves beside them: drops, manifest, page."""
    told = manifest(recipe, weights=weights_of(recipe), raters=facts["about"])
    held = [stages.prompts, stages.sample, *stages.score.values()]
    write_parquet(folder / "dropped.parquet", pl.concat([stage.read("dropped") for stage in held]))
    write_json(folder / "manifest.json", told)
    origin = [("inputs", json.dumps(told["inputs"])), ("settings", json.dumps(told["settings"]))]
    write_text(folder / "report.html", scores_page(facts, title=f"Scores: {recipe.source.name}", origin=origin))


def _beside_scores(folder: Path, stages: Folders) -> dict[str, dict[str, Any]]:
    """logps.parquet and comparisons.parquet where a rater made such tables; how place decided a judge's comparisons."""
    told: dict[str, dict[str, Any]] = {"position": {}, "logps": {}}
    for table in (LOGPS, COMPARISONS):
        held = {name: stage.read(table.name) for name, stage in stages.score.items() if table.name in stage.tables}
        held = {name: data for name, data in held.items() if data.height}
        if not held:
            (folder / f"{table.name}.parquet").unlink(missing_ok=True)
            continue
        whole = pl.concat(list(held.values())).unique(table.key, keep="first", maintain_order=True)
        write_parquet(folder / f"{table.name}.parquet", whole)
        if table is LOGPS:
            models = whole.group_by("model", "model_hash", "template_hash", maintain_order=True)
            told["logps"] = {"models": models.agg(rows=pl.len(), missing=pl.col("logp").null_count()).to_dicts()}
        else:
            told["position"] = {name: position_facts(data, name) for name, data in held.items()}
    return told


def _score_names(recipe: Recipe) -> list[str]:
    return [f"score-{entry.name}" for entry in recipe.score]


def _clean_step(recipe: Recipe, folder: Path, stages: Folders) -> Step:
    """All prompts at once: raters and models are compared over the whole of a run."""
    settings = recipe.clean
    assert settings is not None

    def cleaned(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        shards = range(recipe.shards)
        scores = pl.concat([stages.scores(shard) for shard in shards])
        responses, prompts = stages.sample.read("responses"), stages.prompts.read("prompts")
        held = [stage.read("comparisons") for stage in stages.score.values() if "comparisons" in stage.tables]
        evidence = evidence_of(scores, responses, pl.concat([empty(COMPARISONS), *held]), settings.raters)
        result = clean(evidence, settings)
        write_result(folder, result)
        if settings.apply == "safe" and recipe.reward:
            wanted = [name.removesuffix(".clean") for name in recipe.reward.raters if name.endswith(".clean")]
            same = found_in_order(result, scores, wanted)
            result = result._replace(scores=pl.concat([result.scores, same.select(result.scores.columns)]))
        shown = flagged(result, responses.select("prompt_id", "response_id", "response"), prompts)
        write_json(folder / "clean_page.json", finite(page_facts(result.facts, shown)))
        parts = [(data, after.shards_of(data, recipe.shards)) for data in (result.scores, result.proposals)]
        for shard in todo:
            mine = [data.filter(of == shard) for data, of in parts]
            yield shard, {**with_drops(mine[0]), "proposals": mine[1]}

    code = ("pairwright.clean.run", "pairwright.clean.identify", "pairwright.clean.comparisons", "pairwright.clean.matrix",
            "pairwright.clean.judges", "pairwright.clean.evidence", "pairwright.core.robust", "pairwright.core.twoway",
            "pairwright.core.lowrank", "pairwright.core.completion", "pairwright.core.lad", "pairwright.core.newton",
            "pairwright.core.noise", "pairwright.core.dawid_skene", "pairwright.cleaning")  # fmt: skip
    files = tuple(folder / name for name in ("proposals.parquet", "soft.parquet", "clean.json", "clean_page.json"))
    reads = ("prompts", "sample", *_score_names(recipe))
    return Step("clean", (SCORES, PROPOSALS), recipe.shards, cleaned, asdict(settings), code, reads, files)


def _pair_step(recipe: Recipe, folder: Path, stages: Folders) -> Step:
    assert recipe.pair is not None
    reward = recipe.reward
    assert reward is not None
    work = partial(pair_shard, recipe, folder)

    def pairs(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        made = [*stages.columns]
        for shard in range(recipe.shards) if recipe.clean else ():
            made += stages.clean.read("scores", shard)["rater"].unique().to_list()
        if absent := [name for name in reward.raters if "." in name and name not in made]:
            raise ConfigError(f"[pair] nothing made the score {absent[0]!r}; there are {', '.join(sorted(set(made)))}")
        return over_shards(work, todo, workers=recipe.workers)

    reads = ("prompts", "sample", *(f"score-{name}" for name in _deciding(recipe)), *["clean"] * bool(recipe.clean))
    return Step(
        "pair", (PAIRS, PROMPT_STATS), recipe.shards, pairs,
        {**asdict(recipe.pair), "reward": asdict(reward)}, PAIR_CODE, reads,
    )  # fmt: skip


def _export_step(recipe: Recipe, folder: Path, stages: Folders) -> Step:
    names = ["pairs.parquet", "candidates.parquet", "dropped.parquet", "ledger.json", "report.html", "README.md"]
    names += ["pairs.jsonl"] * recipe.export.jsonl + ["pairs_soft.parquet"] * bool(recipe.clean)
    selected = ["select"] * bool(recipe.select)

    def export(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        scored = read_json(folder / "scores.json")
        if recipe.clean:
            scored["clean"] = read_json(folder / "clean_page.json")
        if recipe.select:
            scored["select"] = read_json(folder / "select.json")
        else:
            after.forget_selection(folder)
        told = manifest(recipe, weights=weights_of(recipe), raters=scored["about"])  # type: ignore[arg-type]
        assert recipe.pair is not None
        assert recipe.reward is not None
        export_run(folder, recipe.export, recipe.pair, recipe.reward, stages, told, scored)
        if recipe.clean:
            strengths = stages.clean.read("scores").filter(pl.col("rater").str.ends_with(".bt"))
            soft = pl.read_parquet(folder / "soft.parquet")
            paired = (stages.select if recipe.select else stages.pair).read("pairs")
            write_parquet(folder / "pairs_soft.parquet", soft_pairs(paired, soft, strengths))
        for each in todo:
            yield each, {}

    reads = ("prompts", "sample", *_score_names(recipe), "scores", "pair", *selected)
    return Step(
        "export", (), 1, export, asdict(recipe.export), EXPORT_CODE, reads, tuple(folder / name for name in names)
    )
