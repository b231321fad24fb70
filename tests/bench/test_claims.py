"""The evidence bench on toy settings: what must hold by mathematics, whatever the draw, and the rules of the page.

Seeds are fixed, so a run is red or green for good. Over new seeds a false red has probability 0, except where a test says
otherwise beside its assertion.
"""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "claims"))

import evidence
import learn
import page
import plots
import run
import tiny_lm
import world
from book import Book, interval
from cells import factors, named

from pairwright.pair.build import Pairing, build_pairs

SEEDS = [0, 1]
CLAIMS = [name for name in run.CLAIMS if (evidence.HERE / f"{name}.yaml").exists()]


class TestChain:
    def test_reward_and_kl_are_those_of_every_text_counted(self):
        at = world.chain(SEEDS, prompts=2, tokens=3, length=4, junk=True, ends=True)
        logit = at.logit_SPVA + np.random.default_rng(0).normal(size=at.logit_SPVA.shape)
        texts = np.stack(np.meshgrid(*[np.arange(3)] * 4, indexing="ij"), -1).reshape(-1, 4).astype(np.uint8)
        every = np.tile(texts, (2, 2, 1, 1))
        prompt = np.tile(np.arange(2), (2, 1))
        gold = world.worth(at, prompt, every)
        logp, start = (_logps(x, every) for x in (logit, at.logit_SPVA))
        told = world.exact(at, logit)
        assert np.exp(logp).sum(-1) == pytest.approx(1)
        mean = (np.exp(start) * gold).sum(-1)
        sd = np.sqrt(((np.exp(start) * gold**2).sum(-1) - mean**2).mean(1))
        assert world.spread(at).ravel() == pytest.approx(sd)
        assert told["gain"] == pytest.approx((((np.exp(logp) * gold).sum(-1) - mean) / sd[:, None]).mean(1))
        possible = np.isfinite(start)
        kl = (np.exp(logp) * (np.where(possible, logp, 0.0) - np.where(possible, start, 0.0))).sum(-1)
        assert told["kl"] == pytest.approx(kl.mean(1))

    def test_the_start_policy_has_no_gain_and_no_kl(self):
        at = world.chain(SEEDS, ends=True)
        told = world.exact(at, at.logit_SPVA)
        assert told["gain"] == pytest.approx(0, abs=1e-12) and told["kl"] == pytest.approx(0, abs=1e-12)

    def test_draws_follow_the_chain(self):
        # one state, 40,000 draws for each of 2 seeds: a share beyond 5 sd has a chance below 1e-5
        at = world.chain(SEEDS, prompts=1, tokens=4, length=1)
        text = world.walk(at.logit_SPVA, np.zeros((2, 1), int), 40_000, 1, world.rngs(SEEDS, "t"))[..., 0]
        share = np.stack([(text == t).mean((1, 2)) for t in range(4)], -1)
        want = learn.shares(at.logit_SPVA)[0][:, 0, 4]
        assert (np.abs(share - want) < 5 * np.sqrt(want * (1 - want) / 40_000)).all()

    def test_a_seed_does_not_depend_on_its_neighbours(self):
        both, alone = world.chain([3, 4]), world.chain([4])
        assert np.array_equal(both.logit_SPVA[1], alone.logit_SPVA[0])
        text = [world.walk(c.logit_SPVA, np.zeros((n, 2), int), 3, 12, world.rngs(s, "x")) for c, n, s in
                ((both, 2, [3, 4]), (alone, 1, [4]))]  # fmt: skip
        assert np.array_equal(text[0][1], text[1][0])

    def test_what_follows_the_end_is_nothing(self):
        at = world.chain(SEEDS, ends=True)
        text = world.walk(at.logit_SPVA, np.zeros((2, 50), int), 4, 12, world.rngs(SEEDS, "e"))
        ended = np.cumsum(text == 0, -1) > 0
        assert (text[ended] == 0).all()
        cut = np.where(np.arange(12) < world.lengths(at, text)[..., None], text, 0)
        assert np.array_equal(cut, text)


def _logps(logit: np.ndarray, text: np.ndarray) -> np.ndarray:
    """By a loop: the sum of log-probabilities along each text."""
    out = np.zeros(text.shape[:-1])
    for place in np.ndindex(text.shape[:-1]):
        state = logit.shape[-1]
        for token in text[place]:
            row = logit[place[0], place[1], state]
            out[place] += row[token] - np.log(np.exp(row).sum()) if np.isfinite(row[token]) else -np.inf
            state = token
    return out


class TestRaters:
    def test_each_kind_of_error_does_what_it_says(self):
        gold = np.random.default_rng(1).normal(size=(2, 200, 6))
        rng = world.rngs
        assert np.array_equal(world.rate(gold, world.Rater(), rng(SEEDS)), gold)
        assert world.rate(gold, world.Rater(scale=3.0), rng(SEEDS)) == pytest.approx(3 * gold)
        turned = world.rate(gold, world.Rater(flips=1.0), rng(SEEDS))
        assert turned == pytest.approx(2 * gold.mean(-1, keepdims=True) - gold)
        long = world.rate(gold, world.Rater(length=0.5), rng(SEEDS), length_SGN=np.ones(gold.shape))
        assert long == pytest.approx(gold + 0.5)
        gross = world.rate(gold, world.Rater(gross=0.1), rng(SEEDS))
        assert ((gross == gold) | (gross == gold.max((1, 2), keepdims=True))).all() and (gross != gold).any()

    def test_a_rater_that_needs_what_the_world_lacks_says_so(self):
        with pytest.raises(ValueError, match="length"):
            world.rate(np.zeros((1, 2, 2)), world.Rater(length=1.0), world.rngs([0]))


class TestTables:
    def test_pairs_come_back_to_the_places_they_were_drawn_at(self):
        score = np.random.default_rng(2).normal(size=(2, 7, 5))
        score[1, 3] = 1.0  # no contrast: this seed has a pair fewer
        code = np.tile(np.arange(5), (2, 7, 1))
        at = world.taken(build_pairs(world.candidates(score, code), Pairing(rejected="min")).pairs, 2, 7)
        assert at.here_SI.sum(1).tolist() == [7, 6]
        for s in range(2):
            groups = at.group_SI[s][at.here_SI[s]]
            assert np.array_equal(at.chosen_SI[s][at.here_SI[s]], score[s, groups].argmax(-1))
            assert np.array_equal(at.rejected_SI[s][at.here_SI[s]], score[s, groups].argmin(-1))
            assert at.gap_SI[s][at.here_SI[s]] == pytest.approx(np.ptp(score[s, groups], -1))


class TestLearning:
    def test_the_gradient_of_a_seed_is_its_own(self):
        phi = np.random.default_rng(3).normal(size=(2, 5, 4, 3))
        start = np.zeros((2, 5, 4))
        prompt, chosen, rejected = np.tile(np.arange(5), (2, 1)), np.zeros((2, 5), int), np.ones((2, 5), int)

        def fitted(seeds: slice) -> np.ndarray:
            policy = learn.ListPolicy(start[seeds], phi[seeds])
            data = learn.data(prompt[seeds], chosen[seeds], rejected[seeds], np.ones((2, 5))[seeds])
            plan = learn.Plan(torch.arange(5).repeat(3).expand(len(data.prompt), -1), 0.5, 5)
            learn.train(policy, data, plan, learn.preference("dpo", beta=0.1))
            return policy.theta.detach().numpy()

        assert fitted(slice(None))[1] == pytest.approx(fitted(slice(1, 2))[0], abs=1e-12)

    def test_a_step_of_dpo_goes_along_half_beta_times_the_difference_of_features(self):
        phi = np.random.default_rng(4).normal(size=(1, 3, 4, 2))
        policy = learn.ListPolicy(np.zeros((1, 3, 4)), phi)
        data = learn.data([[0, 1, 2]], [[0, 0, 0]], [[1, 2, 3]], np.ones((1, 3)))
        learn.train(policy, data, learn.Plan(torch.arange(3)[None], 2.0, 3), learn.preference("dpo", beta=0.1))
        away = phi[0, [0, 1, 2], 0] - phi[0, [0, 1, 2], [1, 2, 3]]
        assert policy.theta.detach().numpy()[0] == pytest.approx(2.0 * 0.05 * away.mean(0))

    def test_newton_ends_where_the_gradient_is_nothing(self):
        rng = np.random.default_rng(5)
        phi, gap = rng.normal(size=(2, 200, 3)), rng.normal(size=(2, 200)) * 50
        theta = learn.newton(phi, learn.preference("rating_dpo", beta=10.0, beta1=0.5), ridge=1.0, gap_SI=gap)
        z = 20.0 * gap - 10.0 * np.einsum("sid,sd->si", phi, theta)
        slope = -10.0 * np.einsum("sid,si->sd", phi, 1 / (1 + np.exp(-np.clip(z, -700, 700)))) + theta
        assert np.abs(slope).max() < 1e-4  # of terms up to 2,000

    def test_pairs_that_are_not_there_change_nothing(self):
        phi = np.random.default_rng(6).normal(size=(1, 4, 3, 2))

        def fitted(extra: bool) -> np.ndarray:
            policy = learn.ListPolicy(np.zeros((1, 4, 3)), phi)
            chosen = [[0, 1, 2, 0]] if extra else [[0, 1, 2]]
            n = len(chosen[0])
            here = [[1, 1, 1, 0]] if extra else [[1, 1, 1]]
            data = learn.data([[0, 1, 2, 3][:n]], chosen, [[1, 2, 0, 1][:n]], np.ones((1, n)), here=here)
            plan = learn.Plan(torch.arange(n)[None], 1.0, n)
            learn.train(policy, data, plan, learn.preference("dpo", beta=0.1))
            return policy.theta.detach().numpy()

        assert fitted(True) == pytest.approx(fitted(False), abs=1e-14)

    def test_a_gain_at_a_kl_is_read_off_the_path(self):
        kl, gain = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [2.0], [3.0]])
        assert learn.at_kl(kl, gain, np.array([2.0]))[0] == pytest.approx(2.5)
        assert np.isnan(learn.at_kl(kl, gain, np.array([3.1]))[0])
        assert learn.at_kl(kl, gain, np.array([0.0]))[0] == 0


class TestTransformer:
    def test_it_sees_the_past_alone_and_samples_what_it_says(self):
        chain = world.chain(SEEDS, prompts=4, tokens=5, length=6)
        model = tiny_lm.TinyLM(world.rngs(SEEDS, "w"), 5, 6)
        code = torch.arange(4).expand(2, -1) * tiny_lm.GOALS
        text = torch.as_tensor(np.random.default_rng(7).integers(5, size=(2, 4, 6)))
        with torch.no_grad():
            base = model.next_logps(code, text)
            text[..., 3] = (text[..., 3] + 1) % 5
            moved = model.next_logps(code, text)
        assert torch.equal(base[:, :, :4], moved[:, :, :4]) and not torch.allclose(base[:, :, 4:], moved[:, :, 4:])
        # 4,000 draws of a first token for each of 8: beyond 6 sd has a chance below 1e-6
        drawn = model.sample(np.tile(np.arange(4) * tiny_lm.GOALS, (2, 1)), 4_000, world.rngs(SEEDS, "d"))
        share = np.stack([(drawn[..., 0] == t).mean(-1) for t in range(5)], -1)
        want = base[:, :, 0].exp().numpy()
        assert (np.abs(share - want) < 6 * np.sqrt(want * (1 - want) / 4_000)).all()
        assert chain.tokens == model.tokens

    def test_sampling_with_a_cache_is_sampling_without(self):
        model = tiny_lm.TinyLM(world.rngs(SEEDS, "w"), 5, 6)
        code = np.tile(np.arange(3) * tiny_lm.GOALS, (2, 1))
        drawn = torch.as_tensor(model.sample(code, 2, world.rngs(SEEDS, "c")).astype(np.int64))
        uniform = world.each(world.rngs(SEEDS, "c"), "random", (6, 6)).astype(np.float32)
        with torch.no_grad():
            told = model.next_logps(torch.as_tensor(code).repeat_interleave(2, 1), drawn.flatten(1, 2))
        again = (told.exp().cumsum(-1).numpy() < uniform[..., None]).sum(-1).clip(max=4)
        assert (again == drawn.flatten(1, 2).numpy()).mean() > 0.99  # ties of rounding at the edge of a token


TOY = {
    "sweet_spot": {"sets": 60, "n": [5, 30], "noise": [0.5], "epochs": 2, "pick_n": [5, 200], "pick_sets": 60},
    "margin_selection": {"pairs": 1500, "keep": [0.1], "curves": []},
    "rating_losses": {"n": [200], "arms": {"dpo": {"loss": "dpo", "beta": 0.5},
                                           "exact": {"loss": "distilled_dpo", "beta": 0.5}}},
    "chosen_quality": {"prompts": 30, "steps": [10, 60]},
    "sft_routing": {"prompts": 200, "variants": {"plain": 0.5}},
    "conditioning": {"shared_pairs": 300, "memory_pairs": 60, "epochs": 2},
    "influence": {"pairs": 150, "cases": {"flips_20": {"flips": 0.2, "wild": 0.0, "held": 100, "rate": 3e-3, "epochs": 1}}},
    "whole_pipeline": {"sets": 40, "n": 16, "steps": 8},
}  # fmt: skip


def made(name: str, part: str, seeds: list[int] = SEEDS) -> evidence.Results:
    book = Book()
    importlib.import_module(name).PARTS[part](book, TOY[name], seeds)
    return evidence.Results(evidence.rows(book, name, part, seeds))


class TestDirections:
    def test_up_to_ten_samples_mu_minus_two_sigma_is_the_minimum(self):
        """A theorem: the two arms are one data set."""
        told = made("sweet_spot", "junk_world")
        cell = named(junk=1, noise=0.5, n=5, epochs=2)
        for metric in ("gain", "kl", "loss"):
            assert np.array_equal(told.get(cell, "min", metric), told.get(cell, "mu-2sigma", metric))
        large = named(junk=1, noise=0.5, n=30, epochs=2)
        assert not np.array_equal(told.get(large, "min", "gain"), told.get(large, "mu-2sigma", "gain"))

    def test_scores_with_an_end_above_mu_minus_two_sigma_never_separate_the_rules(self):
        told = made("sweet_spot", "picks")
        assert (told.get("shape=two_modes n=200", "mu-2sigma", "is_minimum") == 1).all()
        # normal scores: the minimum of 200 stands beyond -2 sigma but once in e^4.6 prompts
        assert (told.get("shape=normal n=200", "mu-2sigma", "is_minimum") < 0.2).all()

    def test_exact_ratings_fit_the_reward_itself(self):
        """A square on exact gaps has its minimum at the true reward, ridge apart; labels alone have their noise."""
        told = made("rating_losses", "fits")
        cell = named(ratings="exact", n=200)
        assert (told.get(cell, "exact", "error") < 0.01).all()
        # 200 labels for 12 numbers: an error below 0.01 nats was seen in none of 300 draws
        assert (told.get(cell, "dpo", "error") > 0.01).all()

    def test_ratings_that_are_all_zero_are_labels_alone_at_the_same_beta(self):
        rated = importlib.import_module("rating_losses").Rated(SEEDS, 200)
        zero = rated.ratings(scale=0.0)
        arms = ({"loss": "dpo", "beta": 0.5}, {"loss": "rating_dpo", "beta": 0.5, "beta1": 0.1})
        assert rated.fit(zero, 200, arms[0]) == pytest.approx(rated.fit(zero, 200, arms[1]))

    def test_in_a_table_an_answer_outside_the_data_moves_with_all_others_outside(self):
        told = made("chosen_quality", "tiers")
        assert (told.get("policy=table time=late", "best/worst", "uncovered") < 1e-9).all()
        assert (told.get("policy=line time=late", "best/worst", "uncovered") > 1e-3).all()
        late = [told.get("policy=table time=late", f"sft {tier}", "gain") for tier in ("best", "low")]
        assert (
            late[0] > late[1]
        ).all()  # in a table SFT goes to the tier itself, and best is above low in every prompt

    def test_the_copies_of_a_pair_cancel_for_a_model_that_does_not_see_the_goal(self):
        conditioning = importlib.import_module("conditioning")
        at = conditioning.judged(SEEDS, prompts=20, new=0, pairs=60, once=False)
        data = conditioning.relabelled(at, conditioning.RULES["ra"])
        policy = conditioning.GoalPolicy(at.phi, memory=True)
        policy.psi = torch.ones_like(policy.psi)  # blind: every goal looks alike
        ref = learn.reference(policy, data)
        loss = learn.preference("dpo", beta=0.1)(learn.terms(policy, data, ref)) * data.here
        slope = torch.autograd.grad(loss.sum(), policy.parameters)
        assert max(float(g.abs().max()) for g in slope) < 1e-12
        assert float(loss.detach().sum()) == pytest.approx(float(data.here.sum()) * np.log(2))

    def test_without_the_exchange_the_copies_do_not_cancel(self):
        conditioning = importlib.import_module("conditioning")
        at = conditioning.judged(SEEDS, prompts=20, new=0, pairs=60, once=False)
        data = conditioning.relabelled(at, conditioning.RULES["no_swap"])
        policy = conditioning.GoalPolicy(at.phi, memory=True)
        loss = learn.preference("dpo", beta=0.1)(learn.terms(policy, data, learn.reference(policy, data)))
        assert float(torch.autograd.grad(loss.sum(), policy.parameters)[1].abs().max()) > 1e-3

    def test_with_nothing_to_sft_routing_in_random_order_is_dpo_and_sft_ignores_the_other_side(self):
        routing = importlib.import_module("sft_routing")
        here = routing.given(SEEDS, 60, leaky=True)
        tables = [routing.table(here, s) for s in range(2)]
        plain, sft = routing.routed(tables, routing.ARMS["dpo"], 0.5, SEEDS)
        assert not sft.any() and (plain.here.numpy() == 1).all()
        whole, every = routing.routed(tables, routing.ARMS["sft"], 0.5, SEEDS)
        assert every.all()
        policy = learn.ListPolicy(here.start, here.phi)
        ref = learn.reference(policy, whole)
        at = learn.terms(policy, whole, ref)
        loss = learn.mixed_loss(at, whole.sft, preference=learn.preference("dpo", beta=0.1))
        assert torch.allclose(loss, -at.chosen_logps)

    def test_junk_stands_in_no_pair_of_the_leaky_world_and_lowers_the_mean_where_it_gets_in(self):
        routing = importlib.import_module("sft_routing")
        here = routing.given(SEEDS, 40, leaky=True)
        assert (here.chosen < 10).all() and (here.rejected < 10).all()
        logit = here.start.copy()
        logit[..., here.junk] += 50.0
        told = routing.measures(here, logit)
        assert (told["junk"] > 0.999).all() and (told["gain"] < 0).all()

    def test_margins_kept_are_the_largest_and_shrink_the_share_of_wrong_labels(self):
        selection = importlib.import_module("margin_selection")
        at = selection.pool(SEEDS, 1500)
        rows, _ = selection.chosen(at, {"margins": ["external"], "combine": "add"}, 0.1, SEEDS)
        for s in range(2):
            assert at.external[s, rows[s]].min() >= np.sort(at.external[s])[-150]
        # right labels: 0.75 of all, 0.95 or so of the kept; 150 kept below 0.85 has a chance below 1e-6
        right = at.right[np.arange(2)[:, None], rows].mean(1)
        assert (right > 0.85).all()

    def test_influence_is_the_product_of_gradients_and_its_sign_turns_with_the_pair(self):
        influence = importlib.import_module("influence")
        rng_S = world.rngs(SEEDS, "i")
        w = world.each(rng_S, "standard_normal", influence.IN)
        pairs, held = (influence.drawn(rng_S, w, n, 0.1) for n in (12, 9))
        ref, at = (influence.Scorer(world.rngs(SEEDS, name)) for name in ("a", "b"))
        told = influence.scored(at, ref, pairs, held)
        g_V = torch.autograd.grad(
            torch.nn.functional.softplus(-influence.margin(at, ref, held)).mean(1).sum(), at.parameters
        )
        for row in (0, 7):
            loss = torch.nn.functional.softplus(-influence.margin(at, ref, pairs)[:, row]).sum()
            g = torch.autograd.grad(loss, at.parameters)
            dot = sum((a * b).flatten(1).sum(1) for a, b in zip(g, g_V, strict=True)).numpy()
            assert told.influence[:, row] == pytest.approx(dot)
        turned = influence.scored(at, ref, pairs._replace(chosen=pairs.rejected, rejected=pairs.chosen), held)
        assert (np.sign(turned.influence) == -np.sign(told.influence)).all()

    def test_every_arm_of_the_pipeline_takes_the_same_steps_and_no_stage_gains_a_pair(self):
        told = made("whole_pipeline", "plain")
        cell = "junk=0 raters=bad"
        most = told.get(cell, "usual", "pairs")
        assert (told.get(cell, "ours", "pairs") <= np.ceil(0.5 * most)).all()
        pipeline = importlib.import_module("whole_pipeline")
        assert set(pipeline.STAGES) == {
            name.removeprefix("ours without ") for name in pipeline.ARMS if "without" in name
        }

    def test_the_usual_pipeline_has_no_stage_of_ours(self):
        pipeline = importlib.import_module("whole_pipeline")
        changed = pipeline.OURS
        for change in pipeline.STAGES.values():
            changed = replace(changed, **change)
        assert changed == pipeline.USUAL


class TestRules:
    def test_the_name_of_a_cell_gives_its_factors_back(self):
        assert factors(named(junk=1, noise=0.5, n=200)) == {"junk": "1", "noise": "0.5", "n": "200"}

    @pytest.mark.parametrize(
        ("value", "outcome"),
        [([1.0, 1.1, 0.9], "above"), ([-1.0, -1.1, -0.9], "below"), ([0.0, 0.01, -0.01], "same"), ([1.0, -1.0, 0.5], "open"),
         ([np.nan, np.nan, np.nan], "absent"), ([0.01, 0.011, 0.009], "same"), ([2.0], "open")],
    )  # fmt: skip
    def test_an_outcome_follows_from_the_interval(self, value, outcome):
        assert evidence.judge(interval(np.array(value)), 0.05) == outcome

    def test_a_difference_is_paired_by_seed(self):
        rows = [("c", "p", "x", arm, s, "gain", base + s) for arm, base in (("a", 1.0), ("b", 0.0)) for s in (0, 10)]
        results = evidence.Results(
            pl.DataFrame(rows, schema=evidence.SCHEMA, orient="row").sample(fraction=1, shuffle=True, seed=1)
        )
        told = evidence.ask(results, evidence.Test("w", "x", "a", over="b", claim="above", expect="below"))
        assert told.size.mean == 1 and told.size.half == 0 and told.holds == "yes" and told.surprise
        twice = evidence.Test("w", "x", "a", over="b", minus={"over": "b"})
        assert evidence.ask(results, twice).outcome == "same"
        assert evidence.ask(results, evidence.Test("w", "y", "a")).outcome == "absent"

    @pytest.mark.parametrize("name", CLAIMS)
    def test_every_arms_file_is_whole(self, name):
        claim = evidence.read(name)
        ids = [test.id for test in claim.tests() if test.id]
        assert len(ids) == len(set(ids))
        for test in claim.tests():
            assert test.claim in (None, "above", "below", "same") and test.expect in (None, "above", "below", "same")
        assert all(test.claim for row in claim.rows for test in row.tests)
        for each in claim.defaults:
            for part in each.get("parts", [each]):
                assert part["test"] in ids
                assert "other" in part or {"above", "below", "same"} - set(part) <= {"same", "below", "above"}
        assert set(claim.settings) == set(claim.seeds) == {"small", "full"}
        assert min(claim.seeds.values()) >= 4

    def test_another_seed_shares_no_seed(self):
        claim = evidence.read("sweet_spot")
        assert not set(run.seeds_of(claim, "full", 0)) & set(run.seeds_of(claim, "full", 1))

    def test_a_fingerprint_changes_with_settings_and_code_and_with_nothing_else(self, tmp_path, monkeypatch):
        for name, text in (("one", "import two\nA = 1\n"), ("two", "B = 2\n")):
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(evidence.closure, "__defaults__", (tmp_path,))
        first = evidence.fingerprint("one", {"n": 1})
        assert evidence.fingerprint("one", {"n": 2}) != first
        (tmp_path / "two.py").write_text('"""Words."""\nB = 2  # a comment\n')
        assert evidence.fingerprint("one", {"n": 1}) == first
        (tmp_path / "two.py").write_text("B = 3\n")
        assert evidence.fingerprint("one", {"n": 1}) != first

    def test_the_code_behind_a_claim_is_found_through_the_product(self):
        found = {path.name for path in evidence.closure("sweet_spot")}
        assert {
            "sweet_spot.py",
            "world.py",
            "learn.py",
            "build.py",
            "positions.py",
            "losses.py",
            "segments.py",
        } <= found

    def test_two_seeds_are_laid_side_by_side_and_an_opposed_outcome_is_called_so(self, tmp_path, capsys):
        test = next(t for t in evidence.read("rating_losses").tests() if t.id == "trap")
        for seed, sign in ((0, 1), (5, -1)):
            rows = [("rating_losses", "p", test.cell, test.arm, s, test.metric, sign + 0.01 * s) for s in range(3)]
            rows += [("rating_losses", "p", test.cell, test.over, s, test.metric, 0.0) for s in range(3)]
            frame = pl.DataFrame(rows, schema=evidence.SCHEMA, orient="row")
            frame.write_parquet(tmp_path / f"rating_losses-small-{seed}.parquet")
        run.beside(["rating_losses"], "small", 5, tmp_path)
        told = capsys.readouterr().out
        assert "1 differ, 1 of them are opposed" in told and "OPPOSED rating_losses, beta 0.5 for both: above" in told

    def test_a_part_that_is_done_is_not_done_again(self, tmp_path):
        planned = run.jobs(["rating_losses"], "small", 0, tmp_path)
        path = planned[0][4]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert [job for job in run.jobs(["rating_losses"], "small", 0, tmp_path) if not job[4].exists()] == planned[1:]


class TestPage:
    @pytest.fixture
    def table(self) -> pl.DataFrame:
        book = Book()
        importlib.import_module("rating_losses").PARTS["same_beta"](book, {"n": [200]}, [0, 1, 2, 3])
        return evidence.rows(book, "rating_losses", "same_beta", [0, 1, 2, 3])

    @pytest.fixture
    def told(self, table, tmp_path) -> str:
        return page.write({"rating_losses": table}, tmp_path / "evidence.md", setting="small", seed=0).read_text()

    def test_a_number_on_the_page_is_that_of_the_rows(self, table, told):
        def arm(name: str) -> np.ndarray:
            rows = table.filter(pl.col("arm") == name, pl.col("metric") == "gain").sort("seed")
            return rows["value"].to_numpy()

        size = interval(arm("rating_dpo, same beta") - arm("dpo"))
        line = next(line for line in told.splitlines() if line.startswith("| beta 0.5 for both |"))
        assert f"{page.number(size.mean)} [{page.number(size.low)}, {page.number(size.high)}]" in line
        assert "not run" in told  # the other part of this claim

    def test_the_same_rows_give_the_same_files(self, table, told, tmp_path):
        page.write(
            {"rating_losses": table.sample(fraction=1, shuffle=True, seed=2)},
            tmp_path / "b" / "evidence.md",
            setting="small",
            seed=0,
        )
        for path in (tmp_path / "evidence.md", *(tmp_path / "evidence").iterdir()):
            assert path.read_text() == (tmp_path / "b" / path.relative_to(tmp_path)).read_text()

    def test_drawings_are_there_and_are_xml(self, told, tmp_path):
        from xml.etree import ElementTree

        drawn = list((tmp_path / "evidence").glob("*.svg"))
        assert drawn
        for path in drawn:
            ElementTree.fromstring(path.read_text())
            assert f"evidence/{path.name}" in told

    def test_ticks_are_round_and_within(self):
        assert plots.ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        assert plots.ticks(-0.3, 2.4) == [0.0, 0.5, 1.0, 1.5, 2.0]

    @pytest.mark.parametrize(
        ("value", "text"), [(0.0, "0"), (0.1234, "+0.12"), (-0.01234, "-0.012"), (1e-9, "0"), (np.nan, "-")]
    )
    def test_numbers_are_short(self, value, text):
        assert page.number(value) == text
