"""Commands about policies: train, compare."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pairwright.cli.app import Json, Out, app, changes_of, free, say
from pairwright.cli.running import progress


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


def print_training(facts: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "in", "kept", "dropped", box=None, pad_edge=False)
    for each in facts["ledger"]:
        lost = ", ".join(f"{reason} {n}" for reason, n in each["dropped"].items())
        table.add_row(each["stage"], str(each["rows_in"]), str(each["kept"]), lost)
    console = Console(soft_wrap=True)
    console.print(table)
    trained, whole = facts["parameters"]
    final = facts["final"]
    say(f"\n{facts['steps']} steps of {facts['pairs_per_step']} pairs, {trained:,} of {whole:,} parameters")
    say(f"reference: {facts['reference']}")
    for name, each in facts["lr_spent"].items():
        say(
            f"{name}: {each['pairs']} pairs, {each['data_share']:.1%} of the data, {each['lr_share']:.1%} of the learning rate"
        )
    told = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy", "eval_loss": "held-out loss",
            "eval_rewards/accuracies": "held-out accuracy"}  # fmt: skip
    say("last " + ", ".join(f"{name} {final[key]:.3g}" for key, name in told.items() if key in final))
    for each in facts["alarms"]:
        say(f"alarm: {each['told']}")
    say(f"\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}")


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


def print_comparison(facts: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from pairwright.report.compare import told

    console = Console(soft_wrap=True)
    arms = Table(
        "arm", f"reward ({facts['rater']})", "KL, nats", "tokens", "pairs", "what it is", box=None, pad_edge=False
    )
    for arm in facts["arms"]:
        numbers = [told(arm[key]) for key in ("reward", "kl", "tokens")]
        arms.add_row(arm["name"], *numbers, str(arm.get("pairs", "")), arm["note"] or f"loss {arm.get('loss')}")
    console.print(arms)
    both = Table("difference", "reward", "equal length", "equal KL", "wins", box=None, pad_edge=False)
    for each in facts["differences"]:
        matched = told(each["at_equal_kl"], signed=True) if each["at_equal_kl"] else ""
        first = [told(each[key], signed=True) for key in ("reward", "at_equal_length")]
        both.add_row(f"{each['a']} - {each['b']}", *first, matched, told(each["wins"], share=True))
    console.print()
    console.print(both)
    prompts, draws, seeds = facts["prompts"], facts["draws"], len(facts["seeds"])
    say(f"\n{prompts} held-out prompts x {draws} draws, {seeds} training seeds, {facts['steps']} steps each")
    for line in facts["notes"]:
        say(line)
    say(f"\nanswers {folder / 'answers.parquet'}\nreport  {folder / 'report.html'}")
