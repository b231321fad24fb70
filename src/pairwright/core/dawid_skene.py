"""The Dawid-Skene model: true classes and the confusion of each judge, by expectation and maximisation.

Source: Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", 1979.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pairwright.core.segments import Floats, Ints
from pairwright.errors import ConfigError, DataError, NotConverged, NotIdentifiable

Cube = NDArray[np.float64]


class DawidSkene(NamedTuple):
    """A fit that converged. Shapes: items I, judges J, classes K (true) and L (said)."""

    soft_IK: Floats  # P(true class | votes): soft labels, rows sum to 1; the prior for an item without votes
    confusion_JKL: Cube  # P(judge says l | true class k)
    prior_K: Floats
    log_likelihood: float  # of the votes, plus the logarithm of the Dirichlet prior where smoothing is not 0
    n_iter: int

    @property
    def accuracy_J(self) -> Floats:
        """Chance that a judge names the true class of a random item."""
        accuracy_J: Floats = np.einsum("k,jkk->j", self.prior_K, self.confusion_JKL)
        return accuracy_J


class _Votes(NamedTuple):
    item_V: Ints
    judge_V: Ints
    label_V: Ints
    items: int
    judges: int
    classes: int


def fit_dawid_skene(
    item_V: Ints,
    judge_V: Ints,
    label_V: Ints,
    *,
    classes: int = 2,
    judges: Literal["confusion", "one_coin"] = "confusion",
    smoothing: float = 0.01,
    tol: float = 1e-6,
    most: int = 2000,
) -> DawidSkene:
    """Soft labels and judges from votes (suffix V: one vote of a judge on an item; codes from 0).

        P(label | item) = sum_k prior_k prod_votes confusion[judge, k, label]

    "one_coin" gives each judge one accuracy and even errors: for few votes and randomised order. `smoothing` is added to
    every cell of a confusion matrix (to right and wrong for one_coin); 0 is maximum likelihood. Starts from vote shares,
    so the classes keep their names while judges are better than chance on the whole. Converged when no soft label moves
    by `tol`; else NotConverged. Fewer than three judges: NotIdentifiable.
    """
    votes = _check(item_V, judge_V, label_V, classes)
    if judges not in ("confusion", "one_coin"):
        raise ConfigError(f"judges={judges!r} is not 'confusion' or 'one_coin'")
    soft_IK = _shares(votes)
    for n_iter in range(1, most + 1):
        confusion_JKL, prior_K = _maximise(votes, soft_IK, smoothing, even=judges == "one_coin")
        new_IK, log_likelihood = _expect(votes, confusion_JKL, prior_K)
        moved = np.abs(new_IK - soft_IK).max()
        soft_IK = new_IK
        if moved < tol:
            log_likelihood += _log_dirichlet(confusion_JKL, smoothing, even=judges == "one_coin")
            return DawidSkene(soft_IK, confusion_JKL, prior_K, log_likelihood, n_iter)
    raise NotConverged(
        f"Dawid-Skene: a soft label still moves by {moved:.1e} after {most} rounds; allow more rounds, a larger tol, or "
        "smoothing"
    )


def _check(item_V: Ints, judge_V: Ints, label_V: Ints, classes: int) -> _Votes:
    if not len(item_V) == len(judge_V) == len(label_V):
        raise DataError(f"{len(item_V)} items, {len(judge_V)} judges, {len(label_V)} labels; pass one of each per vote")
    if len(item_V) == 0:
        raise DataError("no votes; Dawid-Skene needs at least three judges on shared items")
    if min(item_V.min(), judge_V.min(), label_V.min()) < 0 or label_V.max() >= classes:
        raise DataError(f"codes run from 0, labels to {classes - 1}; found labels {label_V.min()} .. {label_V.max()}")
    seen = len(np.unique(judge_V))
    if seen < 3:
        raise NotIdentifiable(
            f"{seen} judges cannot be told apart from the truth; add a third, or estimate one flip rate"
        )
    return _Votes(item_V, judge_V, label_V, int(item_V.max()) + 1, int(judge_V.max()) + 1, classes)


def _shares(votes: _Votes) -> Floats:
    key_V = votes.item_V * votes.classes + votes.label_V
    count_IK = np.bincount(key_V, minlength=votes.items * votes.classes).reshape(-1, votes.classes)
    number_I = count_IK.sum(axis=1, keepdims=True)
    return np.where(number_I > 0, count_IK / np.maximum(number_I, 1), 1 / votes.classes)


def _maximise(votes: _Votes, soft_IK: Floats, smoothing: float, *, even: bool) -> tuple[Cube, Floats]:
    k = votes.classes
    key_V = votes.judge_V * k + votes.label_V
    columns = [np.bincount(key_V, soft_IK[votes.item_V, c], minlength=votes.judges * k) for c in range(k)]
    count_JKL = np.stack([column.reshape(-1, k) for column in columns], axis=1)
    voted_I = np.bincount(votes.item_V, minlength=votes.items) > 0
    prior_K: Floats = soft_IK[voted_I].mean(axis=0)
    if even:
        right_J = np.einsum("jkk->j", count_JKL) + smoothing
        total_J = count_JKL.sum(axis=(1, 2)) + 2 * smoothing
        right_J = np.where(total_J > 0, right_J / np.maximum(total_J, np.finfo(float).tiny), 1 / k)
        same_KL = np.eye(k)
        wrong_J = (1 - right_J) / max(k - 1, 1)
        return right_J[:, None, None] * same_KL + wrong_J[:, None, None] * (1 - same_KL), prior_K
    smooth_JKL = count_JKL + smoothing
    total_JK1 = smooth_JKL.sum(axis=2, keepdims=True)
    return np.where(total_JK1 > 0, smooth_JKL / np.maximum(total_JK1, np.finfo(float).tiny), 1 / k), prior_K


def _expect(votes: _Votes, confusion_JKL: Cube, prior_K: Floats) -> tuple[Floats, float]:
    """Soft labels and the log likelihood, in logarithms: a thousand votes on an item do not underflow."""
    tiny = np.finfo(float).tiny
    log_JKL, log_prior_K = np.log(np.maximum(confusion_JKL, tiny)), np.log(np.maximum(prior_K, tiny))
    columns = [
        np.bincount(votes.item_V, log_JKL[votes.judge_V, c, votes.label_V], minlength=votes.items)
        for c in range(votes.classes)
    ]
    log_IK = np.stack(columns, axis=1) + log_prior_K
    top_I1 = log_IK.max(axis=1, keepdims=True)
    weight_IK = np.exp(log_IK - top_I1)
    sum_I1 = weight_IK.sum(axis=1, keepdims=True)
    return weight_IK / sum_I1, float((top_I1 + np.log(sum_I1)).sum())


def _log_dirichlet(confusion_JKL: Cube, smoothing: float, *, even: bool) -> float:
    if smoothing == 0:
        return 0.0
    if even:
        right_J = confusion_JKL[:, 0, 0]
        return float(smoothing * (np.log(right_J) + np.log1p(-right_J)).sum())
    return float(smoothing * np.log(confusion_JKL).sum())
