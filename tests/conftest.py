"""Shared by all tests: small runs on the fake sampler, and the command line called as a user calls it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# In CI the same examples every time, so that a red run is about the change; elsewhere new ones on every run.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"  # real data, beside a checkout of ours; absent elsewhere


@pytest.fixture
def real_data() -> Path:
    if not SHARED_DATA.exists():
        pytest.skip("the real data sets are not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def pairwright() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command, in a process of its own: pairwright("pair", path, ...)."""

    def call(*words: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pairwright.cli", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, check=False, timeout=300
        )

    return call


RECIPE = """\
prompts: prompts.jsonl
shards: {shards}
sample: {{backend: fake, n: {n}, max_tokens: 40, seed: 1}}
score: [{{rater: rules}}, {{rater: length}}]
pair: {{chosen: max, rejected: {rejected}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe of twelve prompts for the fake sampler."""

    def write(*, shards: int = 3, n: int = 12, rejected: str = "mu-2sigma", prompts: int = 12) -> Path:
        checks = [{"check": "words", "at_least": 20, "at_most": 25}, {"check": "no_repetition"}]
        lines = [json.dumps({"prompt": f"Name {i} green things.", "checks": checks}) for i in range(prompts)]
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.format(shards=shards, n=n, rejected=rejected))
        return path

    return write
