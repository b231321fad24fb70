"""Files as evidence: what is no number stays none, rows are accounted for, and what cannot be meant is named."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
from layout_samples import SAMPLES

from pairwright.errors import DataError, StoreError
from pairwright.io.evidence import SCORED, Held, read_evidence
from pairwright.tables import COMPARISONS, response_id


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Held:
    return read_evidence(written(folder, rows), **options)


def long(score: Any, *, response: str = "a", rater: str = "judge", **more: Any) -> dict[str, Any]:
    return {"prompt_id": "p", "response_id": response, "rater": rater, "score": score, **more}


def vote(left: str, right: str, outcome: str | None, **more: Any) -> dict[str, Any]:
    return {"prompt_id": "p", "left_id": left, "right_id": right, "outcome": outcome, **more}


NO_NUMBER = [None, "N/A", "", "five", "4/5", math.nan, math.inf, -math.inf, "nan", "inf", "-Infinity"]


class TestNumbers:
    @pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
    @pytest.mark.parametrize("beside", [3.0, "3"])
    def test_what_is_no_number_is_missing_and_counted(self, tmp_path: Path, value: Any, beside: Any) -> None:
        held = read(tmp_path, [long(beside), long(value, response="b")])
        assert held.scores["score"].to_list() == [3.0, None]
        assert "1 scores by 1 raters, 1 missing" in held.told

    @pytest.mark.parametrize("value", NO_NUMBER, ids=repr)
    def test_nor_is_it_one_in_a_column_per_rater(self, tmp_path: Path, value: Any) -> None:
        rows = [{"prompt_id": "p", "response_id": str(at), "judge": each} for at, each in enumerate([2, 3.5, value])]
        assert read(tmp_path, rows, raters=["judge"]).scores["score"].to_list() == [2.0, 3.5, None]

    def test_parquet_has_both_nan_and_null(self, tmp_path: Path) -> None:
        pl.DataFrame([long(1.0), long(math.nan, response="b"), long(None, response="c")]).write_parquet(
            tmp_path / "r.parquet"
        )
        assert read_evidence(tmp_path / "r.parquet").scores["score"].to_list() == [1.0, None, None]

    def test_a_rating_as_text_is_the_number_that_it_says(self, tmp_path: Path) -> None:  # fault F16
        rows = [long(said, response=str(at)) for at, said in enumerate(["10", "9", " 4.5 "])]
        assert read(tmp_path, rows).scores["score"].to_list() == [10.0, 9.0, 4.5]

    def test_a_column_of_ratings_as_text_is_not_passed_over_in_silence(self, tmp_path: Path) -> None:
        rows = [
            {"prompt_id": "p", "response_id": str(at), "judge": 1.0, "other": said, "note": "fine"}
            for at, said in enumerate(["4", "N/A", "5"])
        ]
        held = read(tmp_path, rows)
        assert held.scores["rater"].unique().to_list() == ["judge"]
        assert "other holds numbers as text and was not read: --rater other reads it" in held.told
        assert "note" not in held.told
        assert read_evidence(tmp_path / "rows.jsonl", raters=["other"]).scores["score"].to_list() == [4.0, None, 5.0]


class TestSentinels:  # fault F14
    ROWS: ClassVar = [8, -1, 6, 7, -1, -1, 5, 9]

    def test_what_the_scale_does_not_hold_is_missing(self, tmp_path: Path) -> None:
        rows = [long(value, response=str(at), scale_min=1, scale_max=10) for at, value in enumerate([*self.ROWS, 11])]
        held = read(tmp_path, rows)
        assert held.scores["score"].to_list() == [8, None, 6, 7, None, None, 5, 9, None]
        assert "5 scores by 1 raters, 4 missing" in held.told

    def test_without_a_scale_it_is_named_and_left(self, tmp_path: Path) -> None:
        held = read(tmp_path, [long(value, response=str(at)) for at, value in enumerate(self.ROWS)])
        assert held.scores["score"].null_count() == 0
        assert "judge says -1 3 times and nothing else below 0" in held.told

    def test_a_reward_model_may_say_minus_one(self, tmp_path: Path) -> None:
        for values in ([-1.0, -0.97, 0.3], [-1.0, 0.3, 0.2]):
            told = read(tmp_path, [long(value, response=str(at)) for at, value in enumerate(values)]).told
            assert told == "3 scores by 1 raters, 0 missing"


class TestRows:
    def test_a_row_without_an_id_is_named(self, tmp_path: Path) -> None:
        for name in ("prompt_id", "response_id", "rater"):
            with pytest.raises(DataError, match=f"row 1: {name} is null"):
                read(tmp_path, [long(1.0), long(2.0, response="b") | {name: None}])
        for name in ("prompt_id", "left_id", "right_id"):
            with pytest.raises(DataError, match=f"row 1: {name} is null"):
                read(tmp_path, [vote("a", "b", "left"), vote("a", "b", "left") | {name: None}])

    def test_two_scores_of_one_cell_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="p, a, judge has two scores"):
            read(tmp_path, [long(1.0), long(2.0)])

    def test_a_response_compared_with_itself_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="prompt p compares a with itself"):
            read(tmp_path, [vote("a", "b", "left"), vote("a", "a", "left")])

    @pytest.mark.parametrize("wrong", [{"outcome": "a"}, {"outcome": "Left"}, {"shown_first": "a"}])
    def test_a_word_that_is_none_of_the_known_is_named(self, tmp_path: Path, wrong: dict) -> None:
        with pytest.raises(
            DataError, match=f"{next(iter(wrong))} '{next(iter(wrong.values()))}' is none of left, right"
        ):
            read(
                tmp_path,
                [vote("a", "b", "left", shown_first="left"), vote("a", "b", "left", shown_first="left") | wrong],
            )

    def test_rows_without_a_number_of_their_own_are_draws(self, tmp_path: Path) -> None:
        held = read(tmp_path, [vote("a", "b", "left"), vote("a", "b", "left"), vote("a", "b", None)]).comparisons
        assert held["draw"].to_list() == [0, 1, 2]
        assert dict(held.schema) == COMPARISONS.schema
        assert held["outcome"].to_list() == ["left", "left", None]

    def test_a_draw_that_stands_twice_is_no_second_vote(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="stands twice"):
            read(tmp_path, [vote("a", "b", "left", draw=0), vote("a", "b", "left", draw=0)])
        assert read(tmp_path, [vote("a", "b", "left", draw=0), vote("a", "b", "left", draw=1)]).comparisons.height == 2

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"prompt_id": "p", "note": "x"}], "no column of numbers"),
            ([{"score": 1.0, "prompt": None}], "row 0"),
            ([], "no rows"),
        ],
    )
    def test_what_cannot_be_read_says_why(self, tmp_path: Path, rows: list, said: str) -> None:
        with pytest.raises(DataError, match=said):
            read(tmp_path, rows)

    def test_a_file_that_is_not_there_and_one_that_is_broken_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"no file .*none\.jsonl"):
            read_evidence(tmp_path / "none.jsonl")
        (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read_evidence(tmp_path / "half.parquet")

    def test_a_column_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no column 'jugde'; it has prompt_id, response_id, judge"):
            read(tmp_path, [{"prompt_id": "p", "response_id": "a", "judge": 1}], raters=["jugde"])


class TestColumns:
    ROWS: ClassVar = [
        {"prompt": f"Q{at // 2}", "model": "mn"[at % 2], "one": at, "two": 9 - at, "n_tokens": 7} for at in range(6)
    ]

    def test_each_column_of_numbers_is_a_rater_and_the_model_names_the_response(self, tmp_path: Path) -> None:
        held = read(tmp_path, self.ROWS).scores
        assert dict(held.schema) == SCORED
        assert held["rater"].unique().sort().to_list() == ["one", "two"]
        assert held["model"].unique().sort().to_list() == ["m", "n"]
        assert held["prompt_id"].n_unique() == 3
        assert held.height == 12

    def test_without_model_and_id_the_place_names_the_response(self, tmp_path: Path) -> None:
        rows = [{key: row[key] for key in ("prompt", "one")} for row in self.ROWS]
        assert read(tmp_path, rows).scores["response_id"].to_list() == [response_id(0), response_id(1)] * 3


class TestLayouts:
    def test_a_ten_that_its_aspects_contradict_is_set_aside_and_counted(self, tmp_path: Path) -> None:
        """Fault F13: the first response of the second row has 10 overall, and aspects of 1 and 2."""
        held = read(tmp_path, SAMPLES["ultrafeedback"], layout="ultrafeedback")
        second = pl.col("prompt_id") != held.scores["prompt_id"][0]
        row = held.scores.filter(second, pl.col("response_id") == response_id(0))
        told = dict(row.select("rater", "score").iter_rows())
        assert told.pop("score") is None
        assert sorted(told.values()) == [1, 1, 1, 2]
        assert "1 of them overall_contradicts_aspects" in held.told
        assert f"{held.scores['score'].count()} scores, {held.scores['score'].null_count()} missing" in held.told

    def test_a_rating_that_is_not_given_is_missing(self, tmp_path: Path) -> None:  # fault F15
        held = read(tmp_path, SAMPLES["ultrafeedback"], layout="ultrafeedback").scores
        first = held.filter(pl.col("prompt_id") == held["prompt_id"][0], pl.col("response_id") == response_id(0))
        assert dict(first.select("rater", "score").iter_rows())["truthfulness"] is None

    def test_a_prompt_that_stands_twice_keeps_all_its_responses(self, tmp_path: Path) -> None:
        """Keyed by place alone, the second row gave its texts to the scores of the first."""
        one, two = json.loads(json.dumps(SAMPLES["ultrafeedback"]))
        two["instruction"] = one["instruction"]
        held = read(tmp_path, [one, two], layout="ultrafeedback")
        overall = held.scores.filter(pl.col("rater") == "score")
        both = overall.join(held.texts, on=["prompt_id", "response_id"]).sort("response_id")
        assert both.select("response", "score").rows() == [
            ("Cod.", 8.5),
            ("Dog.", 2.0),
            ("5", None),
            ("4", 9.0),
            ("22", 3.0),
        ]

    def test_reading_twice_gives_the_same_rows_in_the_same_order(self, tmp_path: Path) -> None:
        rows = [{**SAMPLES["ultrafeedback"][0], "instruction": f"Name {at} fish."} for at in range(50)]
        path = written(tmp_path, rows)
        one, two = (read_evidence(path, layout="ultrafeedback") for _ in range(2))
        assert one.scores.equals(two.scores)
        assert one.texts.equals(two.texts)

    def test_the_same_texts_have_the_same_ids_in_every_row(self, tmp_path: Path) -> None:
        """Fault F48: the same pair in both directions, and a cycle over three rows."""
        rows = [
            {"prompt": "Q", "chosen": a, "rejected": b}
            for a, b in (("x", "y 1"), ("y\n1 ", "z"), ("Z", "x"), ("x", "x"))
        ]
        held = read(tmp_path, rows)
        sides = held.comparisons.select("left_id", "right_id").rows()
        assert len({each for pair in sides[:3] for each in pair}) == 3
        assert held.comparisons["outcome"].to_list() == ["left", "left", "left", None]
        assert held.comparisons["reason"].to_list()[3] == "identical_sides"
        assert held.comparisons["prompt_id"].n_unique() == 1

    def test_labels_that_follow_their_own_scores_are_derived(self, tmp_path: Path) -> None:
        score = {"a": 9.0, "b": 7.0, "c": 4.0, "d": 1.0}
        pairs = [
            {"prompt": "Q", "chosen": x, "rejected": y, "score_chosen": score[x], "score_rejected": score[y]}
            for x, y in combinations(score, 2)
        ]
        assert read(tmp_path, pairs).derived
        for row in pairs:  # fault F47: labels that contradict their scores came from elsewhere
            row["score_chosen"], row["score_rejected"] = row["score_rejected"], row["score_chosen"]
        assert not read(tmp_path, pairs).derived
        assert not read(
            tmp_path, [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pairs]
        ).derived

    def test_rows_that_cannot_be_read_are_counted(self, tmp_path: Path) -> None:
        rows = [{"prompt": "Q", "chosen": "x", "rejected": "y"}, {"prompt": "Q", "chosen": None, "rejected": "y"}]
        held = read(tmp_path, rows)
        assert held.told == "1 labelled pairs, 1 rows could not be read"
