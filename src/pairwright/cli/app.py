"""The application, the options that several commands have, and how a command speaks."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pairwright import __version__
from pairwright.errors import ConfigError

app = typer.Typer(
    help="Builds, repairs and explains the preference pairs that DPO trains on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

VARIANT = "Take a reward model whose scores move with batch or padding, and record it."
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A key of the recipe: --set sample.n=4. May be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")]


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Builds, repairs and explains the preference pairs that DPO trains on."""


def parsed(text: str) -> Any:
    import yaml

    from pairwright.settings import parse_yaml

    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def free(folder: Path, names: list[str], file: Path, *, force: bool) -> None:
    """Refuses to write over anything that an earlier, unfinished try of ours did not leave, and over the input always."""
    from pairwright.export import UNFINISHED

    there = [folder / name for name in names if (folder / name).exists()]
    if any(file.exists() and path.samefile(file) for path in there):
        raise ConfigError(f"{file} is the input itself; choose another --out")
    if there and not force and not (folder / UNFINISHED).exists():
        raise ConfigError(f"{there[0]} is there already; choose another --out or pass --force")


def changes_of(given: list[str] | None, *, parse: bool = True) -> dict[str, Any]:
    """["sample.n=4"] -> {"sample.n": 4}; values are read as YAML."""
    changes: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not KEY=VALUE")
        changes[key] = parsed(value) if parse else value
    return changes
