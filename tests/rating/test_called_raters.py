"""Raters that are called: stored call by call, never asked twice, never a dead run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pairwright import pipeline, wiring
from pairwright.errors import ConfigError
from pairwright.recipe import Asked, file_recipe

COUNTED = """
import pathlib, time
LOG = pathlib.Path(__file__).with_name("calls.log")

def slow(prompts, responses):
    out = []
    for prompt, text in zip(prompts, responses):
        with LOG.open("a") as file:
            file.write(prompt[-1]["content"] + "|" + text + "\\n")
        time.sleep(PAUSE)
        out.append(len(text))
    return out
"""


def responses(folder: Path, *, prompts: int = 6, n: int = 5) -> Path:
    rows = [
        {"prompt": f"Question {p}", "response": f"answer {k} " * (k + 1), "gold": float(k)}
        for p in range(prompts)
        for k in range(n)
    ]
    path = folder / "said.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path


def rater(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def score(file: Path, out: Path, *raters: object, retry: bool = False, **changes: object) -> pl.DataFrame:
    recipe = file_recipe(file, Asked(changes, list(raters)), columns={}, layout=None)
    steps = wiring.steps(recipe, out)
    if retry:
        wiring.forget_failures(out, steps)
    pipeline.run(out, steps)
    return pl.read_parquet(out / "scores.parquet").sort("prompt_id", "response_id")


def log(folder: Path) -> list[str]:
    path = folder / "calls.log"
    return path.read_text().splitlines() if path.exists() else []


def test_a_function_scores_every_response(tmp_path: Path) -> None:
    path = rater(tmp_path, "def words(responses):\n    return [len(t.split()) for t in responses]\n")
    rows = score(responses(tmp_path), tmp_path / "run", f"{path}:words")
    assert rows["words"].to_list() == [float(len(text.split())) for text in rows["response"]]


def test_a_reward_function_of_trl_works_as_it_is(tmp_path: Path) -> None:
    text = "def reward(completions, **kwargs):\n    return [float(len(c[0]['content'])) for c in completions]\n"
    rows = score(responses(tmp_path), tmp_path / "run", f"{rater(tmp_path, text)}:reward")
    assert rows["reward"].to_list() == [float(len(text)) for text in rows["response"]]


def test_an_exception_makes_the_rows_at_fault_null_and_no_other(tmp_path: Path) -> None:
    text = (
        "def fussy(prompts, responses):\n"
        "    if any(r.startswith('answer 2') for r in responses): raise ValueError('no twos')\n"
        "    return [None if r.startswith('answer 3') else float('inf') if r.startswith('answer 4') else 1.5\n"
        "            for r in responses]\n"
    )
    score(responses(tmp_path), tmp_path / "run", f"{rater(tmp_path, text)}:fussy")
    stage = tmp_path / "run/stages/score-fussy"
    scores = pl.concat([pl.read_parquet(each) for each in stage.glob("scores-*.parquet")])
    why = {"answer 0": None, "answer 1": None, "answer 2": "function_failed", "answer 3": "function_gave_none"}
    why["answer 4"] = "score_not_finite"
    for sample, reason in enumerate(why.values()):
        held = scores.filter(pl.col("response_id") == f"{sample:06d}")
        assert held["reason"].unique().to_list() == [reason]
        assert held["score"].unique().to_list() == [None if reason else 1.5]
    dropped = pl.concat([pl.read_parquet(each) for each in stage.glob("dropped-*.parquet")])
    assert "fussy: ValueError: no twos" in dropped["detail"].to_list()
    assert dropped.height == 18


def test_a_wrong_count_is_nobodys_score(tmp_path: Path) -> None:
    """Three values for five responses: nobody knows whose they are (they must not slide onto the first three)."""
    text = "def short(responses):\n    return [1.0] * (len(responses) - 1)\n"
    rows = score(responses(tmp_path), tmp_path / "run", f"{rater(tmp_path, text)}:short")
    assert rows["short"].null_count() == rows.height


@pytest.mark.parametrize(
    ("text", "named", "said"),
    [
        ("def f(", "f", "does not run: SyntaxError"),
        ("raise SystemExit(3)", "f", "does not run: SystemExit"),
        ("def g(responses): return [1.0]", "f", "has no function f; it has g"),
        ("def f(texts): return [1.0]", "f", "wants 'texts'; what it can have is prompts, responses, completions"),
    ],
)
def test_a_function_that_cannot_be_called_is_named_at_once(tmp_path: Path, text: str, named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        score(responses(tmp_path), tmp_path / "run", f"{rater(tmp_path, text)}:{named}")


def test_a_finished_run_calls_nothing_again(tmp_path: Path) -> None:
    path = rater(tmp_path, COUNTED.replace("PAUSE", "0"))
    first = score(responses(tmp_path), tmp_path / "run", f"{path}:slow")
    assert len(log(tmp_path)) == 30
    assert score(responses(tmp_path), tmp_path / "run", f"{path}:slow").equals(first)
    assert len(log(tmp_path)) == 30


def test_another_rater_and_more_responses_call_for_themselves_alone(tmp_path: Path) -> None:
    path, out = rater(tmp_path, COUNTED.replace("PAUSE", "0")), tmp_path / "run"
    score(responses(tmp_path), out, f"{path}:slow")
    score(responses(tmp_path), out, f"{path}:slow", "length")
    assert len(log(tmp_path)) == 30
    grown = score(responses(tmp_path, n=7), out, f"{path}:slow", "length")
    assert len(log(tmp_path)) == 42
    assert grown.height == 42
    assert grown["slow"].null_count() == 0
    score(responses(tmp_path, n=7), out, f"{path}:slow", "length", shards=3)
    assert len(log(tmp_path)) == 42


def test_a_changed_text_is_asked_again_under_the_same_id(tmp_path: Path) -> None:
    path, out = rater(tmp_path, COUNTED.replace("PAUSE", "0")), tmp_path / "run"
    file = responses(tmp_path)
    score(file, out, f"{path}:slow")
    rows = pl.read_parquet(file).with_columns(
        response=pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("another text")).otherwise("response")
    )
    rows.write_parquet(file)
    after = score(file, out, f"{path}:slow")
    assert len(log(tmp_path)) == 31
    assert after["slow"].to_list() == [float(len(text)) for text in after["response"]]


def test_retry_asks_for_the_failed_alone(tmp_path: Path) -> None:
    flag = tmp_path / "up"
    text = (
        f"import pathlib\nLOG = pathlib.Path({str(tmp_path)!r}) / 'calls.log'\n"
        "def flaky(prompts, responses):\n"
        "    out = []\n"
        "    for p, r in zip(prompts, responses):\n"
        "        with LOG.open('a') as file: file.write(r + '\\n')\n"
        f"        if r.startswith('answer 1') and not pathlib.Path({str(flag)!r}).exists(): raise OSError('down')\n"
        "        out.append(1.0)\n"
        "    return out\n"
    )
    entry = {"rater": f"{rater(tmp_path, text)}:flaky", "batch_size": 1}
    file, out = responses(tmp_path), tmp_path / "run"
    assert score(file, out, entry)["flaky"].null_count() == 6
    assert len(log(tmp_path)) == 30
    flag.touch()
    assert score(file, out, entry)["flaky"].null_count() == 6
    assert score(file, out, entry, retry=True)["flaky"].null_count() == 0
    assert len(log(tmp_path)) == 36


def test_killed_anywhere_it_goes_on_without_a_call_twice(tmp_path: Path) -> None:
    """kill -9 three times in the middle: no stored call is made again, no row stands twice, none is missing."""
    path = rater(tmp_path, COUNTED.replace("PAUSE", "0.03"))
    file, out = responses(tmp_path), tmp_path / "run"
    command = [
        sys.executable, "-m", "pairwright.cli", "score", str(file), "-o", str(out),
        "--rater", f"{{rater: '{path}:slow', batch_size: 1}}", "--set", "shards=3",
    ]  # fmt: skip
    kills = 0
    for wanted in (4, 11, 19):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
            until = time.monotonic() + 60
            while len(log(tmp_path)) < wanted and child.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
    assert kills == 3
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    rows = pl.read_parquet(out / "scores.parquet")
    assert rows.height == 30
    assert rows.select(pl.struct("prompt_id", "response_id").is_duplicated().any()).item() is False
    assert rows["slow"].to_list() == [float(len(text)) for text in rows["response"]]
    assert json.loads(done.stdout)["raters"][0]["n"] == 30
    again = [line for line in log(tmp_path) if log(tmp_path).count(line) > 1]
    assert len(log(tmp_path)) <= 30 + kills, again  # at most the one call that each kill interrupted


def test_a_half_written_record_is_asked_again(tmp_path: Path) -> None:
    path, out = rater(tmp_path, COUNTED.replace("PAUSE", "0")), tmp_path / "run"
    file = responses(tmp_path)
    first = score(file, out, f"{path}:slow", shards=1)
    [journal] = (out / "stages/.calls").glob("*/*.jsonl")
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) - 20])
    for shard in (out / "stages/score-slow").glob("*.parquet"):
        shard.unlink()
    assert score(file, out, f"{path}:slow", shards=1).equals(first)
    assert len(log(tmp_path)) == 31


def test_scores_that_stand_in_the_file_are_a_rater_like_any_other(tmp_path: Path) -> None:
    rows = score(responses(tmp_path), tmp_path / "run", {"rater": "column", "column": "gold"}, "length")
    assert rows["gold"].to_list() == [0.0, 1.0, 2.0, 3.0, 4.0] * 6
    told = json.loads((tmp_path / "run/scores.json").read_text())
    [both] = told["agreement"]
    assert (both["a"], both["b"], both["rho"], both["prompts"]) == ("gold", "length", 1.0, 6)


def test_a_recipe_pairs_responses_that_exist_already(tmp_path: Path) -> None:
    path = rater(tmp_path, "def words(responses):\n    return [len(t.split()) for t in responses]\n")
    responses(tmp_path)
    text = f"candidates: said.parquet\nscore: ['{path.name}:words', length]\npair: {{rejected: min, reward: words}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = wiring.read_recipe(tmp_path / "recipe.yaml")
    pipeline.run(tmp_path / "run", wiring.steps(recipe, tmp_path / "run"))
    pairs = pl.read_parquet(tmp_path / "run/pairs.parquet")
    assert pairs["margin"].to_list() == [8.0] * 6
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    for stage in ledger["stages"]:
        assert stage["rows_in"] == stage["kept"] + sum(stage["dropped"].values())
    assert "Agreement of raters within prompts" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize(
    ("raters", "said"),
    [
        (["length", "length"], "a rater stands twice under score: length"),
        (["lenght"], "unknown rater 'lenght'; known: rules"),
        ([{"rater": "length", "nmae": "x"}], "unknown: nmae"),
        ([{"rater": "length", "name": "a b"}], "letters, digits"),
        ([{"rater": "column", "column": "absent"}], "no column 'absent'"),
        ([{"rater": "absent.py:f"}], "cannot read"),
        ([], "name at least one rater"),
    ],
)
def test_a_wrong_rater_is_named_before_anything_runs(tmp_path: Path, raters: list[object], said: str) -> None:
    from pairwright.errors import PairwrightError

    with pytest.raises(PairwrightError, match=said):
        score(responses(tmp_path), tmp_path / "run", *raters)


def test_the_command_says_what_the_raters_say(
    tmp_path: Path, pairwright: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    rater(
        tmp_path,
        "def f(responses):\n    if len(responses[0]) > 40: raise OSError('down')\n    return [1.0] * len(responses)\n",
    )
    entry = "{rater: 'mine.py:f', batch_size: 1}"
    done = pairwright("score", responses(tmp_path), "-o", "run", "--rater", entry, "--rater", "length", cwd=tmp_path)
    assert done.returncode == 2
    assert "some calls failed: f 6; scores are null there, --retry asks again" in done.stderr
    assert "f says 1 about all 24 responses: it decides nothing (constant_judge)." in done.stdout


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_column_score_can_be_a_rater(tmp_path: Path, suffix: str) -> None:
    rows = pl.read_parquet(responses(tmp_path)).rename({"gold": "score"})
    file = tmp_path / f"scored{suffix}"
    rows.write_parquet(file) if suffix == ".parquet" else rows.write_ndjson(file)
    assert (
        score(file, tmp_path / "run", {"rater": "column", "column": "score"})["score"].to_list() == [0, 1, 2, 3, 4] * 6
    )


def test_normalised_scores_stand_apart_from_the_raw_ones(tmp_path: Path) -> None:
    rows = score(responses(tmp_path), tmp_path / "run", {"rater": "column", "column": "gold"}, "length")
    assert rows["gold"].to_list() == [0.0, 1.0, 2.0, 3.0, 4.0] * 6
    z = pl.read_parquet(tmp_path / "run/scores_z.parquet").sort("prompt_id", "response_id")
    assert z["gold"].to_list() == pytest.approx([-(2**0.5), -(0.5**0.5), 0, 0.5**0.5, 2**0.5] * 6)
    assert z.columns == ["prompt_id", "response_id", "gold", "length"]


def test_raters_of_a_file_are_compared_on_its_page(
    tmp_path: Path, pairwright: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    rows = pl.read_parquet(responses(tmp_path)).with_columns(other=-pl.col("gold"), flat=pl.lit(2.0))
    rows.write_parquet(tmp_path / "two.parquet")
    words = ["pair", tmp_path / "two.parquet", "-o", tmp_path / "out", "--rejected", "min"]
    done = pairwright(*words, "--rater", "gold=2", "--rater", "other", "--rater", "flat", "--json")
    assert done.returncode == 0, done.stderr
    advice = json.loads(done.stdout)["advice"]
    assert any("gold and other contradict each other" in line and "-1.00 over 6 prompts" in line for line in advice)
    assert any("flat says 2 about all 30 responses" in line for line in advice)
    assert "Agreement of raters within prompts" in (tmp_path / "out/report.html").read_text()


def test_a_function_cannot_change_what_the_next_one_sees(tmp_path: Path) -> None:
    text = (
        "def f(prompts, responses):\n"
        "    for p in prompts: p[-1]['content'] += ' more'\n"
        "    return [len(p[-1]['content']) for p in prompts]\n"
    )
    rows = score(responses(tmp_path), tmp_path / "run", {"rater": f"{rater(tmp_path, text)}:f", "batch_size": 2})
    assert rows["f"].n_unique() == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return {r: 1.0 for r in responses}", "function_failed"),
        ("return [10 ** 400 for r in responses]", "function_gave_no_number"),
        ("raise ValueError('half \\ud83d')", "function_failed"),
        ("return ['5' for r in responses]", "function_gave_no_number"),
    ],
)
def test_what_is_no_list_of_numbers_is_no_score(tmp_path: Path, body: str, reason: str) -> None:
    score(
        responses(tmp_path), tmp_path / "run", f"{rater(tmp_path, f'def f(responses):{chr(10)}    {body}{chr(10)}')}:f"
    )
    parts = (tmp_path / "run/stages/score-f").glob("scores-*.parquet")
    assert pl.concat([pl.read_parquet(each) for each in parts])["reason"].unique().to_list() == [reason]


def test_a_function_may_have_dataclasses_and_files_beside_it(
    tmp_path: Path, pairwright: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    rater(tmp_path, "FACTOR = 2.0\n", "beside_it.py")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_it import FACTOR\n"
        "@dataclass\nclass Held:\n    value: float\n"
        "def f(responses):\n    print('noise')\n    return [Held(FACTOR).value for _ in responses]\n"
    )
    path = rater(tmp_path, text)
    done = pairwright("score", responses(tmp_path), "-o", tmp_path / "run", "--rater", f"{path}:f", "--json")
    assert json.loads(done.stdout)["raters"][0]["low"] == 2.0
