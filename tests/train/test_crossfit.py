"""Seed models: none scores a prompt that it learnt from, and its scores are what they say, computed again by hand."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_pairs import soup, turn
from tiny_causal import tiny_adapter, tiny_causal

from pairwright.core.margins import spearman
from pairwright.errors import ConfigError, DataError
from pairwright.train import crossfit as stage
from pairwright.train.crossfit import CrossFit, cross_fit, fit, normal_prompt, plan_models

PAIRS = soup(20, prompts=10)
FAST = {"learning_rate": 1e-2, "gradient_accumulation_steps": 1, "warmup_steps": 0, "num_train_epochs": 1}


def keys(rows: list[int], pairs: pl.DataFrame = PAIRS) -> set[str]:
    return {normal_prompt(pairs["prompt"][row]) for row in rows}


class TestPlan:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(2, 5), st.one_of(st.none(), st.integers(1, 30)), st.integers(1, 3), st.integers(0, 9))
    def test_no_model_scores_a_prompt_that_it_learns_from_and_every_pair_is_scored_once_per_repeat(
        self, folds: int, seed_pairs: int | None, repeats: int, seed: int
    ) -> None:
        plans = plan_models(PAIRS, CrossFit("m", seed_pairs=seed_pairs, folds=folds, repeats=repeats, seed=seed))
        assert len(plans) == folds * repeats
        for plan in plans:
            assert plan.seed_rows
            assert not keys(plan.seed_rows) & keys(plan.scored_rows)
            if seed_pairs is not None:
                assert len(plan.seed_rows) <= seed_pairs
        assert sorted(row for plan in plans for row in plan.scored_rows) == sorted([*range(20)] * repeats)

    def test_prompts_that_differ_in_case_and_space_alone_stay_together(self) -> None:
        again = PAIRS.with_columns(
            prompt=pl.Series([turn("user", f"  {row[0]['content'].upper()} ") for row in PAIRS["prompt"]])
        )
        for plan in plan_models(pl.concat([PAIRS, again]), CrossFit("m", seed_pairs=None)):
            both = pl.concat([PAIRS, again])
            assert not keys(plan.seed_rows, both) & keys(plan.scored_rows, both)

    def test_two_spellings_of_one_letter_are_one_prompt(self) -> None:
        spelt = [turn("user", unicodedata.normalize(form, "Où est l'été, \ufb01nalement?")) for form in ("NFC", "NFD")]
        assert spelt[0] != spelt[1]
        assert normal_prompt(spelt[0]) == normal_prompt(spelt[1])
        assert normal_prompt(turn("user", "STRASSE")) == normal_prompt(turn("user", "Stra\u00dfe"))
        assert normal_prompt(turn("user", "ou")) != normal_prompt(turn("user", "o\u00f9"))

    @pytest.mark.parametrize("folds", [1, 2])
    def test_the_order_of_the_rows_decides_nothing(self, folds: int) -> None:
        rows = np.random.default_rng(0).permutation(20)
        asked = CrossFit("m", seed_pairs=6, folds=folds, seed=3)
        for plan, turned in zip(plan_models(PAIRS, asked), plan_models(PAIRS[rows], asked), strict=True):
            assert sorted(int(rows[row]) for row in turned.seed_rows) == plan.seed_rows
            assert sorted(int(rows[row]) for row in turned.scored_rows) == plan.scored_rows

    def test_another_seed_is_another_split(self) -> None:
        one, two = (plan_models(PAIRS, CrossFit("m", seed_pairs=6, seed=seed)) for seed in (0, 1))
        assert [plan.seed_rows for plan in one] != [plan.seed_rows for plan in two]

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"folds": 0}, "folds = 0"),
            ({"seed_pairs": 0}, "at least 1 pair"),
            ({"seed_pairs": None, "folds": 1}, "leaves none to score"),
            ({"trl": {"beta": 0.2}}, "trl holds beta"),
        ],
    )
    def test_settings_that_cannot_be_meant(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            CrossFit("m", **changes)

    def test_too_few_prompts_are_refused(self) -> None:
        with pytest.raises(DataError, match="2 prompts cannot be cut into 3 folds"):
            plan_models(soup(4, prompts=2), CrossFit("m", folds=3))
        with pytest.raises(DataError, match="leave no pair to score"):
            plan_models(PAIRS, CrossFit("m", folds=1, seed_pairs=20))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("trl")
    return str(tiny_causal(tmp_path_factory.mktemp("base") / "model"))


@pytest.mark.trl
@pytest.mark.filterwarnings("ignore")
class TestScores:
    @pytest.fixture
    def scored(self, model: str, tmp_path: Path) -> Any:
        def make(pairs: pl.DataFrame = PAIRS, **changes: Any) -> Any:
            asked = {"model": model, "seed_pairs": 6, "max_length": 256, "trl": FAST, **changes}
            return cross_fit(pairs, CrossFit(**asked), tmp_path / "out")

        return make

    def test_the_margin_is_that_of_the_models_that_were_saved(self, scored: Any, model: str, tmp_path: Path) -> None:
        made = scored(beta=0.2)
        frame = made.frame
        assert frame["pair_id"].to_list() == PAIRS["pair_id"].to_list()
        assert frame["margin_implicit"].null_count() == frame["loss"].null_count() == 0
        assert frame["margin_implicit"].abs().min() > 1e-4
        for row in (0, 7):
            place = tmp_path / "out" / f"seed-{frame['scored_by'][row]}"
            sides = []
            for name in ("chosen", "rejected"):
                said = PAIRS["prompt"][row].to_list(), PAIRS[name][row].to_list()
                (tuned, n), (base, _) = by_hand(model, place, *said), by_hand(model, None, *said)
                assert n == frame[f"n_tokens_{name}"][row]
                sides.append((tuned - base, n, tuned))
            (c, n_c, nll_c), (r, n_r, nll_r) = sides
            assert frame["margin_implicit"][row] == pytest.approx(c - r, abs=1e-3)
            assert frame["implicit_per_token"][row] == pytest.approx(c / n_c - r / n_r, abs=1e-4)
            assert frame["loss"][row] == pytest.approx(np.log1p(np.exp(-0.2 * (c - r))), abs=1e-3)
            assert frame["ppl_diff"][row] == pytest.approx(-nll_c / n_c + nll_r / n_r, abs=1e-3)

    def test_the_models_are_trained_on_their_seed_pairs_alone(self, scored: Any, monkeypatch: Any) -> None:
        trained = []
        whole = stage.fit
        monkeypatch.setattr(stage, "fit", lambda rows, *a, **k: (trained.append(rows), whole(rows, *a, **k))[1])
        frame = scored().frame
        for rows, name in zip(trained, ("0-0", "0-1"), strict=True):
            seen = {normal_prompt(row["prompt"]) for row in rows}
            mine = frame["scored_by"].to_numpy() == name
            assert len(rows) == 6
            assert mine.sum() > 0
            assert not seen & keys(np.flatnonzero(mine).tolist())
        learnt = {row["prompt"][0]["content"] + row["chosen"][0]["content"] for rows in trained for row in rows}
        flagged = [
            row["prompt"][0]["content"] + row["chosen"][0]["content"]
            for row, flag in zip(PAIRS.to_dicts(), frame["seed_pair"], strict=True)
            if flag
        ]
        assert set(flagged) == learnt

    def test_turning_every_pair_round_turns_the_margin_of_a_fixed_model(self, model: str, tmp_path: Path) -> None:
        adapter = tiny_adapter(tmp_path / "a", Path(model))
        plan = stage.Plan("0-0", [], list(range(20)))
        asked = CrossFit(model, max_length=256)
        turned = PAIRS.rename({"chosen": "rejected", "rejected": "chosen"})
        one, other = (stage._score(pairs, plan, asked, adapter) for pairs in (PAIRS, turned))
        for name in ("margin_implicit", "implicit_per_token", "ppl_diff"):
            assert other[name].to_numpy() == pytest.approx(-one[name].to_numpy(), abs=1e-4)
        assert spearman(one["loss"].to_numpy(), one["margin_implicit"].to_numpy()) == pytest.approx(-1)

    def test_with_one_model_the_prompts_that_it_saw_stay_without_a_score(self, scored: Any) -> None:
        made = scored(folds=1)
        frame = made.frame
        assert frame["seed_pair"].sum() == 6
        assert set(frame.filter("seed_pair")["reason"]) == {"seed_pair"}
        seen = keys(np.flatnonzero(frame["seed_pair"].to_numpy()).tolist())
        for row, reason in enumerate(frame["reason"]):
            assert (reason is None) == (normal_prompt(PAIRS["prompt"][row]) not in seen)
            assert (reason is None) == (frame["margin_implicit"][row] is not None)
        assert made.about["scored"] + sum(made.about["reasons"].values()) == made.about["rows"] == 20
        assert made.about["cross_fitted"] is False

    def test_repeats_are_averaged_and_their_agreement_is_told(self, scored: Any) -> None:
        made = scored(repeats=2)
        assert all(len(names.split()) == 2 for names in made.frame["scored_by"])
        ((name, rho),) = made.about["spearman_loss_between_repeats"].items()
        assert name == "0 and 1"
        assert -1 <= rho <= 1
        assert len(made.about["models"]) == 4

    def test_a_stopped_run_goes_on_and_other_pairs_are_refused(self, scored: Any, monkeypatch: Any) -> None:
        whole, calls = stage.fit, []

        def stops(*told: Any, **more: Any) -> Any:
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return whole(*told, **more)

        monkeypatch.setattr(stage, "fit", stops)
        with pytest.raises(KeyboardInterrupt):
            scored()
        monkeypatch.setattr(stage, "fit", lambda *a, **k: (calls.append(1), whole(*a, **k))[1])
        made = scored()
        assert len(calls) == 2
        assert scored().frame.equals(made.frame)
        assert len(calls) == 2
        with pytest.raises(DataError, match="seed models of another pairs_hash"):
            scored(PAIRS[1:])
        with pytest.raises(DataError, match="seed models of another beta"):
            scored(beta=0.5)

    def test_a_pair_that_cannot_be_read_has_a_reason(self, scored: Any) -> None:
        same = PAIRS.with_columns(
            rejected=pl.when(pl.col("pair_id") == "p3").then(pl.col("chosen")).otherwise(pl.col("rejected"))
        )
        frame = scored(same).frame
        assert frame.filter(pl.col("margin_implicit").is_null())["reason"].to_list() == ["identical"]

    def test_what_cannot_be_trained_claims_no_folder(self, scored: Any, tmp_path: Path, monkeypatch: Any) -> None:
        trained: list[int] = []
        whole = stage.fit
        monkeypatch.setattr(stage, "fit", lambda *a, **k: (trained.append(1), whole(*a, **k))[1])
        with pytest.raises(ConfigError, match=r"max_length = 100000: .* tokens at most"):
            scored(max_length=100_000)
        assert not trained
        assert not (tmp_path / "out").exists()
        with pytest.raises(TypeError):
            scored(trl={**FAST, "no_such_setting": 1})
        assert scored().frame["margin_implicit"].null_count() == 0  # the folder holds no model of another run

    def test_training_on_needs_the_reference_in_the_rows(self, model: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="needs the reference in the rows"):
            fit(PAIRS.to_dicts(), tmp_path, model=model, beta=0.1, start=model)


def by_hand(model: str, adapter: Path | None, prompt: Any, side: Any) -> tuple[float, int]:
    """Log-probability of a side, summed nats, and its tokens, with nothing of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    held = AutoModelForCausalLM.from_pretrained(model)
    held = held if adapter is None else PeftModel.from_pretrained(held, adapter)
    tokenizer = AutoTokenizer.from_pretrained(model)
    start = len(
        tokenizer(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))["input_ids"]
    )
    ids = torch.tensor([tokenizer(tokenizer.apply_chat_template([*prompt, *side], tokenize=False))["input_ids"]])
    with torch.no_grad():
        logp_T = held.eval()(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[start - 1 :, 0]
    return float(logp_T.sum()), len(logp_T)


@pytest.mark.model
def test_the_embedded_model_can_be_a_seed_model() -> None:
    """A model as the GGUF reader leaves it is refused by the trainer."""
    from transformers.trainer_utils import validate_quantization_for_training

    from pairwright.backends.openvino import EMBEDDED
    from pairwright.errors import MissingDependency
    from pairwright.train.crossfit import _start

    try:
        base, _, more = _start(EMBEDDED, None)
    except MissingDependency as missing:
        pytest.skip(str(missing))
    validate_quantization_for_training(base)
    assert "peft_config" in more
