"""What a model must offer, one call each. A backend is a callable; its answers may come in any order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Item(NamedTuple):
    """One response that is to be scored, with the messages it answers."""

    key: int  # the caller's own number; comes back with the score
    messages: Sequence[Message]
    response: str


class Scored(NamedTuple):
    """The raw outputs of a reward model for one item, by the name of the head, or the reason why there are none."""

    key: int
    scores: Mapping[str, float]  # {"": 0.31} of a model with one output
    reason: str | None = None


class RewardModel(Protocol):
    """Scores responses one by one. `about` is what the manifest says: self-test, template, read-out, precision."""

    @property
    def heads(self) -> tuple[str, ...]:
        """("",) when there is one."""
        ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def about(self) -> Mapping[str, object]: ...

    def __call__(self, items: Sequence[Item], /) -> Iterator[Scored]: ...


class ChatAsk(NamedTuple):
    """One request to a chat model, for one reply. `top_logprobs` asks for that many alternatives of each token."""

    key: int
    messages: Sequence[Message]
    seed: int
    temperature: float = 0.0
    max_tokens: int = 512
    top_logprobs: int = 0


class ChatReply(NamedTuple):
    """The reply to a request, or the reason why there is none.

    `tokens` holds (token, {alternative: log-probability}) of the reply when log-probabilities were asked for and given.
    """

    key: int
    text: str | None
    finish_reason: str | None = None
    tokens: tuple[tuple[str, Mapping[str, float]], ...] = ()
    n_tokens: int | None = None
    model: str | None = None  # as the server named it
    request_id: str | None = None
    reason: str | None = None  # why text is null


class Judge(Protocol):
    """A chat model that is asked for judgements; replies come as they are ready, in any order."""

    model: str
    fingerprint: str

    def __call__(self, asks: Iterable[ChatAsk], /) -> Iterator[ChatReply]: ...


class Answered(NamedTuple):
    """A prompt with responses whose log-probabilities are wanted; they share the prompt's computation."""

    key: int
    messages: Sequence[Message]
    responses: Sequence[str]


class LogProb(NamedTuple):
    """The summed log-probability of one response, in nats, or the reason why there is none."""

    key: int
    place: int  # of the response within its `Answered`
    logp: float | None
    n_tokens: int  # response tokens that the sum is over
    truncated: bool = False  # tokens beyond max_length were cut off and are not in the sum
    reason: str | None = None


class LogProbs(Protocol):
    """Log-probabilities of responses given their prompts under one model; prompts come in any order."""

    model_hash: str  # weights, adapter and precision
    template_hash: str  # chat template, special tokens, truncation

    def __call__(self, prompts: Sequence[Answered], /) -> Iterator[LogProb]: ...
