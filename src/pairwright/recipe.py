"""A recipe file, checked. Paths in it are relative to the recipe's own folder.

prompts: FILE        and  sample: {...}      responses are sampled
candidates: FILE     instead of both         responses exist already: {file:, columns:, layout:} names what is unusual
score: [...]         pair: {...}             export: {...}     shards:     workers:
select: {...}        with implicit: {model: ...} inside, seed models that score the pairs they did not see
train: {...}         with condition: {...} and route: {...} beside it
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pairwright.clean.evidence import Cleaning
from pairwright.errors import ConfigError
from pairwright.export import Export, refuse_one_scale
from pairwright.pair.build import Pairing
from pairwright.rating.entries import Entry, names_of, parse_entries
from pairwright.sample import Sampling
from pairwright.score.combine import Reward
from pairwright.select.run import Selection
from pairwright.settings import from_table, read_yaml
from pairwright.train.crossfit import CrossFit
from pairwright.training.plan import TrainPlan, plan_of

SHARDS = 8
KEYS = (
    "prompts", "candidates", "shards", "workers", "sample", "score", "clean", "pair", "select", "condition", "route",
    "train", "export",
)  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """A file of responses that exist already: its columns where they have unusual names, or its public layout."""

    file: str
    columns: dict[str, str] = field(default_factory=dict)
    layout: str | None = None

    def __post_init__(self) -> None:
        if self.layout and self.columns:
            raise ConfigError("layout says which columns there are; leave out columns")

    @property
    def path(self) -> Path:
        return Path(self.file)


@dataclass(frozen=True)
class Selecting:
    """Which pairs stay; `implicit`: seed models whose margins the selection reads."""

    rule: Selection
    implicit: CrossFit | None = None


@dataclass(frozen=True)
class Recipe:
    """A run. Either `prompts` and `sample`, or `candidates`; without `pair` it ends with the scores."""

    score: list[Entry]
    prompts: Path | None = None
    sample: Sampling | None = None
    candidates: Candidates | None = None
    clean: Cleaning | None = None
    pair: Pairing | None = None
    reward: Reward | None = None  # the rater or raters whose score decides the pairs
    select: Selecting | None = None
    train: TrainPlan | None = None
    shards: int = SHARDS
    export: Export = field(default_factory=Export)
    workers: int = 1  # processes for scoring and pairing; does not change a result
    allow_variant: bool = False  # take a reward model that fails its self-test, and record it

    @property
    def source(self) -> Path:
        """The file that the run starts from."""
        held = self.prompts if self.candidates is None else self.candidates.path
        assert held is not None
        return held


@dataclass(frozen=True)
class Asked:
    """What a command says beside the file: dotted keys that go over it ({"sample.n": 4}), further raters."""

    changes: Mapping[str, object] = field(default_factory=dict)
    raters: list[object] = field(default_factory=list)
    allow_variant: bool = False


def read_recipe(path: Path, asked: Asked, *, backends: Mapping[str, object]) -> Recipe:
    """A recipe file; `backends` are those that can sample."""
    table = _changed(read_yaml(path), asked.changes, path)
    if unknown := [str(key) for key in table if key not in KEYS]:
        raise ConfigError(f"[{path}] unknown: {', '.join(unknown)}; known: {', '.join(KEYS)}")
    given = "candidates" in table
    if given and (both := [key for key in ("prompts", "sample") if key in table]):
        raise ConfigError(f"[{path}] has candidates and {both[0]}: responses are sampled or given, not both")
    needed = ("score", "pair") if given else ("prompts", "sample", "score", "pair")
    if missing := [key for key in needed if key not in table]:
        raise ConfigError(f"[{path}] lacks: {', '.join(missing)}; known: {', '.join(KEYS)}")
    listed = table["score"] if isinstance(table["score"], list) else [table["score"]]
    score = parse_entries(listed, folder=path.parent, where=str(path))
    score = parse_entries(asked.raters, folder=Path(), where="--rater", before=score)
    clean = from_table(Cleaning, table["clean"], where="clean") if "clean" in table else None
    if clean and (unknown := [name for name in clean.raters if name.partition(".")[0] not in names_of(score)]):
        raise ConfigError(f"[clean] {unknown[0]!r} is not one of the raters: {', '.join(names_of(score))}")
    pairing = dict(table["pair"]) if isinstance(table["pair"], dict) else table["pair"]
    given_reward = pairing.pop("reward", None) if isinstance(pairing, dict) else None
    reward = _reward(given_reward, score, cleaned=clean is not None)
    pairs = from_table(Pairing, pairing, where="pair")
    refuse_one_scale(reward, pairs)
    recipe = Recipe(
        score,
        clean=clean,
        pair=pairs,
        reward=reward,
        select=_selecting(table["select"], score, path.parent) if "select" in table else None,
        train=_train(table, path),
        shards=_count(table, "shards", SHARDS, path),
        export=from_table(Export, table.get("export", {}), where="export"),
        workers=_count(table, "workers", 1, path),
        allow_variant=asked.allow_variant,
    )
    if given:
        named = {"file": table["candidates"]} if isinstance(table["candidates"], str) else table["candidates"]
        candidates = from_table(Candidates, named, where="candidates")
        return replace(recipe, candidates=replace(candidates, file=str((path.parent / candidates.file).resolve())))
    sample = from_table(Sampling, table["sample"], where="sample")
    if sample.backend not in backends:
        raise ConfigError(f"[sample] unknown backend {sample.backend!r}; known: {', '.join(backends)}")
    return replace(recipe, prompts=(path.parent / str(table["prompts"])).resolve(), sample=sample)


def file_recipe(file: Path, asked: Asked, *, columns: Mapping[str, str], layout: str | None) -> Recipe:
    """Responses that exist already and the raters that score them; nothing is paired."""
    if not asked.raters:
        raise ConfigError("name at least one rater, as --rater rules or --rater my_reward.py:brevity")
    known = ("shards", "workers")
    if unknown := [key for key in asked.changes if key not in known]:
        raise ConfigError(f"--set {unknown[0]}: of a file of responses only {', '.join(known)} can be set")
    candidates = Candidates(str(file.resolve()), dict(columns), layout)
    shards, workers = _count(asked.changes, "shards", SHARDS, file), _count(asked.changes, "workers", 1, file)
    score = parse_entries(asked.raters, folder=Path(), where="--rater")
    return Recipe(score, candidates=candidates, shards=shards, workers=workers, allow_variant=asked.allow_variant)


def _changed(table: dict[str, object], changes: Mapping[str, object], path: Path) -> dict[str, object]:
    for dotted, value in changes.items():
        section, _, key = dotted.partition(".")
        if key and not isinstance(table.get(section), dict | None):
            raise ConfigError(f"--set {dotted}: {section} is not a table of keys in {path}")
        if key:
            table[section] = {**(table.get(section) or {}), key: value}  # type: ignore[dict-item]
        else:
            table[section] = value
    return table


def _count(table: Mapping[str, object], key: str, default: int, path: Path) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 99_999:
        raise ConfigError(f"[{path}] {key} is a whole number from 1 to 99999, not {value!r}")
    return value


def _selecting(given: object, entries: list[Entry], folder: Path) -> Selecting:
    """`select: {margins: [external, implicit], keep: 0.1, implicit: {model: FOLDER}}`."""
    held = dict(given) if isinstance(given, Mapping) else given
    asked = held.pop("implicit", None) if isinstance(held, dict) else None
    rule = from_table(Selection, held, where="select")
    implicit = None
    if asked is not None:
        implicit = from_table(CrossFit, asked, where="select.implicit")
        local = folder / implicit.model
        implicit = replace(implicit, model=str(local.resolve())) if local.exists() else implicit
    elif "implicit" in rule.margins and "implicit" not in names_of(entries):
        raise ConfigError(
            "[select] the margin implicit needs two models: a rater {rater: implicit, policy: ..., reference: ...} under score, "
            "or implicit: {model: NAME} here, which trains seed models that score the pairs they did not see"
        )
    return Selecting(rule, implicit)


def _train(table: Mapping[str, object], path: Path) -> TrainPlan | None:
    if "train" in table:
        return plan_of({key: table[key] for key in ("train", "condition", "route") if key in table}, folder=path.parent)
    if idle := [key for key in ("condition", "route") if key in table]:
        raise ConfigError(f"[{path}] {idle[0]} is about training and there is no train; add it, or leave {idle[0]} out")
    return None


def _reward(given: object, entries: list[Entry], *, cleaned: bool) -> Reward:
    """`reward: rules`, or `reward: {raters: {rules: 1, repetition: 0.5}, combine: mean_z}`; the first rater by default.

    A part of a score, "judge.honesty", can decide as well as a whole one, and what cleaning makes: "judge.bt", "rm.clean".
    """
    names = names_of(entries) + ["comparisons"] * cleaned
    if given is None and names:
        given = names[0]
    table = {"raters": {given: 1.0}} if isinstance(given, str) else given
    reward = from_table(Reward, table, where="pair.reward")
    if unknown := [name for name in reward.raters if name.partition(".")[0] not in names]:
        raise ConfigError(f"[pair] reward {unknown[0]!r} is not one of the raters: {', '.join(names) or 'none'}")
    return reward
