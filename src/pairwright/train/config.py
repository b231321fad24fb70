"""What the trainer is written for, and its settings: TRL's DPOConfig and the keys of ours."""

import inspect
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from pairwright.core.losses import LOSSES
from pairwright.errors import ConfigError, MissingDependency
from pairwright.train.batch import bound_loss
from pairwright.train.stages import HARD_STAGE

SUPPORTED = "1.16"  # of TRL
INSTALL = 'pip install "trl>=1.16,<1.17"'
METHODS = {  # of DPOTrainer that are called or overridden here, with the arguments that they must take
    "_prepare_dataset": ("dataset", "processing_class", "args", "dataset_name"),
    "_set_signature_columns_if_needed": (),
    "_precompute_ref_logps": ("dataset", "name", "batch_size"),
    "compute_ref_log_probs": ("model", "inputs"),
    "_compute_loss": ("model", "inputs", "return_outputs"),
    "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    "log": ("logs", "start_time"),
}
THEIRS = {  # settings of TRL's own loss that ours does not read
    "loss_type": ["sigmoid"], "loss_weights": None, "label_smoothing": 0.0, "ld_alpha": None,
    "f_divergence_type": "reverse_kl", "use_weighting": False,
}  # fmt: skip


def supported() -> None:
    """MissingDependency where TRL is absent, of another version than 1.16, or has other methods."""
    try:
        import trl
    except ImportError as error:
        raise MissingDependency(f"TRL cannot be imported ({error}); run: {INSTALL}") from error
    if not trl.__version__.startswith(f"{SUPPORTED}."):
        raise MissingDependency(f"TRL {trl.__version__} is installed; this trainer is written for 1.16: {INSTALL}")
    from trl.trainer import utils

    broken = [] if hasattr(utils, "_use_triton") else ["trl.trainer.utils._use_triton"]
    for name, arguments in METHODS.items():
        method = vars(trl.DPOTrainer).get(name)
        takes = inspect.signature(method).parameters if callable(method) else {}
        if method is None or not set(arguments) <= set(takes):
            broken.append(f"DPOTrainer.{name}({', '.join(arguments)})")
    if broken:
        raise MissingDependency(
            f"TRL {trl.__version__} has no {', '.join(broken)}, which this trainer needs: {INSTALL}"
        )


@cache
def config_class() -> Any:
    """RatingDPOConfig: TRL's DPOConfig and the keys below."""
    supported()
    from trl import DPOConfig

    @dataclass
    class RatingDPOConfig(DPOConfig):  # type: ignore[misc]
        """DPOConfig, with a loss of ours in the place of `loss_type`; `beta` is passed to it."""

        _VALID_DICT_FIELDS: ClassVar[list[str]] = [*DPOConfig._VALID_DICT_FIELDS, "loss_settings"]

        gradient_checkpointing: bool = field(
            default=False, metadata={"help": "Compute activations again in the backward pass: less memory, slower."}
        )
        loss: str = field(default="dpo", metadata={"help": f"One of {', '.join(sorted(LOSSES))}."})
        loss_settings: dict[str, Any] | str = field(
            default_factory=dict, metadata={"help": "The settings of the loss other than beta, as JSON."}
        )
        gap: str = field(
            default="auto", metadata={"help": "The gap is the column `margin`, or the difference of the `scores`."}
        )
        rating_scale: float | None = field(
            default=None, metadata={"help": "Bradley-Terry logits per point of the gap; 1 with a warning."}
        )
        weight_mean: str = field(
            default="pairs", metadata={"help": "Divide the sum of weight x loss by the `pairs` or by the `weights`."}
        )
        hard_stage_lr: str = field(
            default="inherit", metadata={"help": "Of the last, sft stage of routed rows: inherit, constant or restart."}
        )
        sft_weight: float = field(default=1.0, metadata={"help": "Of the loss of pairs whose objective is sft."})
        bad_rows: str = field(default="error", metadata={"help": "Rows that cannot be trained on: error or drop."})
        reference_check: float = field(
            default=0.05, metadata={"help": "Nats per token that an imported reference may be off; 0: not checked."}
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            check_config(self)

    RatingDPOConfig.__qualname__ = "RatingDPOConfig"
    return RatingDPOConfig


CHOICES = {
    "gap": ("auto", "margin", "scores"),
    "weight_mean": ("pairs", "weights"),
    "bad_rows": ("error", "drop"),
    "hard_stage_lr": HARD_STAGE,
}


def check_config(args: Any) -> None:
    """ConfigError for a loss, a setting or a choice that does not exist, and for a key of TRL's that ours ignores."""
    bound_loss(args.loss, args.loss_settings, args.beta)
    for name, choices in CHOICES.items():
        if getattr(args, name) not in choices:
            raise ConfigError(f"{name} is {getattr(args, name)!r}; known: {', '.join(choices)}")
    if ignored := [name for name, value in THEIRS.items() if getattr(args, name) != value]:
        raise ConfigError(
            f"{', '.join(ignored)}: a key of TRL's own losses, which `loss` replaces (here {args.loss}); leave it out, or "
            "train with TRL's DPOTrainer"
        )
    if not args.sft_weight >= 0 or not args.reference_check >= 0:
        raise ConfigError("sft_weight and reference_check must be 0 or more")
    if args.rating_scale is not None and not 0 < args.rating_scale < float("inf"):
        raise ConfigError(f"rating_scale {args.rating_scale} must be above 0; a scale below 0 turns the labels round")


def __getattr__(name: str) -> Any:  # a checkpoint's settings are unpickled by this name
    if name != "RatingDPOConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config_class()
