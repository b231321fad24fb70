"""Dawid-Skene against its likelihood, against exact small cases and against crowd-kit where it is installed."""

import warnings

import numpy as np
import pytest

from pairwright.core.dawid_skene import fit_dawid_skene
from pairwright.errors import ConfigError, DataError, NotConverged, NotIdentifiable

MODELS = ["confusion", "one_coin"]


def simulated(confusion_JKL, items, seed=0, asked=1.0, prior=None):
    """Votes of judges with those confusions: item, judge, label and the truth."""
    rng = np.random.default_rng(seed)
    judges, classes = confusion_JKL.shape[:2]
    truth = rng.choice(classes, items, p=prior)
    item, judge = np.nonzero(rng.random((items, judges)) < asked)
    cumulative = np.cumsum(confusion_JKL[judge, truth[item]], axis=1)
    return item, judge, (rng.random(len(item))[:, None] > cumulative).sum(axis=1), truth


def one_coin(accuracy, classes=2):
    wrong = (1 - np.array(accuracy)) / (classes - 1)
    return np.stack([np.full((classes, classes), w) + (1 - classes * w) * np.eye(classes) for w in wrong])


SKEWED = np.array(
    [[[0.9, 0.1], [0.3, 0.7]], [[0.8, 0.2], [0.2, 0.8]], [[0.6, 0.4], [0.05, 0.95]], [[0.7, 0.3], [0.4, 0.6]]]
)


def log_likelihood(votes, fit):
    """One item at a time."""
    item, judge, label = votes
    found = 0.0
    for i in range(item.max() + 1):
        at = np.flatnonzero(item == i)
        chance = [p * np.prod(fit.confusion_JKL[judge[at], k, label[at]]) for k, p in enumerate(fit.prior_K)]
        found += np.log(sum(chance))
    return found


@pytest.mark.parametrize("judges", MODELS)
class TestEveryModel:
    def test_it_finds_the_judges_that_made_the_votes(self, judges):
        confusion = SKEWED if judges == "confusion" else one_coin([0.9, 0.8, 0.7, 0.6])
        *votes, truth = simulated(confusion, 20_000, asked=0.9, prior=[0.4, 0.6])
        fit = fit_dawid_skene(*votes, judges=judges)
        assert fit.confusion_JKL == pytest.approx(confusion, abs=0.03)
        assert fit.prior_K == pytest.approx([0.4, 0.6], abs=0.03)
        for low in np.arange(0, 1, 0.25):
            inside = (fit.soft_IK[:, 1] >= low) & (fit.soft_IK[:, 1] < low + 0.25)
            assert truth[inside].mean() == pytest.approx(fit.soft_IK[inside, 1].mean(), abs=0.04)

    def test_the_answer_is_a_maximum_of_the_likelihood(self, judges):
        *votes, _ = simulated(SKEWED, 600, seed=5)
        fit = fit_dawid_skene(*votes, judges=judges, smoothing=0, tol=1e-9)
        best = log_likelihood(votes, fit)
        assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
        for judge in range(4):
            for step in (1e-3, -1e-3):
                moved = fit.confusion_JKL.copy()
                if judges == "one_coin":
                    moved[judge] += step * (2 * np.eye(2) - 1)
                else:
                    moved[judge, 0] += [step, -step]
                assert log_likelihood(votes, fit._replace(confusion_JKL=moved)) < best + 1e-9

    def test_shapes_and_sums_are_right_and_inputs_untouched(self, judges):
        *votes, _ = simulated(one_coin([0.9, 0.8, 0.7], 3), 300, asked=0.7)
        before = [column.tobytes() for column in votes]
        fit = fit_dawid_skene(*votes, classes=3, judges=judges)
        assert [column.tobytes() for column in votes] == before
        assert fit.soft_IK.sum(axis=1) == pytest.approx(np.ones(len(fit.soft_IK)))
        assert fit.confusion_JKL.sum(axis=2) == pytest.approx(np.ones((3, 3)))
        assert fit.accuracy_J == pytest.approx([0.9, 0.8, 0.7], abs=0.1)

    def test_it_does_not_depend_on_the_order_of_votes_nor_on_the_names_of_judges(self, judges):
        item, judge, label, _ = simulated(SKEWED, 400)
        rng = np.random.default_rng(1)
        order, names = rng.permutation(len(item)), rng.permutation(4)
        one = fit_dawid_skene(item, judge, label, judges=judges)
        two = fit_dawid_skene(item[order], names[judge][order], label[order], judges=judges)
        assert two.soft_IK == pytest.approx(one.soft_IK, abs=1e-8)
        assert two.confusion_JKL[names] == pytest.approx(one.confusion_JKL, abs=1e-8)

    def test_it_says_when_it_stops_early(self, judges):
        *votes, _ = simulated(SKEWED, 100)
        with pytest.raises(NotConverged, match="after 2 rounds"):
            fit_dawid_skene(*votes, judges=judges, most=2)

    def test_a_thousand_votes_on_an_item_do_not_underflow(self, judges):
        *votes, truth = simulated(one_coin(np.full(1500, 0.6)), 8)
        fit = fit_dawid_skene(*votes, judges=judges)
        assert np.isfinite(fit.log_likelihood)
        assert (fit.soft_IK.argmax(axis=1) == truth).all()

    def test_unanimous_votes_are_sure_and_finite_even_without_smoothing(self, judges):
        item, judge = np.divmod(np.arange(30), 3)
        fit = fit_dawid_skene(item, judge, item % 2, judges=judges, smoothing=0)
        assert fit.soft_IK[:, 1] == pytest.approx(np.arange(10) % 2)
        assert fit.accuracy_J == pytest.approx(np.ones(3))

    def test_an_item_without_votes_gets_the_prior(self, judges):
        *votes, _ = simulated(SKEWED, 100)
        votes[0] = np.where(votes[0] >= 50, votes[0] + 1, votes[0])
        fit = fit_dawid_skene(*votes, judges=judges, tol=1e-12)
        assert fit.soft_IK[50] == pytest.approx(fit.prior_K, abs=1e-9)


@pytest.mark.parametrize("judges", MODELS)
def test_smoothing_keeps_a_judge_with_one_vote_from_certainty(judges):
    *votes, truth = simulated(one_coin(np.full(9, 0.9)), 200)
    votes = [np.append(column, extra) for column, extra in zip(votes, (0, 9, truth[0]), strict=True)]  # it is right
    sure, smooth = (fit_dawid_skene(*votes, judges=judges, smoothing=s).confusion_JKL[9, truth[0]] for s in (0, 1))
    assert sure[truth[0]] == pytest.approx(1, abs=1e-6)
    assert smooth[truth[0]] == pytest.approx(2 / 3, abs=1e-4)


def test_gaps_between_item_codes_change_nothing():
    item, judge, label, _ = simulated(SKEWED, 300, prior=[0.2, 0.8])
    one, two = (fit_dawid_skene(code, judge, label) for code in (item, item * 40))
    assert two.soft_IK[np.unique(item) * 40] == pytest.approx(one.soft_IK, abs=1e-9)
    assert two.n_iter == one.n_iter


def test_two_judges_are_refused():
    item, judge = np.divmod(np.arange(20), 2)
    with pytest.raises(NotIdentifiable, match="2 judges"):
        fit_dawid_skene(item, judge, item % 2)


def test_bad_votes_are_refused():
    item, judge = np.divmod(np.arange(30), 3)
    with pytest.raises(DataError, match="labels to 1"):
        fit_dawid_skene(item, judge, item % 3)
    with pytest.raises(DataError, match="30 items, 30 judges, 29 labels"):
        fit_dawid_skene(item, judge, item[1:] % 2)
    with pytest.raises(DataError, match="no votes"):
        fit_dawid_skene(item[:0], judge[:0], item[:0])
    with pytest.raises(ConfigError, match="one_coin"):
        fit_dawid_skene(item, judge, item % 2, judges="two_coin")


@pytest.mark.parametrize("classes", [2, 3])
def test_crowd_kit_gives_the_same_posteriors(classes):
    aggregation = pytest.importorskip("crowdkit.aggregation")
    import pandas as pd

    item, judge, label, _ = simulated(one_coin([0.85, 0.75, 0.7, 0.6], classes), 500, seed=2, asked=0.8)
    other = aggregation.DawidSkene(n_iter=5000, tol=1e-13)
    table = pd.DataFrame({"task": item, "worker": judge, "label": label})
    with warnings.catch_warnings(action="ignore"):  # of its own use of pandas
        soft = other.fit_predict_proba(table).sort_index()[list(range(classes))]
    fit = fit_dawid_skene(item, judge, label, classes=classes, smoothing=0, tol=1e-9)
    voted = np.unique(item)
    assert fit.soft_IK[voted] == pytest.approx(soft.to_numpy(), abs=1e-4)
