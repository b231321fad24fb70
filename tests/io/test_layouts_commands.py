"""`convert` and `pair --layout` as a user calls them."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pairwright.io.layouts import LAYOUTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_stands_in_the_document(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs" / "layouts.md").read_text()


def test_ranks_become_pairs_with_the_best_one_chosen(tmp_path: Path, pairwright: Callable) -> None:
    out = tmp_path / "run"
    done = pairwright(
        "pair", ROOT / "examples/ranked.jsonl", "--out", out, "--rejected", "min", "--layout", "nectar", "--json"
    )
    assert done.returncode == 0, done.stderr
    pairs = pl.read_parquet(out / "pairs.parquet").sort("margin").to_dicts()
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [
        ("Hello!", "Goodbye."),
        ("A carp.", "A sparrow."),
    ]


def test_rows_that_a_layout_cannot_read_are_in_the_ledger(tmp_path: Path, pairwright: Callable) -> None:
    lines = (ROOT / "examples/ranked.jsonl").read_text().splitlines()
    broken = {**json.loads(lines[0]), "prompt": None}
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, json.dumps(broken)]) + "\n")
    words = [
        "pair",
        tmp_path / "x.jsonl",
        "--out",
        tmp_path / "run",
        "--rejected",
        "min",
        "--layout",
        "nectar",
        "--json",
    ]
    done = pairwright(*words)
    assert done.returncode == 0, done.stderr
    read, paired = json.loads(done.stdout)["stages"]
    assert (read["rows_in"], read["kept"], sum(read["dropped"].values())) == (3, 2, 1)
    assert (paired["rows_in"], paired["kept"]) == (2, 2)
    dropped = pl.read_parquet(tmp_path / "run/dropped.parquet").row(0, named=True)
    assert dropped["stage"] == "read"
    assert dropped["detail"].startswith("row 2")


def test_a_conversion_there_and_back_gives_the_same_file(tmp_path: Path, pairwright: Callable) -> None:
    pairs = tmp_path / "pairs.jsonl"
    assert pairwright("convert", ROOT / "examples/ranked.jsonl", pairs, "--to", "trl_explicit").returncode == 0
    assert pairwright("convert", pairs, tmp_path / "swift.jsonl", "--to", "ms_swift").returncode == 0
    assert (
        pairwright("convert", tmp_path / "swift.jsonl", tmp_path / "again.jsonl", "--to", "trl_explicit").returncode
        == 0
    )
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == [
        json.loads(line) for line in pairs.read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "trl_explict"], "trl_explicit"),
        (["--to", "trl_explicit", "--option", "promt_end=x"], "prompt_end"),
        (["--to", "trl_explicit", "--layout", "simpo"], "simpo"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, pairwright: Callable, words: list[str], told: str
) -> None:
    done = pairwright("convert", ROOT / "examples/ranked.jsonl", tmp_path / "x.jsonl", *words)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert told in done.stderr
    assert not (tmp_path / "x.jsonl").exists()
