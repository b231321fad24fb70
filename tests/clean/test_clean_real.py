"""Measured facts of real data, one per data set; skipped where the data sets are not beside the checkout."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pairwright.clean.evidence import RATED, Cleaning, Evidence, no_evidence
from pairwright.clean.run import Result, clean
from pairwright.cleaning import clean_source
from pairwright.tables import COMPARISONS


def votes(rows: pl.DataFrame) -> Evidence:
    """Columns of `COMPARISONS` that are there; every row a draw of its own."""
    lacks = [pl.lit(None, kind).alias(name) for name, kind in COMPARISONS.schema.items() if name not in rows.columns]
    held = rows.with_columns(*lacks).with_columns(draw=pl.int_range(pl.len(), dtype=pl.Int32))
    return no_evidence()._replace(
        comparisons=held.select(pl.col(name).cast(kind) for name, kind in COMPARISONS.schema.items())
    )


def scores(rows: pl.DataFrame) -> Evidence:
    return no_evidence()._replace(scores=rows.select(pl.col(name).cast(kind) for name, kind in RATED.items()))


def case(done: Result, name: str, rater: str | None = None) -> dict[str, Any]:
    (told,) = [each for each in done.facts["cases"] if each["case"] == name and each["rater"] == rater]
    return told


def test_hh_is_refused_with_four_options(real_data: Path, tmp_path: Path) -> None:
    """1,737 pairs of two responses: not one closes a cycle, though 99 first turns are repeated."""
    file = real_data / "hh_rlhf_harmless_test.parquet"
    before = file.read_bytes()
    told = clean_source(file, tmp_path / "out", Cleaning(), layout=None)
    (only,) = told["cases"]
    assert (only["status"], len(only["options"]), told["proposals"]) == ("not_identifiable", 4, 0)
    assert only["facts"]["pairs"] == 1728
    assert "9 rows could not be read" in told["read"]
    assert file.read_bytes() == before


def test_binarized_ultrafeedback_is_derived_from_its_scores(real_data: Path, tmp_path: Path) -> None:
    told = clean_source(real_data / "ultrafeedback_binarized_sample.parquet", tmp_path / "out", Cleaning(), layout=None)
    (only,) = told["cases"]
    assert only["status"] == "derived_pairs"
    assert only["facts"]["missing"] == 4  # the identical texts


def test_one_human_of_qa_feedback_never_closes_a_cycle(real_data: Path) -> None:
    """372 prompts, all 6 pairs of 4 answers, one vote each: 0 cycles where independent votes make about 150."""
    held = pl.read_parquet(real_data / "qa_feedback_dev.parquet")
    rows = [
        {"prompt_id": row["prompt_id"], "left_id": str(a), "right_id": str(b), "rater": "human", "outcome": outcome}
        for row in held.iter_rows(named=True)
        for (a, b), outcome in zip(
            combinations(range(4), 2), (["tie", "left", "right"][each] for each in row["preference"]), strict=True
        )
    ]
    done = clean(votes(pl.DataFrame(rows)), Cleaning())
    told = case(done, "comparisons")
    assert (told["status"], told["found"]["cycles"], done.proposals.height) == ("detect_only", 0, 0)
    assert told["found"]["expected_cycles"] > 100  # of strengths with sd 2 logits, judged independently
    assert done.soft.height == 2232


def test_the_three_of_pandalm_agree_more_than_nine_times_in_ten(real_data: Path) -> None:
    """Items of poor agreement were taken out by the authors: accuracies of 0.95 and more, by both routes."""
    held = pl.read_parquet(real_data / "pandalm_testset.parquet")
    long = held.unpivot([f"annotator{k}" for k in (1, 2, 3)], index="pair_id", variable_name="rater", value_name="said")
    rows = long.select(
        prompt_id="pair_id",
        left_id=pl.lit("1"),
        right_id=pl.lit("2"),
        rater="rater",
        outcome=pl.col("said").replace_strict({0: "tie", 1: "left", 2: "right"}),
    )
    done = clean(votes(rows), Cleaning())
    assert case(done, "comparisons")["status"] == "rate_only"
    accuracy = done.facts["judges"]["accuracy"]
    for told in accuracy.values():
        assert told["triangle"] > 0.94
        assert told["dawid_skene"] == pytest.approx(told["triangle"], abs=0.02)
    assert done.soft.height == 768


def test_gpt4_answers_a_question_otherwise_in_one_of_twelve(real_data: Path) -> None:
    """Eight draws of one judge: 8.4 % flips asked one at a time, 12.0 % asked five at a time."""
    held = pl.read_parquet(real_data / "alpacafarm_gpt4_8draws.parquet").with_row_index("at")
    names = [f"{batch}_s{seed}" for batch in ("b1", "b5") for seed in range(4)]
    long = held.unpivot(names, index="at", variable_name="call", value_name="said").drop_nulls()
    rows = long.select(
        prompt_id="at",
        left_id=pl.lit("1"),
        right_id=pl.lit("2"),
        rater=pl.col("call").str.head(2),
        outcome=pl.col("said").replace_strict({0: "tie", 1: "left", 2: "right"}, return_dtype=pl.String),
    )
    raters = clean(votes(rows), Cleaning()).facts["judges"]["raters"]
    assert raters["b1"]["flip_rate"]["value"] == pytest.approx(0.084, abs=0.004)
    assert raters["b5"]["flip_rate"]["value"] == pytest.approx(0.120, abs=0.004)
    assert raters["b1"]["flip_rate"]["high"] < raters["b5"]["flip_rate"]["low"]


def test_the_crowd_of_llmfao_flips_one_vote_in_five(real_data: Path) -> None:
    """39 % ties take no part; pairs of ties alone keep an even chance."""
    said = pl.read_parquet(real_data / "llmfao_votes.parquet")
    pairs = pl.read_parquet(real_data / "llmfao_pairs.parquet").select("pair_id", "prompt_no", "model_a", "model_b")
    crowd = pl.when(pl.col("rater").str.starts_with("crowd")).then(pl.lit("crowd")).otherwise("rater")
    rows = said.join(pairs, on="pair_id").select(
        prompt_id="prompt_no",
        left_id="model_a",
        right_id="model_b",
        rater=crowd,
        outcome=pl.col("winner").replace_strict({"a": "left", "b": "right", "tie": "tie"}),
    )
    done = clean(votes(rows), Cleaning())
    assert done.facts["judges"]["raters"]["crowd"]["flip_rate"]["value"] == pytest.approx(0.188, abs=0.01)
    found = case(done, "comparisons")["found"]
    assert found["pairs"] == done.soft.height == 1584
    assert found["cycles"] < found["expected_cycles"]


def test_errors_put_into_wmt23_are_found_by_the_other_raters(real_data: Path) -> None:
    """3 of 10 professionals on each translation. All 30 errors of 100 points are listed, 20 of them as safe."""
    held = pl.read_parquet(real_data / "wmt23_mqm_ratings.parquet")
    rows = held.select(
        "prompt_id",
        response_id="system",
        rater="rater",
        score=-pl.col("mqm_penalty"),
        model=pl.lit(None, pl.String),
    ).sort("prompt_id", "response_id", "rater")
    done = clean(scores(rows), Cleaning())
    assert case(done, "raters")["method"] == "two_way"
    assert done.proposals.height / rows.height == pytest.approx(0.073, abs=0.01)
    assert done.facts["safe"] < 10
    at = np.random.default_rng(0).choice(rows.height, 30, replace=False)
    wrong = rows.with_columns(
        score=pl.when(pl.int_range(pl.len()).is_in(at)).then(pl.col("score") - 100).otherwise("score")
    )
    key = ["prompt_id", "response_id", "rater"]
    again = clean(scores(wrong), Cleaning()).proposals
    planted = set(wrong[at.tolist()].select(key).rows())
    safe = again.filter(pl.col("status") == "safe")
    assert planted <= set(again.select(key).rows())
    assert len(planted & set(safe.select(key).rows())) >= 18
    assert len(set(safe.select(key).rows()) - planted) < 10


def test_two_judges_of_wildbench_disagree_and_nobody_is_called_wrong(real_data: Path) -> None:
    held = pl.read_parquet(real_data / "wildbench_scores.parquet").filter(pl.col("version") == "v2.0522")
    rows = held.group_by("session_id", "model", "judge", maintain_order=True).agg(pl.col("score").first())
    rows = rows.select(prompt_id="session_id", response_id="model", rater="judge", score="score", model="model")
    done = clean(scores(rows), Cleaning())
    told = case(done, "raters")
    assert told["status"] == "detect_only"
    assert set(done.proposals.filter(pl.col("case") == "raters")["status"]) <= {"contested"}
    assert 0 < told["found"]["flagged"] < 0.002 * told["found"]["cells"]


def test_alpaca_eval_is_a_matrix_of_low_rank(real_data: Path) -> None:
    """200 prompts x 44 models by one judge, log-odds: rank 2 or more predicts held-out cells twice as well as rank 1."""
    held = pl.read_parquet(
        real_data / "alpaca_eval_responses.parquet", columns=["prompt_id", "model", "logit_gpt4turbo"]
    )
    held = held.drop_nulls()
    first = held["prompt_id"].unique().sort().head(200)
    rows = held.filter(pl.col("prompt_id").is_in(first.implode())).select(
        "prompt_id", response_id="model", rater=pl.lit("gpt4"), score="logit_gpt4turbo", model="model"
    )
    told = case(clean(scores(rows), Cleaning()), "models", "gpt4")
    assert told["method"] == "low_rank"
    assert told["facts"]["observed"] == 1
    found = told["found"]
    assert found["held_out"]["2"] < 0.6 * found["held_out"]["1"]
    assert found["flagged"] < 0.03 * found["cells"]
    assert json.dumps(found)
