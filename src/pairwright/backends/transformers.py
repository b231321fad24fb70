"""Reward models in process: any sequence classifier of transformers, with its own tokenizer's chat template.

Texts are sorted by length and scored in batches of at most `batch_tokens` tokens, padding included, padded on the right
and masked; the same text is scored once. Little padding is computed: on a CPU it costs as much as text does (24 rows of
60 to 400 tokens in one batch took 1.8 times as long as without). A text that is too long is null, never cut. Raw logits
are kept; of a decoder with a linear head the last attended token is read, and the head is computed in float32 whatever
the body runs in.

Before the first score the model is put through `selftest`; a model that fails it is refused.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pairwright.backends import hf, selftest
from pairwright.backends.selftest import Finding, Probe, Readout, Special
from pairwright.core.segments import Floats, Ints
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Item, Message, Scored

WINDOW = 8192  # texts that are held as tokens and sorted together
LEAST_FULL = 0.9  # a text shorter than this share of the longest waits for the next batch: padding is computed too

Tokens = NDArray[np.int32]
Forward = Callable[[Any, Any], Any]  # ids and mask as tensors (B, T) -> float32 logits (B, H)


@dataclass(frozen=True, slots=True)
class RewardModelSettings:
    """`model` is a folder or a hub name; `heads` names the outputs of a model with several.

    `readout`: last_attended reads the last token of the text, model leaves it to the model's own code, auto is
    last_attended where the model is a decoder with a linear head. `max_length` null is the model's own limit.
    """

    model: str
    batch_tokens: int = 16_384
    max_length: int | None = None
    dtype: hf.Dtype = "auto"
    device: str = "auto"
    heads: tuple[str, ...] | None = None
    readout: Readout = "auto"
    allow_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} = {value} cannot be: it counts from 1")
        for name, value, known in (("dtype", self.dtype, hf.DTYPES), ("readout", self.readout, get_args(Readout))):
            if value not in known:
                raise ConfigError(f"{name} = {value!r} is unknown; known: {', '.join(known)}")
        if self.heads is not None and (not self.heads or "" in self.heads or len(set(self.heads)) < len(self.heads)):
            raise ConfigError(f"heads = {list(self.heads)}: every output needs a name of its own, none empty")


class TransformersReward:
    """A sequence classifier as a `RewardModel`. Loading it runs the self-test.

    BackendError when the self-test finds what changes scores (`allow_variant` scores all the same and puts it on
    record) or when the model cannot be loaded; ConfigError when several outputs have no names.
    """

    def __init__(self, settings: RewardModelSettings, *, allow_variant: bool = False) -> None:
        hf.needs_transformers()
        self.settings = settings
        self._tokenizer = hf.load_tokenizer(settings.model, allow_remote_code=settings.allow_remote_code)
        self._model, untrained = load(settings)
        self._special = special_tokens(self._tokenizer, self._model)
        self.readout: Readout = settings.readout
        if settings.readout == "auto":
            self.readout = "last_attended" if linear_head(self._model) is not None else "model"
        self._pad = padding(self._special, self._model, self.readout)
        self.max_length = length_limit(settings.max_length, self._model, self._shortest())
        self._vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        self.heads: tuple[str, ...] = head_names(settings, self._model, self._probes()[0].ids)
        self._forward = forward_of(self._model, self.readout, self.heads)
        test = self._prove(untrained)
        selftest.refuse(test, settings.model, allow_variant=allow_variant)
        dtype, template = hf.dtype_name(self._model.dtype), hf.template_hash(self._tokenizer)
        decides = [dtype, *self.heads, self.readout, str(self.max_length), template]
        self.fingerprint = hf.model_hash(settings.model, "reward", *decides)
        self.about: Mapping[str, object] = {
            **asdict(settings),
            "dtype": dtype,
            "head_dtype": "float32" if self.readout == "last_attended" else dtype,
            "device": str(self._model.device),
            "heads": list(self.heads),
            "readout": self.readout,
            "max_length": self.max_length,
            "padding": {"token": self._pad, "side": "right", **self._special._asdict()},
            "template": template,
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "allow_variant": allow_variant,
            "self_test": test.told(),
        }
        self.self_test = test

    def __call__(self, items: Sequence[Item], /) -> Iterator[Scored]:
        for first in range(0, len(items), WINDOW):
            yield from self._window(items[first : first + WINDOW])

    def encode(self, conversations: Sequence[tuple[Sequence[Message], str]]) -> list[list[int] | str]:
        """Token ids of prompt and response, or the reason why the template refuses the conversation."""
        from jinja2 import TemplateError

        texts: list[str] = []
        told: list[int | str] = []
        for messages, response in conversations:
            try:
                texts.append(hf.render(self._tokenizer, [*messages, {"role": "assistant", "content": response}]))
                told.append(len(texts) - 1)
            except TemplateError as error:
                told.append(f"template_failed: {str(error)[:200]}")
        ids = hf.encode_texts(self._tokenizer, texts)
        return [each if isinstance(each, str) else ids[each] for each in told]

    def _window(self, items: Sequence[Item]) -> Iterator[Scored]:
        """Score some items; equal texts are scored once, so that they cannot differ in the last digit."""
        keys_of: dict[bytes, list[int]] = {}
        for item, ids in zip(items, self.encode([(item.messages, item.response) for item in items]), strict=True):
            if reason := self._unfit(ids):
                yield Scored(item.key, {}, reason)
            else:
                keys_of.setdefault(np.array(ids, np.int32).tobytes(), []).append(item.key)
        rows = [np.frombuffer(text, np.int32) for text in keys_of]
        keys = list(keys_of.values())
        for batch, logits in self._batches(rows):
            for at, i in enumerate(batch):
                yield from (self._scored(key, rows[i], None if logits is None else logits[at]) for key in keys[i])

    def _unfit(self, ids: list[int] | str) -> str | None:
        if isinstance(ids, str):
            return ids
        if not ids:
            return "empty_text"
        if len(ids) > self.max_length:
            return f"too_long: {len(ids)} tokens > {self.max_length}"
        if max(ids) >= self._vocabulary:
            return f"token_unknown_to_model: {max(ids)} of {self._vocabulary}"
        return None

    def _scored(self, key: int, ids: Tokens, logits: Floats | None) -> Scored:
        if logits is None:
            return Scored(key, {}, f"out_of_memory: {len(ids)} tokens alone")
        if not np.isfinite(logits).all():
            return Scored(key, {}, "score_not_finite")
        return Scored(key, dict(zip(self.heads, map(float, logits), strict=True)))

    def _batches(self, rows: Sequence[Tokens]) -> Iterator[tuple[list[int], Floats | None]]:
        """Batches of row numbers, longest texts first, with their logits; None for a text that does not fit alone.

        A batch that runs out of memory is tried again as its first half, and the batches after it keep to that size.
        """
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        budget, at = self.settings.batch_tokens, 0
        while at < len(order):
            longest = len(rows[order[at]])
            fits = order[at : at + max(1, budget // longest)]
            batch = [i for i in fits if len(rows[i]) >= LEAST_FULL * longest]
            logits = self._attempt([rows[i] for i in batch])
            if logits is None:
                hf.free_memory()
                if len(batch) > 1:
                    budget = len(batch) // 2 * longest
                    continue
            at += len(batch)
            yield batch, logits

    def _attempt(self, rows: Sequence[Tokens]) -> Floats | None:
        """Logits (B, H), or None when memory ran out; the error, and the tensors it holds, are gone on return."""
        ids_BT, mask_BT = selftest.padded(rows, width=max(map(len, rows)), pad=self._pad)
        try:
            return self._logits(ids_BT, mask_BT)
        except (RuntimeError, MemoryError) as error:
            if not hf.is_out_of_memory(error):
                raise
            return None

    def _logits(self, ids_BT: Ints, mask_BT: Ints) -> Floats:
        return _as_numpy(self._forward, self._model.device, ids_BT, mask_BT)

    def _prove(self, untrained: Sequence[str]) -> selftest.SelfTest:
        if hf.dtype_name(self._model.dtype) not in selftest.TOLERANCE:
            raise BackendError(f"model {self.settings.model!r} is {self._model.dtype}; set dtype to one of {hf.DTYPES}")
        decoder = linear_head(self._model) is not None
        own = partial(_as_numpy, forward_of(self._model, "model", self.heads), self._model.device)
        other = own if self.readout == "last_attended" else None
        dtype = hf.dtype_name(self._model.dtype)
        options = selftest.Options(self.heads, dtype, self.settings.readout, decoder, other)
        if not decoder and self._special.pad is None:  # encoders read where their code says: any id will do
            options = options._replace(readout="last_attended")
        test = selftest.self_test(self._logits, self._probes(), self._special, options)
        if not untrained:
            return test
        said = f"the checkpoint has no weights for {', '.join(untrained)}: they are random, and so are the scores"
        return replace(test, findings=(Finding("untrained_head", said, True), *test.findings))

    def _shortest(self) -> list[int]:
        """The shortest text of the self-test, without what may be taken for padding; empty where the template fails."""
        rows = int(self._model.get_input_embeddings().weight.shape[0])
        encoded = self.encode(list(probe_texts("").values()))
        shortest = min((ids for ids in encoded if not isinstance(ids, str)), key=len, default=[])
        return [token for token in shortest if token < rows and token != self._pad]

    def _probes(self) -> list[Probe]:
        """The fixed texts that the template takes and the model can hold, padded with some more."""
        conversations = probe_texts(self._tokenizer.eos_token or "")
        room = self.max_length - selftest.EXTRA
        encoded = self.encode(list(conversations.values()))
        probes = [
            Probe(name, ids)
            for name, ids in zip(conversations, encoded, strict=True)
            if not self._unfit(ids) and len(ids) <= room and not isinstance(ids, str)
        ]
        if len(probes) < 2:
            why = next((ids for ids in encoded if isinstance(ids, str)), f"max_length is {self.max_length}")
            raise BackendError(f"the self-test of {self.settings.model!r} has no texts to score: {why}")
        return probes


def probe_texts(eos: str) -> dict[str, tuple[list[Message], str]]:
    """Conversations of the self-test: short, long, right and wrong, several turns, one that says the EOS token."""
    ask = [{"role": "user", "content": "What is two plus two?"}]
    story = "The ship left the harbour before dawn, and nobody on the quay saw which way it turned. "
    turns = [
        {"role": "user", "content": "I am looking for a present for my sister."},
        {"role": "assistant", "content": "What does she like?"},
        {"role": "user", "content": "Books about birds."},
    ]
    return {
        "short": ([{"role": "user", "content": "Hi"}], "Hello."),
        "right": (ask, "Two plus two is four."),
        "wrong": (ask, "Two plus two is five, as everybody knows, because five is more than four."),
        "long": ([{"role": "user", "content": "Tell me a story about a ship."}], story * 8),
        "turns": (turns, "Then a field guide to the birds of her country would be a good choice."),
        "eos": (ask, f"Four.{eos}"),
    }


def load(settings: RewardModelSettings) -> tuple[Any, list[str]]:
    """The model on its device, ready to score, and the weights that its checkpoint lacks."""
    import torch
    from transformers import AutoModelForSequenceClassification

    source, more = hf.where(settings.model)
    if not more and any(path.name == "adapter_config.json" for path in hf.files(settings.model)):
        raise ConfigError(f"model {settings.model!r} is an adapter; merge it into its model and name that folder")
    dtype = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        with hf.quiet():
            model, told = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=dtype, output_loading_info=True, trust_remote_code=settings.allow_remote_code, **more
            )
    except (OSError, ValueError, KeyError) as error:
        hint = "; allow_remote_code runs the code that comes with it" if "trust_remote_code" in str(error) else ""
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackendError(f"model {settings.model!r} cannot be loaded: {first}{hint}") from error
    lacks = {*told["missing_keys"], *(key for key, *_ in told.get("mismatched_keys", ()))}
    return model.to(hf.pick_device(settings.device)).eval(), sorted(lacks)


def linear_head(model: Any) -> Any | None:
    """The head of a decoder of transformers itself (`score`, one linear layer), None of any other model."""
    import torch

    head = getattr(model, "score", None)
    known = type(model).__module__.startswith("transformers.models.")
    return head if known and isinstance(head, torch.nn.Linear) else None


def head_names(settings: RewardModelSettings, model: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Names of the outputs: those of the settings, else those of the configuration that are not LABEL_0, LABEL_1 ...

    A model with an output object of its own has `score`, which is the nameless head, and `rewards`, which `heads` names;
    `ids` is a text to see that on.
    """
    import torch

    if not type(model).__module__.startswith("transformers."):
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids], device=model.device))
        if getattr(output, "score", None) is not None:
            return ("", *(settings.heads or ()))
        if getattr(output, "rewards", None) is not None:
            return settings.heads or _unnamed(settings, output.rewards.shape[-1])
    outputs = int(model.config.num_labels)
    if settings.heads is not None:
        if len(settings.heads) != outputs:
            raise ConfigError(
                f"heads = {list(settings.heads)}, but {settings.model!r} has {outputs} outputs: name each"
            )
        return settings.heads
    if outputs == 1:
        return ("",)
    named = tuple(str(model.config.id2label.get(i, f"LABEL_{i}")) for i in range(outputs))
    if any(name == f"LABEL_{i}" for i, name in enumerate(named)) or len(set(named)) < outputs:
        return _unnamed(settings, outputs)
    return named


def _unnamed(settings: RewardModelSettings, outputs: int) -> tuple[str, ...]:
    if outputs == 1:
        return ("",)
    raise ConfigError(
        f"head_not_named: {settings.model!r} has {outputs} outputs and its configuration names none; say which is which: "
        f"heads: [{', '.join(f'name{i}' for i in range(outputs))}]"
    )


def special_tokens(tokenizer: Any, model: Any) -> Special:
    """What pads, ends and begins. A padding token that the model has no row for is none.

    The model's own padding token goes before the tokenizer's: its read-out looks for it.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    own = model.config.get_text_config().pad_token_id
    pad = next((each for each in (own, tokenizer.pad_token_id) if each is not None and 0 <= each < rows), None)
    return Special(pad, tokenizer.eos_token_id, tokenizer.bos_token_id)


def padding(special: Special, model: Any, readout: Readout) -> int:
    """The token that fills; a model that is to use its own rule is told which one it is, where it does not know."""
    config = model.config.get_text_config()
    if readout == "model" and config.pad_token_id is None and linear_head(model) is not None:
        if special.pad is None:
            raise BackendError(
                "missing_pad_token: the model's own rule looks for a padding token, and neither configuration nor "
                "tokenizer names one; readout: last_attended does without"
            )
        config.pad_token_id = special.pad
    return selftest.fill(special)


def length_limit(wanted: int | None, model: Any, ids: Sequence[int]) -> int:
    """The longest text that is scored; ConfigError above what the model was made for. `ids` is a text to see that on."""
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [] if made_for is None else [int(made_for)]
    if len(ids) > 1 and (made_for is None or len(ids) + selftest.EXTRA < made_for):
        known += places(model, ids)
    if wanted is None:
        return min(known, default=4096)
    if known and wanted > min(known):
        raise ConfigError(f"max_length = {wanted} is beyond the {min(known)} tokens that the model was made for")
    return wanted


def places(model: Any, ids: Sequence[int]) -> list[int]:
    """How many tokens each table of absolute positions of the model has room for: its rows from the first token's on.

    Tables are known by what they are asked: for one row after the other, as long as the text is. RoBERTa's first token
    stands in row padding_idx + 1, so that a table of 514 rows takes 512 tokens.
    """
    import torch

    found: list[int] = []

    def see(table: Any, told: tuple[Any, ...], named: dict[str, Any]) -> None:
        asked = torch.unique(told[0] if told else named["input"])
        first = int(asked[-1]) - len(ids) + 1
        if len(asked) - len(ids) in (0, 1) and int(asked[0]) in (first, first - 1):  # one more where it pads by itself
            found.append(table.num_embeddings - first)

    hooks = [
        each.register_forward_pre_hook(see, with_kwargs=True)
        for each in model.modules()
        if isinstance(each, torch.nn.Embedding) and each is not model.get_input_embeddings()
    ]
    try:
        text = torch.tensor([list(ids)], device=model.device)
        with torch.inference_mode():
            model(input_ids=text, attention_mask=torch.ones_like(text))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def forward_of(model: Any, readout: Readout, heads: Sequence[str]) -> Forward:
    """The function from ids and mask to logits."""
    if readout == "last_attended":
        return last_attended(model)
    return lambda ids, mask: _outputs(model(input_ids=ids, attention_mask=mask, **_more(model, mask)), heads)


def last_attended(model: Any) -> Forward:
    """Hidden state of the last token that the mask shows, on whatever side the padding is, times the head in float32."""
    import torch

    head = linear_head(model)
    if head is None:
        raise ConfigError(f"readout: last_attended needs a decoder with a linear head, not {type(model).__name__}")
    body = getattr(model, model.base_model_prefix)
    weight = head.weight.detach().float()
    bias = None if head.bias is None else head.bias.detach().float()

    def forward(ids: Any, mask: Any) -> Any:
        hidden = body(input_ids=ids, attention_mask=mask, **_more(body, mask)).last_hidden_state
        at = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        return torch.nn.functional.linear(hidden[torch.arange(len(ids), device=ids.device), at].float(), weight, bias)

    return forward


def _more(module: Any, mask: Any) -> dict[str, Any]:
    """No cache; positions that count from the first attended token, where padding stands before it."""
    takes = inspect.signature(module.forward).parameters
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if "position_ids" in takes and not bool(mask[:, 0].all()):
        more["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return more


def _outputs(output: Any, heads: Sequence[str]) -> Any:
    """Raw outputs (B, H) in float32. A model with its own output has `score`, and `rewards` when those are named."""
    import torch

    score, rewards = getattr(output, "score", None), getattr(output, "rewards", None)
    parts = [score] if score is not None else []
    if rewards is not None and (score is None or len(heads) > 1):
        parts.append(rewards)
    if not parts:
        parts.append(output.logits if getattr(output, "logits", None) is not None else output[0])
    return torch.cat([part.float().reshape(len(part), -1) for part in parts], dim=1)


def _as_numpy(forward: Forward, device: Any, ids_BT: Ints, mask_BT: Ints) -> Floats:
    import torch

    with torch.inference_mode():
        logits = forward(torch.from_numpy(ids_BT).to(device), torch.from_numpy(mask_BT).to(device))
    return np.asarray(logits.cpu().numpy(), np.float64)
