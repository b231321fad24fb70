"""The command line. Heavy modules load inside the commands that need them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairwright import __version__
from pairwright.errors import ConfigError, PairwrightError

if TYPE_CHECKING:
    from pairwright.pipeline import Outcome, Watch
    from pairwright.recipe import Recipe
    from pairwright.score.combine import Reward

app = typer.Typer(
    help="Builds, repairs and explains the preference pairs that DPO trains on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_VARIANT = "Take a reward model whose scores move with batch or padding, and record it."
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A key of the recipe: --set sample.n=4. May be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; run nothing.")]


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _version(asked: bool) -> None:
    if asked:
        _say(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Builds, repairs and explains the preference pairs that DPO trains on."""


@app.command()
def demo(
    n: Annotated[int, typer.Option("--n", help="Samples per prompt.")] = 16,
    prompts: Annotated[int | None, typer.Option("--prompts", help="Only the first so many prompts.")] = None,
    out: Out = Path("runs/demo"),
    backend: Annotated[str, typer.Option("--backend", help="openvino (the real small model) or fake.")] = "openvino",
    as_json: Json = False,
) -> None:
    """A whole run on this machine, offline, with a real small model."""
    from pairwright.demo import recipe_file
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    path = recipe_file(out, prompts)
    changes: dict[str, object] = {"sample.n": n, "sample.backend": backend}
    if backend != "openvino":
        changes["sample.model"] = None
    result = _run(read_recipe(path, Asked(changes)), out, until=None, as_json=as_json)
    if not as_json:
        _show_pairs(out)
    _end(result, as_json)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME_OF_THE_RECIPE.")] = None,
    change: Set = None,
    dry_run: DryRun = False,
    allow_variant: Annotated[bool, typer.Option("--allow-variant", help=_VARIANT)] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again where a rater failed.")] = False,
    as_json: Json = False,
) -> None:
    """All stages of a recipe into one run folder; what is done and unchanged is not done again."""
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    folder = out or Path("runs") / recipe.stem
    asked = Asked(_changes(change), allow_variant=allow_variant)
    if dry_run:
        _dry_run(read_recipe(recipe, asked), folder, as_json)
        return
    _end(_run(read_recipe(recipe, asked), folder, until=None, as_json=as_json, retry=retry), as_json)


@app.command()
def sample(recipe: Path, out: Out, change: Set = None, as_json: Json = False) -> None:
    """A recipe up to its responses."""
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    _end(_run(read_recipe(recipe, Asked(_changes(change))), out, until="sample", as_json=as_json), as_json)


@app.command()
def score(  # noqa: PLR0913  (options of a command)
    source: Annotated[Path, typer.Argument(help="A recipe (.yaml), or responses (.parquet, .jsonl).")],
    out: Out,
    rater: Annotated[
        list[str] | None,
        typer.Option("--rater", help="A rater: rules, FILE.py:FUNCTION, or '{rater: reward_model, model: ...}'."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Another name: --column response=answer.")
    ] = None,
    layout: Annotated[str | None, typer.Option("--layout", help="A public layout, as ultrafeedback or nectar.")] = None,
    change: Set = None,
    allow_variant: Annotated[bool, typer.Option("--allow-variant", help=_VARIANT)] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again where a rater failed.")] = False,
    as_json: Json = False,
) -> None:
    """A recipe up to its scores, or responses that exist already: any number of raters, side by side."""
    from pairwright.recipe import Asked, file_recipe
    from pairwright.wiring import read_recipe

    raters = [_value(text) for text in rater or []]
    if source.suffix in {".yaml", ".yml"}:
        if column or layout:
            raise ConfigError("--column and --layout are for a file of responses; a recipe says it under candidates")
        recipe = read_recipe(source, Asked(_changes(change), raters, allow_variant))
    else:
        columns = {key: str(value) for key, value in _changes(column, parse=False).items()}
        recipe = file_recipe(source, Asked(_changes(change), raters, allow_variant), columns=columns, layout=layout)
    result = _run(recipe, out, until="scores", as_json=as_json, retry=retry)
    _end_of_scores(result, out, as_json)


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

    given = {"method": method, "apply": apply, "raters": rater or [], **_changes(change)}
    settings = from_table(Cleaning, given, where="clean")
    told = clean_source(source, out, settings, layout=layout)
    if as_json:
        _say(json.dumps(told))
        return
    _say(f"{source}: {told['read']}")
    for case in told["cases"]:
        name = f"{case['case']} ({case['rater']})" if case["rater"] else case["case"]
        _say(f"\n{name}: {case['words']}")
        for option in case["options"]:
            _say(f"  - {option}")
        if case.get("outcome") not in (None, "done"):
            _say(f"  {case['outcome']}: {case['why']}")
        if note := case.get("found", {}).get("note"):
            _say(f"  {note}")
        if case.get("forced"):
            _say("  forced: nothing can be known here; no proposal is called safe")
    _say(f"\n{told['proposals']} proposals, {told['safe']} safe; applied: {told['applied']}")
    _say(f"files   {out}/proposals.parquet, soft.parquet, clean.json\nreport  {out}/report.html")


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
    settings = from_table(Pairing, {"chosen": chosen, "rejected": rejected or "min", **_changes(change)}, where="pair")
    reward = _reward(rater, combine)
    columns = {key: str(value) for key, value in _changes(column, parse=False).items()}
    _free(out, ["grid.json"] if grid else _WRITTEN, file, force=force)
    lost: list[dict[str, Any]] = []
    if layout:
        from pairwright.io.layouts import candidate_frames

        batches = candidate_frames(file, layout, dropped=lost)
    else:
        batches = read_candidates(file, columns=columns, raters=list(reward.raters) if reward else [])
    if grid:
        _print_grid(export_grid(batches, out, settings, reward=reward), out, as_json)
        return
    told = file_manifest(file, settings, columns, reward)
    ledger = export_file(batches, out, settings, Export(jsonl, file.stem), told, reward=reward, lost=lost)
    if as_json:
        _say(json.dumps(ledger))
        return
    _print_ledger(ledger, out)


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

    given = _changes(option)
    texts = {key: value.replace("\\n", "\n") for key, value in _changes(option, parse=False).items() if key in _TEXTS}
    options = from_table(Options, {**given, **texts}, where="--option")
    told = convert_file(source, target, to=to, layout=layout, options=options, lossy=lossy, force=force)
    if as_json:
        _say(json.dumps(told))
        return
    _say(f"{source} is {told['detected']}: {told['about']}")
    _say(f"{told['rows_in']} {told['unit']}s in, {told['rows_out']} written as {to} to {target}")
    for reason, count in told["dropped"].items():
        _say(f"  dropped {count}: {reason} (each is named in {target.name}.dropped.jsonl)")
    for finding in told["findings"]:
        _say(f"  found {finding['count']}: {finding['code']}")
    if told["left_out"]:
        _say(f"  left out: {', '.join(told['left_out'])}")
    if told["declaration"]:
        _say(f"\nFor the trainer's own configuration:\n{told['declaration']}")


def _value(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


_WRITTEN = ["pairs.parquet", "dropped.parquet", "ledger.json", "report.html", "manifest.json", "README.md"]


def _free(folder: Path, names: list[str], file: Path, *, force: bool) -> None:
    """Refuses to write over anything that an earlier, unfinished try of ours did not leave, and over the input always."""
    from pairwright.export import UNFINISHED

    there = [folder / name for name in names if (folder / name).exists()]
    if any(file.exists() and path.samefile(file) for path in there):
        raise ConfigError(f"{file} is the input itself; choose another --out")
    if there and not force and not (folder / UNFINISHED).exists():
        raise ConfigError(f"{there[0]} is there already; choose another --out or pass --force")


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


def _print_grid(lines: list[dict[str, Any]], folder: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if as_json:
        _say(json.dumps({"grid": lines}))
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


def _changes(given: list[str] | None, *, parse: bool = True) -> dict[str, Any]:
    """["sample.n=4"] -> {"sample.n": 4}; values are read as YAML."""
    changes: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not KEY=VALUE")
        changes[key] = _value(value) if parse else value
    return changes


def _run(recipe: "Recipe", folder: Path, *, until: str | None, as_json: bool, retry: bool = False) -> dict[str, Any]:
    from pairwright.pipeline import run as run_steps
    from pairwright.wiring import forget_failures, steps

    with _progress(as_json) as watch:
        todo = steps(recipe, folder, watch)
        if retry:
            forget_failures(folder, todo)
        names = [step.name for step in todo]
        todo = todo[: names.index(until) + 1] if until else todo
        outcomes = run_steps(folder, todo, tell=(lambda _: None) if as_json else _say)
    return _result(folder, outcomes)


def _result(folder: Path, outcomes: "list[Outcome]") -> dict[str, Any]:
    from pairwright.store import read_json

    ledger = read_json(folder / "ledger.json") if outcomes[-1].stage == "export" else {}
    made = [
        {
            "stage": each.stage,
            "shards_made": each.made,
            "shards_kept": each.kept,
            "why": each.why,
            "seconds": round(each.seconds, 3),
        }
        for each in outcomes
    ]
    return {"run": str(folder), "ran": made, **ledger}


def _end(result: dict[str, Any], as_json: bool) -> None:
    """The summary; exit code 2 when rows were lost to failures that a user can mend."""
    failed = {
        reason: n for stage in result.get("stages", []) for reason, n in stage["dropped"].items() if reason in _FAILURES
    }
    if as_json:
        _say(json.dumps(result))
    elif "stages" in result:
        _print_ledger(result, Path(result["run"]))
    else:
        width = max(len(each["stage"]) for each in result["ran"])
        for each in result["ran"]:
            _say(
                f"{each['stage']:{width}} {each['shards_made']} shards made, {each['shards_kept']} kept ({each['why']})"
            )
    if failed:
        told = ", ".join(f"{reason} {n}" for reason, n in failed.items())
        sys.stderr.write(f"pairwright: some rows could not be used: {told}; dropped.parquet names each\n")
        raise typer.Exit(2)


_FAILURES = {
    "prompt_missing", "prompt_unusable", "prompt_too_long", "generation_failed",
    "judge_failed", "scoring_failed", "function_failed", "out_of_memory",
}  # fmt: skip


def _end_of_scores(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    """What the raters say, side by side; exit code 2 when one failed where it might not the next time."""
    from pairwright.store import read_json

    told: dict[str, Any] = read_json(folder / "scores.json")
    if as_json:
        _say(json.dumps(result | told))
    else:
        _print_scores(told, folder)
    failed = {line["rater"]: n for line in told["raters"] if (n := sum(line["nulls"].get(why, 0) for why in _FAILURES))}
    if failed:
        names = ", ".join(f"{rater} {n}" for rater, n in failed.items())
        sys.stderr.write(f"pairwright: some calls failed: {names}; scores are null there, --retry asks again\n")
        raise typer.Exit(2)


def _print_scores(told: dict[str, Any], folder: Path) -> None:
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
        _say(text)


def _print_ledger(ledger: dict[str, Any], folder: Path) -> None:
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
        _say(line)


def _dry_run(recipe: "Recipe", folder: Path, as_json: bool) -> None:
    from pairwright.pipeline import plan
    from pairwright.wiring import steps

    told = [
        {"stage": step.name, "would_run": bool(why), "why": why or "unchanged"}
        for step, _, _, why in plan(folder, steps(recipe, folder))
    ]
    if as_json:
        _say(json.dumps({"run": str(folder), "plan": told}))
        return
    for each in told:
        _say(f"{each['stage']:12} {'would run' if each['would_run'] else 'stays':10} {each['why']}")


def _progress(quiet: bool) -> Any:
    """A bar for draws and calls: how many of all, how many per second, time left. Only on a terminal."""
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from pairwright.pipeline import Watch

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
            yield _watch(bar, Watch)

    return shown()


def _watch(bar: Any, kind: "type[Watch]") -> "Watch":
    import time

    state: dict[str, Any] = {}

    def begin(total: int, what: str) -> None:
        state.update(task=bar.add_task(what, total=total, speed=""), since=time.monotonic(), tokens=0, calls=0)

    def done(calls: int, tokens: int) -> None:
        state["tokens"] += tokens
        state["calls"] += calls
        count, unit = (state["tokens"], "tokens") if state["tokens"] else (state["calls"], "calls")
        bar.update(
            state["task"], advance=calls, speed=f"{count / max(1e-9, time.monotonic() - state['since']):.0f} {unit}/s"
        )

    return kind(begin, done)


def _show_pairs(folder: Path, count: int = 3) -> None:
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


def main() -> None:
    """Our own errors in one line and exit code 2; everything else with its traceback."""
    try:
        app()
    except PairwrightError as error:
        sys.stderr.write(f"pairwright: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
