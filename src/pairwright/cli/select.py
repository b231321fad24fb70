"""select: which pairs to keep, with a reason for each and random subsets beside them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pairwright.cli.app import Json, Out, app, changes_of, say
from pairwright.errors import ConfigError

Files = list[Path] | None


@app.command()
def select(  # noqa: PLR0913  (options of a command)
    source: Annotated[Path, typer.Argument(help="A run folder, or a file of pairs.")],
    out: Out,
    rule: Annotated[str, typer.Option("--rule", help="margins, selective, tif, rs_dpo, random, ...")] = "margins",
    keep: Annotated[float | None, typer.Option("--keep", help="A share up to 1, or a number of pairs.")] = None,
    margins: Annotated[str | None, typer.Option("--margins", help="Sources: external,implicit,NAME.")] = None,
    combine: Annotated[str | None, typer.Option("--combine", help="bayes, add, min, max, mean, min_rank.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="All rules that the columns allow, in one table.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the random subsets, and of random rules.")] = 0,
    numbers: Annotated[Files, typer.Option("--numbers", help="A file of numbers per pair, joined by id.")] = None,
    scores: Annotated[Files, typer.Option("--scores", help="A table of scores of further raters.")] = None,
    policy_logps: Annotated[Path | None, typer.Option("--policy-logps", help="Table of log-probabilities.")] = None,
    reference_logps: Annotated[
        Path | None, typer.Option("--reference-logps", help="The same of the reference model.")
    ] = None,
    per_token: Annotated[bool, typer.Option("--per-token", help="The implicit margin per token of each side.")] = False,
    layout: Annotated[str | None, typer.Option("--layout", help="A public layout, as ultrafeedback_binarized.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: --set limits.per_prompt=1. May be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ranks pairs by margins or by another number per pair and keeps the best: a reason for each, controls beside them."""
    from pairwright.select.run import Selection
    from pairwright.selecting import Beside, select_source
    from pairwright.settings import from_table

    given: dict[str, Any] = {"rule": rule, "seed": seed}
    given |= {"keep": keep} if keep is not None else {}
    given |= {"combine": combine} if combine else {}
    given |= {"margins": [name.strip() for name in margins.split(",")]} if margins else {}
    for key, value in changes_of(change).items():
        _put(given, key, value)
    settings = from_table(Selection, given, where="select")
    beside = Beside(tuple(numbers or ()), tuple(scores or ()), policy_logps, reference_logps, per_token)
    told = select_source(source, out, settings, beside, layout=layout, all_rules=compare)
    if as_json:
        say(json.dumps(told))
        return
    _print(told, out)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """limits.bands.irm = [0.1, 0.9] into nested tables."""
    *path, last = key.split(".")
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {key}: {name} is a value and holds no keys")
    table[last] = value


def _print(told: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False)
    for line in told["read"]:
        say(line)
    lost = ", ".join(f"{name} {n}" for name, n in told["reasons"].items() if name != "kept")
    say(f"\n{told['kept']} of {told['pairs']} pairs kept by {told['rule']}: {told['about']}")
    say(f"not kept: {lost or 'none'}\n")
    sets = {"all": told["sets"]["pool"], "kept": told["sets"]["kept"], "random": told["control"].get("mean")}
    table = Table("", *(name for name, each in sets.items() if each), box=None, pad_edge=False)
    for title, row in _rows([each for each in sets.values() if each]):
        table.add_row(title, *row)
    console.print(table)
    if told["control"]["n"]:
        said = told["control"]
        say(
            f"\noverlap with {said['n']} random subsets {_number(said['overlap'])}, by chance {_number(said['chance'])}"
            + " (they were drawn under the caps of the selection, chance knows none)" * said["capped"]
        )
    say(f"score and length gap, rank correlation: {_number(told['score_and_length']['spearman'])}")
    labels = told["labels"]
    say(
        f"wrong labels: {labels['why']}"
        if labels["pool"] is None
        else f"wrong labels: about {labels['pool']:.1%} of all, if {labels['assumes']}"
    )
    if "compare" in told:
        _print_rules(console, told["compare"])
    for line in told["warnings"]:
        say(f"\n{line}")
    say(f"\npairs   {out}/pairs.parquet, controls in {out}/controls\nreport  {out}/report.html")


def _rows(sets: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    rows = [("pairs", [_number(each["pairs"]) for each in sets])]
    for source in sets[0]["margins"]:
        rows.append((f"margin {source}, mean", [_number(each["margins"][source]["mean"]) for each in sets]))
        rows.append((f"margin {source}, below 0", [_number(each["margins"][source]["below_zero"]) for each in sets]))
    if "length" in sets[0]:
        rows.append(("chosen is longer", [_number(each["length"]["chosen_longer"]) for each in sets]))
    if "prompts" in sets[0]:
        rows.append(("prompts", [_number(each["prompts"]) for each in sets]))
    return rows


def _print_rules(console: Any, told: dict[str, Any]) -> None:
    from rich.table import Column, Table

    sources = list(told["rules"][0]["margins"]) if told["rules"] else []
    titles = ["kept", *(f"mean {name}" for name in sources), "chosen longer", "prompts", "with random", "by chance"]
    table = Table(Column("rule", no_wrap=True), *titles, box=None, pad_edge=False)
    for each in told["rules"]:
        numbers = [each["kept"], *(each["margins"][name] for name in sources)]
        numbers += [each[key] for key in ("chosen_longer", "prompts", "with_random", "chance")]
        table.add_row(each["rule"], *map(_number, numbers))
    say("")
    console.print(table)
    for name, why in told["refused"].items():
        say(f"not run: {name}: {why.partition('; they have')[0]}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.3g}"
