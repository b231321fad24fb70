"""A policy that was trained from a GGUF file, written as a GGUF file again, so that the embedded engine can draw from it.

Metadata, tokenizer and template are those of the original file; the weights are the trained ones (an adapter merged in
float32) as float16, norms as float32. Llama-like models alone: others order their weights in ways that this does not know.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pairwright.backends.generate import LocalModel, load_merged
from pairwright.backends.openvino import INSTALL, model_file
from pairwright.errors import BackendError, MissingDependency

LIKE = ("llama",)  # values of general.architecture
FLOAT16 = 1  # general.file_type


def write_policy(original: str, trained: LocalModel, target: Path) -> Path:
    """Writes the weights of `trained` in the form of the GGUF file `original`; returns `target`."""
    try:
        import gguf
    except ImportError as error:
        raise MissingDependency(f"gguf is not installed; run: {INSTALL}") from error
    source = model_file(original)
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    if architecture not in LIKE:
        raise BackendError(f"{source} is a {architecture} model; only {', '.join(LIKE)} can be written back as GGUF")
    tensors = _renamed(gguf, load_merged(trained, "float32"), [tensor.name for tensor in reader.tensors], source)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    writer = gguf.GGUFWriter(temporary, architecture)
    _copy_fields(gguf, reader, writer)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32 if values.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return temporary.replace(target)


def _copy_fields(gguf: Any, reader: Any, writer: Any) -> None:
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer's own
        kind = field.types[0]
        if name == "general.file_type":
            writer.add_uint32(name, FLOAT16)
        elif kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, field.contents(), kind, field.types[-1])
        else:
            writer.add_key_value(name, field.contents(), kind)


def _renamed(gguf: Any, model: Any, wanted: list[str], source: Path) -> dict[str, Any]:
    """The weights under GGUF's names; exactly those of the original."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = {}
    for key, tensor in model.state_dict().items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name not in wanted:
            continue  # the output head of a model that shares it with the embedding
        values = tensor.detach().float().cpu().numpy()
        split = next((n for part, n in heads.items() if part in key), None)
        found[name] = values if split is None else rotated(values, split)
    if lacks := [name for name in wanted if name not in found]:
        raise BackendError(f"{source} has tensors that the trained model does not: {', '.join(lacks[:3])}")
    return found


def rotated(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection from the order of transformers (halves) to that of GGUF (interleaved pairs)."""
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
