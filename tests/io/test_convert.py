"""Files of one layout into files of another: whole, atomic, accounted for."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from layout_samples import SAMPLES, talk

from pairwright.errors import ConfigError, DataError, StoreError
from pairwright.io.layouts import LAYOUTS, Lost, Options, candidate_frames, convert_file, read_rows
from pairwright.pair.build import Pairing, build_pairs
from pairwright.tables import MESSAGES, prompt_id

REAL = Path("/work/shared/data")
OPTIONS = Options(prompt_end="? ")
Row = dict[str, Any]


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def real(name: str) -> Path:
    path = REAL / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def told(rows: list[Row]) -> list[Row]:
    """Rows without their nulls, at any depth: Parquet has a null where JSON has nothing."""
    return [_told(row) for row in rows]


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _told(held) for key, held in value.items() if held is not None}
    return [_told(held) for held in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
class TestEveryLayoutAsAFile:
    def test_comes_back_whole_through_our_own_layout(self, name: str, suffix: str, tmp_path: Path) -> None:
        source = write(tmp_path / "source.jsonl", SAMPLES[name])
        there, back = tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
        done = convert_file(source, there, to="pairwright", options=OPTIONS)
        assert done["detected"] == name
        assert done["rows_in"] == done["rows_out"]
        assert convert_file(there, back, to=name, options=OPTIONS)["detected"] in ("pairwright", "trl_explicit")
        assert told(read(back)) == told(SAMPLES[name])

    def test_comes_back_whole_in_itself(self, name: str, suffix: str, tmp_path: Path) -> None:
        source = write(tmp_path / "source.jsonl", SAMPLES[name])
        there, back = tmp_path / f"there{suffix}", tmp_path / "back.jsonl"
        if (name, suffix) == ("ultrafeedback", ".parquet"):
            with pytest.raises(DataError, match="column completions holds"):  # overall scores as text and as numbers
                convert_file(source, there, to=name)
            return
        convert_file(source, there, to=name, options=OPTIONS)
        convert_file(there, back, to=name, options=OPTIONS)
        assert told(read(back)) == told(SAMPLES[name])
        assert not (tmp_path / f"there{suffix}.dropped.jsonl").exists()


class TestTheRecord:
    ROWS: tuple[Row, ...] = (
        {"id": "a", "prompt": "Q", "chosen": "yes", "rejected": "no", "score_chosen": 2, "score_rejected": 2},
        {"id": "b", "prompt": "Q", "chosen": "yes", "rejected": " "},
        {"id": "c", "prompt": "Q", "chosen": None, "rejected": "no"},
        {"id": "d", "prompt": "R", "chosen": "yes", "rejected": "no", "score_chosen": 3, "score_rejected": 2},
    )

    def test_counts_add_up_and_every_lost_row_is_named(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", list(self.ROWS))
        done = convert_file(source, tmp_path / "out.parquet", to="trl_explicit")
        assert (done["detected"], done["rows_in"], done["rows_out"]) == ("trl_standard", 4, 2)
        assert done["dropped"] == {"empty_side": 1, "null_side": 1}
        lost = read(tmp_path / "out.parquet.dropped.jsonl")
        assert [(row["row"], row["id"], row["reason"]) for row in lost] == [
            (1, "b", "empty_side"),
            (2, "c", "null_side"),
        ]
        assert done["findings"] == [{"code": "tie", "count": 1, "rows": [0], "ids": ["a"]}]

    def test_it_can_be_printed_as_json(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", list(self.ROWS))
        assert json.loads(json.dumps(convert_file(source, tmp_path / "out.jsonl", to="halos")))

    def test_a_side_file_of_an_earlier_run_does_not_stay(self, tmp_path: Path) -> None:
        source, out = write(tmp_path / "in.jsonl", list(self.ROWS)), tmp_path / "out.jsonl"
        convert_file(source, out, to="trl_explicit")
        good = write(tmp_path / "good.jsonl", [self.ROWS[3]])
        convert_file(good, out, to="trl_explicit", force=True)
        assert not (tmp_path / "out.jsonl.dropped.jsonl").exists()

    def test_lossy_names_what_it_leaves_out(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [self.ROWS[3]])
        done = convert_file(source, tmp_path / "out.jsonl", to="llamafactory", lossy=True)
        assert done["left_out"] == ["id", "margin", "score_chosen", "score_rejected"]
        assert set(read(tmp_path / "out.jsonl")[0]) == {"conversations", "chosen", "rejected"}

    @pytest.mark.parametrize(
        ("to", "words"),
        [
            ("llamafactory", '"ranking": true'),
            ("axolotl", "type: chat_template.default"),
            ("openrlhf", "--data.chosen_key chosen"),
            ("ms_swift", "swift rlhf --rlhf_type dpo --dataset"),
            ("trl_explicit", "data_files:"),
            ("nemo_rl", "PreferenceDataset"),
        ],
    )
    def test_it_says_what_to_paste_into_the_trainer(self, to: str, words: str, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [self.ROWS[3]])
        done = convert_file(source, tmp_path / "out.jsonl", to=to)
        assert words in done["declaration"]
        assert "out" in done["declaration"]

    def test_a_llamafactory_entry_names_no_column_that_is_not_there(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [self.ROWS[3]])
        entry = json.loads(convert_file(source, tmp_path / "out.json", to="llamafactory_alpaca")["declaration"])["out"]
        assert set(entry["columns"].values()) <= set(read(tmp_path / "out.json")[0])


class TestRefusals:
    def test_never_writes_over_its_input(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES["skywork"])
        before = source.read_bytes()
        with pytest.raises(ConfigError, match="is the input itself"):
            convert_file(source, tmp_path / "." / "in.jsonl", to="trl_explicit", force=True)
        assert source.read_bytes() == before

    def test_never_replaces_an_output_unasked(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES["skywork"])
        out = write(tmp_path / "out.jsonl", [{"precious": 1}])
        with pytest.raises(ConfigError, match="--force"):
            convert_file(source, out, to="trl_explicit")
        assert read(out) == [{"precious": 1}]

    def test_text_without_a_known_end_of_prompt_stops_at_row_0(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [{"chosen": "Q: sky? Yes", "rejected": "Q: sky? Yes, very"}])
        with pytest.raises(DataError, match=r"in\.jsonl, row 0: prompt_boundary_unknown"):
            convert_file(source, tmp_path / "out.jsonl", to="trl_explicit")
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]

    def test_a_file_of_which_no_row_is_left_leaves_no_output(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", [{"prompt": "Q", "chosen": "a", "rejected": ""}])
        with pytest.raises(DataError, match="none of 1 rows"):
            convert_file(source, tmp_path / "out.parquet", to="trl_explicit")
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]

    @pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
    def test_a_file_that_breaks_off_leaves_no_output(self, suffix: str, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES["skywork"])
        with source.open("a", encoding="utf-8") as file:
            file.write('{"chosen": [')
        with pytest.raises(DataError, match="line 3"):
            convert_file(source, tmp_path / f"out{suffix}", to="trl_explicit")
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]

    def test_text_and_numbers_in_one_column_do_not_become_text(self, tmp_path: Path) -> None:
        rows = [{**row, "odd": odd} for row, odd in zip(SAMPLES["skywork"], (1, "two"), strict=True)]
        source = write(tmp_path / "in.jsonl", rows)
        with pytest.raises(DataError, match="column odd"):
            convert_file(source, tmp_path / "out.parquet", to="skywork")
        convert_file(source, tmp_path / "out.jsonl", to="skywork")
        assert read(tmp_path / "out.jsonl") == rows

    def test_what_json_cannot_hold_is_refused_by_its_name(self, tmp_path: Path) -> None:
        rows = [{**row, "blob": b"x"} for row in SAMPLES["trl_standard"]]
        source = write(tmp_path / "in.parquet", rows)
        with pytest.raises(DataError, match="column blob"):
            convert_file(source, tmp_path / "out.parquet", to="trl_explicit")

    @pytest.mark.parametrize("name", ["in.csv", "in.txt"])
    def test_other_kinds_of_files_are_refused(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text("x", encoding="utf-8")
        with pytest.raises(DataError, match=r"\.parquet, \.jsonl or \.json"):
            convert_file(tmp_path / name, tmp_path / "out.jsonl", to="trl_explicit")

    def test_no_file_no_layout_no_rows(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no file"):
            convert_file(tmp_path / "absent.jsonl", tmp_path / "out.jsonl", to="trl_explicit")
        with pytest.raises(ConfigError, match="known: pairwright"):
            convert_file(tmp_path / "absent.jsonl", tmp_path / "out.jsonl", to="trl")
        (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
        with pytest.raises(DataError, match="no rows"):
            convert_file(tmp_path / "empty.jsonl", tmp_path / "out.jsonl", to="trl_explicit")

    def test_a_score_column_that_is_not_there_is_refused_not_passed_over(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES["openrlhf"])
        with pytest.raises(ConfigError, match="no score column 'chosen_scores'"):
            convert_file(source, tmp_path / "out.jsonl", to="trl_explicit", options=Options(score="chosen_scores"))

    def test_a_named_layout_that_does_not_fit_loses_the_rows_with_the_column(self, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES["skywork"])
        (first, *_) = read_rows(source, "halos")
        assert isinstance(first.read, Lost)
        assert first.read.reason == "column_missing"
        assert "output_A" in first.read.detail


class TestParquet:
    def test_columns_that_begin_null_get_the_type_of_what_follows(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("pairwright.io.layouts.convert.batches.__defaults__", (2,))
        rows = [
            {"prompt": "Q", "chosen": "a", "rejected": "b", "late": late, "deep": deep}
            for late, deep in ((None, None), (None, []), (1, [{"x": None}]), (0.5, [{"y": "z"}]))
        ]
        source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
        convert_file(source, out, to="trl_standard")
        data = pl.read_parquet(out)
        assert data.schema["late"] == pl.Float64
        assert data["late"].to_list() == [None, None, 1.0, 0.5]
        assert data["deep"].to_list()[3] == [{"x": None, "y": "z"}]

    def test_scores_of_nobody_are_null_numbers(self, tmp_path: Path) -> None:
        source, out = write(tmp_path / "in.jsonl", SAMPLES["hh_rlhf"]), tmp_path / "out.parquet"
        convert_file(source, out, to="pairwright")
        assert pl.read_parquet_schema(out)["score_chosen"] == pl.Float64
        assert pl.read_parquet_schema(out)["chosen"] == MESSAGES


class TestCandidateFrames:
    @pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.kind == "candidates"])
    def test_every_candidates_layout_can_be_paired(self, name: str, tmp_path: Path) -> None:
        source = write(tmp_path / "in.jsonl", SAMPLES[name])
        (batch,) = candidate_frames(source)
        assert batch.columns == ["prompt_id", "prompt", "response_id", "response", "score", "source", "reason"]
        assert batch.schema["prompt"] == MESSAGES
        built = build_pairs(batch, Pairing(rejected="min"))
        assert (
            built.pairs.height + built.dropped.filter(pl.col("response_id").is_null()).height
            == batch["prompt_id"].n_unique()
        )

    def test_a_score_that_was_set_aside_says_why(self, tmp_path: Path) -> None:
        (batch,) = candidate_frames(write(tmp_path / "in.jsonl", SAMPLES["ultrafeedback"]))
        assert batch.filter(pl.col("score").is_null())["reason"].to_list() == ["overall_contradicts_aspects"]

    def test_rows_of_one_prompt_stand_together_wherever_they_stood(self, tmp_path: Path) -> None:
        rows = SAMPLES["helpsteer2"]
        (batch,) = candidate_frames(write(tmp_path / "in.jsonl", [rows[0], rows[2], rows[1], rows[3]]))
        assert batch["response"].to_list() == ["a", "b", "c", "d"]
        assert batch["prompt_id"][0] == prompt_id(talk("user: P"))

    def test_a_prompt_that_comes_again_is_a_prompt_of_its_own(self, tmp_path: Path) -> None:
        (batch,) = candidate_frames(write(tmp_path / "in.jsonl", SAMPLES["rlhflow"] * 2))
        assert batch["prompt_id"].n_unique() == 4
        assert not batch.select("prompt_id", "response_id").is_duplicated().any()

    def test_lost_rows_are_handed_over(self, tmp_path: Path) -> None:
        bad = {**SAMPLES["rlhflow"][0], "rewards": [1.0]}
        dropped: list[Row] = []
        (batch,) = candidate_frames(write(tmp_path / "in.jsonl", [*SAMPLES["rlhflow"], bad]), dropped=dropped)
        assert batch["prompt_id"].n_unique() == 2
        assert [(row["row"], row["reason"]) for row in dropped] == [(2, "rating_count_mismatch")]

    def test_finished_pairs_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds finished pairs"):
            next(candidate_frames(write(tmp_path / "in.jsonl", SAMPLES["skywork"])))


class TestRealFiles:
    def test_ultrafeedback_binarized(self, tmp_path: Path) -> None:
        source = real("ultrafeedback_binarized_sample")
        done = convert_file(source, tmp_path / "out.parquet", to="trl_explicit")
        assert (done["rows_in"], done["rows_out"], done["dropped"]) == (906, 904, {"empty_side": 2})
        assert {each["code"]: each["count"] for each in done["findings"]} == {"tie": 107, "identical_sides": 4}

    @pytest.mark.parametrize(
        ("to", "lost"), [("trl_implicit", 9), ("hh_rlhf", 34), ("llamafactory", 9), ("simpo", 1245)]
    )
    def test_harmless_dialogues_come_back_with_every_column(self, to: str, lost: int, tmp_path: Path) -> None:
        source = real("hh_rlhf_harmless_test")
        done = convert_file(source, tmp_path / "out.parquet", to=to)
        assert done["rows_in"] - done["rows_out"] == lost
        convert_file(tmp_path / "out.parquet", tmp_path / "back.parquet", to=done["detected"])
        gone = [row["row"] for row in read(tmp_path / "out.parquet.dropped.jsonl")]
        before = pl.read_parquet(source).filter(~pl.int_range(pl.len()).is_in(gone))
        after = pl.read_parquet(tmp_path / "back.parquet")
        assert set(after.columns) == set(before.columns)
        assert after.select(before.columns).to_dicts() == before.to_dicts()
