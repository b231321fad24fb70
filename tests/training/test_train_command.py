"""`pairwright train`: pairs in, a model with its card, metrics and page out, every pair accounted for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_causal import tiny_causal

from pairwright.errors import ConfigError, DataError, StoreError
from pairwright.training.plan import TrainPlan, plan_of, read_plan
from pairwright.training.run import Job
from pairwright.training.run import train as run

pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

WORDS = ["river", "stone", "window", "market", "simple", "garden", "letter", "winter", "number", "bridge"]
TRL = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_strategy": "no"}


def says(text: str, role: str = "assistant") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pairs(n: int = 16) -> pl.DataFrame:
    """Margins 0.5, 1.0, ...; every text is another."""
    scores = [1 + i / 2 for i in range(n)]
    return pl.DataFrame(
        {
            "prompt": [says(f"Question {i} about a {WORDS[i % 10]}?", "user") for i in range(n)],
            "chosen": [says(f"The {WORDS[i % 7]} and the {WORDS[i % 3]} {i}.") for i in range(n)],
            "rejected": [says(f"No {WORDS[i % 10]} {i}.") for i in range(n)],
            "score_chosen": scores,
            "score_rejected": [0.5 * score for score in scores],
            "prompt_id": [f"p{i}" for i in range(n)],
        }
    ).with_columns(margin=pl.col("score_chosen") - pl.col("score_rejected"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_causal(tmp_path_factory.mktemp("train") / "model"))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pairs().write_parquet(tmp_path / "pairs.parquet")
    return tmp_path / "pairs.parquet"


def plan(model: str, *, trl: dict[str, Any] | None = None, **sections: Any) -> TrainPlan:
    given = dict(sections.pop("train", {}))
    return plan_of({"train": {"model": model, **given, "trl": {**TRL, **(trl or {})}}, **sections}, folder=Path())


def train(job: Job, made: TrainPlan) -> dict[str, Any]:
    facts = run(job, made)
    assert facts is not None
    return facts


def counts(facts: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {each["stage"]: (each["rows_in"], each["kept"]) for each in facts["ledger"]}


class TestPlan:
    def test_a_setting_of_the_loss_stands_beside_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "train.yaml"
        path.write_text("loss: ml_rdpo\nbeta: 0.2\nvariance: 1.5\nrating_scale: 0.5\ntrl: {learning_rate: 5e-7}\n")
        training = read_plan(path, {"trl.max_steps": 3}).training
        assert (training.loss, training.beta, dict(training.loss_settings)) == ("ml_rdpo", 0.2, {"variance": 1.5})
        assert dict(training.trl) == {"learning_rate": 5e-7, "max_steps": 3}
        assert dict(training.options) == {"rating_scale": 0.5}

    def test_sections_of_a_recipe_and_words_for_routing(self) -> None:
        made = plan_of(
            {"route": {"hardest": 0.25, "to": "sft", "negative": "drop"}, "condition": {"scale": [0, 5], "half": True},
             "sample": {"n": 3}},
            folder=Path(),
        )  # fmt: skip
        assert made.route is not None
        assert (made.route.routing.to_sft, made.route.routing.share) == ("hardest", 0.25)
        assert made.route.difficulty.negative == "drop"
        assert made.condition is not None
        assert made.condition.tag.scale == (0, 5)
        assert made.condition.relabelling.half

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ({"train": {"betta": 1}}, "unknown: betta; known: model, loss, beta"),
            ({"train": {"loss": "dpoo"}}, "unknown loss"),
            ({"train": {"loss": "rating_dpo"}}, "needs beta1"),
            ({"train": {"beta1": 1}}, "unknown: beta1"),
            ({"train": {"trl": {"beta": 1}}}, "a key of ours"),
            ({"train": {"trl": {"output_dir": "x"}}}, "set by the run"),
            ({"train": {"hold_out": 1.0}}, "hold_out"),
            ({"train": {"lora": 16}}, "lora is true or a table"),
            ({"train": {"reference": "maybe"}}, "reference"),
            ({"route": {"hardest": 0.1, "easiest": 0.1}}, "one kind"),
            ({"train": {"negative_gaps": "flip"}}, "negative_gaps"),
            ({"route": {"hardest": 0.1, "to": "dpo"}}, "sft is the one"),
            ({"condition": {"steep": 1}}, "unknown: steep"),
            ({"train": []}, "not a table"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, table: dict[str, Any], said: str) -> None:
        if table == {"train": []}:
            table = {"train": [1]}
        with pytest.raises(ConfigError, match=said):
            plan_of(table, folder=Path())

    def test_a_misspelt_section_is_named(self, tmp_path: Path) -> None:
        from pairwright.recipe import KEYS
        from pairwright.training.plan import OTHERS, SECTIONS

        path = tmp_path / "typo.yaml"
        path.write_text("train: {loss: dpo}\nrout: {hardest: 0.1}\n")
        with pytest.raises(ConfigError, match="unknown: rout"):
            read_plan(path, {})
        assert set(KEYS) <= {*OTHERS, *SECTIONS}  # a whole recipe is read

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"trl": {"learning_rate": "abc"}}, "learning_rate is 'abc', not a number"),
            ({"lora": {"target_modules": ["nope"]}}, "nope"),
        ],
    )
    def test_a_value_that_trl_or_peft_cannot_use_is_one_line(
        self, model: str, file: Path, given: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ConfigError, match=said):
            train(
                Job(file, file.parent / "out"),
                plan(model, trl=given.get("trl"), train={k: v for k, v in given.items() if k != "trl"}),
            )

    def test_a_key_that_trl_does_not_have_is_named_with_its_neighbours(self, model: str, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"learning_rat is no key.*learning_rate"):
            train(Job(file, file.parent / "out"), plan(model, trl={"learning_rat": 1.0}))


class TestRun:
    def test_a_run_leaves_a_model_and_accounts_for_every_pair(self, model: str, file: Path) -> None:
        rows = pairs()
        twin = rows.head(1).with_columns(rejected=pl.col("chosen"), prompt_id=pl.lit("twin"))
        pl.concat([rows, twin]).write_parquet(file)
        out = file.parent / "out"
        facts = train(Job(file, out), plan(model, train={"loss": "rating_dpo", "beta1": 0.5, "bad_rows": "drop"}))
        assert counts(facts) == {"read": (17, 17), "train": (17, 16)}
        assert facts["ledger"][-1]["dropped"] == {"identical": 1}
        assert pl.read_parquet(out / "dropped.parquet")["prompt_id"].to_list() == ["twin"]
        assert facts["steps"] == 3
        assert facts["parameters"][0] == facts["parameters"][1]
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
        assert {"rewards/margins", "logps/chosen", "pairwright/logratio/chosen"} <= set(lines[0])
        assert "rating_dpo" in (out / "model" / "README.md").read_text()
        assert "</svg>" in (out / "report.html").read_text()
        from transformers import AutoModelForCausalLM

        before, after = (AutoModelForCausalLM.from_pretrained(each) for each in (model, out / "model"))
        moved = [bool((a != b).any()) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
        assert any(moved)

    def test_the_scores_reach_the_loss(self, model: str, file: Path, tmp_path: Path) -> None:
        def first(change: float) -> float:
            pairs().with_columns(margin=pl.col("margin") * change).write_parquet(file)
            made = plan(model, train={"loss": "rating_dpo", "beta1": 0.5, "rating_scale": 1.0})
            facts = train(Job(file, tmp_path / f"out{change}"), made)
            return float(facts["history"][0]["loss"])

        assert first(1.0) < first(3.0)  # a larger gap asks for a larger margin, which is 0 at the start

    def test_held_out_prompts_are_evaluated_and_not_trained_on(self, model: str, file: Path) -> None:
        out = file.parent / "out"
        facts = train(Job(file, out), plan(model, train={"hold_out": 0.3}))
        kept, held = (set(pl.read_parquet(out / f"{name}.parquet")["prompt_id"]) for name in ("rows", "held_out"))
        assert kept
        assert held
        assert not kept & held
        assert kept | held == set(pairs()["prompt_id"])
        assert facts["final"]["eval_loss"] > 0

    def test_the_hardest_pairs_are_routed_to_sft_and_come_last(self, model: str, file: Path) -> None:
        out = file.parent / "out"
        sorted_route = {"hardest": 0.25, "order": "easy_first"}
        made = plan(model, trl={"max_steps": 4, "per_device_train_batch_size": 4}, route=sorted_route)
        facts = train(Job(file, out), made)
        rows = pl.read_parquet(out / "rows.parquet")
        assert rows["objective"].to_list() == ["dpo"] * 12 + ["sft"] * 4
        assert rows["margin"].to_list() == sorted(rows["margin"], reverse=True)
        assert facts["route"]["sft"] == 4
        assert facts["lr_spent"]["sft"]["data_share"] == 0.25
        assert facts["lr_spent"]["sft"]["lr_share"] == pytest.approx(0.25 / 2.5)  # linear over four steps
        assert facts["route"]["gradient_ratio"] > 0
        assert "pairwright/loss/sft" in facts["history"][3]
        assert "pairwright/loss/sft" not in facts["history"][2]

    def test_conditioned_pairs_are_trained_with_their_goals(self, model: str, file: Path) -> None:
        out = file.parent / "out"
        facts = train(Job(file, out), plan(model, condition={"scale": [0, 10], "step": 0.5}))
        rows = pl.read_parquet(out / "rows.parquet")
        assert facts["condition"]["relabelled"] == 16 - sum(facts["condition"]["dropped"].values())
        assert rows.height == 2 * facts["condition"]["relabelled"]
        assert all("0 to 10" in prompt[0]["content"] for prompt in rows["prompt"].to_list())

    def test_an_adapter_is_trained_and_knows_its_base(self, model: str, file: Path) -> None:
        out = file.parent / "out"
        facts = train(Job(file, out), plan(model, train={"lora": {"r": 2}}))
        trained, whole = facts["parameters"]
        assert trained < whole / 4
        assert json.loads((out / "model" / "adapter_config.json").read_text())["base_model_name_or_path"] == model
        from pairwright.backends.generate import local_model

        assert local_model(str(out / "model")).model == model

    def test_a_stopped_run_goes_on_and_ends_where_the_whole_run_does(self, model: str, file: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        def weights(out: Path) -> Any:
            held = AutoModelForCausalLM.from_pretrained(out / "model")
            return torch.cat([p.detach().flatten() for p in held.parameters()])

        setup = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        whole, half = file.parent / "whole", file.parent / "half"
        train(Job(file, whole), plan(model, trl=setup))
        train(Job(file, half), plan(model, trl=setup))
        (half / "checkpoints" / "checkpoint-4").rename(file.parent / "gone")
        train(Job(file, half, resume=True), plan(model, trl=setup))
        assert torch.equal(weights(whole), weights(half))
        with pytest.raises(ConfigError, match="other settings"):
            train(Job(file, half, resume=True), plan(model, trl=setup | {"learning_rate": 1.0}))
        with pytest.raises(StoreError, match="no run that could go on"):
            train(Job(file, file.parent / "new", resume=True), plan(model, trl=setup))

    def test_the_reference_of_the_run_is_taken_where_it_fits_and_told_where_not(self, model: str, file: Path) -> None:
        from pairwright.backends.causal import CausalLM, CausalSettings
        from pairwright.score.logprob import logp_rows, to_ask

        rows = pairs()
        said = pl.concat(
            rows.select(
                "prompt_id", response_id=pl.lit(side), response=pl.col(side).list.first().struct.field("content")
            )
            for side in ("chosen", "rejected")
        ).sort("prompt_id")
        made = CausalLM(CausalSettings(model, dtype="float32", max_length=512)).logprobs()
        asks, asked = to_ask(rows.select("prompt_id", "prompt"), said)
        table = logp_rows(asked, made(asks), made, name="tiny")
        table.write_parquet(file.parent / "logps.parquet")
        short = {"max_length": 512}
        facts = train(Job(file, file.parent / "fits"), plan(model, trl=short, train={"reference": "table"}))
        assert facts["reference"] == "the table logps of the run"
        computed = train(Job(file, file.parent / "live"), plan(model, trl=short, train={"reference": "live"}))
        assert computed["reference"] == "computed in each step"
        losses = [[line["loss"] for line in each["history"] if "loss" in line] for each in (facts, computed)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        with pytest.raises(DataError, match="tokenisation_differs"):
            train(Job(file, file.parent / "long"), plan(model, train={"reference": "table"}))
        table.with_columns(model_hash=pl.lit("another")).write_parquet(file.parent / "logps.parquet")
        with pytest.raises(DataError, match="reference_model_differs"):
            train(Job(file, file.parent / "differs"), plan(model, trl=short, train={"reference": "table"}))
        told = train(Job(file, file.parent / "auto"), plan(model, trl=short | {"max_steps": 4}))["reference"]
        assert told == "computed once before training (the table logps does not fit, reference_model_differs)"

    def test_held_out_pairs_go_with_routing_and_with_a_reference(self, model: str, file: Path) -> None:
        ratios = {"ref_chosen_logps": [-40.0] * 16, "ref_rejected_logps": [-30.0] * 16}
        pairs().with_columns(**{name: pl.Series(values) for name, values in ratios.items()}).write_parquet(file)
        made = plan(model, route={"hardest": 0.25}, train={"hold_out": 0.3, "reference_check": 0.0})
        facts = train(Job(file, file.parent / "out"), made)
        assert facts["reference"] == "columns of the pairs"
        assert facts["final"]["eval_loss"] > 0

    def test_a_table_of_prompts_without_goals_is_no_reference_for_prompts_with_goals(
        self, model: str, file: Path
    ) -> None:
        from pairwright.tables import LOGPS, frame

        row = {"prompt_id": "p0", "response_id": "a", "model": "x", "model_hash": "x", "template_hash": "x", "n_tokens": 1,
               "logp": -1.0, "truncated": False}  # fmt: skip
        frame(LOGPS, [row]).write_parquet(file.parent / "logps.parquet")
        goals = {"scale": [0, 10], "step": 0.5}
        facts = train(Job(file, file.parent / "out"), plan(model, condition=goals))
        assert facts["reference"].startswith("computed")
        with pytest.raises(DataError, match="without a goal"):
            train(Job(file, file.parent / "other"), plan(model, condition=goals, train={"reference": "table"}))

    def test_a_run_never_goes_on_from_the_checkpoints_of_another(
        self, model: str, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup, out = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}, file.parent / "out"
        train(Job(file, out), plan(model, trl=setup))
        other = plan(model, trl=setup, train={"loss": "ipo"})

        def died(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("pairwright.training.run.run_trainer", died)
            with pytest.raises(KeyboardInterrupt):
                run(Job(file, out), other)
        assert not (out / "model").exists()
        facts = train(Job(file, out, resume=True), other)
        assert facts["steps"] == 4
        assert facts["history"][0]["loss"] == pytest.approx(
            25.0
        )  # ipo at the start, (1 / 2 beta)^2: from the first step

    def test_ratings_against_their_labels_are_counted_and_have_a_policy(self, model: str, file: Path) -> None:
        rows = pairs().with_columns(margin=pl.when(pl.col("prompt_id") == "p1").then(-1.0).otherwise("margin"))
        rows.write_parquet(file)
        loss = {"loss": "rating_dpo", "beta1": 0.4, "rating_scale": 1.0}
        told = {}
        for policy in ("keep", "clip", "drop"):
            facts = train(Job(file, file.parent / policy), plan(model, train={**loss, "negative_gaps": policy}))
            told[policy] = (facts["gaps"]["negative"], facts["gaps"]["ties"], facts["ledger"][-1]["rows_in"])
        assert told == {"keep": (1, 0, 16), "clip": (0, 1, 16), "drop": (0, 0, 15)}
        assert facts["gaps"]["effective_beta"] == pytest.approx(0.1 * 0.4 / 0.5)

    def test_a_run_that_blows_up_ends_with_what_it_saw(self, model: str, file: Path) -> None:
        blown = {"learning_rate": 1e30, "max_grad_norm": 0.0, "max_steps": 3}
        out = file.parent / "out"
        facts = train(Job(file, out), plan(model, trl=blown))
        assert "NaN" not in (out / "train.json").read_text()
        assert "not_finite" in [alarm["code"] for alarm in facts["alarms"]]
        assert "not_finite" in (out / "report.html").read_text()

    def test_two_processes_train_as_one_does(self, model: str, file: Path) -> None:
        told = {}
        for processes in (1, 2):
            out = file.parent / f"run{processes}"
            words = ["train", str(file), "--out", str(out), "--set", f"model={model}", "--json"]
            keys = {**TRL, "per_device_train_batch_size": 4 // processes, "optim": "sgd", "learning_rate": 0.01}
            words += [word for key, value in keys.items() for word in ("--set", f"trl.{key}={value}")]
            launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                      "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
            head = [sys.executable, *(launch if processes == 2 else []), "-m", "pairwright.cli"]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run([*head, *words], capture_output=True, text=True, env=env, timeout=300, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            told[processes] = json.loads((out / "train.json").read_text())
            assert len([line for line in done.stdout.splitlines() if line.startswith("{")]) == 1
        assert (told[1]["processes"], told[2]["processes"]) == (1, 2)
        one, two = ([line["loss"] for line in told[n]["history"] if "loss" in line] for n in (1, 2))
        assert two == pytest.approx(one, rel=1e-4)
        assert one[0] != pytest.approx(one[-1], rel=1e-3)  # something was learnt


class TestInput:
    def test_a_public_layout_keeps_its_scores(self, model: str, tmp_path: Path) -> None:
        rows = [
            {"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}.", "score_chosen": 2.0 + i}
            | {"score_rejected": 1.0}
            for i in range(8)
        ]
        path = tmp_path / "flat.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts = train(Job(path, tmp_path / "out"), plan(model, train={"loss": "rating_dpo", "beta1": 1.0}))
        assert counts(facts)["read"] == (8, 8)
        assert pl.read_parquet(tmp_path / "out" / "rows.parquet")["margin"].to_list() == [1.0 + i for i in range(8)]

    def test_a_row_that_cannot_be_read_is_an_error_or_a_drop_with_its_row(self, model: str, tmp_path: Path) -> None:
        rows = [{"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(8)]
        rows[5]["rejected"] = ""
        path = tmp_path / "flat.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError, match="row 5"):
            train(Job(path, tmp_path / "out"), plan(model))
        facts = train(Job(path, tmp_path / "out"), plan(model, train={"bad_rows": "drop"}))
        assert facts["ledger"][0] == {"stage": "read", "rows_in": 8, "kept": 7, "dropped": {"empty_side": 1}}
        assert pl.read_parquet(tmp_path / "out" / "dropped.parquet")["detail"][0].startswith("row 5")

    def test_errors_are_one_line(self, pairwright: Command, model: str, file: Path, tmp_path: Path) -> None:
        def fails(*words: object) -> str:
            done = pairwright("train", *words, "--out", tmp_path / "x", "--set", f"model={model}")
            assert done.returncode == 2
            assert done.stdout == ""
            lines = [line for line in done.stderr.splitlines() if line.startswith("pairwright: ")]
            assert len(lines) == 1
            assert "Traceback" not in done.stderr
            return lines[0]

        (tmp_path / "empty").mkdir()
        pairs().drop("margin", "score_chosen", "score_rejected").write_parquet(tmp_path / "bare.parquet")
        (tmp_path / "torn.parquet").write_bytes(file.read_bytes()[:100])
        assert "without pairs.parquet" in fails(tmp_path / "empty")
        assert "no file" in fails(tmp_path / "none.parquet")
        assert "cannot be read as Parquet" in fails(tmp_path / "torn.parquet")
        assert "margin, or score_chosen and score_rejected" in fails(
            tmp_path / "bare.parquet", "--set", "loss=rating_dpo", "--set", "beta1=1"
        )
        assert "unknown: betta" in fails(file, "--set", "betta=1")
        assert "cannot read the recipe" in fails(file, "--config", tmp_path / "none.yaml")

    def test_an_earlier_run_is_not_written_over(self, pairwright: Command, model: str, file: Path) -> None:
        out = file.parent / "out"
        words = ["train", file, "--out", out, "--set", f"model={model}", "--set", "trl.max_steps=1"]
        done = pairwright(*words)
        assert done.returncode == 0, done.stderr
        assert "1 steps of 8 pairs" in done.stdout
        again = pairwright(*words)
        assert again.returncode == 2
        assert "--force" in again.stderr
