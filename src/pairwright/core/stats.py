"""Counts that grow with a stream: a histogram whose range widens, sums that need one pass."""

import math
from dataclasses import dataclass, field

import numpy as np

from pairwright.core.segments import Floats, Ints

_DOWN = 2.0**-8  # exact, and leaves room for a range of bins around the largest float


@dataclass
class Spread:
    """Count, mean, sd, extremes, a histogram and the number of distinct values of a stream of numbers.

    The histogram has 2 * `half` bins; when a value falls outside, bins are merged two by two and the width doubles, so
    that every count is exact and memory does not grow. Distinct values are counted up to `most`, then "at least".
    Right for every finite number: the bins are kept in units of 1 / _DOWN, so that no edge overflows.
    """

    half: int = 16
    most: int = 1000
    n: int = 0
    low: float = np.inf
    high: float = -np.inf
    _mean: float = 0.0
    _sd: float = 0.0  # population; its square may be beyond the range of floats
    _width: float = 0.0
    _origin: float = 0.0
    _counts: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _values: set[float] = field(default_factory=set)

    def add(self, values: Floats) -> None:
        """Takes in finite values; others are passed over."""
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return
        self._moments(values)
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if len(self._values) <= self.most:
            self._values.update(np.unique(values)[: self.most + 1].tolist())
        low, high = self.low * _DOWN, self.high * _DOWN
        if self._width == 0:
            self._start(low, high)
        while low < self._origin or high >= self._origin + self._width * 2 * self.half:
            self._widen(below=low < self._origin)
        at = np.clip(((values * _DOWN - self._origin) / self._width).astype(np.int64), 0, 2 * self.half - 1)
        self._counts += np.bincount(at, minlength=2 * self.half)

    def _moments(self, values: Floats) -> None:
        """Chan, Golub and LeVeque 1983, with roots in place of squares; equal values give sd = 0 exactly."""
        exponent = int(np.frexp(np.abs(values).max())[1])
        unit = np.ldexp(values, -exponent)  # in -1 .. 1: no sum nor square overflows
        mean = float(unit[0] + (unit - unit[0]).mean())
        sd = math.ldexp(float(np.sqrt(np.square(unit - mean).mean())), exponent)
        mean = float(np.ldexp(mean, exponent))
        n, both = len(values), self.n + len(values)
        off = mean / 2 - self._mean / 2
        before, now = self.n / both, n / both
        apart = off * (2 * math.sqrt(before * now))
        self._sd = math.hypot(self._sd * math.sqrt(before), sd * math.sqrt(now), apart)
        if off or not self.n:  # halving a denormal mean would lose its last bit
            self._mean = (self._mean / 2 + off * now) * 2 if self.n else mean
        self.n = both

    def _start(self, low: float, high: float) -> None:
        span = high - low
        least = max(2 * float(np.spacing(max(-low, high))), 1e-300)  # finer bins would share an edge
        self._width = max(span / (2 * self.half) * (1 + 1e-9), least) if span > 0 else max(_DOWN, abs(low)) * 1e-3
        self._origin = low if span > 0 else low - self.half * self._width
        self._counts = np.zeros(2 * self.half, np.int64)

    def _widen(self, *, below: bool) -> None:
        """Twice the width; the old range becomes the upper half when low values came, else the lower half."""
        merged = self._counts.reshape(-1, 2).sum(axis=1)
        if below:
            self._origin -= self._width * 2 * self.half
        self._width *= 2
        empty = np.zeros(self.half, np.int64)
        self._counts = np.concatenate([empty, merged] if below else [merged, empty])

    @property
    def mean(self) -> float | None:
        return self._mean if self.n else None

    @property
    def sd(self) -> float | None:
        return self._sd if self.n else None

    @property
    def distinct(self) -> int:
        """The number of distinct values, `most` + 1 standing for more than `most`."""
        return min(len(self._values), self.most + 1)

    def histogram(self) -> tuple[list[float], list[int]]:
        """Edges (one more than counts) and counts, without the empty bins at both ends."""
        if not self.n:
            return [], []
        held = np.flatnonzero(self._counts)
        first, last = held[0], held[-1] + 1
        with np.errstate(over="ignore"):
            edges = (self._origin + self._width * np.arange(first, last + 1)) / _DOWN
        edges[0], edges[-1] = min(edges[0], self.low), max(edges[-1], self.high)  # rounding leaves nobody outside
        most = np.finfo(np.float64).max
        return np.clip(edges, -most, most).tolist(), self._counts[first:last].tolist()
