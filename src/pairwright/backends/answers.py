"""What the answer of a server means: use it, ask again, give the request up, or stop the run. Pure."""

import http.client
import json
import re
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from pairwright.errors import BackendError

LONGEST_WAIT_S = 600.0  # a Retry-After beyond it is an answer: no
PASSING = frozenset({408, 409, 425, 429})
_HALVES = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")  # escaped or as bytes; whole pairs are among them
STOPPING = {
    401: "the server wants a key, or another one",
    403: "the key may not do this",
    404: "there is no such route or no such model",
}


class Answer(NamedTuple):
    """What one try brought: a status and bytes, or an error in words."""

    status: int | None
    data: bytes = b""
    wait_s: float = 0.0  # from Retry-After
    error: str | None = None
    connected: bool = True
    hopeless: bool = False


class Ruling(NamedTuple):
    """What to do after a try."""

    kind: Literal["done", "again", "lost", "stop"]
    body: Any = None
    why: str = ""
    wait_s: float = 0.0


Check = Callable[[Any], str | None]  # of a parsed answer: None, or why it cannot be used; may raise BackendError


def rule(answer: Answer, check: Check, *, where: str) -> Ruling:
    """What an answer means; pure. `where` is the address as messages may name it."""
    status = answer.status
    if status is None:
        return Ruling("stop" if answer.hopeless else "again", why=f"{answer.error} ({where})")
    if status == 200:
        try:
            body = parsed(answer.data)
        except (ValueError, RecursionError):
            return Ruling("again", why=f"not_json: {where} answered {_short(answer.data)!r}")
        try:
            complaint = check(body)
        except BackendError as error:
            return Ruling("stop", why=f"{where}: {error}")
        return Ruling("again", why=f"{complaint} ({where})") if complaint else Ruling("done", body)
    said = f"HTTP {status} from {where}: {_message(answer.data)}"
    if 300 <= status < 400:
        return Ruling("stop", why=f"{said}; the address redirects: name the one that it leads to")
    if status in STOPPING or "model_not_found" in said:
        return Ruling("stop", why=f"{said}; {STOPPING.get(status, STOPPING[404])}")
    if status not in PASSING and status < 500:
        return Ruling("lost", why=said)
    if answer.wait_s > LONGEST_WAIT_S:
        return Ruling("lost", why=f"{said}; it asks to wait {answer.wait_s:.0f} s")
    return Ruling("again", why=said, wait_s=answer.wait_s)


def parsed(data: bytes) -> Any:
    """The JSON of an answer. Half a surrogate pair, which no file can hold, becomes U+FFFD; ValueError where it is none."""
    body = json.loads(data)
    if not _HALVES.search(data):
        return body
    text = json.dumps(body, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _message(data: bytes) -> str:
    """The words of an error answer in one short line."""
    try:
        told = parsed(data)
    except (ValueError, RecursionError):
        return _short(data)
    inner = told.get("error", told) if isinstance(told, dict) else told
    if isinstance(inner, dict):
        code = inner.get("code")
        message = str(inner.get("message") or inner.get("detail") or inner)
        inner = f"{message} ({code})" if isinstance(code, str) else message
    return _short(str(inner).encode("utf-8", "replace"))


def _short(data: bytes) -> str:
    text = " ".join(data[:2000].decode("utf-8", "replace").split())
    return text[:200] + "…" if len(text) > 200 else text


def retry_after(value: str | None, now: float) -> float:
    """Seconds to wait by a Retry-After header: a number of seconds or a date (`now`: seconds since 1970); 0 when none."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return 0.0
    return max(0.0, seconds) if np.isfinite(seconds) else 0.0


def failure(error: Exception) -> Answer:
    """An exception in words: what it says of the network, nothing of the request."""
    match error:
        case TimeoutError():
            return Answer(None, error="time_out: no whole answer in time")
        case ssl.SSLCertVerificationError():
            return Answer(None, error=f"the certificate does not hold: {error.verify_message}", hopeless=True)
        case (
            http.client.IncompleteRead() | http.client.RemoteDisconnected() | ConnectionResetError() | BrokenPipeError()
        ):
            return Answer(None, error="connection_cut: the connection ended before the answer did")
        case OSError():
            return Answer(None, error=f"no_connection: {error.strerror or type(error).__name__}")
        case _:
            return Answer(None, error=f"not_http: {type(error).__name__}")
