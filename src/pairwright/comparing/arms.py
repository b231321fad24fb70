"""Arms of a comparison out of recipes: each recipe, and the controls that it owes an answer to.

pairs: runs/mine          a run folder or a file of pairs; or a whole recipe, which is run first
select, condition, route, train     as `pairwright train` reads them
evaluate: {prompts: held_out.jsonl, n: 4, score: [{rater: rules}], seeds: [0, 1]}     in the first recipe
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pairwright.core.losses import NEEDS
from pairwright.core.rating_losses import effective_beta
from pairwright.errors import ConfigError
from pairwright.recipe import KEYS
from pairwright.settings import from_table, read_yaml
from pairwright.training.plan import SECTIONS, TrainPlan, plan_of

Kind = Literal["recipe", "random", "dpo", "route"]
OWN = ("pairs", "layout", "evaluate", *SECTIONS)


@dataclass(frozen=True)
class Evaluation:
    """How policies are compared. `score` are raters as in a recipe; `decide` names one, else the first that made no pair does.

    n draws per prompt at temperature 1 without a cut, so that KL is that of the policy. `steps` is the budget of every
    arm, one pass over the largest by default; `checkpoints` of them are evaluated. `seeds` are of training.
    """

    prompts: str
    score: list[Any] = field(default_factory=lambda: ["rules"])
    n: int = 4
    max_tokens: int = 256
    seeds: tuple[int, ...] = (0, 1)
    steps: int | None = None
    checkpoints: int = 2
    backend: Literal["auto", "openvino", "transformers"] = "auto"
    decide: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1 or self.checkpoints < 1 or (self.steps is not None and self.steps < 1):
            raise ConfigError("n, max_tokens, steps and checkpoints count from 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds are one or more different numbers, not {list(self.seeds)}")
        if not self.score:
            raise ConfigError("score names at least one rater")
        if self.steps is not None and self.checkpoints > self.steps:
            raise ConfigError(
                f"{self.checkpoints} checkpoints of {self.steps} steps: there are fewer steps than checkpoints"
            )


@dataclass(frozen=True)
class Arm:
    """One policy that is trained once per seed. A control is of a recipe, and says what it holds fixed."""

    name: str
    plan: TrainPlan
    source: Path
    kind: Kind = "recipe"
    of: str = ""
    note: str = ""
    layout: str | None = None
    subsets: tuple[Path, ...] = ()  # of the random control of a run: one file per seed


@dataclass(frozen=True)
class Read:
    """A recipe file of a comparison, before anything is run."""

    name: str
    table: Mapping[str, Any]
    folder: Path

    @property
    def whole(self) -> bool:
        """It is a run that starts from prompts or candidates."""
        return "pairs" not in self.table

    def plan(self) -> TrainPlan:
        return plan_of(self.table, folder=self.folder)


def read_files(paths: Sequence[Path], changes: Mapping[str, object]) -> tuple[list[Read], Evaluation]:
    """The recipes and the evaluation that they share; ConfigError where two say different things of it."""
    if not paths:
        raise ConfigError("name at least one recipe")
    names = [path.stem for path in paths]
    if again := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two recipes are called {again[0]}; their names are those of their files")
    read = [_read(path) for path in paths]
    told = [dict(each.table["evaluate"]) for each in read if "evaluate" in each.table]
    evaluate = told[0] if told else {}
    if other := [each for each in told if each != evaluate]:
        raise ConfigError(f"the recipes are evaluated in different ways: {evaluate} and {other[0]}")
    evaluate |= {key.removeprefix("evaluate."): value for key, value in changes.items()}
    at = read[0].folder
    if isinstance(evaluate.get("score"), list):
        evaluate["score"] = [_placed(each, at) for each in evaluate["score"]]
    made = from_table(Evaluation, evaluate, where="evaluate")
    prompts = Path(made.prompts)
    return read, replace(
        made, prompts=str(prompts if prompts.is_absolute() or not (at / prompts).exists() else at / prompts)
    )


def _placed(entry: Any, folder: Path) -> Any:
    """A rater of the user's own, FILE.py:FUNCTION, is beside the recipe."""
    if isinstance(entry, Mapping) and isinstance(entry.get("rater"), str):
        return {**entry, "rater": _placed(entry["rater"], folder)}
    if isinstance(entry, str) and ".py:" in entry and (folder / entry.rpartition(":")[0]).exists():
        return str((folder / entry.rpartition(":")[0]).resolve()) + ":" + entry.rpartition(":")[2]
    return entry


def _read(path: Path) -> Read:
    table = read_yaml(path)
    known = (*OWN, *KEYS)
    if unknown := [key for key in table if key not in known]:
        raise ConfigError(f"[{path}] unknown: {', '.join(map(str, unknown))}; known: {', '.join(dict.fromkeys(known))}")
    if "pairs" in table and (both := [key for key in ("prompts", "candidates", "sample", "pair") if key in table]):
        raise ConfigError(f"[{path}] has pairs and {both[0]}: pairs exist already, or are made by the recipe")
    if "train" not in table:
        raise ConfigError(f"[{path}] lacks: train; what is compared is trained")
    return Read(path.stem, table, path.parent)


def with_controls(arm: Arm) -> list[Arm]:
    """The arm, a random subset of the same size where it selects, plain DPO as near to the reference where it reads scores."""
    arms = [arm]
    training = arm.plan.training
    if arm.plan.select is not None:
        select = replace(arm.plan.select, rule="random")
        note = "as many pairs, drawn at random anew for each seed"
        arms.append(
            Arm(
                f"{arm.name}/random", replace(arm.plan, select=select), arm.source, "random", arm.name, note, arm.layout
            )
        )
    elif arm.subsets:
        note = "as many pairs of the run, drawn at random anew for each seed"
        arms.append(replace(arm, name=f"{arm.name}/random", kind="random", of=arm.name, note=note))
    if arm.plan.route is not None and arm.plan.route.routing.to_sft == "hardest":
        route = replace(arm.plan.route, routing=replace(arm.plan.route.routing, to_sft="random"))
        control = replace(arm, plan=replace(arm.plan, route=route), kind="route", of=arm.name)
        arms.append(replace(control, name=f"{arm.name}/random-route", note="as many pairs to sft, drawn at random"))
    if {"gap", "margin"} & {*NEEDS[training.loss]}:
        beta1 = training.loss_settings.get("beta1")
        beta = training.beta if beta1 is None else effective_beta(training.beta, beta1=float(beta1))
        options = {key: value for key, value in training.options.items() if key not in ("gap", "rating_scale")}
        plain = replace(training, loss="dpo", loss_settings={}, beta=beta, options=options)
        why = f"plain dpo at beta {beta:.4g}" + (", the effective beta of the ratings" if beta1 is not None else "")
        control = Arm(
            f"{arm.name}/dpo", replace(arm.plan, training=plain), arm.source, "dpo", arm.name, why, arm.layout
        )
        arms.append(replace(control, subsets=()))
    return arms


def check_arms(arms: Sequence[Arm], evaluation: Evaluation) -> None:
    """What would be found only after the training; ConfigError names it before."""
    for arm in arms:
        if arm.plan.training.guard.action == "stop":
            raise ConfigError(
                f"{arm.name}: guard.action stop would end an arm early, and its budget with it; take warn"
            )
        if arm.kind == "random" and arm.subsets and len(arm.subsets) < len(evaluation.seeds):
            raise ConfigError(
                f"{arm.name}: the run has {len(arm.subsets)} random subsets and there are {len(evaluation.seeds)} seeds; set "
                "select.controls.n, so that each seed has one of its own"
            )


def same_budget(arms: Sequence[Arm]) -> int:
    """Pairs per step, which must be the same for all; ConfigError that names two that differ."""
    sizes = {arm.name: _batch(arm.plan.training.trl) for arm in arms}
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"arms of different batches cannot have the same budget: {', '.join(f'{k} {v}' for k, v in sizes.items())}; set "
            "per_device_train_batch_size and gradient_accumulation_steps alike"
        )
    return next(iter(sizes.values()))


def _batch(trl: Mapping[str, Any]) -> int:
    return int(trl.get("per_device_train_batch_size", 8)) * int(trl.get("gradient_accumulation_steps", 1))


def base_of(arms: Sequence[Arm]) -> str:
    """The model that all arms start from."""
    models = dict.fromkeys(arm.plan.training.model for arm in arms)
    if len(models) > 1:
        raise ConfigError(f"the recipes train different models ({', '.join(models)}): KL and rewards are of one base")
    return next(iter(models))
