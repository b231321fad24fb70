"""What a model must offer, one call each. A backend is a callable; its answers may come in any order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Message = dict[str, str]  # {"role": "user", "content": "..."}


class Ask(NamedTuple):
    """One call to a sampler: `n` responses to one prompt, drawn under one seed."""

    key: int  # the caller's own number; comes back with every answer
    messages: Sequence[Message]
    n: int
    seed: int


class Drawn(NamedTuple):
    """One response of a call, or the reason why there is none."""

    key: int
    draw: int  # 0 .. n-1 within the call
    text: str | None
    finish_reason: str | None  # "stop", "length", or null when the backend does not say
    n_tokens: int | None
    reason: str | None = None  # why text is null


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to draw: temperature 0 is greedy; top_p 1 and top_k 0 switch the cut off; max_tokens counts new tokens."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    max_tokens: int = 256


class Sampler(Protocol):
    """Draws responses. `model` names what wrote them, `fingerprint` changes when the weights do."""

    model: str
    fingerprint: str
    redraw: str  # in words: what repeating a call with its seed gives

    def __call__(self, asks: Sequence[Ask], decoding: Decoding, /) -> Iterator[Drawn]: ...
