"""What every member of LOSSES must do. A new loss comes under test when it gets settings, a domain and an oracle here."""

import inspect
import math
import subprocess
import sys

import numpy as np
import pytest

from pairwright.core.losses import LOSSES, NEEDS, require
from pairwright.core.pair_terms import PairTerms
from pairwright.errors import ConfigError, DataError

BETA = 0.3
SETTINGS: dict[str, dict[str, float | str]] = {
    "dpo": {"beta": BETA},
    "cdpo": {"beta": BETA, "flip": 0.2},
    "soft_dpo": {"beta": BETA},
    "rdpo_robust": {"beta": BETA, "flip": 0.2},
    "ipo": {"beta": BETA},
    "ipo_norm": {"beta": BETA},
    "length_dpo": {"beta": BETA, "alpha": 0.02},
    "simpo": {"beta": 2.0, "gamma": 0.8},
    "alpha_dpo": {"beta": 2.0, "gamma": 0.8, "alpha": 0.4, "mean": 0.1, "sd": 0.7},
    "sft": {},
    "rpo_nll": {"beta": BETA, "alpha": 0.7},
    "rating_dpo": {"beta": BETA, "beta1": 0.4},
    "rating_ipo": {"beta": BETA, "beta1": 0.4},
    "ml_rdpo": {"beta": BETA, "variance": 1.7, "rate_weight": 1.3},
    "distilled_dpo": {"beta": BETA},
    "odpo": {"beta": BETA, "alpha": 0.5, "transform": "log"},
    "margin_dpo": {"beta": BETA},
    "scaled_dpo": {"beta": BETA, "mean": 1.5},
    "mmpo": {"beta": BETA, "gamma": 0.9},
    "rpo_sq": {"beta": BETA, "eta": 1.2},
    "rpo_bwd_kl": {"beta": BETA, "eta": 1.2},
    "rpo_fwd_kl": {"beta": BETA, "eta": 1.2},
    "mappo": {"beta": BETA},
    "rebel": {"eta": 1.2},
}
ABOVE_0 = {"scaled_dpo", "odpo"}  # losses of gaps above 0; mappo's are within 0 .. 1
MAY_BE_0 = {"flip", "alpha", "rate_weight", ("simpo", "gamma"), ("alpha_dpo", "gamma"), ("alpha_dpo", "mean")}
TRAINED = ("chosen", "rejected", "chosen_logps", "rejected_logps")  # the fields that carry a gradient
FROZEN = {("alpha_dpo", "chosen"), ("alpha_dpo", "rejected")}  # but not where the loss says so


def drawn(name: str, n: int = 24, seed: int = 5, dtype: type = np.float64) -> PairTerms:
    """Random fields within the domain of the loss, only those that it needs."""
    rng = np.random.default_rng(seed)
    gap = rng.normal(0, 2, n)
    fields = {
        "chosen": rng.normal(0, 4, n),
        "rejected": rng.normal(0, 4, n),
        "gap": rng.uniform(0, 1, n) if name == "mappo" else np.abs(gap) + 0.01 if name in ABOVE_0 else gap,
        "margin": rng.normal(0, 2, n),
        "p_chosen": rng.uniform(0, 1, n),
        "chosen_logps": -rng.uniform(1, 90, n),
        "rejected_logps": -rng.uniform(1, 90, n),
        "chosen_length": rng.integers(1, 60, n).astype(float),
        "rejected_length": rng.integers(1, 60, n).astype(float),
    }
    return PairTerms(**{field: fields[field].astype(dtype) for field in NEEDS[name]})


def far_out(name: str) -> PairTerms:
    """|m| and |c D| up to 1e4 in float32, and the ends of every domain."""
    ends = np.array([-1e4, -1e3, -20.0, -1e-3, 0.0, 1e-3, 20.0, 1e3, 1e4], np.float32)
    ratio, gap = (grid.ravel() for grid in np.meshgrid(ends / np.float32(BETA), ends))
    if name == "mappo":
        gap = np.clip(gap, 0, 1)
    if name in ABOVE_0:
        gap = np.abs(gap) + np.float32(1e-3)
    one = np.ones_like(gap)
    fields = {"chosen": ratio, "rejected": 0 * one, "gap": gap, "margin": gap, "p_chosen": (gap > 0) * one}
    fields |= {
        "chosen_logps": -np.abs(ratio),
        "rejected_logps": -np.abs(gap),
        "chosen_length": one,
        "rejected_length": one,
    }
    return PairTerms(**{field: fields[field] for field in NEEDS[name]})


def value(name: str, t: PairTerms):
    return LOSSES[name](t, **SETTINGS[name])


def rows(t: PairTerms, at) -> PairTerms:
    return PairTerms(*(None if field is None else field[at] for field in t))


def tensors(name: str, t: PairTerms, *, wants: bool = False):
    torch = pytest.importorskip("torch")
    made = {field: torch.tensor(getattr(t, field)) for field in NEEDS[name]}
    for field in set(made) & set(TRAINED) if wants else ():
        made[field].requires_grad_()
    return PairTerms(**made)


# The formulas once more, a pair at a time, from the papers and with nothing but the mathematics of Python.
def sig(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def nls(z: float) -> float:
    return -math.log(sig(z))


def bernoulli_kl(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def m(t) -> float:
    return BETA * (t.chosen - t.rejected)


def mean_logps(t) -> tuple[float, float]:
    return t.chosen_logps / t.chosen_length, t.rejected_logps / t.rejected_length


def alpha_margin(t) -> float:
    g = t.chosen / t.chosen_length - t.rejected / t.rejected_length
    return 0.8 / 2.0 + 0.4 * (g - 0.1) / 0.7


ORACLES = {
    "dpo": lambda t: -math.log(1 / (1 + math.exp(-m(t)))),
    "cdpo": lambda t: -0.8 * math.log(sig(m(t))) - 0.2 * math.log(sig(-m(t))),
    "soft_dpo": lambda t: -t.p_chosen * math.log(sig(m(t))) - (1 - t.p_chosen) * math.log(1 - sig(m(t))),
    "rdpo_robust": lambda t: (0.8 * nls(m(t)) - 0.2 * nls(-m(t))) / 0.6,
    "ipo": lambda t: (t.chosen - t.rejected - 0.5 / BETA) ** 2,
    "ipo_norm": lambda t: (t.chosen / t.chosen_length - t.rejected / t.rejected_length - 0.5 / BETA) ** 2,
    "length_dpo": lambda t: nls(m(t) + 0.02 * (t.chosen_length - t.rejected_length)),
    "simpo": lambda t: nls(2.0 * mean_logps(t)[0] - 2.0 * mean_logps(t)[1] - 0.8),
    "alpha_dpo": lambda t: nls(2.0 * (mean_logps(t)[0] - mean_logps(t)[1] - alpha_margin(t))),
    "sft": lambda t: -t.chosen_logps / t.chosen_length,
    "rpo_nll": lambda t: nls(m(t)) - 0.7 * t.chosen_logps / t.chosen_length,
    "rating_dpo": lambda t: nls(m(t) - 0.3 / 0.4 * t.gap),
    "rating_ipo": lambda t: 0.09 * (t.chosen - t.rejected - t.gap / 0.4 - 1 / 0.6) ** 2,
    "ml_rdpo": lambda t: nls(m(t)) + 1.3 * (t.gap - m(t)) ** 2 / 3.4,
    "distilled_dpo": lambda t: (t.gap - m(t)) ** 2,
    "odpo": lambda t: nls(m(t) - 0.5 * math.log(t.gap)),
    "margin_dpo": lambda t: nls(m(t) - t.margin),
    "scaled_dpo": lambda t: t.gap / 1.5 * nls(m(t)),
    "mmpo": lambda t: sig(0.9 * t.gap) * nls(m(t)) + (1 - sig(0.9 * t.gap)) * nls(-m(t)),
    "rpo_sq": lambda t: (m(t) - 1.2 * t.gap) ** 2,
    "rpo_bwd_kl": lambda t: bernoulli_kl(sig(1.2 * t.gap), sig(m(t))),
    "rpo_fwd_kl": lambda t: bernoulli_kl(sig(m(t)), sig(1.2 * t.gap)),
    "mappo": lambda t: nls(BETA * t.chosen - t.gap * BETA * t.rejected),
    "rebel": lambda t: (t.chosen - t.rejected - 1.2 * t.gap) ** 2,
}


def test_every_loss_has_settings_needs_and_an_oracle_here():
    assert set(SETTINGS) == set(LOSSES) == set(NEEDS) == set(ORACLES)


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_its_key_is_its_name(self, name):
        assert LOSSES[name].__name__ == name

    def test_settings_are_keyword_only_after_the_terms(self, name):
        first, *others = inspect.signature(LOSSES[name]).parameters.values()
        assert first.name == "t"
        assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in others)
        assert {each.name for each in others} == set(SETTINGS[name])

    def test_it_is_the_formula(self, name):
        t = drawn(name)
        slow = [ORACLES[name](rows(t, at)) for at in range(24)]
        np.testing.assert_allclose(value(name, t), slow, rtol=1e-12, atol=1e-13)

    def test_one_value_per_pair_in_the_precision_of_its_input(self, name):
        for dtype in (np.float64, np.float32):
            found = value(name, drawn(name, 7, dtype=dtype))
            assert found.shape == (7,)
            assert found.dtype == dtype
        assert value(name, drawn(name, 0)).shape == (0,)

    def test_pairs_do_not_talk_to_each_other(self, name):
        t = drawn(name)
        together = value(name, t)
        order = np.random.default_rng(0).permutation(24)
        assert np.array_equal(value(name, rows(t, order)), together[order])
        assert np.array_equal(np.concatenate([value(name, rows(t, slice(at, at + 1))) for at in range(24)]), together)

    def test_inputs_are_untouched(self, name):
        t = drawn(name)
        before = rows(t, slice(None))
        before = PairTerms(*(None if field is None else field.copy() for field in before))
        for field in t:
            if field is not None:
                field.flags.writeable = False
        value(name, t)
        for was, field in zip(before, t, strict=True):
            assert field is None or np.array_equal(was, field)

    def test_it_reads_the_fields_of_needs_and_no_other(self, name):
        t = drawn(name)
        for field in NEEDS[name]:
            with pytest.raises(DataError, match=field):
                value(name, t._replace(**{field: None}))
            with pytest.raises(DataError, match=field):
                require(name, t._replace(**{field: None}), **SETTINGS[name])
        others = {field: np.full(24, np.nan) for field in set(PairTerms._fields) - set(NEEDS[name])}
        assert np.array_equal(value(name, t._replace(**others)), value(name, t))

    def test_each_field_matters(self, name):
        t = drawn(name)
        for field in NEEDS[name]:
            moved = getattr(t, field) * (1.0 if field.endswith("length") else 0.5) + field.endswith("length")
            assert (value(name, t._replace(**{field: moved})) != value(name, t)).all(), field

    def test_a_bad_setting_is_refused_by_name(self, name):
        t = drawn(name)
        for setting, fine in SETTINGS[name].items():
            if setting == "transform":
                continue
            bad = [None, math.nan, math.inf, "0.1"]
            bad += [] if setting == "mean" and name == "alpha_dpo" else [-1.0]
            bad += [] if setting in MAY_BE_0 or (name, setting) in MAY_BE_0 else [0.0]
            for each in bad:
                with pytest.raises(ConfigError, match=setting):
                    LOSSES[name](t, **{**SETTINGS[name], setting: each})
            LOSSES[name](t, **{**SETTINGS[name], setting: fine})

    def test_what_is_unknown_makes_its_own_pair_nan_and_no_other(self, name):
        t = drawn(name)
        for field in NEEDS[name]:
            if (name, field) == ("ml_rdpo", "gap"):
                continue  # the loss that says otherwise: test_losses
            for unknown in (np.nan, np.inf, -np.inf) if field not in TRAINED else (np.nan,):
                changed = getattr(t, field).copy()
                changed[3] = unknown
                found = value(name, t._replace(**{field: changed}))
                assert np.isnan(found[3]), (field, unknown)
                assert np.array_equal(np.delete(found, 3), np.delete(value(name, t), 3))
                with pytest.raises(DataError, match=rf"1 of 24 .* row 3 .*{field} {unknown}"):
                    require(name, t._replace(**{field: changed}), **SETTINGS[name])

    def test_require_accepts_its_whole_domain(self, name):
        require(name, drawn(name), **SETTINGS[name])
        require(name, drawn(name, dtype=np.float32), **SETTINGS[name])

    def test_finite_far_out(self, name):
        assert np.isfinite(value(name, far_out(name))).all()


@pytest.mark.parametrize("name", LOSSES)
class TestTorch:
    def test_the_value_is_numpys(self, name):
        t = drawn(name, 200)
        found = value(name, tensors(name, t))
        np.testing.assert_allclose(found.numpy(), value(name, t), rtol=1e-12, atol=1e-12)
        require(name, tensors(name, t), **SETTINGS[name])

    def test_the_gradient_is_the_finite_difference(self, name):
        t, step = drawn(name), 1e-5
        made = tensors(name, t, wants=True)
        value(name, made).sum().backward()
        for field in set(NEEDS[name]) & set(TRAINED):
            grad = getattr(made, field).grad
            if (name, field) in FROZEN:
                assert grad is None
                continue
            up, down = (value(name, t._replace(**{field: getattr(t, field) + by})) for by in (step, -step))
            np.testing.assert_allclose(grad.numpy(), (up - down) / (2 * step), rtol=1e-6, atol=1e-8)

    def test_the_gradient_is_finite_far_out(self, name):
        made = tensors(name, far_out(name), wants=True)
        value(name, made).sum().backward()
        for field in set(NEEDS[name]) & set(TRAINED):
            grad = getattr(made, field).grad
            assert (name, field) in FROZEN or bool(grad.isfinite().all()), field

    def test_the_gradient_where_nothing_has_been_learnt_yet(self, name):
        """policy = reference, the first step of every run: no kink at 0."""
        if "chosen" not in NEEDS[name]:
            return
        zero = np.zeros(24)
        t = drawn(name)._replace(chosen=zero, rejected=zero)
        made = tensors(name, t, wants=True)
        value(name, made).sum().backward()
        if (name, "chosen") not in FROZEN:
            up, down = (value(name, t._replace(chosen=zero + by)) for by in (1e-5, -1e-5))
            np.testing.assert_allclose(made.chosen.grad.numpy(), (up - down) / 2e-5, rtol=1e-6, atol=1e-8)

    def test_no_gradient_passes_through_the_data(self, name):
        made = tensors(name, drawn(name), wants=True)
        data = [getattr(made, field).requires_grad_() for field in NEEDS[name] if field not in TRAINED]
        value(name, made).sum().backward()
        assert all(field.grad is None for field in data)

    def test_a_pair_without_a_loss_leaves_the_gradient_of_the_others_alone(self, name):
        t = drawn(name)
        whole, broken = tensors(name, t, wants=True), tensors(name, t, wants=True)
        for field in NEEDS[name]:
            if field not in TRAINED:
                getattr(broken, field)[3] = math.nan
        known = [at for at in range(24) if at != 3]
        value(name, whole)[known].sum().backward()
        value(name, broken)[known].sum().backward()
        for field in set(NEEDS[name]) & set(TRAINED):
            if (name, field) not in FROZEN:
                found = getattr(broken, field).grad
                assert bool(found.isfinite().all())
                assert found[known].tolist() == getattr(whole, field).grad[known].tolist()

    def test_lengths_may_be_whole_numbers(self, name):
        lengths = [field for field in NEEDS[name] if field.endswith("length")]
        if not lengths:
            return
        t = drawn(name)
        for kind in (np.int64, np.uint8):
            whole = t._replace(**{field: getattr(t, field).astype(kind) for field in lengths})
            np.testing.assert_allclose(value(name, whole), value(name, t), rtol=1e-12)
            np.testing.assert_allclose(value(name, tensors(name, whole)).numpy(), value(name, t), rtol=1e-6)
            require(name, whole, **SETTINGS[name])


def test_the_core_does_not_import_torch():
    code = "import sys, pairwright.core.losses, pairwright.core.batch_losses; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
