"""RatingDPOTrainer against TRL's own DPOTrainer, and against arithmetic done by hand, on a tiny Llama."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_causal import tiny_causal

from pairwright.errors import ConfigError, DataError, MissingDependency
from pairwright.train import trl as ours

torch: Any = pytest.importorskip("torch")
their: Any = pytest.importorskip("trl")
Dataset: Any = pytest.importorskip("datasets").Dataset
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

WORDS = [
    "river",
    "stone",
    "window",
    "market",
    "simple",
    "garden",
    "letter",
    "winter",
    "number",
    "bridge",
    "colour",
    "island",
]
QUIET = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True,
    "dataloader_pin_memory": False, "logging_steps": 1, "save_strategy": "no", "lr_scheduler_type": "constant",
    "learning_rate": 1e-3, "max_steps": 2, "per_device_train_batch_size": 4, "optim": "sgd", "max_grad_norm": 0.0,
}  # fmt: skip


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pairs(n: int = 8, *, seed: int = 0, **columns: list[Any]) -> Any:
    rng = np.random.default_rng(seed)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high)))

    rows: dict[str, list[Any]] = {
        "prompt": [turn("user", text(3, 8)) for _ in range(n)],
        "chosen": [turn("assistant", text(3, 14)) for _ in range(n)],
        "rejected": [turn("assistant", text(3, 14)) for _ in range(n)],
        "prompt_id": [f"p{i}" for i in range(n)],
    }
    return Dataset.from_dict(rows | columns)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_causal(tmp_path_factory.mktemp("trl") / "model"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)


@pytest.fixture
def make(model: str, tmp_path: Path) -> Callable[..., Any]:
    """A trainer of ours, or of TRL's: what is no argument of the trainer goes into its config."""

    def build(data: Any, *, stock: bool = False, trainer: dict[str, Any] | None = None, **settings: Any) -> Any:
        config = their.DPOConfig if stock else ours.RatingDPOConfig
        args = config(output_dir=str(tmp_path / "out"), **{**QUIET, **settings})
        kind = their.DPOTrainer if stock else ours.RatingDPOTrainer
        return kind(**{"model": model, "args": args, "train_dataset": data, **(trainer or {})})

    return build


def losses(trainer: Any) -> list[float]:
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


def trained(trainer: Any) -> Any:
    trainer.train()
    return trainer


def weights_of(trainer: Any) -> Any:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


def moved(trainer: Any, model: str) -> Any:
    from transformers import AutoModelForCausalLM

    start = torch.cat([p.detach().flatten() for p in AutoModelForCausalLM.from_pretrained(model).parameters()])
    return weights_of(trainer) - start


def close(a: Any, b: Any, rel: float = 1e-4) -> bool:
    return bool((a - b).norm() <= rel * a.norm())


class TestAgainstTRL:
    @pytest.mark.parametrize(("loss", "loss_type"), [("dpo", "sigmoid"), ("ipo_norm", "ipo"), ("sft", "sft")])
    def test_a_plain_loss_with_weights_of_one_is_trls_own(
        self, make: Callable[..., Any], loss: str, loss_type: str
    ) -> None:
        same = {"per_device_train_batch_size": 1 if loss == "sft" else 4}  # TRL's sft pools the tokens of a batch
        theirs = trained(make(pairs(), stock=True, loss_type=loss_type, **same))
        mine = trained(make(pairs(weight=[1.0] * 8), loss=loss, **same))
        assert losses(mine) == pytest.approx(losses(theirs), abs=1e-6, rel=1e-5)
        assert (weights_of(mine) - weights_of(theirs)).abs().max() < 1e-6

    def test_all_that_trl_logs_is_logged_under_its_names(self, make: Callable[..., Any]) -> None:
        theirs = trained(make(pairs(), stock=True)).state.log_history
        mine = trained(make(pairs())).state.log_history
        for told, also in zip(theirs[:2], mine[:2], strict=True):
            assert {name: also[name] for name in told} == pytest.approx(told, rel=1e-4, abs=1e-6)
            assert {name for name in set(also) - set(told) if not name.startswith("pairwright/")} == set()
            assert also["pairwright/loss/dpo"] == pytest.approx(told["loss"], rel=1e-5)

    def test_the_head_is_used_on_completions_alone(
        self, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trl.trainer import utils

        seen: list[int] = []
        apply = utils._ChunkedLogProbFunction.apply
        monkeypatch.setattr(
            utils._ChunkedLogProbFunction,
            "apply",
            lambda hidden, *more: (seen.append(len(hidden)), apply(hidden, *more))[1],
        )
        trainer = make(pairs(4), max_steps=1)
        rows = [trainer.train_dataset[at] for at in range(4)]
        trainer.train()
        tokens = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
        assert seen == [tokens, tokens]  # reference and policy
        assert utils._use_triton(torch.device("cpu")) is False  # put back

    def test_lora_is_trained_against_the_model_without_it(self, make: Callable[..., Any]) -> None:
        from peft import LoraConfig

        def lora() -> dict[str, Any]:
            return {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])}

        theirs = trained(make(pairs(), stock=True, trainer=lora(), learning_rate=0.1))
        mine = trained(make(pairs(), trainer=lora(), learning_rate=0.1))
        assert losses(mine) == pytest.approx(losses(theirs), rel=1e-5)
        assert losses(mine)[1] != pytest.approx(math.log(2), abs=1e-4)
        assert close(weights_of(mine), weights_of(theirs))

    def test_another_trl_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours.supported()
        monkeypatch.setattr(their, "__version__", "1.17.0")
        with pytest.raises(MissingDependency, match=r"TRL 1\.17\.0 .*1\.16"):
            ours.supported()

    def test_a_trl_without_its_methods_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(their.DPOTrainer, "_precompute_ref_logps")
        monkeypatch.setattr(their.DPOTrainer, "_compute_loss", lambda self, model, batch: None)
        with pytest.raises(MissingDependency, match=r"_precompute_ref_logps.*_compute_loss\(model, inputs"):
            ours.supported()


class TestColumns:
    def test_scores_alone_change_the_loss_of_score_aware_kinds_and_of_no_other(self, make: Callable[..., Any]) -> None:
        def first(loss: str, margin: float, **settings: Any) -> float:
            return losses(trained(make(pairs(4, margin=[margin] * 4), max_steps=1, loss=loss, **settings)))[0]

        c_d = 0.1 / 0.5 * 2.0
        rating = {"loss_settings": {"beta1": 0.5}}
        assert first("rating_dpo", 2.0, **rating) == pytest.approx(math.log1p(math.exp(c_d)), abs=1e-5)
        assert first("rating_dpo", 2.0, rating_scale=0.5, **rating) == pytest.approx(
            math.log1p(math.exp(c_d / 2)), abs=1e-5
        )
        assert first("dpo", 2.0) == first("dpo", 7.0) == pytest.approx(math.log(2), abs=1e-5)

    def test_the_gap_is_the_margin_or_the_difference_of_the_scores(self, make: Callable[..., Any]) -> None:
        scores = {"score_chosen": [5.0] * 4, "score_rejected": [3.0] * 4}
        setup: dict[str, Any] = {"loss": "distilled_dpo", "max_steps": 1}
        assert losses(trained(make(pairs(4, **scores), **setup))) == pytest.approx([4.0], rel=1e-5)
        both = pairs(4, **scores, margin=[1.0] * 4)
        assert losses(trained(make(both, **setup))) == pytest.approx([1.0], rel=1e-5)
        assert losses(trained(make(both, gap="scores", **setup))) == pytest.approx([4.0], rel=1e-5)

    def test_the_model_never_sees_a_column_of_ours(self, make: Callable[..., Any]) -> None:
        data = pairs(4, margin=[1.0] * 4, weight=[2.0] * 4, objective=["dpo", "sft"] * 2)
        trainer = make(
            data, loss="rating_dpo", loss_settings={"beta1": 1.0}, max_steps=1, precompute_ref_log_probs=True
        )
        seen: set[str] = set()
        trainer.model.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
        trainer.evaluate(data)
        trainer.train()
        assert seen == {"input_ids", "attention_mask", "labels", "fused_lm_head", "use_cache"}

    def test_a_missing_column_is_named_before_training(self, make: Callable[..., Any]) -> None:
        with pytest.raises(
            ConfigError,
            match=r"rating_dpo needs the column margin, or score_chosen and score_rejected; the data set has prompt",
        ):
            make(pairs(), loss="rating_dpo", loss_settings={"beta1": 1.0})
        with pytest.raises(ConfigError, match="needs the column score_rejected"):
            make(pairs(score_chosen=[1.0] * 8), loss="rpo_sq", gap="scores")
        with pytest.raises(ConfigError, match="eval_dataset has no column weight"):
            make(pairs(weight=[1.0] * 8), trainer={"eval_dataset": pairs(2)})

    def test_a_column_that_is_dropped_on_the_way_is_an_error(self, make: Callable[..., Any]) -> None:
        trainer = make(pairs(weight=[1.0] * 8), max_steps=1)
        trainer.train_dataset = trainer.train_dataset.remove_columns("weight")
        with pytest.raises(ConfigError, match="weight was dropped before the batch was made"):
            trainer.train()
        trainer.data_collator = trainer.data_collator.inner
        with pytest.raises(ConfigError, match="the batch has no pair_weight"):
            trainer.train()

    @pytest.mark.parametrize(
        ("columns", "told"),
        [
            ({"weight": [1.0, None, 1.0, 1.0]}, "row 1: weight is null"),
            ({"weight": [1.0, -1.0, 1.0, 1.0]}, "weights are 0 or more"),
            ({"weight": [0.0] * 4}, "one is above 0"),
            ({"weight": ["a"] * 4}, "column weight is not of numbers"),
            ({"objective": ["dpo", "sft", "ppo", "dpo"]}, "row 2: objective is 'ppo'"),
            ({"margin": [1.0, None, 1.0, 1.0]}, "1 of 4 pairs have no loss, first row 1"),
        ],
    )
    def test_a_value_that_no_loss_can_use_is_named(
        self, make: Callable[..., Any], columns: dict[str, list[Any]], told: str
    ) -> None:
        more = {"loss": "rating_dpo", "loss_settings": {"beta1": 1.0}} if "margin" in columns else {}
        with pytest.raises(DataError, match=told):
            make(pairs(4, **columns), **more)

    def test_an_unknown_gap_is_taken_where_the_loss_says_what_it_means(self, make: Callable[..., Any]) -> None:
        setup: dict[str, Any] = {"loss": "ml_rdpo", "loss_settings": {"variance": 1.0}, "max_steps": 1}
        half = losses(trained(make(pairs(4, margin=[2.0, None, 2.0, None]), **setup)))[0]
        assert half == pytest.approx(math.log(2) + (4 / 2) / 2, rel=1e-5)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"loss": "rdpo"}, "unknown loss 'rdpo'; known: .*rating_dpo"),
            (
                {"loss": "rating_dpo", "loss_settings": {"beta_1": 1.0}},
                "no setting beta_1; its loss_settings are beta1",
            ),
            ({"loss": "rating_dpo"}, "rating_dpo needs beta1 in loss_settings"),
            ({"loss": "dpo", "loss_settings": {"beta": 0.2}}, "beta is a key of its own"),
            ({"label_smoothing": 0.1}, "label_smoothing: a key of TRL's own losses"),
            ({"loss_type": "ipo"}, "loss_type: a key of TRL's own losses"),
            ({"gap": "score"}, "gap is 'score'; known: auto, margin, scores"),
            ({"rating_scale": -1.0}, "rating_scale -1.0 must be above 0"),
        ],
    )
    def test_a_setting_that_cannot_be_meant_is_refused(
        self, tmp_path: Path, settings: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(ConfigError, match=told):
            ours.RatingDPOConfig(output_dir=str(tmp_path), **{**QUIET, **settings})


class TestWeights:
    def test_the_arithmetic_of_weights_and_offsets(self, make: Callable[..., Any]) -> None:
        data = pairs(2, margin=[0.3, 0.0], weight=[2.0, 0.5])
        setup: dict[str, Any] = {"loss": "margin_dpo", "rating_scale": 1.0, "max_steps": 1}
        one, two = make(data, **setup), make(data, weight_mean="weights", **setup)
        assert losses(trained(one)) == pytest.approx([1.027642], abs=1e-5)
        assert losses(trained(two)) == pytest.approx([0.822114], abs=1e-5)

    @pytest.mark.parametrize("weight_mean", ["pairs", "weights"])
    def test_however_a_batch_is_split_the_step_is_the_same(
        self, make: Callable[..., Any], model: str, weight_mean: str
    ) -> None:
        weight, objective = [3.0, 0.1, 1.0, 0.5, 2.0, 0.0], ["dpo", "sft", "dpo", "dpo", "sft", "dpo"]
        steps = []
        for size, parts in ((6, 1), (2, 3), (4, 2), (1, 6)):  # 4 + 2: the last part is short
            data = pairs(6, weight=weight, objective=objective)
            setup = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
            trainer = trained(make(data, max_steps=1, weight_mean=weight_mean, **setup))
            steps.append((losses(trainer)[0], moved(trainer, model)))
        for loss, step in steps[1:]:
            assert loss == pytest.approx(steps[0][0], rel=1e-5)
            assert close(step, steps[0][1], 1e-4)

    def test_weight_zero_takes_a_pair_out_of_the_gradient(self, make: Callable[..., Any], model: str) -> None:
        setup = {"max_steps": 1, "weight_mean": "weights"}
        with_it = trained(make(pairs(4, weight=[1.0, 1.0, 1.0, 0.0]), **setup))
        without = trained(make(pairs(4).select([0, 1, 2]), **setup))
        assert close(moved(with_it, model), moved(without, model))

    def test_an_sft_pair_is_a_mean_per_response_and_its_rejected_side_is_nothing(
        self, make: Callable[..., Any], model: str
    ) -> None:
        data = pairs(4, objective=["sft"] * 4)
        other = data.remove_columns("rejected").add_column("rejected", [turn("assistant", "other words")] * 4)
        a, b = (trained(make(each, max_steps=1, sft_weight=2.0)) for each in (data, other))
        assert losses(a) == pytest.approx(losses(b), rel=1e-5)
        assert close(moved(a, model), moved(b, model))
        logp = make(data, stock=True, precompute_ref_log_probs=True).train_dataset
        mean = np.mean([-row["ref_chosen_logps"] / len(row["chosen_ids"]) for row in logp])
        assert losses(a) == pytest.approx([2 * mean], rel=1e-5)
        assert a.state.log_history[0]["pairwright/share_sft"] == 1

    def test_an_sft_pair_needs_no_gap(self, make: Callable[..., Any]) -> None:
        data = pairs(4, objective=["dpo", "sft"] * 2, margin=[2.0, None, 2.0, None])
        trainer = trained(make(data, loss="distilled_dpo", max_steps=2))
        assert all(math.isfinite(value) for value in losses(trainer))
        assert torch.isfinite(weights_of(trainer)).all()


class TestReference:
    def test_trls_own_numbers_give_trls_own_losses(self, make: Callable[..., Any]) -> None:
        theirs = make(pairs(), stock=True, precompute_ref_log_probs=True)
        told = {name: list(theirs.train_dataset[name]) for name in ("ref_chosen_logps", "ref_rejected_logps")}
        mine = make(pairs(**told))
        assert mine.ref_model is None
        assert losses(trained(mine)) == pytest.approx(losses(trained(theirs)), rel=1e-5)

    def test_live_precomputed_and_imported_are_the_same(self, make: Callable[..., Any]) -> None:
        live, before = make(pairs()), make(pairs(), precompute_ref_log_probs=True)
        assert losses(trained(live)) == pytest.approx(losses(trained(before)), rel=1e-5)

    def test_numbers_of_another_model_are_refused(self, make: Callable[..., Any]) -> None:
        told = {"ref_chosen_logps": [-10.0] * 8, "ref_rejected_logps": [-10.0] * 8}
        with pytest.raises(DataError, match="nats per token away from what the reference model of this run says"):
            make(pairs(**told))
        trainer = make(pairs(**told), reference_check=0.0, max_steps=1)
        assert trained(trainer).state.log_history[0]["pairwright/logratio/chosen"] < -50

    def test_half_a_reference_is_refused(self, make: Callable[..., Any]) -> None:
        with pytest.raises(ConfigError, match="ref_chosen_logps is there without its other side"):
            make(pairs(ref_chosen_logps=[-1.0] * 8))
        with pytest.raises(DataError, match="row 3: ref_rejected_logps is null"):
            make(pairs(ref_chosen_logps=[-1.0] * 8, ref_rejected_logps=[-1.0] * 3 + [None] * 5))


class TestRows:
    def test_a_row_that_trl_would_take_without_a_word_is_an_error_with_its_id(self, make: Callable[..., Any]) -> None:
        data = pairs(4).to_list()
        data[2]["rejected"] = data[2]["chosen"]
        with pytest.raises(DataError, match=r"train_dataset: 1 identical\. row 2 \(p2\), rejected"):
            make(Dataset.from_list(data))

    def test_dropped_rows_are_counted_and_the_rest_keep_their_names(self, make: Callable[..., Any]) -> None:
        data = pairs(6).to_list()
        data[1]["rejected"] = data[1]["chosen"]
        data[3]["prompt"] = turn("user", " ".join(WORDS * 4))
        trainer = make(Dataset.from_list(data), bad_rows="drop", max_length=100, max_steps=2)
        assert [(each.row, each.id, each.code) for each in trainer.dropped] == [
            (1, "p1", "identical"),
            (3, "p3", "prompt_fills_window"),
        ]
        assert list(trainer.train_dataset["pair_row"]) == [0, 2, 4, 5]
        trainer.train()
        assert sorted(trainer.guard.latest) == [0, 2, 4, 5]
        assert {name for name, _ in trainer.guard.worst(9, trainer.pair_ids)} == {"p0", "p2", "p4", "p5"}

    def test_sides_that_part_behind_max_length_are_an_error(self, make: Callable[..., Any]) -> None:
        data = pairs(3).to_list()
        long = " ".join(WORDS)
        data[0] |= {"chosen": turn("assistant", f"{long} yes"), "rejected": turn("assistant", f"{long} no")}
        with pytest.raises(DataError, match=r"1 identical_after_truncation\. row 0 \(p0\)"):
            make(Dataset.from_list(data), max_length=90)

    def test_no_row_left_is_an_error(self, make: Callable[..., Any]) -> None:
        with pytest.raises(DataError, match="no row is left to train on"):
            make(pairs(3), bad_rows="drop", max_length=10)


class TestRuns:
    def test_evaluation_logs_under_its_own_prefix(self, make: Callable[..., Any]) -> None:
        data = pairs(4, weight=[1.0, 3.0, 1.0, 1.0])
        trainer = make(pairs(weight=[1.0] * 8), trainer={"eval_dataset": data})
        told = trainer.evaluate()
        assert told["eval_loss"] == pytest.approx(1.5 * math.log(2), rel=1e-5)
        assert trainer.state.log_history[-1]["eval_pairwright/loss/dpo"] == pytest.approx(math.log(2), rel=1e-5)

    def test_a_run_from_a_checkpoint_ends_where_the_whole_run_does(
        self, make: Callable[..., Any], tmp_path: Path
    ) -> None:
        data = pairs(weight=[1.0, 2.0] * 4)
        setup = {
            "save_strategy": "steps",
            "save_steps": 2,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "optim": "adamw_torch",
        }
        whole = trained(make(data, **setup))
        half = make(data, **setup)
        half.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
        assert torch.equal(weights_of(half), weights_of(whole))
        kept = torch.load(tmp_path / "out" / "checkpoint-2" / "training_args.bin", weights_only=False)
        assert type(kept).__name__ == "RatingDPOConfig"

    def test_an_alarm_names_its_pairs_and_can_stop_the_run(self, make: Callable[..., Any]) -> None:
        from pairwright.train.guard import Guard, GuardSettings

        guard = Guard(GuardSettings(drift=0.5, action="stop"))
        trainer = trained(make(pairs(8), trainer={"guard": guard}, max_steps=6, learning_rate=0.5))
        assert trainer.state.global_step < 6
        (alarm, *_) = guard.alarms
        assert {name for name, _ in alarm.pairs} <= {f"p{i}" for i in range(8)}
        assert alarm.pairs
        assert trainer.state.log_history[-2]["pairwright/alarms"] >= 1

    def test_two_processes_step_as_one_does(self, model: str, tmp_path: Path) -> None:
        script = tmp_path / "train.py"
        script.write_text(TWO)
        told = {}
        for processes in (1, 2):
            command = [sys.executable, str(script), model, str(tmp_path / f"{processes}.pt"), str(4 // processes)]
            if processes == 2:
                launch = [
                    "-m",
                    "accelerate.commands.launch",
                    "--multi_gpu",
                    "--num_processes",
                    "2",
                    "--num_machines",
                    "1",
                ]
                rest = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
                command = [sys.executable, *launch, *rest, *command[1:]]
            env = {
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parent),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            }
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=300)
            assert done.returncode == 0, done.stderr[-3000:]
            told[processes] = torch.load(tmp_path / f"{processes}.pt")
        assert told[2]["processes"] == 2
        assert told[2]["losses"] == pytest.approx(told[1]["losses"], rel=1e-5)
        assert told[2]["ours"] == pytest.approx(told[1]["ours"], rel=1e-4, abs=1e-6)
        assert close(told[1]["moved"], told[2]["moved"], 1e-4)
        assert told[1]["moved"].norm() > 0


TWO = """
import json, os, sys
sys.path[:0] = [os.path.join(os.environ["PYTHONPATH"], "..", "backends")]
import torch
torch.set_num_threads(1)
from test_trl_trainer import QUIET, losses, moved, pairs
from pairwright.train.trl import RatingDPOConfig, RatingDPOTrainer

model, out, size = sys.argv[1:]
settings = {**QUIET, "per_device_train_batch_size": int(size), "gradient_accumulation_steps": 2, "weight_mean": "weights"}
weight, objective = [3.0, 0.1, 1.0, 0.5, 2.0, 0.0, 1.0, 1.0], ["dpo", "sft", "dpo", "dpo"] * 2
data = pairs(8, weight=weight, objective=objective, margin=[1.0, 2.0] * 4)
args = RatingDPOConfig(output_dir=out + "-run", loss="rating_dpo", loss_settings={"beta1": 0.5}, **settings)
trainer = RatingDPOTrainer(model=model, args=args, train_dataset=data)
trainer.train()
if trainer.accelerator.is_main_process:
    ours = {k: v for k, v in trainer.state.log_history[0].items() if k.startswith("pairwright/")}
    told = {"losses": losses(trainer), "moved": moved(trainer, model), "processes": trainer.accelerator.num_processes}
    torch.save({**told, "ours": ours}, out)
"""


def test_a_trainer_of_ours_reads_its_settings_from_json() -> None:
    args = ours.RatingDPOConfig(output_dir="out", loss="rating_dpo", loss_settings=json.dumps({"beta1": 0.5}), **QUIET)
    assert args.loss_settings == {"beta1": 0.5}
