"""Several pairs per prompt, the grid of the seven positions, several raters."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.errors import ConfigError
from pairwright.pair.build import Pairing, build_pairs, grid
from pairwright.pair.rules import GRID
from pairwright.score.combine import Reward, with_reward


def scored(prompts: int, n: int, *, seed: int = 0, values: int | None = None, texts: int | None = None) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=prompts * n) if values is None else rng.integers(0, values, prompts * n).astype(float)
    said = np.arange(prompts * n) if texts is None else rng.integers(0, texts, prompts * n)
    columns = {"prompt_id": np.repeat(np.arange(prompts), n), "response_id": np.tile(np.arange(n), prompts)}
    return pl.DataFrame({**columns, "response": [f"text {i}" for i in said], "score": score})


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(["min", "mu-2sigma", "random", "min_of(2)", "threshold(0.5)", "quantile(0.2)"]),
    st.integers(0, 99),
)
def test_no_text_stands_in_two_pairs_of_a_prompt(prompts: int, n: int, most: int, rule: str, seed: int) -> None:
    frame = scored(prompts, n, seed=seed, values=6, texts=2 * n)
    pairs = build_pairs(frame, Pairing(rejected=rule, pairs_per_prompt=most, seed=seed)).pairs
    text = dict(zip(frame.select("prompt_id", "response_id").iter_rows(), frame["response"], strict=True))
    for (prompt,), of_prompt in pairs.group_by("prompt_id"):
        said = [text[prompt, each] for side in ("chosen_id", "rejected_id") for each in of_prompt[side]]
        assert len(said) == len(set(said))
        assert of_prompt.height <= most
    assert (pairs["score_chosen"] > pairs["score_rejected"]).all()


def test_the_first_pair_is_that_of_one_pair_per_prompt() -> None:
    frame = scored(20, 12)
    one = build_pairs(frame, Pairing(rejected="mu-2sigma"))
    many = build_pairs(frame, Pairing(rejected="mu-2sigma", pairs_per_prompt=4))
    assert many.pairs.unique("prompt_id", keep="first", maintain_order=True).equals(one.pairs)
    assert many.stats.equals(one.stats)
    assert many.pairs.height == 80


def test_best_and_worst_pairs_go_from_the_outside_in() -> None:
    frame = scored(1, 6).with_columns(score=pl.Series([5.0, 0.0, 4.0, 1.0, 3.0, 2.0]))
    pairs = build_pairs(frame, Pairing(rejected="min", pairs_per_prompt=9)).pairs
    assert pairs.select("score_chosen", "score_rejected").rows() == [(5.0, 0.0), (4.0, 1.0), (3.0, 2.0)]


def test_positions_stay_those_of_the_whole_prompt() -> None:
    pairs = build_pairs(scored(1, 40), Pairing(rejected="mu-1sigma", pairs_per_prompt=5)).pairs
    assert pairs["z_rejected"].to_list() == pytest.approx([-1] * 5, abs=0.4)


def test_a_number_of_pairs_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="pairs_per_prompt"):
        Pairing(rejected="min", pairs_per_prompt=0)


def test_the_grid_has_21_cells_and_each_accounts_for_every_prompt() -> None:
    cells = grid(scored(30, 9, values=4), Pairing(rejected="min"))
    assert len(cells) == len({(cell.chosen, cell.rejected) for cell in cells}) == 21
    for cell in cells:
        assert cell.pairs.height + sum(cell.skipped.values()) == 30
        assert GRID.index(cell.chosen) > GRID.index(cell.rejected)


def test_a_cell_of_the_grid_is_what_the_two_rules_give() -> None:
    frame = scored(15, 30)
    for cell in grid(frame, Pairing(rejected="min")):
        alone = build_pairs(frame, Pairing(chosen=cell.chosen, rejected=cell.rejected))
        assert alone.pairs.equals(cell.pairs)
        assert Counter(alone.stats["outcome"].to_list()) == Counter(cell.skipped) + Counter(pair=cell.pairs.height)


def test_few_samples_leave_at_most_ten_distinct_cells() -> None:
    """n <= 10: mu-2sigma is min and mu+2sigma is max, so 11 of the 21 cells repeat others or coincide."""
    cells = grid(scored(50, 10), Pairing(rejected="min"))
    made = {tuple(cell.pairs.select("prompt_id", "chosen_id", "rejected_id").iter_rows()) for cell in cells}
    assert len(made - {()}) <= 10


def test_scales_are_not_mixed_raw() -> None:
    frame = pl.DataFrame(
        {
            "prompt_id": ["p"] * 3,
            "response_id": ["a", "b", "c"],
            "rater:small": [0.9, 0.5, 0.1],
            "rater:large": [10.0, 20.0, 100.0],
        }
    )
    rated = with_reward(frame, Reward({"small": 3.0, "large": 1.0}))
    assert build_pairs(rated, Pairing(rejected="min")).pairs["chosen_id"].to_list() == ["a"]
    assert rated["rater:large"].to_list() == [10.0, 20.0, 100.0]  # raw scores stay


def test_a_response_that_no_rater_scored_is_set_aside() -> None:
    frame = pl.DataFrame(
        {"prompt_id": ["p"] * 3, "response_id": [0, 1, 2], "rater:x": [1.0, 2.0, None], "rater:y": [None, 3.0, None]}
    )
    built = build_pairs(with_reward(frame, Reward({"x": 1.0, "y": 1.0})), Pairing(rejected="min"))
    assert built.dropped.select("response_id", "reason").rows() == [("2", "score_missing")]


def test_one_rater_keeps_its_own_scale() -> None:
    frame = pl.DataFrame({"prompt_id": ["p", "p"], "response_id": [0, 1], "rater:x": [70.0, 30.0]})
    pairs = build_pairs(with_reward(frame, Reward({"x": 1.0})), Pairing(rejected="min")).pairs
    assert pairs["margin"].to_list() == [40.0]


@pytest.mark.parametrize(
    "table",
    [{"raters": {}}, {"raters": {"x": 0}}, {"raters": {"x": float("nan")}}, {"raters": {"x": 1}, "combine": "sum"}],
)
def test_a_reward_that_cannot_be_meant_is_refused(table: dict) -> None:
    with pytest.raises(ConfigError):
        Reward(**table)
