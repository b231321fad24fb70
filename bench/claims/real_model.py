"""The usual pairs against ours on a real model: `pairwright compare` on SmolLM2-135M with LoRA, with its controls.

    python bench/claims/real_model.py [--out runs/claims/real_model] [--n 32] [--steps 24] [--seeds 0,1] [--draws 4]
                                      [--pairs FILE] [--only demo,pairs] [--page docs/evidence_real_model.md]

Prompts of the demo with verifiable rewards: two thirds are sampled, paired in two ways and trained on, the rest is answered by
every policy. Arms: `usual` (highest against lowest, all pairs, plain DPO), `ours` (mu - 2 sigma, the half with the largest
margins, rating_dpo), and the controls of `ours`. With --pairs also a file of real preference rows, of which a fifth of the
prompts is held out: how many held-out pairs each policy orders right. All is resumed where it was stopped.
On a GPU where there is one. The page is written from the results; nothing is asserted.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import polars as pl
import yaml

from machine import describe
from pairwright.backends.openvino import EMBEDDED
from pairwright.comparing.arms import read_files
from pairwright.comparing.run import Comparison, compare
from pairwright.demo import recipe_file
from pairwright.io.pair_files import read_pairs
from pairwright.io.prompts import read_prompts
from pairwright.manifest import versions
from pairwright.pipeline import run
from pairwright.recipe import Asked
from pairwright.report.compare import told
from pairwright.store import write_text
from pairwright.train.conditioning import hold_out
from pairwright.training.plan import plan_of
from pairwright.training.run import Job, train
from pairwright.wiring import read_recipe, steps

HELD_OUT = 0.35
BATCH = 4  # pairs per step
TRL = {"learning_rate": 2e-4, "per_device_train_batch_size": BATCH, "max_length": 512, "lr_scheduler_type": "constant"}
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


def real_pairs(out: Path, file: Path, steps_: int, seeds: list[int], longest: int) -> str:
    """Losses on real preference rows: held-out pairs that each policy orders right, by seed. Short rows alone."""
    rows = read_pairs(file, scratch=out / "pairs").rows
    sides = [pl.col(name).list.eval(pl.element().struct.field("content").str.len_chars()).list.sum() for name in TEXTS]
    short = rows.filter(pl.sum_horizontal(sides) <= longest, pl.col("score_chosen") > pl.col("score_rejected"))
    short.write_parquet(out / "short.parquet")
    lines = [
        f"\n## Real preference rows: {file.name}\n",
        f"{short.height} of {rows.height} pairs: those without a tie and of at most {longest} characters in all; "
        f"{steps_} steps of {BATCH} pairs. Held-out pairs (a fifth of the prompts) ordered right, "
        "and their loss at the end; one number per seed.\n",
        "| arm | held-out pairs | ordered right | log-ratio of chosen, nats |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, loss in LOSSES.items():
        found: list[dict[str, Any]] = []
        for seed in seeds:
            trl = {**TRL, "max_steps": steps_, "seed": seed, "save_strategy": "no", "per_device_eval_batch_size": 4}
            plan = plan_of({"train": {**BASE, **loss, "hold_out": 0.2, "bad_rows": "drop", "trl": trl}}, folder=out)
            folder = out / "pairs" / name / f"seed-{seed}"
            if not (folder / "train.json").exists():
                train(Job(out / "short.parquet", folder, versions=versions()), plan)
            found.append(json.loads((folder / "train.json").read_text()))
        held = found[0]["ledger"][1]["dropped"]["held_out"]
        right = ", ".join(f"{each['final']['eval_rewards/accuracies']:.3f}" for each in found)
        moved = ", ".join(f"{each['final']['eval_pairwright/logratio/chosen']:+.2f}" for each in found)
        lines.append(f"| {name} | {held} | {right} | {moved} |")
    half = 0.5 / max(1, held) ** 0.5
    lines.append(
        f"\nOf {held} pairs a share has a standard error of up to {half:.3f}: smaller differences say nothing."
    )
    return "\n".join(lines) + "\n"


TEXTS = ("prompt", "chosen", "rejected")
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {"loss": "dpo"},
    "rating_dpo, beta1 1": {"loss": "rating_dpo", "beta1": 1.0, "rating_scale": 1.0},
    "dpo at its effective beta": {"loss": "dpo", "beta": 0.1 / 1.1},
    "ml_rdpo, variance 1": {"loss": "ml_rdpo", "variance": 1.0, "rating_scale": 1.0},
}
HEAD = """# On a real model

Made by `python bench/claims/real_model.py`; nothing on this page is written by hand. SmolLM2-135M with a LoRA, trained for a few
steps: sizes are those of a small machine, and an interval that holds 0 says that this much could not tell the arms apart.
Intervals hold 95 % of draws of prompts and training seeds together and are not corrected for the number of rows.
"""


def demo(options: argparse.Namespace, machine: str) -> str:
    """The comparison on the demo's prompts, as Markdown."""
    out: Path = options.out
    files = demo_arms(out, options.n)
    asked = {
        "prompts": str((out / "held_out.parquet").resolve()), "score": ["rules", "length", "repetition"],
        "decide": "rules", "n": options.draws, "max_tokens": 160, "seeds": _seeds(options), "steps": options.steps,
        "checkpoints": 2,
    }  # fmt: skip
    read, evaluation = read_files(files, asked)
    facts = compare(Comparison(read, evaluation, out / "compared", versions=versions()))
    write_text(out / "facts.json", json.dumps(facts))
    return page(facts, "Demo prompts with verifiable rewards", machine)


def _seeds(options: argparse.Namespace) -> list[int]:
    return [int(each) for each in options.seeds.split(",")]


def main(options: argparse.Namespace) -> None:
    machine = describe("pairwright", "torch", "transformers", "trl", "peft", "openvino-genai").splitlines()[0]
    print(machine)
    wanted = options.only.split(",") if options.only else ["demo", *["pairs"] * bool(options.pairs)]
    parts = {"demo": options.out / "demo.md", "pairs": options.out / "pairs.md"}  # what is not asked for stays as it is
    if "demo" in wanted:
        write_text(parts["demo"], demo(options, machine))
    if "pairs" in wanted:
        write_text(
            parts["pairs"], real_pairs(options.out, options.pairs, options.steps, _seeds(options), options.longest)
        )
    text = HEAD + "".join("\n" + path.read_text() for path in parts.values() if path.exists())
    write_text(options.page or options.out / "page.md", text)
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/claims/real_model"))
    parser.add_argument("--n", type=int, default=32, help="responses per prompt")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--pairs", type=Path, help="real preference rows with scores, any layout of pairs")
    parser.add_argument("--longest", type=int, default=700, help="characters of a row of --pairs")
    parser.add_argument("--only", default="", help="demo, pairs")
    parser.add_argument("--page", type=Path)
    main(parser.parse_args())
