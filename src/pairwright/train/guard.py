"""Watches a run for what a falling loss hides, and names the pairs that cause it.

Log-ratios are log pi - log ref of a response, nats, summed over its tokens; 0 at the start. Per window, that is all pairs
since the last log:

    chosen_likelihood_falls   the mean log-ratio of chosen is `fall` or more below 0 while the mean margin (chosen -
                              rejected) is above 0: likelihood displacement. Named: the pairs that fell most.
    drift                     the mean of |log-ratio| over both sides is above `drift`. Named: the pairs that moved most.
    not_finite                a log-ratio or a loss is nan or infinite, which the Trainer's own log leaves out.

Each alarm is raised at the first window of a run of windows that show it. Pairs with the objective sft are left out of
the first: nothing pushes their rejected side.

KL(ref || pi) = E_ref[log ref - log pi] is estimated by minus the mean log-ratio over both sides: unbiased where the
responses were drawn from the reference, else a measure of distance that a chosen likelihood that rises lowers. Selection
of best and worst biases it. KL(pi || ref) needs samples of the policy and is not estimated here.

Defaults, ours: fall 2 nats, 20 times what one step moves at TRL's defaults; drift 100 nats per response, an implied
reward of -10 at beta 0.1. Raise them for longer responses: both are sums over tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.errors import ConfigError

Floats = NDArray[np.float64]


class Seen(NamedTuple):
    """The pairs of a window, one value per pair: nats, tokens."""

    row_I: NDArray[np.int64]  # in the data set that was given; -1: unknown
    chosen_I: Floats  # log pi - log ref
    rejected_I: Floats
    chosen_length_I: Floats
    rejected_length_I: Floats
    loss_I: Floats  # before the weight
    sft_I: Floats  # 1 for the objective sft

    def summary(self) -> dict[str, float]:
        """What is logged; a mean over no pairs is left out."""
        sft = self.sft_I > 0
        told = {
            "logratio/chosen": self.chosen_I.mean(),
            "logratio/rejected": self.rejected_I.mean(),
            "kl_ref": kl_ref(self.chosen_I, self.rejected_I),
            "displaced": displaced(self.chosen_I[~sft], self.rejected_I[~sft]).mean() if not sft.all() else np.nan,
            "loss/dpo": self.loss_I[~sft].mean() if not sft.all() else np.nan,
        }
        if sft.any():
            told |= {"loss/sft": self.loss_I[sft].mean(), "share_sft": sft.mean()}
        return {name: float(value) for name, value in told.items() if not np.isnan(value)}


def displaced(chosen_I: Floats, rejected_I: Floats) -> NDArray[np.bool_]:
    """Pairs whose margin grew while the chosen side became less likely than under the reference."""
    return (chosen_I < 0) & (chosen_I > rejected_I)


def kl_ref(chosen_I: Floats, rejected_I: Floats) -> float:
    """Minus the mean log-ratio over both sides, nats per response: KL(ref || pi) for responses drawn from the reference."""
    return float(-(chosen_I.mean() + rejected_I.mean()) / 2)


def first_fall(chosen: Sequence[float], margin: Sequence[float], *, fall: float = 2.0) -> int | None:
    """The first place of two logged series at which chosen is `fall` below its first value and margin above its own."""
    if not len(chosen):
        return None
    c, m = np.asarray(chosen, np.float64), np.asarray(margin, np.float64)
    found = np.flatnonzero((c[0] - c >= fall) & (m > m[0]))
    return int(found[0]) if len(found) else None


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Thresholds in nats per response; `name` pairs are listed; stop ends the training at the first alarm."""

    fall: float = 2.0
    drift: float = 100.0
    name: int = 5
    action: Literal["warn", "stop"] = "warn"

    def __post_init__(self) -> None:
        if not self.fall > 0 or not self.drift > 0 or self.name < 1:
            raise ConfigError("fall and drift must be above 0, name at least 1")
        if self.action not in ("warn", "stop"):
            raise ConfigError(f"action is {self.action!r}; known: warn, stop")


class Alarm(NamedTuple):
    code: str
    step: int
    value: float  # nats per response; of not_finite the number of pairs
    pairs: tuple[tuple[str, float], ...]  # (id, log-ratio of chosen, nats), the worst first

    def __str__(self) -> str:
        named = ", ".join(f"{name} ({value:.3g})" for name, value in self.pairs)
        told = {
            "chosen_likelihood_falls": f"chosen responses are {self.value:.3g} nats less likely than under the reference "
            "while the margin grows; lower the learning rate, raise beta, or add an sft term",
            "drift": f"the policy is {self.value:.3g} nats per response away from the reference",
            "not_finite": f"{self.value:.0f} pairs have a log-probability or a loss that is not finite",
        }[self.code]
        return f"step {self.step}: {self.code}: {told}. Pairs: {named}"


class Guard:
    """Judges one window after the other; `alarms` holds what it raised, `latest` the newest log-ratios by row."""

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self.settings = GuardSettings() if settings is None else settings
        self.alarms: list[Alarm] = []
        self.latest: dict[int, tuple[float, float]] = {}  # chosen, rejected
        self._open: set[str] = set()

    def watch(self, seen: Seen, *, step: int, ids: Sequence[str] = ()) -> list[Alarm]:
        """The alarms that begin with this window."""
        rows = seen.row_I.tolist()
        self.latest.update(zip(rows, zip(seen.chosen_I.tolist(), seen.rejected_I.tolist(), strict=True), strict=True))
        raised = []
        judged = self._judge(seen)
        for code, value, worst in judged:
            if code not in self._open:
                chosen = seen.chosen_I[worst[: self.settings.name]].tolist()
                names = [_name(int(seen.row_I[at]), ids) for at in worst[: self.settings.name]]
                raised.append(Alarm(code, step, value, tuple(zip(names, chosen, strict=True))))
        self._open = {code for code, _, _ in judged}
        self.alarms += raised
        return raised

    def _judge(self, seen: Seen) -> list[tuple[str, float, NDArray[np.int64]]]:
        """(code, value, places of the pairs, the worst first)"""
        broken = ~np.isfinite(seen.chosen_I) | ~np.isfinite(seen.rejected_I) | ~np.isfinite(seen.loss_I)
        if broken.any():
            return [("not_finite", float(broken.sum()), np.flatnonzero(broken))]
        told = []
        preferred = np.flatnonzero(seen.sft_I == 0)
        if len(preferred):
            chosen, rejected = seen.chosen_I[preferred], seen.rejected_I[preferred]
            fall = -float(chosen.mean())
            if fall >= self.settings.fall and chosen.mean() > rejected.mean():
                told.append(("chosen_likelihood_falls", fall, preferred[np.argsort(chosen, kind="stable")]))
        moved_I = (np.abs(seen.chosen_I) + np.abs(seen.rejected_I)) / 2
        if moved_I.mean() > self.settings.drift:
            told.append(("drift", float(moved_I.mean()), np.argsort(-moved_I, kind="stable")))
        return told

    def worst(self, n: int, ids: Sequence[str] = ()) -> list[tuple[str, float]]:
        """The n pairs whose chosen side is least likely against the reference, when last seen."""
        rows = sorted(self.latest, key=lambda row: self.latest[row][0])[:n]
        return [(_name(row, ids), self.latest[row][0]) for row in rows]


def _name(row: int, ids: Sequence[str]) -> str:
    return ids[row] if 0 <= row < len(ids) else f"row {row}"


def log_callback(settings: GuardSettings | None = None) -> Any:
    """A TrainerCallback for TRL's own DPOTrainer: the fall of the logged `logps/chosen` below its first value.

    It sees means alone: it names no pairs, and longer batches look like a fall. RatingDPOTrainer needs none.
    """
    from transformers import TrainerCallback

    kept = GuardSettings() if settings is None else settings

    class LogGuard(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.series: list[tuple[float, float]] = []
            self.alarms: list[Alarm] = []

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **more: Any
        ) -> None:
            if not logs or "logps/chosen" not in logs:
                return
            self.series.append((logs["logps/chosen"], logs["rewards/margins"]))
            chosen, margin = zip(*self.series, strict=True)
            if not self.alarms and first_fall(chosen, margin, fall=kept.fall) is not None:
                self.alarms.append(Alarm("chosen_likelihood_falls", state.global_step, chosen[0] - chosen[-1], ()))
                control.should_training_stop |= kept.action == "stop"

    return LogGuard()
