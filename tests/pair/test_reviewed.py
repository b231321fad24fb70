"""Faults that a reviewer found, each held by a test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pairwright.audit.run import Tally
from pairwright.errors import ConfigError
from pairwright.pair.build import Built, Pairing, build_pairs, takes_part
from pairwright.pair.rules import parse_rule
from pairwright.score.combine import Reward, with_reward


def normal(prompts: int, n: int, *, seed: int = 0) -> pl.DataFrame:
    score = np.random.default_rng(seed).normal(size=prompts * n)
    columns = {"prompt_id": np.repeat(np.arange(prompts), n), "response_id": np.tile(np.arange(n), prompts)}
    return pl.DataFrame({**columns, "response": [f"text {i}" for i in range(prompts * n)], "score": score})


def tally(frame: pl.DataFrame, pairing: Pairing) -> Tally:
    rule = parse_rule(pairing.rejected)
    told = Tally("max", rule.name, pairing.ddof, rule.args[0] if rule.kind == "sigma" else None)
    built: Built = build_pairs(frame, pairing)
    told.add(frame, built.pairs, built.stats, built.dropped)
    return told


def test_an_empty_text_does_not_move_the_z_of_the_others() -> None:
    frame = pl.DataFrame(
        {
            "prompt_id": ["p"] * 4,
            "response_id": [0, 1, 2, 3],
            "response": ["x", "y", "z", " "],
            "rater:a": [1.0, 2.0, 3.0, -50.0],
            "rater:b": [5.0, 4.0, 3.5, -50.0],
        }
    )
    reward, pairing = Reward({"a": 1.0, "b": 1.0}), Pairing(rejected="min")
    whole = with_reward(frame, reward, takes_part=takes_part(frame, pairing))
    without = with_reward(frame[:3], reward)
    assert whole["score"].to_list() == [*without["score"], None]


def test_one_scale_for_several_raters_is_refused() -> None:
    frame = pl.DataFrame(
        {"prompt_id": ["p"], "response_id": [0], "rater:a": [1.0], "rater:b": [1.0], "scale_min": [1.0]}
    )
    with pytest.raises(ConfigError, match="several raters"):
        with_reward(frame, Reward({"a": 1.0, "b": 1.0}))


@pytest.mark.parametrize("rule", ["quantile(0.5)", "random", "second", "rank(2)", "mu+1sigma", "mu"])
def test_the_theorem_is_claimed_only_for_what_it_is_about(rule: str) -> None:
    told = tally(normal(50, 4), Pairing(rejected=rule))
    assert told.same_by_theorem == 0


def test_what_the_theorem_forces_is_part_of_what_is_the_same() -> None:
    told = tally(normal(50, 10), Pairing(rejected="mu-2sigma"))
    assert told.same == told.same_by_theorem == told.judged == 50
    told = tally(normal(50, 40), Pairing(rejected="mu-2sigma"))
    assert told.same_by_theorem == 0 < told.same < 50


def test_prompts_of_equal_scores_are_not_judged() -> None:
    frame = pl.concat(
        [normal(5, 4).with_columns(score=pl.lit(1.0)), normal(5, 4).with_columns(pl.col("prompt_id") + 5)]
    )
    assert tally(frame, Pairing(rejected="mu")).judged == 5


def test_a_later_pair_is_not_the_lowest_of_its_prompt() -> None:
    frame = normal(1, 6).with_columns(score=pl.Series([1.0, 2, 3, 4, 5, 6]))
    pairs = build_pairs(frame, Pairing(rejected="min", pairs_per_prompt=3)).pairs
    assert pairs["hit_extreme"].to_list() == [True, False, False]


@pytest.mark.parametrize("rule", ["min", "mu-2sigma", "median-2mad"])
def test_pairs_go_on_until_the_texts_are_used_up(rule: str) -> None:
    frame = normal(1, 12, seed=3)
    pairs = build_pairs(frame, Pairing(rejected=rule, pairs_per_prompt=6)).pairs
    assert pairs.height == 6


@pytest.mark.parametrize("rule", ["random", "min_of(5)"])
def test_draws_do_not_depend_on_the_type_of_an_id(rule: str) -> None:
    frame = normal(60, 12)
    named = frame.with_columns(pl.col("prompt_id", "response_id").cast(pl.String))
    pairing = Pairing(rejected=rule, seed=4)
    picked = [build_pairs(each, pairing).pairs["rejected_id"].cast(pl.String).to_list() for each in (frame, named)]
    assert picked[0] == picked[1]


def test_random_does_not_depend_on_the_order_of_repeated_texts() -> None:
    rng = np.random.default_rng(5)
    frame = normal(80, 12).with_columns(response=pl.Series([f"t{i}" for i in rng.integers(0, 6, 960)]))
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1).sort("prompt_id", maintain_order=True)
    texts = []
    for each in (frame, shuffled):
        pairs = build_pairs(each, Pairing(rejected="random", seed=2)).pairs
        key = {(p, r): t for p, r, t in each.select("prompt_id", "response_id", "response").iter_rows()}
        texts.append([key[row] for row in pairs.select("prompt_id", "rejected_id").iter_rows()])
    assert texts[0] == texts[1]


def test_a_far_position_is_still_a_position(tmp_path: Path, pairwright: Callable) -> None:
    normal(3, 20).with_columns(prompt=pl.format("Q{}", "prompt_id")).write_parquet(tmp_path / "x.parquet")
    done = pairwright(
        "pair", tmp_path / "x.parquet", "--out", tmp_path / "o", "--rejected", "mu-1000000sigma", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert parse_rule(parse_rule("mu-1000000sigma").name) == parse_rule("mu-1000000sigma")


def test_a_gap_of_rounding_is_no_gap() -> None:
    frame = normal(1, 3).with_columns(score=pl.Series([0.1 + 0.2, 0.3, 0.0]))
    assert build_pairs(frame, Pairing(rejected="second")).stats["outcome"].to_list() == ["no_contrast"]
    for high, low in ((0.9, 0.7), (0.8, 0.6), (0.3, 0.1), (0.6, 0.4)):
        frame = normal(1, 2).with_columns(score=pl.Series([high, low]))
        assert build_pairs(frame, Pairing(rejected="min", min_gap=0.2)).pairs.is_empty()


def test_a_verifiers_yes_and_no_are_one_and_zero(tmp_path: Path, pairwright: Callable) -> None:
    rows = '{"prompt": "Q", "response": "a", "score": true}\n{"prompt": "Q", "response": "b", "score": false}\n'
    (tmp_path / "x.jsonl").write_text(rows)
    pl.read_ndjson(tmp_path / "x.jsonl").write_parquet(tmp_path / "x.parquet")
    for name in ("x.jsonl", "x.parquet"):
        done = pairwright("pair", tmp_path / name, "--out", tmp_path / f"o-{name}", "--rejected", "min", "--json")
        assert done.returncode == 0, done.stderr
        row = pl.read_parquet(tmp_path / f"o-{name}" / "pairs.parquet").row(0, named=True)
        assert (row["score_chosen"], row["score_rejected"]) == (1.0, 0.0)


def test_raw_scores_of_several_raters_are_written(tmp_path: Path, pairwright: Callable) -> None:
    frame = normal(2, 4).with_columns(prompt=pl.format("Q{}", "prompt_id"), a=pl.col("score"), b=-pl.col("score") * 10)
    frame.drop("score").write_parquet(tmp_path / "x.parquet")
    words = [
        "pair",
        tmp_path / "x.parquet",
        "--out",
        tmp_path / "o",
        "--rejected",
        "min",
        "--rater",
        "a=3",
        "--rater",
        "b",
    ]
    assert pairwright(*words).returncode == 0
    held = pl.read_parquet(tmp_path / "o/candidates.parquet")
    assert held.height == 8
    assert [json.loads(scores)["b"] for scores in held["scores"]] == frame["b"].to_list()


def test_a_recipe_with_one_scale_for_several_raters_is_refused_before_it_runs(
    tmp_path: Path, pairwright: Callable, recipe: Callable[..., Path]
) -> None:
    path = recipe()
    reward = "{raters: {rules: 1, length: 1}}"
    words = ["--set", f"pair.reward={reward}", "--set", "pair.scale_min=0"]
    done = pairwright("run", path, "--out", tmp_path / "run", *words)
    assert done.returncode == 2
    assert "several raters" in done.stderr
    assert not (tmp_path / "run").exists()


def test_every_name_of_a_cut_text_counts_as_cut() -> None:
    frame = normal(4, 5).with_columns(finish_reason=pl.lit("max_tokens"))
    told = tally(frame, Pairing(rejected="min", unfinished="keep"))
    assert (told.truncated["chosen"], told.truncated["rejected"]) == (4, 4)
    assert tally(frame, Pairing(rejected="min")).aside == {"unfinished": 20}
