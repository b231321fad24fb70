"""Counts that grow with a stream: a histogram whose range widens, sums that need one pass."""

from dataclasses import dataclass, field

import numpy as np

from pairwright.core.segments import Floats, Ints


@dataclass
class Spread:
    """Count, mean, sd, extremes, a histogram and the number of distinct values of a stream of numbers.

    The histogram has 2 * `half` bins; when a value falls outside, bins are merged two by two and the width doubles, so
    that every count is exact and memory does not grow. Distinct values are counted up to `most`, then "at least".
    """

    half: int = 16
    most: int = 1000
    n: int = 0
    low: float = np.inf
    high: float = -np.inf
    _mean: float = 0.0
    _square: float = 0.0  # sum of squared deviations from the mean
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
        if self._width == 0:
            self._start()
        while self.low < self._origin or self.high >= self._origin + self._width * 2 * self.half:
            self._widen()
        at = np.clip(((values - self._origin) / self._width).astype(np.int64), 0, 2 * self.half - 1)
        self._counts += np.bincount(at, minlength=2 * self.half)

    def _moments(self, values: Floats) -> None:
        """Chan, Golub and LeVeque 1983: sums of two parts joined without loss."""
        n, mean = len(values), float(values.mean())
        off = mean - self._mean
        both = self.n + n
        self._square += float(((values - mean) ** 2).sum()) + off**2 * self.n * n / both
        self._mean += off * n / both
        self.n = both

    def _start(self) -> None:
        span = self.high - self.low
        self._width = span / (2 * self.half) * (1 + 1e-9) if span > 0 else max(1.0, abs(self.low)) * 1e-3
        self._origin = self.low if span > 0 else self.low - self.half * self._width
        self._counts = np.zeros(2 * self.half, np.int64)

    def _widen(self) -> None:
        """Twice the width; the old range becomes the upper half when low values came, else the lower half."""
        merged = self._counts.reshape(-1, 2).sum(axis=1)
        below = self.low < self._origin
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
        return float(np.sqrt(self._square / self.n)) if self.n else None

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
        edges = self._origin + self._width * np.arange(first, last + 1)
        return edges.tolist(), self._counts[first:last].tolist()
