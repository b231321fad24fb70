"""Servers that speak JSON over HTTP: many requests in flight, spread over several addresses, each answered exactly once.

On the standard library alone (`http.client` and threads): a thread waits for a server a thousand times longer than it
computes, sockets stay in our hands (one deadline for a whole request; Ctrl-C cuts them at once), and judging needs no
package beyond the base installation. Not offered: proxies from the environment, HTTP/2.

A request that fails in a way that may pass (408, 409, 425, 429, 5xx, time-out, cut connection, no JSON, an answer that
the caller calls unusable) is tried again after a random wait of up to BACKOFF_S * 2^attempt seconds ("full jitter"), or
what the server's Retry-After says; meanwhile its place is free for another. What cannot pass (401, 403, 404, a
certificate, a redirect, another model than the one asked) stops the run; so does a server that answers nothing for
long: going on would only write nulls. The key is read from the environment and leaves this module only in the
Authorization header.
"""

import heapq
import http.client
import json
import os
import re
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from pairwright.backends.answers import Answer, Check, Ruling, failure, retry_after, rule
from pairwright.backends.wire import Wire, connection_to, dial
from pairwright.errors import BackendError, ConfigError
from pairwright.tables import canonical_json, text_hash

BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 30.0
REST_AFTER = 5  # failures in a row after which an address is left alone for a while
STOP_AFTER, STOP_AFTER_S = 64, 300.0  # requests in a row given up, or one after this time without a single answer
LOOKAHEAD = 2  # requests taken from the caller ahead of the replies, in multiples of `concurrency`
OURS = ("messages", "model", "n", "stream")  # what `extra` may not set


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served. `extra` goes into every request body as it is; a null in it takes the field out."""

    base_urls: str | tuple[str, ...]  # "http://127.0.0.1:8000/v1", or several that serve the same model
    model: str
    concurrency: int = 16  # requests in flight over all addresses
    timeout_s: float = 120.0  # for one try, from connecting to the last byte
    retries: int = 6
    api_key_env: str = "OPENAI_API_KEY"  # the name of the variable, never the key; no key is sent when it is not set
    any_model: bool = False  # whether the server may name another model in its reply than the one asked for
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.urls or not self.model:
            raise ConfigError("an endpoint needs at least one base URL and the name of a model")
        for url in self.urls:
            _split(url)
        for name, wrong in {
            "concurrency": not 1 <= self.concurrency <= 1024,
            "timeout_s": not 0 < self.timeout_s <= 86_400,
            "retries": not 0 <= self.retries <= 100,
        }.items():
            if wrong:
                raise ConfigError(
                    f"{name} = {getattr(self, name)} cannot be: concurrency is 1 to 1024, timeout_s above 0 and up to "
                    "86400, retries 0 to 100"
                )
        if taken := [name for name in OURS if name in self.extra]:
            raise ConfigError(f"extra may not set {taken[0]!r}: that is decided elsewhere")

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.base_urls,) if isinstance(self.base_urls, str) else tuple(self.base_urls)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over model and `extra`. Addresses do not count: the same model may move between two runs."""
        return text_hash(canonical_json(["endpoint-1", self.model, self.extra]))


class Address(NamedTuple):
    """A base URL in its parts, without a "/" at the end of the path."""

    secure: bool
    host: str
    port: int
    path: str


def _split(url: str) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("a base URL cannot be read: its host or port is not one") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"the base URL of host {parts.hostname} carries a user, a password, a query or a fragment; it would be written "
            "down: put the key into the environment (api_key_env)"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base URL {url!r} is not http://HOST[:PORT][/PATH] or https://...")
    secure = parts.scheme == "https"
    default = http.client.HTTPS_PORT if secure else http.client.HTTP_PORT
    return Address(secure, parts.hostname, default if port is None else port, parts.path.rstrip("/"))


class Job(NamedTuple):
    """One request. `tag` is the caller's and comes back untouched; `route` is appended to the base URL.

    A route that begins with "//" is the server's own: "//classify" of http://host/v1 is http://host/classify.
    """

    tag: Any
    route: str
    body: dict[str, Any]


class Outcome(NamedTuple):
    """What became of a job: the parsed answer, or why there is none. `request_id` was sent with the last try."""

    job: Job
    body: Any
    reason: str | None
    request_id: str


class Request(NamedTuple):
    """What `http.client` sends after POST."""

    path: str
    payload: bytes
    headers: dict[str, str]


class _Key:
    """A key that no repr, log or traceback shows."""

    __slots__ = ("_value", "_variable")

    def __init__(self, variable: str) -> None:
        self._variable = variable
        value = (os.environ.get(variable) or "").strip()
        if not value.isascii() or any(not sign.isprintable() for sign in value):
            raise ConfigError(f"the key in the environment variable {variable} holds signs that no key has")
        self._value = value

    def __repr__(self) -> str:
        return "<key>"

    def __reduce__(self) -> tuple[type["_Key"], tuple[str]]:
        """Another process reads its own environment."""
        return _Key, (self._variable,)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def hide(self, answer: Answer) -> Answer:
        """The answer without the key. A short one ("EMPTY") may be a word of a reply: it goes out of errors only."""
        if not self._value or (answer.status == 200 and len(self._value) < 16):
            return answer
        error = answer.error and answer.error.replace(self._value, "<key>")
        data = answer.data.replace(self._value.encode(), b"<key>")
        if b"\\" in data:
            data = self._spelt().sub(b"<key>", data)
        return answer._replace(data=data, error=error)

    def _spelt(self) -> re.Pattern[bytes]:
        """The key in every spelling that JSON has for it, JSON within JSON included (\\/, \\u002f, \\\\\\/)."""
        return re.compile("".join(map(_spelling, self._value)).encode())


def _spelling(sign: str) -> str:
    """A pattern for a sign as JSON may write it, up to three times within itself; bounded, so that it stays linear."""
    plain = sign if sign.isalnum() else r"\\{1,8}" if sign == "\\" else r"\\{0,8}" + re.escape(sign)
    return rf"(?:\\{{1,8}}u00(?i:{ord(sign):02x})|{plain})"


class _Place:
    """An address with what is known of it."""

    def __init__(self, url: str) -> None:
        self.url, self.address = url.rstrip("/"), _split(url)
        self.in_flight = self.calls = self.failed = 0  # failed: in a row
        self.rest_until = 0.0

    def is_free(self, now: float) -> bool:
        """After a rest one request goes ahead of the others."""
        return now >= self.rest_until and (self.failed < REST_AFTER or self.in_flight == 0)

    def note(self, ruling: Ruling, started: float, now: float, jitter: float) -> None:
        """Counts the failures in a row and sends the address to rest; what began before a rest starts none."""
        self.in_flight -= 1
        self.calls += 1
        if ruling.kind != "again":
            self.failed = 0
            return
        self.failed += 1
        if self.failed >= REST_AFTER and started >= self.rest_until:
            rests = min(self.failed - REST_AFTER, 6)
            self.rest_until = now + max(ruling.wait_s, min(LONGEST_BACKOFF_S, BACKOFF_S * 2**rests) * (1 + jitter) / 2)


@dataclass(slots=True)
class _Task:
    """A job on its way."""

    job: Job
    number: int
    tries: int = 0
    last: _Place | None = None


class Client:
    """Sends jobs to an endpoint. `counts` holds calls, retried, lost over the client's life."""

    def __init__(self, endpoint: Endpoint, *, rng: np.random.Generator | None = None) -> None:
        """`rng` decides the waits between tries and the request ids, no result; by default it differs in every process."""
        self.endpoint, self._key = endpoint, _Key(endpoint.api_key_env)
        self._rng = np.random.default_rng() if rng is None else rng
        self.counts = {"calls": 0, "retried": 0, "lost": 0}

    def run(
        self, jobs: Iterable[Job], check: Check, then: Callable[[Outcome], Iterable[Job]] = lambda _: ()
    ) -> Iterator[Outcome]:
        """Every job's outcome, as they are ready. Jobs are pulled a little ahead of the outcomes, never all at once.

        `then` may name further jobs after an outcome. BackendError stops the run; outcomes given out before it hold.
        """
        source = iter(jobs)
        line = _Line(self, check)
        most, dry = LOOKAHEAD * self.endpoint.concurrency, False
        try:
            while True:
                while not dry and line.held < most:
                    job = next(source, None)
                    if job is None:
                        dry = True
                    else:
                        line.put(job)
                if not line.held:
                    return
                outcome = line.take()
                for job in then(outcome):
                    line.put(job)
                yield outcome
        finally:
            line.close()


class _Line:
    """The jobs of one run: ready, waiting for another try, or done. One lock guards all of it."""

    def __init__(self, client: Client, check: Check) -> None:
        self.client, self.check, self.endpoint = client, check, client.endpoint
        self.held = 0  # put and not yet taken
        self._places = [_Place(url) for url in client.endpoint.urls]
        self._ready: deque[_Task] = deque()
        self._later: list[tuple[float, int, _Task]] = []
        self._done: deque[Outcome] = deque()
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._numbers = count()
        self._run = f"pw-{client._rng.integers(2**32):08x}"
        self._fatal: Exception | None = None
        self._closed = self._reached = False
        self._lost_in_a_row, self._last_good = 0, time.monotonic()
        self._lock = threading.Lock()
        self._work_there, self._news = threading.Condition(self._lock), threading.Condition(self._lock)

    def put(self, job: Job) -> None:
        with self._lock:
            self.held += 1
            self._ready.append(_Task(job, next(self._numbers)))
            if len(self._threads) < min(self.endpoint.concurrency, self.held):
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()
            self._work_there.notify()

    def take(self) -> Outcome:
        """Waits for an outcome; raises what stopped the run."""
        with self._lock:
            while not self._done and self._fatal is None:
                self._news.wait(1.0)  # a wait without end could not be interrupted everywhere
            if self._done:
                self.held -= 1
                return self._done.popleft()
            assert self._fatal is not None
            raise self._fatal

    def close(self) -> None:
        """Ends the threads; open connections are cut."""
        with self._lock:
            self._closed = True
            self._work_there.notify_all()
            for each in self._sockets:
                _cut(each)
        until = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        connections: dict[str, http.client.HTTPConnection] = {}
        try:
            while (picked := self._pick()) is not None:
                task, place = picked
                started = time.monotonic()
                answer = self._post(task, place, connections)
                ruling = rule(self.client._key.hide(answer), self.check, where=place.url)
                self._settle(task, place, ruling, answer.connected, started)
        except Exception as error:  # noqa: BLE001  (a fault of ours must end the run, not one thread in silence)
            error.add_note("".join(traceback.format_tb(error.__traceback__)))
            with self._lock:  # without its frames: their variables hold the headers
                self._fatal = self._fatal or error.with_traceback(None)
                self._news.notify()
        finally:
            for connection in connections.values():
                connection.close()

    def _pick(self) -> tuple[_Task, _Place] | None:
        """The next task and where to send it: to the address with the fewest requests in flight; None at the end."""
        with self._lock:
            while not self._closed and self._fatal is None:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._ready.appendleft(heapq.heappop(self._later)[2])
                free = [place for place in self._places if place.is_free(now)]
                if self._ready and free:
                    task = self._ready.popleft()
                    place = min(free, key=lambda each: (each is task.last, each.in_flight, each.calls))
                    place.in_flight += 1
                    return task, place
                self._work_there.wait(self._until_something(now))
        return None

    def _until_something(self, now: float) -> float | None:
        due = [self._later[0][0]] if self._later else []
        due += [place.rest_until for place in self._places if self._ready and place.rest_until > now]
        return max(0.0, min(due) - now) if due else None

    def _post(self, task: _Task, place: _Place, connections: dict[str, http.client.HTTPConnection]) -> Answer:
        address, until = place.address, time.monotonic() + self.endpoint.timeout_s
        route = task.job.route
        path = f"{address.path.removesuffix('/v1')}{route[1:]}" if route.startswith("//") else address.path + route
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "pairwright",
            "X-Request-Id": self._request_id(task),
            **self.client._key.headers(),
        }
        payload = json.dumps(task.job.body).encode()
        for fresh in (False, True):
            connection = connections.get(place.url)
            if fresh or connection is None:
                connection = connections[place.url] = connection_to(address.host, address.port, address.secure)
            reused = connection.sock is not None
            try:
                return self._exchange(connection, address, Request(path, payload, headers), until)
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest) as error:
                connection.close()
                if not reused or fresh:  # a kept connection may have been closed by the server since
                    return failure(error)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                return failure(error)
        raise AssertionError

    def _exchange(
        self, connection: http.client.HTTPConnection, address: Address, request: Request, until: float
    ) -> Answer:
        if connection.sock is None:
            try:
                connection.sock = Wire(dial(address.host, address.port, address.secure, until))
            except OSError as error:
                return failure(error)._replace(connected=False)
        assert isinstance(connection.sock, Wire)
        connection.sock.until, held = until, connection.sock.held
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the run has ended")
            self._sockets.add(held)
        try:
            connection.request("POST", *request)
            response = connection.getresponse()
            try:
                parts = []
                while part := response.read1(1 << 16):
                    parts.append(part)
                    if response.length == 0:
                        break
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
            finally:
                response.close()
            wait_s = retry_after(response.headers.get("Retry-After"), time.time())
            if response.will_close:
                connection.close()
            return Answer(response.status, b"".join(parts), wait_s)
        finally:
            with self._lock:
                self._sockets.discard(held)

    def _settle(self, task: _Task, place: _Place, ruling: Ruling, connected: bool, started: float) -> None:
        """Files what came of a try, and wakes whom it concerns."""
        with self._lock:
            now, jitter = time.monotonic(), self.client._rng.random()
            if ruling.kind != "done" or place.failed:  # what is free, and when, is another than the waiting ones know
                self._work_there.notify_all()
            place.note(ruling, started, now, jitter)
            self._reached |= connected
            self.client.counts["calls"] += 1
            task.tries, task.last = task.tries + 1, place
            if ruling.kind == "again" and task.tries <= self.endpoint.retries:
                self.client.counts["retried"] += 1
                backoff = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (task.tries - 1)) * jitter
                elsewhere = len(self._places) > 1
                due = now + max(backoff, 0.0 if elsewhere else ruling.wait_s)
                if elsewhere and ruling.wait_s:
                    place.rest_until = max(place.rest_until, now + ruling.wait_s)
                heapq.heappush(self._later, (due, task.number, task))
            else:
                self._finish(task, ruling)
                self._news.notify()

    def _finish(self, task: _Task, ruling: Ruling) -> None:
        reason = None
        if ruling.kind == "stop":
            self._fatal = self._fatal or BackendError(ruling.why)
            return
        if ruling.kind != "done":
            self.client.counts["lost"] += 1
            tries = f" after {task.tries} tries" if task.tries > 1 else ""
            reason = f"{ruling.why}{tries}"
            self._give_up(ruling)
        else:
            self._lost_in_a_row, self._last_good = 0, time.monotonic()
        self._done.append(Outcome(task.job, ruling.body, reason, self._request_id(task, done=True)))

    def _give_up(self, ruling: Ruling) -> None:
        """Stops a run that would only write nulls."""
        self._lost_in_a_row += ruling.kind == "again"
        silent_s = time.monotonic() - self._last_good
        too_long = self._lost_in_a_row > 0 and silent_s > max(STOP_AFTER_S, 3 * self.endpoint.timeout_s)
        if not self._reached:
            self._fatal = self._fatal or BackendError(f"no server was reached: {ruling.why}; is it running there?")
        elif too_long or self._lost_in_a_row >= STOP_AFTER:
            self._fatal = self._fatal or BackendError(
                f"{self._lost_in_a_row} requests in a row were given up, for {silent_s:.0f} s nothing was answered, the last "
                f"one with: {ruling.why}; start again to go on"
            )

    def _request_id(self, task: _Task, *, done: bool = False) -> str:
        return f"{self._run}-{task.number}-{task.tries - done}"


def _cut(held: socket.socket) -> None:
    try:
        held.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
