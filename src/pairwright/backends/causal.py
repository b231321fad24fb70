"""Log-probabilities of responses under a causal language model, with or without a PEFT adapter on the same weights.

The tokens are those of TRL's DPOTrainer (read in 1.16): the prompt is rendered with the generation prompt, prompt and
response together without; the response begins where the two part, and what stands behind `max_length` is cut off. So a
response's sum is over its turn's end as well, and equals the trainer's own reference log-probability. Sums are in nats,
each logit read in float32, added up in float64.

The responses of a prompt are computed against one prefix (`pairwright.backends.prefix`). Before the first row that is
compared with the plain computation, one sequence at a time through the whole model; where they differ, padded batches
are tried, then the plain computation is used, and `about` says so.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairwright.backends import prefix
from pairwright.backends.hf import (
    dtype_name,
    encode_texts,
    free_memory,
    is_out_of_memory,
    load_tokenizer,
    model_hash,
    needs_transformers,
    pick_device,
    quiet,
    render,
    template_hash,
    where,
)
from pairwright.backends.prefix import Group, Tokens, to_tokens
from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Answered, LogProb

DTYPES = ("auto", "float32", "bfloat16", "float16")
METHODS = ("shared", "padded", "plain")
TOLERANCE = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.2}  # mean nats per token; seen: 4e-6, -, 0.05
FAULTS = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
SORTED = 8  # padded batches sorted by length at a time
SMALLEST = 256  # tokens per batch, below which running out of memory lowers the budget no further
LOGITS = {"cpu": 2**24}  # that are held at a time
LOGITS_ELSEWHERE = 2**27

Told = list[list[NDArray[np.float64] | str]]  # log-probability of each token, or why not: by group and branch


@dataclass(frozen=True, slots=True)
class CausalSettings:
    """`adapter` is a PEFT folder; dtype auto is the checkpoint's own; `batch_tokens` are computed at a time."""

    model: str
    adapter: str | None = None
    dtype: str = "auto"
    device: str = "auto"  # cuda where there is one
    max_length: int = 1024  # tokens of prompt and response, as DPOConfig.max_length
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype = {self.dtype!r}; known: {', '.join(DTYPES)}")
        for name in ("max_length", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} cannot be: it counts from 1")
        if self.adapter is not None and not (Path(self.adapter).expanduser() / "adapter_config.json").is_file():
            raise ConfigError(f"adapter {self.adapter!r} is not a PEFT folder: it has no adapter_config.json")


class CausalLM:
    """Weights in memory once, and LogProbs of them: the model's own, and with an adapter those of the policy.

    `method` other than auto skips the comparison and is for measuring. `about` is what the manifest says.
    """

    def __init__(self, settings: CausalSettings, *, method: str = "auto") -> None:
        if method not in ("auto", *METHODS):
            raise ConfigError(f"method = {method!r}; known: auto, {', '.join(METHODS)}")
        needs_transformers()
        import torch

        self.settings = settings
        adapter = settings.adapter and str(Path(settings.adapter).expanduser())
        held = adapter and any((Path(adapter) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        self.tokenizer = load_tokenizer(str(adapter) if held else settings.model)
        self.device = torch.device(pick_device(settings.device))
        self.model = _load(settings, self.device)
        self.dtype = dtype_name(self.model.dtype)
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and settings.max_length > longest:
            raise ConfigError(f"max_length = {settings.max_length}: {settings.model} reads {longest} tokens at most")
        self.adapted = _adapt(self.model, adapter) if adapter else None
        self.template_hash = template_hash(self.tokenizer, f"max_length={settings.max_length}", "keep_start")
        self.tolerance = TOLERANCE.get(self.dtype, TOLERANCE["float32"])
        self.counts: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self.budget = settings.batch_tokens
        self._usual_attention = self.model.config._attn_implementation
        self._method = ""
        self._compared: dict[str, float] = {}
        if method != "auto":
            self._use(method)

    @property
    def about(self) -> Mapping[str, object]:
        """How the numbers came about: method, how far it was from the plain one, precision, what was seen on the way."""
        return {
            "method": self._method or "not chosen yet",
            "off_plain_nats_per_token": dict(self._compared),
            "tolerance_nats_per_token": self.tolerance,
            "dtype": self.dtype,
            "device": self.device.type,
            "max_length": self.settings.max_length,
            "batch_tokens": self.budget,
            "seen": dict(self.counts),
            "notes": dict(self.notes),
        }

    def logprobs(self) -> "CausalLogProbs":
        """Of the model itself, without an adapter."""
        return CausalLogProbs(self, adapter=False)

    def reference(self) -> "CausalLogProbs":
        """The same where there is an adapter: adapter off."""
        self._needs_adapter("reference")
        return self.logprobs()

    def policy(self) -> "CausalLogProbs":
        """Adapter on."""
        self._needs_adapter("policy")
        return CausalLogProbs(self, adapter=True)

    def _needs_adapter(self, what: str) -> None:
        if self.adapted is None:
            raise ConfigError(f"{self.settings.model} has no adapter, so no {what}: name one, or ask for logprobs()")

    def note(self, code: str, text: str) -> None:
        """Counts an observation; the first one is told in full."""
        self.counts[code] += 1
        self.notes.setdefault(code, text)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def tokens(self, ask: Answered) -> Tokens | str:
        """The prompt's responses as tokens, or why its template refuses it."""
        from jinja2.exceptions import TemplateError

        said = [[*ask.messages, {"role": "assistant", "content": text}] for text in ask.responses]
        try:
            texts = [render(self.tokenizer, ask.messages, add_generation_prompt=True)]
            texts += [render(self.tokenizer, messages) for messages in said]
        except TemplateError as error:
            return f"template_refused: {error}"
        prompt, *full_R = encode_texts(self.tokenizer, texts)
        made = to_tokens(prompt, full_R, self.settings.max_length)
        for place, start in enumerate(made.start):
            if start < len(prompt):
                left_out = self.tokenizer.decode(prompt[start:])
                self.note(
                    "prompt_not_prefix",
                    f"prompt {ask.key}, response {place}: rendered with its response the prompt loses {left_out!r}; the "
                    "response begins before it, as in TRL",
                )
        if len(set(made.start)) > 1:
            self.note(
                "starts_differ",
                f"prompt {ask.key}: its responses begin at different tokens ({min(made.start)} to {max(made.start)}); TRL "
                "begins both sides of a pair at the earlier one, so its sums may hold tokens that these do not",
            )
        return made

    # -- the computation ----------------------------------------------------------------------------------------------

    def score(self, groups: Sequence[Group], *, adapter: bool) -> Told:
        """Log-probability of each response token (nats), by group and branch; chooses the method at the first call."""
        if not self._method:
            self._choose(groups, adapter)
        return self._backed_off(groups, adapter)

    def _choose(self, groups: Sequence[Group], adapter: bool) -> None:
        """The fastest method that agrees with the plain one on the first and the longest prompt."""
        sample = _sample(groups)
        self._use("plain")
        true = self._run(sample, adapter, self.budget)
        for method in METHODS[:2]:
            try:
                self._use(method)
                budgets = [self.budget, 1] if method == "shared" else [self.budget]  # 1: every branch a pack of its own
                off = max(_off(self._run(sample, adapter, budget), true) for budget in budgets)
            except FAULTS as error:
                if is_out_of_memory(error):
                    raise
                self.note(f"not_{method}", f"{type(error).__name__}: {error}")
                continue
            self._compared[method] = off
            if off <= self.tolerance:
                return
            self.note(f"not_{method}", f"{off:.2g} nats per token off the plain computation")
        self._use("plain")

    def _use(self, method: str) -> None:
        if method == "shared":
            from transformers import AttentionInterface

            AttentionInterface.register(prefix.NAME, prefix.attention)
            if (kind := _length_dependent(self.model.config)) is not None:
                raise ValueError(f"{kind} depends on the longest sequence of a batch")
        self.model.set_attn_implementation(prefix.NAME if method == "shared" else self._usual_attention)
        if method == "shared" and self.model.config._attn_implementation != prefix.NAME:
            raise ValueError(f"{type(self.model).__name__} does not let its attention be set")
        self._method = method

    def _backed_off(self, groups: Sequence[Group], adapter: bool) -> Told:
        """Halves the work where memory runs out, down to one response; that one is a reason."""
        try:
            return self._run(groups, adapter, self.budget)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free_memory()
        self.budget = max(min(SMALLEST, self.budget), self.budget // 2)
        self.note("out_of_memory", f"batch_tokens was lowered from {self.settings.batch_tokens}")
        if len(groups) > 1:
            half = len(groups) // 2
            return self._backed_off(groups[:half], adapter) + self._backed_off(groups[half:], adapter)
        [group] = groups
        if (half := len(group.branches) // 2) == 0:
            return [["out_of_memory"]]
        sides = (group.branches[:half], group.branches[half:])
        return [[each for side in sides for each in self._backed_off([Group(group.prefix, side)], adapter)[0]]]

    def _run(self, groups: Sequence[Group], adapter: bool, budget: int) -> Told:
        import torch

        told: Told = [[""] * len(group.branches) for group in groups]
        bare = contextlib.nullcontext() if adapter or self.adapted is None else self.adapted.disable_adapter()
        with torch.inference_mode(), bare:
            match self._method:
                case "shared":
                    found = self._shared(groups, budget)
                case "padded":
                    found = self._padded(groups, budget)
                case _:
                    found = self._plain(groups)
            for group, branch, logp_T in found:
                told[group][branch] = logp_T
        return told

    def _shared(self, groups: Sequence[Group], budget: int) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        import torch

        kept: dict[int, tuple[Any, Any]] = {}
        for slots in prefix.plan(groups, budget):
            pack = prefix.lay_out(groups, slots, kept, self.device)
            hidden = self.model.base_model(
                input_ids=self._tensor([pack.ids_T]),
                position_ids=self._tensor([pack.position_T]),
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),  # ours knows better
                use_cache=False,
                pack=pack,
            ).last_hidden_state[0]
            logp_I = self._read(hidden[self._tensor(pack.read_I)], pack.target_I)
            ends = np.cumsum([n for *_, n in pack.counts])[:-1]
            for (group, branch, _), logp_T in zip(pack.counts, np.split(logp_I, ends), strict=True):
                yield group, branch, logp_T

    def _padded(self, groups: Sequence[Group], budget: int) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """Whole sequences, sorted by length, padded at the end."""
        rows = [(g, b, [*group.prefix, *branch.ids], len(group.prefix) + branch.skip)
                for g, group in enumerate(groups) for b, branch in enumerate(group.branches)]  # fmt: skip
        rows.sort(key=lambda row: len(row[2]), reverse=True)
        while rows:
            longest = len(rows[0][2])
            batch, rows = rows[: max(1, budget // longest)], rows[max(1, budget // longest) :]
            ids = self._tensor([row[2] + [0] * (longest - len(row[2])) for row in batch])
            mask = self._tensor([[1] * len(row[2]) + [0] * (longest - len(row[2])) for row in batch])
            hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            for at, (group, branch, whole, first) in enumerate(batch):
                yield group, branch, self._read(hidden[at, first : len(whole) - 1], whole[first + 1 :])

    def _plain(self, groups: Sequence[Group]) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
        """The definition: one sequence at a time through the whole model."""
        for g, group in enumerate(groups):
            for b, branch in enumerate(group.branches):
                whole, first = [*group.prefix, *branch.ids], len(group.prefix) + branch.skip
                logits_T = self.model(input_ids=self._tensor([whole]), use_cache=False).logits[0, first:-1]
                yield g, b, _chosen(logits_T, self._tensor(whole[first + 1 :]))

    def _read(self, hidden_I: Any, target_I: Sequence[int]) -> NDArray[np.float64]:
        """Log-probability of each target, the head applied to a few states at a time.

        The model's own forward turns states into logits, so that its scalings and soft caps are in them: its body is
        stood in for by one that returns the states.
        """
        body = self.model.base_model_prefix
        kept = getattr(self.model, body)
        words = self.model.get_output_embeddings().weight.shape[0]
        size = max(1, LOGITS.get(self.device.type, LOGITS_ELSEWHERE) // words)
        target = self._tensor(target_I)
        stand_in = _stand_in()
        setattr(self.model, body, stand_in)
        found = []
        try:
            for at in range(0, len(target_I), size):
                stand_in.states = hidden_I[None, at : at + size]
                logits = self.model(input_ids=target[None, at : at + size], use_cache=False).logits[0]
                found.append(_chosen(logits, target[at : at + size]))
        finally:
            setattr(self.model, body, kept)
        return np.concatenate(found)

    def _tensor(self, values: Sequence[Any]) -> Any:
        import torch

        return torch.tensor(values, dtype=torch.long, device=self.device)


class CausalLogProbs:
    """LogProbs of one of the models that a CausalLM holds."""

    def __init__(self, held: CausalLM, *, adapter: bool) -> None:
        settings = held.settings
        self._held, self._adapter = held, adapter
        self.model = settings.model + (f" + {settings.adapter}" if adapter else "")
        more = [f"adapter={model_hash(str(settings.adapter))}"] if adapter else []
        self.model_hash = model_hash(settings.model, held.dtype, *more)
        self.template_hash = held.template_hash

    @property
    def about(self) -> Mapping[str, object]:
        return self._held.about

    def __call__(self, prompts: Sequence[Answered], /) -> Iterator[LogProb]:
        waiting: list[tuple[Answered, Tokens]] = []
        cost = 0
        for ask in prompts:
            made = self._held.tokens(ask)
            if isinstance(made, str):
                yield from (LogProb(ask.key, place, None, 0, reason=made) for place in range(len(ask.responses)))
                continue
            room = self._held.budget * (1 if self._held._method == "shared" else SORTED)
            if waiting and cost + made.group.cost > room:
                yield from self._answers(waiting)
                waiting, cost = [], 0
            waiting.append((ask, made))
            cost += made.group.cost
        if waiting:
            yield from self._answers(waiting)

    def _answers(self, waiting: Sequence[tuple[Answered, Tokens]]) -> Iterator[LogProb]:
        computed = [made.group for _, made in waiting if made.group.branches]
        told = iter(self._held.score(computed, adapter=self._adapter) if computed else [])
        for ask, made in waiting:
            logp_B = next(told) if made.group.branches else []
            for place, branch in enumerate(made.branch):
                yield _answer(ask.key, place, branch, made, logp_B)


def _answer(
    key: int, place: int, branch: int | str, made: Tokens, logp_B: Sequence[NDArray[np.float64] | str]
) -> LogProb:
    cut = made.truncated[place]
    if isinstance(branch, str):
        return LogProb(key, place, None, 0, cut, branch)
    n_tokens, logp_T = made.group.branches[branch].n_tokens, logp_B[branch]
    if isinstance(logp_T, str):
        return LogProb(key, place, None, n_tokens, cut, logp_T)
    total = float(logp_T.sum())
    if not np.isfinite(total):
        return LogProb(key, place, None, n_tokens, cut, f"logp_not_finite: {total}")
    return LogProb(key, place, total, n_tokens, cut)


def _load(settings: CausalSettings, device: Any) -> Any:
    from transformers import AutoModelForCausalLM

    source, more = where(settings.model)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=settings.dtype, **more)
    except (OSError, ValueError) as error:
        raise BackendError(f"model {settings.model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    return model.to(device).eval()


def _adapt(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependency('peft is not installed; run: pip install "pairwright[train]"') from error
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(f"adapter {adapter!r} does not go with its model: {str(error).splitlines()[0]}") from error
    if any(each.is_prompt_learning for each in adapted.peft_config.values()):
        raise ConfigError(f"adapter {adapter!r} learns a prompt, not weights; log-probabilities are of weights alone")
    return adapted.eval()


def _sample(groups: Sequence[Group]) -> list[Group]:
    """The first group and the longest, with their shortest and their longest branch."""
    picked = [groups[0]]
    if (widest := max(groups, key=lambda g: len(g.prefix) + max(b.cost for b in g.branches))) is not groups[0]:
        picked.append(widest)
    sample = []
    for group in picked:
        branches = sorted(group.branches, key=lambda branch: branch.cost)
        sample.append(Group(group.prefix, tuple(branches[:1] + branches[1:][-1:])))
    return sample


def _off(told: Told, true: Told) -> float:
    """The largest mean distance per token of any branch, in nats; inf where one is not a number."""
    off = [
        float(np.abs(a - b).mean())
        for got, want in zip(told, true, strict=True)
        for a, b in zip(got, want, strict=True)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    ]
    return max(value if np.isfinite(value) else np.inf for value in off)


def _chosen(logits_I: Any, target_I: Any) -> NDArray[np.float64]:
    """log softmax of the targets alone, in float32 or wider: logit - logsumexp."""
    import torch

    logits_I = logits_I.to(torch.promote_types(logits_I.dtype, torch.float32))
    chosen = logits_I.gather(-1, target_I[:, None])[:, 0] - logits_I.logsumexp(-1)
    return np.asarray(chosen.double().cpu().numpy(), np.float64)


def _length_dependent(config: Any) -> str | None:
    """Rotary scalings that look at the longest position of a batch."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)]
    kinds = {str(each.get("rope_type", "")) for each in [rope, *nested]}
    return next((kind for kind in sorted(kinds) if kind in ("dynamic", "longrope")), None)


def _stand_in() -> Any:
    import torch

    class StandIn(torch.nn.Module):
        """Returns the states it was given as the body's output; whatever else is asked of that output is None."""

        states: Any = None

        def forward(self, *_: Any, **__: Any) -> Any:
            return _Output(self.states)

    return StandIn()


class _Output:
    def __init__(self, states: Any) -> None:
        self.last_hidden_state = states

    def __getitem__(self, at: int) -> Any:
        return (self.last_hidden_state,)[at]

    def __getattr__(self, name: str) -> None:
        return None
