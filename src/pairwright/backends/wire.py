"""Sockets under `http.client` with one deadline for a whole exchange.

A socket's own time-out starts again with every byte: a server that sends a header line, the size of a chunk or 100 Continue
drop by drop would never meet it. Here every call gets what is left. Not bounded: the look-up of a host's name, which the
operating system ends.
"""

import http.client
import io
import socket
import ssl
import time
from functools import cache
from typing import Any


def connection_to(host: str, port: int, secure: bool) -> http.client.HTTPConnection:
    """A connection that is not open yet; its `sock` is to be a `Wire`, secured already where it has to be."""
    return (_Secure if secure else http.client.HTTPConnection)(host, port)


class _Secure(http.client.HTTPConnection):
    default_port = http.client.HTTPS_PORT  # stays out of the Host header


def dial(host: str, port: int, secure: bool, until: float) -> socket.socket:
    """A connection to the first address of a host that answers, the handshake of https included; OSError."""
    failed: OSError | None = None
    for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            held = socket.create_connection((str(where[0]), port), _left(until))
        except OSError as error:
            failed = error
            continue
        try:
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held.settimeout(_left(until))
            return _context().wrap_socket(held, server_hostname=host) if secure else held
        except OSError:
            held.close()
            raise
    raise failed or OSError("the host has no address")


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Wire:
    """What `http.client` uses of a socket; `until` (of time.monotonic) is set before every exchange."""

    def __init__(self, held: socket.socket) -> None:
        self.held, self.until = held, 0.0

    def allow(self) -> None:
        """Gives the next call what is left; TimeoutError where nothing is."""
        self.held.settimeout(_left(self.until))

    def sendall(self, data: bytes) -> None:
        self.allow()
        self.held.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode  # always "rb"
        return io.BufferedReader(_Drops(self))

    def close(self) -> None:
        self.held.close()


class _Drops(io.RawIOBase):
    """The bytes of a wire as they come. It holds the socket open until the response is read."""

    def __init__(self, wire: Wire) -> None:
        self._wire, self._raw = wire, wire.held.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._wire.allow()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
