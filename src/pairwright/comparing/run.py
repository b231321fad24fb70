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
from scipy import stats

from pairwright.backends.plain import trainable
from pairwright.comparing.answers import Policy, answers, engine, write_prompts
from pairwright.comparing.arms import Arm, Evaluation, Read, base_of, check_arms, same_budget, with_controls
from pairwright.comparing.results import BASE, Table, results
from pairwright.errors import ConfigError, DataError
from pairwright.io.pair_files import read_pairs
from pairwright.io.prompts import read_prompts
from pairwright.pipeline import SILENT, Watch
from pairwright.pipeline import run as run_steps
from pairwright.recipe import KEYS, Asked
from pairwright.report.compare import page_of
from pairwright.store import read_json, write_json, write_parquet, write_text
from pairwright.tables import canonical_json
from pairwright.train.conditioning import evaluation_prompts
from pairwright.training.plan import TrainPlan
from pairwright.training.run import Job, digest_of, selected, train
from pairwright.wiring import read_recipe, steps

FEW_SEEDS = 8  # below which the page says how narrow a bootstrap over seeds is


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
    check_arms(arms, asked.evaluation)
    batch, base = same_budget(arms), base_of(arms)
    plain = trainable(base)
    by_seed = {arm.name: [_kept(arm, seed, asked) for seed in asked.evaluation.seeds] for arm in arms}
    pairs = {name: each[0] for name, each in by_seed.items()}
    budget = asked.evaluation.steps or max(math.ceil(_rows(arm, pairs[arm.name].height) / batch) for arm in arms)
    if asked.evaluation.checkpoints > budget:
        raise ConfigError(
            f"{asked.evaluation.checkpoints} checkpoints of {budget} steps; lower checkpoints, or give steps"
        )
    prompts, lost = _held_out(Path(asked.evaluation.prompts), [rows for each in by_seed.values() for rows in each])
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
        "left_out": lost, "rater_made_pairs": used, "notes": _notes(arms, asked, used, lost, prompts.height) + _starved(trained),
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


def _source(arm: Arm, seed: int, seeds: Sequence[int]) -> Path:
    return arm.subsets[list(seeds).index(seed)] if arm.kind == "random" and arm.subsets else arm.source


def _plan(arm: Arm, seed: int) -> TrainPlan:
    """A random control selects anew for each seed."""
    if arm.kind != "random" or arm.plan.select is None:
        return arm.plan
    return replace(arm.plan, select=replace(arm.plan.select, seed=seed))


def _kept(arm: Arm, seed: int, asked: Comparison) -> pl.DataFrame:
    """The pairs of an arm for a seed after its selection: how many there are, and which prompts they are of."""
    source = _source(arm, seed, asked.evaluation.seeds)
    rows = read_pairs(source, scratch=asked.out / "arms" / arm.name.replace("/", "--"), layout=arm.layout).rows
    return selected(rows, _plan(arm, seed))[0]


def _rows(arm: Arm, pairs: int) -> int:
    """A conditioned pair is two rows."""
    condition = arm.plan.condition
    return 2 * pairs if condition is not None and not condition.relabelling.half else pairs


def _held_out(path: Path, pairs: Sequence[pl.DataFrame]) -> tuple[pl.DataFrame, int]:
    """The prompts that no arm is trained on with any seed, and how many were left out because one is."""
    prompts = read_prompts(path).kept
    seen = {canonical_json(prompt) for rows in pairs for prompt in rows["prompt"].to_list()}
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
        plan = replace(_plan(arm, seed), training=replace(arm.plan.training, trl={**arm.plan.training.trl, **keys}))
        job = Job(_source(arm, seed, told.seeds), out, arm.layout, versions=asked.versions)
        if not (out / "train.json").is_file() or read_json(out / "train.json").get("plan") != digest_of(job, plan):
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
    tagged = next((each.arm for each in trained if each.arm.plan.condition), None)
    for level in ("high", "low"):  # what the goal alone does, before training
        if tagged is None:
            break
        file = _conditioned(tagged, prompts, level, folder / BASE)
        made = answers(base, file, asked.evaluation, folder / BASE / level, backend=backend, watch=watch)
        parts.append(_named(made, BASE, -1, 0, level))
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
    return (free[0], False) if free else (raters[0], raters[0] in made)


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


def _notes(arms: Sequence[Arm], asked: Comparison, used: bool, lost: int, prompts: int) -> list[str]:
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
    if any(arm.plan.condition for arm in arms):
        notes.append(
            "Conditioned arms are asked with the highest goal, the base without; base with a goal is under the levels."
        )
    seeds = len(asked.evaluation.seeds)
    if seeds == 1:
        notes.append("One training seed: the intervals are over prompts alone, another run may differ more.")
    elif seeds < FEW_SEEDS:
        held = 1 - 2 * stats.t.sf(1.96, seeds - 1)
        notes.append(
            f"With {seeds} training seeds an interval holds its value in about {held:.0%} of cases, not 95 %, where runs differ "
            "more than prompts do: train with more seeds."
        )
    if prompts == 1:
        notes.append("One held-out prompt: the intervals say nothing about other prompts.")
    return notes


def _starved(trained: Sequence[_Trained]) -> list[str]:
    """Routed arms whose sft pairs got next to nothing of the learning rate within the budget."""
    told = []
    for each in trained:
        spent = read_json(Path(each.checkpoints[-1]).parent / "train.json")["lr_spent"]
        share = spent.get("sft", {"lr_share": 1.0, "data_share": 0.0})  # type: ignore[attr-defined]
        if share["lr_share"] < share["data_share"] / 3:
            told.append(
                f"{each.arm.name}: sft pairs got {share['lr_share']:.1%} of the learning rate within the budget."
            )
    return list(dict.fromkeys(told))


def _write(asked: Comparison, facts: dict[str, Any], rows: pl.DataFrame) -> None:
    write_parquet(asked.out / "answers.parquet", rows)
    write_json(asked.out / "compare.json", {**(asked.versions or {}), **facts})
    origin = [("recipes", ", ".join(each.name for each in asked.read)), ("prompts", asked.evaluation.prompts)]
    write_text(asked.out / "report.html", page_of(facts, title="Recipes compared", origin=origin))
