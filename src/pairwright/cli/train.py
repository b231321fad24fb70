"""Commands about policies: train, compare."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pairwright.cli.app import Json, Out, app, changes_of, free, say
from pairwright.cli.running import progress
from pairwright.cli.tables import print_comparison, print_training


@app.command()
def train(
    source: Annotated[Path, typer.Argument(help="A run folder, or a file of pairs (.parquet, .jsonl).")],
    out: Out,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A recipe with a section train, or that section alone.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A key: --set loss=cdpo --set flip=0.1 --set trl.max_steps=50.")
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="A public layout of pairs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier run in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Pairs into a policy: a loss that reads their scores, weights and routes, on TRL."""
    from pairwright.manifest import versions
    from pairwright.training.plan import read_plan
    from pairwright.training.run import WRITTEN, Job
    from pairwright.training.run import train as run

    plan = read_plan(config, changes_of(change))
    if not resume:
        free(out, WRITTEN, source, force=force)
    with progress(as_json) as watch:
        facts = run(Job(source, out, layout, resume, versions()), plan, watch)
    if facts is None:
        return
    if as_json:
        say(json.dumps({"run": str(out), **{key: value for key, value in facts.items() if key != "history"}}))
        return
    print_training(facts, out)


@app.command()
def compare(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes with a section train, and pairs: or what makes them.")],
    out: Out,
    controls: Annotated[bool, typer.Option("--controls/--no-controls", help="Random subsets, plain DPO.")] = True,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A key of evaluate: --set n=8 --set seeds=[0,1,2].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recipes against each other and their controls: same budget, held-out prompts, reward beside KL."""
    from pairwright.comparing.arms import read_files
    from pairwright.comparing.run import Comparison
    from pairwright.comparing.run import compare as run
    from pairwright.manifest import versions

    read, evaluation = read_files(recipes, changes_of(change))
    with progress(as_json) as watch:
        facts = run(Comparison(read, evaluation, out, controls, versions()), watch)
    if as_json:
        say(json.dumps({"run": str(out), **facts}))
        return
    print_comparison(facts, out)
