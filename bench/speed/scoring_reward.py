"""Reward model, rows per second: sorted batches with a token budget against what copied scripts do.

    python bench/speed/scoring_reward.py [--full]

ours          texts sorted by length, batches of at most 16,384 tokens and 10 % padding a row, equal texts once
unsorted 16   batches of 16 in the order of the file, padded to the longest, masked
one by one    batch size 1

Rows are prompts of about 40 words with responses of 5 to 300, lengths skewed as those of models are. Bodies: a tiny
Llama, and SmolLM2-135M with a fresh reward head. All three score the same tokens with the same weights; the largest
difference from one by one is printed. Ways are run in turns, the best of the rounds counts; nothing is asserted.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "backends"))

import numpy as np

from machine import describe
from pairwright.backends.hf import quiet
from pairwright.backends.transformers import RewardModelSettings, TransformersReward
from pairwright.errors import MissingDependency
from pairwright.protocols import Item

SEED = 0
WORDS = "the a ship left harbour before dawn and nobody saw which way it turned because of rain two plus four"
FIXED = 16


def make_items(rows: int) -> list[Item]:
    """Words at random; response lengths are log-normal, 5 to 300 words, four responses to a prompt."""
    rng = np.random.default_rng(SEED)
    words = WORDS.split()
    sizes = np.clip(rng.lognormal(4.3, 0.8, rows), 5, 300).astype(int)
    prompts = [" ".join(rng.choice(words, 40)) for _ in range(-(-rows // 4))]
    return [
        Item(
            i, [{"role": "user", "content": f"{i // 4} {prompts[i // 4]}"}], f"{i} {' '.join(rng.choice(words, size))}"
        )
        for i, size in enumerate(sizes)
    ]


def fixed_batches(model: TransformersReward, items: Sequence[Item], size: int) -> np.ndarray:
    """What scripts do, done right: the model's own forward with a mask, `size` texts at a time in the order given."""
    import torch

    scores = []
    tokenizer, classifier = model._tokenizer, model._model
    for first in range(0, len(items), size):
        said = [
            [*item.messages, {"role": "assistant", "content": item.response}] for item in items[first : first + size]
        ]
        texts = tokenizer.apply_chat_template(said, tokenize=False)
        batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        batch = batch.to(classifier.device)
        with torch.inference_mode():
            logits = classifier(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scores += logits[:, 0].float().tolist()
    return np.array(scores)


def ours(model: TransformersReward, items: Sequence[Item]) -> np.ndarray:
    told = {each.key: each.scores[""] for each in model(items)}
    return np.array([told[item.key] for item in items])


WAYS: dict[str, Callable[[TransformersReward, Sequence[Item]], np.ndarray]] = {
    "one by one": lambda model, items: fixed_batches(model, items, 1),
    f"unsorted {FIXED}": lambda model, items: fixed_batches(model, items, FIXED),
    "ours": ours,
}


def compare(model: TransformersReward, items: Sequence[Item], rounds: int) -> None:
    best = dict.fromkeys(WAYS, np.inf)
    scores: dict[str, np.ndarray] = {}
    for way in WAYS.values():  # first calls are not timed
        way(model, items[:2])
    for _ in range(rounds):
        for name, way in WAYS.items():
            begun = time.perf_counter()
            scores[name] = way(model, items)
            best[name] = min(best[name], time.perf_counter() - begun)
    for name, seconds in best.items():
        off = np.abs(scores[name] - scores["one by one"]).max()
        print(
            f"  {name:12} {len(items) / seconds:8.1f} rows/s   {best['one by one'] / seconds:5.2f} x one by one   "
            f"largest difference {off:.1e}"
        )


def tiny(folder: Path) -> Path:
    from tiny_reward import tiny_reward

    return tiny_reward(folder, max_position_embeddings=4096)


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M with a fresh head. Padding is <|endoftext|>: texts end otherwise, so every way reads the same place."""
    import torch
    from smollm2 import smollm2_folder
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    plain = smollm2_folder(folder)
    torch.manual_seed(SEED)
    with quiet():
        model = LlamaForSequenceClassification.from_pretrained(plain, num_labels=1, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(plain)
        tokenizer.pad_token = "<|endoftext|>"
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder / "reward")
        tokenizer.save_pretrained(folder / "reward")
    return folder / "reward"


def main(small: bool = True, cache: Path | None = None) -> None:
    """`small` ends within two minutes on two cores; `cache` keeps the converted SmolLM2 for the next time."""
    import torch

    bodies: dict[str, tuple[Callable[[Path], Path], int, int]] = {
        "tiny Llama": (tiny, 600 if small else 10_000, 2),
        "SmolLM2-135M": (smollm2, 24 if small else 512, 1 if small else 2),
    }
    print(describe("pairwright", "torch", "transformers", "numpy"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory() as name:
        for body, (build, rows, rounds) in bodies.items():
            try:
                folder = build((cache or Path(name)) / body.split("-")[0].replace(" ", "-").lower())
            except MissingDependency as error:
                print(f"\n{body}: not run: {error}")
                continue
            items = make_items(rows)
            for dtype in _dtypes():
                model = TransformersReward(RewardModelSettings(str(folder), dtype=dtype))
                tokens = sum(len(ids) for ids in model.encode([(item.messages, item.response) for item in items]))
                print(f"\n{body}, {dtype}, {device}: {rows} rows, {tokens / rows:.0f} tokens on average")
                compare(model, items, rounds)


def _dtypes() -> tuple[Any, ...]:
    import torch

    return ("float32", "bfloat16") if torch.cuda.is_available() else ("float32",)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    main(small=not options.full, cache=options.cache)
