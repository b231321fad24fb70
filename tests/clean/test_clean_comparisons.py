"""Comparisons through the clean stage: strengths, flags, soft labels, and what must not move them."""

import json
from itertools import combinations
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pairwright.clean import comparisons as stage
from pairwright.clean.comparisons import clean_comparisons
from pairwright.clean.evidence import Cleaned, Cleaning, no_evidence
from pairwright.clean.run import clean
from pairwright.core.robust import STATUSES
from pairwright.tables import COMPARISONS, PROPOSALS

Z = Cleaning()
TURNED = {"left": "right", "right": "left", "tie": "tie", None: None}


def judgements(rows: list[dict]) -> pl.DataFrame:
    full = [{"rater": "judge", "draw": at, **row} for at, row in enumerate(rows)]
    return pl.DataFrame(full, schema=COMPARISONS.schema)


def planted(
    strengths: np.ndarray, *, votes: int = 20, turned: tuple = (), seed: int = 0, prompt: str = "p", bias: float = 0.0
) -> list[dict]:
    """All pairs of the responses r0, r1, ... by Bradley-Terry; the pairs in `turned` against it, at 0.98."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, j in combinations(range(len(strengths)), 2):
        for vote in range(votes):
            first = "left" if vote % 2 else "right"
            m = strengths[i] - strengths[j] + (bias if first == "left" else -bias)
            p = 1 / (1 + np.exp(-m))
            p = (0.02 if p > 0.5 else 0.98) if (i, j) in turned else p
            outcome = "left" if rng.random() < p else "right"
            sides = {"left_id": f"r{i}", "right_id": f"r{j}", "shown_first": first if bias else None}
            rows.append({"prompt_id": prompt, "outcome": outcome, **sides})
    return rows


def cleaned(rows: list[dict] | pl.DataFrame, settings: Cleaning = Z) -> Cleaned:
    return clean_comparisons(judgements(rows) if isinstance(rows, list) else rows, settings)


def by_response(done: Cleaned) -> dict[str, float | None]:
    return dict(done.scores.select(pl.concat_str("prompt_id", "response_id", separator="/"), "score").iter_rows())


LINE = np.linspace(2.0, -2.0, 8)


class TestStrengths:
    def test_they_stand_in_the_order_of_the_truth(self) -> None:
        found = cleaned(planted(LINE, votes=60))
        score = [by_response(found)[f"p/r{k}"] for k in range(8)]
        assert score == sorted(score, reverse=True)
        assert np.abs(np.array(score) - LINE).max() < 0.6
        assert sum(score) == pytest.approx(0, abs=1e-6)
        assert set(found.scores["rater"]) == {"judge.bt"}

    def test_a_turned_pair_moves_the_plain_strengths_and_not_these(self) -> None:
        truth = cleaned(planted(LINE, votes=60))
        hit = cleaned(planted(LINE, votes=60, turned=((0, 7), (0, 6))))
        moved = max(abs(by_response(truth)[name] - by_response(hit)[name]) for name in by_response(hit))
        assert moved < 0.35  # the plain fit moves the best response by 1.0

    def test_parts_that_never_met_are_not_compared(self) -> None:
        rows = planted(LINE[:3], prompt="whole")
        rows += [{**row, "prompt_id": "split"} for row in planted(LINE[:3])]
        rows += [
            {"prompt_id": "split", "left_id": f"s{a}", "right_id": f"s{b}", "outcome": "left"}
            for a, b in ((0, 1), (1, 2))
        ]
        held = cleaned(rows).scores
        split = held.filter(pl.col("prompt_id") == "split")
        assert (split.height, split["score"].null_count(), set(split["reason"])) == (6, 6, {"not_connected"})
        assert held.filter(pl.col("prompt_id") == "whole")["score"].null_count() == 0

    def test_a_response_nobody_could_judge_costs_the_others_nothing(self) -> None:
        rows = planted(LINE[:4])
        lost = [{"prompt_id": "p", "left_id": f"r{k}", "right_id": "unread", "outcome": None} for k in range(4)]
        with_it, without = by_response(cleaned(rows + lost)), by_response(cleaned(rows))
        assert with_it.pop("p/unread") is None
        assert with_it == without

    def test_every_response_has_one_row(self) -> None:
        rows = planted(LINE, prompt="a") + planted(LINE[:2], prompt="b") + planted(LINE[:3], prompt="c")
        held = cleaned(rows).scores
        assert held.select("prompt_id", "response_id").is_unique().all()
        assert held.height == 8 + 2 + 3


class TestFlags:
    TURNED = planted(LINE, votes=60, turned=((0, 7),))

    def test_a_turned_pair_is_the_one_that_is_listed(self) -> None:
        (row,) = cleaned(self.TURNED).proposals.to_dicts()
        assert (row["response_id"], row["right_id"], row["status"]) == ("r0", "r7", "safe")
        assert row["old"] < 0.1
        assert row["proposed"] > 0.9
        assert row["z"] < -4
        wins = sum(
            each["outcome"] == "left" for each in self.TURNED if (each["left_id"], each["right_id"]) == ("r0", "r7")
        )
        assert json.loads(row["evidence"]) == {"votes": 60.0, "for_left": float(wins)}

    def test_more_than_the_cut_bound_is_contested(self) -> None:
        """Eight responses, all pairs: three wrong pairs can be told, the fourth cannot."""
        turned = ((0, 7), (1, 6), (0, 6), (1, 7))
        held = cleaned(planted(LINE * 1.5, votes=200, turned=turned)).proposals
        assert set(zip(held["response_id"], held["right_id"], strict=True)) == {(f"r{i}", f"r{j}") for i, j in turned}
        assert set(held["status"]) == {"contested"}

    def test_three_responses_show_a_contradiction_and_nothing_is_safe(self) -> None:
        rows = [("a", "b", "left"), ("b", "c", "left"), ("a", "c", "right")]
        full = [dict(zip(("left_id", "right_id", "outcome"), row, strict=True)) for row in rows for _ in range(40)]
        done = cleaned([{"prompt_id": "p", **row} for row in full])
        assert (done.facts["cycles"], done.facts["safe"]) == (1.0, 0)
        assert done.facts["expected_cycles"] < 0.5
        assert done.facts["statuses"] == {"detect_only": 1}

    def test_single_votes_are_never_flagged(self) -> None:
        rows = planted(LINE * 5, votes=1, turned=((0, 7), (1, 5)))
        assert cleaned(rows).proposals.is_empty()

    @pytest.mark.parametrize("seed", range(4))
    def test_a_higher_bar_never_flags_more(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        rows = []
        for at in range(6):
            n = int(rng.integers(4, 9))
            turned = tuple(pair for pair in combinations(range(n), 2) if rng.random() < 0.2)
            rows += planted(rng.normal(size=n) * 2, votes=30, turned=turned, seed=seed + at, prompt=f"p{at}")
        before: set | None = None
        for z0 in (2.0, 4.0, 8.0, 16.0):
            held = cleaned(rows, Cleaning(z0=z0)).proposals
            keys = set(held.select("prompt_id", "response_id", "right_id").iter_rows())
            assert before is None or keys <= before
            before = keys

    def test_honest_votes_are_left_alone(self) -> None:
        rng = np.random.default_rng(3)
        rows = [row for at in range(40) for row in planted(rng.normal(size=6), votes=20, seed=at, prompt=f"p{at}")]
        assert cleaned(rows).facts["flagged"] <= 1  # of 600 pairs

    def test_the_largest_come_first_whichever_side_they_speak_for(self) -> None:
        rows = planted(LINE, votes=60, turned=((0, 7),), prompt="a") + planted(
            LINE[::-1], votes=40, turned=((0, 7),), prompt="b"
        )
        z = cleaned(rows).proposals["z"]
        assert z.to_list() == sorted(z, key=abs, reverse=True)
        assert z.min() < 0 < z.max()

    def test_the_key_of_a_proposal_is_unique(self) -> None:
        rows = [row for at in range(3) for row in planted(LINE, votes=60, turned=((0, 7), (1, 6)), prompt=f"p{at}")]
        held = cleaned(rows).proposals
        assert held.height == 6
        assert held.select(PROPOSALS.key).is_unique().all()


class TestSoftLabels:
    ROWS = planted(LINE, votes=10, prompt="a") + planted(LINE[:2], votes=5, prompt="b")

    def test_each_pair_with_votes_has_one_chance(self) -> None:
        soft = cleaned(self.ROWS).soft
        assert soft.height == 28 + 1
        assert soft["p_left"].is_between(0, 1).all()
        assert soft["votes"].sum() == len(self.ROWS)
        assert (soft["weight"] - (2 * soft["p_left"] - 1).abs()).abs().max() < 1e-12
        assert set(soft.filter(pl.col("prompt_id") == "b")["source"]) == {"votes"}

    def test_a_clear_favourite_is_likelier(self) -> None:
        soft = cleaned(self.ROWS).soft
        best = soft.filter(pl.col("left_id") == "r0", pl.col("right_id") == "r7")
        assert best["p_left"].item() > 0.9

    def test_ties_are_an_even_chance(self) -> None:
        rows = [{"prompt_id": "p", "left_id": "a", "right_id": "b", "outcome": "tie"}] * 4
        assert cleaned(rows).soft["p_left"].to_list() == [0.5]

    def test_exchanging_left_and_right_exchanges_the_chances(self) -> None:
        """Of every judgement in the file; the ids keep their sides in the table, so names are turned as well."""
        names = {f"r{k}": f"r{7 - k}" for k in range(8)}
        other = [
            {**row, "left_id": names[row["left_id"]], "right_id": names[row["right_id"]]}
            for row in planted(LINE, votes=9)
        ]
        one, two = cleaned(planted(LINE, votes=9)).soft, cleaned(other).soft
        turned = two.select(
            "prompt_id",
            left_id=pl.col("right_id").replace(names),
            right_id=pl.col("left_id").replace(names),
            p_left=1 - pl.col("p_left"),
        ).sort("left_id", "right_id")
        assert_frame_equal(
            turned, one.select(turned.columns).sort("left_id", "right_id"), check_exact=False, abs_tol=1e-6
        )

    def test_asking_the_other_way_round_changes_nothing(self) -> None:
        rows = planted(LINE, votes=9, turned=((0, 7),), bias=0.3)
        other = [
            {
                **row,
                "left_id": row["right_id"],
                "right_id": row["left_id"],
                "outcome": TURNED[row["outcome"]],
                "shown_first": TURNED[row["shown_first"]],
            }
            for row in rows
        ]
        one, two = cleaned(rows), cleaned(other)
        assert_frame_equal(one.soft, two.soft)
        assert_frame_equal(one.proposals, two.proposals)
        assert one.facts["position"] == pytest.approx(two.facts["position"])


class TestPosition:
    def test_the_pull_of_the_first_place_is_found(self) -> None:
        rows = [row for at in range(30) for row in planted(LINE / 2, votes=40, bias=0.4, seed=at, prompt=f"p{at}")]
        told = cleaned(rows).facts["position"]
        assert told["pairs"] == 30 * 28
        assert abs(told["bias"] - 0.4) < 3 * told["sd"] + 0.03  # smoothing draws the log-odds in a little

    def test_one_order_alone_says_nothing_about_it(self) -> None:
        rows = [{**row, "shown_first": "left"} for row in planted(LINE)]
        assert cleaned(rows).facts["position"] is None
        assert cleaned(planted(LINE)).facts["position"] is None


def shuffled(rows: list[dict], seed: int) -> pl.DataFrame:
    return judgements(rows).sample(fraction=1.0, shuffle=True, seed=seed)


class TestNothingMovesIt:
    ROWS: ClassVar = [
        {**row, "rater": f"j{at % 4}"}
        for p in range(3)
        for at, row in enumerate(planted(LINE, votes=24, turned=((0, 7),), seed=p, prompt=f"p{p}"))
    ]

    @pytest.mark.parametrize("seed", [1, 2])
    def test_the_order_of_the_rows(self, seed: int) -> None:
        one, two = (
            clean(no_evidence()._replace(comparisons=each), Z)
            for each in (judgements(self.ROWS), shuffled(self.ROWS, seed))
        )
        for name, key in (
            ("proposals", list(PROPOSALS.key)),
            ("scores", ["prompt_id", "response_id"]),
            ("soft", ["prompt_id", "left_id", "right_id"]),
        ):
            assert_frame_equal(
                getattr(one, name).sort(key), getattr(two, name).sort(key), check_exact=False, abs_tol=1e-9
            )
        assert json.dumps(one.facts["judges"]) == json.dumps(two.facts["judges"])

    def test_the_names_of_the_prompts(self) -> None:
        names = {"p0": "z", "p1": "y", "p2": "x"}
        one = cleaned(self.ROWS).scores
        two = cleaned([{**row, "prompt_id": names[row["prompt_id"]]} for row in self.ROWS]).scores
        back = two.with_columns(pl.col("prompt_id").replace({new: old for old, new in names.items()}))
        assert_frame_equal(back.sort("prompt_id", "response_id"), one, check_exact=False, abs_tol=1e-9)

    def test_what_is_read_is_not_changed(self) -> None:
        rows = judgements(self.ROWS)
        before = rows.clone()
        cleaned(rows)
        assert_frame_equal(rows, before)


class TestNotConverged:
    ROWS = planted(LINE, prompt="good", votes=60, turned=((0, 7),)) + planted(
        LINE, prompt="stuck", votes=60, turned=((0, 7),)
    )

    def test_a_fit_that_does_not_settle_gives_neither_strength_nor_proposal(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pairwright.core import robust

        honest = robust.lad

        def stuck(pairs, *rest):
            told = honest(pairs, *rest)
            return told._replace(converged_P=np.arange(len(told.converged_P)) == 0)

        monkeypatch.setattr(robust, "lad", stuck)
        done = cleaned(self.ROWS)
        held = done.scores.filter(pl.col("prompt_id") == "stuck")
        assert (held["score"].null_count(), set(held["reason"])) == (8, {"not_converged"})
        assert set(done.proposals["prompt_id"]) == {"good"}
        assert done.facts["statuses"] == {"ok": 1, "not_converged": 1}
        assert set(done.soft.filter(pl.col("prompt_id") == "stuck")["source"]) == {"votes"}
        assert done.soft["p_left"].is_between(0, 1).all()

    def test_an_error_of_the_fit_is_an_outcome_and_not_a_crash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from pairwright.errors import NotConverged

        def fails(*_: object, **__: object) -> None:
            raise NotConverged("it did not settle")

        monkeypatch.setattr(stage, "repair", fails)
        done = clean(no_evidence()._replace(comparisons=judgements(self.ROWS)), Cleaning(apply="safe"))
        (case,) = done.facts["cases"]
        assert (case["outcome"], case["why"]) == ("not_converged", "it did not settle")
        assert (done.proposals.height, done.scores.height, done.soft.height) == (0, 0, 0)


def test_the_statuses_that_are_told_are_those_of_the_core() -> None:
    rows = planted(LINE, votes=30) + planted(LINE[:2], prompt="two") + planted(LINE[:3], prompt="three")
    told = cleaned(rows).facts["statuses"]
    assert set(told) <= set(STATUSES)
    assert sum(told.values()) == 3
