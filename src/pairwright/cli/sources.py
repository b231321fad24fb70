"""Commands over files that exist already: clean, pair, convert."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairwright.cli.app import Json, Out, app, changes_of, free, say
from pairwright.cli.tables import print_grid, print_ledger
from pairwright.errors import ConfigError

if TYPE_CHECKING:
    from pairwright.score.combine import Reward


@app.command()
def clean(
    source: Annotated[Path, typer.Argument(help="A run folder, or a file of scores, comparisons or pairs.")],
    out: Out,
    method: Annotated[str, typer.Option("--method", help="auto, lad, columns, two_way, low_rank.")] = "auto",
    apply: Annotated[
        str, typer.Option("--apply", help="none, or safe: scores of their own with the proposals.")
    ] = "none",
    rater: Annotated[list[str] | None, typer.Option("--rater", help="Only these raters, or columns of a file.")] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="A public layout, as ultrafeedback.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: --set z0=6, rank=2, force=true.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What can be known about scores and comparisons, what does not fit, and proposals; nothing is overwritten."""
    from pairwright.clean.evidence import Cleaning
    from pairwright.cleaning import clean_source
    from pairwright.settings import from_table

    given = {"method": method, "apply": apply, "raters": rater or [], **changes_of(change)}
    settings = from_table(Cleaning, given, where="clean")
    told = clean_source(source, out, settings, layout=layout)
    if as_json:
        say(json.dumps(told))
        return
    say(f"{source}: {told['read']}")
    for case in told["cases"]:
        name = f"{case['case']} ({case['rater']})" if case["rater"] else case["case"]
        say(f"\n{name}: {case['words']}")
        for option in case["options"]:
            say(f"  - {option}")
        if case.get("outcome") not in (None, "done"):
            say(f"  {case['outcome']}: {case['why']}")
        if note := case.get("found", {}).get("note"):
            say(f"  {note}")
        if case.get("forced"):
            say("  forced: nothing can be known here; no proposal is called safe")
    say(f"\n{told['proposals']} proposals, {told['safe']} safe; applied: {told['applied']}")
    say(f"files   {out}/proposals.parquet, soft.parquet, clean.json\nreport  {out}/report.html")


@app.command()
def pair(  # noqa: PLR0913  (options of a command)
    file: Annotated[Path, typer.Argument(help="Scored candidates, .parquet or .jsonl, long or nested.")],
    out: Out,
    rejected: Annotated[
        str | None, typer.Option("--rejected", help="Rule of the rejected side: mu-2sigma, min.")
    ] = None,
    chosen: Annotated[str, typer.Option("--chosen", help="Rule of the chosen side.")] = "max",
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Another name: --column score=reward_7b.")
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="A public layout, as ultrafeedback or nectar.")] = None,
    rater: Annotated[list[str] | None, typer.Option("--rater", help="A column of scores, NAME or NAME=WEIGHT.")] = None,
    combine: Annotated[
        str, typer.Option("--combine", help="Of several raters: mean_z, mean_rank, worst_z, mean (one scale).")
    ] = "mean_z",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: --set min_gap=0.5, seed=1, ddof=1.")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="All 21 pairs of the seven positions instead, for studies.")
    ] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write pairs.jsonl too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier result in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Scored candidates into pairs: parquet, ledger, card and page."""
    from pairwright.export import Export, export_file, export_grid
    from pairwright.io.candidates import read_candidates
    from pairwright.manifest import file_manifest
    from pairwright.pair.build import Pairing
    from pairwright.settings import from_table

    if (rejected is None) is not grid:
        raise ConfigError(
            "name the rejected rule, as --rejected mu-2sigma or --rejected min; --grid alone takes all 21 pairs"
        )
    if layout and (column or rater):
        raise ConfigError("--layout says which columns there are; leave out --column and --rater")
    if grid and (jsonl or chosen != "max"):
        raise ConfigError("--grid takes all 21 pairs as Parquet; leave out --chosen and --jsonl")
    settings = from_table(
        Pairing, {"chosen": chosen, "rejected": rejected or "min", **changes_of(change)}, where="pair"
    )
    reward = _reward(rater, combine)
    columns = {key: str(value) for key, value in changes_of(column, parse=False).items()}
    free(out, ["grid.json"] if grid else WRITTEN, file, force=force)
    lost: list[dict[str, Any]] = []
    if layout:
        from pairwright.io.layouts import candidate_frames

        batches = candidate_frames(file, layout, dropped=lost)
    else:
        batches = read_candidates(file, columns=columns, raters=list(reward.raters) if reward else [])
    if grid:
        print_grid(export_grid(batches, out, settings, reward=reward), out, as_json)
        return
    told = file_manifest(file, settings, columns, reward)
    ledger = export_file(batches, out, settings, Export(jsonl, file.stem), told, reward=reward, lost=lost)
    if as_json:
        say(json.dumps(ledger))
        return
    print_ledger(ledger, out)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The file, .parquet, .jsonl or .json.")],
    target: Annotated[Path, typer.Argument(help="The file to write, .parquet or .jsonl.")],
    to: Annotated[str, typer.Option("--to", help="The layout to write; docs/layouts.md lists them.")],
    layout: Annotated[
        str | None, typer.Option("--layout", help="The layout of the file, when it is not to be found out.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="prompt_end, score, judge, repair_tens: KEY=VALUE.")
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Leave out what the layout has no place for.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """One public layout into another, no column lost."""
    from pairwright.io.layouts import Options, convert_file
    from pairwright.settings import from_table

    given = changes_of(option)
    texts = {key: value.replace("\\n", "\n") for key, value in changes_of(option, parse=False).items() if key in _TEXTS}
    options = from_table(Options, {**given, **texts}, where="--option")
    told = convert_file(source, target, to=to, layout=layout, options=options, lossy=lossy, force=force)
    if as_json:
        say(json.dumps(told))
        return
    say(f"{source} is {told['detected']}: {told['about']}")
    say(f"{told['rows_in']} {told['unit']}s in, {told['rows_out']} written as {to} to {target}")
    for reason, count in told["dropped"].items():
        say(f"  dropped {count}: {reason} (each is named in {target.name}.dropped.jsonl)")
    for finding in told["findings"]:
        say(f"  found {finding['count']}: {finding['code']}")
    if told["left_out"]:
        say(f"  left out: {', '.join(told['left_out'])}")
    if told["declaration"]:
        say(f"\nFor the trainer's own configuration:\n{told['declaration']}")


WRITTEN = ["pairs.parquet", "dropped.parquet", "ledger.json", "report.html", "manifest.json", "README.md"]


_TEXTS = ("prompt_end", "score", "judge")  # options that are taken as they are typed


def _reward(raters: list[str] | None, combine: str) -> "Reward | None":
    from pairwright.score.combine import Reward
    from pairwright.settings import from_table

    if not raters:
        return None
    named = dict(text.partition("=")[::2] for text in raters)
    if len(named) < len(raters):
        raise ConfigError(f"a rater is named twice: {', '.join(raters)}")
    try:
        weights = {name: float(weight or 1) for name, weight in named.items()}
    except ValueError as error:
        raise ConfigError(f"--rater is NAME or NAME=WEIGHT: {error}") from error
    return from_table(Reward, {"raters": weights, "combine": combine}, where="--rater")
