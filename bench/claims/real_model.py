"""The usual pairs against ours on a real model: `pairwright compare` on SmolLM2-135M with LoRA, with its controls.

    python bench/claims/real_model.py [--out runs/claims/real_model] [--n 32] [--steps 24] [--seeds 0,1] [--draws 4]
                                      [--pairs FILE] [--page docs/evidence_real_model.md]

Prompts of the demo with verifiable rewards: two thirds are sampled, paired in two ways and trained on, the rest is answered by
every policy. Arms: `usual` (highest against lowest, all pairs, plain DPO), `ours` (mu - 2 sigma, the half with the largest
margins, rating_dpo), and the controls of `ours`. With --pairs a file of real preference rows instead, of which a tenth of the
prompts is held out: then the answer is how many held-out pairs each policy orders right. All is resumed where it was stopped.
On a GPU where there is one. The page is written from the results; nothing is asserted.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from machine import describe
from pairwright.backends.openvino import EMBEDDED
from pairwright.comparing.arms import read_files
from pairwright.comparing.run import Comparison, compare
from pairwright.demo import recipe_file
from pairwright.io.prompts import read_prompts
from pairwright.manifest import versions
from pairwright.pipeline import run
from pairwright.recipe import Asked
from pairwright.report.compare import told
from pairwright.store import write_text
from pairwright.train.conditioning import hold_out
from pairwright.wiring import read_recipe, steps

HELD_OUT = 0.35
TRL = {"learning_rate": 2e-4, "per_device_train_batch_size": 4, "max_length": 512, "lr_scheduler_type": "constant"}
BASE = {"model": EMBEDDED, "lora": True, "trl": TRL}
ARMS: dict[str, dict[str, Any]] = {
    "usual": {"pair": {"chosen": "max", "rejected": "min", "reward": "rules"}, "train": {**BASE, "loss": "dpo"}},
    "ours": {
        "pair": {"chosen": "max", "rejected": "mu-2sigma", "reward": "rules"},
        "select": {"margins": ["external"], "keep": 0.5},
        "train": {**BASE, "loss": "rating_dpo", "beta1": 0.2, "rating_scale": 4.0},
    },
}


def demo_arms(out: Path, n: int) -> list[Path]:
    """Both ways to pair the same responses; the recipes of the arms beside them."""
    shipped = recipe_file(out / "demo")
    seen, fresh = hold_out(read_prompts(shipped.parent / "prompts.jsonl").kept, share=HELD_OUT, seed=0)
    seen.write_parquet(out / "prompts.parquet")
    fresh.write_parquet(out / "held_out.parquet")
    recipe = yaml.safe_load(shipped.read_text())
    files, first = [], None
    for name, arm in ARMS.items():
        folder = out / "runs" / name
        if first and not folder.exists():
            shutil.copytree(first / "stages", folder / "stages")  # the same responses and scores are not made again
        whole = {**recipe, "prompts": str((out / "prompts.parquet").resolve()), "pair": arm["pair"]}
        whole["sample"] = {**recipe["sample"], "n": n}
        write_text(out / f"{name}_run.yaml", yaml.safe_dump(whole))
        run(folder, steps(read_recipe(out / f"{name}_run.yaml", Asked()), folder), tell=print)
        first = first or folder
        files.append(arm_file(out, name, arm, str(folder.resolve())))
    return files


def arm_file(out: Path, name: str, arm: dict[str, Any], pairs: str) -> Path:
    table = {"pairs": pairs, **{key: arm[key] for key in ("select", "train") if key in arm}}
    write_text(out / f"{name}.yaml", yaml.safe_dump(table))
    return out / f"{name}.yaml"


def page(facts: dict[str, Any], title: str, machine: str) -> str:
    """The tables of a comparison in Markdown."""
    lines = [
        f"## {title}", "", f"{facts['prompts']} held-out prompts x {facts['draws']} draws, training seeds {facts['seeds']}, "
        f"{facts['steps']} steps of {facts['pairs_per_step']} pairs each, rater `{facts['rater']}`. {machine}.", "",
        "| arm | what it is | pairs | reward | KL, nats | tokens | cut off |", "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for arm in facts["arms"]:
        numbers = [told(arm[key]) for key in ("reward", "kl", "tokens")]
        what = arm["note"] or f"loss {arm.get('loss')}"
        lines.append(f"| {arm['name']} | {what} | {arm.get('pairs', '')} | {' | '.join(numbers)} | {arm['cut']:.0%} |")
    lines += ["", "| difference | reward | at equal length | at equal KL | wins |", "| --- | --- | --- | --- | --- |"]
    for each in facts["differences"]:
        equal = told(each["at_equal_kl"], signed=True) if each["at_equal_kl"] else "–"
        first = [told(each[key], signed=True) for key in ("reward", "at_equal_length")]
        lines.append(
            f"| {each['a']} − {each['b']} | {' | '.join(first)} | {equal} | {told(each['wins'], share=True)} |"
        )
    clear = [each for each in facts["differences"] if each["reward"]["low"] > 0 or each["reward"]["high"] < 0]
    said = ", ".join(f"{each['a']} − {each['b']}" for each in clear) or "none"
    lines += [
        "",
        f"Differences of reward whose interval excludes 0: {said}.",
        *(f"- {note}" for note in facts["notes"]),
    ]
    return "\n".join(lines) + "\n"


HEAD = """# On a real model

Made by `python bench/claims/real_model.py`; nothing on this page is written by hand. SmolLM2-135M with a LoRA, trained for a few
steps: sizes are those of a small machine, and an interval that holds 0 says that this much could not tell the arms apart.
Intervals hold 95 % of draws of prompts and training seeds together and are not corrected for the number of rows.
"""


def main(options: argparse.Namespace) -> None:
    machine = describe("pairwright", "torch", "transformers", "trl", "peft", "openvino-genai")
    print(machine)
    out: Path = options.out
    files = demo_arms(out, options.n)
    seeds = [int(each) for each in options.seeds.split(",")]
    asked = {
        "prompts": str((out / "held_out.parquet").resolve()), "score": ["rules", "length", "repetition"], "n": options.draws,
        "max_tokens": 160, "seeds": seeds, "steps": options.steps, "checkpoints": 2,
    }  # fmt: skip
    read, evaluation = read_files(files, asked)
    facts = compare(Comparison(read, evaluation, out / "compared", versions=versions()))
    text = HEAD + "\n" + page(facts, "Demo prompts with verifiable rewards", machine.splitlines()[0])
    write_text(options.page or out / "page.md", text)
    print(text)
    (out / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/real_model"))
    parser.add_argument("--n", type=int, default=32, help="responses per prompt")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--page", type=Path)
    main(parser.parse_args())
