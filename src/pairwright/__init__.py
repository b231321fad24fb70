"""Pairwright builds, repairs and explains the preference pairs that DPO trains on.

The public names below load on first use, so that `import pairwright` stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "PairwrightError": "pairwright.errors",
    "Pairing": "pairwright.pair.build",
    "build_pairs": "pairwright.pair.build",
    "FakeSampler": "pairwright.backends.fake",
    "read_candidates": "pairwright.io.candidates",
}

__all__ = ["FakeSampler", "Pairing", "PairwrightError", "__version__", "build_pairs", "read_candidates"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pairwright' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
