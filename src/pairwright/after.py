"""The steps of a run that come after its pairs: seed models, selection, training."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import polars as pl

from pairwright.errors import ConfigError
from pairwright.io.trl import trl_rows
from pairwright.manifest import versions
from pairwright.pipeline import Frames, Step, Watch
from pairwright.recipe import Recipe
from pairwright.selecting import forget_seeds, select_run
from pairwright.store import Stage, digest, shard_of, write_json, write_parquet
from pairwright.tables import PAIRS
from pairwright.training.run import Job, train

SELECT_CODE = (
    "pairwright.selecting", "pairwright.select.run", "pairwright.select.settings", "pairwright.select.pool",
    "pairwright.select.rank", "pairwright.select.rules", "pairwright.select.margins", "pairwright.select.near",
    "pairwright.select.controls", "pairwright.select.facts", "pairwright.core.margins", "pairwright.core.bands",
    "pairwright.core.overlap", "pairwright.core.flips", "pairwright.core.ranking",
)  # fmt: skip
SEED_CODE = (
    "pairwright.train.crossfit",
    "pairwright.core.influence",
    "pairwright.backends.gradients",
    "pairwright.train.trl",
)
TRAIN_CODE = (
    "pairwright.training.run", "pairwright.training.rows", "pairwright.train.runner", "pairwright.train.trl",
    "pairwright.train.batch", "pairwright.train.check", "pairwright.train.guard", "pairwright.train.routing",
    "pairwright.train.conditioning", "pairwright.train.stages", "pairwright.train.schedule", "pairwright.core.losses",
    "pairwright.core.rating_losses", "pairwright.core.pair_terms", "pairwright.report.train",
)  # fmt: skip
SELECTED = ("selection.parquet", "selected_controls.parquet", "select.json")
SEEDED = "seed_models.parquet"  # margins and losses of seed models, beside the run


class Stages(Protocol):
    """The stage folders that these steps read."""

    @property
    def prompts(self) -> Stage: ...
    @property
    def sample(self) -> Stage: ...
    @property
    def pair(self) -> Stage: ...
    def scores(self, shard: int, /) -> pl.DataFrame: ...


def select_steps(recipe: Recipe, folder: Path, stages: Stages) -> list[Step]:
    """Seed models where the selection asks for them, then the selection over all pairs of the run."""
    asked = recipe.select
    assert asked is not None
    names = tuple(f"score-{entry.name}" for entry in recipe.score)
    seeded = [_seed_step(recipe, folder, stages)] if asked.implicit else []
    numbers = [folder / SEEDED] if asked.implicit else []

    def selected(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        pairs = _with_lengths(stages.pair.read("pairs"), stages.sample.read("responses"))
        scores = pl.concat([stages.scores(shard) for shard in range(recipe.shards)])
        if asked.implicit and "implicit" in scores["rater"].unique():
            raise ConfigError("[select] a rater is called implicit and seed models make that margin too; leave out one")
        made = select_run(folder, pairs, _rows(stages), scores, numbers, asked.rule)
        write_json(folder / "select.json", made.facts)
        parts = [
            (data, shards_of(data, recipe.shards)) for data in (made.kept.select(PAIRS.columns.keys()), made.dropped)
        ]
        for shard in todo:
            kept, dropped = (data.filter(of == shard) for data, of in parts)
            yield shard, {"pairs": kept, "dropped": dropped}

    files = tuple(folder / name for name in SELECTED)
    reads = ("prompts", "sample", *names, "pair", *["seed_models"] * len(seeded))
    step = Step("select", (PAIRS,), recipe.shards, selected, asdict(asked.rule), SELECT_CODE, reads, files)
    return [*seeded, step]


def forget_selection(folder: Path) -> None:
    """What an earlier recipe selected no longer stands beside pairs that nothing was selected from."""
    forget_seeds(folder)
    for name in SELECTED:
        (folder / name).unlink(missing_ok=True)
    for old in (folder / "controls").glob("random-*.parquet"):
        old.unlink()


def _seed_step(recipe: Recipe, folder: Path, stages: Stages) -> Step:
    """Seed models, each of which scores the pairs that it did not see."""
    assert recipe.select is not None
    settings = recipe.select.implicit
    assert settings is not None

    def fitted(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        from pairwright.train.crossfit import cross_fit, hash_of

        rows = _rows(stages)
        place = digest([asdict(settings), hash_of(rows, ordered=True)])  # other pairs are scored by other models
        found = cross_fit(rows, settings, folder / "stages" / ".seed_models" / place)
        write_parquet(folder / SEEDED, found.frame)
        write_json(folder / "seed_models.json", found.about)
        for each in todo:
            yield each, {}

    from pairwright.backends.hf import model_hash

    facts = {"model": model_hash(settings.model)}
    files = (folder / SEEDED, folder / "seed_models.json")
    reads = ("prompts", "sample", "pair")
    return Step("seed_models", (), 1, fitted, asdict(settings), SEED_CODE, reads, files, facts)


def _rows(stages: Stages) -> pl.DataFrame:
    """All pairs of the run with their texts and ids."""
    asked = stages.prompts.read("prompts").select("prompt_id", "prompt")
    said = stages.sample.read("responses").join(asked, on="prompt_id", how="left", maintain_order="left")
    pairs = stages.pair.read("pairs")
    return trl_rows(pairs, said).with_columns(pairs["chosen_id"], pairs["rejected_id"])


def _with_lengths(pairs: pl.DataFrame, responses: pl.DataFrame) -> pl.DataFrame:
    """n_tokens_chosen and n_tokens_rejected, as the sampler counted them."""
    for side in ("chosen", "rejected"):
        held = responses.select(
            "prompt_id", pl.col("response_id").alias(f"{side}_id"), pl.col("n_tokens").alias(f"n_tokens_{side}")
        )
        pairs = pairs.join(held, on=["prompt_id", f"{side}_id"], how="left", maintain_order="left")
    return pairs


def shards_of(rows: pl.DataFrame, shards: int) -> pl.Series:
    """The shard of each row, by its prompt."""
    return rows["prompt_id"].map_elements(lambda each: shard_of(each, shards), return_dtype=pl.Int64)


def train_step(recipe: Recipe, folder: Path, watch: Watch) -> Step:
    """A policy from the exported pairs, into the folder train of the run."""
    plan = recipe.train
    assert plan is not None
    out = folder / "train"

    def trained(todo: list[int]) -> Iterator[tuple[int, Frames]]:
        train(Job(folder, out, versions=versions()), plan, watch)
        for each in todo:
            yield each, {}

    from pairwright.backends.hf import model_hash

    facts = {"model": model_hash(plan.training.model)}
    files = (out / "train.json", out / "report.html", out / "model")
    return Step("train", (), 1, trained, plan.told(), TRAIN_CODE, ("export",), files, facts)
