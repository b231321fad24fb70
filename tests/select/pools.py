"""Pools of pairs for the tests of selection."""

import numpy as np
import polars as pl


def pool(
    n: int = 300, *, seed: int = 0, per_prompt: int = 3, missing: float = 0.05, whole: bool = False
) -> pl.DataFrame:
    """Every column that a rule may read; `whole` ids are integers. Some numbers are null, some nan."""
    rng = np.random.default_rng(seed)
    at = np.arange(n)
    quality = rng.normal(1, 2, n)
    length = rng.integers(5, 400, (2, n))
    numbers = {
        "margin": 5 * (quality + rng.normal(0, 1, n)),
        "margin_implicit": 8 * (quality + rng.normal(0, 1, n)),
        "margin_judge": quality + rng.normal(0, 1, n),
        "loss": rng.gamma(2, 0.3, n),
        "loss_val": rng.gamma(2, 0.3, n),
        "irm": rng.normal(0.5, 1, n),
        "influence": rng.standard_t(3, n),
        "wpo_weight": rng.uniform(0, 1.3, n),
        "ppl_diff": np.where(rng.random(n) < 0.8, -1.5, 1.5) + rng.normal(0, 0.5, n),
        "reward_fresh": rng.normal(4, 2, n),
    }
    for k, values in enumerate(numbers.values()):
        values[rng.random(n) < missing] = np.nan if k % 2 else np.inf
    ids = {
        "prompt_id": at // per_prompt if whole else [f"p{i // per_prompt:04d}" for i in at],
        "chosen_id": at if whole else [f"c{i:04d}" for i in at],
        "rejected_id": at + n if whole else [f"r{i:04d}" for i in at],
    }
    frame = pl.DataFrame(
        {
            **ids,
            **numbers,
            "score_chosen": rng.normal(5, 2, n),
            "n_tokens_chosen": length[0],
            "n_tokens_rejected": length[1],
            "source": [f"s{i % 4}" for i in at],
        }
    )
    return frame.with_columns(
        pl.when(pl.col(name).is_infinite()).then(None).otherwise(name).name.keep() for name in numbers
    )
