"""A GGUF model as a plain transformers folder, made once: what trainers can load, and save again."""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

from pairwright.backends.hf import needs_transformers, quiet, where
from pairwright.backends.openvino import fingerprint
from pairwright.errors import BackendError, StoreError

CACHE = "PAIRWRIGHT_CACHE"  # environment variable: the folder of what is made once


def cache_folder() -> Path:
    """$PAIRWRIGHT_CACHE, else pairwright in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pairwright"


def trainable(model: str, cache: Path | None = None) -> str:
    """A name that `from_pretrained` can load, train and save: the model's own, or the plain folder of a GGUF file.

    The folder holds float32 weights, tokenizer and chat template under the fingerprint of the file. It is made beside
    its place and moved there in one step, so that two processes may ask for it at once.
    """
    source, more = where(model)
    if not more:
        return source
    file = Path(source) / more["gguf_file"]
    folder = (cache or cache_folder()) / "models" / f"{file.stem}-{fingerprint(model)}"
    if (folder / "config.json").is_file():
        return str(folder)
    needs_transformers()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError as error:
        raise StoreError(f"cannot write {folder.parent}: {error.strerror}; set {CACHE} to a folder of yours") from error
    try:
        _convert(file, made)
        made.replace(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return str(folder)


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of the GGUF reader: read-only arrays
        AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
        read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        config = read.config.__class__(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
        plain = read.__class__(config)  # a model that was read from GGUF refuses to be saved
        lost = plain.load_state_dict(read.state_dict(), strict=False)
        if lost.missing_keys or lost.unexpected_keys:
            raise BackendError(
                f"{file} cannot be written as a plain model: {[*lost.missing_keys, *lost.unexpected_keys]}"
            )
        plain.to(torch.float32).save_pretrained(folder)
