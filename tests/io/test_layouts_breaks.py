"""Files that a reviewer broke the layouts with."""

import json
from pathlib import Path
from typing import Any

import pytest

from pairwright.errors import DataError
from pairwright.io.layouts import (
    LAYOUTS,
    CandidateRow,
    Lost,
    PairRow,
    best_worst,
    candidate_frames,
    convert_file,
    read_row,
    to_candidates,
    to_pair,
    write_row,
)
from pairwright.pair.build import Pairing, build_pairs

Row = dict[str, Any]
ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
REPEATED: Row = {"prompt": "Q: sky?\nA:", "chosen": "Q: sky?\nA: blue", "rejected": "Q: sky?\nA: red"}
PAIRS = [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "c", "rejected": "d"}]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def generations(texts: list[str], scores: list[float]) -> CandidateRow:
    row = read_row(LAYOUTS["rlhflow"], {"prompt": "Q", "responses": texts, "rewards": scores})
    assert isinstance(row, CandidateRow)
    return row


def steer(prompt_id: str, prompt: str, said: str, score: int) -> Row:
    return {"prompt_id": prompt_id, "prompt": prompt, "response": said, **dict.fromkeys(ASPECTS, score)}


class TestPromptsWithoutResponses:
    ROWS: tuple[Row, ...] = (
        {"prompt": "Q", "responses": ["a", "b"], "rewards": [1.0, 2.0]},
        {"prompt": "R", "responses": [], "rewards": [], "id": "r"},
        {"prompt": "S", "responses": None, "rewards": None},
    )

    def test_they_stand_among_the_lost(self, tmp_path: Path) -> None:
        lost: list[Row] = []
        (batch,) = candidate_frames(write(tmp_path / "in.jsonl", list(self.ROWS)), "rlhflow", dropped=lost)
        assert batch["prompt_id"].n_unique() == 1
        assert [(each["row"], each["id"], each["reason"]) for each in lost] == [
            (1, "r", "no_responses"),
            (2, None, "rating_missing"),
        ]

    def test_a_row_per_response_cannot_hold_them(self, tmp_path: Path) -> None:
        out = tmp_path / "out.jsonl"
        done = convert_file(write(tmp_path / "in.jsonl", list(self.ROWS[:2])), out, to="helpsteer2", layout="rlhflow")
        assert (done["rows_in"], done["rows_out"], done["dropped"]) == (2, 1, {"no_responses": 1})


class TestRowsOfOnePrompt:
    @pytest.mark.parametrize(
        "more",
        [
            [{}, {}],
            [{"score_chosen": 2.0, "score_rejected": 1.0}, {"score_chosen": 4.0, "score_rejected": 3.0}],
            [
                {"score_chosen": 2.0, "score_rejected": 1.0, "note": "one"},
                {"score_chosen": 4.0, "score_rejected": 3.0, "note": "two"},
            ],
        ],
        ids=["bare", "scored", "with_meta"],
    )
    def test_two_pairs_of_one_prompt_come_back_as_two(self, more: list[Row], tmp_path: Path) -> None:
        rows = [{**pair, **each} for pair, each in zip(PAIRS, more, strict=True)]
        there, back = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
        convert_file(write(tmp_path / "in.jsonl", rows), there, to="helpsteer2")
        done = convert_file(there, back, to="trl_standard", layout="helpsteer2")
        assert (done["rows_in"], done["rows_out"]) == (2, 2)
        assert read(back) == rows

    def test_a_meta_of_other_candidates_is_refused(self) -> None:
        held = json.dumps({"pairwright": {"candidates": [{"text": None}]}})
        row = {"prompt": "q", "rows": [{"response": "a"}, {"response": "b"}], "meta": held}
        lost = read_row(LAYOUTS["helpsteer2"], row)
        assert isinstance(lost, Lost)
        assert lost.reason == "meta_does_not_fit"
        pair = {**row, "meta": json.dumps({"pairwright": {"pair": [0, 2]}})}
        assert isinstance(read_row(LAYOUTS["helpsteer2"], pair), Lost)

    def test_one_id_of_two_prompts_joins_nothing(self, tmp_path: Path) -> None:
        rows = [steer("p", "Q1", "a", 1), steer("p", "Q1", "b", 2), steer("p", "Q2", "c", 4), steer("p", "Q2", "d", 3)]
        source = write(tmp_path / "in.jsonl", rows)
        done = convert_file(source, tmp_path / "out.jsonl", to="trl_standard", layout="helpsteer2")
        assert done["rows_in"] == 2
        told = [(row["prompt"], row["chosen"], row["rejected"]) for row in read(tmp_path / "out.jsonl")]
        assert told == [("Q1", "b", "a"), ("Q2", "c", "d")]

    def test_a_response_keeps_a_meta_of_its_own(self, tmp_path: Path) -> None:
        rows = [{**steer("p", "Q", said, i), "meta": f'{{"by":{i}}}'} for i, said in enumerate("ab")]
        source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
        convert_file(source, out, to="pairwright", layout="helpsteer2")
        convert_file(out, tmp_path / "back.jsonl", to="helpsteer2")
        assert read(tmp_path / "back.jsonl") == rows


@pytest.mark.parametrize("names", [["p", "p", "p-2"], ["p-2", "p", "p"], ["p", "p-2", "p", "p"]])
def test_a_prompt_that_comes_again_gets_a_free_id(names: list[str], tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "responses": ["a", "b"], "rewards": [1.0, 2.0], "prompt_id": name} for name in names]
    (batch,) = candidate_frames(write(tmp_path / "in.jsonl", rows))
    assert batch["prompt_id"].n_unique() == len(names)


class TestSidesThatRepeatThePrompt:
    def test_it_is_cut_and_told(self) -> None:
        row = read_row(LAYOUTS["trl_standard"], REPEATED)
        assert isinstance(row, PairRow)
        assert (row.prompt[0]["content"], row.chosen[0]["content"], row.rejected[0]["content"]) == (
            "Q: sky?\nA:",
            " blue",
            " red",
        )
        assert row.notes == ("prompt_repeated_in_sides",)

    def test_it_comes_back(self, tmp_path: Path) -> None:
        there, back = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
        done = convert_file(write(tmp_path / "in.jsonl", [REPEATED]), there, to="trl_explicit")
        assert (done["detected"], done["findings"][0]["code"]) == ("trl_standard", "prompt_repeated_in_sides")
        convert_file(there, back, to="trl_standard")
        assert read(back) == [REPEATED]

    @pytest.mark.parametrize("layout", ["argilla_binarized", "nemo_aligner"])
    def test_in_every_layout_of_texts(self, layout: str) -> None:
        prompt = "instruction" if layout == "argilla_binarized" else "prompt"
        names = {"chosen_response": REPEATED["chosen"], "rejected_response": REPEATED["rejected"]}
        row = read_row(LAYOUTS[layout], {prompt: REPEATED["prompt"], **names})
        assert isinstance(row, PairRow)
        assert row.notes == ("prompt_repeated_in_sides",)

    def test_an_answer_may_echo_a_greeting(self) -> None:
        row = read_row(LAYOUTS["trl_standard"], {"prompt": "Hello", "chosen": "Hello! You?", "rejected": "Hello."})
        assert isinstance(row, PairRow)
        assert row.chosen[0]["content"] == "Hello! You?"
        assert row.notes == ("sides_begin_with_prompt",)

    def test_one_side_alone_repeats_nothing(self) -> None:
        row = read_row(LAYOUTS["trl_standard"], {**REPEATED, "rejected": "red"})
        assert isinstance(row, PairRow)
        assert row.notes == ()


def test_a_label_against_its_scores_is_found(tmp_path: Path) -> None:
    row = {**PAIRS[0], "score_chosen": 1.0, "score_rejected": 2.0}
    done = convert_file(write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl", to="trl_explicit")
    assert [each["code"] for each in done["findings"]] == ["label_contradicts_score"]


class TestLossy:
    def test_further_candidates_are_named(self, tmp_path: Path) -> None:
        row = {"prompt": "Q", "responses": ["a", "b", "c"], "rewards": [1.0, 2.0, 3.0]}
        source = write(tmp_path / "in.jsonl", [row])
        done = convert_file(source, tmp_path / "out.jsonl", to="trl_standard", lossy=True)
        assert done["left_out"] == ["candidates", "margin", "score_chosen", "score_rejected"]

    def test_a_pair_that_tells_all_candidates_leaves_none_out(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [{"prompt": "Q", "responses": ["b", "a"], "rewards": [2.0, 1.0]}])
        done = convert_file(source, tmp_path / "out.jsonl", to="trl_standard", lossy=True)
        assert "candidates" not in done["left_out"]

    @pytest.mark.parametrize("to", ["rlhflow", "helpsteer2", "ultrafeedback", "distilabel_generations"])
    @pytest.mark.parametrize("scores", [(None, None), (1.0, 2.0), (1.0, 1.0), (2.0, None)])
    def test_a_label_that_would_be_lost_is_refused(self, to: str, scores: tuple[float | None, float | None]) -> None:
        told = {"score_chosen": scores[0], "score_rejected": scores[1]}
        pair = read_row(LAYOUTS["trl_standard"], {**PAIRS[0], **told})
        assert isinstance(pair, PairRow)
        lost = write_row(LAYOUTS[to], pair, lossy=True)
        assert isinstance(lost, Lost)
        assert lost.reason == "label_has_no_place"

    @pytest.mark.parametrize(
        "to", ["rlhflow", "helpsteer2", "ultrafeedback", "distilabel_generations", "nectar", "simpo"]
    )
    def test_a_label_that_the_scores_tell_is_written(self, to: str) -> None:
        pair = read_row(LAYOUTS["trl_standard"], {**PAIRS[0], "score_chosen": 2.0, "score_rejected": 1.0})
        assert isinstance(pair, PairRow)
        assert not isinstance(write_row(LAYOUTS[to], pair, lossy=True), Lost)

    @pytest.mark.parametrize("to", ["nectar", "simpo"])
    def test_a_layout_that_tells_the_label_itself_needs_no_scores(self, to: str) -> None:
        pair = read_row(LAYOUTS["trl_standard"], PAIRS[0])
        assert isinstance(pair, PairRow)
        written = write_row(LAYOUTS[to], pair, lossy=True)
        assert not isinstance(written, Lost)
        back = read_row(LAYOUTS[to], written)
        assert isinstance(back, CandidateRow)
        assert to_pair(back).chosen == pair.chosen

    def test_a_file_of_such_pairs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="label_has_no_place 2"):
            convert_file(write(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl", to="rlhflow", lossy=True)


class TestEqualTexts:
    @pytest.mark.parametrize(
        ("texts", "scores", "sides"),
        [
            (["a", "a", "b", "c"], [9.0, 1.0, 6.0, 0.0], ("b", 6.0, "c", 0.0)),
            (["a", "a", "b"], [9.0, 2.0, 4.0], ("a", 5.5, "b", 4.0)),
            (["b", "a", "a"], [4.0, 0.0, 2.0], ("b", 4.0, "a", 1.0)),
        ],
    )
    def test_they_share_the_mean_as_in_pairing(
        self, texts: list[str], scores: list[float], sides: tuple[str, float, str, float], tmp_path: Path
    ) -> None:
        row = generations(texts, scores)
        pair = to_pair(row)
        told = (pair.chosen[0]["content"], pair.score_chosen, pair.rejected[0]["content"], pair.score_rejected)
        assert told == sides
        assert to_candidates(pair) == row
        source = write(tmp_path / "in.jsonl", [{"prompt": "Q", "responses": texts, "rewards": scores}])
        (batch,) = candidate_frames(source)
        (built,) = build_pairs(batch, Pairing(rejected="min")).pairs.to_dicts()
        assert (texts[built["chosen_id"]], built["score_chosen"]) == sides[:2]
        assert (texts[built["rejected_id"]], built["score_rejected"]) == sides[2:]

    def test_equal_means_are_a_tie(self) -> None:
        with pytest.raises(DataError, match="tie"):
            best_worst(generations(["a", "a", "b"], [1.0, 3.0, 2.0]).candidates)

    def test_a_pair_of_one_text_keeps_its_two_scores(self) -> None:
        pair = read_row(LAYOUTS["trl_standard"], {**PAIRS[0], "rejected": "a", "score_chosen": 2.0})
        assert isinstance(pair, PairRow)
        assert to_pair(to_candidates(pair)) == pair


@pytest.mark.parametrize(
    "row",
    [
        {**PAIRS[0], "score_chosen": 8, "score_rejected": 6.0},
        {"prompt": "Q", "responses": ["a", "b"], "rewards": [8, 6.5]},
    ],
    ids=["pair", "list"],
)
def test_a_whole_number_comes_back_as_one(row: Row, tmp_path: Path) -> None:
    there, back = tmp_path / "there.jsonl", tmp_path / "back.jsonl"
    found = convert_file(write(tmp_path / "in.jsonl", [row]), there, to="pairwright")["detected"]
    convert_file(there, back, to=found)
    assert back.read_text(encoding="utf-8") == json.dumps(row) + "\n"
