"""Pairs of word soup for tiny models, and an adapter that was really trained a little."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

WORDS = [
    "ship",
    "harbour",
    "dawn",
    "quay",
    "field",
    "guide",
    "birds",
    "country",
    "choice",
    "good",
    "four",
    "two",
    "before",
    "nobody",
    "turned",
]


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def soup(n: int, *, seed: int = 0, prompts: int | None = None, first: str = "p", longest: int = 12) -> pl.DataFrame:
    """n pairs over so many prompts (default: one each), in the explicit conversational form."""
    rng = np.random.default_rng(seed)
    asked = [" ".join(rng.choice(WORDS, rng.integers(3, 8))) + f" {first}{i}" for i in range(prompts or n)]
    rows = []
    for i in range(n):
        which = i % len(asked)
        a, b = (" ".join(rng.choice(WORDS, rng.integers(2, longest))) for _ in range(2))
        sides = {"chosen": turn("assistant", a), "rejected": turn("assistant", f"{b}.")}
        rows.append(
            {"pair_id": f"{first}{i}", "prompt_id": f"{first}{which}", "prompt": turn("user", asked[which]), **sides}
        )
    return pl.DataFrame(rows)


def moved_copy(folder: Path, model: Path, *, scale: float = 0.02, seed: int = 3) -> Path:
    """The model with every weight moved at random: a theta that is not its reference."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    with torch.no_grad():
        for p in made.parameters():
            p += scale * torch.randn_like(p)
    made.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def texts(frame: pl.DataFrame) -> Sequence[Any]:
    return [frame[name].to_list() for name in ("prompt", "chosen", "rejected")]
