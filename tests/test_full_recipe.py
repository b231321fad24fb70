"""The whole recipe: sample, score, pair, seed models, select, export, route, train; each stage accounted for."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pairwright.errors import ConfigError
from pairwright.recipe import Asked
from pairwright.wiring import read_recipe

pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

WHOLE = """\
prompts: prompts.jsonl
shards: 2
sample: {{backend: fake, n: 12, max_tokens: 40, seed: 1}}
score: [rules, length]
pair: {{rejected: min, reward: rules}}
select:
  margins: [external, implicit]
  keep: 0.5
  implicit: {{model: {model}, seed_pairs: 20, max_length: 256, trl: {{max_steps: 2, use_cpu: true, bf16: false}}}}
route: {{hardest: 0.25, to: sft}}
train: {{model: {model}, loss: ml_rdpo, variance: 1.0, trl: {{learning_rate: 5e-4, max_steps: 2, max_length: 256}}}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tiny_causal import tiny_causal

    return str(tiny_causal(tmp_path_factory.mktemp("whole") / "model"))


@pytest.fixture
def recipe(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = [
        {"prompt": f"Name {i} green things.", "checks": [{"check": "words", "at_least": 5 + i % 9, "at_most": 9 + i}]}
        for i in range(24)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "whole.yaml").write_text(WHOLE.format(model=model))
    return tmp_path / "whole.yaml"


def test_every_stage_of_a_whole_recipe_runs_and_accounts_for_its_rows(recipe: Path, pairwright: Command) -> None:
    out = recipe.parent / "run"
    done = pairwright("run", recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    ledger = json.loads((out / "ledger.json").read_text())
    stages = {stage["stage"]: stage for stage in ledger["stages"]}
    paired, kept = stages["select"]["rows_in"], stages["select"]["kept"]
    assert kept == round(paired / 2) == ledger["pairs"]
    assert sum(stages["select"]["dropped"].values()) == paired - kept
    table = pl.read_parquet(out / "selection.parquet")
    assert table.height == paired
    assert table["margin_implicit"].null_count() == 0
    chosen = table.filter("kept").sort("prompt_id")
    rows = pl.read_parquet(out / "pairs.parquet").sort("prompt_id")
    assert rows["prompt_id"].to_list() == chosen["prompt_id"].to_list()
    assert rows["margin"].to_list() == chosen["margin"].to_list()
    dropped = pl.read_parquet(out / "dropped.parquet").filter(pl.col("stage") == "select")
    assert set(dropped["prompt_id"]) == set(table.filter(~pl.col("kept"))["prompt_id"])
    for seed in range(3):
        control = pl.read_parquet(out / "controls" / f"random-{seed}.parquet")
        assert control.height == kept
        assert set(control["prompt_id"]) <= set(table["prompt_id"])
    seeds = json.loads((out / "seed_models.json").read_text())
    assert seeds
    trained = json.loads((out / "train" / "train.json").read_text())
    assert trained["ledger"][0] == {"stage": "read", "rows_in": kept, "kept": kept, "dropped": {}}
    assert trained["route"]["dpo"] + trained["route"]["sft"] == kept
    page = (out / "report.html").read_text()
    assert 'id="select-h"' in page
    assert "Ranked first" in page
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert {"select", "route", "train"} <= set(settings)
    _only_what_changed_would_run_again(recipe, out, pairwright)


def _only_what_changed_would_run_again(recipe: Path, out: Path, pairwright: Command) -> None:
    again = pairwright("run", recipe, "--out", out, "--dry-run")
    assert "would run" not in again.stdout
    other = pairwright("run", recipe, "--out", out, "--set", "train.beta=0.2", "--dry-run")
    assert [line.split()[0] for line in other.stdout.splitlines() if "would run" in line] == ["train"]
    less = pairwright("run", recipe, "--out", out, "--set", "select.keep=0.25", "--dry-run")
    assert [line.split()[0] for line in less.stdout.splitlines() if "would run" in line] == [
        "select",
        "export",
        "train",
    ]


def test_a_recipe_that_selects_no_more_leaves_nothing_of_the_selection(recipe: Path, pairwright: Command) -> None:
    text = recipe.read_text()
    head = text[: text.index("select:")]
    recipe.write_text(head + "select: {margins: [external], keep: 5}\n")
    out = recipe.parent / "run"
    assert pairwright("run", recipe, "--out", out).returncode == 0
    assert pl.read_parquet(out / "pairs.parquet").height == 5
    recipe.write_text(head)
    assert pairwright("run", recipe, "--out", out).returncode == 0
    assert pl.read_parquet(out / "pairs.parquet").height > 5
    assert not list(out.glob("select*"))
    assert not list((out / "controls").glob("*.parquet"))
    assert 'id="select-h"' not in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  implicit: {", "  elsewhere: {", "unknown: elsewhere"),
        ("  implicit: {", "  rule: margins\n#", "trains seed models that score the pairs they did not see"),
        ("train: {", "export: {} \n#", "route is about training and there is no train"),
        ("loss: ml_rdpo, variance: 1.0", "loss: ml_rdpo", "needs variance"),
        ("keep: 0.5", "keep: -1", "keep"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(recipe: Path, old: str, new: str, said: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        read_recipe(recipe, Asked())
