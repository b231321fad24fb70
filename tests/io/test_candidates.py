"""Scored candidates come in whole prompts, whatever the file looks like."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pairwright.errors import DataError
from pairwright.io import candidates as module
from pairwright.io.candidates import read_candidates
from pairwright.tables import prompt_id

LONG = pl.DataFrame(
    {
        "prompt": [f"Q{i // 3}" for i in range(30)],
        "response": [f"answer {i}" for i in range(30)],
        "score": [float(i % 7) for i in range(30)],
    }
)
NESTED = LONG.group_by("prompt", maintain_order=True).agg(responses="response", rewards="score")


def whole(path: Path, **more: object) -> pl.DataFrame:
    batches = list(read_candidates(path, **more))  # type: ignore[arg-type]
    for batch in batches:
        runs = batch["prompt_id"].rle().len()
        assert runs == batch["prompt_id"].n_unique()
    ids = [set(batch["prompt_id"]) for batch in batches]
    assert sum(map(len, ids)) == len(set().union(*ids))  # no prompt in two batches
    return pl.concat(batches, how="diagonal_relaxed")


def write(frame: pl.DataFrame, path: Path) -> Path:
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_ndjson(path)
    return path


def triples(frame: pl.DataFrame) -> set[tuple[str, str, float]]:
    texts = [turns[-1]["content"] for turns in frame["prompt"].to_list()]
    return set(zip(texts, frame["response"], frame["score"], strict=True))


WANTED = set(LONG.iter_rows())


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
@pytest.mark.parametrize("frame", [LONG, NESTED, LONG.sample(fraction=1.0, shuffle=True, seed=3)])
@pytest.mark.parametrize("batch", [1, 4, 10_000])
def test_every_shape_of_file_gives_the_same_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, frame: pl.DataFrame, batch: int
) -> None:
    monkeypatch.setattr(module, "BATCH_ROWS", batch)
    monkeypatch.setattr(module, "BATCH_PROMPTS", batch)
    assert triples(whole(write(frame, tmp_path / name))) == WANTED


def test_scattered_prompts_are_gathered_in_several_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_BYTES", 200)
    path = write(LONG.sample(fraction=1.0, shuffle=True, seed=3), tmp_path / "x.parquet")
    assert len(list(read_candidates(path))) > 1
    assert triples(whole(path)) == WANTED


def test_a_prompt_id_is_the_hash_of_its_messages(tmp_path: Path) -> None:
    frame = whole(write(LONG, tmp_path / "x.parquet"))
    assert frame["prompt_id"][0] == prompt_id([{"role": "user", "content": "Q0"}])


def test_messages_and_text_mean_the_same_prompt(tmp_path: Path) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"Q{i // 3}"}], "response": "a", "score": 1} for i in range(6)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(whole(path)["prompt_id"]) == set(whole(write(LONG[:6], tmp_path / "y.parquet"))["prompt_id"])


def test_given_ids_are_kept(tmp_path: Path) -> None:
    frame = LONG.with_columns(
        prompt_id=pl.col("prompt") + "-id", response_id=pl.col("response").str.replace("answer ", "r")
    )
    read = whole(write(frame, tmp_path / "x.parquet"))
    assert set(read["response_id"]) == {f"r{i}" for i in range(30)}
    assert set(read["prompt_id"]) == {f"Q{i}-id" for i in range(10)}


def test_two_responses_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two responses with the id r1"):
        whole(write(LONG.with_columns(response_id=pl.lit("r1")), tmp_path / "x.parquet"))


def test_a_response_without_a_prompt_is_refused(tmp_path: Path) -> None:
    frame = LONG.with_columns(prompt=pl.when(pl.int_range(30) == 4).then(None).otherwise("prompt"))
    with pytest.raises(DataError, match="no prompt"):
        whole(write(frame, tmp_path / "x.parquet"))


def test_numbers_alone_are_enough(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt_id": np.repeat(np.arange(5), 4), "score": np.arange(20.0)})
    read = whole(write(frame, tmp_path / "x.parquet"))
    assert read["response_id"].to_list() == [0, 1, 2, 3] * 5


def test_other_column_names_are_given(tmp_path: Path) -> None:
    frame = LONG.rename({"score": "quality"})
    read = whole(write(frame, tmp_path / "x.parquet"), columns={"score": "quality"})
    assert read["score"].to_list() == LONG["score"].to_list()


def test_alpaca_eval_is_read_whole(real_data: Path) -> None:
    path = real_data / "alpaca_eval_responses.parquet"
    read = whole(path, columns={"score": "logit_gpt4turbo", "source": "model"})
    raw = pl.read_parquet(path)
    assert read.height == raw.height == 49_135
    assert read["prompt_id"].n_unique() == 592
    assert read["score"].null_count() == raw["logit_gpt4turbo"].null_count()
