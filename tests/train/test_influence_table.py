"""The table of influence: every pair a row, equal to backward passes, resumable, and refused where it would mislead."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from planted_pairs import moved_copy, soup, texts, turn
from tiny_causal import tiny_adapter, tiny_causal

from pairwright.backends.gradients import PairModel
from pairwright.core.margins import spearman
from pairwright.errors import ConfigError, DataError, NotIdentifiable
from pairwright.train import influence as stage
from pairwright.train.influence import InfluenceSettings, ThetaVal, influence_table

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

PAIRS, VALID = soup(24, prompts=12), soup(14, seed=5, first="v")
SCORES = ["influence", "irm", "loss"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_causal(tmp_path_factory.mktemp("base") / "model"))


@pytest.fixture(scope="module")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_adapter(tmp_path_factory.mktemp("adapter") / "a", Path(model)))


@pytest.fixture(scope="module")
def table(model: str, adapter: str) -> Callable[..., Any]:
    """influence_table with the settings of these tests; theta_val is not trained unless asked for."""

    def make(pairs: Any = PAIRS, valid: Any = VALID, folder: Any = None, theta_val: Any = None, **changes: Any) -> Any:
        settings = {"model": model, "checkpoints": {adapter: 1e-3}, "max_length": 256, "sample": 12, **changes}
        return influence_table(pairs, valid, InfluenceSettings(**settings), folder, theta_val=theta_val)

    return make


@pytest.fixture(scope="module")
def plain(table: Any) -> Any:
    return table()


def exact(model: str, adapter: str, pairs: Any, valid: Any, *, params: str = "lora") -> Any:
    """Dot products of gradients, one backward pass per pair and per validation pair."""
    held = PairModel(model, adapter, params=params, max_length=256)
    mean = []
    for each in (pairs, valid):
        laid = held.lay(*texts(each))
        ref_I = held.gaps(laid, reference=True)
        mean.append(torch.stack([g for *_, g in held.pair_gradients(laid, ref_I, beta=0.1)]))
    return (mean[0] @ mean[1].mean(0)).numpy()


def won(model: str, adapter: str) -> pl.DataFrame:
    """The validation pairs, each the way round that the model prefers."""
    held = PairModel(model, adapter, max_length=256)
    laid = held.lay(*texts(VALID))
    wins = (held.gaps(laid) > held.gaps(laid, reference=True)).tolist()
    right = [(a, b) if win else (b, a) for a, b, win in zip(VALID["chosen"], VALID["rejected"], wins, strict=True)]
    sides = {name: [pair[at].to_list() for pair in right] for at, name in enumerate(("chosen", "rejected"))}
    return VALID.with_columns(**{k: pl.Series(v) for k, v in sides.items()})


class TestTable:
    def test_influence_is_that_of_backward_passes(self, plain: Any, model: str, adapter: str) -> None:
        exact_I = exact(model, adapter, PAIRS, VALID)
        made_I = plain.frame["influence"].to_numpy()
        assert spearman(made_I, exact_I) > 0.99
        assert np.abs(made_I - exact_I).max() < 0.02 * np.abs(exact_I).max()
        step = plain.about["checkpoints"][0]["step"]
        assert step["spearman"] >= 0.99
        assert step["max_relative"] <= 0.02

    def test_the_other_columns_are_what_they_say(self, plain: Any, model: str, adapter: str) -> None:
        held = PairModel(model, adapter, max_length=256)
        laid = held.lay(*texts(PAIRS))
        m_I = 0.1 * (held.gaps(laid) - held.gaps(laid, reference=True))
        frame = plain.frame
        assert frame["irm"].to_numpy() == pytest.approx(m_I, abs=1e-5)
        assert frame["loss"].to_numpy() == pytest.approx(np.log1p(np.exp(-m_I)), rel=1e-5)
        assert frame.select("n_tokens_chosen", "n_tokens_rejected").to_numpy().T.tolist() == laid.n_tokens_SI.tolist()
        assert frame["lossdiff"].null_count() == frame["loss_val"].null_count() == 24
        assert frame["reason"].null_count() == 24

    def test_what_it_says_of_itself_is_ready_for_json(self, plain: Any) -> None:
        about = json.loads(json.dumps(plain.about, allow_nan=False))
        (checkpoint,) = about["checkpoints"]
        assert {"model_hash", "reference_hash", "template_hash", "beta", "validation_hash"} <= set(checkpoint)
        assert checkpoint["gradient_norm"] > 0
        assert -1 <= checkpoint["spearman_of_validation_halves"] <= 1
        assert len(checkpoint["sweep"]) >= 6
        assert set(about["spearman_with_length_gap"]) == {"influence", "irm", "lossdiff"}
        assert about["scored"] == about["rows"] == 24

    def test_another_order_of_rows_is_another_order_of_scores(self, plain: Any, table: Any) -> None:
        rows = np.random.default_rng(0).permutation(24)
        turned = table(PAIRS[rows]).frame
        assert turned["pair_id"].to_list() == PAIRS["pair_id"][rows].to_list()
        for name in SCORES:
            assert turned[name].to_numpy() == pytest.approx(plain.frame[name].to_numpy()[rows], rel=0.02, abs=0.02)

    def test_the_margin_is_linear_in_beta(self, plain: Any, table: Any) -> None:
        other = table(beta=0.3).frame
        assert other["irm"].to_numpy() == pytest.approx(3 * plain.frame["irm"].to_numpy(), rel=1e-5)

    def test_every_row_is_there_and_one_without_a_number_says_why(self, table: Any, plain: Any) -> None:
        odd = pl.DataFrame(
            {
                "pair_id": ["same", "long"],
                "prompt_id": ["s", "l"],
                "prompt": [turn("user", "a"), turn("user", "ship " * 400)],
                "chosen": [turn("assistant", "good")] * 2,
                "rejected": [turn("assistant", "good"), turn("assistant", "two")],
            }
        )
        made = table(pl.concat([odd[:1], PAIRS, odd[1:]]))
        reasons = made.frame["reason"].to_list()
        assert reasons[0] == "identical"
        assert reasons[-1].startswith("prompt_too_long")
        assert made.frame.filter(pl.col("influence").is_null())["pair_id"].to_list() == ["same", "long"]
        assert made.about["reasons"]["identical"] == 1
        assert made.frame["irm"].to_numpy()[1:-1] == pytest.approx(plain.frame["irm"].to_numpy(), abs=1e-5)

    def test_parameters_of_whole_weights_can_be_chosen(self, model: str, tmp_path: Path, table: Any) -> None:
        theta = str(moved_copy(tmp_path / "theta", Path(model)))
        some = r"layers\.1\.self_attn"
        made = table(checkpoints={theta: 1e-3}, params=some)
        exact_I = exact(model, theta, PAIRS, VALID, params=some)
        assert spearman(made.frame["influence"].to_numpy(), exact_I) > 0.99

    def test_checkpoints_count_by_their_learning_rates(
        self, table: Any, model: str, adapter: str, tmp_path: Path, plain: Any
    ) -> None:
        other = str(tiny_adapter(tmp_path / "b", Path(model), seed=7))
        alone = table(checkpoints={other: 1.0}).frame
        both = table(checkpoints={other: 1e-3, adapter: 3e-3})
        expected = 0.25 * alone["influence"] + 0.75 * plain.frame["influence"]
        assert both.frame["influence"].to_numpy() == pytest.approx(expected.to_numpy(), rel=0.02, abs=0.02)
        assert both.frame["irm"].to_numpy() == pytest.approx(plain.frame["irm"].to_numpy(), abs=1e-5)
        assert [each["learning_rate"] for each in both.about["checkpoints"]] == [1e-3, 3e-3]


class TestReference:
    def with_reference(self, model: str, adapter: str, scale: Any = 1.0) -> pl.DataFrame:
        held = PairModel(model, adapter, max_length=256)
        laid = held.lay(*texts(PAIRS))
        told = held.logps(laid, reference=True) / (laid.n_tokens_SI if scale == "mean" else 1.0)
        told = told + (scale if isinstance(scale, float) else 0.0)
        return PAIRS.with_columns(ref_chosen_logps=told[0], ref_rejected_logps=told[1])

    def test_columns_of_the_pairs_are_used(
        self, table: Any, model: str, adapter: str, plain: Any, monkeypatch: Any
    ) -> None:
        pairs = self.with_reference(model, adapter, 0.1)  # a constant on both sides: changes nothing
        asked = []
        logps = PairModel.logps
        monkeypatch.setattr(
            PairModel,
            "logps",
            lambda held, laid, **k: (asked.append((len(laid.group_I), k)), logps(held, laid, **k))[1],
        )
        made = table(pairs)
        assert max(n for n, told in asked if told.get("reference")) < 24  # the sample and the validation set
        for name in SCORES:
            assert made.frame[name].to_numpy() == pytest.approx(plain.frame[name].to_numpy(), rel=1e-3, abs=1e-4)

    def test_means_per_token_are_found_out(self, table: Any, model: str, adapter: str) -> None:
        with pytest.raises(DataError, match=r"nats per token away .* means per token where sums are meant"):
            table(self.with_reference(model, adapter, "mean"))


class TestThetaVal:
    @pytest.mark.trl
    @pytest.mark.filterwarnings("ignore")
    def test_starts_at_theta_and_lossdiff_follows_influence(self, table: Any, tmp_path: Path) -> None:
        made = table(folder=tmp_path / "out", theta_val=ThetaVal())
        about = made.about["theta_val"]
        assert about["started_at"] == "theta"
        assert about["distance"] > 0
        assert about["validation_loss"][1] < about["validation_loss"][0]
        assert made.about["warnings"] == []
        assert made.about["spearman_lossdiff_influence"] > 0.8
        expected = made.frame["loss"] - made.frame["loss_val"]
        assert made.frame["lossdiff"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-12)

    @pytest.mark.trl
    @pytest.mark.filterwarnings("ignore")
    def test_another_learning_rate_is_another_theta_val(
        self, table: Any, model: str, adapter: str, tmp_path: Path
    ) -> None:
        slow, fast = (
            table(folder=tmp_path / "out", theta_val=ThetaVal(), checkpoints={adapter: rate}) for rate in (1e-4, 1e-2)
        )
        assert [made.about["theta_val"]["learning_rate"] for made in (slow, fast)] == [1e-4, 1e-2]
        assert fast.about["theta_val"]["distance"] > 10 * slow.about["theta_val"]["distance"]
        other = str(tiny_adapter(tmp_path / "b", Path(model), seed=7))
        later = table(folder=tmp_path / "out", theta_val=ThetaVal(), checkpoints={adapter: 1e-2, other: 1e-2})
        assert later.about["theta_val"]["model_hash"] != fast.about["theta_val"]["model_hash"]

    @pytest.mark.trl
    @pytest.mark.filterwarnings("ignore")
    def test_one_that_started_at_the_reference_is_suspected(self, table: Any, model: str, tmp_path: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        near = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        )
        with torch.no_grad():
            for name, p in near.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 1e-3)  # a short way from the reference
        near.save_pretrained(tmp_path / "val")
        made = table(theta_val=ThetaVal(folder=str(tmp_path / "val")))
        assert made.about["spearman_lossdiff_irm"] < -0.5
        assert any("probably started at the reference" in each for each in made.about["warnings"])

    def test_theta_itself_is_refused(self, table: Any, adapter: str) -> None:
        with pytest.raises(DataError, match="every LossDiff is 0"):
            table(theta_val=ThetaVal(folder=adapter))


class TestRefusals:
    def test_a_prompt_that_is_in_both_sets(self, table: Any) -> None:
        one = VALID["prompt"][0].to_list()[0]["content"]
        again = VALID[:1].with_columns(prompt=pl.Series([turn("user", f" {one.upper()}\n")]), pair_id=pl.lit("x"))
        with pytest.raises(DataError, match="1 of 25 pairs have a prompt that is in the validation set too, first x"):
            table(pl.concat([PAIRS, again]))

    def test_theta_that_is_the_reference(self, table: Any, model: str, tmp_path: Path) -> None:
        shutil.copytree(model, tmp_path / "copy")
        with pytest.raises(DataError, match=r"every margin \(IRM\) is 0"):
            table(checkpoints={str(tmp_path / "copy"): 1e-3}, params="layers")

    def test_a_validation_gradient_of_nothing(self, table: Any, model: str, adapter: str) -> None:
        with pytest.raises(DataError, match="gradient of the validation loss is 0"):
            table(valid=won(model, adapter), beta=1e5)

    def test_columns_and_settings_that_are_not_there(self, table: Any) -> None:
        with pytest.raises(DataError, match="validation has no column rejected"):
            table(valid=VALID.drop("rejected"))
        with pytest.raises(DataError, match="pairs: chosen is not a list of messages"):
            table(PAIRS.with_columns(chosen=pl.lit("text")))
        with pytest.raises(ConfigError, match="checkpoints is empty"):
            table(checkpoints={})
        with pytest.raises(ConfigError, match="below 8 pairs the step cannot be checked"):
            table(sample=2)
        with pytest.raises(ConfigError, match="must be above 0"):
            table(checkpoints={"a": 0.0})


class TestStep:
    def test_a_step_below_rounding_is_not_used(self, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "NATS", (1e-6, 3e-7))
        monkeypatch.setattr(stage, "MORE_NATS", (0.1,))
        (checkpoint,) = table().about["checkpoints"]
        tiny = [each for each in checkpoint["sweep"] if each["step"] < checkpoint["step"]["step"] / 100]
        assert len(tiny) == 4
        assert min(each["max_relative"] for each in tiny) > 0.1
        assert checkpoint["step"]["max_relative"] <= 0.05

    def test_where_no_step_is_above_it_the_table_is_refused(self, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stage, "NATS", (1e-7,))
        monkeypatch.setattr(stage, "MORE_NATS", (3e-8,))
        with pytest.raises(NotIdentifiable, match="no step agrees with the exact sample"):
            table()

    @pytest.mark.parametrize("n", [1, 2])
    def test_one_or_two_pairs_have_their_influence(self, table: Any, plain: Any, n: int) -> None:
        made = table(PAIRS[:n])
        assert made.frame["influence"].to_numpy() == pytest.approx(plain.frame["influence"].to_numpy()[:n], rel=0.05)
        assert made.about["checkpoints"][0]["step"]["n"] == n

    def test_bfloat16_is_seen_by_the_exact_sample(self, tmp_path: Path, table: Any) -> None:
        model = tiny_causal(tmp_path / "half", dtype="bfloat16")
        theta = moved_copy(tmp_path / "theta", model, scale=0.05)
        try:
            made = table(model=str(model), checkpoints={str(theta): 1e-3}, params=r"self_attn")
        except NotIdentifiable as error:
            assert "load the model in float32" in str(error)
            return
        (checkpoint,) = made.about["checkpoints"]
        small = min(checkpoint["sweep"], key=lambda each: each["step"])
        assert small["max_relative"] > 2 * checkpoint["step"]["max_relative"]
        assert checkpoint["step"]["step"] > small["step"]
        assert checkpoint["step"]["spearman"] >= 0.9


class TestFolder:
    def test_a_stopped_run_goes_on_where_it_stopped(
        self, table: Any, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = {"folder": tmp_path / "out"}
        monkeypatch.setattr(stage, "PART", 200)
        write, written = stage.write_parquet, []

        def stops(path: Path, frame: Any) -> None:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(path)
            write(path, frame)

        monkeypatch.setattr(stage, "write_parquet", stops)
        with pytest.raises(KeyboardInterrupt):
            table(**small)
        monkeypatch.setattr(stage, "write_parquet", write)
        before = {path: path.stat().st_mtime_ns for path in written}
        monkeypatch.setattr(PairModel, "gradient", None)  # nor is the validation gradient taken again
        made = table(**small)
        assert {path: path.stat().st_mtime_ns for path in written} == before
        assert len(list((tmp_path / "out").glob("scored-0-*.parquet"))) > 2
        for name in SCORES:
            assert made.frame[name].to_numpy() == pytest.approx(plain.frame[name].to_numpy(), rel=0.02, abs=0.02)
        monkeypatch.setattr(PairModel, "moved", None)
        assert table(**small).frame.equals(made.frame)

    @pytest.mark.parametrize("what", ["model", "beta", "validation", "template"])
    def test_scores_of_another_model_are_refused_unless_forced(
        self, table: Any, model: str, tmp_path: Path, what: str
    ) -> None:
        changes: dict[str, Any] = {
            "model": {"checkpoints": {str(tiny_adapter(tmp_path / "b", Path(model), seed=5)): 1e-3}},
            "beta": {"beta": 0.2},
            "validation": {"valid": VALID[:-1]},
            "template": {"max_length": 200},
        }[what]
        made = table(folder=tmp_path / "out")
        with pytest.raises(DataError, match=f"holds the influence on another {what}"):
            table(folder=tmp_path / "out", **changes)
        forced = table(folder=tmp_path / "out", force=True, **changes)
        assert forced.frame.select(SCORES).equals(made.frame.select(SCORES))
        assert any(what in each for each in forced.about["forced"])
        assert made.about["forced"] == []
        kept = json.loads((tmp_path / "out" / "influence.json").read_text())
        assert kept["forced"] == []  # the folder goes on saying whose scores it holds

    def test_other_pairs_are_refused_even_so(self, table: Any, tmp_path: Path) -> None:
        table(folder=tmp_path / "out")
        with pytest.raises(DataError, match="holds the influence of other pairs"):
            table(PAIRS[1:], folder=tmp_path / "out", force=True)

    def test_what_was_refused_claims_no_folder(
        self, table: Any, plain: Any, model: str, adapter: str, tmp_path: Path
    ) -> None:
        shutil.copytree(model, tmp_path / "copy")
        with pytest.raises(DataError, match=r"every margin \(IRM\) is 0"):
            table(folder=tmp_path / "out", checkpoints={str(tmp_path / "copy"): 1e-3}, params="layers")
        with pytest.raises(ConfigError, match="tokens at most"):
            table(folder=tmp_path / "out", max_length=100_000)
        with pytest.raises(DataError, match="gradient of the validation loss is 0"):
            table(folder=tmp_path / "out", beta=1e5, valid=won(model, adapter))
        made = table(folder=tmp_path / "out")
        assert made.frame["irm"].to_numpy() == pytest.approx(plain.frame["irm"].to_numpy(), abs=1e-5)

    def test_half_a_run_of_another_model_cannot_be_forced(self, table: Any, tmp_path: Path) -> None:
        table(folder=tmp_path / "out")
        (tmp_path / "out" / "influence.json").unlink()
        with pytest.raises(DataError, match="not all of it"):
            table(folder=tmp_path / "out", beta=0.2, force=True)
