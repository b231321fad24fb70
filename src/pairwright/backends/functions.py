"""A user's own reward: a Python function in a file, called in batches, kept apart from the run.

    # my_reward.py                                       pairwright score responses.parquet --rater my_reward.py:brevity
    def brevity(responses):
        return [-len(text) for text in responses]

The function takes, by name, what it wants of `prompts` (lists of messages), `responses` (texts) and `completions` (the
same texts as TRL's reward functions get them: lists with one assistant message), and returns one number or None for
each. When a batch raises, its rows are tried one by one, so that only the ones at fault are null, with the reason.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairwright.errors import ConfigError
from pairwright.protocols import Item, Scored

OFFERED = ("prompts", "responses", "completions")


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """`function` is FILE.py:NAME; the scale, where there is one, goes into the table of scores."""

    function: str
    batch_size: int = 64
    scale_min: float | None = None
    scale_max: float | None = None

    def __post_init__(self) -> None:
        file, colon, name = self.function.rpartition(":")
        if not colon or not file.endswith(".py") or not name.isidentifier():
            raise ConfigError(f"function = {self.function!r} is not FILE.py:NAME")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size = {self.batch_size} cannot be: it counts from 1")

    @property
    def name(self) -> str:
        return self.function.rpartition(":")[2]

    @property
    def file(self) -> Path:
        return Path(self.function.rpartition(":")[0])


def fingerprint(settings: FunctionSettings) -> str:
    """16 hex digits of the sha256 of the function's file: another text of it is another rater."""
    try:
        return hashlib.sha256(settings.file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"rater {settings.function}: cannot read {settings.file}: {error.strerror}") from error


def load(settings: FunctionSettings) -> Callable[..., object]:
    """The function; ConfigError when the file does not run or does not hold it."""
    label = f"pairwright_rater_{fingerprint(settings)}"
    spec = importlib.util.spec_from_file_location(label, settings.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(settings.file.resolve().parent)
    sys.modules[label], sys.path[:0] = module, [folder]  # for its dataclasses, and for files beside it
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"rater {settings.function}: the file does not run: {_told(error)}") from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, settings.name, None)
    if not callable(function):
        there = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"rater {settings.function}: {settings.file} has no function {settings.name}; it has {', '.join(there) or 'none'}"
        )
    return function  # type: ignore[no-any-return]


def wanted(function: Callable[..., object], where: str) -> tuple[str, ...]:
    """Which of `OFFERED` the function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return OFFERED
    names = [each.name for each in parameters if each.kind is not each.VAR_POSITIONAL]
    needed = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    if unknown := [name for name in needed if name not in OFFERED]:
        raise ConfigError(
            f"rater {where}: the function wants {unknown[0]!r}; what it can have is {', '.join(OFFERED)}, by these names"
        )
    return tuple(name for name in OFFERED if name in names)


class FunctionRater:
    """A function as a `RewardModel`."""

    heads: tuple[str, ...] = ("",)

    def __init__(self, settings: FunctionSettings) -> None:
        self.settings, self.fingerprint = settings, fingerprint(settings)
        self.about: Mapping[str, object] = {"function": settings.function, "sha256": self.fingerprint}
        self._function = load(settings)
        self._wanted = wanted(self._function, settings.function)

    def __call__(self, items: Sequence[Item], /) -> Iterator[Scored]:
        size = self.settings.batch_size
        for first in range(0, len(items), size):
            batch = items[first : first + size]
            try:
                values = self._values(batch)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a user's code may raise anything: see the module)
                yield from self._one_by_one(batch, error)
            else:
                yield from (_scored(item, value) for item, value in zip(batch, values, strict=True))

    def _values(self, batch: Sequence[Item]) -> list[Any]:
        offered: dict[str, list[Any]] = {
            "prompts": [[dict(turn) for turn in item.messages] for item in batch],
            "responses": [item.response for item in batch],
            "completions": [[{"role": "assistant", "content": item.response}] for item in batch],
        }
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is not our output
            given: Any = self._function(**{name: offered[name] for name in self._wanted})
        if isinstance(given, Mapping | str | bytes):
            raise TypeError(f"the function returned {type(given).__name__}, not a list of numbers")
        values = list(given)
        if len(values) != len(batch):
            raise _Count(f"{len(values)} values for {len(batch)} responses")
        return values

    def _one_by_one(self, batch: Sequence[Item], error: BaseException) -> Iterator[Scored]:
        for item in batch:
            if len(batch) > 1:
                try:
                    yield _scored(item, self._values([item])[0])
                    continue
                except (Exception, SystemExit) as own:  # noqa: BLE001  (as above)
                    error = own
            yield Scored(item.key, {}, f"function_failed: {_told(error)}")


class _Count(Exception):
    """A function gave more or fewer values than it got responses: nobody knows which is whose."""

    def __str__(self) -> str:
        return str(self.args[0])


def _scored(item: Item, value: Any) -> Scored:
    if value is None:
        return Scored(item.key, {}, "function_gave_none")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return Scored(item.key, {}, f"function_gave_no_number: {type(value).__name__}")
    if isinstance(value, str | bytes):
        return Scored(item.key, {}, "function_gave_no_number: str")
    if not math.isfinite(number):
        return Scored(item.key, {}, "score_not_finite")
    return Scored(item.key, {"": number})


def _told(error: BaseException) -> str:
    """The error in one line, as short as it can be without losing where it happened."""
    text = " ".join(str(error).encode("utf-8", "replace").decode().split())  # half a character cannot be stored
    name = "wrong_count" if isinstance(error, _Count) else type(error).__name__
    return f"{name}: {text[:200]}" if text else name
