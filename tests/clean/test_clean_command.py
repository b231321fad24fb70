"""The clean command, and `clean:` in a recipe: what is written, what is refused, and that nothing that is read is changed."""

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml

from pairwright import cleaning, cli, pipeline, wiring
from pairwright.backends.fake_endpoint import FakeEndpoint
from pairwright.clean.evidence import SOFT, Cleaning
from pairwright.cleaning import clean_source
from pairwright.errors import ConfigError, DataError
from pairwright.recipe import Asked
from pairwright.tables import PROPOSALS, SCORES, conform

Command = Callable[..., subprocess.CompletedProcess[str]]
HOSTILE = '</td><script>alert(1)</script><img src=x onerror="alert(2)">'


class Called(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """The command in this process: a start of Python is what takes the time otherwise."""

    def call(*words: object) -> Called:
        monkeypatch.setattr("sys.argv", ["pairwright", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Called(code if isinstance(code, int) else 0, said.out, said.err)

    return call


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hashes(folder: Path) -> dict[str, str]:
    held = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else [folder]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in held}


def scored(*, error: float = 9.0, text: str = "said") -> list[dict[str, Any]]:
    """40 prompts x 5 responses by four raters on one scale, with one wrong cell."""
    rng = np.random.default_rng(0)
    rows = []
    for r in range(200):
        quality = rng.normal()
        for j in range(4):
            score = quality + 0.2 * j + 0.2 * rng.normal() + (error if (r, j) == (17, 2) else 0.0)
            response = f"{text} {r}"
            rows.append(
                {
                    "prompt_id": f"p{r // 5}",
                    "response_id": f"r{r % 5}",
                    "rater": f"j{j}",
                    "score": score,
                    "response": response,
                }
            )
    return rows


def hh(n: int = 30) -> list[dict[str, Any]]:
    talk = "\n\nHuman: Question {0}?\n\nAssistant: {1} {0}"
    return [{"chosen": talk.format(at, "Good"), "rejected": talk.format(at, "Bad")} for at in range(n)]


def k4(derived: bool) -> list[dict[str, Any]]:
    score = {"a": 9.0, "b": 7.0, "c": 4.0, "d": 1.0}
    rows = []
    for at in range(5):
        for x, y in combinations(score, 2):
            row = {"prompt": f"Q{at}", "chosen": x, "rejected": y}
            rows.append(row | ({"score_chosen": score[x], "score_rejected": score[y]} if derived else {}))
    return rows


class TestFiles:
    def test_two_responses_and_one_label_are_refused_with_four_options_and_exit_code_0(
        self, tmp_path: Path, pairwright: Command
    ) -> None:
        file = written(tmp_path / "hh.jsonl", hh())
        before = hashes(file)
        done = pairwright("clean", file, "--out", tmp_path / "out", "--layout", "hh_rlhf")
        assert (done.returncode, done.stderr) == (0, "")
        assert "0 errors detectable, 0 correctable within prompts. Nothing was repaired." in done.stdout
        assert len(re.findall(r"^  - ", done.stdout, re.M)) == 4
        assert "0 proposals, 0 safe; applied: none" in done.stdout
        assert hashes(file) == before
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "clean.json",
            "proposals.parquet",
            "soft.parquet",
            "report.html",
        }

    def test_a_forced_method_is_refused_in_one_line_and_force_says_what_it_is(
        self, tmp_path: Path, command: Callable[..., Called]
    ) -> None:
        file = written(tmp_path / "hh.jsonl", hh())
        words = ("clean", file, "--out", tmp_path / "out", "--layout", "hh_rlhf", "--method", "lad")
        refused = command(*words)
        assert refused.returncode == 2
        assert "not_identifiable" in refused.stderr
        assert "--set force=true" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "out").exists()
        forced = command(*words, "--set", "force=true")
        assert forced.returncode == 0
        assert "forced: nothing can be known here; no proposal is called safe" in forced.stdout
        assert "This was forced" in (tmp_path / "out/report.html").read_text()

    def test_pairs_made_from_scores_are_refused(self, tmp_path: Path) -> None:
        (case,) = clean_source(written(tmp_path / "d.jsonl", k4(True)), tmp_path / "o", Cleaning(), layout=None)[
            "cases"
        ]
        assert (case["status"], "found" in case) == ("derived_pairs", False)
        (case,) = clean_source(written(tmp_path / "k.jsonl", k4(False)), tmp_path / "o", Cleaning(), layout=None)[
            "cases"
        ]
        assert (case["status"], case["found"]["triples"]) == ("detect_only", 20)

    def test_safe_proposals_become_scores_of_their_own_and_the_file_stays(self, tmp_path: Path) -> None:
        file = written(tmp_path / "s.jsonl", scored())
        before = hashes(file)
        told = clean_source(file, tmp_path / "out", Cleaning(apply="safe"), layout=None)
        assert hashes(file) == before
        scores = conform(pl.read_parquet(tmp_path / "out/scores.parquet"), SCORES, where="out")
        proposals = conform(pl.read_parquet(tmp_path / "out/proposals.parquet"), PROPOSALS, where="out")
        assert (set(scores["rater"]), scores.height, told["safe"]) == ({"j2.clean"}, 200, 1)
        assert told["proposals"] == proposals.height
        assert dict(pl.read_parquet(tmp_path / "out/soft.parquet").schema) == SOFT
        assert told["inputs"]["s.jsonl"] in str(json.loads((tmp_path / "out/clean.json").read_text()))

    def test_scores_of_an_earlier_call_do_not_stay_behind(self, tmp_path: Path) -> None:
        file = written(tmp_path / "s.jsonl", scored())
        clean_source(file, tmp_path / "out", Cleaning(apply="safe"), layout=None)
        clean_source(file, tmp_path / "out", Cleaning(), layout=None)
        assert not (tmp_path / "out/scores.parquet").exists()

    def test_the_same_call_twice_writes_the_same_bytes(self, tmp_path: Path) -> None:
        file = written(tmp_path / "s.jsonl", scored())
        clean_source(file, tmp_path / "out", Cleaning(apply="safe"), layout=None)
        before = hashes(tmp_path / "out")
        clean_source(file, tmp_path / "out", Cleaning(apply="safe"), layout=None)
        assert hashes(tmp_path / "out") == before

    def test_results_never_fall_on_what_they_are_about(self, tmp_path: Path) -> None:
        file = tmp_path / "scores.parquet"
        pl.DataFrame(scored()).write_parquet(file)
        before = hashes(tmp_path)
        with pytest.raises(ConfigError, match=r"holds scores\.parquet"):
            clean_source(file, tmp_path, Cleaning(apply="safe"), layout=None)
        (tmp_path / "run/stages").mkdir(parents=True)
        with pytest.raises(ConfigError, match="holds a run"):
            clean_source(tmp_path / "run", tmp_path / "run", Cleaning(), layout=None)
        assert hashes(tmp_path) == before

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--method", "magic"), "method"),
            (("--apply", "all"), "apply"),
            (("--set", "z0=0"), "z0"),
            (("--set", "zo=3"), "zo"),
            (("--rater", "j9"), "'j9'"),
        ],
    )
    def test_what_cannot_be_meant_is_named_in_one_line(
        self, tmp_path: Path, command: Callable[..., Called], options: tuple, said: str
    ) -> None:
        done = command("clean", written(tmp_path / "s.jsonl", scored()), "--out", tmp_path / "out", *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_json_is_json(self, tmp_path: Path, command: Callable[..., Called]) -> None:
        rows = [row | {"score": float("nan")} if row["rater"] == "j3" else row for row in scored()]
        done = command("clean", written(tmp_path / "s.jsonl", rows), "--out", tmp_path / "out", "--json")
        told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert told["cases"][0]["facts"]["raters"] == ["j0", "j1", "j2"]
        json.loads((tmp_path / "out/clean.json").read_text(), parse_constant=lambda name: pytest.fail(name))

    def test_a_fit_that_does_not_settle_is_an_outcome_with_exit_code_0(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pairwright.clean import matrix

        honest = matrix.fit_columns
        monkeypatch.setattr(
            matrix, "fit_columns", lambda score: (fit := honest(score))._replace(converged_J=~fit.converged_J)
        )
        told = clean_source(
            written(tmp_path / "s.jsonl", scored()), tmp_path / "out", Cleaning(apply="safe"), layout=None
        )
        assert (told["cases"][0]["outcome"], told["proposals"]) == ("not_converged", 0)
        assert not (tmp_path / "out/scores.parquet").exists()
        assert "not_converged" in (tmp_path / "out/report.html").read_text()


class TestPage:
    def test_what_stands_out_is_shown_with_its_text_and_nothing_in_it_is_markup(self, tmp_path: Path) -> None:
        rows = [{**row, "rater": f"<i>{row['rater']}"} for row in scored(text=HOSTILE)]
        clean_source(written(tmp_path / "s.jsonl", rows), tmp_path / "out", Cleaning(), layout=None)
        page = (tmp_path / "out/report.html").read_text()
        assert "What can be known, and what does not fit" in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert not re.search(r"<script|<img|<i>", page)
        assert "out_of_line" in page

    def test_a_hostile_file_name_is_a_name(self, tmp_path: Path) -> None:
        file = written(tmp_path / "<b>&.jsonl", hh())
        clean_source(file, tmp_path / "out", Cleaning(), layout="hh_rlhf")
        assert "<b>" not in (tmp_path / "out/report.html").read_text()

    def test_long_texts_are_cut(self, tmp_path: Path) -> None:
        clean_source(
            written(tmp_path / "s.jsonl", scored(text="long " * 5000)), tmp_path / "out", Cleaning(), layout=None
        )
        page = (tmp_path / "out/report.html").read_text()
        assert "long " * 100 in page
        assert "long " * 200 not in page


REWARDS = """
def honest(responses):
    return [float(text.split("|")[1]) for text in responses]

def other(responses):
    return [2 * float(text.split("|")[1]) + float(text.split("|")[2]) for text in responses]
"""


def candidates(folder: Path, *, hostile: str = "") -> Path:
    """40 prompts x 6 models; `honest` reads the first number, which is wrong for one response."""
    rng = np.random.default_rng(4)
    rows = []
    for p in range(40):
        level = rng.normal()
        for m in range(6):
            score = level + 0.5 * m + 0.15 * rng.normal() + (12 if (p, m) == (7, 0) else 0)
            text = f"answer {m} of {p}{hostile}|{score:.4f}|{0.3 * rng.normal():.4f}"
            rows.append({"prompt": f"Name {p} ships.", "response": text, "model": f"m{m}"})
    pl.DataFrame(rows).write_parquet(folder / "said.parquet")
    (folder / "rewards.py").write_text(REWARDS)
    return folder / "said.parquet"


def recipe(folder: Path, *, score: list[Any], pair: dict[str, Any], clean: dict[str, Any] | None = None) -> Path:
    given = {"file": "said.parquet", "columns": {"source": "model"}}
    table = {
        "candidates": given,
        "shards": 3,
        "score": score,
        "clean": clean or {"method": "auto", "apply": "safe"},
        "pair": pair,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(table))
    return folder / "recipe.yaml"


def run(path: Path, out: Path) -> list[pipeline.Outcome]:
    held = wiring.read_recipe(path, Asked({}))
    return pipeline.run(out, wiring.steps(held, out))


def table(out: Path, stage: str, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(each) for each in sorted((out / "stages" / stage).glob(f"{name}-*.parquet"))])


class TestRecipe:
    def test_two_functions_are_cleaned_and_the_pairs_are_made_from_the_clean_scores(self, tmp_path: Path) -> None:
        candidates(tmp_path, hostile=HOSTILE)
        pair = {"chosen": "max", "rejected": "min"}
        run(
            recipe(tmp_path, score=["rewards.py:honest", "rewards.py:other"], pair=pair | {"reward": "honest.clean"}),
            tmp_path / "run",
        )
        proposals = pl.read_parquet(tmp_path / "run/proposals.parquet")
        safe = proposals.filter(pl.col("status") == "safe")
        assert safe.select("case", "rater").row(0) == ("models", "honest")
        raw, clean = table(tmp_path / "run", "score-honest", "scores"), table(tmp_path / "run", "clean", "scores")
        assert raw["score"].max() > 10 > clean.filter(pl.col("rater") == "honest.clean")["score"].max()
        both = raw.join(
            clean.filter(pl.col("rater") == "honest.clean"), on=["prompt_id", "response_id"], suffix="_clean"
        ).filter(pl.col("score") != pl.col("score_clean"))
        changed = set(both.select("prompt_id", "response_id").rows())
        assert changed == set(safe.filter(pl.col("rater") == "honest").select("prompt_id", "response_id").rows())
        pairs = pl.read_parquet(tmp_path / "run/pairs.parquet")
        assert pairs["score_chosen"].max() < 10
        page = (tmp_path / "run/report.html").read_text()
        assert "models by honest" in page
        assert "&lt;img src=x" in page
        assert not re.search(r"<img src=x|<script>alert", page)

    def test_a_second_run_changes_nothing(self, tmp_path: Path) -> None:
        candidates(tmp_path)
        path = recipe(
            tmp_path, score=["rewards.py:honest", "rewards.py:other"], pair={"chosen": "max", "rejected": "min"}
        )
        run(path, tmp_path / "run")
        before = hashes(tmp_path / "run")
        again = run(path, tmp_path / "run")
        assert {each.why for each in again} == {"unchanged"}
        assert hashes(tmp_path / "run") == before

    def test_another_setting_cleans_again_and_scores_nothing_again(self, tmp_path: Path) -> None:
        candidates(tmp_path)
        score, pair = ["rewards.py:honest", "rewards.py:other"], {"chosen": "max", "rejected": "min"}
        run(recipe(tmp_path, score=score, pair=pair), tmp_path / "run")
        raw = hashes(tmp_path / "run/stages/score-honest")
        again = run(recipe(tmp_path, score=score, pair=pair, clean={"z0": 3.0}), tmp_path / "run")
        why = {each.stage: each.why for each in again}
        assert why["clean"] != "unchanged"
        assert why["score-honest"] == "unchanged"
        assert hashes(tmp_path / "run/stages/score-honest") == raw

    def test_the_command_reads_a_run_and_leaves_every_byte_of_it(
        self, tmp_path: Path, command: Callable[..., Called]
    ) -> None:
        candidates(tmp_path)
        run(
            recipe(
                tmp_path, score=["rewards.py:honest", "rewards.py:other"], pair={"chosen": "max", "rejected": "min"}
            ),
            tmp_path / "run",
        )
        before = hashes(tmp_path / "run")
        done = command("clean", tmp_path / "run", "--out", tmp_path / "out", "--apply", "safe")
        assert done.returncode == 0
        assert "models (honest)" in done.stdout
        assert hashes(tmp_path / "run") == before
        ours, theirs = (
            pl.read_parquet(folder / "proposals.parquet") for folder in (tmp_path / "out", tmp_path / "run")
        )
        assert ours.sort(PROPOSALS.key).equals(theirs.sort(PROPOSALS.key))
        assert "answer 0 of 7" in (tmp_path / "out/report.html").read_text()

    def test_a_rater_to_clean_that_is_none_is_named(self, tmp_path: Path) -> None:
        candidates(tmp_path)
        path = recipe(tmp_path, score=["rewards.py:honest"], pair={}, clean={"raters": ["honets"]})
        with pytest.raises(ConfigError, match="'honets' is not one of the raters: honest"):
            run(path, tmp_path / "run")

    def test_an_unknown_key_is_named(self, tmp_path: Path) -> None:
        candidates(tmp_path)
        with pytest.raises(ConfigError, match=r"\[clean\] unknown: aply; known: apply"):
            run(recipe(tmp_path, score=["rewards.py:honest"], pair={}, clean={"aply": "safe"}), tmp_path / "run")

    def test_a_folder_without_scores_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no scores of a run"):
            clean_source(tmp_path, tmp_path / "out", Cleaning(), layout=None)


def longer(body: dict[str, Any], _: int) -> str:
    """The longer reply is better."""
    shown = re.findall(r"begins -----\n(.*?)\n----- \w+ ends", str(body["messages"][-1]["content"]), re.S)[1:]
    return f"Verdict: {'A' if len(shown[0]) > len(shown[1]) else 'B'}"


class TestPairwiseJudge:
    def judged(self, folder: Path, server: FakeEndpoint, reward: str) -> Path:
        rows = [
            {"prompt": f"Name {p} ships.", "response": f"Ship {k}" + " and more" * k, "model": "m"}
            for p in range(6)
            for k in range(5)
        ]
        pl.DataFrame(rows).write_parquet(folder / "said.parquet")
        entry = {"rater": "judge", "mode": "pairwise", "endpoint": {"base_urls": server.url, "model": "fake"}}
        return recipe(folder, score=[entry], pair={"chosen": "max", "rejected": "min", "reward": reward})

    def test_its_strengths_decide_the_pairs(self, tmp_path: Path) -> None:
        with FakeEndpoint(reply=longer) as server:
            path = self.judged(tmp_path, server, "judge.bt")
            run(path, tmp_path / "run")
            asked = len(server.calls)
            run(path, tmp_path / "run")
            assert len(server.calls) == asked
        pairs = pl.read_parquet(tmp_path / "run/pairs.parquet")
        assert pairs.height == 6
        chosen = pairs["chosen"].list.last().struct.field("content")
        assert chosen.str.count_matches("and more").to_list() == [4] * 6
        strengths = table(tmp_path / "run", "clean", "scores")
        assert set(strengths["rater"]) == {"judge.bt"}
        assert strengths.height == 30
        told = json.loads((tmp_path / "run/clean.json").read_text())
        (case,) = [each for each in told["cases"] if each["case"] == "comparisons"]
        assert case["found"]["position"]["pairs"] == 60
        assert "judge.bt" in (tmp_path / "run/report.html").read_text()

    def test_a_score_that_nothing_made_is_named(self, tmp_path: Path) -> None:
        with FakeEndpoint(reply=longer) as server:
            path = self.judged(tmp_path, server, "judge.btt")
            with pytest.raises(ConfigError, match=r"nothing made the score 'judge\.btt'; there are judge, judge\.bt"):
                run(path, tmp_path / "run")

    def test_a_judge_of_places_has_equal_strengths_and_its_habit_is_told(self, tmp_path: Path) -> None:
        with FakeEndpoint(reply=lambda body, _: "Verdict: A") as server:
            run(self.judged(tmp_path, server, "judge.bt"), tmp_path / "run")
        assert table(tmp_path / "run", "clean", "scores")["score"].abs().max() < 1e-6
        assert pl.read_parquet(tmp_path / "run/pairs.parquet").is_empty()
        told = json.loads((tmp_path / "run/clean.json").read_text())
        (case,) = [each for each in told["cases"] if each["case"] == "comparisons"]
        assert case["found"]["position"]["bias"] > 4 * case["found"]["position"]["sd"] > 0


def test_numbers_that_json_does_not_have_are_null() -> None:
    assert cleaning.finite({"a": [float("nan"), 1.0, (float("inf"),)], 2: None}) == {
        "a": [None, 1.0, [None]],
        "2": None,
    }
