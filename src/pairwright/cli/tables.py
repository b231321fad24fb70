"""What a command prints: ledger, scores, grid, a few pairs, a training run, a comparison."""

import json
from pathlib import Path
from typing import Any

from pairwright.cli.app import say


def print_grid(lines: list[dict[str, Any]], folder: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if as_json:
        say(json.dumps({"grid": lines}))
        return
    table = Table("chosen", "rejected", "pairs", "skipped", "margin", "z chosen", "z rejected", "is lowest", box=None)
    for line in lines:
        lost = ", ".join(f"{reason} {n}" for reason, n in line["skipped"].items())
        numbers = ["" if line[key] is None else f"{line[key]:.2f}" for key in _GRID_NUMBERS]
        table.add_row(line["chosen"], line["rejected"], str(line["pairs"]), lost, *numbers)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"\nfiles   {folder / 'grid'}/CHOSEN--REJECTED.parquet", highlight=False)


_GRID_NUMBERS = ("margin", "z_chosen", "z_rejected", "rejected_is_lowest")


def print_scores(told: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    console = Console(soft_wrap=True)
    table = Table(
        "rater", "scores", "missing", "low", "high", "distinct", "ties", "at the top", box=None, pad_edge=False
    )
    for line in told["raters"]:
        lost = ", ".join(f"{why} {n}" for why, n in line["nulls"].items())
        numbers = [number(line[key]) for key in ("low", "high", "distinct", "ties", "at_high")]
        table.add_row(line["rater"], str(line["n"]), lost, *numbers)
    console.print(table)
    if told["agreement"]:
        both = Table("agreement within prompts", "mean Spearman", "se", "prompts", "alpha", box=None, pad_edge=False)
        for line in told["agreement"]:
            both.add_row(
                f"{line['a']} · {line['b']}", *(number(line[key]) for key in ("rho", "se", "prompts", "alpha"))
            )
        console.print()
        console.print(both)
    console.print(f"\nscores  {folder / 'scores.parquet'}\n", highlight=False)
    for text in told["advice"]:
        say(text)


def print_ledger(ledger: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "unit", "in", "kept", "dropped", "set aside", "s", box=None, pad_edge=False)
    for stage in ledger["stages"]:
        lost = [", ".join(f"{reason} {n}" for reason, n in stage[key].items()) for key in ("dropped", "set_aside")]
        seconds = "" if stage["seconds"] is None else f"{stage['seconds']:.1f}"
        table.add_row(stage["stage"], stage["unit"], str(stage["rows_in"]), str(stage["kept"]), *lost, seconds)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"\npairs   {folder / 'pairs.parquet'}\nreport  {folder / 'report.html'}\n", highlight=False)
    for line in ledger["advice"]:
        say(line)


def show_pairs(folder: Path, count: int = 3) -> None:
    """A few pairs as a person would want to see them."""
    import polars as pl
    from rich.console import Console
    from rich.text import Text

    console = Console()
    pairs = pl.read_parquet(folder / "pairs.parquet").sort("margin", descending=True)
    for row in pairs[:: max(1, pairs.height // count)][:count].iter_rows(named=True):
        console.rule(style="dim")
        console.print(Text(f"{row['prompt'][-1]['role']}: {row['prompt'][-1]['content']}", style="bold"))
        for side, colour in (("chosen", "green"), ("rejected", "red")):
            console.print(Text(f"{side}  score {row[f'score_{side}']:.3f}", style=colour))
            text = row[side][0]["content"]
            console.print(Text(text if len(text) <= 600 else text[:600] + " ..."))
    console.rule(style="dim")


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
    ends = {
        name: "not finite" if final[key] is None else f"{final[key]:.3g}" for key, name in told.items() if key in final
    }
    say("last " + ", ".join(f"{name} {end}" for name, end in ends.items()))
    for each in facts["alarms"]:
        say(f"alarm: {each['told']}")
    say(f"\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}")


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
