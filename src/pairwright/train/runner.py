"""The trainer of a run: settings for this machine, progress, checkpoints, the model saved."""

import difflib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import polars as pl

from pairwright.errors import ConfigError, MissingDependency, PairwrightError, StoreError
from pairwright.store import write_parquet
from pairwright.train.check import Finding
from pairwright.train.guard import Alarm, Guard
from pairwright.train.schedule import Spent
from pairwright.train.settings import Training


class Watcher(Protocol):
    """Is told how many steps are to come, and of each that is done."""

    @property
    def begin(self) -> Callable[[int, str], None]: ...
    @property
    def done(self) -> Callable[[int, int], None]: ...


class Trained(NamedTuple):
    """What a run left. `parameters` are (trained, all); `main` says whether this process writes."""

    steps: int
    pairs_per_step: int
    processes: int
    parameters: tuple[int, int]
    imported: bool  # the reference came with the rows
    live: bool  # else it was computed in each step, or once before
    findings: list[Finding]
    alarms: list[Alarm]
    lr_spent: Mapping[str, Spent]
    history: list[dict[str, float | None]]  # None: not finite
    final: dict[str, float | None]
    main: bool


def run_trainer(
    rows: pl.DataFrame,
    held_out: pl.DataFrame,
    training: Training,
    model: str,
    out: Path,
    *,
    resume: bool,
    watch: Watcher,
) -> Trained:
    """Trains `model` on the rows and saves it into `out`/model."""
    import datasets

    from pairwright.train.trl import RatingDPOTrainer

    datasets.disable_progress_bars()
    args = config_of(training, out, pairs=rows.height)
    data, others = _datasets({"rows": rows, "held_out": held_out}, args, out)
    guard = Guard(training.guard)
    with warnings.catch_warnings(), _calm():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
        trainer = _made(
            RatingDPOTrainer, model=model, args=args, train_dataset=data, eval_dataset=others, guard=guard,
            peft_config=_lora(training.lora), callbacks=[_progress(watch)],
        )  # fmt: skip
        _silence(trainer)
        trainer.train(resume_from_checkpoint=True if resume and _checkpoints(out) else None)
        trainer.save_model(str(out / "model"))
        final = trainer.evaluate() if others is not None else {}
    history = [{k: finite(v) for k, v in each.items()} for each in trainer.state.log_history]
    counts = [p.numel() for p in trainer.model.parameters() if p.requires_grad], trainer.model.num_parameters()
    made = Trained(
        steps=trainer.state.global_step,
        pairs_per_step=trainer._pairs_per_step,
        processes=trainer.accelerator.num_processes,
        parameters=(sum(counts[0]), int(counts[1])),
        imported=trainer.plan.imported,
        live=not trainer.precompute_ref_logps,
        findings=trainer.dropped,
        alarms=guard.alarms,
        lr_spent=trainer.lr_spent,
        history=history,
        final={**_last(history), **{k: finite(v) for k, v in final.items() if isinstance(v, int | float)}},
        main=trainer.accelerator.is_main_process,
    )
    _part(trainer)
    return made


def _part(trainer: Any) -> None:
    """Processes end together: one that left first would abort another, whose connection breaks."""
    if trainer.accelerator.num_processes > 1:
        import torch

        trainer.accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()


def finite(value: float) -> float | None:
    """JSON has no nan."""
    return float(value) if math.isfinite(value) else None


def _made(kind: Any, **given: Any) -> Any:
    """The trainer; what PEFT or TRL do not accept is a ConfigError."""
    try:
        return kind(**given)
    except PairwrightError:
        raise
    except ValueError as error:
        raise ConfigError(f"[train] {str(error).splitlines()[0]}") from error


def config_of(training: Training, out: Path, *, pairs: int) -> Any:
    """RatingDPOConfig: the recipe's keys over what fits this machine. ConfigError for a key that TRL does not have."""
    from pairwright.train.trl import RatingDPOConfig

    known = {each.name for each in fields(RatingDPOConfig)}
    for key in training.trl:
        if key not in known:
            near = difflib.get_close_matches(key, known, 3)
            raise ConfigError(f"trl.{key} is no key of TRL's DPOConfig; near it: {', '.join(near) or 'nothing'}")
    numeric = {each.name for each in fields(RatingDPOConfig) if type(each.default) in (int, float)}
    if texts := [key for key, value in training.trl.items() if key in numeric and isinstance(value, str)]:
        raise ConfigError(f"trl.{texts[0]} is {training.trl[texts[0]]!r}, not a number")
    given = {**_machine(), **{key: _word(key, value) for key, value in training.trl.items()}}
    each, steps = _steps(given, pairs)
    given.setdefault("logging_steps", 1 if steps <= 200 else 10)
    whole = training.reference == "precompute" or (training.reference == "auto" and each * steps >= pairs)
    reference = {"precompute_ref_log_probs": True} if whole else {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".gradient_checkpointing. is deprecated")
            return RatingDPOConfig(
                output_dir=str(out / "checkpoints"), loss=training.loss, loss_settings=dict(training.loss_settings),
                beta=training.beta, **{**reference, **training.options, **given},
            )  # fmt: skip
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"[train.trl] {str(error).splitlines()[0]}") from error


def _word(key: str, value: Any) -> Any:
    """YAML reads `save_strategy: no` as false."""
    return "no" if value is False and key.endswith("_strategy") else value


def _steps(given: Mapping[str, Any], pairs: int) -> tuple[int, float]:
    """Pairs per step of one process, and the steps of the run as far as the settings tell them."""
    each = int(given.get("per_device_train_batch_size", 8)) * int(given.get("gradient_accumulation_steps", 1))
    most = int(given.get("max_steps", -1))
    return each, most if most > 0 else float(given.get("num_train_epochs", 3)) * pairs / each


def _machine() -> dict[str, Any]:
    """Without a GPU: no pinned memory, and bfloat16 only where the processor computes in it."""
    import torch

    quiet = {"report_to": "none", "disable_tqdm": True}
    if torch.cuda.is_available():
        return quiet
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return {**quiet, "use_cpu": True, "bf16": bool(tiles()), "dataloader_pin_memory": False}


def _lora(lora: Mapping[str, Any] | None) -> Any:
    if lora is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDependency('peft is not installed; run: pip install "pairwright[train]"') from error
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM", **lora})
    except TypeError as error:
        raise ConfigError(f"[train.lora] {error}") from error


def _datasets(frames: Mapping[str, pl.DataFrame], args: Any, out: Path) -> list[Any]:
    """The rows as memory-mapped data sets; rank 0 writes the files, the others wait for it."""
    import datasets

    made = []
    for name, data in frames.items():
        with args.main_process_first(desc=f"writing {name}"):
            path = out / f"{name}.parquet"
            if args.process_index == 0:
                write_parquet(path, _plain(data))
            cache = str(out / "checkpoints" / ".datasets")
            made.append(datasets.Dataset.from_parquet(str(path), cache_dir=cache) if data.height else None)
    return made


def _plain(data: pl.DataFrame) -> pl.DataFrame:
    """Without columns that hold nothing: their type is none that a data set knows."""
    return data.select(name for name in data.columns if data.schema[name] != pl.Null)


def _progress(watch: Watcher) -> Any:
    """Tells `watch` of every step."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.is_world_process_zero:
                watch.begin(state.max_steps - state.global_step, "training")

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.is_world_process_zero:
                watch.done(1, 0)

    return Progress()


@contextmanager
def _calm() -> Iterator[None]:
    """Bars of TRL and transformers on a terminal alone: in a log file they are thousands of lines."""
    from pairwright.backends.hf import quiet

    if sys.stderr.isatty():
        yield
        return
    kept = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with quiet():
            yield
    finally:
        os.environ.pop("TQDM_DISABLE") if kept is None else os.environ.update(TQDM_DISABLE=kept)


def _silence(trainer: Any) -> None:
    """The Trainer prints every log as a dict where it has no bar; they stand in metrics.jsonl."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("checkpoint-*"))


def _last(history: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The newest value of everything that was logged."""
    merged: dict[str, float | None] = {}
    for line in history:
        merged.update(line)
    if not any("loss" in line for line in history):
        raise StoreError("the run logged no loss: it ended before its first step; check max_steps and the checkpoints")
    return merged
