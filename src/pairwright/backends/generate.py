"""Sampling from a transformers model in this process: the one that is trained, with its adapter.

For a policy that has just been trained, and for checks on a small machine; a server (backend openai) is faster for many
draws. The adapter is merged into the weights before the first draw. Calls are drawn in batches of whole calls, under
the seed of the first call of each batch.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pairwright.backends.hf import (
    DTYPES,
    encode,
    free_memory,
    is_out_of_memory,
    load_tokenizer,
    model_hash,
    needs_transformers,
    pick_device,
    quiet,
    where,
)
from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Ask, Decoding, Drawn

SEQUENCES = 64  # drawn at the same time


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model and the PEFT adapter on it, if any; dtype auto is bfloat16 where the machine computes in it, else float32."""

    model: str
    adapter: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype = {self.dtype!r}; known: {', '.join(DTYPES)}")


def local_model(name: str) -> LocalModel:
    """A folder, a .gguf file, a name of the hub, or a PEFT folder, whose configuration names its base model."""
    config = Path(name).expanduser() / "adapter_config.json"
    if not config.is_file():
        return LocalModel(name)
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(
            f"the adapter {name} does not name its base model; write base_model_name_or_path into {config}"
        )
    return LocalModel(str(base), name)


def fingerprint(held: LocalModel) -> str:
    """16 hex digits over the weights of model and adapter."""
    return model_hash(held.model, *([f"adapter={model_hash(held.adapter)}"] if held.adapter else []))


class TransformersSampler:
    """Draws with `generate`. `model` in words is the adapter, where there is one."""

    redraw = (
        "the same calls in the same order give the same texts on one machine; a call drawn alone need not: a batch shares "
        "one stream of random numbers"
    )

    def __init__(self, held: LocalModel) -> None:
        needs_transformers()
        import torch

        self.model = held.adapter or held.model
        self.fingerprint = fingerprint(held)
        self.device = torch.device(pick_device(held.device))
        self._tokenizer = load_tokenizer(held.model)
        self._model = load_merged(held, _computed_in(held.dtype, self.device)).to(self.device).eval()
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._model.generation_config = _plain_generation()  # a checkpoint's own may cut or bend what is drawn
        longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        self.context = longest or 2**31
        self._most = SEQUENCES

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        if decoding.temperature == 0 and any(ask.n > 1 for ask in asks):
            raise ConfigError("temperature 0 draws the same text every time; ask for n: 1 or raise the temperature")
        fit = []
        for ask in asks:
            ids = encode(self._tokenizer, ask.messages, add_generation_prompt=True)
            if len(ids) + decoding.max_tokens > self.context:
                why = f"prompt_too_long: {len(ids)} tokens + max_tokens {decoding.max_tokens} > {self.context}"
                yield from (Drawn(ask.key, draw, None, None, None, why) for draw in range(ask.n))
            else:
                fit.append((ask, ids))
        for batch in batches(fit, self._most):
            yield from self._drawn(batch, decoding)

    def _drawn(self, batch: list[tuple[Ask, list[int]]], decoding: Decoding) -> Iterator[Drawn]:
        """One batch; in halves where it does not fit into memory."""
        try:
            rows = self._generate(batch, decoding)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            if len(batch) == 1 and batch[0][0].n == 1:
                yield Drawn(batch[0][0].key, 0, None, None, None, "out_of_memory")
                return
            self._most = max(1, self._most // 2)
            for part in halves(batch):
                yield from self._drawn(part, decoding)
            return
        names = [(ask.key, draw) for ask, _ in batch for draw in range(ask.n)]
        for (key, draw), ids in zip(names, rows, strict=True):
            ended = bool(ids) and ids[-1] in self._ends
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            yield Drawn(key, draw, text, "stop" if ended else "length", len(ids))

    def _generate(self, batch: list[tuple[Ask, list[int]]], decoding: Decoding) -> list[list[int]]:
        """The new tokens of each sequence, up to its end."""
        import torch

        longest = max(len(ids) for _, ids in batch)
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        rows = [ids for ask, ids in batch for _ in range(ask.n)]
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        drawing: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if decoding.temperature > 0:
            drawing = {
                "do_sample": True, "temperature": decoding.temperature, "top_k": decoding.top_k,
                "top_p": decoding.top_p if decoding.top_p < 1 else None,
            }  # fmt: skip
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(batch[0][0].seed)
            made = self._model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=decoding.max_tokens, pad_token_id=pad,
                eos_token_id=sorted(self._ends), **drawing,
            )  # fmt: skip
        return [until_end(row, self._ends) for row in made[:, longest:].tolist()]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    held = ends if isinstance(ends, list) else [ends]
    return {int(each) for each in [*held, tokenizer.eos_token_id] if each is not None}


def _plain_generation() -> Any:
    from transformers import GenerationConfig

    return GenerationConfig()


def until_end(ids: Sequence[int], ends: set[int]) -> list[int]:
    """Tokens up to the first end token, which is kept: what stands behind it is padding."""
    for place, each in enumerate(ids):
        if each in ends:
            return list(ids[: place + 1])
    return list(ids)


def batches(fit: Sequence[tuple[Ask, list[int]]], most: int) -> Iterator[list[tuple[Ask, list[int]]]]:
    """Whole calls, in order, of at most `most` sequences together; a larger call is a batch alone."""
    held: list[int] = []
    at = total = 0
    for ask, _ in fit:
        if total and total + ask.n > most:
            at, total = at + 1, 0
        total += ask.n
        held.append(at)
    for _, group in groupby(zip(held, fit, strict=True), key=lambda each: each[0]):
        yield [each for _, each in group]


def halves(batch: list[tuple[Ask, list[int]]]) -> list[list[tuple[Ask, list[int]]]]:
    """Two batches of whole calls; BackendError where one call alone is too much."""
    if len(batch) > 1:
        return [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    raise BackendError(f"{batch[0][0].n} responses to one prompt do not fit into memory; lower sample.n or max_tokens")


def load_merged(held: LocalModel, dtype: str) -> Any:
    """The weights on the CPU, the adapter merged into them."""
    from transformers import AutoModelForCausalLM

    source, more = where(held.model)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **more)
            return _adapted(model, held.adapter) if held.adapter else model
    except (OSError, ValueError) as error:
        raise BackendError(f"model {held.model!r} cannot be loaded: {str(error).splitlines()[0]}") from error


def _computed_in(dtype: str, device: Any) -> str:
    """bfloat16 where the machine has instructions for it: elsewhere it is several times slower than float32."""
    import torch

    if dtype != "auto":
        return dtype
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bfloat16" if device.type == "cuda" or tiles() else "float32"


def _adapted(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingDependency('peft is not installed; run: pip install "pairwright[train]"') from error
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()
