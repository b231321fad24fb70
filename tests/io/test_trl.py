"""What we write is what TRL trains on: loaded by `datasets` from the folder, trained by TRL's own DPOTrainer."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pairwright import pipeline, wiring
from pairwright.recipe import Asked


@pytest.fixture
def run_folder(recipe: Callable[..., Path], tmp_path: Path) -> Path:
    parsed = wiring.read_recipe(recipe(), Asked({"export.jsonl": True}))
    pipeline.run(tmp_path / "run", wiring.steps(parsed, tmp_path / "run"))
    return tmp_path / "run"


def test_rows_are_explicit_conversational(run_folder: Path) -> None:
    for row in pl.read_parquet(run_folder / "pairs.parquet").iter_rows(named=True):
        assert row["prompt"][-1]["role"] == "user"
        for side in ("chosen", "rejected"):
            assert [turn["role"] for turn in row[side]] == ["assistant"]
            assert row[side][0]["content"].strip()
        assert row["chosen"] != row["rejected"]
        assert row["margin"] == row["score_chosen"] - row["score_rejected"] > 0
        assert json.loads(row["meta"])["rule"] == "max/mu-2sigma"


def test_jsonl_and_parquet_hold_the_same_rows(run_folder: Path) -> None:
    lines = [json.loads(line) for line in (run_folder / "pairs.jsonl").read_text().splitlines()]
    assert lines == pl.read_parquet(run_folder / "pairs.parquet").to_dicts()


def test_every_text_of_a_pair_is_a_candidate_of_its_prompt(run_folder: Path) -> None:
    candidates = pl.read_parquet(run_folder / "candidates.parquet")
    said = set(candidates.select("prompt_id", "response").iter_rows())
    for row in pl.read_parquet(run_folder / "pairs.parquet").iter_rows(named=True):
        assert (row["prompt_id"], row["chosen"][0]["content"]) in said
        assert (row["prompt_id"], row["rejected"][0]["content"]) in said


@pytest.mark.trl
@pytest.mark.filterwarnings("ignore")
def test_the_folder_loads_as_a_data_set_with_two_configs(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    cache = str(tmp_path / "cache")
    pairs = datasets.load_dataset(str(run_folder), split="train", cache_dir=cache)
    assert pairs.num_rows == pl.read_parquet(run_folder / "pairs.parquet").height
    candidates = datasets.load_dataset(str(run_folder), "candidates", split="train", cache_dir=cache)
    assert candidates.num_rows == 144


@pytest.mark.trl
@pytest.mark.filterwarnings("ignore")
def test_dpo_trainer_trains_on_the_exported_files(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trl")
    import torch
    from datasets import load_dataset
    from tiny_model import tiny_model
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(0)
    pairs = load_dataset(str(run_folder), split="train", cache_dir=str(tmp_path / "cache"))
    texts = [turn["content"] for row in pairs for key in ("prompt", "chosen", "rejected") for turn in row[key]]
    where = tiny_model(tmp_path / "model", texts)
    config = DPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=4,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        dataloader_pin_memory=False,
        logging_steps=1,
        learning_rate=1e-2,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(model=str(where), args=config, train_dataset=pairs)
    assert len(trainer.train_dataset) == pairs.num_rows  # no row was dropped on the way
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # ln 2: policy = reference
    assert losses[1] < losses[0]
