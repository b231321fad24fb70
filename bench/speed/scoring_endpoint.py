"""Requests to a chat endpoint: seconds against the bound, and whether every request is answered exactly once.

    python bench/speed/scoring_endpoint.py [--requests 1000] [--latency-ms 20] [--failures 0.1]

The server is `pairwright.backends.fake_endpoint` in a process of its own, with a latency and injected failures (500, 429,
cut connections, no JSON, no choices; the first try of a share of the requests). Bound: requests / concurrency * latency.
Naive: a thread pool over urllib, one try each, as scripts do it; with as many threads. Lost: requests without a usable
reply; doubled: requests that the server answered well more than once. Jobs run in turns; nothing is asserted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from machine import describe
from pairwright.backends.endpoint import Endpoint
from pairwright.backends.openai import OpenAIJudge, to_request
from pairwright.protocols import ChatAsk, Decoding

KINDS = ("500", "429", "cut", "garbage", "empty")


class Result(NamedTuple):
    seconds: float
    lost: int
    calls: int  # that the server saw
    doubled: int


@contextmanager
def served(latency_s: float, failures: float) -> Iterator[str]:
    """The fake server in its own process; each kind of failure has its part of the share."""
    each = 1 - (1 - failures) ** (1 / len(KINDS))  # the first that strikes counts
    words = [f"--fault={kind}:{each}" for kind in KINDS] if failures else []
    command = [
        sys.executable,
        "-m",
        "pairwright.backends.fake_endpoint",
        "--port=0",
        f"--latency-s={latency_s}",
        *words,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def asks(n: int) -> list[ChatAsk]:
    return [ChatAsk(i, [{"role": "user", "content": f"Rate reply {i}. Score: N"}], seed=i) for i in range(n)]


def ours(url: str, n: int, concurrency: int) -> int:
    """Lost requests."""
    replies = OpenAIJudge(Endpoint(url, "fake", concurrency=concurrency, timeout_s=10))(asks(n))
    texts = {reply.key: reply.text for reply in replies}
    return n - sum(texts.get(i) is not None for i in range(n))


def naive(url: str, n: int, concurrency: int) -> int:
    def one(ask: ChatAsk) -> str | None:
        decoding = Decoding(ask.temperature, 1.0, 0, ask.max_tokens)
        body = json.dumps(to_request(ask.messages, model="fake", seed=ask.seed, decoding=decoding)).encode()
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, HTTPException, ValueError, LookupError):
            pass
        return None

    with ThreadPoolExecutor(concurrency) as pool:
        return sum(text is None for text in pool.map(one, asks(n)))


def measure(job: Callable[[str, int, int], int], n: int, concurrency: int, latency_s: float, failures: float) -> Result:
    with served(latency_s, failures) as url:
        begun = time.perf_counter()
        lost = job(url, n, concurrency)
        seconds = time.perf_counter() - begun
        with urllib.request.urlopen(f"{url}/calls", timeout=10) as response:
            told = json.load(response)
    return Result(seconds, lost, told["calls"], told["doubled"])


def main(small: bool = False) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100 if small else 1000)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--failures", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=1 if small else 3)
    options = parser.parse_args([] if small else None)
    n, latency_s = options.requests, options.latency_ms / 1000
    print(describe("pairwright"))
    print(f"{n} requests, {options.latency_ms:g} ms, medians of {options.rounds}")
    for failures in (0.0, options.failures):
        for concurrency in (16, 64):
            bound = n / concurrency * latency_s
            rounds = [
                {job.__name__: measure(job, n, concurrency, latency_s, failures) for job in (ours, naive)}
                for _ in range(options.rounds)
            ]
            for name in ("ours", "naive"):
                found = [each[name] for each in rounds]
                seconds = statistics.median(each.seconds for each in found)
                worst = found[0]._replace(lost=max(each.lost for each in found), doubled=max(e.doubled for e in found))
                print(
                    f"failures {failures:4.0%}  concurrency {concurrency:3}  {name:6} {seconds:6.2f} s  bound {bound:5.2f} s  "
                    f"x{seconds / bound:4.1f}  lost {worst.lost:4}  doubled {worst.doubled}  calls {worst.calls}"
                )


if __name__ == "__main__":
    main()
