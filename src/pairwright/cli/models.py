"""Commands that hold a model in memory to put a number on every pair: influence, crossfit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairwright.cli.app import Json, Out, app, changes_of, say
from pairwright.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

Layout = Annotated[str | None, typer.Option("--layout", help="A public layout of pairs.")]


@app.command()
def crossfit(
    source: Annotated[Path, typer.Argument(help="A run folder, or a file of pairs.")],
    out: Out,
    model: Annotated[str, typer.Option("--model", help="A folder, a name of the hub, or a .gguf file.")],
    layout: Layout = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: --set seed_pairs=500 --set folds=2.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Implicit margins and losses of pairs under small seed models that did not see them; for select --numbers."""
    from pairwright.selecting import check_folder
    from pairwright.settings import from_table
    from pairwright.store import write_parquet
    from pairwright.train.crossfit import CrossFit, cross_fit

    settings = from_table(CrossFit, {"model": model, **_nested(change)}, where="crossfit")
    check_folder(out)
    pairs, aside = _pairs(source, out, layout)
    found = cross_fit(pairs, settings, out)
    write_parquet(out / "crossfit.parquet", found.frame)
    about = {**found.about, "set_aside": _set_aside(out, aside)}
    _tell(found.frame, about, out / "crossfit.parquet", ("margin_implicit", "loss"), as_json)


@app.command()
def influence(  # noqa: PLR0913  (options of a command)
    source: Annotated[Path, typer.Argument(help="A run folder, or a file of pairs.")],
    out: Out,
    validation: Annotated[Path, typer.Option("--validation", help="Pairs of other prompts, as the source is.")],
    model: Annotated[str, typer.Option("--model", help="The reference: a folder, a name of the hub, a .gguf file.")],
    checkpoint: Annotated[
        list[str], typer.Option("--checkpoint", help="FOLDER=LEARNING_RATE of a trained state; the last is theta.")
    ],
    lossdiff: Annotated[bool, typer.Option("--lossdiff/--no-lossdiff", help="Train theta_val for LossDiff.")] = True,
    layout: Layout = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="A setting: --set beta=0.1.")] = None,
    as_json: Json = False,
) -> None:
    """What a small step on each pair does to the loss of validation pairs; IRM and LossDiff; for select --numbers."""
    from pairwright.selecting import check_folder
    from pairwright.settings import from_table
    from pairwright.train.influence import InfluenceSettings, ThetaVal, influence_table

    given = {"model": model, "checkpoints": dict(_rate(each) for each in checkpoint), **_nested(change)}
    settings = from_table(InfluenceSettings, given, where="influence")
    check_folder(out)
    pairs, aside = _pairs(source, out / "read", layout)
    held, _ = _pairs(validation, out / "read-validation", layout)
    found = influence_table(pairs, held, settings, out, theta_val=ThetaVal() if lossdiff else None)
    about = {**found.about, "set_aside": _set_aside(out, aside)}
    _tell(found.frame, about, out / "influence.parquet", ("influence", "irm", "lossdiff"), as_json)


def _pairs(source: Path, scratch: Path, layout: str | None) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """The pairs that a selection of the source will see, and the rows that are none of them, with reasons."""
    from pairwright.io.pair_files import read_pairs
    from pairwright.selecting import pairs_to_score

    return pairs_to_score(read_pairs(source, scratch=scratch, layout=layout).rows)


def _set_aside(out: Path, aside: "pl.DataFrame") -> dict[str, int]:
    """Writes the rows that were not scored beside the numbers; how many, by reason."""
    from pairwright.store import write_parquet

    (out / "dropped.parquet").unlink(missing_ok=True)
    if aside.height:
        write_parquet(out / "dropped.parquet", aside)
    return dict(aside["reason"].value_counts(sort=True).iter_rows())


def _rate(text: str) -> tuple[str, float]:
    folder, equals, rate = text.rpartition("=")
    try:
        return folder, float(rate if equals else "")
    except ValueError as error:
        raise ConfigError(f"--checkpoint {text} is not FOLDER=LEARNING_RATE, as runs/policy/model=5e-7") from error


def _nested(change: list[str] | None) -> dict[str, Any]:
    """trl.max_steps=4 into a table."""
    given: dict[str, Any] = {}
    for key, value in changes_of(change).items():
        outer, _, inner = key.partition(".")
        given[outer] = {**given.get(outer, {}), inner: value} if inner else value
    return given


def _tell(frame: "pl.DataFrame", about: dict[str, Any], file: Path, shown: tuple[str, ...], as_json: bool) -> None:
    import numpy as np

    if as_json:
        say(json.dumps({"file": str(file), "pairs": frame.height, **about}))
        return
    for name in shown:
        if name in frame.columns:
            known = frame[name].drop_nulls().to_numpy()
            ends = [float(each) for each in np.quantile(known, [0, 0.5, 1])] if len(known) else []
            told = f"{ends[0]:.3g} to {ends[2]:.3g}, median {ends[1]:.3g}" if ends else "none"
            say(f"{name:16} {len(known)} of {frame.height} pairs: {told}")
    for reason, n in frame["reason"].drop_nulls().value_counts(sort=True).iter_rows():
        say(f"{n} without a number: {reason}")
    for reason, n in about["set_aside"].items():
        say(f"{n} rows set aside: {reason}")
    for line in about.get("warnings", []):
        say(f"warning: {line}")
    say(f"\nnumbers {file}; pairwright select SOURCE --numbers {file}")
