"""Recipes: YAML text into frozen settings. An unknown key is an error that lists the known ones."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from pairwright.errors import ConfigError, StoreError

T = TypeVar("T")


def from_table(kind: type[T], table: object, *, where: str) -> T:
    """A frozen settings dataclass out of a mapping; ConfigError names the section, the key and the known keys."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"[{where}] is {type(table).__name__}, not a table of keys; known: {_known(kind)}")
    unknown = [str(key) for key in table if key not in _names(kind)]
    if unknown:
        raise ConfigError(f"[{where}] unknown: {', '.join(unknown)}; known: {_known(kind)}")
    missing = [field.name for field in dataclasses.fields(kind) if _obligatory(field) and field.name not in table]  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"[{where}] lacks: {', '.join(missing)}; known: {_known(kind)}")
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"[{where}] {error}") from error
    except ConfigError as error:  # raised by the settings themselves
        raise ConfigError(f"[{where}] {error}") from error


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _known(kind: type) -> str:
    return ", ".join(sorted(_names(kind)))


def _obligatory(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 5e-7 for text, since it has no point: here it is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def parse_yaml(text: str) -> object:
    """The value of a YAML text; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> dict[str, object]:
    """The mapping in a YAML file."""
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe {path} is not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"the recipe {path}{line} is not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"the recipe {path} holds no table of keys")
    return value
