"""A server without a model, on loopback: deterministic, part of the product, for tests and documents of yours and ours.

It speaks chat completions (with n, seed, logprobs), /v1/models, and the classify, pooling and score routes of reward
servers. It breaks on purpose where told to, and notes every call, so that a test can prove that nothing was asked twice
and nothing was lost.

>>> from pairwright.backends.endpoint import Endpoint
>>> from pairwright.backends.fake_endpoint import FakeEndpoint, Fault
>>> from pairwright.backends.openai import OpenAIJudge
>>> from pairwright.protocols import ChatAsk
>>> with FakeEndpoint(faults=[Fault("500")]) as server:
...     judge = OpenAIJudge(Endpoint(server.url, "fake"))
...     replies = list(judge([ChatAsk(0, [{"role": "user", "content": "Rate it. Score: N"}], seed=1)]))
>>> replies[0].text, server.statuses
('Score: 1', [500, 200])

From a shell: python -m pairwright.backends.fake_endpoint --port 8000
"""

import argparse
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, get_args

from pairwright.errors import ConfigError
from pairwright.tables import canonical_json

Kind = Literal[
    "400",
    "401",
    "403",
    "404",
    "429",
    "500",
    "503",
    "hang",  # no answer before the server ends
    "cut",  # the connection ends in the middle of the body
    "garbage",  # status 200, but no JSON
    "empty",  # no choices
    "wrong_model",
    "one_choice",  # n is ignored
    "half",  # half of the choices are missing
    "identical",  # every choice is the same, whatever the seed
    "slow",  # an answer 0.2 s late: others overtake it
    "echo",  # an error that repeats the request's headers
    "redirect",
]
Reply = Callable[[dict[str, Any], int], str]  # (body, number of the choice) -> text
SLOW_S = 0.2
SPOILT = ("garbage", "empty", "wrong_model")  # status 200, and of no use
REFUSED = ("400", "401", "403", "404", "429", "500", "503")
TEXTS = {"400": "this request cannot be", "404": "the model does not exist", "429": "too many requests"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail: for the first `tries` calls with the same body, for a share of bodies, for those with a text."""

    kind: Kind
    share: float = 1.0
    tries: int = 1
    text: str = ""  # only bodies that contain it
    retry_after: str | None = None  # the header of a 429 or 503

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"unknown fault {self.kind!r}; known: {', '.join(get_args(Kind))}")

    def hits(self, body: str, tried: int) -> bool:
        """Whether it strikes a body that has been sent `tried` times before; the same in every run."""
        return self.text in body and tried < self.tries and chance(self.kind, tried, body) < self.share


def chance(*parts: object) -> float:
    """A number in [0, 1) out of the sha256 of the parts."""
    digest = hashlib.sha256(canonical_json([str(part) for part in parts]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7]) / 2**56


class Call(NamedTuple):
    """One call as the server saw it."""

    route: str
    body: dict[str, Any]
    request_id: str | None
    status: int | None  # null while it hangs, or when the connection was cut
    fault: str | None
    in_flight: int  # calls under way when it came, itself included


def reply(body: dict[str, Any], choice: int) -> str:
    """A verdict or a score where the last message speaks of one, else a few words; from a hash of messages and seed."""
    said = str(body["messages"][-1]["content"])
    drawn = chance(said, body.get("seed") if body.get("temperature") else 0, choice if body.get("temperature") else 0)
    if "Verdict" in said:
        return f"Verdict: {('A', 'B')[int(drawn * 2)]}"
    if "Score" in said:
        return f"Score: {1 + int(drawn * 5)}"
    words = said.split()[:30] or ["nothing"]
    return " ".join(words[int(chance(drawn, at) * len(words))] for at in range(1 + int(drawn * 12)))


class FakeEndpoint:
    """The server as a context manager; `url` is its base URL. `latency_s` goes before every answer."""

    def __init__(
        self,
        *,
        reply: Reply = reply,
        faults: Sequence[Fault] = (),
        latency_s: float = 0.0,
        model: str = "fake",
        port: int = 0,
        reward: Callable[[str], float] = lambda text: float(len(text)),
    ) -> None:
        self.reply, self.faults, self.latency_s, self.model, self.reward = reply, faults, latency_s, model, reward
        self.calls: list[Call] = []
        self.keys: set[str | None] = set()  # Authorization headers seen
        self._tried: Counter[str] = Counter()
        self.in_flight = 0
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "FakeEndpoint":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()
        self._thread.join(5)

    @property
    def statuses(self) -> list[int | None]:
        return [call.status for call in self.calls]

    @property
    def answered(self) -> Counter[str]:
        """How often each body was answered in full."""
        good = [call for call in self.calls if call.status == 200 and call.fault not in SPOILT]
        return Counter(canonical_json(call.body) for call in good)

    def enter(self, body: str) -> tuple[Fault | None, int]:
        """Notes that a call begins: the fault that strikes it, and how many calls are under way."""
        with self._lock:
            tried, self.in_flight = self._tried[body], self.in_flight + 1
            self._tried[body] += 1
            fault = next((fault for fault in self.faults if fault.hits(body, tried)), None)
            return fault, self.in_flight

    def leave(self, call: Call) -> None:
        with self._lock:
            self.in_flight -= 1
            self.calls.append(call)

    def wait(self, seconds: float) -> None:
        """Returns at once when the server ends."""
        self._ending.wait(seconds)

    def answer(self, route: str, body: dict[str, Any], fault: Fault | None) -> dict[str, Any] | list[Any] | None:
        """The JSON of an answer, null for an unknown route; pure but for `reply` and `reward`."""
        name = self.model if fault is None or fault.kind != "wrong_model" else "another-model"
        if route.endswith("/chat/completions"):
            return completion(body, fault.kind if fault else None, name, self.reply)
        if route in ("/classify", "/pooling", "/score", "/v1/classify", "/v1/score"):
            return self._rewarded(route, body, name)
        return None

    def _rewarded(self, route: str, body: dict[str, Any], name: str) -> dict[str, Any] | list[Any]:
        """sglang's shape where `text` is sent alone, vLLM's else; /v1/classify gives the softmax of the only logit."""
        if "messages" in body:
            text = str(body["messages"][-1]["content"])
        else:
            text = str(body.get("text_2") or body.get("input") or body.get("text"))
        value = self.reward(text)
        if route.endswith("/score"):
            return {"model": name, "data": [{"index": 0, "object": "score", "score": value}]}
        if route == "/v1/classify":
            return {"model": name, "data": [{"index": 0, "label": "LABEL_0", "probs": [1.0], "num_classes": 1}]}
        if route == "/pooling":
            return {"model": name, "data": [{"index": 0, "object": "pooling", "data": [value]}]}
        if "messages" in body:
            return {"model": name, "data": [{"index": 0, "probs": [value], "num_classes": 1}]}
        return [{"embedding": [value], "meta_info": {}}]


def completion(body: dict[str, Any], fault: str | None, model: str, reply: Reply) -> dict[str, Any]:
    """A chat completion."""
    n = int(body.get("n", 1))
    count = {"empty": 0, "one_choice": 1, "half": max(1, n // 2)}.get(fault or "", n)
    texts = [reply(body, 0 if fault == "identical" else at) for at in range(count)]
    choices = []
    for at, text in enumerate(texts):
        words = text.split()
        cut = len(words) > int(body.get("max_tokens", 10**9))
        text = " ".join(words[: body["max_tokens"]]) if cut else text
        choice = {"index": at, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = "length" if cut else "stop"
        if body.get("logprobs"):
            choice["logprobs"] = {"content": logprobs(text, int(body.get("top_logprobs", 0)))}
        choices.append(choice)
    usage = {"prompt_tokens": 1, "completion_tokens": sum(len(text.split()) for text in texts), "total_tokens": 0}
    return {"id": "fake", "object": "chat.completion", "model": model, "choices": choices, "usage": usage}


def logprobs(text: str, top: int) -> list[dict[str, Any]]:
    """A token per word or digit, spaces in front. A digit has probability 1/2, its neighbours share the rest."""
    found = re.findall(r"\s*(?:[0-9]|[^\s0-9]+)|\s+", text)
    return [{"token": each, **_ranked(each, top)} for each in found]


def _ranked(token: str, top: int) -> dict[str, Any]:
    digit = token.strip()
    alternatives = {token: -0.6931471805599453 if digit.isdigit() else 0.0}
    if digit.isdigit():
        near = [token.replace(digit, str(value)) for value in (int(digit) - 1, int(digit) + 1) if 0 <= value <= 9]
        alternatives |= dict.fromkeys(near, -0.6931471805599453 - 0.6931471805599453 * (len(near) > 1))
    ranked = [{"token": each, "logprob": value} for each, value in list(alternatives.items())[:top]]
    return {"logprob": alternatives[token], "top_logprobs": ranked}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    owner: FakeEndpoint

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Ends the connections that clients keep open."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one piece
    disable_nagle_algorithm = True
    server: _Server
    _call: Call | None = None

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        owner = self.server.owner
        known = {"object": "list", "data": [{"id": owner.model, "object": "model"}]}
        if self.path == "/v1/models":
            self._send(200, known)
        elif self.path == "/v1/calls":  # for those in another process
            self._send(200, {"calls": len(owner.calls), "doubled": sum(n > 1 for n in owner.answered.values())})
        else:
            self._send(404, {"error": {"message": f"no such route: {self.path}"}})

    def do_POST(self) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault, in_flight = owner.enter(raw.decode("utf-8", "replace"))
        owner.keys.add(self.headers.get("Authorization"))
        body = json.loads(raw)
        kind, name = fault.kind if fault else None, self.headers.get("X-Request-Id")
        self._call = Call(self.path, body, name, None, kind, in_flight)
        try:
            owner.wait(owner.latency_s)
            self._answer(body, fault)
        finally:
            self._note(None)

    def _note(self, status: int | None) -> None:
        """Files the call, once and before its answer leaves: who has the answer finds the call noted."""
        call, self._call = self._call, None
        if call is not None:
            self.server.owner.leave(call._replace(status=status))

    def _answer(self, body: dict[str, Any], fault: Fault | None) -> None:
        """Sends what the fault makes of the answer."""
        kind = fault.kind if fault else None
        if fault is not None and (kind in REFUSED or kind in ("echo", "redirect")):
            self._refuse(fault)
        elif kind == "hang":
            self.server.owner.wait(3600)
            self.close_connection = True
        elif kind == "garbage":
            self._send(200, b"<html>bad gateway</html>")
        else:
            self.server.owner.wait(SLOW_S if kind == "slow" else 0)
            told = self.server.owner.answer(self.path, body, fault)
            if told is None:
                self._send(404, {"error": {"message": f"no such route: {self.path}"}})
            elif kind == "cut":
                self._cut(json.dumps(told).encode())
            else:
                self._send(200, told)

    def _refuse(self, fault: Fault) -> None:
        if fault.kind == "echo":
            self._send(400, {"error": {"message": f"bad headers: {dict(self.headers)}"}})
        elif fault.kind == "redirect":
            self._send(302, {}, {"Location": "http://127.0.0.1:9/v1"})
        else:
            more = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            self._send(int(fault.kind), {"error": {"message": TEXTS.get(fault.kind, "as planned")}}, more)

    def _send(self, status: int, told: object, headers: dict[str, str] | None = None) -> None:
        self._note(status)
        data = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _cut(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(
        description="A deterministic OpenAI-compatible server without a model, on loopback."
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--fault", action="append", default=[], help="KIND or KIND:SHARE, for example 500:0.1")
    given = parser.parse_args()
    faults = [Fault(kind, float(share or 1)) for kind, _, share in (each.partition(":") for each in given.fault)]
    with FakeEndpoint(port=given.port, latency_s=given.latency_s, faults=faults) as server:
        print(server.url, flush=True)  # noqa: T201  (a program of its own)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
