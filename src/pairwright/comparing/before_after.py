"""A short training run on the pairs of a run, and answers before and after it to prompts that were held out."""

import importlib.util
from pathlib import Path
from typing import Any

import polars as pl

from pairwright.comparing.arms import Evaluation, Read
from pairwright.comparing.run import Comparison, compare
from pairwright.errors import DataError
from pairwright.io.pair_files import read_pairs
from pairwright.pipeline import SILENT, Watch
from pairwright.store import write_parquet
from pairwright.train.conditioning import hold_out

HELD_OUT = 0.35  # of the prompts
TRAIN: dict[str, Any] = {
    "loss": "dpo", "lora": True,
    "trl": {"learning_rate": 2e-4, "per_device_train_batch_size": 4, "max_length": 512, "lr_scheduler_type": "constant"},
}  # fmt: skip


def trainable_here() -> bool:
    """Whether what training needs is installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "trl", "peft", "datasets"))


def train_and_look(
    run: Path, *, model: str, raters: list[Any], steps: int, n: int, watch: Watch = SILENT
) -> dict[str, Any]:
    """Trains on the pairs of two thirds of the prompts; the facts of a comparison of one arm, in `run`/trained."""
    out = run / "trained"
    pairs = read_pairs(run, scratch=out).rows
    prompts = pl.concat(
        [pl.read_parquet(path) for path in sorted((run / "stages" / "prompts").glob("prompts-*.parquet"))]
    )
    seen, fresh = hold_out(prompts, share=HELD_OUT, seed=0)
    mine = pairs.filter(pl.col("prompt_id").is_in(seen["prompt_id"].to_list()))
    if mine.height < TRAIN["trl"]["per_device_train_batch_size"] or not fresh.height:
        raise DataError(
            f"{run} has {mine.height} pairs to train on and {fresh.height} prompts to hold out: too few to train"
        )
    write_parquet(out / "pairs.parquet", mine)
    write_parquet(out / "held_out.parquet", fresh)
    table = {"pairs": "pairs.parquet", "train": {**TRAIN, "model": model}, "pair": {"reward": "rules"}}
    told = Evaluation(
        str(out / "held_out.parquet"), raters, n=n, max_tokens=160, seeds=(0,), steps=steps, checkpoints=1,
        decide=raters[0],
    )  # fmt: skip
    return compare(Comparison([Read("trained", table, out)], told, out, controls=False), watch)
