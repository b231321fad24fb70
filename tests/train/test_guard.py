"""The guard raises its alarms when a run does what a falling loss hides, and names the pairs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pairwright.errors import ConfigError
from pairwright.train.guard import Guard, GuardSettings, Seen, first_fall, kl_ref, log_callback

IDS = ["a", "b", "c", "d"]
BAD = {
    "logps/chosen": [-100, -101, -104, -110],
    "logps/rejected": [-100, -106, -118, -140],
    "rewards/margins": [0.0, 0.5, 1.4, 3.0],
}
GOOD = {
    "logps/chosen": [-100, -100.5, -99, -98],
    "logps/rejected": [-100, -103, -106, -110],
    "rewards/margins": [0.0, 0.25, 0.7, 1.2],
}


def seen(chosen: list[float], rejected: list[float], *, sft: list[float] | None = None, **more: Any) -> Seen:
    n = len(chosen)
    length = np.full(n, 5.0)
    told = {"row_I": np.arange(n), "loss_I": np.full(n, 0.5), "sft_I": np.array(sft or [0.0] * n), **more}
    return Seen(
        chosen_I=np.array(chosen),
        rejected_I=np.array(rejected),
        chosen_length_I=length,
        rejected_length_I=length,
        **told,
    )


class TestSeries:
    def test_the_bad_series_falls_at_its_third_value_and_the_good_one_never(self) -> None:
        assert first_fall(BAD["logps/chosen"], BAD["rewards/margins"]) == 2
        assert first_fall(GOOD["logps/chosen"], GOOD["rewards/margins"]) is None

    def test_a_fall_without_a_growing_margin_is_none(self) -> None:
        assert first_fall(BAD["logps/chosen"], [0.0, -1.0, 0.0, -2.0]) is None
        assert first_fall([], []) is None

    @pytest.mark.trl
    @pytest.mark.filterwarnings("ignore")
    def test_the_callback_judges_what_trl_logs(self) -> None:
        pytest.importorskip("transformers")
        for series, expected in ((BAD, [3]), (GOOD, [])):
            callback = log_callback(GuardSettings(action="stop"))
            stopped = []
            for step, (chosen, margin) in enumerate(
                zip(series["logps/chosen"], series["rewards/margins"], strict=True), 1
            ):
                control = SimpleNamespace(should_training_stop=False)
                logs = {"logps/chosen": chosen, "rewards/margins": margin}
                callback.on_log(None, SimpleNamespace(global_step=step), control, logs=logs)
                callback.on_log(None, SimpleNamespace(global_step=step), control, logs={"train_runtime": 1.0})
                stopped.append(control.should_training_stop)
            assert [alarm.step for alarm in callback.alarms] == expected
            assert stopped == [step in expected for step in range(1, 5)]


class TestGuard:
    def test_a_fall_names_the_pairs_that_fell_most(self) -> None:
        guard = Guard(GuardSettings(name=2))
        assert guard.watch(seen([-1, 0, -1, 0], [-5, -5, -5, -5]), step=1, ids=IDS) == []
        (alarm,) = guard.watch(seen([-1, -20, 0.0, -9], [-30, -30, -30, -30]), step=2, ids=IDS)
        assert (alarm.code, alarm.step, alarm.value) == ("chosen_likelihood_falls", 2, 7.5)
        assert alarm.pairs == (("b", -20.0), ("d", -9.0))
        assert str(alarm).startswith("step 2: chosen_likelihood_falls: chosen responses are 7.5 nats less likely")
        assert "b (-20), d (-9)" in str(alarm)

    def test_a_fall_with_a_falling_margin_is_no_displacement(self) -> None:
        assert Guard().watch(seen([-9.0] * 4, [-3.0] * 4), step=1) == []

    def test_an_alarm_is_raised_once_until_it_is_over(self) -> None:
        guard, falls, sound = Guard(), seen([-9.0] * 4, [-30.0] * 4), seen([1.0] * 4, [-3.0] * 4)
        raised = [len(guard.watch(window, step=step)) for step, window in enumerate((falls, falls, sound, falls))]
        assert raised == [1, 0, 0, 1]
        assert [alarm.step for alarm in guard.alarms] == [0, 3]

    def test_sft_pairs_have_no_displacement(self) -> None:
        window = seen([-50.0, 0.0, 0.0, 0.0], [-90.0, -1, -1, -1], sft=[1, 0, 0, 0])
        assert Guard().watch(window, step=1) == []

    def test_drift_counts_both_ways_and_names_who_moved_most(self) -> None:
        guard = Guard(GuardSettings(drift=10.0))
        (alarm,) = guard.watch(seen([40.0, 0.0, 1.0, 0.0], [-40.0, 0.0, 0.0, -30.0]), step=1, ids=IDS)
        assert (alarm.code, alarm.value) == ("drift", pytest.approx(111 / 8))
        assert [name for name, _ in alarm.pairs] == ["a", "d", "c", "b"]

    def test_what_is_not_finite_is_named(self) -> None:
        window = seen([1.0, 1.0, 1.0, np.inf], [0.0] * 4, loss_I=np.array([0.1, np.nan, 0.1, 0.1]))
        (alarm,) = Guard().watch(window, step=1, ids=IDS)
        assert (alarm.code, alarm.value, [name for name, _ in alarm.pairs]) == ("not_finite", 2, ["b", "d"])

    def test_the_newest_value_of_every_pair_is_kept(self) -> None:
        guard = Guard()
        guard.watch(seen([-1.0, 3.0], [0.0, 0.0], row_I=np.array([0, 3])), step=1)
        guard.watch(seen([-5.0, 2.0], [0.0, 0.0], row_I=np.array([3, 2])), step=2)
        assert guard.worst(2, IDS) == [("d", -5.0), ("a", -1.0)]
        assert guard.worst(1, []) == [("row 3", -5.0)]

    def test_thresholds_that_cannot_be_meant_are_refused(self) -> None:
        for wrong in ({"fall": 0.0}, {"drift": -1.0}, {"name": 0}, {"action": "halt"}):
            with pytest.raises(ConfigError):
                GuardSettings(**wrong)  # type: ignore[arg-type]


class TestSummary:
    def test_a_window_is_summed_up_per_objective(self) -> None:
        window = seen([-1.0, 3.0, -2.0, 0.0], [-2.0, 5.0, -1.0, 8.0], sft=[0, 0, 0, 1], loss_I=np.array([1.0, 2, 3, 9]))
        assert window.summary() == pytest.approx(
            {
                "logratio/chosen": 0.0,
                "logratio/rejected": 2.5,
                "kl_ref": -1.25,
                "displaced": 1 / 3,  # the first alone: the third lost to its rejected side
                "loss/dpo": 2.0,
                "loss/sft": 9.0,
                "share_sft": 0.25,
            }
        )

    def test_sft_alone_has_no_preference_loss(self) -> None:
        told = seen([1.0], [0.0], sft=[1]).summary()
        assert "loss/dpo" not in told
        assert "displaced" not in told

    def test_the_divergence_is_that_of_two_known_laws(self) -> None:
        rng = np.random.default_rng(0)
        ref, policy = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
        ratio = np.log(policy / ref)[rng.choice(3, size=(2, 200_000), p=ref)]
        assert kl_ref(*ratio) == pytest.approx(float((ref * np.log(ref / policy)).sum()), abs=0.003)
