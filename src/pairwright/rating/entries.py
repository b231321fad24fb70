"""Entries of a recipe's `score` list: {rater: KIND, name: NAME, settings ...}, or FILE.py:FUNCTION for a user's own.

`KINDS` is the one place where the name of a kind meets its settings, its code and its model.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pairwright.backends.endpoint import Endpoint
from pairwright.backends.functions import FunctionRater, FunctionSettings
from pairwright.backends.functions import fingerprint as function_fingerprint
from pairwright.errors import ConfigError
from pairwright.rating.calls import Work
from pairwright.rating.judging import JUDGED, JudgeRating, Judging
from pairwright.rating.likelihood import LIKELY, ImplicitSettings, LogpRating, LogpSettings
from pairwright.rating.works import Pointwise
from pairwright.score.compare import TEXTS
from pairwright.score.judge import JudgeSettings
from pairwright.score.raters import RATERS, Rater
from pairwright.settings import from_table
from pairwright.tables import SCORES, Table

LOCAL = (*RATERS, "column")
RESERVED = (*TEXTS, "comparisons")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# settings that change how fast a score comes or where from, and not the score
IDLE = frozenset(
    {"batch_size", "batch_tokens", "base_urls", "concurrency", "timeout_s", "retries", "api_key_env", "any_model"}
)


@dataclass(frozen=True)
class Entry:
    """One rater of a run: its name in the tables, its kind, and that kind's own settings."""

    name: str
    kind: str
    settings: Any

    @property
    def local(self) -> bool:
        """It reads the text alone and costs nothing: no call of it is stored."""
        return self.kind in LOCAL

    def told(self) -> dict[str, object]:
        """For the manifest."""
        settings = {key: value for key, value in asdict(self.settings).items() if key not in ("rater", "name")}
        return {"rater": self.kind, "name": self.name, **settings}

    def deciding(self) -> dict[str, object]:
        """For the fingerprint: what the scores depend on."""
        told = _without(self.told(), IDLE)
        assert isinstance(told, dict)
        return told

    def stored(self) -> dict[str, object]:
        """What its stored calls depend on, beside their own names: neither the rater's name, nor how many there are."""
        told = _without(self.deciding(), KINDS[self.kind].later | {"name"})
        assert isinstance(told, dict)
        return told


def _without(value: object, keys: frozenset[str]) -> object:
    if isinstance(value, Mapping):
        return {key: _without(each, keys) for key, each in value.items() if key not in keys}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class ColumnSettings:
    """Scores that stand in the file of candidates, in this column."""

    column: str


@dataclass(frozen=True, slots=True)
class ServedSettings:
    """A reward model behind a server: vLLM and sglang have the routes classify, pooling and score."""

    endpoint: Endpoint
    route: str = "classify"
    heads: tuple[str, ...] = ("",)


class Kind(NamedTuple):
    """A kind of rater that is called: its settings out of a table, the modules whose change makes its scores anew,
    hashes of what it reads, its work (entry, allow_variant=), its tables."""

    settings: Callable[[Mapping[str, object], str], Any]  # (table, where)
    code: tuple[str, ...]
    facts: Callable[[Any], Mapping[str, object]]
    work: Callable[..., Work]
    tables: tuple[Table, ...] = (SCORES,)
    later: frozenset[str] = frozenset()  # settings that only change what is made of the stored calls, or which are made


def _function(entry: Entry, *, allow_variant: bool) -> Work:
    del allow_variant
    scale = (entry.settings.scale_min, entry.settings.scale_max)
    return Pointwise(entry.name, partial(FunctionRater, entry.settings), scale)


def _reward_model(entry: Entry, *, allow_variant: bool) -> Work:
    from pairwright.backends.transformers import TransformersReward

    return Pointwise(entry.name, partial(TransformersReward, entry.settings, allow_variant=allow_variant))


def _served(entry: Entry, *, allow_variant: bool) -> Work:
    from pairwright.backends.openai import RewardEndpoint

    del allow_variant
    held = entry.settings
    return Pointwise(entry.name, partial(RewardEndpoint, held.endpoint, route=held.route, heads=held.heads))


def _judge(entry: Entry, *, allow_variant: bool) -> Work:
    from pairwright.backends.openai import OpenAIJudge

    del allow_variant
    return JudgeRating(entry.settings.named(entry.name), partial(OpenAIJudge, entry.settings.endpoint))


def _likelihood(entry: Entry, *, allow_variant: bool) -> Work:
    del allow_variant
    return LogpRating(entry.name, entry.settings)


def _settings(kind: type) -> Callable[[Mapping[str, object], str], Any]:
    return lambda table, where: from_table(kind, table, where=where)


def _reward_settings(table: Mapping[str, object], where: str) -> Any:
    from pairwright.backends.transformers import RewardModelSettings

    return from_table(RewardModelSettings, table, where=where)


def _judge_settings(table: Mapping[str, object], where: str) -> Judging:
    """`endpoint` and `rubric` are tables of their own; the rest says how the judge is asked."""
    own = {key: value for key, value in table.items() if key in ("endpoint", "rubric")}
    asked = {key: value for key, value in table.items() if key not in own}
    if unknown := [key for key in asked if key not in {each.name for each in fields(JudgeSettings)} - {"name"}]:
        known = sorted({"endpoint", "rubric"} | {each.name for each in fields(JudgeSettings)} - {"name"})
        raise ConfigError(f"[{where}] unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if "endpoint" not in own:
        raise ConfigError(
            f"[{where}] lacks: endpoint; as endpoint: {{base_urls: http://127.0.0.1:8000/v1, model: NAME}}"
        )
    return from_table(Judging, {**own, "asked": asked}, where=where)


def _weights(settings: Any) -> dict[str, object]:
    from pairwright.backends.hf import model_hash

    named = {name: getattr(settings, name, None) for name in ("model", "policy", "reference", "adapter")}
    return {name: model_hash(model) for name, model in named.items() if model is not None}


_TORCH = (
    "pairwright.rating.likelihood",
    "pairwright.backends.hf",
    "pairwright.backends.causal",
    "pairwright.backends.prefix",
    "pairwright.score.logprob",
)
KINDS: dict[str, Kind] = {
    "function": Kind(
        _settings(FunctionSettings),
        ("pairwright.backends.functions",),
        lambda settings: {"function": function_fingerprint(settings)},
        _function,
        later=frozenset({"scale_min", "scale_max"}),
    ),
    "reward_model": Kind(
        _reward_settings,
        ("pairwright.backends.hf", "pairwright.backends.transformers", "pairwright.backends.selftest"),
        _weights,
        _reward_model,
    ),
    "reward_endpoint": Kind(
        _settings(ServedSettings),
        ("pairwright.backends.openai", "pairwright.backends.answers"),
        lambda settings: {"endpoint": settings.endpoint.fingerprint},
        _served,
    ),
    "judge": Kind(
        _judge_settings,
        ("pairwright.rating.judging", "pairwright.score.judge", "pairwright.score.judged", "pairwright.score.parse",
         "pairwright.score.digits", "pairwright.backends.openai", "pairwright.backends.answers"),
        lambda settings: {"endpoint": settings.endpoint.fingerprint},
        _judge,
        JUDGED,
        frozenset({"draws", "max_pairs", "aspects"}),
    ),
    "logp": Kind(_settings(LogpSettings), _TORCH, _weights, _likelihood, LIKELY, frozenset({"per_token"})),
    "implicit": Kind(_settings(ImplicitSettings), _TORCH, _weights, _likelihood, LIKELY, frozenset({"per_token"})),
}  # fmt: skip


def parse_entries(given: Sequence[object], *, folder: Path, where: str, before: Sequence[Entry] = ()) -> list[Entry]:
    """The entries of a `score` list behind those `before`; a name stands once. Paths are relative to `folder`."""
    entries = [*before, *(parse_entry(each, folder=folder, where=f"score {i}") for i, each in enumerate(given))]
    names = [entry.name for entry in entries]
    if again := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"[{where}] a rater stands twice under score: {again[0]}; give one of them another name")
    return entries


def parse_entry(given: object, *, folder: Path, where: str) -> Entry:
    """One entry: a kind alone, FILE.py:FUNCTION alone, or a table with the key `rater`."""
    table = {"rater": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("rater"), str):
        raise ConfigError(f"[{where}] lacks: rater; known: {', '.join((*LOCAL, *KINDS))}, or FILE.py:FUNCTION")
    rest = {str(key): value for key, value in table.items() if key not in ("rater", "name")}
    kind = str(table["rater"])
    if ".py:" in kind:
        file, _, function = kind.rpartition(":")
        kind, rest = "function", {**rest, "function": f"{(folder / file).resolve()}:{function}"}
    if kind in RATERS:
        settings: Any = from_table(Rater, {"rater": kind, **rest, "name": table.get("name")}, where=where)
    elif kind == "column":
        settings = from_table(ColumnSettings, rest, where=where)
    elif kind in KINDS:
        settings = KINDS[kind].settings(rest, where)
    else:
        raise ConfigError(
            f"[{where}] unknown rater {kind!r}; known: {', '.join((*LOCAL, *KINDS))}, or FILE.py:FUNCTION"
        )
    name = table.get("name") or getattr(settings, "name", None) or getattr(settings, "column", None) or kind
    if str(name) in RESERVED:
        raise ConfigError(f"[{where}] the name {name!r} is that of a column; give the rater another name")
    if not NAME.fullmatch(str(name)):
        raise ConfigError(f"[{where}] name {name!r}: letters, digits, _ and -, up to 64 of them")
    return Entry(str(name), kind, settings)


def works(entry: Entry, *, allow_variant: bool = False) -> Work:
    """The work of an entry that is called."""
    return KINDS[entry.kind].work(entry, allow_variant=allow_variant)


def names_of(entries: Sequence[Entry]) -> list[str]:
    return [entry.name for entry in entries]
