"""Influence of pairs on a validation set: slopes from forward passes against a backward pass per pair.

    python bench/speed/influence.py [--full] [--model FOLDER --adapter FOLDER] [--prompts 8] [--rounds 1]

script     what is usually written: prompt + response of both sides padded to one batch, logits of every position, DPO loss,
           autograd of the adapter, dot product with the validation gradient; one pair at a time
packed     the same with our computation: prompt once, output head on response tokens alone; one pair at a time
ours       every response at theta and at theta + step u: the slope of the gap (forward difference)
central    ours at theta + step u, theta - step u and theta
dattri     dattri's TracIn without projection (vmap of per-pair gradients, those of the validation pairs once more for every
           batch), tiny model alone, where it is installed: pip install --no-deps dattri

The margin of every pair at theta comes out of all of them; the reference's log-probabilities are given. The validation
gradient and the step are made before the clock starts and printed apart. Two data sets: one pair per prompt, and all 6
pairs of 4 responses. Processor seconds per pair beside wall seconds (they bear a busy machine); peak memory above the
loaded model; Spearman and largest relative error against `script`. Each job in a process of its own. A tiny Llama and,
with --full, SmolLM2-135M: with LoRA (r = 16, all linear layers), and the influence of all its weights. Prompts of 100 tokens,
responses of 60 to 200. Nothing is asserted.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "backends"))

import numpy as np

from machine import describe

JOBS = ("script", "packed", "ours", "central", "dattri")
BETA = 0.1
WORDS = "river stone window market simple garden letter winter number bridge colour island morning paper engine"
SETS = {"one pair a prompt": 2, "6 pairs of 4 responses": 4}


def pairs(model: str, prompts: int, responses: int, *, seed: int = 0) -> tuple[list[Any], list[Any], list[Any]]:
    """Word soup, as long in this model's tokens as the description says: every pair of the responses of each prompt."""
    from pairwright.backends.hf import encode_texts, load_tokenizer

    rng = np.random.default_rng(seed)
    words = np.array(WORDS.split())
    each = len(encode_texts(load_tokenizer(model), [" ".join(words)])[0]) / len(words)

    def turn(role: str, n: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(words[rng.integers(0, len(words), max(1, round(n / each)))])}]

    rows: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for _ in range(prompts):
        prompt, said = turn("user", 100), [turn("assistant", int(n)) for n in rng.integers(60, 200, responses)]
        for chosen, rejected in itertools.combinations(said, 2):
            for column, value in zip(rows, (prompt, chosen, rejected), strict=True):
                column.append(value)
    return rows


def load(model: str, adapter: str) -> Any:
    from pairwright.backends.gradients import PairModel, is_adapter

    return PairModel(model, adapter, params="lora" if is_adapter(adapter) else ".", max_length=1024)


def prepare(model: str, adapter: str, prompts: int, responses: int, place: Path) -> dict[str, Any]:
    """The validation gradient, reference gaps and an accurate step, saved for all jobs; what that cost."""
    from pairwright.core.influence import (
        Step,
        agreement,
        choose_step,
        forward_slope,
        influence,
        slope_of_influence,
        steps_for,
    )

    held = load(model, adapter)
    laid, valid = (held.lay(*pairs(model, n, k, seed=s)) for n, k, s in ((prompts, responses, 0), (8, 2, 1)))
    ref_I, ref_V = held.gaps(laid, reference=True), held.gaps(valid, reference=True)
    begun = time.process_time()
    weight = np.full((1, len(ref_V)), 1 / len(ref_V))
    g = held.gradient(valid, ref_V, beta=BETA, weight_WI=weight)[0]
    gradient = time.process_time() - begun
    norm = float(g.norm())
    sample = laid.select(np.arange(min(8, len(ref_I))))
    own_I, here_I = ref_I[: len(sample.group_I)], held.gaps(sample)
    exact_I = np.array([float(g @ each) for *_, each in held.pair_gradients(sample, own_I, beta=BETA)])
    margin_I = BETA * (here_I - own_I)
    tried = []
    for step in steps_for(slope_of_influence(exact_I, margin_I, beta=BETA, norm=norm), (0.1, 0.3, 0.03)):
        with held.moved(g / norm, step):
            slope_I = forward_slope(held.gaps(sample), here_I, step)
        made_I = influence(slope_I, margin_I, beta=BETA, norm=norm)
        tried.append(Step(step, "forward", agreement(made_I, exact_I)))
    chosen = choose_step(tried)
    np.savez(place, u=(g / norm).cpu().numpy(), norm=norm, step=chosen.step, ref=ref_I)
    told = ", ".join(f"{each.step:.2g}: {each.agreement.max_relative:.1e}" for each in tried)
    return {"gradient": gradient / len(ref_V), "steps": told, "parameters": int(g.numel()), "tokens": laid_tokens(laid)}


def laid_tokens(laid: Any) -> list[int]:
    return [sum(group.cost for group in laid.groups), int(laid.n_tokens_SI.sum())]


def script(held: Any, made: Any, data: tuple[list[Any], ...]) -> list[float]:
    """One pair at a time as it is usually written: padded sides, logits of every position, autograd, dot product."""
    import torch

    from pairwright.backends.hf import encode

    tokenizer, model, told = held.held.tokenizer, held.held.model, []
    u = torch.as_tensor(made["u"]) * float(made["norm"])
    for row, (prompt, chosen, rejected) in enumerate(zip(*data, strict=True)):
        start = len(encode(tokenizer, prompt, add_generation_prompt=True))
        whole = [encode(tokenizer, [*prompt, *side]) for side in (chosen, rejected)]
        longest = max(map(len, whole))
        ids = torch.tensor([each + [tokenizer.pad_token_id] * (longest - len(each)) for each in whole])
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in whole])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        said = mask[:, 1:].bool() & (torch.arange(longest - 1) >= start - 1)
        sums = (logp * said).sum(1)
        loss = torch.nn.functional.softplus(-BETA * (sums[0] - sums[1] - float(made["ref"][row])))
        grads = torch.autograd.grad(loss, held.params)
        told.append(float(torch.cat([g.flatten() for g in grads]) @ u))
    return told


def packed(held: Any, made: Any, data: tuple[list[Any], ...]) -> list[float]:
    import torch

    u = torch.as_tensor(made["u"]) * float(made["norm"])
    laid = held.lay(*data)
    return [float(u @ g) for *_, g in held.pair_gradients(laid, made["ref"], beta=BETA, plain=False)]


def ours(held: Any, made: Any, data: tuple[list[Any], ...], *, central: bool = False) -> list[float]:
    import torch

    from pairwright.core.influence import central_slope, forward_slope, influence

    laid, u, step = held.lay(*data), torch.as_tensor(made["u"]), float(made["step"])
    here_I = held.gaps(laid)
    with held.moved(u, step):
        ahead_I = held.gaps(laid)
    slope_I = forward_slope(ahead_I, here_I, step)
    if central:
        with held.moved(u, -step):
            slope_I = central_slope(ahead_I, held.gaps(laid), step)
    return list(influence(slope_I, BETA * (here_I - made["ref"]), beta=BETA, norm=float(made["norm"])))


def dattri_tracin(held: Any, made: Any, data: tuple[list[Any], ...], model: str) -> list[float]:
    """TracIn of dattri: its per-pair gradients by vmap, batches of 8, against the validation pairs, whose mean is taken."""
    from functools import partial

    import torch
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    adapted, valid = held.held.adapted, pairs(model, 8, 2, seed=1)
    ref_V = held.gaps(held.lay(*valid), reference=True)
    kept = held.held.model.config._attn_implementation
    held.held.model.set_attn_implementation("eager")
    names = {f"base_model.model.{name}": p for name, p in zip(held.names, held.params, strict=True)}

    def loss(params: dict[str, Any], batch: tuple[Any, ...]) -> Any:
        ids, said, ref, causal = batch
        logits = torch.func.functional_call(
            adapted, params, (), {"input_ids": ids, "attention_mask": causal, "use_cache": False}
        ).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        sums = (logp * said).sum(1)
        return torch.nn.functional.softplus(-BETA * (sums[0] - sums[1] - ref))

    def loader(rows: tuple[list[Any], ...], ref_I: Any) -> Any:
        sets = [tensors(held, *row) for row in zip(*rows, strict=True)]
        width = max(ids.shape[1] for ids, _ in sets)
        made_rows = []
        for (ids, said), ref in zip(sets, ref_I, strict=True):
            fill = width - ids.shape[1]
            causal = torch.full((width, width), torch.finfo(torch.float32).min).triu(1)[None, None]
            pad = partial(torch.nn.functional.pad, pad=(0, fill))
            made_rows.append((pad(ids), pad(said), torch.tensor(float(ref)), causal))
        return torch.utils.data.DataLoader(made_rows, batch_size=8, shuffle=False)

    task = AttributionTask(loss_func=loss, model=adapted, checkpoints=[adapted.state_dict()])
    attributor = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False, layer_name=list(names))
    attributor.projector_kwargs = None  # 0.3.0 takes its default projection also where None is given
    scores = attributor.attribute(loader(data, made["ref"]), loader(valid, ref_V))
    held.held.model.set_attn_implementation(kept)
    return [float(each) for each in scores.mean(1)]


def tensors(held: Any, prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any]:
    """Token ids (2, T) and which predictions (2, T-1) are of the response."""
    import torch

    from pairwright.backends.hf import encode

    tokenizer = held.held.tokenizer
    start = len(encode(tokenizer, prompt, add_generation_prompt=True))
    whole = [encode(tokenizer, [*prompt, *side]) for side in (chosen, rejected)]
    longest = max(map(len, whole))
    ids = torch.tensor([each + [0] * (longest - len(each)) for each in whole])
    said = torch.tensor([[start - 1 <= t < len(each) - 1 for t in range(longest - 1)] for each in whole])
    return ids, said


def own_memory(what: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) / 1024


def run_job(job: str, model: str, adapter: str, prompts: int, responses: int, place: Path) -> None:
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    if job == "prepare":
        print(json.dumps(prepare(model, adapter, prompts, responses, place)))
        return
    held, made, data = load(model, adapter), np.load(place), pairs(model, prompts, responses)
    first = tuple(column[:1] for column in data)
    work = {"script": script, "packed": packed, "ours": ours, "dattri": lambda *told: dattri_tracin(*told, model),
            "central": lambda *told: ours(*told, central=True)}[job]  # fmt: skip
    work(held, {**made, "ref": made["ref"][:1]}, first)  # warm up, and our choice of a method
    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu = own_memory("VmRSS"), time.perf_counter(), time.process_time()
    told = work(held, made, data)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": own_memory("VmHWM") - before, "told": list(map(float, told))}))


def alone(job: str, *more: Any) -> dict[str, Any]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--job", job, *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        print(f"  {job:8} failed: {(done.stderr.strip().splitlines() or [str(done.returncode)])[-1]}")
        return {}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(label: str, model: str, adapter: str, *, prompts: int, rounds: int, jobs: tuple[str, ...]) -> None:
    from pairwright.core.influence import agreement

    for name, responses in SETS.items():
        count = max(1, prompts * 2 // responses**2) if responses > 2 else prompts
        n = count * responses * (responses - 1) // 2
        with tempfile.TemporaryDirectory() as folder:
            more = ["--model", model, "--adapter", adapter, "--prompts", count, "--responses", responses,
                    "--place", Path(folder) / "made.npz"]  # fmt: skip
            made = alone("prepare", *more)
            if not made:
                continue
            print(
                f"\n{label}, {name}: {n} pairs, {made['tokens'][0]} tokens computed once, {made['tokens'][1]} response tokens in "
                f"pairs, {made['parameters']} parameters\n  before: {made['gradient']:.3g} s cpu per validation pair for its "
                f"gradient; relative error of steps {made['steps']}"
            )
            best: dict[str, dict[str, Any]] = {}
            for _, job in itertools.product(range(rounds), jobs):
                told = alone(job, *more)
                if told and told["cpu"] < best.get(job, {"cpu": np.inf})["cpu"]:
                    best[job] = told
        for job, told in best.items():
            base = best.get("script", told)
            match = agreement(np.array(told["told"]), np.array(base["told"]))
            print(
                f"  {job:8} {told['wall'] / n:8.3f} s a pair, {told['cpu'] / n:8.3f} s cpu, {base['cpu'] / told['cpu']:5.2f} x "
                f"as fast as script, +{told['peak']:6.0f} MB, Spearman {match.spearman:.4f}, error {match.max_relative:.1e}",
                flush=True,
            )


def trained_adapter(model: str, folder: Path) -> str:
    """A LoRA over all linear layers, both factors random and small."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=16, target_modules="all-linear"))
    with torch.no_grad():
        for name, p in made.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 2e-3)
    made.save_pretrained(folder)
    return str(folder)


def main(full: bool, model: str | None, adapter: str | None, prompts: int, rounds: int) -> None:
    print(describe("pairwright", "torch", "transformers", "peft", "dattri"))
    from planted_pairs import moved_copy
    from smollm2 import smollm2_folder
    from tiny_causal import tiny_causal

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more: dict[str, Any] = {"prompts": prompts, "rounds": rounds}
        if model is not None:
            compare(Path(model).name, model, adapter or trained_adapter(model, folder / "a"), jobs=JOBS[:4], **more)
            return
        tiny = str(tiny_causal(folder / "tiny", max_position_embeddings=2048))
        compare("tiny Llama", tiny, trained_adapter(tiny, folder / "a"), jobs=JOBS, **{**more, "prompts": 8 * prompts})
        if full:
            large = str(smollm2_folder(folder))
            compare("SmolLM2-135M", large, trained_adapter(large, folder / "b"), jobs=JOBS[:4], **more)
            whole = str(moved_copy(folder / "c", Path(large), scale=1e-3))
            compare("SmolLM2-135M, all weights", large, whole, jobs=JOBS[:4], **more)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="SmolLM2-135M too: about 20 minutes")
    parser.add_argument("--model")
    parser.add_argument("--adapter")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--responses", type=int, default=2)
    parser.add_argument("--job", choices=("prepare", *JOBS))
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    if options.job:
        run_job(options.job, options.model, options.adapter, options.prompts, options.responses, options.place)
    else:
        main(options.full, options.model, options.adapter, options.prompts, options.rounds)
