"""The order of routed rows inside the trainer: kept, scheduled, and told."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_trl_trainer import _offline, make, model, pairs, trained  # noqa: F401  (fixtures)

from pairwright.errors import ConfigError, DataError
from pairwright.train.schedule import lr_factor, lr_spent
from pairwright.train.stages import OrderWatch, lr_of_objectives, require_order, staged_factor

pytest.importorskip("trl")
pytestmark = [pytest.mark.trl, pytest.mark.filterwarnings("ignore")]

ROUTED = {"objective": ["dpo"] * 6 + ["sft"] * 2, "order": list(range(8))}


class TestArithmetic:
    def test_one_pass_is_what_the_schedule_says(self) -> None:
        sft_I = np.array([False] * 7 + [True] * 3)
        factor_S = lr_factor(5, schedule="cosine", warmup_steps=1)
        told, wanted = lr_of_objectives(sft_I, factor_S, batch=2), lr_spent(sft_I, factor_S, batch=2)
        for name in wanted:
            assert told[name] == pytest.approx(wanted[name])

    def test_passes_repeat(self) -> None:
        sft_I = np.array([False, False, True, True])
        factor_S = np.array([1.0, 2.0, 3.0, 10.0])  # two passes of two steps
        assert lr_of_objectives(sft_I, factor_S, batch=2)["sft"].lr_share == pytest.approx(12 / 16)

    def test_a_constant_hard_stage_stays_at_the_peak(self) -> None:
        sft_I = np.array([False] * 16 + [True] * 4)
        factor_S = staged_factor(sft_I, 10, batch=2, kind="cosine", warmup_steps=0, hard_stage_lr="constant")
        assert (factor_S[8:] == 1).all()
        assert factor_S[7] < 0.25
        again = staged_factor(sft_I, 10, batch=2, kind="cosine", warmup_steps=0, hard_stage_lr="restart")
        assert again[8] == 1
        assert again[9] == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("sft", "steps", "kind", "said"),
        [
            ([False, True, False, True], 2, "cosine", "easy pairs first"),
            ([True, True, False, False], 2, "cosine", "easy pairs first"),
            ([False, False, True, True], 4, "cosine", "one pass"),
            ([False, False, True, True], 2, "polynomial", "knows the schedules"),
        ],
    )
    def test_a_hard_stage_that_is_not_there_is_refused(self, sft: list[bool], steps: int, kind: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            staged_factor(np.array(sft), steps, batch=2, kind=kind, warmup_steps=0, hard_stage_lr="constant")

    def test_a_shuffled_order_is_an_error_and_a_gap_is_none(self) -> None:
        require_order([0, 1, 3, 7], where="x")
        with pytest.raises(DataError, match="shuffled"):
            require_order([0, 2, 1], where="x")

    def test_ranks_that_are_sorted_each_for_itself_are_found(self) -> None:
        watch = OrderWatch([10, 11, 12, 13, 14, 15, 16, 17], batch=2)
        watch.check(np.array([11, 10, 12, 13]), 0, 2)
        watch.check(np.array([16, 17, 10]), 3, 4)  # the end of a pass filled up with its beginning
        with pytest.raises(DataError, match="sequential sampler"):
            watch.check(np.array([10, 14, 11, 15]), 0, 2)  # two ranks, a half of the rows each


class TestTrainer:
    def test_routed_rows_are_trained_in_their_order(self, make: Callable[..., Any]) -> None:  # noqa: F811
        trainer = make(pairs(8, **ROUTED), per_device_train_batch_size=2, max_steps=4, logging_steps=1)
        seen: list[list[int]] = []
        watch = trainer.guard.watch

        def noted(window: Any, **more: Any) -> Any:
            seen.append(window.row_I.tolist())
            return watch(window, **more)

        trainer.guard.watch = noted
        trainer.train()
        assert seen == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert trainer.lr_spent["sft"].lr_share == pytest.approx(0.25)  # constant

    def test_the_same_rows_without_an_order_are_shuffled(self, make: Callable[..., Any]) -> None:  # noqa: F811
        trainer = make(pairs(8, objective=ROUTED["objective"]))
        assert trainer.args.train_sampling_strategy == "random"

    def test_a_sampler_that_shuffles_is_caught(self, make: Callable[..., Any]) -> None:  # noqa: F811
        trainer = make(pairs(8, **ROUTED), per_device_train_batch_size=2, max_steps=4)
        trainer.args.train_sampling_strategy = "random"
        with pytest.raises(DataError, match="sequential"):
            trainer.train()

    def test_rows_out_of_order_are_refused(self, make: Callable[..., Any]) -> None:  # noqa: F811
        with pytest.raises(DataError, match="shuffled"):
            make(pairs(4, order=[0, 2, 1, 3]))

    def test_a_cosine_starves_the_last_stage_and_says_so(
        self,
        make: Callable[..., Any],  # noqa: F811
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings = {"per_device_train_batch_size": 1, "max_steps": 8, "lr_scheduler_type": "cosine"}
        with caplog.at_level(logging.WARNING):
            trainer = trained(make(pairs(8, **ROUTED), **settings))
        assert trainer.lr_spent["sft"].lr_share < 0.25 / 3
        assert "can hardly move the model" in caplog.text

    def test_the_hard_stage_gets_the_rate_that_was_asked_for(self, make: Callable[..., Any]) -> None:  # noqa: F811
        settings = {"per_device_train_batch_size": 1, "max_steps": 8, "lr_scheduler_type": "cosine"}
        trainer = trained(make(pairs(8, **ROUTED), hard_stage_lr="constant", **settings))
        rates = [each["learning_rate"] for each in trainer.state.log_history if "learning_rate" in each]
        assert rates[-2:] == [pytest.approx(1e-3)] * 2
        assert rates[5] < 4e-4

    def test_a_hard_stage_needs_routed_rows(self, make: Callable[..., Any]) -> None:  # noqa: F811
        with pytest.raises(ConfigError, match="needs routed rows"):
            make(pairs(8), hard_stage_lr="constant").train()
