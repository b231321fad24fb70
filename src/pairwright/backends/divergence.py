"""How far a policy has gone from its reference, measured on the policy's own answers.

KL(pi || ref) of a response drawn from pi at temperature 1 without a cut is estimated by

    sum over its tokens of  exp(-r) - 1 + r,    r = log pi(token) - log ref(token)

which has the same mean as the sum of r, is never negative, and varies far less: at every prefix the mean of exp(-r) over
pi is 1 (Schulman 2020, "Approximating KL divergence", k3, per token). An answer that was cut off at max_tokens counts to
where it was cut: the KL of answers of that length. Tokens are those of the text, encoded again. Of draws at another
temperature it is a distance along those answers, not the KL of the policy.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.backends.causal import CausalLM, CausalSettings
from pairwright.backends.generate import LocalModel
from pairwright.backends.hf import encode_texts, render
from pairwright.backends.prefix import Tokens
from pairwright.errors import ConfigError
from pairwright.protocols import Answered

TOGETHER = 64  # prompts whose token log-probabilities are held at a time


class Divergence(NamedTuple):
    """One response of an `Answered`: nats over `n_tokens` of its tokens, or why there is no number."""

    key: int
    place: int
    kl: float | None
    n_tokens: int
    reason: str | None = None


def divergences(
    asks: Sequence[Answered],
    ended: Mapping[tuple[int, int], bool],
    policy: LocalModel,
    reference: LocalModel,
    *,
    max_length: int = 1024,
) -> Iterator[Divergence]:
    """One `Divergence` per response; `ended` says of (key, place) whether the model ended the answer itself."""
    two = _two_models(policy, reference, max_length)
    for at in range(0, len(asks), TOGETHER):
        yield from _measured(asks[at : at + TOGETHER], ended, two)


def token_kl(policy_T: NDArray[np.float64], reference_T: NDArray[np.float64]) -> float:
    """sum of exp(-r) - 1 + r over tokens, nats; log-probabilities of the drawn tokens in, shape (tokens,)."""
    ratio_T = policy_T - reference_T
    return float((np.expm1(-ratio_T) + ratio_T).sum())


class _Two(NamedTuple):
    """The model that encodes and computes the policy, and the one of the reference: the same where an adapter is off."""

    policy: CausalLM
    reference: CausalLM
    adapted: bool


def _two_models(policy: LocalModel, reference: LocalModel, max_length: int) -> _Two:
    if policy.adapter and reference == LocalModel(policy.model, None, policy.dtype, policy.device):
        held = CausalLM(CausalSettings(policy.model, policy.adapter, policy.dtype, policy.device, max_length))
        return _Two(held, held, True)
    if policy.adapter or reference.adapter:
        raise ConfigError(
            f"the reference of an adapter is its own base model, {policy.model}; merge the adapter to compare it with another"
        )
    one, two = (
        CausalLM(CausalSettings(each.model, None, each.dtype, each.device, max_length)) for each in (policy, reference)
    )
    if one.template_hash != two.template_hash:
        raise ConfigError(
            f"{policy.model} and {reference.model} have other tokens or templates: their KL means nothing"
        )
    return _Two(one, two, False)


def _measured(asks: Sequence[Answered], ended: Mapping[tuple[int, int], bool], two: _Two) -> Iterator[Divergence]:
    made: list[tuple[Answered, Tokens]] = []
    for ask in asks:
        tokens = two.policy.tokens(ask)
        if isinstance(tokens, str):
            yield from (Divergence(ask.key, place, None, 0, tokens) for place in range(len(ask.responses)))
        elif tokens.group.branches:
            made.append((ask, tokens))
        else:
            yield from (Divergence(ask.key, place, None, 0, str(why)) for place, why in enumerate(tokens.branch))
    if not made:
        return
    groups = [tokens.group for _, tokens in made]
    policy = two.policy.score(groups, adapter=two.adapted)
    reference = two.reference.score(groups, adapter=False)
    for (ask, tokens), pi_B, ref_B in zip(made, policy, reference, strict=True):
        for place, branch in enumerate(tokens.branch):
            if isinstance(branch, str):
                yield Divergence(ask.key, place, None, 0, branch)
                continue
            pi_T, ref_T = pi_B[branch], ref_B[branch]
            if isinstance(pi_T, str) or isinstance(ref_T, str):
                yield Divergence(ask.key, place, None, 0, str(pi_T if isinstance(pi_T, str) else ref_T))
                continue
            closing = 0 if tokens.truncated[place] else _closing(two.policy, ask, place)
            own = len(pi_T) - closing + (closing > 0 and ended.get((ask.key, place), True))
            if own < 1:
                yield Divergence(ask.key, place, None, 0, "no_response_tokens")
                continue
            yield Divergence(ask.key, place, token_kl(pi_T[:own], ref_T[:own]), own)


def _closing(held: CausalLM, ask: Answered, place: int) -> int:
    """How many tokens the template writes behind the answer: of these the model draws the first, if it ends at all."""
    said = ask.responses[place]
    text = render(held.tokenizer, [*ask.messages, {"role": "assistant", "content": said}])
    for each in (said, said.strip()):
        if each and (at := text.rfind(each)) >= 0:
            return len(encode_texts(held.tokenizer, [text[at + len(each) :]])[0])
    return 0
