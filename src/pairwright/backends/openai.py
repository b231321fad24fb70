"""Judges, samplers and reward models behind a server: pure translation, and thin callables over `Client`.

`OpenAIJudge` and `OpenAISampler` speak the chat-completions API; `RewardEndpoint` speaks the classify, pooling and score
routes of vLLM and sglang. Whatever a server leaves out is counted: `about` says how often `n` was not honoured, how often
all draws of a call were the same text, which model names came back.

Sources: chat completions as vLLM, sglang and llama.cpp serve it; seen in November 2026: servers that ignore `n`, `logprobs`
or the temperature without a word, and a `usage` that counts one of n choices only.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pairwright.backends.answers import Check
from pairwright.backends.endpoint import Client, Endpoint, Job, Outcome
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Ask, ChatAsk, ChatReply, Decoding, Drawn, Item, Message, Scored
from pairwright.tables import canonical_json, text_hash

CHAT = "/chat/completions"
TOP_LOGPROBS = 20  # the most that servers give
ROUNDED = 0.01  # the most that rounding puts a log-probability above 0
DATED = re.compile(r"-\d{4}(-?\d{2}-?\d{2})?$")  # "gpt-4o" may answer as "gpt-4o-2024-08-06"
ROUTES = {"classify": "//classify", "pooling": "//pooling", "score": "//score"}
HOLD = 8  # rewards kept back while all of them are exactly 1
FIELDS = ("logits", "rewards", "scores", "score", "reward", "embedding", "probs", "data")  # where a reward may stand
Tokens = tuple[tuple[str, Mapping[str, float]], ...]


def to_request(
    messages: Sequence[Message], *, model: str, seed: int, decoding: Decoding, n: int = 1, top_logprobs: int = 0
) -> dict[str, Any]:
    """The body of a chat completion; pure. What stands at its default (top_p 1, top_k 0, n 1) is left out."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn["role"], "content": turn["content"]} for turn in messages],
        "temperature": decoding.temperature,
        "max_tokens": decoding.max_tokens,
        "seed": seed,
    }
    if decoding.top_p < 1:
        body["top_p"] = decoding.top_p
    if decoding.top_k > 0:
        body["top_k"] = decoding.top_k
    if n > 1:
        body["n"] = n
    if top_logprobs > 0:
        body |= {"logprobs": True, "top_logprobs": min(top_logprobs, TOP_LOGPROBS)}
    return body


def with_extra(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over a body; a null takes the field out ({"max_tokens": null, "max_completion_tokens": 512})."""
    return {name: value for name, value in {**body, **extra}.items() if value is not None}


class Choice(NamedTuple):
    """One of the replies of a chat completion. `text` is null when the server gave no content."""

    text: str | None
    finish_reason: str | None
    tokens: Tokens


class Chat(NamedTuple):
    """A chat completion, read."""

    choices: tuple[Choice, ...]
    n_tokens: int | None  # of the only choice; null with several, where servers count differently
    model: str | None  # as the server names it


def from_response(body: Any) -> Chat:
    """A chat completion out of its JSON; pure. BackendError-free: `complaint` has seen the body before."""
    choices = tuple(
        Choice(_content(each["message"]), _text(each.get("finish_reason")), _tokens(each.get("logprobs")))
        for each in body["choices"]
    )
    usage = body.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    alone = len(choices) == 1 and isinstance(count, int)
    return Chat(choices, count if alone else None, _text(body.get("model")))


def complaint(body: Any) -> str | None:
    """Why a body is no chat completion with at least one choice; None when it is one."""
    if not isinstance(body, Mapping) or not isinstance(body.get("choices"), list):
        return "not_a_completion: the answer has no list of choices"
    if not body["choices"]:
        return "empty_choices: the answer has no choice"
    if any(not isinstance(each, Mapping) or not isinstance(each.get("message"), Mapping) for each in body["choices"]):
        return "not_a_completion: a choice has no message"
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _content(message: Mapping[str, Any]) -> str | None:
    """The text of a message; of a list its text parts, of a refusal its words."""
    said = message.get("content")
    if isinstance(said, list):
        parts = [part.get("text") for part in said if isinstance(part, Mapping)]
        said = "".join(part for part in parts if isinstance(part, str)) or None
    return _text(said) if said is not None else _text(message.get("refusal"))


def _tokens(logprobs: Any) -> Tokens:
    """(token, {alternative: log-probability}); the token itself is among its alternatives.

    () when not given, and when one entry has another shape than the API's: half a table would be read as if it were whole.
    """
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list) or not all(
        _is_entry(each) and _is_top(each.get("top_logprobs")) for each in content
    ):
        return ()
    return tuple(_alternatives(each) for each in content)


def _is_top(top: Any) -> bool:
    return top is None or (isinstance(top, list) and all(map(_is_entry, top)))


def _is_entry(entry: Any) -> bool:
    """Whether it names a token, and a log-probability or none; servers round to a little above 0, none says nan."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return False
    value = entry.get("logprob")
    if isinstance(value, int):
        return -(10**9) <= value <= 0
    return value is None or (isinstance(value, float) and value <= ROUNDED)


def _alternatives(entry: Mapping[str, Any]) -> tuple[str, Mapping[str, float]]:
    """Two entries with one text (tokens that are parts of a letter) are added up."""
    held: dict[str, float] = {}
    for each in entry.get("top_logprobs") or []:
        token, value = each["token"], each.get("logprob")
        if value is not None:
            held[token] = float(np.logaddexp(held[token], value)) if token in held else float(value)
    token, own = entry["token"], entry.get("logprob")
    if own is not None:
        held.setdefault(token, float(own))
    return token, held


def same_model(asked: str, named: str | None) -> bool:
    """Whether a server's name for its model fits the one asked for: equal, dated, or not said."""
    return named is None or named == asked or (named.startswith(asked) and bool(DATED.fullmatch(named[len(asked) :])))


def _checked(endpoint: Endpoint, of: Check) -> Check:
    """`of`, and that the server names the model that was asked for."""

    def check(body: Any) -> str | None:
        if (wrong := of(body)) is not None:
            return wrong
        named = _text(body.get("model")) if isinstance(body, Mapping) else None
        if not endpoint.any_model and not same_model(endpoint.model, named):
            raise BackendError(
                f"wrong_model: asked for {endpoint.model!r}, the server answered as {named!r}; name that model, or set "
                "any_model: true when both are the same"
            )
        return None

    return check


class _Served:
    """What judge, sampler and reward model share: the endpoint, its client, and what is to be told about it."""

    def __init__(self, endpoint: Endpoint, *, rng: np.random.Generator | None = None) -> None:
        self.endpoint, self.model, self.fingerprint = endpoint, endpoint.model, endpoint.fingerprint
        self._client = Client(endpoint, rng=rng)
        self._named: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()

    @property
    def about(self) -> Mapping[str, object]:
        """Addresses, calls made, and what the server did otherwise than asked; grows with the calls."""
        told = {"urls": list(self.endpoint.urls), "model": self.model, "extra": self.endpoint.extra}
        return {**told, **self._client.counts, **self._seen, "named": dict(self._named)}

    def _job(self, tag: Any, body: dict[str, Any], route: str = CHAT) -> Job:
        return Job(tag, route, with_extra(body, self.endpoint.extra))

    def _read(self, outcome: Outcome) -> Chat | None:
        """The completion of an outcome, counted; None when the request was lost."""
        if outcome.reason is not None:
            return None
        chat = from_response(outcome.body)
        self._named[chat.model or "not said"] += 1
        return chat


class OpenAIJudge(_Served):
    """A chat model behind one or several addresses, as a `Judge`. `asks` may be any iterable and is read as it is used."""

    def __call__(self, asks: Iterable[ChatAsk], /) -> Iterator[ChatReply]:
        jobs = (self._job(ask, self._body(ask)) for ask in asks)
        for outcome in self._client.run(jobs, _checked(self.endpoint, complaint)):
            yield self._reply(outcome)

    def _body(self, ask: ChatAsk) -> dict[str, Any]:
        decoding = Decoding(ask.temperature, 1.0, 0, ask.max_tokens)
        return to_request(
            ask.messages, model=self.model, seed=ask.seed, decoding=decoding, top_logprobs=ask.top_logprobs
        )

    def _reply(self, outcome: Outcome) -> ChatReply:
        ask, chat = outcome.job.tag, self._read(outcome)
        if chat is None:
            return ChatReply(ask.key, None, request_id=outcome.request_id, reason=f"judge_failed: {outcome.reason}")
        first = chat.choices[0]
        if ask.top_logprobs and not first.tokens:
            self._seen["logprobs_ignored"] += 1
        reason = None
        if first.text is None:
            cut = first.finish_reason == "length"
            reason = "judge_unfinished" if cut else f"judge_failed: no content (finish_reason {first.finish_reason})"
        return ChatReply(ask.key, *first, chat.n_tokens, chat.model, outcome.request_id, reason)


class _Part(NamedTuple):
    """Draws first .. first + n - 1 of an ask."""

    ask: Ask
    first: int
    n: int


class OpenAISampler(_Served):
    """A chat model as a `Sampler`. `n` is never trusted: what is missing is drawn one by one, draw d under seed + d."""

    redraw = (
        "what the server makes of a seed: the same request is repeated, the same text is not promised; draws that a server "
        "left out come from requests of their own"
    )

    def __call__(self, asks: Iterable[Ask], decoding: Decoding, /) -> Iterator[Drawn]:
        held: dict[int, list[str]] = {}  # texts of asks under way, by the identity of the ask
        jobs = (self._asked(_Part(ask, 0, ask.n), decoding) for ask in _drawable(asks, decoding))
        check = _checked(self.endpoint, complaint)
        for outcome in self._client.run(jobs, check, lambda done: self._missing(done, decoding)):
            for drawn in self._drawn(outcome):
                yield drawn
                self._compare(outcome.job.tag.ask, drawn, held)

    def _asked(self, part: _Part, decoding: Decoding) -> Job:
        seed = part.ask.seed + part.first
        body = to_request(part.ask.messages, model=self.model, seed=seed, decoding=decoding, n=part.n)
        return self._job(part, body)

    def _missing(self, outcome: Outcome, decoding: Decoding) -> list[Job]:
        """Requests of one draw each for those that a reply to several left out."""
        part: _Part = outcome.job.tag
        if outcome.reason is not None or len(outcome.body["choices"]) >= part.n:
            return []
        got = len(outcome.body["choices"])
        self._seen["n_not_honoured"] += 1
        return [self._asked(_Part(part.ask, part.first + at, 1), decoding) for at in range(got, part.n)]

    def _drawn(self, outcome: Outcome) -> Iterator[Drawn]:
        part, chat = outcome.job.tag, self._read(outcome)
        if chat is None:
            lost = f"generation_failed: {outcome.reason}"
            yield from (Drawn(part.ask.key, part.first + at, None, None, None, lost) for at in range(part.n))
            return
        for at, choice in enumerate(chat.choices[: part.n]):
            why = None if choice.text is not None else f"generation_failed: no content ({choice.finish_reason})"
            place = part.first + at
            yield Drawn(part.ask.key, place, choice.text, choice.finish_reason, chat.n_tokens, why)

    def _compare(self, ask: Ask, drawn: Drawn, held: dict[int, list[str]]) -> None:
        """Counts calls whose draws are all one text: a server that ignores seed or temperature."""
        texts = held.setdefault(id(ask), [])
        texts.append(drawn.text or f"\0{drawn.draw}")
        if len(texts) == ask.n:
            held.pop(id(ask))
            self._seen["identical_draws"] += ask.n > 1 and len(set(texts)) == 1


def _drawable(asks: Iterable[Ask], decoding: Decoding) -> Iterator[Ask]:
    for ask in asks:
        if decoding.temperature == 0 and ask.n > 1:
            raise ConfigError("temperature 0 draws the same text every time; ask for n: 1 or raise the temperature")
        yield ask


class RewardEndpoint(_Served):
    """A reward model behind a classify, pooling or score route, as a `RewardModel`; raw logits are asked for.

    `render` turns a conversation that ends with the response into the text that the model reads; without it the server
    applies its own chat template (vLLM does). `heads` names the outputs; more than one without names is refused.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        route: str = "classify",
        heads: tuple[str, ...] = ("",),
        render: Callable[[Sequence[Message]], str] | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(endpoint, rng=rng)
        if route not in ROUTES:
            raise ConfigError(f"unknown route {route!r}; known: {', '.join(ROUTES)}")
        if not heads or len(set(heads)) < len(heads):
            raise ConfigError(f"the names of the heads are {heads}: give each of them one of its own")
        self.route, self.heads, self._render = route, heads, render
        self.fingerprint = text_hash(canonical_json([endpoint.fingerprint, route, list(heads), render is not None]))

    @property
    def about(self) -> Mapping[str, object]:
        template = "the server's" if self._render is None else "rendered here"
        return {**super().about, "route": self.route, "heads": list(self.heads), "template": template}

    def __call__(self, items: Iterable[Item], /) -> Iterator[Scored]:
        """Rewards as they are ready. BackendError before the first row when a softmax has made all of them 1."""
        jobs = (self._job(item.key, self._body(item), ROUTES[self.route]) for item in items)
        check = _checked(self.endpoint, lambda body: _no_reward(body, self.heads))
        suspect: list[Scored] | None = []
        for outcome in self._client.run(jobs, check):
            scored = self._scored(outcome)
            if suspect is None or (outcome.reason is not None):
                yield scored
                continue
            suspect.append(scored)
            if not _is_softmaxed(outcome.body, self.heads):
                yield from suspect
                suspect = None
            elif len(suspect) == HOLD:
                break
        if suspect:
            raise BackendError(
                f"softmaxed_single_logit: all of the first {len(suspect)} rewards are exactly 1 (items "
                f"{', '.join(str(each.key) for each in suspect)}): the server applied a softmax to its only logit; ask a "
                "route that gives raw logits (sglang: /classify, not /v1/classify; vLLM: use_activation false)"
            )

    def _body(self, item: Item) -> dict[str, Any]:
        turns = [*item.messages, {"role": "assistant", "content": item.response}]
        body: dict[str, Any] = {"model": self.model, "use_activation": False}
        if self.route == "score":
            asked = self._render(item.messages) if self._render else "\n\n".join(turn["content"] for turn in turns[:-1])
            return {**body, "text_1": asked, "text_2": item.response}
        if self._render is None:
            return {**body, "messages": turns}
        text = self._render(turns)
        return {**body, "input": text, "text": text}  # vLLM reads the one, sglang the other

    def _scored(self, outcome: Outcome) -> Scored:
        if outcome.reason is not None:
            return Scored(outcome.job.tag, {}, f"scoring_failed: {outcome.reason}")
        (row,) = read_rewards(outcome.body, n=1, heads=self.heads)
        bad = [value for value in row.values() if not math.isfinite(value)]
        return Scored(outcome.job.tag, {} if bad else row, "score_not_finite" if bad else None)


def read_rewards(body: Any, *, n: int, heads: Sequence[str] = ("",)) -> list[dict[str, float]]:
    """The outputs of a reward model for n items, by head; pure.

    Understood: a number, [x], [[x]], [x, y] of two items with one head or of one item with two, the same under any of
    `FIELDS`, in a list of entries per item. Raises BackendError (head_not_named) when there are more outputs than names,
    and BackendError (reward_shape) when the answer has another shape.
    """
    values = np.atleast_1d(np.asarray(_numbers(body), np.float64))
    if n < 1 or values.size % n or values.size < n or (values.ndim > 1 and values.size // n != values.shape[-1]):
        raise BackendError(f"reward_shape: {values.shape} outputs for {n} items")
    values_RH = values.reshape(n, -1)
    width = values_RH.shape[1]
    if width != len(heads):
        raise BackendError(
            f"head_not_named: the model gives {width} outputs, {len(heads)} are named ({', '.join(heads) or 'none'}); name "
            "all of them under heads, in the server's order"
        )
    return [dict(zip(heads, row, strict=True)) for row in values_RH.tolist()]


def _numbers(body: Any) -> Any:
    """The numbers of an answer, as nested as they stand there."""
    if body is None:
        return math.nan  # what JSON makes of nan
    if isinstance(body, Mapping):
        if held := [body[name] for name in FIELDS if name in body]:
            return _numbers(next((each for each in held if each is not None), None))
        raise BackendError(f"reward_shape: none of {', '.join(FIELDS)} in the answer")
    if isinstance(body, list):
        rows = [_numbers(each) for each in body]
        if len({np.shape(row) for row in rows}) > 1:
            raise BackendError("reward_shape: the entries of the answer differ in shape")
        return rows
    if isinstance(body, bool) or not isinstance(body, int | float):
        raise BackendError(f"reward_shape: {type(body).__name__} where a number belongs")
    return body


def _no_reward(body: Any, heads: Sequence[str]) -> None:
    read_rewards(body, n=1, heads=heads)  # a wrong shape is one for every item: it stops the run


def _is_softmaxed(body: Any, heads: Sequence[str]) -> bool:
    """Whether an answer is the probability 1 of a single class: what a softmax makes of any one logit."""
    if len(heads) > 1 or "'probs'" not in repr(body):
        return False
    return set(read_rewards(body, n=1, heads=heads)[0].values()) == {1.0}
