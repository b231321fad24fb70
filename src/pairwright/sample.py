"""The sample stage: n responses per prompt through a `Sampler`, resumable draw by draw.

The seed of a call comes from (seed, prompt id, first sample of the call), so that a prompt's draws depend neither on
the other prompts nor on n: raising n adds samples and keeps those that are there.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import polars as pl

from pairwright.errors import ConfigError
from pairwright.protocols import Ask, Decoding, Sampler
from pairwright.tables import RESPONSES, Split, drops, frame, response_id

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. n responses per prompt; `model` is the backend's own name for it, its default when null.

    `endpoint` is for the backend openai: {base_urls: http://127.0.0.1:8000/v1, concurrency: 16, ...}.
    """

    backend: str = "openvino"
    model: str | None = None
    n: int = 16
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    max_tokens: int = 256
    seed: int = 0
    endpoint: dict[str, object] | None = None

    def __post_init__(self) -> None:
        wrong = {
            "n": not 1 <= self.n <= 100_000,
            "temperature": not 0 <= self.temperature < float("inf"),
            "top_p": not 0 < self.top_p <= 1,
            "top_k": self.top_k < 0,
            "max_tokens": self.max_tokens < 1,
            "seed": self.seed < 0,
        }
        if bad := [name for name, is_wrong in wrong.items() if is_wrong]:
            raise ConfigError(
                f"{bad[0]} = {getattr(self, bad[0])} cannot be: n and max_tokens from 1, temperature and seed from 0, "
                "top_p above 0 and up to 1, top_k from 0 (off)"
            )

    def deciding(self) -> dict[str, object]:
        """The settings that a text depends on; where the model is served is not among them."""
        return asdict(self) | {"endpoint": {"extra": (self.endpoint or {}).get("extra")} if self.endpoint else None}

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.temperature, self.top_p, self.top_k, self.max_tokens)


class Call(NamedTuple):
    """One call to the sampler: samples first .. first + ask.n - 1 of a prompt. `ask.key` is its place in the list."""

    prompt_id: str
    first: int
    ask: Ask


def call_seed(seed: int, prompt_id: str, first: int) -> int:
    """31 bits out of (seed, prompt id, number of the first sample of the call)."""
    text = f"{seed}|{prompt_id}|{first}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) >> 1


def missing_calls(prompts: pl.DataFrame, have: Mapping[str, set[int]], settings: Sampling) -> list[Call]:
    """One call per run of samples that is not there yet."""
    calls: list[Call] = []
    for prompt_id, messages in prompts.select("prompt_id", "prompt").iter_rows():
        for first, count in _gaps(have.get(prompt_id, set()), settings.n):
            ask = Ask(len(calls), messages, count, call_seed(settings.seed, prompt_id, first))
            calls.append(Call(prompt_id, first, ask))
    return calls


def _gaps(held: set[int], n: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of 0 .. n-1 that are not held."""
    first = None
    for k in range(n + 1):
        if k < n and k not in held:
            first = k if first is None else first
        elif first is not None:
            yield first, k - first
            first = None


def draw(calls: Sequence[Call], sampler: Sampler, settings: Sampling) -> Iterator[Row]:
    """Every draw as a row of `responses`, as it ends; one without a text carries `lost`, why."""
    for drawn in sampler([call.ask for call in calls], settings.decoding):
        call = calls[drawn.key]
        sample = call.first + drawn.draw
        yield {
            "prompt_id": call.prompt_id,
            "response_id": response_id(sample),
            "response": drawn.text,
            "source": sampler.model,
            "sample": sample,
            "finish_reason": drawn.finish_reason,
            "n_tokens": drawn.n_tokens,
            "seed": call.ask.seed,
            "lost": None if drawn.text is not None else drawn.reason or "generation_failed",
        }


def to_tables(rows: Iterable[Row]) -> Split:
    """Draws as tables: what has a text is kept, sorted by prompt and sample; the rest is dropped with its reason."""
    rows = list(rows)
    kept = [{name: row[name] for name in RESPONSES.columns} for row in rows if row["lost"] is None]
    lost = pl.DataFrame(
        [(row["prompt_id"], row["response_id"], *_reason(str(row["lost"]))) for row in rows if row["lost"] is not None],
        schema={"prompt_id": pl.String, "response_id": pl.String, "reason": pl.String, "detail": pl.String},
        orient="row",
    )
    dropped = drops("sample", lost, pl.col("reason"), detail=pl.col("detail"))
    return Split(frame(RESPONSES, kept).sort("prompt_id", "sample"), dropped.sort("prompt_id", "response_id"))


def _reason(lost: str) -> tuple[str, str | None]:
    """ "prompt_too_long: 9000 tokens ..." -> ("prompt_too_long", "9000 tokens ...")."""
    reason, _, detail = lost.partition(": ")
    return reason, detail or None
