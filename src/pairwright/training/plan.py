"""The training sections of a recipe, or a file of them alone: train, route, condition, select.

    train: {model: FOLDER, loss: ml_rdpo, beta: 0.1, variance: 1.0, lora: {r: 16}, trl: {learning_rate: 5.0e-7}}
    route: {hardest: 0.1, to: sft}
    condition: {scale: [1, 10], on_conflict: drop}

A file without the key `train` is that section itself. A setting of the loss stands beside its name.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairwright.core.losses import LOSSES
from pairwright.errors import ConfigError
from pairwright.select.run import Selection
from pairwright.settings import from_table, read_yaml
from pairwright.train.conditioning import Relabelling, Tag
from pairwright.train.guard import GuardSettings
from pairwright.train.routing import Difficulty, Routing
from pairwright.train.settings import LORA, OPTIONS, Condition, Route, Training

SECTIONS = ("select", "condition", "route", "train")
OTHERS = (  # sections of a whole recipe that are about something else
    "prompts", "candidates", "pairs", "layout", "shards", "workers", "sample", "score", "clean", "pair", "export", "evaluate",
)  # fmt: skip
_PLAIN = ("model", "loss", "beta", "lora", "reference", "hold_out", "negative_gaps", "guard", "trl")
_SHARES = ("hardest", "easiest", "random")  # route: {hardest: 0.1} is to_sft: hardest, share: 0.1


@dataclass(frozen=True)
class TrainPlan:
    """What becomes of pairs before and in training."""

    training: Training
    route: Route | None = None
    condition: Condition | None = None
    select: Selection | None = None

    def told(self) -> dict[str, Any]:
        """For manifest and card."""
        out: dict[str, Any] = {"train": self.training.told()}
        for name in ("select", "condition", "route"):
            held = getattr(self, name)
            if held is not None:
                out[name] = dataclasses.asdict(held)
        return out


def read_plan(path: Path | None, changes: Mapping[str, object]) -> TrainPlan:
    """A file of training sections (None: the defaults), with dotted keys that go over it, as train.beta or beta."""
    table = dict(read_yaml(path)) if path else {}
    if "train" not in table and not set(table) & set(SECTIONS):
        table = {"train": table}
    for dotted, value in changes.items():
        name = dotted if dotted.split(".")[0] in SECTIONS else f"train.{dotted}"
        _set(table, name.split("."), value, dotted)
    if unknown := [str(key) for key in table if key not in (*SECTIONS, *OTHERS)]:
        raise ConfigError(f"[{path}] unknown: {', '.join(unknown)}; known: {', '.join((*SECTIONS, *OTHERS))}")
    return plan_of(table, folder=path.parent if path else Path())


def _set(table: dict[str, Any], keys: list[str], value: object, told: str) -> None:
    *outer, last = keys
    for key in outer:
        inner = table.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"--set {told}: {key} is not a table of keys")
        table[key] = dict(inner or {})
        table = table[key]
    table[last] = value


def plan_of(table: Mapping[str, Any], *, folder: Path) -> TrainPlan:
    """The sections of a recipe; other keys of it are not looked at. Paths are relative to `folder`."""
    training = training_of(_table(table, "train"), folder=folder)
    route = route_of(_table(table, "route")) if "route" in table else None
    condition = condition_of(_table(table, "condition")) if "condition" in table else None
    select = from_table(Selection, _table(table, "select"), where="select") if "select" in table else None
    return TrainPlan(training, route, condition, select)


def _table(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = table.get(name) or {}
    if not isinstance(held, Mapping):
        raise ConfigError(f"[{name}] is {type(held).__name__}, not a table of keys")
    return dict(held)


def training_of(table: Mapping[str, Any], *, folder: Path) -> Training:
    """The section `train`: keys of ours, settings of the loss, and `trl` for any key of TRL's."""
    loss = table.get("loss", "dpo")
    if loss not in LOSSES:
        raise ConfigError(f"[train] unknown loss {loss!r}; known: {', '.join(sorted(LOSSES))}")
    parameters = inspect.signature(LOSSES[loss]).parameters.values()
    settings = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.name != "beta"]
    known = [*_PLAIN, *OPTIONS, *settings]
    if unknown := [str(key) for key in table if key not in known]:
        raise ConfigError(
            f"[train] unknown: {', '.join(unknown)}; known: {', '.join(known)}; a key of TRL's DPOConfig stands under trl"
        )
    lora = table.get("lora")
    given: dict[str, Any] = {
        key: table[key]
        for key in ("model", "loss", "beta", "reference", "hold_out", "negative_gaps", "trl")
        if table.get(key) is not None
    }
    if isinstance(given.get("model"), str) and (folder / given["model"]).exists():
        given["model"] = str((folder / given["model"]).resolve())
    given["loss_settings"] = {key: table[key] for key in settings if key in table}
    given["options"] = {key: table[key] for key in OPTIONS if key in table}
    given["guard"] = from_table(GuardSettings, table.get("guard") or {}, where="train.guard")
    if lora:
        if lora is not True and not isinstance(lora, Mapping):
            raise ConfigError(f"[train] lora is true or a table of keys of LoraConfig, not {lora!r}")
        given["lora"] = {**LORA, **({} if lora is True else lora)}
    return from_table(Training, given, where="train")


def route_of(table: Mapping[str, Any]) -> Route:
    """The section `route`: keys of Routing and Difficulty; {hardest: 0.1, to: sft} says two of them in words."""
    given = dict(table)
    if given.pop("to", "sft") != "sft":
        raise ConfigError(f"[route] to: {table['to']}: sft is the one objective that pairs are routed to")
    if len(named := [name for name in _SHARES if name in given]) > 1:
        raise ConfigError(f"[route] {' and '.join(named)}: one kind of pairs goes to sft")
    if named:
        given |= {"to_sft": named[0], "share": given.pop(named[0])}
    routing, difficulty = _parted(given, Routing, Difficulty, "route")
    return Route(routing, difficulty)


def condition_of(table: Mapping[str, Any]) -> Condition:
    """The section `condition`: keys of Tag and Relabelling."""
    tag, relabelling = _parted(table, Tag, Relabelling, "condition")
    return Condition(tag, relabelling)


def _parted(table: Mapping[str, Any], one: type, other: type, where: str) -> tuple[Any, Any]:
    """Two settings out of one table; no key belongs to both."""
    names = {field.name for field in dataclasses.fields(one)}
    known = names | {field.name for field in dataclasses.fields(other)}
    if unknown := [str(key) for key in table if key not in known]:
        raise ConfigError(f"[{where}] unknown: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    parts = [{k: v for k, v in table.items() if (k in names) is first} for first in (True, False)]
    return from_table(one, parts[0], where=where), from_table(other, parts[1], where=where)
