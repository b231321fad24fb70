"""What every transformers model needs: its files, its tokenizer, its chat template, and hashes that name them.

A model is a folder, a .gguf file, or a name that the hub's cache holds. Texts go through the tokenizer's own chat
template once, without special tokens added again: a template that writes the BOS token gives exactly one.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from pairwright.backends.openvino import EMBEDDED, model_file
from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Message
from pairwright.tables import canonical_json

INSTALL = 'pip install torch && pip install "pairwright[train]"'
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = get_args(Dtype)


def needs_transformers() -> None:
    """MissingDependency with the install line where torch or transformers is absent."""
    if lacks := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise MissingDependency(f"{' and '.join(lacks)} is not installed; run: {INSTALL}")


def where(model: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` wants: (folder or hub name, further arguments)."""
    path = model_file(model) if model == EMBEDDED else Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"there is no file {model}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        return str(path), {}
    if path.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise ConfigError(f"model {model!r} is neither a folder, a .gguf file nor a name like owner/model")
    return model, {}


def files(model: str) -> list[Path]:
    """The files that decide what the model computes: configuration and weights."""
    source, more = where(model)
    folder = Path(source)
    if not folder.is_dir():
        from transformers.utils import cached_file

        try:
            found = cached_file(source, "config.json")
        except OSError as error:
            raise BackendError(f"model {model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
        folder = Path(str(found)).parent
    if more:
        return [folder / more["gguf_file"]]
    weights = [path for pattern in WEIGHTS for path in folder.glob(pattern)]
    return sorted([*weights, *folder.glob("*config.json")])


def model_hash(model: str, *more: str) -> str:
    """16 hex digits over configuration and weights, and over what else changes the numbers (precision, adapter)."""
    total = hashlib.sha256(canonical_json(list(more)).encode())
    for path in files(model):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def load_tokenizer(model: str, *, allow_remote_code: bool = False) -> Any:
    """The model's own tokenizer; one without a chat template is refused: its scores would be of another text."""
    from transformers import AutoTokenizer

    source, more = where(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=allow_remote_code, **more)
    except (OSError, ValueError) as error:
        raise BackendError(f"the tokenizer of {model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise BackendError(
            f"the tokenizer of {model!r} has no chat template (missing_template): bare text would be scored, which the "
            "model was not trained on; save the template with the tokenizer, or name one"
        )
    return tokenizer


def encode(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[int]:
    """Token ids of the rendered conversation, each special token as often as the template writes it."""
    text = render(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    return encode_texts(tokenizer, [text])[0]


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
    """The conversation as the tokenizer's own chat template writes it."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(text)


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered conversations, many at once; nothing is added to what the template wrote."""
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


def template_hash(tokenizer: Any, *more: object) -> str:
    """16 hex digits over chat template, vocabulary size and special tokens, and over what else decides the tokens."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    told = [str(tokenizer.chat_template), len(tokenizer), special, *map(str, more)]
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]


def pick_device(device: str) -> str:
    """`auto` is a GPU where there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_name(dtype: object) -> str:
    """torch.bfloat16 -> bfloat16."""
    return str(dtype).removeprefix("torch.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help. The allocator of the CPU raises a plain RuntimeError."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_memory() -> None:
    """Give cached blocks back to the device, after a batch that did not fit."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no loading report and no notes on the future of transformers inside; what was set comes back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
