"""Judges, samplers and reward models behind a server: translation, every kind of failure, and that the key stays secret."""

import contextlib
import itertools
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import numpy as np
import pytest

from pairwright.backends import endpoint as endpoint_module
from pairwright.backends.answers import Answer, Ruling, retry_after, rule
from pairwright.backends.endpoint import Client, Endpoint, Job, _Key
from pairwright.backends.fake_endpoint import FakeEndpoint, Fault, Kind
from pairwright.backends.openai import (
    OpenAIJudge,
    OpenAISampler,
    RewardEndpoint,
    _Part,
    complaint,
    from_response,
    read_rewards,
    same_model,
    to_request,
    with_extra,
)
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Ask, ChatAsk, Decoding, Item

KEY = "sk-a-very-secret-key-0123456789"
USER = [{"role": "user", "content": "Rate it. Score: N"}]
WARM = Decoding(temperature=1.0, max_tokens=40)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "BACKOFF_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def asks(n: int) -> list[ChatAsk]:
    return [ChatAsk(i, [{"role": "user", "content": f"Rate number {i}. Score: N"}], seed=i) for i in range(n)]


def settings(server: FakeEndpoint, **more: Any) -> Endpoint:
    return Endpoint(server.url, "fake", **{"timeout_s": 5.0, **more})


class TestTranslation:
    def test_a_request_holds_what_was_asked_and_no_more(self) -> None:
        body = to_request(USER, model="m", seed=7, decoding=Decoding(0.5, 0.9, 3, 40), n=2, top_logprobs=50)
        assert body == {
            "model": "m", "messages": USER, "temperature": 0.5, "max_tokens": 40, "seed": 7, "top_p": 0.9, "top_k": 3,
            "n": 2, "logprobs": True, "top_logprobs": 20,
        }  # fmt: skip
        assert set(to_request(USER, model="m", seed=7, decoding=Decoding(0.5, 1.0, 0, 40))) == {
            "model", "messages", "temperature", "max_tokens", "seed",
        }  # fmt: skip

    def test_extra_adds_replaces_and_takes_out(self) -> None:
        assert with_extra({"max_tokens": 5, "seed": 1}, {"max_tokens": None, "max_completion_tokens": 5}) == {
            "seed": 1,
            "max_completion_tokens": 5,
        }

    def test_a_response_is_read_with_its_log_probabilities(self) -> None:
        top = [
            {"token": " 4", "logprob": -0.5},
            {"token": "\ufffd", "logprob": -3.0},
            {"token": "\ufffd", "logprob": -3.0},
        ]
        content = [{"token": " 5", "logprob": -1.0, "top_logprobs": top}]
        choice = {"message": {"content": "5"}, "finish_reason": "stop", "logprobs": {"content": content}}
        chat = from_response({"model": "m", "choices": [choice], "usage": {"completion_tokens": 1}})
        ((token, held),) = chat.choices[0].tokens
        assert (chat.model, chat.n_tokens, chat.choices[0][:2], token) == ("m", 1, ("5", "stop"), " 5")
        assert held == pytest.approx({" 4": -0.5, " 5": -1.0, "\ufffd": -3.0 + np.log(2)})

    @pytest.mark.parametrize(
        "logprobs",
        [
            {"tokens": ["7"], "token_logprobs": [-1]},
            {"content": {"7": -1}},
            {"content": "7"},
            {"content": ["7"]},
            {"content": [{"id": 3, "logprob": -1}]},
            {"content": [{"token": "7", "logprob": -1}, {"token": None, "logprob": -1}]},
            {"content": [{"token": "7", "logprob": -1, "top_logprobs": {"7": -1}}]},
            {"content": [{"token": "7", "logprob": -1, "top_logprobs": [{"id": 3, "logprob": -1}]}]},
            {"content": [{"token": "7", "logprob": -1, "top_logprobs": [None]}]},
            {"content": [{"token": "7", "logprob": "-1"}]},
            {"content": [{"token": "7", "logprob": float("nan")}]},
            {"content": [{"token": "7", "logprob": 1e3}]},
            {"content": [{"token": "7", "logprob": -(10**400)}]},
            [],
            7,
        ],
    )
    def test_log_probabilities_of_another_shape_are_none(self, logprobs: Any) -> None:
        choice = {"message": {"content": "7"}, "logprobs": logprobs}
        assert from_response({"choices": [choice]}).choices[0] == ("7", None, ())

    def test_the_tokens_of_several_choices_are_not_guessed(self) -> None:
        choice = {"message": {"content": "x"}}
        assert from_response({"choices": [choice, choice], "usage": {"completion_tokens": 2}}).n_tokens is None

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
            ({"content": None, "refusal": "I will not"}, "I will not"),
            ({"content": None}, None),
            ({"content": ""}, ""),
        ],
    )
    def test_a_content_in_parts_a_refusal_and_nothing_are_told_apart(self, message: Any, text: str | None) -> None:
        assert from_response({"choices": [{"message": message}]}).choices[0].text == text

    @pytest.mark.parametrize(
        "body", [[], {}, {"choices": None}, {"choices": []}, {"choices": [{}]}, {"choices": ["x"]}, 3]
    )
    def test_what_is_no_completion_is_a_complaint(self, body: Any) -> None:
        assert complaint(body)

    def test_a_model_may_be_named_with_its_date_and_in_no_other_way(self) -> None:
        assert same_model("gpt-x", "gpt-x-2026-08-06")
        assert same_model("gpt-x", "gpt-x-0613")
        assert same_model("gpt-x", None)
        assert not same_model("gpt-x", "gpt-x-mini")
        assert not same_model("gpt-x", "gpt")


class TestRulings:
    @pytest.mark.parametrize(
        ("answer", "kind", "told"),
        [
            (Answer(200, b'{"a": 1}'), "done", ""),
            (Answer(200, b"<html>"), "again", "not_json: HERE answered '<html>'"),
            (Answer(200, b"[" * 100_000), "again", "not_json"),
            (Answer(429, b"", wait_s=3.0), "again", "HTTP 429"),
            (Answer(429, b"", wait_s=3600.0), "lost", "asks to wait 3600 s"),
            (Answer(500, b'{"error": {"message": "out of order"}}'), "again", "out of order"),
            (Answer(408), "again", "HTTP 408"),
            (Answer(400, b'{"message": "too long"}'), "lost", "HTTP 400 from HERE: too long"),
            (Answer(422, b'{"detail": "no"}'), "lost", "HTTP 422"),
            (Answer(400, b'{"error": {"message": "x", "code": "model_not_found"}}'), "stop", "no such model"),
            (Answer(401), "stop", "wants a key"),
            (Answer(403), "stop", "may not"),
            (Answer(404), "stop", "no such route"),
            (Answer(302), "stop", "redirects"),
            (Answer(None, error="time_out: no"), "again", "time_out: no (HERE)"),
            (Answer(None, error="certificate", hopeless=True), "stop", "certificate"),
        ],
    )
    def test_every_answer_has_its_ruling(self, answer: Answer, kind: str, told: str) -> None:
        ruling = rule(answer, lambda _: None, where="HERE")
        assert ruling.kind == kind
        assert told in ruling.why

    @pytest.mark.parametrize("half", [b"\\ud800", b"\\uDfFf", b"\xed\xa0\x80"])
    def test_half_a_surrogate_pair_becomes_a_sign_that_can_be_written(self, half: bytes) -> None:
        data = b'{"a": ["3 ' + half + b'", 1.5, null], "b": "\\ud83d\\ude00", "message": "no ' + half + b'"}'
        body = rule(Answer(200, data), lambda _: None, where="HERE").body
        assert body == {"a": ["3 \ufffd", 1.5, None], "b": "\U0001f600", "message": "no \ufffd"}
        assert rule(Answer(400, data), lambda _: None, where="HERE").why == "HTTP 400 from HERE: no \ufffd"

    def test_retry_after_is_a_number_or_a_date(self) -> None:
        assert [retry_after(value, 0.0) for value in ("3", "0.5", "-1", "soon", "inf", None)] == [3, 0.5, 0, 0, 0, 0]
        assert retry_after(formatdate(1_000_060, usegmt=True), 1_000_000.0) == 60.0


class TestJudge:
    def test_every_ask_gets_its_own_reply(self) -> None:
        with FakeEndpoint(reply=lambda body, _: body["messages"][0]["content"]) as server:
            judge = OpenAIJudge(settings(server))
            replies = {reply.key: reply for reply in judge(asks(40))}
        assert [replies[i].text for i in range(40)] == [ask.messages[0]["content"] for ask in asks(40)]
        assert {reply.model for reply in replies.values()} == {"fake"}
        assert {reply.request_id for reply in replies.values()} == {call.request_id for call in server.calls}
        assert len(server.calls) == len({call.request_id for call in server.calls}) == 40

    @pytest.mark.parametrize("kind", ["429", "500", "503", "hang", "cut", "garbage", "empty", "slow"])
    def test_a_failure_that_passes_costs_no_reply_and_no_second_answer(self, kind: Kind) -> None:
        with FakeEndpoint(faults=[Fault(kind, share=0.4)]) as server:
            replies = list(OpenAIJudge(settings(server, timeout_s=0.5))(asks(30)))
        assert sorted(reply.key for reply in replies) == list(range(30))
        assert all(reply.text for reply in replies)
        assert len(server.answered) == 30
        assert set(server.answered.values()) == {1}
        assert sum(call.fault == kind for call in server.calls) > 3

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("500", "HTTP 500"), ("hang", "time_out"), ("cut", "connection_cut"), ("garbage", "not_json"),
            ("empty", "empty_choices"), ("400", "HTTP 400"),
        ],
    )  # fmt: skip
    def test_a_failure_that_stays_is_a_reason_and_the_others_go_on(self, kind: Kind, told: str) -> None:
        with FakeEndpoint(faults=[Fault(kind, tries=99, text="number 3.")]) as server:
            judge = OpenAIJudge(settings(server, timeout_s=0.3, retries=2))
            replies = {reply.key: reply for reply in judge(asks(6))}
        assert len(replies) == 6
        assert [key for key, reply in replies.items() if reply.text is None] == [3]
        assert str(replies[3].reason).startswith("judge_failed: ")
        assert told in str(replies[3].reason)
        tries = sum("number 3." in json.dumps(call.body) for call in server.calls)
        assert tries == (1 if kind == "400" else 3)
        assert judge.about["lost"] == 1

    @pytest.mark.parametrize("kind", ["401", "403", "404", "redirect", "wrong_model"])
    def test_what_cannot_pass_stops_the_run_and_names_the_address(self, kind: Kind) -> None:
        with FakeEndpoint(faults=[Fault(kind, tries=99)]) as server:
            with pytest.raises(BackendError, match=server.url):
                list(OpenAIJudge(settings(server, concurrency=1))(asks(50)))
            assert len(server.calls) <= 2

    def test_another_model_is_an_error_unless_it_is_allowed_and_is_recorded(self) -> None:
        with FakeEndpoint(faults=[Fault("wrong_model")]) as server:
            judge = OpenAIJudge(settings(server, any_model=True))
            (reply,) = judge(asks(1))
            assert reply.model == "another-model"
            assert judge.about["named"] == {"another-model": 1}
        with (
            FakeEndpoint(faults=[Fault("wrong_model")]) as server,
            pytest.raises(BackendError, match="'another-model'"),
        ):
            list(OpenAIJudge(settings(server))(asks(1)))

    def test_a_server_that_is_not_there_stops_the_run(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            with pytest.raises(BackendError, match=r"no server was reached.*refused.*127\.0\.0\.1"):
                list(OpenAIJudge(Endpoint(url, "m", retries=1))(asks(3)))

    def test_a_server_that_fails_for_ever_stops_the_run_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoint_module, "BACKOFF_S", 0.0001)
        with FakeEndpoint(faults=[Fault("500", tries=99)]) as server:
            with pytest.raises(BackendError, match="64 requests in a row"):
                list(OpenAIJudge(settings(server, retries=0))(asks(500)))
            assert 64 <= len(server.calls) < 150

    def test_a_server_that_is_silent_for_long_stops_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoint_module, "STOP_AFTER_S", 0.1)
        with FakeEndpoint(faults=[Fault("500", tries=99)]) as server:
            judge = OpenAIJudge(settings(server, retries=1, timeout_s=0.05, concurrency=2))
            with pytest.raises(BackendError, match="nothing was answered"):
                list(judge(asks(60)))
            assert len(server.calls) < 100

    def test_retry_after_is_waited_for(self) -> None:
        with FakeEndpoint(faults=[Fault("429", retry_after="0.6")]) as server:
            begun = time.monotonic()
            (reply,) = OpenAIJudge(settings(server))(asks(1))
            assert time.monotonic() - begun > 0.6
        assert reply.text

    def test_a_place_that_waits_is_free_for_another_request(self) -> None:
        faults = [Fault("429", text="number 0.", retry_after="1")]
        with FakeEndpoint(faults=faults) as server:
            replies = OpenAIJudge(settings(server, concurrency=1))(asks(10))
            order = [reply.key for reply in replies]
        assert order == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]

    def test_replies_come_as_they_are_ready(self) -> None:
        with FakeEndpoint(faults=[Fault("slow", text="number 0.")]) as server:
            order = [reply.key for reply in OpenAIJudge(settings(server, concurrency=4))(asks(8))]
        assert order[-1] == 0

    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_no_more_than_the_limit_are_in_flight(self, concurrency: int) -> None:
        with FakeEndpoint(latency_s=0.01) as server:
            list(OpenAIJudge(settings(server, concurrency=concurrency))(asks(40)))
        assert max(call.in_flight for call in server.calls) == concurrency

    def test_asks_are_pulled_a_little_ahead_and_never_all(self) -> None:
        with FakeEndpoint() as server:
            pulled = itertools.count()
            endless = (ask._replace(seed=next(pulled)) for ask in itertools.cycle(asks(1)))
            replies = OpenAIJudge(settings(server, concurrency=4))(endless)
            for taken in range(20):
                next(replies)
                assert next(pulled) <= 2 * 4 + 2 * taken + 2
            replies.close()

    def test_an_error_of_the_asks_reaches_the_caller(self) -> None:
        def broken() -> Iterator[ChatAsk]:
            yield asks(1)[0]
            raise KeyError("no such prompt")

        with FakeEndpoint() as server, pytest.raises(KeyError, match="no such prompt"):
            list(OpenAIJudge(settings(server))(broken()))

    def test_a_reply_with_half_a_surrogate_pair_can_be_written(self) -> None:
        with FakeEndpoint(reply=lambda *_: "Score: 3\n\ud800", model="fake") as server:
            (reply,) = OpenAIJudge(settings(server))(asks(1))
        assert reply.text == "Score: 3\n\ufffd"
        assert reply.text.encode()

    def test_an_empty_content_says_whether_it_was_cut(self) -> None:
        judge = OpenAIJudge(Endpoint("http://127.0.0.1:9", "m"))
        for finish, told in (("length", "judge_unfinished"), ("stop", "judge_failed: no content (finish_reason stop)")):
            body = {"choices": [{"message": {"content": None}, "finish_reason": finish}]}
            outcome = endpoint_module.Outcome(Job(asks(1)[0], "", {}), body, None, "id")
            assert judge._reply(outcome).reason == told

    def test_log_probabilities_come_back_and_their_absence_is_counted(self) -> None:
        ask = asks(1)[0]._replace(top_logprobs=5)
        with FakeEndpoint() as server:
            (reply,) = OpenAIJudge(settings(server))([ask])
            assert "".join(token for token, _ in reply.tokens) == reply.text
            judge = OpenAIJudge(settings(server, extra={"logprobs": None}))
            list(judge([ask]))
            assert judge.about["logprobs_ignored"] == 1

    def test_many_failures_of_all_kinds_lose_and_double_nothing(self) -> None:
        kinds: list[Kind] = ["429", "500", "cut", "garbage", "empty", "slow"]
        faults = [Fault(kind, share=0.1, tries=2) for kind in kinds]
        with FakeEndpoint(faults=faults) as server:
            replies = list(OpenAIJudge(settings(server))(asks(300)))
        assert Counter(reply.key for reply in replies) == Counter(range(300))
        assert set(server.answered.values()) == {1}
        assert len(server.answered) == 300
        assert [reply for reply in replies if not reply.text] == []

    def test_a_kept_connection_that_the_server_closed_is_opened_again(self) -> None:
        with FakeEndpoint() as server, contextlib.ExitStack() as later:

            def restarting() -> Iterator[ChatAsk]:
                yield asks(1)[0]
                while not server.calls:
                    time.sleep(0.01)
                time.sleep(0.1)  # the worker has read the reply and waits for work
                server.__exit__()
                later.enter_context(FakeEndpoint(port=int(server.url.split(":")[2].split("/")[0])))
                yield asks(2)[1]

            judge = OpenAIJudge(settings(server, concurrency=1, retries=0))
            assert [reply.reason for reply in judge(restarting())] == [None, None]

    def test_a_run_that_is_given_up_leaves_no_thread_even_when_its_requests_hang(self) -> None:
        with FakeEndpoint(faults=[Fault("hang", text="number 1.")]) as server:
            before = set(threading.enumerate())
            replies = OpenAIJudge(settings(server, timeout_s=60, concurrency=2))(asks(2))
            next(replies)
            begun = time.monotonic()
            replies.close()
            assert time.monotonic() - begun < 1.5
            ours = [each for each in set(threading.enumerate()) - before if "_work" in each.name]
            assert ours == []

    def test_after_a_rest_one_request_goes_ahead_of_the_others(self) -> None:
        place = endpoint_module._Place("http://127.0.0.1:9")
        again = Ruling("again")
        for _ in range(endpoint_module.REST_AFTER):
            assert place.is_free(0.0)
            place.in_flight += 1
            place.note(again, started=0.0, now=0.0, jitter=1.0)
        assert not place.is_free(0.0)
        assert place.is_free(100.0)
        place.in_flight += 1
        assert not place.is_free(100.0)
        place.note(Ruling("done"), started=100.0, now=100.0, jitter=1.0)
        place.in_flight += 1
        assert place.is_free(100.0)


class TestDeadline:
    @contextlib.contextmanager
    def dripping(self, head: bytes, drop: bytes, every_s: float = 0.05) -> Iterator[str]:
        """The URL of a server that begins an answer and goes on drop by drop, until it is left."""
        ended = threading.Event()

        def serve() -> None:
            taken, _ = listening.accept()
            with taken, contextlib.suppress(OSError):
                taken.recv(65536)
                taken.sendall(head)
                while not ended.wait(every_s):
                    taken.sendall(drop)

        with socket.create_server(("127.0.0.1", 0)) as listening:
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            ended.set()
            thread.join(5)

    @pytest.mark.parametrize(
        ("head", "drop"),
        [
            (b"", b"H"),
            (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ],
        ids=["status", "header", "body", "chunk_size", "chunks", "trailer", "continue"],
    )
    def test_a_try_ends_in_time_wherever_the_server_drips(self, head: bytes, drop: bytes) -> None:
        with self.dripping(head, drop) as url:
            begun = time.monotonic()
            (reply,) = OpenAIJudge(Endpoint(url, "fake", timeout_s=0.4, retries=0))(asks(1))
            assert time.monotonic() - begun < 1.5
        assert "time_out" in str(reply.reason)

    def test_a_handshake_that_is_never_answered_ends_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            begun = time.monotonic()
            url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
            (reply,) = OpenAIJudge(Endpoint(url, "fake", timeout_s=0.4, retries=0))(asks(1))
            assert time.monotonic() - begun < 1.5
        assert "time_out" in str(reply.reason)

    def test_a_deadline_is_that_of_the_try_and_not_of_the_connection(self) -> None:
        with FakeEndpoint(latency_s=0.15) as server:
            judge = OpenAIJudge(settings(server, timeout_s=0.4, retries=0, concurrency=1))
            assert [reply.reason for reply in judge(asks(5))] == [None] * 5


class TestSeveralAddresses:
    def test_requests_are_spread_over_them(self) -> None:
        with FakeEndpoint(latency_s=0.01) as one, FakeEndpoint(latency_s=0.01) as two:
            list(OpenAIJudge(Endpoint((one.url, two.url), "fake", concurrency=8))(asks(80)))
        assert len(one.calls) + len(two.calls) == 80
        assert min(len(one.calls), len(two.calls)) >= 25

    def test_a_slow_one_gets_less(self) -> None:
        with FakeEndpoint(latency_s=0.005) as one, FakeEndpoint(latency_s=0.1) as two:
            list(OpenAIJudge(Endpoint((one.url, two.url), "fake", concurrency=4))(asks(80)))
        assert len(one.calls) > 3 * len(two.calls)

    def test_a_dead_one_is_left_alone_and_nothing_is_lost(self) -> None:
        with FakeEndpoint(latency_s=0.005) as one, FakeEndpoint(faults=[Fault("500", tries=99)]) as two:
            endpoint = Endpoint((one.url, two.url), "fake", concurrency=4)
            replies = list(OpenAIJudge(endpoint)(asks(120)))
        assert all(reply.text for reply in replies)
        assert set(one.answered.values()) == {1}
        assert len(two.calls) < 60

    def test_one_that_was_never_started_does_not_stop_the_run(self) -> None:
        with FakeEndpoint() as one, socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            replies = list(OpenAIJudge(Endpoint((dead, one.url), "fake"))(asks(30)))
        assert all(reply.text for reply in replies)

    def test_one_that_asks_to_wait_is_waited_for_while_the_other_works(self) -> None:
        with FakeEndpoint(faults=[Fault("429", tries=99, retry_after="30")]) as one, FakeEndpoint() as two:
            begun = time.monotonic()
            replies = list(OpenAIJudge(Endpoint((one.url, two.url), "fake", concurrency=2))(asks(40)))
            assert time.monotonic() - begun < 5
        assert all(reply.text for reply in replies)
        assert len(one.calls) <= 2


class TestSecrets:
    @pytest.fixture(autouse=True)
    def with_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def test_the_key_is_sent_and_no_other_variable_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTHER_KEY", "other-" + KEY)
        with FakeEndpoint() as server:
            list(OpenAIJudge(settings(server))(asks(1)))
            list(OpenAIJudge(settings(server, api_key_env="OTHER_KEY"))(asks(1)))
            list(OpenAIJudge(settings(server, api_key_env="NOT_SET"))(asks(1)))
            assert server.keys == {f"Bearer {KEY}", f"Bearer other-{KEY}", None}

    @pytest.mark.parametrize("kind", ["echo", "500", "401", "cut", "garbage", "redirect", "wrong_model"])
    def test_it_is_in_no_reply_reason_error_trace_repr_or_log(
        self, kind: Kind, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        told: list[str] = []
        with FakeEndpoint(faults=[Fault(kind, tries=99)]) as server:
            judge = OpenAIJudge(settings(server, retries=1))
            try:
                told += [repr(reply) for reply in judge(asks(3))]
            except BackendError as error:
                told += ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())]
            assert f"Bearer {KEY}" in server.keys
        told += [repr(judge), repr(judge.endpoint), repr(judge.about), repr(vars(judge)), repr(vars(judge._client))]
        told += [caplog.text, *capfd.readouterr(), judge.fingerprint, repr(judge._client._key)]
        assert len(told[0]) > 20
        assert not [text for text in told if KEY in text]

    def test_a_server_that_repeats_it_in_a_reply_does_not_get_it_into_the_table(self) -> None:
        with FakeEndpoint(reply=lambda *_: f"Your key is {KEY}") as server:
            (reply,) = OpenAIJudge(settings(server))(asks(1))
        assert reply.text == "Your key is <key>"

    @pytest.mark.parametrize(
        "spell",
        [
            lambda key: json.dumps(key)[1:-1],
            lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
            lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
            lambda key: "".join(f"\\u{ord(sign):04X}" for sign in key),
            lambda key: json.dumps(key)[1:-1].replace("+", "\\u002b").replace("/", "\\u002F"),
        ],
    )
    def test_it_is_found_however_json_spells_it(self, spell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        key = 'sk-abc/def+ghi\\jkl"mno-pqrstu'
        monkeypatch.setenv("OPENAI_API_KEY", key)
        held = _Key("OPENAI_API_KEY")
        data = b'{"reply": "Your key is ' + spell(key).encode() + b'."}'
        assert held.hide(Answer(200, data)).data == b'{"reply": "Your key is <key>."}'
        assert held.hide(Answer(400, data)).data == b'{"reply": "Your key is <key>."}'
        other = b'{"reply": "sk-abc\\/def, and \\"nothing\\" more\\n"}'
        assert held.hide(Answer(200, other)).data == other
        begun = time.process_time()
        held.hide(Answer(200, b"\\" * 200_000))
        assert time.process_time() - begun < 1

    def test_a_key_with_signs_that_json_escapes_is_in_no_reply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = 'sk-abc/def+ghi\\jkl"mno-pqrstu'
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with FakeEndpoint(reply=lambda *_: f"Your key is {key}") as server:
            (reply,) = OpenAIJudge(settings(server))(asks(1))
        assert reply.text == "Your key is <key>"

    def test_a_short_key_that_is_a_word_leaves_replies_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
        with FakeEndpoint(reply=lambda *_: "EMPTY is a word") as server:
            (reply,) = OpenAIJudge(settings(server))(asks(1))
        assert reply.text == "EMPTY is a word"

    @pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\u00e9\u00e9"])
    def test_a_key_that_cannot_be_a_header_is_refused_unsaid(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
            OpenAIJudge(Endpoint("http://127.0.0.1:9", "m"))
        assert "sk-" not in str(caught.value)

    @pytest.mark.parametrize("part", ["user:hunter2@", "hunter2@"])
    def test_a_base_url_with_a_password_is_refused_unsaid(self, part: str) -> None:
        with pytest.raises(ConfigError, match="host example") as caught:
            Endpoint(f"https://{part}example.org/v1", "m")
        assert "hunter2" not in str(caught.value)
        with pytest.raises(ConfigError) as caught:
            Endpoint("https://example.org/v1?key=hunter2", "m")
        assert "hunter2" not in str(caught.value)

    def test_a_fault_of_ours_reaches_the_caller_without_the_headers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(endpoint_module, "dial", broken)
        with FakeEndpoint() as server, pytest.raises(RuntimeError, match="a bug") as caught:
            list(OpenAIJudge(settings(server))(asks(1)))
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert KEY not in shown
        assert "_exchange" in shown  # where it happened is told all the same

    def test_the_client_does_not_travel_with_its_key(self) -> None:
        packed = pickle.dumps(Client(Endpoint("http://127.0.0.1:9", "m"))._key)
        assert KEY.encode() not in packed
        assert pickle.loads(packed).headers() == {"Authorization": f"Bearer {KEY}"}  # out of this environment


SCRIPT = """
import sys
from pairwright.backends.endpoint import Endpoint
from pairwright.backends.openai import OpenAIJudge
from pairwright.protocols import ChatAsk

asks = [ChatAsk(i, [{"role": "user", "content": str(i)}], seed=i) for i in range(40)]
for reply in OpenAIJudge(Endpoint(sys.argv[1], "fake", timeout_s=60))(asks):
    print(reply.key, flush=True)
"""


def test_ctrl_c_ends_a_run_whose_requests_hang() -> None:
    with FakeEndpoint(faults=[Fault("hang", share=0.5)]) as server:
        command = [sys.executable, "-c", SCRIPT, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            assert time.monotonic() - begun < 5
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0


class TestSampler:
    def draws(
        self, faults: list[Fault], n: int = 4, count: int = 3, **more: Any
    ) -> tuple[Any, OpenAISampler, FakeEndpoint]:
        asked = [
            Ask(i, [{"role": "user", "content": f"Speak of {i} green stones, rivers, birds."}], n, 100 * i)
            for i in range(count)
        ]
        with FakeEndpoint(faults=faults, **more) as server:
            sampler = OpenAISampler(settings(server, retries=1))
            drawn = sorted(sampler(asked, WARM))
        assert [(each.key, each.draw) for each in drawn] == [(i, k) for i in range(count) for k in range(n)]
        return drawn, sampler, server

    def test_every_draw_of_every_ask_comes_back_once(self) -> None:
        drawn, sampler, server = self.draws([])
        assert len({(each.key, each.text) for each in drawn}) == 12
        assert len(server.calls) == 3
        assert "n_not_honoured" not in sampler.about

    @pytest.mark.parametrize(("kind", "calls"), [("one_choice", 12), ("half", 9)])
    def test_what_a_server_leaves_out_is_drawn_with_further_seeds(self, kind: Kind, calls: int) -> None:
        drawn, sampler, server = self.draws([Fault(kind, tries=99)])
        assert all(each.text for each in drawn)
        assert len({(each.key, each.text) for each in drawn}) == 12
        assert len(server.calls) == calls
        assert len({(call.body["seed"], str(call.body["messages"])) for call in server.calls}) == calls
        assert sampler.about["n_not_honoured"] == 3

    def test_a_server_that_gives_one_text_over_and_over_is_noticed(self) -> None:
        drawn, sampler, _ = self.draws([], reply=lambda *_: "the same")
        assert {each.text for each in drawn} == {"the same"}
        assert sampler.about["identical_draws"] == 3
        assert self.draws([])[1].about["identical_draws"] == 0

    def test_a_lost_call_loses_its_draws_and_no_others(self) -> None:
        drawn, _, _ = self.draws([Fault("500", tries=99, text="of 1 green")])
        lost = [each for each in drawn if each.text is None]
        assert [(each.key, each.draw) for each in lost] == [(1, k) for k in range(4)]
        assert all(str(each.reason).startswith("generation_failed: HTTP 500") for each in lost)

    def test_more_choices_than_asked_are_not_taken(self) -> None:
        drawn, _, _ = self.draws([], n=1)
        assert len(drawn) == 3
        sampler = OpenAISampler(Endpoint("http://127.0.0.1:9", "m"))
        choice = {"message": {"content": "x"}}
        job = sampler._asked(_Part(Ask(0, USER, 1, 0), 0, 1), WARM)
        outcome = endpoint_module.Outcome(job, {"choices": [choice, choice]}, None, "id")
        assert len(list(sampler._drawn(outcome))) == 1

    def test_the_same_call_gives_the_same_texts(self) -> None:
        assert self.draws([])[0] == self.draws([])[0]

    def test_greedy_draws_of_several_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="temperature 0"):
            list(OpenAISampler(Endpoint("http://127.0.0.1:9", "m"))([Ask(0, USER, 2, 0)], Decoding(temperature=0)))


def items(*texts: str) -> list[Item]:
    return [Item(i, USER, text) for i, text in enumerate(texts)]


class TestRewards:
    @pytest.mark.parametrize("route", ["classify", "pooling", "score"])
    @pytest.mark.parametrize("rendered", [False, True])
    def test_raw_logits_come_back_by_item(self, route: str, rendered: bool) -> None:
        render = (lambda turns: turns[-1]["content"]) if rendered else None
        with FakeEndpoint(reward=lambda text: -len(text) / 10) as server:
            model = RewardEndpoint(settings(server), route=route, render=render)
            found = {each.key: each.scores for each in model(items("four", "sixsix", ""))}
        assert found[0] == {"": -0.4}
        assert found[1] == {"": -0.6}
        assert all(call.body["use_activation"] is False for call in server.calls)
        assert {call.route for call in server.calls} == {f"/{route}"}

    @pytest.mark.parametrize("count", [3, 30])
    def test_a_softmax_over_one_logit_is_refused_before_any_row(self, count: int) -> None:  # fault F10
        with FakeEndpoint(reward=lambda _: 1.0) as server:
            written = []
            with pytest.raises(BackendError, match="softmaxed_single_logit") as caught:
                for scored in RewardEndpoint(settings(server))(items(*map(str, range(count)))):
                    written.append(scored)
        assert written == []
        if count == 3:
            assert all(key in str(caught.value) for key in "012")

    def test_raw_logits_that_happen_to_be_one_are_kept(self) -> None:  # control of F10
        values = {"good": 0.31, "bad": -1.2, "fine": 1.0}
        with FakeEndpoint(reward=values.__getitem__) as server:
            found = RewardEndpoint(settings(server))(items(*values))
            assert {each.key: each.scores[""] for each in found} == {0: 0.31, 1: -1.2, 2: 1.0}
            raw = RewardEndpoint(settings(server), render=lambda turns: turns[-1]["content"])
            assert [each.scores[""] for each in raw(items("fine"))] == [1.0]  # no probability, so no softmax

    def test_every_shape_gives_a_float_per_item_and_head(self) -> None:  # fault F11
        assert [row[""] for row in read_rewards([[0.3], [-0.1], [0.7]], n=3)] == [0.3, -0.1, 0.7]
        assert [row[""] for row in read_rewards({"logits": [0.3, -0.1]}, n=2)] == [0.3, -0.1]
        two = [[0.2, 1.1], [0.9, 0.4]]
        assert read_rewards(two, n=2, heads=("help", "safe")) == [
            {"help": 0.2, "safe": 1.1},
            {"help": 0.9, "safe": 0.4},
        ]
        with pytest.raises(BackendError, match="head_not_named: the model gives 2 outputs"):
            read_rewards(two, n=2)
        for body in (0.5, [0.5], [[0.5]], {"score": 0.5}, {"data": [{"index": 0, "score": 0.5}]}, {"rewards": [0.5]}):
            (row,) = read_rewards(body, n=1)
            assert row == {"": 0.5}
            assert type(row[""]) is float
        assert type(read_rewards(1, n=1)[0][""]) is float

    @pytest.mark.parametrize("body", ["0.5", {"data": [{}]}, [True], [[1.0], [1.0, 2.0]], {"label": "good"}, []])
    def test_another_shape_is_an_error(self, body: Any) -> None:
        with pytest.raises(BackendError, match=r"reward_shape|head_not_named"):
            read_rewards(body, n=1)

    def test_a_reward_that_is_no_number_is_null(self) -> None:
        with FakeEndpoint(reward=lambda text: float("nan") if text == "b" else 2.0) as server:
            found = {each.key: each for each in RewardEndpoint(settings(server))(items("a", "b"))}
        assert (found[0].scores, found[1].scores, found[1].reason) == ({"": 2.0}, {}, "score_not_finite")
        assert np.isnan(read_rewards([{"score": None}], n=1)[0][""])

    def test_a_lost_call_is_a_reason(self) -> None:
        with FakeEndpoint(faults=[Fault("500", tries=99, text='"b"')]) as server:
            found = {each.key: each for each in RewardEndpoint(settings(server, retries=1))(items("aa", "b"))}
        assert found[0].scores
        assert str(found[1].reason).startswith("scoring_failed: HTTP 500")

    def test_an_unknown_route_and_heads_that_stand_twice_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="known: classify, pooling, score"):
            RewardEndpoint(Endpoint("http://127.0.0.1:9", "m"), route="rank")
        with pytest.raises(ConfigError, match="heads"):
            RewardEndpoint(Endpoint("http://127.0.0.1:9", "m"), heads=("a", "a"))


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"base_urls": ()}, "at least one"),
            ({"base_urls": "localhost:8000"}, "is not http"),
            ({"base_urls": "http://host:port/v1"}, "host or port"),
            ({"base_urls": "ftp://host/v1"}, "is not http"),
            ({"model": ""}, "model"),
            ({"concurrency": 0}, "concurrency = 0"),
            ({"timeout_s": 0}, "timeout_s"),
            ({"retries": -1}, "retries"),
            ({"extra": {"messages": []}}, "extra may not set 'messages'"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, change: dict[str, Any], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            Endpoint(**{"base_urls": "http://127.0.0.1:9", "model": "m", **change})

    def test_the_fingerprint_is_of_the_model_and_not_of_the_address(self) -> None:
        one = Endpoint("http://127.0.0.1:9", "m")
        assert one.fingerprint == Endpoint("http://127.0.0.1:10", "m", concurrency=2).fingerprint
        assert one.fingerprint != Endpoint("http://127.0.0.1:9", "n").fingerprint
        assert one.fingerprint != Endpoint("http://127.0.0.1:9", "m", extra={"top_p": 0.5}).fingerprint

    def test_making_one_calls_nobody(self) -> None:
        begun = time.perf_counter()
        OpenAIJudge(Endpoint("http://192.0.2.1/v1", "m"))
        assert time.perf_counter() - begun < 0.5
        assert os.environ.get("OPENAI_API_KEY") is None
