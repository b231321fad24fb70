"""The demo: 28 prompts written for this project, and the recipe that runs them."""

from importlib.resources import files
from pathlib import Path

from pairwright.errors import ConfigError
from pairwright.store import write_text


def recipe_file(folder: Path, prompts: int | None = None) -> Path:
    """Copies recipe and prompts (all, or the first so many) into `folder`, where they can be read and changed."""
    shipped = files("pairwright.demo")
    lines = shipped.joinpath("prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    if prompts is not None and not 1 <= prompts <= len(lines):
        raise ConfigError(f"--prompts goes from 1 to {len(lines)}, not {prompts}")
    write_text(folder / "prompts.jsonl", "".join(lines[:prompts]))
    write_text(folder / "recipe.yaml", shipped.joinpath("recipe.yaml").read_text(encoding="utf-8"))
    return folder / "recipe.yaml"
