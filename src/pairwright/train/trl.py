"""DPO on TRL with losses that read scores, weights, objectives and reference log-probabilities of the pairs.

    from pairwright.train.trl import RatingDPOConfig, RatingDPOTrainer
    args = RatingDPOConfig(output_dir="out", loss="rating_dpo", loss_settings={"beta1": 0.2}, rating_scale=0.5)
    RatingDPOTrainer(model="folder", args=args, train_dataset=pairs).train()

TRL stays the trainer. Its own `_compute_loss` runs and logs what it logs; the model that it is given notes what it
returned, and the loss is made of that. So a batch column never reaches the model, and a loss of TRL's is never copied.

Columns of the data set (all one value per pair): `margin`, or `score_chosen` and `score_rejected`, are the gap; `weight`
multiplies the pair's loss; `objective` is dpo or sft (-log pi per token of the chosen side, times `sft_weight`);
`order` makes the sampler sequential, and what each logged window trained is held against it; `p_chosen` is read by
soft_dpo; `ref_chosen_logps` and `ref_rejected_logps` are the reference, in nats, as our `logps` tables hold it. A column
that the loss needs and that is missing or null is an error before the first step.

With a window of A accumulation steps on N processes the loss is the sum over all its pairs of weight x loss, divided
by the number of its pairs (`weight_mean="pairs"`) or by the sum of their weights ("weights"): the same gradient however
the pairs are split. TRL's own mean of means differs only where a window's last step holds fewer pairs.

Written against TRL 1.16; another version, or one without these methods, is refused.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pairwright.core.losses import LOSSES, require
from pairwright.core.pair_terms import PairTerms
from pairwright.errors import ConfigError, DataError, MissingDependency
from pairwright.train.batch import (
    LENGTHS,
    RATIOS,
    REFERENCE,
    ROW,
    PairBatch,
    bound_loss,
    make_plan,
    numbers,
    pair_ids,
    pair_terms,
    read_terms,
)
from pairwright.train.check import Finding, check_ids, check_rows, refuse
from pairwright.train.config import INSTALL, config_class, supported
from pairwright.train.guard import Guard, Seen
from pairwright.train.routing import stages
from pairwright.train.schedule import Spent
from pairwright.train.schedule import told as lr_told
from pairwright.train.stages import (
    OrderWatch,
    factors_of,
    lr_of_objectives,
    require_order,
    scheduler,
    staged_factor,
)

if TYPE_CHECKING:
    from trl import DPOTrainer as _Base
else:
    _Base = object

log = logging.getLogger(__name__)

CHECKED = 4  # pairs whose imported reference is computed again


class _Noted:
    """Stands in for the model: calls it, and keeps what it returned first."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.outputs: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self.model(*args, **kwargs)
        self.outputs = outputs if self.outputs is None else self.outputs
        return outputs


@contextmanager
def head_on_completions() -> Iterator[None]:
    """TRL's fused head on the tokens of the completions alone.

    It does so on a GPU by itself; elsewhere it multiplies prompt and padding with the whole vocabulary too, and throws
    the result away. The numbers are the same up to the order of a sum.
    """
    from trl.trainer import utils

    kept = utils._use_triton
    utils._use_triton = lambda device: device.type == "cpu" or kept(device)
    try:
        yield
    finally:
        utils._use_triton = kept


class _Rating(_Base):  # type: ignore[misc]
    """DPOTrainer with a loss, weights, objectives and a reference of ours. `guard` watches, with its defaults if None."""

    if TYPE_CHECKING:
        data_collator: Any
        precompute_ref_logps: bool
        _signature_columns: Any

    def __init__(self, model: Any, ref_model: Any = None, args: Any = None, *, guard: Guard | None = None, **more: Any):
        if not isinstance(args, config_class()):
            raise ConfigError(f"args must be a RatingDPOConfig, not {type(args).__name__}")
        data: Any = more.get("train_dataset")
        if not hasattr(data, "column_names") or not hasattr(data, "__len__"):
            raise ConfigError("train_dataset must be a datasets.Dataset: every row is looked at before training")
        self.plan = make_plan(data.column_names, loss=args.loss, gap=args.gap, where="train_dataset")
        if self.plan.imported:
            args.precompute_ref_log_probs = True
        self.ordered = "order" in data.column_names
        if self.ordered:
            if args.train_sampling_strategy not in ("random", "sequential"):
                raise ConfigError(
                    f"the rows have an order; train_sampling_strategy {args.train_sampling_strategy} breaks it"
                )
            require_order(data["order"], where="train_dataset")
            args.train_sampling_strategy = "sequential"
        self.pair_loss = bound_loss(args.loss, args.loss_settings, args.beta)
        if "pair_gap" in self.plan.terms and args.rating_scale is None:
            log.warning("rating_scale is not set: one point of the gap is taken as one Bradley-Terry logit")
        self.guard = Guard() if guard is None else guard
        self.dropped: list[Finding] = []  # why rows of the training data are not trained on
        self.dropped_eval: list[Finding] = []  # and of the evaluation data not evaluated
        self.pair_ids: list[str] = []
        self._window: Any = None
        self._seen: dict[str, list[Any]] = {"train": [], "eval": []}
        self._first_step: int | None = None  # of the window that is logged next
        self._order: OrderWatch | None = None
        self.lr_spent: dict[str, Spent] = {}  # learning-rate mass per objective, known when training begins
        super().__init__(model, ref_model, args, **more)
        if (
            self.accelerator.parallelism_config is not None
            and self.accelerator.parallelism_config.non_data_parallel_size > 1
        ):
            raise ConfigError("tensor, context and sequence parallel training are not supported; use data parallel")
        self.data_collator = PairBatch(self.data_collator, self.plan)
        if self.plan.imported and args.reference_check > 0:
            self._check_reference()

    # Rows: looked at before TRL sees them, and again as tokens; numbered, so that a pair has a name in every batch.

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        where = f"{dataset_name}_dataset"
        wanted = [*self.plan.columns, *(REFERENCE if self.plan.imported else ())]
        if lacks := [name for name in wanted if name not in (ROW, *dataset.column_names)]:
            raise ConfigError(f"{where} has no column {', '.join(lacks)}, which the training data have; add it")
        ids = pair_ids(dataset)
        if ROW in dataset.column_names:
            dataset = dataset.remove_columns(ROW)
        dataset = dataset.add_column(ROW, np.arange(len(dataset)))
        dataset = self._without(check_rows(dataset), dataset, args, where)
        self._check_terms(dataset, args, where)
        rows = dataset[ROW]
        dataset = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        kept = dataset[ROW]
        filled = [
            Finding(
                row,
                ids[row],
                "prompt",
                "prompt_fills_window",
                f"the prompt alone has max_length {args.max_length} tokens",
            )
            for row in sorted(set(rows) - set(kept))
        ]
        sides = (dataset["prompt_ids"], dataset["chosen_ids"], dataset["rejected_ids"])
        found = check_ids(*sides, rows=kept, ids=[ids[row] for row in kept], max_length=args.max_length)
        dataset = self._without([*filled, *found], dataset, args, where)
        if dataset_name == "train":
            self.pair_ids = ids
        return dataset

    def _without(self, findings: list[Finding], dataset: Any, args: Any, where: str) -> Any:
        """The data set without the rows of the findings; DataError where a finding is an error, or no row is left."""
        if args.bad_rows == "error":
            refuse(findings, where=where)
        elif findings:
            log.warning("%s: %d rows dropped, first %s", where, len({each.row for each in findings}), findings[0])
        (self.dropped if where == "train_dataset" else self.dropped_eval).extend(findings)
        bad = {finding.row for finding in findings}
        keep = [place for place, row in enumerate(dataset[ROW]) if row not in bad]
        if not keep:
            refuse([*findings, Finding(0, "", "", "no_rows", "no row is left to train on")], where=where)
        return dataset.select(keep) if len(keep) < len(dataset) else dataset

    def _check_terms(self, dataset: Any, args: Any, where: str) -> None:
        """Every pair has what the loss needs, in its domain: DataError before the first step."""
        names = [name for read in self.plan.terms.values() for name in read]
        made = read_terms({name: dataset[name] for name in names}, self.plan, where=where)
        for name in REFERENCE if self.plan.imported else ():
            made[name] = numbers(dataset[name], name, where=where)
        for key in ("pair_weight", *REFERENCE):
            if key in made and len(bad := np.flatnonzero(~np.isfinite(made[key]))):
                name, row = key.removeprefix("pair_"), dataset[ROW][int(bad[0])]
                raise DataError(
                    f"{where}: row {row}: {name} is null or not finite in {len(bad)} rows; give it a number"
                )
        weight = made.get("pair_weight", np.ones(1))
        if weight.min() < 0 or not weight.max() > 0:
            raise DataError(
                f"{where}: weights are 0 or more, and one is above 0; found {weight.min()} to {weight.max()}"
            )
        preferred = made.get("pair_objective", np.zeros(len(dataset))) == 0
        one = np.ones(int(preferred.sum()))
        given = {key: values[preferred] for key, values in made.items() if len(values) == len(preferred)}
        told = {**dict.fromkeys(RATIOS, 0 * one), **dict.fromkeys(LENGTHS, one)}
        require(args.loss, pair_terms(given, args.rating_scale, **told), **self.pair_loss.keywords)

    def _check_reference(self) -> None:
        """The imported numbers of a few pairs are the reference model's own."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            log.warning("the imported reference is not checked: the model is sharded")
            return
        rows = [self.train_dataset[place] for place in range(min(CHECKED, len(self.train_dataset)))]
        batch = self._prepare_inputs(self.data_collator(rows))
        given = [batch[name] for name in REFERENCE]
        model = self.model if self.ref_model is None else self.ref_model
        found = self.compute_ref_log_probs(model, batch)
        lengths = batch["completion_mask"].sum(dim=1).chunk(2)
        off = [((a - b).abs() / n).max().item() for a, b, n in zip(given, found, lengths, strict=True)]
        if not max(off) <= self.args.reference_check:
            raise DataError(
                f"train_dataset: ref_chosen_logps and ref_rejected_logps are {max(off):.3g} nats per token away from what "
                "the reference model of this run says: another model, template or max_length made them; make them "
                "again, or set reference_check=0 if the reference is meant to be another one"
            )

    # Batches: our columns are kept by the Trainer, and taken out before TRL and the model see the batch.

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        have = self._signature_columns
        self._signature_columns = [*have, *(name for name in self.plan.columns if name not in have)]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset if self.plan.imported else super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        with head_on_completions():
            return super().compute_ref_log_probs(model, _split(inputs)[0])

    # The learning rate of a routed run.

    @property
    def _pairs_per_step(self) -> int:
        each = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return int(each * self.accelerator.num_processes)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        batch, args = self._pairs_per_step, self.args
        routed = self.ordered and "pair_objective" in self.plan.terms
        if args.hard_stage_lr != "inherit" and not routed:
            raise ConfigError(f"hard_stage_lr = {args.hard_stage_lr} needs routed rows: columns objective and order")
        sft_I = np.array([value == "sft" for value in self.train_dataset["objective"]]) if routed else np.zeros(0, bool)
        if args.hard_stage_lr == "inherit":
            made = super().create_scheduler(num_training_steps, optimizer)
            factor_S = factors_of(made, num_training_steps)
        else:
            factor_S = staged_factor(
                sft_I, num_training_steps, batch=batch, kind=str(args.lr_scheduler_type.value),
                warmup_steps=args.get_warmup_steps(num_training_steps), hard_stage_lr=args.hard_stage_lr,
            )  # fmt: skip
            made = self.lr_scheduler = scheduler(optimizer or self.optimizer, factor_S)
            self._created_lr_scheduler = True
        if self.ordered:
            self._order = OrderWatch(self.train_dataset[ROW], batch=batch)
        if routed and stages(sft_I).any() and num_training_steps > -(-len(sft_I) // batch):
            log.warning("the order of the routed rows is gone through more than once: its last stage is not the end")
        if routed and sft_I.any() and factor_S is not None:
            self.lr_spent = lr_of_objectives(sft_I, factor_S, batch=batch)
            for line in lr_told(self.lr_spent):
                log.log(logging.WARNING if line.startswith("warning") else logging.INFO, "%s", line)
        return made

    # The loss of a window of accumulation steps, over all processes.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        if not batch_samples:
            return None
        total = sum(self._amount(batch) for batch in batch_samples)
        if self.accelerator.num_processes > 1:
            import torch

            total = self.accelerator.gather(torch.as_tensor(total, dtype=torch.float32, device=device)).sum()
        return total

    def _amount(self, batch: Mapping[str, Any]) -> Any:
        """What a batch counts for in the mean: its pairs, or their weights."""
        if self.args.weight_mean == "weights" and "pair_weight" in batch:
            return batch["pair_weight"].sum()
        return batch["input_ids"].shape[0] / 2

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._window = num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        theirs, ours = _split(inputs)
        if lacks := [key for key in self.plan.terms if key not in ours]:
            raise ConfigError(f"the batch has no {', '.join(lacks)}; keep our collator and remove_unused_columns")
        if not self.precompute_ref_logps:
            reference = self.model if self.ref_model is None else self.ref_model
            theirs |= dict(zip(REFERENCE, self.compute_ref_log_probs(reference, theirs), strict=True))
        noted = _Noted(model)
        kept, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            with head_on_completions():
                told = super()._compute_loss(noted, theirs, return_outputs)
        finally:
            self.precompute_ref_logps = kept
        loss = self._window_loss(noted.outputs, theirs, ours)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * noted.outputs.aux_loss
        return (loss, told[1]) if return_outputs else loss

    def _window_loss(self, outputs: Any, theirs: dict[str, Any], ours: dict[str, Any]) -> Any:
        mask = theirs["completion_mask"][..., 1:]
        if getattr(outputs, "log_probs", None) is None:
            raise MissingDependency(f"the model returned no log_probs: another TRL than this is written for; {INSTALL}")
        logps = outputs.log_probs[:, -mask.size(1) :].sum(dim=1).chunk(2)
        lengths = mask.sum(dim=1).to(logps[0].dtype).chunk(2)
        ratios = [logp - theirs[name] for logp, name in zip(logps, REFERENCE, strict=True)]
        told = {**dict(zip(RATIOS, ratios, strict=True)), **dict(zip(LENGTHS, (*logps, *lengths), strict=True))}
        loss_I = self._pair_losses(ours, told)
        weight_I = ours.get("pair_weight")
        total = (loss_I if weight_I is None else weight_I * loss_I).sum()
        share = self._amount({**theirs, **ours})
        if self._window is not None and self.model.training:
            share = self._window / (self.current_gradient_accumulation_steps * self.accelerator.num_processes)
        self._note(ours, ratios, lengths, loss_I)
        return total / (share.clamp_min(1e-12) if hasattr(share, "clamp_min") else share)

    def _pair_losses(self, ours: dict[str, Any], told: dict[str, Any]) -> Any:
        """One loss per pair. The preference loss of an sft pair may be nan, and is taken out with its gradient."""
        loss_I = self.pair_loss(pair_terms(ours, self.args.rating_scale, **told))
        if "pair_objective" not in ours:
            return loss_I
        preferred = ours["pair_objective"] == 0
        return loss_I.where(preferred, self.args.sft_weight * LOSSES["sft"](PairTerms(**told)))

    # What is logged, and what the guard sees.

    def _note(self, ours: dict[str, Any], ratios: list[Any], lengths: Any, loss_I: Any) -> None:
        import torch

        rows = ours.get(ROW)
        rows = torch.full_like(loss_I, -1, dtype=torch.int64) if rows is None else rows
        sft = ours.get("pair_objective", torch.zeros_like(loss_I))
        values = torch.stack([*ratios, *lengths, loss_I, sft]).detach().T
        if self.model.training and self._first_step is None:
            self._first_step = self.state.global_step
        self._seen["train" if self.model.training else "eval"].append((rows, values))

    def _take_seen(self, mode: str) -> Seen | None:
        """The pairs since the last log, of all processes."""
        import torch

        if not self._seen[mode]:
            return None
        rows = torch.cat([rows for rows, _ in self._seen[mode]])
        values = torch.cat([values for _, values in self._seen[mode]])
        self._seen[mode].clear()
        if self.accelerator.num_processes > 1:
            rows = self.accelerator.gather(self.accelerator.pad_across_processes(rows, pad_index=-2))
            values = self.accelerator.gather(self.accelerator.pad_across_processes(values))
        here = rows.cpu().numpy() > -2
        return Seen(rows.cpu().numpy()[here], *values.double().cpu().numpy()[here].T)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        seen = self._take_seen(mode)
        if seen is not None:
            start = "" if mode == "train" else "eval_"
            logs |= {f"{start}pairwright/{name}": value for name, value in seen.summary().items()}
            if mode == "train":
                if self._order is not None and self._first_step is not None:
                    self._order.check(seen.row_I, self._first_step, self.state.global_step)
                self._first_step = None
                alarms = self.guard.watch(seen, step=self.state.global_step, ids=self.pair_ids)
                logs["pairwright/alarms"] = len(alarms)
                for alarm in alarms:
                    log.warning("%s", alarm)
                self.control.should_training_stop |= bool(alarms) and self.guard.settings.action == "stop"
        super().log(logs, start_time)


def _split(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch as what TRL and the model know, and what is ours."""
    theirs = {key: value for key, value in inputs.items() if not key.startswith("pair_")}
    return theirs, {key: value for key, value in inputs.items() if key.startswith("pair_")}


@cache
def trainer_class() -> Any:
    """RatingDPOTrainer, made at its first use: TRL is imported here and nowhere earlier."""
    supported()
    from trl import DPOTrainer

    return type("RatingDPOTrainer", (_Rating, DPOTrainer), {"__module__": __name__, "__doc__": _Rating.__doc__})


def __getattr__(name: str) -> Any:
    made = {"RatingDPOTrainer": trainer_class, "RatingDPOConfig": config_class}
    if name not in made:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return made[name]()
