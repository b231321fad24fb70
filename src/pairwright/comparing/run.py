"""A comparison from recipes to a page: runs, arms, seeds, answers, numbers. What is done already is not done again.

OUT/runs/NAME/              a recipe that begins with prompts or candidates
OUT/arms/NAME/seed-S/       each policy, as `pairwright train` leaves it
OUT/answers/...             draws, scores and KL of each policy on the held-out prompts
OUT/answers.parquet         all of them; compare.json the numbers, report.html the table and the plot
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from pairwright.backends.plain import trainable
from pairwright.comparing.answers import Policy, answers, engine, write_prompts
from pairwright.comparing.arms import Arm, Evaluation, Read, base_of, same_budget, with_controls
from pairwright.comparing.results import BASE, Table, results
from pairwright.errors import ConfigError, DataError
from pairwright.io.pair_files import pairs_file, read_pairs
from pairwright.io.prompts import read_prompts
from pairwright.pipeline import SILENT, Watch
from pairwright.pipeline import run as run_steps
from pairwright.recipe import KEYS, Asked
from pairwright.report.compare import page_of
from pairwright.store import digest, file_hash, read_json, write_json, write_parquet, write_text
from pairwright.tables import canonical_json
from pairwright.train.conditioning import evaluation_prompts
from pairwright.training.run import Job, train
from pairwright.wiring import read_recipe, steps


@dataclass(frozen=True)
class Comparison:
    """What is compared, into which folder; `controls` off leaves the claims without their controls."""

    read: Sequence[Read]
    evaluation: Evaluation
    out: Path
    controls: bool = True
    versions: Mapping[str, object] | None = None


@dataclass(frozen=True)
class _Trained:
    """An arm of one seed: its folder, and where each checkpoint is, the last being the model."""

    arm: Arm
    seed: int
    checkpoints: list[str]


def compare(asked: Comparison, watch: Watch = SILENT) -> dict[str, Any]:
    """Runs, trains and evaluates what is not there yet; writes and returns the facts."""
    arms = [arm for read in asked.read for arm in _arms(read, asked, watch)]
    batch, base = same_budget(arms), base_of(arms)
    plain = trainable(base)
    pairs = {arm.name: _kept(arm, asked.out) for arm in arms}
    budget = asked.evaluation.steps or max(math.ceil(n / batch) for n in (each.height for each in pairs.values()))
    prompts, lost = _held_out(Path(asked.evaluation.prompts), pairs)
    trained = [each for arm in arms for each in _train(arm, asked, budget, watch)]
    backend = engine(asked.evaluation.backend, base)
    rows = _answers(asked, trained, Policy(base, plain), prompts, backend, watch)
    rater, used = _decider(rows, asked.read, asked.evaluation.decide)
    table = Table(rows, rater, asked.evaluation.seeds, asked.evaluation.checkpoints)
    told = [_about(arm, pairs[arm.name].height, budget) for arm in arms]
    facts = {
        **results(table, told),
        "base": base, "steps": budget, "pairs_per_step": batch, "draws": asked.evaluation.n, "backend": backend,
        "max_tokens": asked.evaluation.max_tokens, "checkpoints": asked.evaluation.checkpoints,
        "left_out": lost, "rater_made_pairs": used, "notes": _notes(arms, asked, used, lost),
    }  # fmt: skip
    _write(asked, facts, rows)
    return facts


def _arms(read: Read, asked: Comparison, watch: Watch) -> Iterator[Arm]:
    """The recipe as an arm with its controls; a recipe from prompts is run first."""
    plan, layout = read.plan(), read.table.get("layout")
    if not read.whole:
        source = (read.folder / str(read.table["pairs"])).resolve()
        arm = Arm(read.name, plan, source, layout=layout)
    else:
        folder = asked.out / "runs" / read.name
        recipe = read_recipe(_run_file(read, folder), Asked())
        run_steps(folder, steps(recipe, folder, watch))
        subsets = tuple(sorted((folder / "controls").glob("random-*.parquet")))
        arm = Arm(read.name, replace(plan, select=None), folder, subsets=subsets)
    yield from with_controls(arm) if asked.controls else [arm]


def _run_file(read: Read, folder: Path) -> Path:
    """The part of a recipe that makes pairs, as a recipe of its own; its paths made whole."""
    table = {
        key: value for key, value in read.table.items() if key in KEYS and key not in ("train", "route", "condition")
    }
    for key in ("prompts", "candidates"):
        if isinstance(table.get(key), str):
            table[key] = str((read.folder / str(table[key])).resolve())
    write_text(folder / "recipe.yaml", canonical_json(table))
    return folder / "recipe.yaml"


def _source(arm: Arm, seed: int) -> Path:
    return arm.subsets[seed % len(arm.subsets)] if arm.kind == "random" and arm.subsets else arm.source


def _kept(arm: Arm, out: Path) -> pl.DataFrame:
    """The pairs of an arm after its selection: how many there are, and which prompts they are of."""
    from pairwright.training.run import selected

    rows = read_pairs(_source(arm, 0), scratch=out / "arms" / arm.name, layout=arm.layout).rows
    return selected(rows, arm.plan)[0]


def _held_out(path: Path, pairs: Mapping[str, pl.DataFrame]) -> tuple[pl.DataFrame, int]:
    """The prompts that no arm was trained on, and how many were left out because one was."""
    prompts = read_prompts(path).kept
    seen = {canonical_json(prompt) for rows in pairs.values() for prompt in rows["prompt"].to_list()}
    fresh = pl.Series([canonical_json(prompt) not in seen for prompt in prompts["prompt"].to_list()], dtype=pl.Boolean)
    kept = prompts.filter(fresh)
    if not kept.height:
        raise DataError(f"{path}: all {prompts.height} prompts are among the training pairs; hold other prompts out")
    return kept, prompts.height - kept.height


def _train(arm: Arm, asked: Comparison, budget: int, watch: Watch) -> Iterator[_Trained]:
    """One policy per seed, with checkpoints; one that is there with the same settings is kept."""
    told = asked.evaluation
    each = max(1, budget // told.checkpoints)
    for seed in told.seeds:
        out = asked.out / "arms" / arm.name.replace("/", "--") / f"seed-{seed}"
        keys = {
            "max_steps": budget,
            "seed": seed,
            "save_strategy": "steps",
            "save_steps": each,
            "save_only_model": True,
        }
        plan = replace(arm.plan, training=replace(arm.plan.training, trl={**arm.plan.training.trl, **keys}))
        if arm.kind == "random" and plan.select is not None:
            plan = replace(plan, select=replace(plan.select, seed=seed))
        job = Job(_source(arm, seed), out, arm.layout, versions=asked.versions)
        of = digest([plan.told(), file_hash(pairs_file(job.source))])
        if not (out / "train.json").is_file() or read_json(out / "checkpoints" / "plan.json") != {"plan": of}:
            train(job, plan, watch)
        points = [str(out / "checkpoints" / f"checkpoint-{each * k}") for k in range(1, told.checkpoints)]
        yield _Trained(arm, seed, [*points, str(out / "model")])


def _levels(arm: Arm) -> dict[str, str]:
    """The prompts that an arm is asked with: conditioned ones with a high goal, a low one and none."""
    return {"high": "high", "low": "low", "none": "none"} if arm.plan.condition else {"none": "none"}


def _answers(
    asked: Comparison, trained: Sequence[_Trained], base: Policy, prompts: pl.DataFrame, backend: str, watch: Watch
) -> pl.DataFrame:
    folder = asked.out / "answers"
    plain = write_prompts(folder / "prompts.parquet", prompts)
    parts = [
        _named(answers(base, plain, asked.evaluation, folder / BASE, backend=backend, watch=watch), BASE, -1, 0, "none")
    ]
    for each in trained:
        name = each.arm.name.replace("/", "--")
        for level in _levels(each.arm):
            file = plain if each.arm.plan.condition is None else _conditioned(each.arm, prompts, level, folder / name)
            points = (
                enumerate(each.checkpoints, start=1)
                if level == _main_level(each.arm)
                else [(len(each.checkpoints), each.checkpoints[-1])]
            )
            for at, where in points:
                place = folder / name / f"seed-{each.seed}" / f"{level}-{at}"
                policy = replace(base, trained=where)
                made = answers(policy, file, asked.evaluation, place, backend=backend, watch=watch)
                parts.append(_named(made, each.arm.name, each.seed, at, level))
    return pl.concat(parts, how="diagonal")


def _main_level(arm: Arm) -> str:
    return "high" if arm.plan.condition else "none"


def _conditioned(arm: Arm, prompts: pl.DataFrame, level: str, folder: Path) -> Path:
    """The prompts with the goal of a level in them."""
    assert arm.plan.condition is not None
    split = evaluation_prompts(prompts, arm.plan.condition.tag)
    return write_prompts(folder / f"{level}.parquet", split.kept.filter(pl.col("level") == level))


def _named(rows: pl.DataFrame, arm: str, seed: int, checkpoint: int, level: str) -> pl.DataFrame:
    head = {"arm": pl.lit(arm), "seed": pl.lit(seed), "checkpoint": pl.lit(checkpoint), "level": pl.lit(level)}
    return rows.select(**head, **{name: name for name in rows.columns})


def _decider(rows: pl.DataFrame, read: Sequence[Read], decide: str | None) -> tuple[str, bool]:
    """The rater that is named, else the first that made no pair, else the first; and whether it made pairs."""
    raters = Table(rows, "", (), 0).raters
    if not raters:
        raise DataError("no rater said anything about the answers; name one under evaluate.score")
    made = {name for each in read for name in _made_pairs(each)}
    if decide is not None:
        if decide not in raters:
            raise ConfigError(f"[evaluate] decide {decide!r} is not one of the raters: {', '.join(raters)}")
        return decide, decide in made
    free = [name for name in raters if name not in made and each_varies(rows, name)]
    return (free[0], False) if free else (raters[0], True)


def _made_pairs(read: Read) -> set[str]:
    """The raters whose scores made the pairs of a recipe, as far as it, or the run that it reads, says so."""
    pair: Any = read.table.get("pair")
    if not read.whole:
        manifest = read.folder / str(read.table["pairs"]) / "manifest.json"
        told: Any = read_json(manifest) if manifest.is_file() else {}
        pair = pair or told.get("settings", {}).get("pair")
    reward = pair.get("reward") if isinstance(pair, Mapping) else None
    if isinstance(reward, Mapping):
        reward = list(reward.get("raters", {}))
    return {reward} if isinstance(reward, str) else set(reward or ())


def each_varies(rows: pl.DataFrame, name: str) -> bool:
    """Whether a rater tells any two answers apart."""
    return rows[name].n_unique() > 1


def _about(arm: Arm, kept: int, budget: int) -> dict[str, Any]:
    training = arm.plan.training
    levels = list(_levels(arm)) if arm.plan.condition else []
    return {
        "name": arm.name, "kind": arm.kind, "of": arm.of, "note": arm.note, "level": _main_level(arm), "levels": levels,
        "loss": training.loss, "beta": training.beta, "pairs": kept, "steps": budget,
    }  # fmt: skip


def _notes(arms: Sequence[Arm], asked: Comparison, used: bool, lost: int) -> list[str]:
    notes = []
    if used:
        notes.append("The deciding rater made the pairs too: a policy that pleases it need not be better.")
    if lost:
        notes.append(f"{lost} prompts are among the training pairs of an arm and were left out.")
    for arm in arms:
        if (
            asked.controls
            and arm.kind == "recipe"
            and not any(each.of == arm.name and each.kind == "random" for each in arms)
        ):
            notes.append(f"{arm.name} selects nothing: a random subset of the same size is the arm itself.")
    if len(asked.evaluation.seeds) == 1:
        notes.append("One training seed: the intervals are over prompts alone, another run may differ more.")
    return notes


def _write(asked: Comparison, facts: dict[str, Any], rows: pl.DataFrame) -> None:
    write_parquet(asked.out / "answers.parquet", rows)
    write_json(asked.out / "compare.json", {**(asked.versions or {}), **facts})
    origin = [("recipes", ", ".join(each.name for each in asked.read)), ("prompts", asked.evaluation.prompts)]
    write_text(asked.out / "report.html", page_of(facts, title="Recipes compared", origin=origin))
