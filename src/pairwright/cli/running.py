"""A recipe run from the command line: progress, what became of each stage, the exit code."""

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pairwright.cli.app import say
from pairwright.cli.tables import print_ledger, print_scores, print_training

if TYPE_CHECKING:
    from pairwright.pipeline import Outcome, Watch
    from pairwright.recipe import Recipe


def run_steps(
    recipe: "Recipe", folder: Path, *, until: str | None, as_json: bool, retry: bool = False
) -> dict[str, Any]:
    from pairwright.pipeline import run as run_steps
    from pairwright.wiring import forget_failures, steps

    with progress(as_json) as watch:
        todo = steps(recipe, folder, watch)
        if retry:
            forget_failures(folder, todo)
        names = [step.name for step in todo]
        todo = todo[: names.index(until) + 1] if until else todo
        outcomes = run_steps(folder, todo, tell=(lambda _: None) if as_json else say)
    return result_of(folder, outcomes)


def result_of(folder: Path, outcomes: "list[Outcome]") -> dict[str, Any]:
    from pairwright.store import read_json

    stages = [each.stage for each in outcomes]
    ledger: dict[str, Any] = read_json(folder / "ledger.json") if "export" in stages else {}
    if "train" in stages:
        ledger["train"] = read_json(folder / "train" / "train.json")
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


def end_of_run(result: dict[str, Any], as_json: bool) -> None:
    """The summary; exit code 2 when rows were lost to failures that a user can mend."""
    failed = {
        reason: n for stage in result.get("stages", []) for reason, n in stage["dropped"].items() if reason in FAILURES
    }
    if as_json:
        say(json.dumps(result))
    elif "stages" in result:
        print_ledger(result, Path(result["run"]))
        if "train" in result:
            say("\nTrained on these pairs:")
            print_training(result["train"], Path(result["run"]) / "train")
    else:
        width = max(len(each["stage"]) for each in result["ran"])
        for each in result["ran"]:
            say(
                f"{each['stage']:{width}} {each['shards_made']} shards made, {each['shards_kept']} kept ({each['why']})"
            )
    if failed:
        told = ", ".join(f"{reason} {n}" for reason, n in failed.items())
        sys.stderr.write(f"pairwright: some rows could not be used: {told}; dropped.parquet names each\n")
        raise typer.Exit(2)


FAILURES = {
    "prompt_missing", "prompt_unusable", "prompt_too_long", "generation_failed",
    "judge_failed", "scoring_failed", "function_failed", "out_of_memory",
}  # fmt: skip


def end_of_scores(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    """What the raters say, side by side; exit code 2 when one failed where it might not the next time."""
    from pairwright.store import read_json

    told: dict[str, Any] = read_json(folder / "scores.json")
    if as_json:
        say(json.dumps(result | told))
    else:
        print_scores(told, folder)
    failed = {line["rater"]: n for line in told["raters"] if (n := sum(line["nulls"].get(why, 0) for why in FAILURES))}
    if failed:
        names = ", ".join(f"{rater} {n}" for rater, n in failed.items())
        sys.stderr.write(f"pairwright: some calls failed: {names}; scores are null there, --retry asks again\n")
        raise typer.Exit(2)


def show_plan(recipe: "Recipe", folder: Path, as_json: bool) -> None:
    from pairwright.pipeline import plan
    from pairwright.wiring import steps

    told = [
        {"stage": step.name, "would_run": bool(why), "why": why or "unchanged"}
        for step, _, _, why in plan(folder, steps(recipe, folder))
    ]
    if as_json:
        say(json.dumps({"run": str(folder), "plan": told}))
        return
    for each in told:
        say(f"{each['stage']:12} {'would run' if each['would_run'] else 'stays':10} {each['why']}")


def progress(quiet: bool) -> Any:
    """A bar for draws and calls: how many of all, how many per second, time left. Only on a terminal."""

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
