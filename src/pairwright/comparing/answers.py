"""Answers of a policy to held-out prompts, with their rewards and their distance to the base model.

Drawing and scoring are a run of their own (prompts, sample, score) in a folder of the comparison: draws and calls that are
there are not made again.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pairwright.backends.divergence import divergences
from pairwright.backends.generate import LocalModel, fingerprint, local_model
from pairwright.backends.hf import where
from pairwright.comparing.arms import Evaluation
from pairwright.errors import ConfigError
from pairwright.io.prompts import read_prompts
from pairwright.pipeline import SILENT, Watch, run
from pairwright.rating.entries import KINDS, Entry, parse_entries
from pairwright.recipe import Recipe
from pairwright.sample import Sampling
from pairwright.score.compare import voices
from pairwright.score.logprob import to_ask
from pairwright.store import digest, file_hash, read_json, write_json, write_parquet
from pairwright.tables import PROMPTS
from pairwright.wiring import steps


@dataclass(frozen=True)
class Policy:
    """What is asked: the base model as it was named, and a trained folder (None: the base itself)."""

    base: str
    plain: str  # the base as a folder that transformers loads
    trained: str | None = None

    @property
    def local(self) -> LocalModel:
        if self.trained is None:
            return LocalModel(self.plain, dtype="float32")
        held = local_model(self.trained)
        return LocalModel(held.model, held.adapter, "float32")


def engine(asked: str, base: str) -> str:
    """The sampler: the embedded engine where the base is a GGUF file that it reads, else transformers."""
    _, more = where(base)
    held = bool(more) and importlib.util.find_spec("openvino_genai") is not None
    if asked == "openvino" and not more:
        raise ConfigError(f"backend openvino draws from models that began as a GGUF file; {base} is not one")
    return ("openvino" if held else "transformers") if asked == "auto" else asked


def answers(
    policy: Policy, prompts: Path, evaluation: Evaluation, folder: Path, *, backend: str, watch: Watch = SILENT
) -> pl.DataFrame:
    """One row per draw: prompt_id, sample, response, n_tokens, cut, kl (nats), and a column per rater."""
    done = folder / "answers.parquet"
    raters = parse_entries(evaluation.score, folder=prompts.parent, where="evaluate.score")
    asked_of = [evaluation.n, evaluation.max_tokens, [_rater(each) for each in raters]]
    told = digest([policy.base, fingerprint(policy.local), asked_of, file_hash(prompts), backend])
    if done.is_file() and read_json(folder / "answers.json") == {"of": told}:
        return pl.read_parquet(done)
    model = _sampled_model(policy, folder, backend)
    sampling = Sampling(
        backend, model, evaluation.n, temperature=1.0, top_p=1.0, max_tokens=evaluation.max_tokens, seed=0
    )
    recipe = Recipe(raters, prompts=prompts, sample=sampling, shards=1)
    run(folder, steps(recipe, folder, watch))
    rows = pl.read_parquet(folder / "scores.parquet")
    asked = read_prompts(prompts).kept
    said = rows.select("prompt_id", "response_id", "response", "source", "finish_reason", "n_tokens")
    scored: dict[str, Any] = read_json(folder / "scores.json")
    named = voices([line["rater"] for line in scored["raters"]])
    rows = rows.join(
        _kl(policy, asked, said, evaluation), on=["prompt_id", "response_id"], how="left", maintain_order="left"
    )
    made = rows.select(
        "prompt_id",
        pl.col("response_id").cast(pl.Int32).alias("sample"),  # an id is the number of its draw
        "response",
        "n_tokens",
        cut=pl.col("finish_reason") == "length",
        kl="kl",
        **{name: name for name in named},
    )
    write_parquet(done, made)
    write_json(folder / "answers.json", {"of": told})
    if backend == "openvino" and model is not None:
        Path(model).unlink(missing_ok=True)  # as large as the model; made again when it is needed
    return made


def _rater(entry: Entry) -> list[object]:
    """What its scores depend on: settings, and hashes of weights or of a function's file."""
    return [entry.deciding(), {} if entry.local else dict(KINDS[entry.kind].facts(entry.settings))]


def _sampled_model(policy: Policy, folder: Path, backend: str) -> str:
    """What the sampler loads: for the embedded engine the policy as a GGUF file of its own."""
    if backend == "transformers":
        return policy.trained or policy.plain
    from pairwright.backends.gguf_file import write_policy

    held = policy.local if policy.trained else LocalModel(policy.plain)
    return str(write_policy(policy.base, held, folder / "policy.gguf"))


def _kl(policy: Policy, prompts: pl.DataFrame, said: pl.DataFrame, evaluation: Evaluation) -> pl.DataFrame:
    """Nats per response; 0 for the base itself."""
    if policy.trained is None:
        return said.select("prompt_id", "response_id", kl=pl.when(pl.col("response").is_not_null()).then(0.0))
    asks, asked = to_ask(prompts, said)
    known = said.join(
        asked.select("prompt_id", "response_id", "key", "place"), on=["prompt_id", "response_id"], how="left"
    )
    ended = {
        (key, place): reason != "length"
        for key, place, reason in known.select("key", "place", "finish_reason").iter_rows()
        if key is not None
    }
    reference = LocalModel(policy.local.model if policy.local.adapter else policy.plain, dtype="float32")
    context = _context(policy.plain)
    told = divergences(asks, ended, policy.local, reference, max_length=context)
    found = {(each.key, each.place): each.kl for each in told}
    values = [found.get((key, place)) for key, place in known.select("key", "place").iter_rows()]
    return known.select("prompt_id", "response_id", kl=pl.Series(values, dtype=pl.Float64))


def _context(model: str) -> int:
    held: Mapping[str, object] = (
        read_json(Path(model) / "config.json") if (Path(model) / "config.json").is_file() else {}
    )
    longest = held.get("max_position_embeddings")
    return longest if isinstance(longest, int) else 2**20


def write_prompts(path: Path, prompts: pl.DataFrame) -> Path:
    """A prompt file with ids, so that the same prompt with a goal in it keeps its name."""
    write_parquet(path, prompts.select(PROMPTS.columns.keys()))
    return path
