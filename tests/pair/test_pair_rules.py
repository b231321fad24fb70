"""Rule names and what they mean, and one conformance suite over every kind of rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core import positions, segments
from pairwright.errors import ConfigError
from pairwright.pair.rules import (
    CHOSEN_ONLY_NEVER,
    GRID,
    RELATIVE,
    RULES,
    SEEDED,
    Rule,
    Scene,
    apply,
    parse_rule,
    parse_sides,
)

EXAMPLES = {
    "max": "max",
    "min": "min",
    "second": "second",
    "sigma": "mu-1.5sigma",
    "mad": "median-2mad",
    "quantile": "quantile(0.3)",
    "rank": "rank(3)",
    "min_of": "min_of(3)",
    "max_of": "max_of(3)",
    "random": "random",
    "threshold": "threshold(0.5)",
    "length_matched": "length_matched(-3,-0.1)",
}


class TestNames:
    @pytest.mark.parametrize(
        ("text", "kind", "args"),
        [
            ("max", "max", ()),
            ("MIN", "min", ()),
            (" second ", "second", ()),
            ("random", "random", ()),
            ("mu", "sigma", (0.0,)),
            ("mu-2sigma", "sigma", (-2.0,)),
            ("mu - 2 sigma", "sigma", (-2.0,)),
            ("mu+1.5s", "sigma", (1.5,)),
            ("mu+1000*sigma", "sigma", (1000.0,)),
            ("Mu-0sigma", "sigma", (0.0,)),
            ("median", "mad", (0.0,)),
            ("median-2mad", "mad", (-2.0,)),
            ("median+0.5*mad", "mad", (0.5,)),
            ("quantile(0.05)", "quantile", (0.05,)),
            ("quantile(0)", "quantile", (0.0,)),
            ("quantile(1)", "quantile", (1.0,)),
            ("rank(3)", "rank", (3.0,)),
            ("rank(-2)", "rank", (-2.0,)),
            ("min_of(5)", "min_of", (5.0,)),
            ("max_of( 5 )", "max_of", (5.0,)),
            ("threshold(0.5)", "threshold", (0.5,)),
            ("length_matched(-3, -1)", "length_matched", (-3.0, -1.0)),
        ],
    )
    def test_every_form_is_read(self, text, kind, args):
        rule = parse_rule(text)
        assert (rule.kind, rule.args) == (kind, args)
        assert parse_rule(rule.name) == rule

    @pytest.mark.parametrize(
        ("spellings", "name"),
        [
            (["mu - 2 sigma", "mu-2s", "MU-2*sigma", "mu-2.0sigma"], "mu-2sigma"),
            (["mu", "mu+0sigma", "mu-0s"], "mu"),
            (["median+0.5*mad", "median + 0.50 mad"], "median+0.5mad"),
            ([" MIN "], "min"),
        ],
    )
    def test_one_rule_has_one_name(self, spellings, name):
        assert {parse_rule(text).name for text in spellings} == {name}

    @pytest.mark.parametrize(
        "text",
        [
            "", "maxi", "max(1)", "max,min", "mean", "mu2sigma", "mu-sigma", "mu--2sigma", "mu-2", "mu-2e1sigma", "-2sigma",
            "mu-infsigma", "median-2sigma", "min_of", "min_of()", "min_of(5,6)", "min_of(a)", "min_of(5", "rank(nan)",
            "length_matched(-3)", "length_matched(-3,-1,0)", "top(3)", "quantile(.)",
        ],
    )  # fmt: skip
    def test_an_unknown_form_shows_all_the_known_ones(self, text):
        with pytest.raises(ConfigError) as caught:
            parse_rule(text)
        message = str(caught.value)
        assert message.startswith(f"unknown rule {text!r}")
        assert message.endswith("length_matched(-3,-1)")
        assert all(kind.replace("sigma", "mu-2sigma").replace("mad", "2mad") in message for kind in RULES)

    @pytest.mark.parametrize(
        "text",
        [
            "min_of(0)", "min_of(-1)", "min_of(2.5)", "max_of(0)", "rank(0)", "rank(1.5)", "quantile(-0.1)",
            "quantile(1.01)", "threshold(0)", "threshold(-1)", "length_matched(-1,-3)",
        ],
    )  # fmt: skip
    def test_a_number_that_cannot_be_meant_is_named(self, text):
        with pytest.raises(ConfigError, match=r"rule .*: min_of and max_of take a whole number") as caught:
            parse_rule(text)
        assert text in str(caught.value)

    @pytest.mark.parametrize("form", ["mu-{}sigma", "median+{}mad", "rank({})", "min_of({})", "threshold({})"])
    @pytest.mark.parametrize("digits", [11, 25, 200, 400])
    def test_a_number_beyond_all_sense_is_refused(self, form, digits):
        with pytest.raises(ConfigError, match="1e9"):
            parse_rule(form.format("9" * digits))

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="maxminuedk_of()rsg0123456789.,+-* ", max_size=20))
    def test_any_text_is_a_rule_or_a_config_error(self, text):
        try:
            rule = parse_rule(text)
        except ConfigError:
            return
        assert rule.kind in RULES
        assert all(math.isfinite(number) for number in rule.args)

    def test_the_grid_runs_from_low_to_high(self):
        places = [parse_rule(name).place for name in GRID]
        assert places == [-math.inf, -2, -1, 0, 1, 2, math.inf]


class TestSides:
    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ("max", "min"), ("max", "mu+5sigma"), ("mu", "mu-1sigma"), ("mu-2sigma", "min"), ("median+1mad", "mu"),
            ("max", "min_of(5)"), ("max_of(5)", "min"), ("random", "min"), ("max", "random"), ("rank(1)", "rank(2)"),
            ("max", "threshold(1)"), ("second", "length_matched(-2,0)"),
        ],
    )  # fmt: skip
    def test_chosen_above_rejected_is_a_pair_of_rules(self, chosen, rejected):
        assert parse_sides(chosen, rejected) == (parse_rule(chosen), parse_rule(rejected))

    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ("min", "max"),
            ("max", "max"),
            ("min", "min"),
            ("mu-2sigma", "mu-1sigma"),
            ("mu", "mu-0sigma"),
            ("min", "mu-9sigma"),
        ],
    )
    def test_the_chosen_rule_must_stand_above(self, chosen, rejected):
        with pytest.raises(ConfigError, match="does not stand above") as caught:
            parse_sides(chosen, rejected)
        assert parse_rule(chosen).name in str(caught.value)
        assert parse_rule(rejected).name in str(caught.value)

    @pytest.mark.parametrize("kind", sorted(CHOSEN_ONLY_NEVER))
    def test_a_rule_that_looks_at_the_chosen_cannot_choose(self, kind):
        with pytest.raises(ConfigError, match="can only be the rejected rule"):
            parse_sides(EXAMPLES[kind], "min")

    @pytest.mark.parametrize("higher", range(len(GRID)))
    def test_of_the_49_pairs_of_the_grid_21_stand_in_order(self, higher):
        accepted = 0
        for lower in range(len(GRID)):
            try:
                parse_sides(GRID[higher], GRID[lower])
                accepted += 1
            except ConfigError:
                assert lower >= higher
        assert accepted == higher


Prompt = tuple[list[float], list[int]]  # scores, text codes
SCORE = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
PROMPT: st.SearchStrategy[Prompt] = st.integers(1, 12).flatmap(
    lambda n: st.tuples(st.lists(SCORE, min_size=n, max_size=n), st.lists(st.integers(0, 8), min_size=n, max_size=n))
)


def scene_of(prompts: list[Prompt], numbers: list[int], *, seed: int = 3) -> Scene:
    """`numbers` are the ids of the prompts; a length is a function of the text."""
    start_R = np.concatenate(([0], np.cumsum([len(scores) for scores, _ in prompts]))).astype(np.int64)
    text_R = np.array([text for _, texts in prompts for text in texts], np.uint64)
    candidates = positions.distinct(np.array([one for scores, _ in prompts for one in scores], float), start_R, text_R)
    row_keys = np.concatenate([segments.mix(np.arange(len(scores), dtype=np.uint64)) for scores, _ in prompts])
    draw_R = segments.draw(seed, segments.mix(np.array(numbers, np.uint64)), row_keys, start_R)
    length_C = (text_R[candidates.row_C] * np.uint64(7) % np.uint64(5)).astype(float)
    return Scene(candidates, positions.moments(candidates), start_R, draw_R, draw_R[candidates.row_C], length_C, None)


def with_other(scene: Scene, kind: str) -> Scene:
    return scene._replace(other_P=positions.maximum(scene.candidates)) if kind in RELATIVE else scene


def test_every_kind_has_an_example_of_its_own_kind():
    assert set(EXAMPLES) == set(RULES)
    assert all(parse_rule(text).kind == kind for kind, text in EXAMPLES.items())
    assert set(RULES) >= SEEDED | RELATIVE | CHOSEN_ONLY_NEVER


@pytest.mark.parametrize("kind", RULES)
class TestEveryRule:
    @settings(max_examples=30, deadline=None)
    @given(prompts=st.lists(PROMPT, min_size=1, max_size=5))
    def test_one_row_of_its_own_prompt_or_minus_one_for_each_prompt(self, kind, prompts):
        scene = with_other(scene_of(prompts, list(range(len(prompts)))), kind)
        picked_P = apply(parse_rule(EXAMPLES[kind]), scene)
        start_P = scene.candidates.start_P
        assert picked_P.shape == (len(prompts),)
        assert np.issubdtype(picked_P.dtype, np.integer)
        assert ((picked_P == -1) | ((picked_P >= start_P[:-1]) & (picked_P < start_P[1:]))).all()

    @settings(max_examples=30, deadline=None)
    @given(prompts=st.lists(PROMPT, min_size=1, max_size=5))
    def test_prompts_do_not_talk_to_each_other(self, kind, prompts):
        rule = parse_rule(EXAMPLES[kind])
        scene = with_other(scene_of(prompts, list(range(len(prompts)))), kind)
        together = apply(rule, scene)
        for at, prompt in enumerate(prompts):
            alone = apply(rule, with_other(scene_of([prompt], [at]), kind))[0]
            assert together[at] == (alone + scene.candidates.start_P[at] if alone >= 0 else -1)

    def test_inputs_stay_untouched_and_the_same_again_gives_the_same(self, kind):
        rng = np.random.default_rng(8)
        prompts = [(rng.normal(size=n).tolist(), rng.integers(0, 9, n).tolist()) for n in (1, 2, 7, 30)]
        first, second = (with_other(scene_of(prompts, [0, 1, 2, 3]), kind) for _ in range(2))
        picked = [apply(parse_rule(EXAMPLES[kind]), scene).tolist() for scene in (first, first, second)]
        assert picked[0] == picked[1] == picked[2]
        arrays = [
            [*scene.candidates, *scene.spread, scene.start_R, scene.draw_R, scene.draw_C, scene.length_C]
            for scene in (first, second)
        ]
        for used, fresh in zip(*arrays, strict=True):
            np.testing.assert_array_equal(used, fresh)

    def test_no_prompts_give_no_picks(self, kind):
        none = positions.distinct(np.zeros(0), np.array([0]))
        scene = Scene(
            none,
            positions.moments(none),
            np.array([0]),
            np.zeros(0, np.uint64),
            np.zeros(0, np.uint64),
            np.zeros(0),
            None,
        )
        assert len(apply(parse_rule(EXAMPLES[kind]), with_other(scene, kind))) == 0

    def test_it_says_what_it_lacks(self, kind):
        bare = scene_of([([1.0, 2.0], [0, 1])], [0])._replace(draw_R=None, draw_C=None, length_C=None)
        if kind in SEEDED | CHOSEN_ONLY_NEVER:
            with pytest.raises(ConfigError, match="needs"):
                apply(parse_rule(EXAMPLES[kind]), bare)
        else:
            assert len(apply(parse_rule(EXAMPLES[kind]), bare)) == 1

    def test_only_a_seeded_rule_listens_to_the_seed(self, kind):
        rng = np.random.default_rng(9)
        prompts = [(rng.normal(size=20).tolist(), list(range(20))) for _ in range(30)]
        picks = [
            apply(parse_rule(EXAMPLES[kind]), with_other(scene_of(prompts, list(range(30)), seed=seed), kind)).tolist()
            for seed in (1, 2)
        ]
        assert (picks[0] != picks[1]) == (kind in SEEDED)


class TestMeaning:
    """One prompt whose answers can be read off."""

    @pytest.mark.parametrize(
        ("name", "score"),
        [
            ("max", 9), ("min", 0), ("second", 8), ("rank(3)", 7), ("rank(-2)", 1), ("quantile(0.3)", 2), ("mu", 4),
            ("mu-1sigma", 2), ("mu+1sigma", 7), ("median", 4), ("median-1mad", 1), ("min_of(10)", 0), ("max_of(10)", 9),
            ("threshold(2.5)", 6), ("length_matched(-2,0)", 4),
        ],
    )  # fmt: skip
    def test_ten_scores_from_0_to_9(self, name, score):
        # mean and median 4.5 (4 is the earlier of the two nearest), sd 2.87, 1.4826 MAD 3.71; lengths are the scores
        candidates = positions.distinct(np.arange(10.0), np.array([0, 10]))
        draw_R = segments.mix(np.arange(10, dtype=np.uint64))
        spread = positions.moments(candidates)
        scene = Scene(candidates, spread, np.array([0, 10]), draw_R, draw_R, np.arange(10.0), np.array([9]))
        assert candidates.score_C[apply(parse_rule(name), scene)] == score

    def test_a_rule_is_a_value(self):
        assert parse_rule("mu-2sigma") == Rule("mu-2sigma", "sigma", (-2.0,))
        assert math.isnan(parse_rule("min_of(5)").place)
