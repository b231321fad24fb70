"""How good raters of comparisons are: planted accuracies and flip rates found again, and no vote lost on the way."""

import json

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pairwright.clean import judges as stage
from pairwright.clean.evidence import SOFT
from pairwright.clean.judges import judges
from pairwright.errors import NotConverged
from pairwright.report.clean import section
from pairwright.tables import COMPARISONS


def judgements(rows: list[tuple]) -> pl.DataFrame:
    """(prompt, left, right, rater, outcome)."""
    names = ("prompt_id", "left_id", "right_id", "rater", "outcome")
    full = [{**dict(zip(names, row, strict=True)), "draw": at} for at, row in enumerate(rows)]
    return pl.DataFrame(full, schema=COMPARISONS.schema)


def planted(
    accuracy: dict[str, float], *, pairs: int = 2000, draws: int = 1, seed: int = 0
) -> tuple[pl.DataFrame, dict]:
    """Independent raters on pairs whose better side is drawn; sides named at random."""
    rng = np.random.default_rng(seed)
    rows, truth = [], {}
    for at in range(pairs):
        better = "left" if rng.random() < 0.5 else "right"
        truth[f"p{at:05}"] = better
        for rater, right in accuracy.items():
            for _ in range(draws):
                said = better if rng.random() < right else {"left": "right", "right": "left"}[better]
                rows.append((f"p{at:05}", "a", "b", rater, said))
    return judgements(rows), truth


THREE = {"good": 0.9, "fair": 0.75, "poor": 0.62}


class TestAccuracy:
    @pytest.mark.parametrize("seed", range(3))
    def test_planted_accuracies_come_back_by_both_routes(self, seed: int) -> None:
        held, _ = planted(THREE, pairs=4000, seed=seed)
        facts, _ = judges(held, seed=0)
        for name, truth in THREE.items():
            told = facts["accuracy"][name]
            assert abs(told["triangle"] - truth) < 3 * told["se"]
            assert abs(told["dawid_skene"] - truth) < 3 * told["se"]
            assert told["se"] < 0.05

    def test_two_judges_have_a_product_and_no_accuracy(self) -> None:
        held, _ = planted({"good": 0.9, "fair": 0.75})
        facts, soft = judges(held, seed=0)
        assert (facts["accuracy"], soft.height) == ({}, 0)
        assert facts["no_accuracy"].startswith("two_judges")
        (line,) = facts["agreement"]
        assert line["n"] == 2000
        assert abs(line["agreeing"] / line["n"] - (0.9 * 0.75 + 0.1 * 0.25)) < 0.04

    def test_one_judge_without_repeats_says_nothing(self) -> None:
        held, _ = planted({"one": 0.9})
        facts, soft = judges(held, seed=0)
        assert facts["raters"]["one"]["flip_rate"]["reason"] == "no_repeated_votes"
        assert facts["no_accuracy"].startswith("one_judge")
        assert soft.is_empty()

    def test_raters_who_agree_less_than_chance_have_no_flip_rate(self) -> None:
        rows = [
            (f"p{at}", "a", "b", rater, side) for at in range(60) for rater, side in (("x", "left"), ("y", "right"))
        ]
        (line,) = judges(judgements(rows), seed=0)[0]["agreement"]
        assert (line["flip_rate"]["value"], line["flip_rate"]["reason"]) == (None, "agreement_below_half")

    def test_a_fit_that_does_not_settle_gives_no_accuracy_and_no_soft_label(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: object, **__: object) -> None:
            raise NotConverged("it did not settle")

        monkeypatch.setattr(stage, "fit_dawid_skene", fails)
        facts, soft = judges(planted(THREE, pairs=50)[0], seed=0)
        assert (facts["accuracy"], facts["no_accuracy"], soft.height) == ({}, "it did not settle", 0)


class TestFlipRate:
    def test_the_interval_of_repeats_covers_the_truth(self) -> None:
        covered = 0
        for seed in range(100, 140):
            held, _ = planted({"one": 0.88}, pairs=150, draws=4, seed=seed)
            rate = judges(held, seed=10_000 + seed)[0]["raters"]["one"]["flip_rate"]
            assert rate["low"] <= rate["value"] <= rate["high"]
            covered += rate["low"] <= 0.12 <= rate["high"]
        assert covered >= 34  # of 40 at 95 %

    def test_the_same_question_turned_round_is_a_repeat(self) -> None:
        rows = []
        for at in range(50):
            rows += [(f"p{at}", "a", "b", "one", "left"), (f"p{at}", "b", "a", "one", "right" if at % 5 else "left")]
        told = judges(judgements(rows), seed=0)[0]["raters"]["one"]
        assert (told["pairs"], told["votes"]) == (50, 100)
        assert told["flip_rate"]["value"] == pytest.approx((1 - np.sqrt(2 * 0.8 - 1)) / 2)


class TestSoftLabels:
    def test_they_are_chances_and_name_the_better_side(self) -> None:
        held, truth = planted(THREE)
        soft = judges(held, seed=0)[1]
        assert soft["p_left"].is_between(0, 1).all()
        right = sum((p > 0.5) == (truth[name] == "left") for name, p in soft.select("prompt_id", "p_left").iter_rows())
        assert right / len(truth) > 0.88  # the good one alone: 0.9
        sure = soft.filter(pl.col("weight") > 0.9)
        right = sum((p > 0.5) == (truth[name] == "left") for name, p in sure.select("prompt_id", "p_left").iter_rows())
        assert right / sure.height > 0.95

    def test_no_judged_pair_is_lost_to_ties_or_to_raters_of_two_minds(self) -> None:
        more = [
            ("tied", "a", "b", "good", "tie"),
            ("torn", "a", "b", "good", "left"),
            ("torn", "a", "b", "good", "right"),
            ("unread", "a", "b", "good", None),
        ]
        held = pl.concat([planted(THREE, pairs=200)[0], judgements(more)])
        soft = judges(held, seed=0)[1]
        assert dict(soft.schema) == SOFT
        assert soft.height == 200 + 2
        odd = soft.filter(pl.col("prompt_id").is_in(["tied", "torn"])).sort("prompt_id")
        assert odd.select("p_left", "weight", "votes", "source").rows() == [
            (0.5, 0.0, 1.0, "votes"),
            (0.5, 0.0, 2.0, "votes"),
        ]

    def test_the_lower_id_stands_left_whichever_way_it_was_asked(self) -> None:
        held, _ = planted(THREE, pairs=300)
        swapped = held.with_columns(
            left_id="right_id",
            right_id="left_id",
            outcome=pl.col("outcome").replace({"left": "right", "right": "left"}),
        )
        assert_frame_equal(judges(held, seed=0)[1], judges(swapped, seed=0)[1])

    def test_exchanging_all_sides_exchanges_the_chances(self) -> None:
        held, _ = planted(THREE, pairs=3000)
        other = held.with_columns(pl.col("outcome").replace({"left": "right", "right": "left"}))
        one, two = judges(held, seed=0)[1], judges(other, seed=0)[1]
        assert (
            np.abs(one["p_left"].to_numpy() + two["p_left"].to_numpy() - 1).max() < 0.05
        )  # sides are turned by chance

    def test_the_order_of_the_rows_changes_nothing(self) -> None:
        held, _ = planted(THREE, pairs=200, draws=2)
        mixed = held.sample(fraction=1.0, shuffle=True, seed=3)
        one, two = judges(held, seed=0), judges(mixed, seed=0)
        assert json.dumps(one[0]) == json.dumps(two[0])
        assert_frame_equal(one[1], two[1])


class TestNames:
    @pytest.mark.parametrize("name", ["reason", "left_id", "prompt_id", "p", "row", "n", "<b>"])
    @pytest.mark.parametrize("others", [["y"], ["y", "z"]])
    def test_no_name_of_a_rater_is_special(self, name: str, others: list[str]) -> None:
        held, _ = planted(dict.fromkeys([name, *others], 0.8), pairs=60)
        facts, _ = judges(held, seed=0)
        assert set(facts["raters"]) == {name, *others}
        shown = {"cases": [], "judges": facts, "proposals": 0, "safe": 0, "applied": "none", "flagged": []}
        page = str(section(shown))
        assert ("two_judges" in page) == (len(others) == 1)
        assert "<b>" not in page

    def test_no_outcome_at_all_is_no_crash(self) -> None:
        facts, soft = judges(judgements([("p", "a", "b", "x", None), ("p", "a", "b", "x", "tie")]), seed=0)
        assert (facts["raters"], facts["agreement"], soft.height) == ({}, [], 0)
