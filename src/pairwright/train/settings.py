"""What a training run is asked to do; frozen, without TRL."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pairwright.backends.openvino import EMBEDDED
from pairwright.errors import ConfigError
from pairwright.train.batch import bound_loss
from pairwright.train.conditioning import Relabelling, Tag
from pairwright.train.guard import GuardSettings
from pairwright.train.routing import Difficulty, Routing

LORA: Mapping[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # what `lora: true` means
OPTIONS = (  # keys of RatingDPOConfig that are ours, beside loss, loss_settings and beta
    "gap", "rating_scale", "weight_mean", "sft_weight", "bad_rows", "reference_check", "hard_stage_lr",
)  # fmt: skip


@dataclass(frozen=True)
class Training:
    """Model, loss and trainer of a run.

    `lora` holds keys of PEFT's LoraConfig over LORA; None trains all weights. `reference`: "table" takes the reference
    log-probabilities of the run's `logps` and is refused where they are of another model or text, "live" computes them in
    each step, "precompute" once before training, "auto" takes the table where it fits and precomputes elsewhere.
    `hold_out` is the share of prompts whose pairs are kept for evaluation. `options` are the trainer's keys of ours
    (OPTIONS), `trl` any key of TRL's DPOConfig. `negative_gaps` are ratings against the label, for losses that read the gap.
    """

    model: str = EMBEDDED
    loss: str = "dpo"
    beta: float = 0.1
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] | None = None
    reference: Literal["auto", "table", "live", "precompute"] = "auto"
    hold_out: float = 0.0
    negative_gaps: Literal["keep", "clip", "drop"] = "keep"
    guard: GuardSettings = field(default_factory=GuardSettings)
    options: Mapping[str, Any] = field(default_factory=dict)
    trl: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bound_loss(self.loss, self.loss_settings, self.beta)
        ours = {"loss", "loss_settings", "beta", *OPTIONS} & set(self.trl)
        if ours:
            raise ConfigError(f"{', '.join(sorted(ours))} under trl: a key of ours; write it beside trl")
        if not 0 <= self.hold_out < 1:
            raise ConfigError(f"hold_out is a share of the prompts, from 0 to below 1, not {self.hold_out}")
        if taken := {"output_dir", "run_name"} & set(self.trl):
            raise ConfigError(f"trl.{min(taken)} is set by the run; name its folder with --out")

    @property
    def seed(self) -> int:
        return int(self.trl.get("seed", 42))

    def told(self) -> dict[str, Any]:
        """For manifest, card and page: as it is written in a recipe."""
        out: dict[str, Any] = {"model": self.model, "loss": self.loss, "beta": self.beta, **self.loss_settings}
        if self.lora is not None:
            out["lora"] = dict(self.lora)
        return {
            **out,
            "reference": self.reference,
            "hold_out": self.hold_out,
            "negative_gaps": self.negative_gaps,
            **self.options,
            "guard": asdict(self.guard),
            "trl": dict(self.trl),
        }


@dataclass(frozen=True)
class Route:
    """Routing with the difficulty that it cuts by."""

    routing: Routing = field(default_factory=Routing)
    difficulty: Difficulty = field(default_factory=Difficulty)


@dataclass(frozen=True)
class Condition:
    """Relabelling with the tag that carries the goals."""

    tag: Tag = field(default_factory=Tag)
    relabelling: Relabelling = field(default_factory=Relabelling)
