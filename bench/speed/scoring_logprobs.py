"""Log-probabilities over a shared prompt against padded batches and against TRL's reference pass, each job alone.

    python bench/speed/scoring_logprobs.py [--model FOLDER] [--kind many|pairs] [--small] [--rounds 2]

many    64 responses (50 to 300 tokens) to a prompt of about 300
pairs   2 responses to each of 32 prompts: what a pair data set holds. TRL computes nothing but pairs

ours      CausalLM: the prompt once, no padding, the head on response tokens
batches   padded batches of prompt + response in the order given, full logits, log_softmax: what copied scripts do
padded    our own fallback: sorted padded batches, the head on response tokens
trl       DPOTrainer with precompute_ref_log_probs, from its tokenised rows to its numbers (its data set work is not timed)

Tokens per second are response tokens. `off` is the largest distance of a sum from ours, nats. A tiny Llama and (not with
--small) SmolLM2-135M, or a folder of your own; on a GPU where there is one. Jobs are run in turns, the best of the rounds
is printed, processor time beside it because it bears a busy machine; nothing is asserted.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "backends"))

import numpy as np

from machine import describe
from pairwright.backends.causal import CausalLM, CausalSettings
from pairwright.backends.hf import encode, encode_texts, load_tokenizer
from pairwright.protocols import Answered

SEED = 0
BATCH = 8  # sequences of a padded batch, as TRL's default
Job = Callable[[], list[float]]  # the sums, prompt by prompt
WORDS = "river stone window market simple garden letter winter number bridge colour island morning paper engine"


def data(kind: str, small: bool, model: str) -> list[Answered]:
    """Word soup, as long in this model's tokens as the description says."""
    rng = np.random.default_rng(SEED)
    words = np.array(WORDS.split())
    tokens = len(encode_texts(load_tokenizer(model), [" ".join(words)])[0]) / len(words)
    prompts, each = {"many": (1, 16 if small else 64), "pairs": (8 if small else 32, 2)}[kind]

    def text(n: int) -> str:
        return " ".join(words[rng.integers(0, len(words), round(n / tokens))])

    return [
        Answered(i, [{"role": "user", "content": text(290)}], [text(int(n)) for n in rng.integers(48, 298, each)])
        for i in range(prompts)
    ]


def settings(model: str) -> CausalSettings:
    return CausalSettings(model, max_length=2048)


def by_ours(model: str, asks: Sequence[Answered], method: str = "shared") -> Job:
    held = CausalLM(settings(model), method=method)
    view = held.logprobs()

    def job() -> list[float]:
        told = {(each.key, each.place): each for each in view(asks)}
        assert all(each.logp is not None for each in told.values()), "a row has no number"
        return [float(told[ask.key, place].logp or 0) for ask in asks for place in range(len(ask.responses))]

    return job


def by_batches(model: str, asks: Sequence[Answered]) -> Job:
    import torch

    held = CausalLM(settings(model), method="plain")
    rows: list[tuple[list[int], int]] = []

    def job() -> list[float]:
        rows.clear()
        for ask in asks:
            start = len(encode(held.tokenizer, ask.messages, add_generation_prompt=True))
            said = [[*ask.messages, {"role": "assistant", "content": text}] for text in ask.responses]
            rows.extend((encode(held.tokenizer, messages), start) for messages in said)
        sums = []
        for at in range(0, len(rows), BATCH):
            batch = rows[at : at + BATCH]
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch], device=held.device)
            mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch], device=held.device)
            with torch.inference_mode():
                logp = held.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float().log_softmax(-1)
                logp = logp.gather(2, ids[:, 1:, None])[..., 0]
            sums += [float(logp[i, start - 1 : len(row) - 1].double().sum()) for i, (row, start) in enumerate(batch)]
        return sums

    return job


def by_trl(model: str, asks: Sequence[Answered]) -> Job:
    """Neighbours become pairs. The trainer is built without the pass, which is then called as the trainer calls it."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = []
    for ask in asks:
        for chosen, rejected in zip(ask.responses[::2], ask.responses[1::2], strict=True):
            sides = {"chosen": chosen, "rejected": rejected}
            turns = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            rows.append({"prompt": list(ask.messages), **turns})
    cpu = not torch.cuda.is_available()
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=cpu, bf16=False, max_length=2048, report_to="none", disable_tqdm=True,
        per_device_train_batch_size=BATCH // 2, gradient_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows))
    reference = trainer.ref_model if trainer.ref_model is not None else trainer.model

    def job() -> list[float]:
        found: list[float] = []
        tokenised = list(trainer.train_dataset)
        for at in range(0, len(tokenised), BATCH // 2):
            batch: Any = trainer.data_collator(tokenised[at : at + BATCH // 2])
            batch = {name: value.to(trainer.accelerator.device) for name, value in batch.items()}
            chosen, rejected = trainer.compute_ref_log_probs(reference, batch)
            found += [x for pair in zip(chosen.tolist(), rejected.tolist(), strict=True) for x in pair]
        return found

    return job


JOBS: dict[str, Callable[..., Job]] = {
    "ours": by_ours,
    "padded": lambda model, asks: by_ours(model, asks, "padded"),
    "batches": by_batches,
    "trl": by_trl,
}


def own_peak() -> int:
    """Highest resident size of this process, kB; on a GPU the highest that torch held there."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 1024)
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def run_job(name: str, kind: str, model: str, small: bool) -> None:
    """In a process of its own: a first call on little, then the timed one."""
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    asks = data(kind, small, model)
    warm = JOBS[name](model, [asks[0]._replace(responses=asks[0].responses[:2])])
    warm()
    job = JOBS[name](model, asks)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun, busy = time.perf_counter(), time.process_time()
    sums = job()
    told = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - busy}
    print(json.dumps({**told, "peak": own_peak() / 1024, "sums": sums}))


def alone(name: str, kind: str, model: str, small: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", name, "--kind", kind, "--model", model, *["--small"] * small]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        print(f"  {name:8} failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
        return {}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(label: str, kind: str, model: str, small: bool, rounds: int) -> None:
    asks = data(kind, small, model)
    held = CausalLM(settings(model), method="plain")
    made = [held.tokens(ask) for ask in asks]
    n_tokens = sum(
        branch.n_tokens for tokens in made if not isinstance(tokens, str) for branch in tokens.group.branches
    )
    n_prompt = sum(len(tokens.group.prefix) + 1 for tokens in made if not isinstance(tokens, str)) // len(asks)
    print(f"\n{label}, {kind}: {len(asks)} prompts of {n_prompt} tokens, {n_tokens} response tokens")
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for name in JOBS:
            told = alone(name, kind, model, small)
            if told and told["cpu"] < best.get(name, {"cpu": np.inf})["cpu"]:
                best[name] = told
    for name, told in best.items():
        off = np.abs(np.array(told["sums"]) - best["ours"]["sums"]).max()
        ratio, busy = (told[clock] / best["ours"][clock] for clock in ("seconds", "cpu"))
        print(
            f"  {name:8} {n_tokens / told['seconds']:9.0f} tokens/s {told['peak']:7.0f} MB   {ratio:5.2f} x ours' time, "
            f"{busy:5.2f} x its processor time   off {off:.1e}"
        )


def main(small: bool = False, model: str | None = None, kind: str | None = None, rounds: int = 2) -> None:
    print(describe("pairwright", "torch", "transformers", "trl"))
    with tempfile.TemporaryDirectory() as name:
        from smollm2 import smollm2_folder
        from tiny_causal import tiny_causal

        if model is not None:
            models = {Path(model).name: model}
        else:
            models = {"tiny Llama": str(tiny_causal(Path(name) / "tiny", max_position_embeddings=2048))}
            if not small:
                models["SmolLM2-135M"] = str(smollm2_folder(Path(name)))
        for label, folder in models.items():
            for part in ("many", "pairs") if kind is None else (kind,):
                compare(label, part, folder, small, 1 if small else rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job", choices=list(JOBS))
    parser.add_argument("--kind", choices=["many", "pairs"])
    options = parser.parse_args()
    if options.job:
        run_job(options.job, options.kind, options.model, options.small)
    else:
        main(options.small, options.model, options.kind, options.rounds)
