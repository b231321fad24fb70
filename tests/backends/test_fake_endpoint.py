"""The server without a model: what it answers, how it breaks, and that its notes can be trusted."""

import doctest
import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any, get_args

import pytest

from pairwright.backends import fake_endpoint
from pairwright.backends.fake_endpoint import FakeEndpoint, Fault, Kind, chance, completion, reply
from pairwright.errors import ConfigError

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Tell me of stones and rivers."}], "seed": 3}


def post(server: FakeEndpoint, route: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(server.url.removesuffix("/v1") + route, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def test_the_example_of_the_module_runs() -> None:
    assert doctest.testmod(fake_endpoint).failed == 0


def test_the_same_request_gets_the_same_answer_in_every_server() -> None:
    answers = []
    for _ in range(2):
        with FakeEndpoint() as server:
            answers += [post(server, "/v1/chat/completions", {**CHAT, "n": 3, "temperature": 1.0}) for _ in range(2)]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert len({choice["message"]["content"] for choice in answers[0]["choices"]}) == 3


def test_seed_and_choice_change_the_text_only_above_temperature_0() -> None:
    warm, cold = {**CHAT, "temperature": 1.0}, {**CHAT, "temperature": 0}
    assert len({reply({**warm, "seed": seed}, choice) for seed in range(3) for choice in range(3)}) == 9
    assert len({reply({**cold, "seed": seed}, choice) for seed in range(3) for choice in range(3)}) == 1


def test_a_text_is_cut_at_max_tokens_and_says_so() -> None:
    body = {**CHAT, "max_tokens": 1, "temperature": 0}
    told = completion(body, None, "fake", lambda *_: "three words here")
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["choices"][0]["message"]["content"] == "three"


def test_log_probabilities_add_up_to_no_more_than_one() -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 5}
    tokens = completion(body, None, "fake", lambda *_: "Score: 4")["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "Score: 4"
    assert {each["token"]: round(2 ** (each["logprob"] / 0.6931471805599453), 6) for each in tokens[-1]["top_logprobs"]} == {
        " 4": 0.5, " 3": 0.25, " 5": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("route", "body", "told"),
    [
        ("/classify", {"text": "four"}, [{"embedding": [4.0], "meta_info": {}}]),
        ("/classify", {"messages": [{"content": "four"}]}, {"probs": [4.0]}),
        ("/v1/classify", {"input": "four"}, {"probs": [1.0]}),  # the softmax of a single logit
        ("/pooling", {"input": "four"}, {"data": [4.0]}),
        ("/score", {"text_1": "a question", "text_2": "four"}, {"score": 4.0}),
    ],
)
def test_reward_routes_answer_in_the_shapes_of_the_servers(route: str, body: dict[str, Any], told: Any) -> None:
    with FakeEndpoint() as server:
        answer = post(server, route, body)
    assert answer == told if isinstance(told, list) else told.items() <= answer["data"][0].items()


def test_it_names_its_model_and_its_routes() -> None:
    with FakeEndpoint(model="m") as server:
        with urllib.request.urlopen(server.url + "/models", timeout=5) as response:
            assert json.load(response)["data"][0]["id"] == "m"
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(server, "/v1/nowhere", CHAT)
        caught.value.close()
        assert caught.value.code == 404


def test_a_fault_strikes_the_first_tries_of_a_body_and_a_share_of_bodies() -> None:
    assert [Fault("500", tries=2).hits("x", tried) for tried in range(3)] == [True, True, False]
    assert not Fault("500", text="bad").hits("good", 0)
    struck = sum(Fault("500", share=0.1).hits(f"body {i}", 0) for i in range(5000))
    assert 430 < struck < 570  # fixed texts: never flaky; 3.3 sd of a fair draw
    assert 0 <= chance("a") < 1


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: 400"):
        Fault("meteor")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_fault_can_be_seen_and_is_noted(kind: Kind) -> None:
    with FakeEndpoint(faults=[Fault(kind)]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]), timeout=0.5)
        body = {**CHAT, "n": 4, "temperature": 1.0}
        plain = completion(body, None, "fake", reply)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        try:
            response = connection.getresponse()
            seen: Any = (response.status, json.loads(response.read()))
        except (TimeoutError, http.client.IncompleteRead, ValueError) as error:
            seen = type(error).__name__
        connection.close()
    assert (seen == (200, plain)) == (kind == "slow")
    assert [call.fault for call in server.calls] == [kind]


def test_it_ends_while_a_call_hangs() -> None:
    before = threading.active_count()
    with FakeEndpoint(faults=[Fault("hang")]) as server:
        waiting = http.client.HTTPConnection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]), timeout=5)
        waiting.request("POST", "/v1/chat/completions", json.dumps(CHAT))
        while not server.in_flight:
            time.sleep(0.01)
    waiting.close()
    for thread in threading.enumerate():
        if "process_request" in thread.name:
            thread.join(5)
    assert threading.active_count() == before
    assert server.statuses == [None]
