"""Bad input on purpose: one line that says what, where and what to do; exit code 2; nothing half-written."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from pairwright import cli

Call = Callable[..., subprocess.CompletedProcess[str]]


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one line on standard error that holds these words, no traceback."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pairwright: ")
    for word in words:
        assert word in lines[0], lines[0]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(pairwright: Call, file: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return pairwright("pair", file, "--out", file.parent / "out", "--rejected", "min", *more)


def ledger(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    stage = json.loads(done.stdout)["stages"][0]
    return {"pairs": stage["kept"], **stage["dropped"], **stage["set_aside"]}


GOOD = {"prompt": "Q", "response": "a", "score": 1.0}


@pytest.mark.parametrize("name", ["empty.jsonl", "blank.jsonl", "zero.parquet"])
def test_a_file_without_rows_is_refused(pairwright: Call, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "zero.parquet":
        pl.DataFrame(schema={"prompt": pl.String, "response": pl.String, "score": pl.Float64}).write_parquet(path)
    else:
        path.write_text("" if name == "empty.jsonl" else "\n\n")
    refused(pair(pairwright, path), name, "holds no rows")
    assert not (tmp_path / "out" / "pairs.parquet").exists()


def test_a_prompt_file_without_prompts_is_refused(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    (tmp_path / "prompts.jsonl").write_text("")
    refused(pairwright("run", path, "--out", tmp_path / "run"), "prompts.jsonl", "no prompts")


def test_one_response_makes_no_pair(pairwright: Call, tmp_path: Path) -> None:
    done = pair(pairwright, lines(tmp_path / "x.jsonl", GOOD), "--json")
    assert ledger(done) == {"pairs": 0, "too_few": 1}


def test_equal_scores_make_no_pair(pairwright: Call, tmp_path: Path) -> None:
    done = pair(pairwright, lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": "b"}), "--json")
    assert ledger(done) == {"pairs": 0, "zero_variance": 1}
    assert pl.read_parquet(tmp_path / "out/pairs.parquet").height == 0


def test_missing_scores_stay_missing(pairwright: Call, tmp_path: Path) -> None:
    scores = [1.0, 2.0, None, float("nan"), float("inf"), float("-inf")]
    rows = [{"prompt": "Q", "response": f"r{i}", "score": score} for i, score in enumerate(scores)]
    done = pair(pairwright, lines(tmp_path / "x.jsonl", *rows), "--json")
    assert ledger(done) == {"pairs": 1, "score_missing": 1, "score_not_finite": 3}
    row = pl.read_parquet(tmp_path / "out/pairs.parquet").row(0, named=True)
    assert (row["score_chosen"], row["score_rejected"]) == (2.0, 1.0)


def test_an_announced_sentinel_is_no_score(pairwright: Call, tmp_path: Path) -> None:
    rows = [{"prompt": "Q", "response": f"r{i}", "score": score} for i, score in enumerate([8, -1, 6, 7])]
    path = lines(tmp_path / "x.jsonl", *rows)
    assert ledger(pair(pairwright, path, "--json", "--set", "scale_min=1")) == {"pairs": 1, "outside_scale": 1}
    assert pl.read_parquet(tmp_path / "out/pairs.parquet")["score_rejected"].to_list() == [6.0]


def test_one_prompt_id_for_two_prompts_is_refused(pairwright: Call, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {**GOOD, "prompt_id": "p7"}, {**GOOD, "prompt": "Other", "prompt_id": "p7"})
    refused(pair(pairwright, path), "p7", "two different prompts")


def test_one_prompt_id_for_two_prompts_is_refused_in_a_prompt_file(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    lines(tmp_path / "prompts.jsonl", {"prompt": "A", "prompt_id": "p7"}, {"prompt": "B", "prompt_id": "p7"})
    refused(pairwright("run", path, "--out", tmp_path / "run"), "row 1", "p7", "two different prompts")


@pytest.mark.parametrize("value", [7, ["a"], {"text": "a"}, True])
def test_a_response_that_is_no_text_is_refused_with_its_line(pairwright: Call, tmp_path: Path, value: object) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": value})
    refused(pair(pairwright, path), "line 2", "response")


def test_a_score_in_quotes_is_refused(pairwright: Call, tmp_path: Path) -> None:
    refused(pair(pairwright, lines(tmp_path / "x.jsonl", {**GOOD, "score": "9"})), "line 1", "score")
    pl.DataFrame([{**GOOD, "score": "9"}]).write_parquet(tmp_path / "y.parquet")
    refused(pair(pairwright, tmp_path / "y.parquet"), "y.parquet", "score", "numbers")


def test_text_that_is_not_utf8_is_refused_with_its_line(pairwright: Call, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9", "response": "a", "score": 1}\n')
    refused(pair(pairwright, path), "line 2", "UTF-8")


def test_a_broken_line_is_refused_with_its_number(pairwright: Call, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(GOOD) + '\n{"prompt": "Q", "resp')
    refused(pair(pairwright, path), "line 2", "JSON")


def test_a_truncated_parquet_file_is_refused(pairwright: Call, tmp_path: Path) -> None:
    pl.DataFrame([GOOD] * 1000).write_parquet(tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    refused(pair(pairwright, tmp_path / "x.parquet"), "x.parquet", "Parquet")


def test_a_file_that_is_not_there_is_refused(pairwright: Call, tmp_path: Path) -> None:
    refused(pair(pairwright, tmp_path / "nowhere.parquet"), "nowhere.parquet")
    refused(pairwright("run", tmp_path / "nowhere.yaml", "--out", tmp_path / "run"), "nowhere.yaml")


def test_columns_that_are_not_there_are_named(pairwright: Call, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"question": "Q", "answer": "a", "quality": 3})
    refused(pair(pairwright, path), "quality", "--column")
    refused(pair(pairwright, path, "--column", "score=qualty"), "qualty", "quality")


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_scores_that_nobody_can_match_are_missing(pairwright: Call, tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": "Q", "responses": ["a", "b"], "rewards": [1.0, 2.0, 3.0]},
        {"prompt": "R", "responses": ["a", "b", "c"], "rewards": [5.0, 1.0]},
        {"prompt": "S", "responses": ["a", "b"], "rewards": [5.0, 1.0]},
    ]
    path = lines(tmp_path / name, *rows)
    if name.endswith("parquet"):
        pl.DataFrame(rows).write_parquet(path)
    assert ledger(pair(pairwright, path, "--json")) == {"pairs": 1, "too_few": 2, "rating_count_mismatch": 5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompts: prompts.jsonl\nsampel: {n: 3}\n", ["sampel", "sample"]),
        (
            "prompts: prompts.jsonl\nsample: {nn: 3}\nscore: [{rater: rules}]\npair: {rejected: min}\n",
            ["nn", "known", "top_p"],
        ),
        ("prompts: prompts.jsonl\nsample: {n: 0}\nscore: [{rater: rules}]\npair: {rejected: min}\n", ["n = 0"]),
        ("prompts: prompts.jsonl\nsample: {n: few}\nscore: [{rater: rules}]\npair: {rejected: min}\n", ["int", "$.n"]),
        ("prompts: prompts.jsonl\nsample: {}\nscore: [{rater: magic}]\npair: {rejected: min}\n", ["magic", "rules"]),
        ("prompts: prompts.jsonl\nsample: {}\nscore: [{rater: rules}]\npair: {}\n", ["rejected"]),
        (
            "prompts: prompts.jsonl\nsample: {}\nscore: [{rater: rules}]\npair: {rejected: mu-2sigm}\n",
            ["mu-2sigm", "mu-2sigma"],
        ),
        (
            "prompts: prompts.jsonl\nsample: {}\nscore: [{rater: rules}]\npair: {chosen: min, rejected: max}\n",
            ["exchange"],
        ),
        ("prompts: [\n", ["YAML"]),
        ("- a\n", ["table"]),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(
    pairwright: Call, tmp_path: Path, text: str, words: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    lines(tmp_path / "prompts.jsonl", {"prompt": "Q"})
    refused(pairwright("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run"), *words)


def test_a_backend_that_is_not_installed_names_the_install_line(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "openvino_genai.py").write_text("raise ImportError('blocked', name='openvino_genai')\n")
    done = pairwright(
        "run",
        recipe(),
        "--out",
        tmp_path / "run",
        "--set",
        "sample.backend=openvino",
        PYTHONPATH=str(tmp_path / "blocked"),
    )
    refused(done, "openvino", 'pip install "pairwright[local]"')


def test_a_bad_prompt_row_is_dropped_and_the_others_run(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    checks = [{"check": "words", "at_least": 20}]
    good = [{"prompt": f"Q{i}", "checks": checks} for i in (0, 3)]
    lines(
        tmp_path / "prompts.jsonl",
        good[0],
        {"prompt": None},
        {"prompt": [{"role": "assistant", "content": "x"}]},
        good[1],
    )
    done = pairwright("run", path, "--out", tmp_path / "run", "--json")
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert stages["prompts"]["dropped"] == {"prompt_missing": 1, "prompt_unusable": 1}
    assert stages["pair"]["rows_in"] == 2
    refused(done, "prompt_missing 1", "dropped.parquet")


def test_an_output_is_not_written_over_without_force(pairwright: Call, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": "b", "score": 2})
    before = path.read_bytes()
    assert pair(pairwright, path).returncode == 0
    refused(pair(pairwright, path), "--force")
    assert pair(pairwright, path, "--force").returncode == 0
    assert path.read_bytes() == before


def test_another_ones_files_are_not_written_over(pairwright: Call, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": "b", "score": 2})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    refused(pair(pairwright, path), "README.md", "--force")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


def test_the_input_is_never_written_over(pairwright: Call, tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pl.DataFrame([GOOD, {**GOOD, "response": "b", "score": 2.0}]).write_parquet(path)
    before = path.read_bytes()
    refused(pairwright("pair", path, "--out", tmp_path, "--rejected", "min", "--force"), "the input itself")
    assert path.read_bytes() == before


def test_a_late_column_of_a_jsonl_file_is_read(pairwright: Call, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "response": f"r{k}", "score": k} for i in range(600) for k in (1, 2)]
    late = [{"prompt": "z", "response": f"r{k}", "score": k, "scale_min": 0} for k in (-1, 1, 2)]
    done = pair(pairwright, lines(tmp_path / "x.jsonl", *rows, *late), "--json")
    assert ledger(done) == {"pairs": 601, "outside_scale": 1}


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_prompt_without_a_response_stays_in_the_ledger(pairwright: Call, tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": "a", "responses": ["r", "s"], "rewards": [1.0, 2.0]},
        {"prompt": "b", "responses": [], "rewards": []},
    ]
    path = lines(tmp_path / name, *rows)
    if name.endswith("parquet"):
        pl.DataFrame(
            rows, schema_overrides={"responses": pl.List(pl.String), "rewards": pl.List(pl.Float64)}
        ).write_parquet(path)
    told = ledger(pair(pairwright, path, "--json"))
    assert (told["pairs"], told["too_few"]) == (1, 1)


def test_a_missing_bound_is_no_bound(pairwright: Call, tmp_path: Path) -> None:
    rows = [{**GOOD, "response": f"r{k}", "score": float(k), "scale_min": float("nan")} for k in range(3)]
    pl.DataFrame(rows).write_parquet(tmp_path / "x.parquet")
    assert ledger(pair(pairwright, tmp_path / "x.parquet", "--json")) == {"pairs": 1}


def test_half_a_character_is_refused_with_its_line(pairwright: Call, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": "\ud800"})
    refused(pair(pairwright, path), "line 2", "surrogate")


def test_bad_checks_are_found_before_anything_is_sampled(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    lines(tmp_path / "prompts.jsonl", {"prompt": "Q", "checks": [{"check": "wrods"}]})
    refused(pairwright("run", path, "--out", tmp_path / "run"), "prompts.jsonl", "wrods", "words")
    assert not list((tmp_path / "run").rglob("responses-*"))


def test_a_column_name_is_taken_as_it_is(pairwright: Call, tmp_path: Path) -> None:
    frame = pl.DataFrame([{"prompt": "Q", "response": f"r{k}", "^.*$": float(k)} for k in range(3)])
    frame.write_parquet(tmp_path / "x.parquet")
    assert ledger(pair(pairwright, tmp_path / "x.parquet", "--column", "score=^.*$", "--json")) == {"pairs": 1}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write anywhere; so another user for the time of a test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_write_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "x.jsonl", GOOD, {**GOOD, "response": "b", "score": 2})
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    words = ["pairwright", "pair", str(path), "--rejected", "min", "--out"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "open")])
    with pytest.raises(SystemExit) as stopped:  # loads every module while that is allowed
        cli.main()
    assert stopped.value.code == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*words, str(closed / "out")])
    with as_nobody(), pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "cannot write" in told[0]
    assert "permission" in told[0]
    assert list(closed.iterdir()) == []


def test_a_full_disk_leaves_no_half_file_and_loses_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The operating system refuses every file beyond 4 kB: a write that fails in the middle."""
    path, folder = recipe(n=40), tmp_path / "run"
    command = [sys.executable, "-m", "pairwright.cli", "run", str(path), "--out", str(folder)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files, check=False)
    refused(done, "cannot write", "kept")
    for parquet in folder.rglob("*.parquet"):
        if not parquet.name.startswith("."):
            pl.read_parquet(parquet)  # whole
    assert not list(folder.rglob("*.tmp"))
    kept = {p: p.read_bytes() for p in (folder / "stages/prompts").glob("*.parquet")}
    assert kept
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert {p: p.read_bytes() for p in kept} == kept


def test_json_output_is_one_object_and_nothing_else(
    pairwright: Call, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    done = pairwright("run", recipe(), "--out", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["pairs"] > 0
    assert done.stderr == ""
