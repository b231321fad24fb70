"""`pairwright compare`: recipes, their controls, answers to held-out prompts, numbers with intervals."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_causal import tiny_causal

from pairwright.comparing.arms import read_files, with_controls
from pairwright.comparing.run import Comparison, compare
from pairwright.errors import ConfigError, DataError

pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

QUICK = "n: 2, max_tokens: 6, seeds: [0], steps: 1, checkpoints: 1"
TRL = "{per_device_train_batch_size: 4, learning_rate: 1e-2, max_length: 256}"


def says(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_causal(tmp_path_factory.mktemp("compare") / "model", initializer_range=0.05))


@pytest.fixture
def folder(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two recipes over the same pairs, and a file of prompts of which one is a training prompt."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [
        {
            "prompt": says(f"Say {i}.", "user"), "chosen": says("two plus two " * 3),
            "rejected": says(f"the ship left {i} harbour"), "prompt_id": f"p{i}",
            "score_chosen": 3.0 + i % 3, "score_rejected": 1.0,
        }
        for i in range(12)
    ]  # fmt: skip
    pairs = pl.DataFrame(rows).with_columns(margin=pl.col("score_chosen") - pl.col("score_rejected"))
    pairs.write_parquet(tmp_path / "pairs.parquet")
    checks = [{"check": "words", "at_least": 1, "at_most": 6}]
    held = [{"prompt": f"Tell me {i}.", "checks": checks} for i in range(4)] + [{"prompt": "Say 3.", "checks": checks}]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(each) + "\n" for each in held))
    evaluate = "{prompts: held.jsonl, n: 3, max_tokens: 8, score: [rules, length], seeds: [0, 1], steps: 2}"
    (tmp_path / "rated.yaml").write_text(
        f"pairs: pairs.parquet\nevaluate: {evaluate}\n"
        f"train: {{model: {model}, loss: rating_dpo, beta1: 0.5, rating_scale: 1.0, trl: {TRL}}}\n"
        "select: {margins: [external], keep: 0.5}\n"
    )
    (tmp_path / "plain.yaml").write_text(
        f"pairs: pairs.parquet\ntrain: {{model: {model}, lora: {{r: 4}}, trl: {TRL}}}\n"
    )
    return tmp_path


def asked(folder: Path, *names: str, **changes: Any) -> Comparison:
    read, evaluation = read_files([folder / f"{name}.yaml" for name in names], changes)
    return Comparison(read, evaluation, folder / "out")


class TestArms:
    def test_a_recipe_owes_its_controls(self, folder: Path) -> None:
        from pairwright.comparing.arms import Arm

        read, _ = read_files([folder / "rated.yaml"], {})
        random, dpo = with_controls(Arm("rated", read[0].plan(), folder / "pairs.parquet"))[1:]
        assert (random.name, random.kind, random.of) == ("rated/random", "random", "rated")
        assert random.plan.select is not None
        assert random.plan.select.rule == "random"
        assert random.plan.training == read[0].plan().training
        assert dpo.plan.training.loss == "dpo"
        assert dpo.plan.training.beta == pytest.approx(0.1 * 0.5 / 0.6)
        assert dpo.plan.select == read[0].plan().select  # one thing differs

    def test_plain_dpo_on_all_pairs_owes_none(self, folder: Path) -> None:
        from pairwright.comparing.arms import Arm

        read, _ = read_files([folder / "plain.yaml"], {"prompts": "held.jsonl"})
        assert len(with_controls(Arm("plain", read[0].plan(), folder / "pairs.parquet"))) == 1

    def test_what_cannot_be_compared_is_refused(self, folder: Path) -> None:
        (folder / "big.yaml").write_text("pairs: pairs.parquet\ntrain: {trl: {per_device_train_batch_size: 2}}\n")
        (folder / "odd.yaml").write_text("pairs: pairs.parquet\ntrain: {}\nfoo: 1\n")
        (folder / "none.yaml").write_text("pairs: pairs.parquet\n")
        (folder / "both.yaml").write_text("pairs: a\nprompts: b\ntrain: {}\n")
        (folder / "other.yaml").write_text("pairs: a\ntrain: {}\nevaluate: {prompts: x.jsonl}\n")
        with pytest.raises(ConfigError, match="different models"):
            compare(_other_model(folder))
        for names, said in (
            (["rated", "odd"], "unknown: foo"), (["none"], "lacks: train"), (["both"], "pairs and prompts"),
            (["rated", "other"], "different ways"), (["rated", "rated"], "two recipes are called rated"),
            (["plain"], "lacks: prompts"),
        ):  # fmt: skip
            with pytest.raises(ConfigError, match=said):
                asked(folder, *names)
        with pytest.raises(ConfigError, match="different batches"):
            compare(asked(folder, "rated", "big"))
        (folder / "held.jsonl").write_text(json.dumps({"prompt": "Say 3."}) + "\n")
        with pytest.raises(DataError, match="hold other prompts out"):
            compare(asked(folder, "rated"))


def _other_model(folder: Path) -> Comparison:
    (folder / "another.yaml").write_text(f"pairs: pairs.parquet\ntrain: {{model: elsewhere, trl: {TRL}}}\n")
    return asked(folder, "rated", "another")


class TestRun:
    def test_two_recipes_and_their_controls(self, folder: Path) -> None:
        facts = compare(asked(folder, "rated", "plain"))
        names = [arm["name"] for arm in facts["arms"]]
        assert names == ["base", "rated", "rated/random", "rated/dpo", "plain"]
        told = {arm["name"]: arm for arm in facts["arms"]}
        assert told["base"]["kl"]["value"] == 0
        assert all(told[name]["kl"]["value"] > 0 for name in names[1:])
        assert {name: told[name]["pairs"] for name in names[1:]} == {
            "rated": 6, "rated/random": 6, "rated/dpo": 6, "plain": 12,
        }  # fmt: skip
        assert (facts["prompts"], facts["left_out"]) == (4, 1)
        rows = pl.read_parquet(folder / "out" / "answers.parquet")
        # base once; 4 arms x 2 seeds x 2 checkpoints; 4 prompts x 3 draws each
        assert rows.height == (1 + 4 * 2 * 2) * 12
        mean = rows.filter(pl.col("arm") == "plain", pl.col("checkpoint") == 2)[facts["rater"]].mean()
        assert told["plain"]["reward"]["value"] == pytest.approx(mean)
        pairs = [(each["a"], each["b"]) for each in facts["differences"]]
        assert pairs == [
            ("rated", "base"), ("rated", "rated/random"), ("rated", "rated/dpo"), ("plain", "base"), ("plain", "rated"),
        ]  # fmt: skip
        both = facts["differences"][-1]
        assert both["reward"]["low"] <= both["reward"]["value"] <= both["reward"]["high"]
        assert both["at_equal_kl"]["kl"] == pytest.approx(min(told[n]["kl"]["value"] for n in ("rated", "plain")))
        assert "selects nothing" in " ".join(facts["notes"])
        subsets = [
            set(
                pl.read_parquet(folder / "out" / "arms" / "rated--random" / f"seed-{seed}" / "rows.parquet")[
                    "prompt_id"
                ]
            )
            for seed in (0, 1)
        ]
        assert subsets[0] != subsets[1]

    def test_what_is_there_is_not_made_again(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = compare(asked(folder, "rated", seeds=[0]))

        def never(*_: object, **__: object) -> None:
            raise AssertionError("made again")

        monkeypatch.setattr("pairwright.comparing.run.train", never)
        monkeypatch.setattr("pairwright.comparing.answers.run", never)
        assert compare(asked(folder, "rated", seeds=[0])) == first
        assert "One training seed" in " ".join(first["notes"])

    def test_a_conditioned_arm_is_asked_with_a_high_goal_a_low_one_and_none(self, folder: Path, model: str) -> None:
        (folder / "goals.yaml").write_text(
            f"pairs: pairs.parquet\nevaluate: {{prompts: held.jsonl, {QUICK}}}\n"
            f"train: {{model: {model}, trl: {TRL}}}\ncondition: {{scale: [0, 5]}}\n"
        )
        facts = compare(asked(folder, "goals"))
        assert [(each["arm"], each["level"]) for each in facts["levels"]] == [
            (arm, level) for arm in ("base", "goals") for level in ("high", "low", "none")
        ]
        assert facts["arms"][1]["level"] == "high"
        said = pl.read_parquet(folder / "out" / "answers" / "goals" / "high.parquet")["prompt"].to_list()
        assert all("Score: 5." in prompt[0]["content"] for prompt in said)

    def test_a_recipe_from_prompts_is_run_first(self, folder: Path, model: str) -> None:
        lines = [{"prompt": f"Name {i} things.", "checks": [{"check": "words", "at_most": 20}]} for i in range(12)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        (folder / "whole.yaml").write_text(
            "prompts: prompts.jsonl\nshards: 2\nsample: {backend: fake, n: 8, max_tokens: 30}\nscore: [rules, length]\n"
            "pair: {rejected: min, reward: rules}\n"
            f"evaluate: {{prompts: held.jsonl, {QUICK}, score: [rules, length]}}\n"
            f"train: {{model: {model}, trl: {TRL}}}\n"
        )
        facts = compare(asked(folder, "whole"))
        assert facts["rater"] == "length"  # rules made the pairs
        assert not facts["rater_made_pairs"]
        assert facts["arms"][1]["pairs"] == pl.read_parquet(folder / "out" / "runs" / "whole" / "pairs.parquet").height

    def test_no_prompt_of_any_seed_of_a_random_control_is_evaluated(self, folder: Path) -> None:
        lines = [{"prompt": f"Say {i}."} for i in range(12)] + [{"prompt": f"Other {i}."} for i in range(3)]
        (folder / "held.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        quick = {"n": 1, "max_tokens": 4, "steps": 1, "checkpoints": 1, "score": ["length"], "seeds": [0, 1, 2]}
        facts = compare(asked(folder, "rated", **quick))
        answered = set(
            pl.read_parquet(folder / "out" / "answers" / "prompts.parquet")["prompt"].list[0].struct["content"]
        )
        for rows in (folder / "out" / "arms").glob("*/*/rows.parquet"):
            assert not answered & set(pl.read_parquet(rows)["prompt"].list[0].struct["content"])
        assert facts["left_out"] == 15 - len(answered)

    def test_a_policy_of_other_settings_is_never_believed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        quick = {
            "prompts": "held.jsonl",
            "n": 1,
            "max_tokens": 4,
            "steps": 1,
            "checkpoints": 1,
            "score": ["length"],
            "seeds": [0],
        }
        compare(asked(folder, "plain", **quick))
        path = folder / "plain.yaml"
        path.write_text(path.read_text().replace("train: {", "train: {loss: ipo, "))

        def died(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("pairwright.training.run.run_trainer", died)
            with pytest.raises(KeyboardInterrupt):
                compare(asked(folder, "plain", **quick))
        facts = compare(asked(folder, "plain", **quick))
        told = json.loads((folder / "out" / "arms" / "plain" / "seed-0" / "train.json").read_text())
        assert told["settings"]["train"]["loss"] == "ipo"
        assert facts["arms"][1]["loss"] == "ipo"

    def test_an_edited_rater_scores_again(self, folder: Path) -> None:
        rater = folder / "mine.py"
        rater.write_text(
            "def brevity(completions, **_):\n    return [-float(len(str(each))) for each in completions]\n"
        )
        quick = {"prompts": "held.jsonl", "n": 1, "max_tokens": 4, "steps": 1, "checkpoints": 1, "seeds": [0]}
        first = compare(asked(folder, "plain", **quick, score=["mine.py:brevity"]))  # beside the recipe
        rater.write_text(rater.read_text().replace("-float", "1000.0 + float"))
        second = compare(asked(folder, "plain", **quick, score=["mine.py:brevity"]))
        assert first["arms"][0]["reward"]["value"] < 0 < second["arms"][0]["reward"]["value"]

    def test_prompts_of_any_script_have_a_kl(self, folder: Path) -> None:
        (folder / "held.jsonl").write_text(
            json.dumps({"prompt": "请告诉我一些关于桥梁的事情。" * 4}, ensure_ascii=False) + "\n"
        )
        quick = {
            "prompts": "held.jsonl",
            "n": 2,
            "max_tokens": 8,
            "steps": 1,
            "checkpoints": 1,
            "score": ["length"],
            "seeds": [0],
        }
        facts = compare(asked(folder, "plain", **quick))
        assert facts["arms"][1]["kl"]["value"] >= 0
        assert pl.read_parquet(folder / "out" / "answers.parquet")["kl"].null_count() == 0
        assert "One held-out prompt" in " ".join(facts["notes"])

    def test_what_would_fail_after_the_training_is_said_before(self, folder: Path) -> None:
        quick = {"prompts": "held.jsonl", "n": 1, "max_tokens": 4, "score": ["length"], "seeds": [0]}
        with pytest.raises(ConfigError, match="fewer steps than checkpoints"):
            asked(folder, "plain", **quick, steps=2, checkpoints=4)
        path = folder / "plain.yaml"
        path.write_text(path.read_text().replace("train: {", "train: {guard: {action: stop}, "))
        with pytest.raises(ConfigError, match="its budget with it"):
            compare(asked(folder, "plain", **quick, steps=1, checkpoints=1))

    def test_a_routed_recipe_owes_a_random_route(self, folder: Path) -> None:
        from pairwright.comparing.arms import Arm

        path = folder / "plain.yaml"
        path.write_text(path.read_text() + "route: {hardest: 0.25}\n")
        read, _ = read_files([path], {"prompts": "held.jsonl"})
        arms = with_controls(Arm("plain", read[0].plan(), folder / "pairs.parquet"))
        assert [arm.name for arm in arms] == ["plain", "plain/random-route"]
        assert arms[1].plan.route is not None
        assert arms[1].plan.route.routing.to_sft == "random"
        assert arms[1].plan.training == arms[0].plan.training

    def test_the_rater_that_decides_can_be_named_and_the_page_says_that_it_made_the_pairs(self, folder: Path) -> None:
        run = folder / "run"
        run.mkdir()
        (folder / "pairs.parquet").rename(run / "pairs.parquet")
        manifest = {"settings": {"pair": {"rejected": "min", "reward": {"raters": {"length": 1.0}}}}}
        (run / "manifest.json").write_text(json.dumps(manifest))
        path = folder / "plain.yaml"
        path.write_text(path.read_text().replace("pairs.parquet", "run"))
        quick = {"prompts": "held.jsonl", "n": 2, "max_tokens": 6, "seeds": [0], "steps": 1, "checkpoints": 1}
        facts = compare(asked(folder, "plain", **quick, score=["length", "repetition"], decide="length"))
        assert facts["rater"] == "length"
        assert "made the pairs too" in facts["notes"][0]
        with pytest.raises(ConfigError, match="not one of the raters"):
            compare(asked(folder, "plain", **quick, score=["length", "repetition"], decide="rules"))

    def test_the_command_prints_what_the_page_shows(self, folder: Path, pairwright: Command) -> None:
        done = pairwright(
            "compare", folder / "plain.yaml", "--out", folder / "out", "--set", f"prompts={folder / 'held.jsonl'}",
            "--set", "n=2", "--set", "max_tokens=6", "--set", "seeds=[0]", "--set", "steps=1", "--set", "checkpoints=1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "plain - base" in done.stdout
        page = (folder / "out" / "report.html").read_text()
        assert "plain − base" in page
        assert "</svg>" in page
