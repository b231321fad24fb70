"""A training step of ours against TRL's, each job in a process of its own.

    python bench/speed/training.py [--full] [--model FOLDER] [--rounds 2] [--steps 6]

trl        TRL's DPOTrainer with TRL's defaults: activation checkpointing, bfloat16, the reference computed in each step
trl same   TRL's DPOTrainer with our defaults, its own reference pass before training
ours       RatingDPOTrainer (dpo) with our defaults, the reference computed in each step
imported   the same with reference log-probabilities in the rows, as our `logps` tables hold them
all heads  as imported, with TRL's head on every position: what `head_on_completions` saves
no logs    as imported, without entropy, mean logits and token accuracy, which TRL logs in each step

Seconds per step are processor time beside wall time (it bears a busy machine); the first two steps are left out, the
best of the rest and of the rounds is printed. `loss` is the loss of the last step: the same rows in the same order. A tiny
Llama and, with --full, SmolLM2-135M with LoRA (r = 16); 4 pairs per step, prompt 100 and responses 60 to 200 tokens. On a
GPU where there is one. Nothing is asserted.
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "backends"))

import numpy as np

from machine import describe

BATCH = 4  # pairs per step
WORDS = "river stone window market simple garden letter winter number bridge colour island morning paper engine"
OURS = {"gradient_checkpointing": False}  # where ours differ from TRL's defaults
JOBS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl same": {**OURS, "precompute_ref_log_probs": True},
    "ours": {},
    "imported": {},
    "all heads": {},
    "no logs": {},
}


def rows(model: str, pairs: int) -> list[dict[str, Any]]:
    """Word soup, as long in this model's tokens as the description says."""
    from pairwright.backends.hf import encode_texts, load_tokenizer

    rng = np.random.default_rng(0)
    words = np.array(WORDS.split())
    each = len(encode_texts(load_tokenizer(model), [" ".join(words)])[0]) / len(words)

    def turn(role: str, n: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(words[rng.integers(0, len(words), max(1, round(n / each)))])}]

    return [
        {"prompt": turn("user", 100), **{side: turn("assistant", int(n)) for side, n in zip(SIDES, ns, strict=True)}}
        for ns in rng.integers(60, 200, (pairs, 2))
    ]


SIDES = ("chosen", "rejected")


def clock() -> Any:
    """A callback that notes wall and processor time of every step."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.steps: list[tuple[float, float]] = []

        def on_step_begin(self, *told: Any, **more: Any) -> None:
            self.begun = (time.perf_counter(), time.process_time())

        def on_step_end(self, *told: Any, **more: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = (time.perf_counter(), time.process_time())
            self.steps.append((now[0] - self.begun[0], now[1] - self.begun[1]))

    return Clock()


def trainer_of(job: str, model: str, steps: int, lora: bool, out: str) -> Any:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from pairwright.train import trl as ours

    settings = {
        "output_dir": out, "use_cpu": not torch.cuda.is_available(), "report_to": "none", "disable_tqdm": True,
        "per_device_train_batch_size": BATCH, "max_steps": steps, "logging_steps": 1, "save_strategy": "no",
        "learning_rate": 1e-4, **JOBS[job],
    }  # fmt: skip
    more: dict[str, Any] = {"peft_config": LoraConfig(r=16, target_modules="all-linear")} if lora else {}
    data = Dataset.from_list(rows(model, BATCH * steps))
    if job.startswith("trl"):
        return DPOTrainer(model=model, args=DPOConfig(**settings), train_dataset=data, **more)
    if job != "ours":  # the numbers are made by TRL's own pass, which is not timed
        before = DPOConfig(**{**settings, "precompute_ref_log_probs": True, "gradient_checkpointing": False})
        made = DPOTrainer(model=model, args=before, train_dataset=data).train_dataset
        for side in SIDES:
            data = data.add_column(f"ref_{side}_logps", list(made[f"ref_{side}_logps"]))
    trainer = ours.RatingDPOTrainer(model=model, args=ours.RatingDPOConfig(**settings), train_dataset=data, **more)
    if job == "all heads":
        ours.head_on_completions = contextlib.nullcontext
    if job == "no logs":
        without_logs()
    return trainer


def without_logs() -> None:
    """TRL's head gives log-probabilities alone; what TRL logs of the rest is 0."""
    import torch
    from trl.trainer import utils

    apply: Callable[..., Any] = utils._ChunkedLogProbFunction.apply

    def plain(*told: Any) -> Any:
        logp, *_ = apply(*told[:-1], ("log_probs",))
        none = torch.zeros_like(logp).detach()
        return logp, none, None, none, none.bool()

    utils._ChunkedLogProbFunction.apply = plain


def own_peak() -> int:
    """Highest resident size of this process, kB; on a GPU the highest that torch held there."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() / 1024)
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def run_job(job: str, model: str, steps: int, lora: bool) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    watch = clock()
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        trainer = trainer_of(job, model, steps, lora, out)
        if Path("/proc/self/clear_refs").exists():
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak of training alone
        trainer.add_callback(watch)
        trainer.train()
    loss = next(each["loss"] for each in reversed(trainer.state.log_history) if "loss" in each)
    wall, cpu = (min(values) for values in zip(*watch.steps[2:], strict=True))
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": own_peak() / 1024, "loss": loss}))


def alone(job: str, model: str, steps: int, lora: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", job, "--model", model, "--steps", str(steps), *["--lora"] * lora]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        print(f"  {job:10} failed: {(done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}")
        return {}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(label: str, model: str, *, lora: bool, steps: int, rounds: int) -> None:
    print(f"\n{label}{', LoRA' * lora}: {BATCH} pairs per step, best of {steps - 2} steps in {rounds} rounds")
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for job in JOBS:
            told = alone(job, model, steps, lora)
            print(f"    {job}: {json.dumps(told)}", file=sys.stderr, flush=True)
            if told and told["cpu"] < best.get(job, {"cpu": np.inf})["cpu"]:
                best[job] = told
    base = best.get("trl")
    for job, told in best.items():
        ratio = f"{told['wall'] / base['wall']:5.2f} x trl, {told['cpu'] / base['cpu']:5.2f} x cpu" if base else ""
        print(
            f"  {job:10} {told['wall'] * 1e3:8.0f} ms a step, {told['cpu'] * 1e3:8.0f} ms cpu {told['peak']:7.0f} MB  "
            f"{ratio}  loss {told['loss']:.6f}"
        )


def main(full: bool = False, model: str | None = None, steps: int = 6, rounds: int = 2) -> None:
    print(describe("pairwright", "torch", "transformers", "trl", "peft"))
    with tempfile.TemporaryDirectory() as name:
        from smollm2 import smollm2_folder
        from tiny_causal import tiny_causal

        if model is not None:
            compare(Path(model).name, model, lora=full, steps=steps, rounds=rounds)
            return
        tiny = str(tiny_causal(Path(name) / "tiny", max_position_embeddings=2048))
        compare("tiny Llama", tiny, lora=False, steps=max(steps, 12), rounds=rounds)
        if full:
            compare("SmolLM2-135M", str(smollm2_folder(Path(name))), lora=True, steps=steps, rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="SmolLM2-135M with LoRA too: about half an hour on 2 cores")
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job", choices=list(JOBS))
    parser.add_argument("--lora", action="store_true")
    options = parser.parse_args()
    if options.job:
        run_job(options.job, options.model, options.steps, options.lora)
    else:
        main(options.full, options.model, options.steps, options.rounds)
