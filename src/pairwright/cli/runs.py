"""Commands that run a recipe: demo, run, sample, score."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pairwright.cli.app import VARIANT, DryRun, Json, Out, Set, app, changes_of, parsed, say
from pairwright.cli.running import end_of_run, end_of_scores, run_steps, show_plan
from pairwright.cli.tables import print_comparison, show_pairs
from pairwright.errors import ConfigError, DataError


@app.command()
def demo(
    n: Annotated[int, typer.Option("--n", help="Samples per prompt.")] = 16,
    prompts: Annotated[int | None, typer.Option("--prompts", help="Only the first so many prompts.")] = None,
    out: Out = Path("runs/demo"),
    backend: Annotated[str, typer.Option("--backend", help="openvino (the real small model) or fake.")] = "openvino",
    train: Annotated[
        bool | None,
        typer.Option("--train/--no-train", help="A short training run at the end; where TRL is installed by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """A whole run on this machine, offline, with a real small model; with TRL installed also a short training run."""
    from pairwright.demo import recipe_file
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    path = recipe_file(out, prompts)
    changes: dict[str, object] = {"sample.n": n, "sample.backend": backend}
    if backend != "openvino":
        changes["sample.model"] = None
    result = run_steps(read_recipe(path, Asked(changes)), out, until=None, as_json=as_json)
    if not as_json:
        show_pairs(out)
    if train or (train is None and backend == "openvino" and _can_train()):
        try:
            result["trained"] = _train_demo(out, as_json)
        except DataError as error:  # too few pairs: asked for, it is an error; else the demo ends without it
            if train:
                raise
            if not as_json:
                say(f"No training run: {error}.")
    end_of_run(result, as_json)


def _can_train() -> bool:
    from pairwright.comparing.before_after import trainable_here

    return trainable_here()


def _train_demo(folder: Path, as_json: bool) -> dict[str, Any]:
    """SmolLM2 with a LoRA on the pairs of the demo, before and after on prompts that were held out."""
    from pairwright.backends.openvino import EMBEDDED
    from pairwright.cli.running import progress
    from pairwright.comparing.before_after import train_and_look

    if not as_json:
        say("\nA short training run on these pairs, then answers to prompts that were held out; a few minutes.")
    with progress(as_json) as watch:
        raters = ["rules", "length", "repetition"]
        facts = train_and_look(folder, model=EMBEDDED, raters=raters, steps=8, n=4, watch=watch)
    if not as_json:
        print_comparison(facts, folder / "trained")
        say("Eight steps on a few pairs: what it shows is that the parts work together, not that pairs help.\n")
    return facts


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME_OF_THE_RECIPE.")] = None,
    change: Set = None,
    dry_run: DryRun = False,
    allow_variant: Annotated[bool, typer.Option("--allow-variant", help=VARIANT)] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again where a rater failed.")] = False,
    as_json: Json = False,
) -> None:
    """All stages of a recipe into one run folder; what is done and unchanged is not done again."""
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    folder = out or Path("runs") / recipe.stem
    asked = Asked(changes_of(change), allow_variant=allow_variant)
    if dry_run:
        show_plan(read_recipe(recipe, asked), folder, as_json)
        return
    end_of_run(run_steps(read_recipe(recipe, asked), folder, until=None, as_json=as_json, retry=retry), as_json)


@app.command()
def sample(recipe: Path, out: Out, change: Set = None, as_json: Json = False) -> None:
    """A recipe up to its responses."""
    from pairwright.recipe import Asked
    from pairwright.wiring import read_recipe

    end_of_run(run_steps(read_recipe(recipe, Asked(changes_of(change))), out, until="sample", as_json=as_json), as_json)


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
    allow_variant: Annotated[bool, typer.Option("--allow-variant", help=VARIANT)] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Ask again where a rater failed.")] = False,
    as_json: Json = False,
) -> None:
    """A recipe up to its scores, or responses that exist already: any number of raters, side by side."""
    from pairwright.recipe import Asked, file_recipe
    from pairwright.wiring import read_recipe

    raters = [parsed(text) for text in rater or []]
    if source.suffix in {".yaml", ".yml"}:
        if column or layout:
            raise ConfigError("--column and --layout are for a file of responses; a recipe says it under candidates")
        recipe = read_recipe(source, Asked(changes_of(change), raters, allow_variant))
    else:
        columns = {key: str(value) for key, value in changes_of(column, parse=False).items()}
        recipe = file_recipe(source, Asked(changes_of(change), raters, allow_variant), columns=columns, layout=layout)
    result = run_steps(recipe, out, until="scores", as_json=as_json, retry=retry)
    end_of_scores(result, out, as_json)
