"""Judge and sampler against a real server: llama.cpp with SmolLM2-135M on loopback, started here.

The model is far too small to judge; a grammar makes it keep the form. What is tested is the wire, not its opinion.
"""

import json
import math
import urllib.request
from collections.abc import Iterator

import polars as pl
import pytest

from pairwright.backends.endpoint import Endpoint
from pairwright.backends.openai import OpenAIJudge, OpenAISampler, to_request
from pairwright.backends.openvino import EMBEDDED, model_file
from pairwright.errors import BackendError, MissingDependency
from pairwright.protocols import Ask, ChatAsk, Decoding
from pairwright.score.judge import JudgeSettings, Question, Rubric, pairwise_asks, pointwise_asks
from pairwright.score.judged import (
    comparisons_of,
    judged,
    judgements_of,
    pairwise_scores,
    pointwise_scores,
    position_bias,
)
from pairwright.tables import COMPARISONS, JUDGEMENTS, PROMPTS, RESPONSES, SCORES, conform, frame

pytestmark = pytest.mark.model
TEXTS = ["The capital of France is Paris.", "I like turtles.", "Paris!"]
GRADE = "{prompt}\n{response}\nGrade the second text from 1 to 5. Answer with one line, like this:\nScore: 3"
COMPARE = "{prompt}\nA: {first}\nB: {second}\nWhich is better? Answer with one line, like this:\nVerdict: A"
FORMS = {"pointwise": 'root ::= "Score: " [1-5]', "pairwise": 'root ::= "Verdict: " ("A" | "B" | "tie")'}
EXPECTED = JudgeSettings(expectation=True, max_tokens=12)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    xllamacpp = pytest.importorskip("xllamacpp")
    try:
        weights = model_file(EMBEDDED)
    except MissingDependency as missing:
        pytest.skip(str(missing))
    plan = xllamacpp.CommonParams()
    plan.model.path, plan.model_alias = str(weights), {"smollm2"}
    plan.hostnames, plan.port = ["127.0.0.1"], 0
    plan.n_parallel, plan.n_ctx, plan.verbosity, plan.warmup = 4, 4096, -1, False
    plan.cpuparams.n_threads = 1  # its threads spin: two of them on a busy machine wait for each other
    server = xllamacpp.Server(plan)
    yield f"{server.listening_address}/v1"
    del server


def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    prompts = [{"prompt_id": "p", "prompt": [{"role": "user", "content": "What is the capital of France?"}]}]
    rows = [
        {"prompt_id": "p", "response_id": str(i), "response": text, "source": "m", "sample": i}
        for i, text in enumerate(TEXTS)
    ]
    return frame(PROMPTS, prompts), frame(RESPONSES, rows)


def judge_of(url: str, mode: str, concurrency: int = 4) -> OpenAIJudge:
    grammar = {"grammar": FORMS[mode]} if mode else {}
    return OpenAIJudge(Endpoint(url, "smollm2", concurrency=concurrency, extra={**grammar, "cache_prompt": False}))


def pointwise(url: str) -> tuple[list[Question], pl.DataFrame, Rubric]:
    """One request at a time: with four in a batch one of the expected scores moved by 0.1 on this quantised model."""
    rubric = Rubric(high=5, template=GRADE)
    questions = list(pointwise_asks(*tables(), EXPECTED, rubric))
    rows = judged(questions, judge_of(url, "pointwise", 1), EXPECTED, rubric)
    return questions, conform(judgements_of(rows), JUDGEMENTS, where="test"), rubric


def test_expected_scores_are_those_of_the_raw_log_probabilities(url: str) -> None:
    questions, judgements, rubric = pointwise(url)
    scores = conform(pointwise_scores(judgements, tables()[1], EXPECTED, rubric), SCORES, where="test")
    by_hand = []
    for question in questions:  # second route: no code of ours between the server and the sum
        ask = question.ask
        body = {
            "model": "smollm2", "messages": ask.messages, "temperature": 0, "max_tokens": 12, "seed": ask.seed,
            "logprobs": True, "top_logprobs": 20, "grammar": FORMS["pointwise"], "cache_prompt": False,
        }  # fmt: skip
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            choice = json.load(response)["choices"][0]
        (at,) = [token for token in choice["logprobs"]["content"] if token["token"].strip().isdigit()]
        p = {int(e["token"]): math.exp(e["logprob"]) for e in at["top_logprobs"] if e["token"].strip() in [*"12345"]}
        by_hand.append(sum(k * v for k, v in p.items()) / sum(p.values()))
    assert scores["score"].to_list() == pytest.approx(by_hand, abs=1e-9)
    assert len(set(scores["score"].to_list())) == 3  # one grade each by its text, three by its probabilities
    assert set(judgements["model"]) == {"smollm2"}
    assert judgements["reply"].str.contains(r"^Score: [1-5]$").all()
    assert judgements["n_tokens"].min() > 3


def test_pairs_are_judged_in_both_orders(url: str) -> None:
    settings, rubric = JudgeSettings(mode="pairwise", max_tokens=12), Rubric(template=COMPARE)
    prompts, responses = tables()
    responses = responses.head(2)
    rows = judged(pairwise_asks(prompts, responses, settings, rubric), judge_of(url, "pairwise"), settings, rubric)
    comparisons = conform(comparisons_of(judgements_of(rows)), COMPARISONS, where="test")
    assert comparisons["shown_first"].to_list() == ["left", "right"]
    assert comparisons["outcome"].null_count() == 0
    bias = position_bias(comparisons)
    scores = pairwise_scores(comparisons, responses, settings, rubric)
    assert (bias.n, bias.consistent, bias.first_both) == (1, 0, 1)  # it says A, whatever A is
    assert scores["reason"].to_list() == ["order_inconsistent"] * 2


def test_a_model_that_does_not_keep_the_form_gives_nulls_and_its_words_are_kept(url: str) -> None:
    settings, rubric = JudgeSettings(max_tokens=10), Rubric()
    prompts, responses = tables()
    (row,) = judged(pointwise_asks(prompts, responses.head(1), settings, rubric), judge_of(url, ""), settings, rubric)
    assert (row["score"], row["reason"]) == (None, "judge_unfinished")
    assert len(str(row["reply"])) > 10


def test_four_draws_differ_and_a_seed_repeats_them(url: str) -> None:
    sampler = OpenAISampler(Endpoint(url, "smollm2", extra={"cache_prompt": False}))
    decoding = Decoding(temperature=1.0, top_p=1.0, max_tokens=10)
    ask = Ask(0, [{"role": "user", "content": "Tell me a story."}], 4, 7)
    first, again, other = (
        [each.text for each in sorted(sampler([asked], decoding))] for asked in (ask, ask, ask._replace(seed=8))
    )
    assert len(set(first)) == 4
    assert all(first)
    assert first == again
    assert first != other
    assert "n_not_honoured" not in sampler.about


def test_a_prompt_beyond_the_context_is_a_reason_and_another_model_an_error(url: str) -> None:
    long = ChatAsk(0, [{"role": "user", "content": "word " * 5000}], seed=0, max_tokens=2)
    short = long._replace(key=1, messages=[{"role": "user", "content": "Hi"}])
    replies = {reply.key: reply for reply in judge_of(url, "")([long, short])}
    assert "HTTP 400" in str(replies[0].reason)
    assert "context" in str(replies[0].reason)
    assert replies[1].text
    with pytest.raises(BackendError, match="wrong_model: asked for 'gpt', the server answered as 'smollm2'"):
        list(OpenAIJudge(Endpoint(url, "gpt"))([short]))


def test_a_request_of_ours_is_one_the_server_understands_in_full(url: str) -> None:
    decoding = Decoding(temperature=0.5, top_p=0.9, top_k=5, max_tokens=3)
    body = to_request(
        [{"role": "user", "content": "Hi"}], model="smollm2", seed=1, decoding=decoding, n=2, top_logprobs=3
    )
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        choices = json.load(response)["choices"]
    assert len(choices) == 2
    assert all(len(token["top_logprobs"]) == 3 for each in choices for token in each["logprobs"]["content"])
