"""The rules rater: reads the checks that a prompt declares and grades an answer by their weighted mean."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pairwright.errors import ConfigError
from pairwright.score.checks import CHECKS


@dataclass(frozen=True, slots=True)
class Check:
    """One declared check: its name in CHECKS, its settings, and its weight in the mean."""

    name: str
    settings: dict[str, object]
    weight: float = 1.0


class Graded(NamedTuple):
    """A score in [0, 1] and the credit of each check, in the order in which they were declared."""

    score: float
    parts: tuple[tuple[str, float], ...]  # ("words", 1.0), and ("words#2", 0.5) for the second use of a check


_KINDS: dict[object, tuple[str, Callable[[object], bool]]] = {  # by the annotation of the setting
    int: ("a whole number", lambda value: type(value) is int),
    int | None: ("a whole number or null", lambda value: value is None or type(value) is int),
    bool: ("true or false", lambda value: type(value) is bool),
    str: ("a text", lambda value: type(value) is str),
    tuple[str, ...]: ("a list of texts", lambda value: type(value) is tuple and all(type(v) is str for v in value)),
}


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"weight={value!r} is not a finite number above 0")
    return float(value)


def _settings(name: str, given: dict[str, object]) -> dict[str, object]:
    """The settings of a check, lists as tuples; each is compared with the annotation of the check's own parameter."""
    parameters = inspect.signature(CHECKS[name]).parameters.values()
    known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    listed = ", ".join([*known, "weight"])
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"unknown setting {', '.join(map(repr, unknown))}; known: {listed}")
    if missing := [p.name for p in known.values() if p.default is p.empty and p.name not in given]:
        raise ConfigError(f"missing setting {', '.join(map(repr, missing))}; known: {listed}")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for key, value in settings.items():
        wanted, fits = _KINDS[known[key].annotation]
        if not fits(value):
            raise ConfigError(f"{key}={given[key]!r} is not {wanted}; known: {listed}")
    return settings


def _parse(declared: object) -> Check:
    known = ", ".join(CHECKS)
    if not isinstance(declared, dict) or not isinstance(name := declared.get("check"), str):
        raise ConfigError(f'{declared!r} is not an object with the key "check"; known checks: {known}')
    if name not in CHECKS:
        raise ConfigError(f"unknown check {name!r}; known: {known}")
    given = {key: value for key, value in declared.items() if key not in ("check", "weight")}
    try:
        check = Check(name, _settings(name, given), _weight(declared.get("weight", 1.0)))
        CHECKS[name]("", **check.settings)  # a check says itself which values cannot be meant
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return check


def parse_checks(declared: object, *, where: str) -> tuple[Check, ...]:
    """The checks of a prompt from the list in its file: [{"check": "words", "at_least": 40, "weight": 2}, ...].

    The other keys of an entry are the settings of the check. Raises ConfigError, which begins with `where`, for an
    unknown check and for a setting that is unknown, missing or cannot be meant; it lists the known ones.
    """
    if not isinstance(declared, list | tuple) or not declared:
        raise ConfigError(
            f"{where}: checks={declared!r} is not a list of at least one check; known: {', '.join(CHECKS)}"
        )
    checks = []
    for number, entry in enumerate(declared, start=1):
        try:
            checks.append(_parse(entry))
        except ConfigError as error:
            raise ConfigError(f"{where}: check {number}: {error}") from None
    return tuple(checks)


def grade(text: str, checks: Sequence[Check]) -> Graded:
    """score = sum_c weight_c credit_c / sum_c weight_c, and the credit of every check."""
    if not checks:
        raise ConfigError("no checks to grade by: a prompt without checks has no rules score")
    uses: Counter[str] = Counter()
    parts = []
    for check in checks:
        uses[check.name] += 1
        label = check.name if uses[check.name] == 1 else f"{check.name}#{uses[check.name]}"
        parts.append((label, CHECKS[check.name](text, **check.settings)))
    heaviest = max(check.weight for check in checks)  # divided out, so that no sum overflows
    weights = [check.weight / heaviest for check in checks]
    score = sum(w * credit for w, (_, credit) in zip(weights, parts, strict=True)) / sum(weights)
    return Graded(score, tuple(parts))
