"""What every transformers model needs: its files, its tokenizer, its chat template, and hashes that name them.

A model is a folder, a .gguf file, or a name that the hub's cache holds. Texts go through the tokenizer's own chat
template once, without special tokens added again: a template that writes the BOS token gives exactly one.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Message
from pairwright.tables import canonical_json

INSTALL = 'pip install torch && pip install "pairwright[train]"'
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt")


def needs_transformers() -> None:
    """MissingDependency with the install line where torch or transformers is absent."""
    if lacks := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise MissingDependency(f"{' and '.join(lacks)} is not installed; run: {INSTALL}")


def where(model: str) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` wants: (folder or hub name, further arguments)."""
    path = Path(model).expanduser()
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


def load_tokenizer(model: str) -> Any:
    """The model's own tokenizer; one without a chat template is refused: its scores would be of another text."""
    from transformers import AutoTokenizer

    source, more = where(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **more)
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
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def template_hash(tokenizer: Any, *more: object) -> str:
    """16 hex digits over chat template, vocabulary size and special tokens, and over what else decides the tokens."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    told = [str(tokenizer.chat_template), len(tokenizer), special, *map(str, more)]
    return hashlib.sha256(canonical_json(told).encode()).hexdigest()[:16]
