"""`pairwright crossfit` and `influence`: numbers on every pair, that a selection joins by id."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from test_train_command import pairs
from tiny_causal import tiny_causal

pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]
Command = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ["--set", "max_length=256"]
STEPS = [
    "--set",
    "trl.max_steps=2",
    "--set",
    "trl.per_device_train_batch_size=4",
    "--set",
    "trl.gradient_accumulation_steps=1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_causal(tmp_path_factory.mktemp("models") / "model"))


def test_cross_fitted_margins_are_joined_by_id_and_decide_a_selection(
    pairwright: Command,
    model: str,
    tmp_path: Path,
) -> None:
    pairs().write_parquet(tmp_path / "pairs.parquet")
    words = ["crossfit", tmp_path / "pairs.parquet", "--model", model, "--out", tmp_path / "fit", *QUICK, *STEPS]
    done = pairwright(*words)
    assert done.returncode == 0, done.stderr
    assert "16 of 16 pairs" in done.stdout
    made = pl.read_parquet(tmp_path / "fit" / "crossfit.parquet")
    assert made["margin_implicit"].null_count() == 0
    shuffled = pairs().sample(fraction=1.0, shuffle=True, seed=3)
    shuffled.write_parquet(tmp_path / "shuffled.parquet")
    chosen = pairwright(
        "select", tmp_path / "shuffled.parquet", "--out", tmp_path / "best", "--keep", "4", "--margins", "implicit",
        "--numbers", tmp_path / "fit" / "crossfit.parquet",
    )  # fmt: skip
    assert chosen.returncode == 0, chosen.stderr
    kept = pl.read_parquet(tmp_path / "best" / "pairs.parquet")["prompt_id"]
    wanted = made.with_columns(pairs()["prompt_id"]).top_k(4, by="margin_implicit")["prompt_id"]
    assert set(kept) == set(wanted)


def test_influence_of_a_trained_policy(pairwright: Command, model: str, tmp_path: Path) -> None:
    pairs().head(10).write_parquet(tmp_path / "pairs.parquet")
    pairs().tail(6).write_parquet(tmp_path / "validation.parquet")
    trained = pairwright(
        "train", tmp_path / "pairs.parquet", "--out", tmp_path / "policy", "--set", f"model={model}", "--set", "lora={r: 4}",
        "--set", "trl.max_steps=3", "--set", "trl.learning_rate=1e-2", "--set", "trl.per_device_train_batch_size=4",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    words = ["influence", tmp_path / "pairs.parquet", "--validation", tmp_path / "validation.parquet", "--model", model]
    words += ["--checkpoint", f"{tmp_path / 'policy' / 'model'}=1e-3", "--out", tmp_path / "scores", *QUICK, "--json"]
    done = pairwright(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pairs"] == 10
    table = pl.read_parquet(told["file"])
    assert {"influence", "irm", "lossdiff"} <= set(table.columns)
    assert table["influence"].null_count() == 0
    same = pairwright(*[tmp_path / "pairs.parquet" if str(w).endswith("validation.parquet") else w for w in words])
    assert same.returncode == 2
    assert "pairwright: " in same.stderr
    bad = pairwright(*["runs/policy" if "=1e-3" in str(w) else w for w in words])
    assert bad.returncode == 2
    assert "is not FOLDER=LEARNING_RATE" in bad.stderr


def test_rows_that_a_selection_sets_aside_are_not_trained_on(pairwright: Command, model: str, tmp_path: Path) -> None:
    rows = pairs().drop("pair_id", "prompt_id", "chosen_id", "rejected_id", strict=False)
    mute = rows[:1].with_columns(rejected=pl.lit([{"role": "assistant", "content": ""}], rows.schema["rejected"]))
    pl.concat([rows, rows[3:4], mute]).write_parquet(tmp_path / "pairs.parquet")
    words = [
        "crossfit",
        tmp_path / "pairs.parquet",
        "--model",
        model,
        "--out",
        tmp_path / "fit",
        *QUICK,
        *STEPS,
        "--json",
    ]
    done = pairwright(*words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pairs"] == 16
    assert told["set_aside"] == {"no_rejected": 1, "repeated_pair": 1}
    assert set(pl.read_parquet(tmp_path / "fit" / "dropped.parquet")["reason"]) == {"no_rejected", "repeated_pair"}
    chosen = pairwright(
        "select", tmp_path / "pairs.parquet", "--out", tmp_path / "best", "--keep", "4", "--margins", "implicit", "--json",
        "--numbers", tmp_path / "fit" / "crossfit.parquet",
    )  # fmt: skip
    assert chosen.returncode == 0, chosen.stderr
    facts = json.loads(chosen.stdout)
    assert (facts["pairs"], facts["kept"]) == (16, 4)
    assert "margin_implicit_missing" not in facts["reasons"]
    table = pl.read_parquet(tmp_path / "best" / "selection.parquet")
    assert "implicit_per_token" in table.columns
    assert not [name for name in table.columns if name == "margin_per_token"]
    (tmp_path / "file").write_text("x")
    bad = pairwright(*[tmp_path / "file" if w == tmp_path / "fit" else w for w in words])
    assert bad.returncode == 2
    assert "is a file; name a folder" in bad.stderr
