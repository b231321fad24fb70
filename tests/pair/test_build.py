"""The pair stage on frames: what becomes a pair, what does not and why, and that nothing is lost."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pairwright.core import positions
from pairwright.errors import ConfigError, DataError
from pairwright.pair.build import SKIPS, Built, Pairing, build_pairs, keys
from pairwright.tables import DROPPED, PAIRS, PROMPT_STATS, conform

RULES = ["min", "mu-2sigma", "mu-1sigma", "median-2mad", "quantile(0.2)", "rank(2)", "min_of(2)", "random"]
RULES += ["second", "threshold(0.5)", "length_matched(-3,0)"]


def rows(*prompts: tuple[object, list[float | None]], **columns: list[object]) -> pl.DataFrame:
    """Scores by prompt; response ids count from 0 within each prompt."""
    data = {
        "prompt_id": [name for name, scores in prompts for _ in scores],
        "response_id": [f"{at:06d}" for _, scores in prompts for at in range(len(scores))],
        "score": pl.Series([score for _, scores in prompts for score in scores], dtype=pl.Float64),
    }
    return pl.DataFrame({**data, **columns})


def one(*scores: float | None, **columns: list[object]) -> pl.DataFrame:
    return rows(("p", list(scores)), **columns)


def outcome(candidates: pl.DataFrame, rejected: str = "min", **options: object) -> str:
    return str(build_pairs(candidates, Pairing(rejected=rejected, **options)).stats["outcome"].item())


def aside(built: Built) -> dict[str, str]:
    """Reason by response id."""
    lost = built.dropped.filter(pl.col("response_id").is_not_null())
    return dict(zip(lost["response_id"], lost["reason"], strict=True))


def same(first: Built, second: Built) -> None:
    assert all(mine.equals(other) for mine, other in zip(first, second, strict=True))


def check_conserved(built: Built, candidates: pl.DataFrame, prompts: int) -> None:
    """The invariants of the ledger."""
    outcomes = Counter(built.stats["outcome"].to_list())
    whole = built.dropped.filter(pl.col("response_id").is_null())
    assert built.stats.height == prompts == built.pairs.height + whole.height
    assert outcomes.pop("pair", 0) == built.pairs.height
    assert Counter(whole["reason"].to_list()) == outcomes
    assert outcomes.keys() <= set(SKIPS)
    assert built.stats["n"].sum() + (built.dropped.height - whole.height) == candidates.height
    assert built.pairs["prompt_id"].to_list() == built.stats.filter(pl.col("outcome") == "pair")["prompt_id"].to_list()
    assert (built.pairs["score_chosen"] > built.pairs["score_rejected"]).all()
    assert set(built.dropped["stage"].to_list()) <= {"pair"}


class TestPair:
    def test_a_pair_carries_its_scores_margin_rule_and_positions(self):
        built = build_pairs(one(1.0, 5.0, 3.0), Pairing(rejected="min"))
        pair = built.pairs.row(0, named=True)
        sd = float(np.std([1, 5, 3]))
        assert pair == {
            "prompt_id": "p", "chosen_id": "000001", "rejected_id": "000000", "score_chosen": 5.0,
            "score_rejected": 1.0, "margin": 4.0, "rule": "max/min", "z_chosen": pytest.approx(2 / sd),
            "z_rejected": pytest.approx(-2 / sd), "hit_extreme": True,
        }  # fmt: skip
        assert built.dropped.is_empty()

    def test_the_statistics_of_a_prompt_count_copies(self):
        built = build_pairs(one(1.0, 1.0, 4.0, response=["a", "a", "b"]), Pairing(rejected="min", ddof=1))
        stats = built.stats.row(0, named=True)
        assert (stats["n"], stats["n_distinct"], stats["outcome"]) == (3, 2, "pair")
        assert stats["mean"] == pytest.approx(2)
        assert stats["sd"] == pytest.approx(np.std([1, 1, 4], ddof=1))
        assert stats["skewness"] == pytest.approx(2**-0.5)
        assert [stats[f"{name}_id"] for name in ("max", "min", "chosen", "rejected")] == ["000002", "000000"] * 2

    def test_the_frames_fit_the_tables_of_a_run(self):
        built = build_pairs(rows(("p", [1.0, 2.0]), ("q", [None, 1.0])), Pairing(rejected="min"))
        for frame, table in zip(built, (PAIRS, PROMPT_STATS, DROPPED), strict=True):
            conform(frame, table, where="here")

    def test_hit_extreme_says_whether_the_lowest_was_taken(self):
        scores = [-3.0, -2, -1, 1, 2, 3] + [0.0] * 22
        found = [
            build_pairs(one(*scores), Pairing(rejected=rule)).pairs["hit_extreme"].item()
            for rule in ("min", "mu-2sigma")
        ]
        assert found == [True, False]

    @pytest.mark.parametrize("ddof", [0, 1])
    def test_28_scores_give_all_21_pairs_of_the_grid(self, ddof):
        scores = [-3.0, -2, -1, 1, 2, 3] + [0.0] * 22
        names = ["min", "mu-2sigma", "mu-1sigma", "mu", "mu+1sigma", "mu+2sigma", "max"]
        found = set()
        for high in range(7):
            for low in range(high):
                pairing = Pairing(chosen=names[high], rejected=names[low], ddof=ddof)
                found.add(build_pairs(one(*scores), pairing).pairs.row(0)[3:5])
        assert found == {(float(high), float(low)) for high in range(-3, 4) for low in range(-3, high)}

    def test_thousand_sigma_pairs_best_and_worst(self):
        frame = one(1.0, 5.0, 3.0, 2.5)
        far = build_pairs(frame, Pairing(chosen="mu+1000sigma", rejected="mu-1000sigma"))
        assert far.pairs.drop("rule").equals(build_pairs(frame, Pairing(rejected="min")).pairs.drop("rule"))

    def test_up_to_ten_responses_mu_minus_two_sigma_and_min_are_one_rule(self):
        rng = np.random.default_rng(4)
        frame = rows(*[(f"p{at:03d}", rng.exponential(size=2 + at % 9).tolist()) for at in range(90)])
        found = [build_pairs(frame, Pairing(rejected=rule)).pairs.drop("rule") for rule in ("min", "mu-2sigma")]
        assert found[0].height == 90
        assert found[0].equals(found[1])


class TestSkips:
    @pytest.mark.parametrize("scores", [[1.0], [1.0, None], [None, float("nan")]])
    def test_fewer_than_two_usable_responses_are_too_few(self, scores):
        assert outcome(one(*scores)) == "too_few"

    def test_copies_of_one_text_are_too_few_whatever_their_scores(self):
        assert outcome(one(9.0, 2.0, response=["A", "A"])) == "too_few"

    @pytest.mark.parametrize("scores", [[3.0, 3.0], [0.0, -0.0], [0.1, np.nextafter(0.1, 1)], [0.0, 0.0, 0.0]])
    @pytest.mark.parametrize("rule", RULES)
    def test_equal_scores_are_zero_variance_under_every_rule(self, scores, rule):
        texts = list("abc")[: len(scores)]
        assert outcome(one(*scores, response=texts), rule) == "zero_variance"

    def test_a_rank_that_is_not_there_is_no_such_position(self):
        assert outcome(one(1.0, 2.0), "rank(3)") == "no_such_position"
        assert outcome(one(1.0, 2.0), "threshold(5)") == "no_such_position"
        assert outcome(one(1.0, 2.0, 2.0, 2.0), "median-2mad") == "no_such_position"

    def test_two_values_have_no_position_between_them(self):
        lone = one(0.0, *[1.0] * 18)  # invariant 12: pick(-2) is a right answer, and no pair comes of it
        assert outcome(lone, "mu-2sigma") == "no_such_position"
        assert outcome(one(0.0, *[1.0] * 9), "mu-2sigma") == "pair"  # ten rows: the minimum whatever the scores
        assert outcome(lone, "min") == "pair"

    def test_both_sides_on_one_response_coincide(self):
        assert outcome(one(0.0, 1.0, 10.0), "mu+0.5sigma", chosen="mu+0.6sigma") == "coincide"
        assert outcome(one(1.0, 2.0), "rank(1)") == "coincide"

    def test_a_gap_that_is_not_above_min_gap_is_no_contrast(self):
        assert outcome(one(1.0, 3.0), min_gap=2.0) == "no_contrast"
        assert outcome(one(1.0, 3.0), min_gap=1.999) == "pair"
        assert outcome(one(1.0, 3.0), "max_of(2)", chosen="min_of(2)") == "no_contrast"  # the wrong way round
        assert outcome(one(1.0, 3.0, 3.0), "rank(2)") == "no_contrast"

    def test_no_position_slides_to_another(self):
        assert outcome(one(1.0, 3.0, 2.0, 2.0), "rank(1)") == "coincide"


class TestSetAside:
    @pytest.mark.parametrize(
        ("score", "text", "why", "reason"),
        [
            (None, "x", None, "score_missing"),
            (None, "x", "judge_unparsed", "judge_unparsed"),
            (float("nan"), "x", None, "score_not_finite"),
            (float("inf"), "x", None, "score_not_finite"),
            (float("-inf"), "x", None, "score_not_finite"),
            (9.0, "", None, "empty_text"),
            (9.0, " \n\t\u3000", None, "empty_text"),
            (9.0, None, None, "no_text"),
            (None, None, "sampler_failed", "no_text"),
            (-1.0, "x", None, "outside_scale"),
            (10.5, "x", "odd", "outside_scale"),
        ],
    )
    def test_the_reason_is_told_and_the_others_still_make_a_pair(self, score, text, why, reason):
        frame = one(7.0, score, 4.0, response=["a", text, "b"], reason=pl.Series([None, why, None], dtype=pl.String))
        built = build_pairs(frame, Pairing(rejected="min", scale_min=0, scale_max=10))
        assert aside(built) == {"000001": reason}
        assert built.pairs.row(0)[:5] == ("p", "000000", "000002", 7.0, 4.0)
        check_conserved(built, frame, 1)

    def test_the_ends_of_the_scale_belong_to_it(self):
        built = build_pairs(one(0.0, 10.0), Pairing(rejected="min", scale_min=0, scale_max=10))
        assert built.pairs["margin"].to_list() == [10.0]

    def test_the_scale_can_stand_in_columns_row_by_row(self):
        scale = {"scale_min": [0.0, None, 0.0, -5.0], "scale_max": [10.0, 10.0, 3.0, None]}
        built = build_pairs(one(11.0, -7.0, 2.0, -6.0, **scale), Pairing(rejected="min"))
        assert aside(built) == {"000000": "outside_scale", "000003": "outside_scale"}
        assert built.pairs["margin"].to_list() == [9.0]

    def test_columns_and_settings_both_bound_the_scale(self):
        scale = {"scale_min": [0.0] * 4, "scale_max": [100.0] * 4}
        built = build_pairs(one(-1.0, 50.0, 3.0, 9.0, **scale), Pairing(rejected="min", scale_max=10))
        assert aside(built) == {"000000": "outside_scale", "000001": "outside_scale"}

    def test_without_a_scale_any_finite_score_counts(self):
        assert build_pairs(one(-1.0, -0.97, 0.3), Pairing(rejected="min")).pairs["score_rejected"].to_list() == [-1.0]

    def test_what_was_cut_off_is_dropped_unless_kept_on_request(self):
        frame = one(9.0, 7.0, 3.0, 5.0, finish_reason=["length", "stop", "stop", None])
        dropped, kept = (build_pairs(frame, Pairing(rejected="min", unfinished=how)) for how in ("drop", "keep"))
        assert aside(dropped) == {"000000": "unfinished"}
        assert dropped.pairs["chosen_id"].to_list() == ["000001"]
        assert aside(kept) == {}
        assert kept.pairs["chosen_id"].to_list() == ["000000"]

    def test_columns_of_nulls_alone_are_read_as_missing(self):
        nothing = [None, None]
        built = build_pairs(
            one(1.0, 2.0, response=nothing, reason=nothing, finish_reason=nothing), Pairing(rejected="min")
        )
        assert set(aside(built).values()) == {"no_text"}
        untyped = pl.DataFrame({"prompt_id": ["p"] * 2, "response_id": ["0", "1"], "score": nothing})
        assert set(aside(build_pairs(untyped, Pairing(rejected="min"))).values()) == {"score_missing"}
        assert outcome(one(1.0, 2.0, scale_min=nothing, reason=nothing, finish_reason=nothing)) == "pair"

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12),
        st.sampled_from([None, float("nan"), float("inf")]),
        st.integers(0, 11),
        st.sampled_from(RULES),
    )
    def test_a_row_without_a_score_changes_only_the_counter(self, scores, missing, at, rule):  # invariant 7
        frame = one(*scores, response=[f"text {at % 5}" * (1 + at % 3) for at in range(len(scores))])
        extra = pl.DataFrame({"prompt_id": ["p"], "response_id": ["new"], "score": [missing], "response": ["text 1"]})
        extra = extra.cast({"score": pl.Float64})
        at = min(at, frame.height)
        before = build_pairs(frame, Pairing(rejected=rule))
        after = build_pairs(pl.concat([frame[:at], extra, frame[at:]]), Pairing(rejected=rule))
        assert after.pairs.equals(before.pairs)
        assert after.stats.equals(before.stats)
        assert after.dropped.height == before.dropped.height + 1
        assert list(aside(after)) == ["new"]


class TestIds:
    @pytest.mark.parametrize(
        "kind",
        [pl.String, pl.Int64, pl.Int8, pl.UInt64, pl.Categorical],
        ids=["String", "Int64", "Int8", "UInt64", "Categorical"],
    )
    @pytest.mark.parametrize("rule", ["min", "min_of(2)", "random"])
    def test_ids_may_be_texts_or_numbers(self, kind, rule):
        frame = rows(("10", [1.0, 2.0, 3.0]), ("11", [2.0, 1.0]), ("12", [None])).with_columns(
            pl.col("response_id").cast(pl.Int64).cast(pl.String)
        )
        frame = frame.with_columns(pl.col("prompt_id", "response_id").cast(kind))
        built = build_pairs(frame, Pairing(rejected=rule))
        assert built.pairs["prompt_id"].cast(pl.String).to_list() == ["10", "11"]
        assert built.pairs["chosen_id"].cast(pl.String).to_list() == ["2", "0"]
        assert built.pairs.schema["prompt_id"] == built.pairs.schema["chosen_id"] == kind
        assert built.dropped.filter(pl.col("response_id").is_not_null()).row(0)[1:3] == ("12", "0")

    def test_the_largest_and_negative_numbers_are_ids_too(self):
        for number in (2**64 - 1, 2**63):
            frame = rows((number, [1.0, 2.0, 3.0])).with_columns(pl.col("prompt_id").cast(pl.UInt64))
            assert build_pairs(frame, Pairing(rejected="min_of(2)")).pairs["prompt_id"].to_list() == [number]
        assert len(set(keys(pl.Series([-1, 1, -(2**63), 2**63 - 1])).tolist())) == 4

    def test_the_width_of_a_number_does_not_change_its_draw(self):
        numbers = pl.Series([-3, 0, 5])
        assert keys(numbers).tolist() == keys(numbers.cast(pl.Int8)).tolist()
        assert keys(numbers[1:]).tolist() == keys(numbers[1:].cast(pl.UInt64)).tolist()

    def test_ids_that_differ_only_in_a_final_nul_are_two_ids(self):
        texts = ["", "\0", "a", "a\0", "a\0\0", "a\0b", "ä", "日本", "b" * 300, "b" * 299]
        found = keys(pl.Series(texts)).tolist()
        assert len(set(found)) == len(texts)
        assert found == [keys(pl.Series([text]))[0] for text in texts]  # whatever stands beside them

    @pytest.mark.parametrize("rule", RULES)
    def test_any_text_is_an_id(self, rule):
        names = ["", "\0", "ß", "日本語", "a" * 200, "a\0", "a", "🙂", "'\"\\", "\ud7ff\uffff"]
        frame = rows(*[(name, [3.0, 1.0, 2.0]) for name in names], response=["x", "yy", "zzz"] * len(names))
        frame = frame.with_columns(response_id=pl.Series([names[at % len(names)] for at in range(frame.height)]))
        built = build_pairs(frame, Pairing(rejected=rule))
        assert built.stats["prompt_id"].to_list() == names
        assert built.pairs["prompt_id"].to_list() == names


class TestFrames:
    @pytest.mark.parametrize("rule", RULES)
    def test_an_empty_frame_gives_empty_tables_of_the_right_schema(self, rule):
        frame = one(1.0, 2.0, response=["a", "b"], finish_reason=["stop", "stop"])
        full, empty = (build_pairs(each, Pairing(rejected=rule)) for each in (frame, frame.clear()))
        for some, none, table in zip(full, empty, (PAIRS, PROMPT_STATS, DROPPED), strict=True):
            assert none.height == 0
            assert none.schema == some.schema == pl.Schema(table.schema)

    @pytest.mark.parametrize("name", ["prompt_id", "another"])
    def test_prompts_without_a_response_are_accounted_for(self, name):
        frame = rows(("b", [1.0, 2.0]))
        asked = pl.Series(name, ["a", "b", "c"])
        built = build_pairs(frame, Pairing(rejected="min"), prompt_ids=asked)
        assert built.pairs["prompt_id"].to_list() == ["b"]
        bare = built.stats.filter(pl.col("prompt_id") != "b")
        assert bare["prompt_id"].to_list() == ["a", "c"]
        assert bare.select("n", "n_distinct", "outcome").unique().row(0) == (0, 0, "too_few")
        check_conserved(built, frame, 3)
        conform(built.stats, PROMPT_STATS, where="here")
        nothing = build_pairs(frame.clear(), Pairing(rejected="min"), prompt_ids=asked)
        check_conserved(nothing, frame.clear(), 3)

    def test_naming_prompts_that_are_there_changes_nothing(self):
        frame = rows(("a", [1.0, 2.0]), ("b", [None]))
        pairing = Pairing(rejected="min")
        same(build_pairs(frame, pairing, prompt_ids=pl.Series(["a", "b"])), build_pairs(frame, pairing))
        same(build_pairs(frame, pairing, prompt_ids=pl.Series([], dtype=pl.String)), build_pairs(frame, pairing))

    def test_a_prompt_named_twice_is_one_prompt(self):
        frame = rows(("a", [1.0, 2.0]))
        check_conserved(build_pairs(frame, Pairing(rejected="min"), prompt_ids=pl.Series(["z", "z", "a"])), frame, 2)

    def test_rows_of_one_prompt_must_stand_together(self):
        frame = rows(("a", [1.0]), ("b", [2.0]), ("a", [3.0]))
        with pytest.raises(DataError, match="rows of prompt a do not stand together; sort by prompt_id"):
            build_pairs(frame, Pairing(rejected="min"))

    @pytest.mark.parametrize("kind", [pl.Int64, pl.Float32, pl.UInt8])
    def test_whole_and_short_numbers_are_scores(self, kind):
        frame = one(1.0, 2.0, 4.0, response=["a", "b", "b"]).cast({"score": kind})
        built = build_pairs(frame, Pairing(rejected="min"))
        assert built.pairs["score_chosen"].to_list() == [3.0]
        assert built.pairs.schema["score_chosen"] == pl.Float64

    def test_texts_are_no_scores(self):
        frame = one(1.0, 2.0).cast({"score": pl.String})
        with pytest.raises(DataError, match="column score is String"):
            build_pairs(frame, Pairing(rejected="min"))

    def test_a_sample_sd_of_one_row_is_null_and_not_nan(self):
        stats = build_pairs(one(1.0), Pairing(rejected="min", ddof=1)).stats
        assert stats["sd"].to_list() == [None]

    def test_the_input_frame_stays_as_it_was(self):
        frame = one(1.0, None, 3.0, response=["a", "b", ""])
        before = frame.clone()
        build_pairs(frame, Pairing(rejected="min_of(2)"))
        assert frame.equals(before)

    @pytest.mark.parametrize("options", [{"ddof": 2}, {"min_gap": -1}, {"min_gap": float("nan")}, {"rejected": "max"}])
    def test_settings_that_cannot_be_meant_are_refused(self, options):
        with pytest.raises(ConfigError):
            Pairing(**{"rejected": "min", **options})

    @pytest.mark.parametrize("rule", ["min", "mu-2sigma", "min_of(5)"])
    def test_a_prompt_of_a_million_rows(self, rule):
        score = np.random.default_rng(1).normal(size=10**6)
        frame = pl.DataFrame(
            {"prompt_id": pl.repeat("p", 10**6, eager=True), "response_id": np.arange(10**6), "score": score}
        )
        pair = build_pairs(frame, Pairing(rejected=rule)).pairs.row(0, named=True)
        assert pair["score_chosen"] == score.max()
        if rule == "min":
            assert pair["score_rejected"] == score.min()
        if rule == "mu-2sigma":
            assert pair["z_rejected"] == pytest.approx(-2, abs=1e-3)

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(
        "scores", [[1e308, -1e308, 0.5, 1e308], [1.7e308, -1.7e308, -1.7e308], [1e200, -1e200, 0.0]]
    )
    def test_enormous_scores_give_the_pair_that_small_ones_give(self, rule, scores):
        texts = ["a", "bb", "ccc", "dddd"][: len(scores)]
        large = build_pairs(one(*scores, response=texts), Pairing(rejected=rule))
        small = build_pairs(one(*[score / 1e150 / 1e40 for score in scores], response=texts), Pairing(rejected=rule))
        assert large.stats["outcome"].to_list() == small.stats["outcome"].to_list()
        for name in ("chosen_id", "rejected_id"):
            assert large.stats[name].to_list() == small.stats[name].to_list()
        assert large.pairs["z_rejected"].to_list() == pytest.approx(small.pairs["z_rejected"].to_list())


class TestDraws:
    """min_of depends on seed, prompt id and response id alone (invariant 13)."""

    @staticmethod
    def frame() -> pl.DataFrame:
        rng = np.random.default_rng(6)
        return rows(*[(f"p{at:03d}", rng.normal(size=12).tolist()) for at in range(60)])

    @pytest.mark.parametrize("rule", ["min_of(5)", "random"])
    def test_the_order_of_rows_and_prompts_does_not_matter(self, rule):
        frame, pairing = self.frame(), Pairing(rejected=rule)
        picked = ["prompt_id", "chosen_id", "rejected_id", "score_chosen", "score_rejected", "margin", "hit_extreme"]
        first = build_pairs(frame, pairing).pairs.select(picked)  # the last bit of a sum may depend on the order
        shuffled = frame.sample(fraction=1, shuffle=True, seed=1).sort("prompt_id", maintain_order=True)
        assert not shuffled.equals(frame)
        assert build_pairs(shuffled, pairing).pairs.select(picked).equals(first)
        backwards = frame.sort("prompt_id", descending=True, maintain_order=True)
        assert build_pairs(backwards, pairing).pairs.select(picked).sort("prompt_id").equals(first)

    @pytest.mark.parametrize("rule", ["min_of(5)", "random", "mu-2sigma"])
    def test_shards_give_what_the_whole_gives(self, rule):
        frame, pairing = self.frame(), Pairing(rejected=rule)
        whole = build_pairs(frame, pairing)
        parts = [build_pairs(frame[start : start + 240], pairing) for start in range(0, frame.height, 240)]
        assert pl.concat([part.pairs for part in parts]).equals(whole.pairs)
        assert pl.concat([part.stats for part in parts]).equals(whole.stats)

    @pytest.mark.parametrize("rule", ["min_of(5)", "random"])
    def test_another_seed_draws_others(self, rule):
        found = [
            build_pairs(self.frame(), Pairing(rejected=rule, seed=seed)).pairs["rejected_id"].to_list()
            for seed in (0, 1)
        ]
        assert found[0] != found[1]

    def test_min_of_all_is_min_and_min_of_five_is_not_mu_minus_two_sigma(self):
        rng = np.random.default_rng(2)
        large = rows(*[(f"p{at:03d}", rng.normal(size=200).tolist()) for at in range(40)])
        z = {
            rule: build_pairs(large, Pairing(rejected=rule)).pairs["z_rejected"].mean()
            for rule in ("min", "min_of(200)", "min_of(5)", "mu-2sigma")
        }
        assert z["min_of(200)"] == z["min"]
        assert abs(z["mu-2sigma"] + 2) < 0.1
        assert abs(z["min_of(5)"] + 1.163) < 4 * 0.669 / np.sqrt(40)

    def test_the_two_sides_of_a_drawn_pair_are_never_the_same(self):
        built = build_pairs(self.frame(), Pairing(chosen="random", rejected="random"))
        assert (built.stats["chosen_id"] != built.stats["rejected_id"]).all()


SCORE = st.one_of(
    st.none(),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 11.0]),
    st.integers(-4, 4).map(float),
    st.floats(-10, 10),
)
TEXT = st.one_of(st.none(), st.sampled_from(["", " ", "a", "b", "c", "d", "a ", "long text", "ä", "a\0"]))
ROW = st.fixed_dictionaries(
    {
        "response": TEXT,
        "score": SCORE,
        "finish_reason": st.sampled_from([None, "stop", "length"]),
        "reason": st.sampled_from([None, "judge_unparsed"]),
    }
)
WORLD = st.lists(st.lists(ROW, min_size=1, max_size=8), max_size=6)


def frame_of(world: list[list[dict[str, object]]]) -> pl.DataFrame:
    flat = [
        {"prompt_id": f"p{at}", "response_id": f"r{k}", **row}
        for at, prompt in enumerate(world)
        for k, row in enumerate(prompt)
    ]
    kinds = {"prompt_id": pl.String, "response_id": pl.String, "response": pl.String, "score": pl.Float64}
    return pl.DataFrame(flat, schema={**kinds, "finish_reason": pl.String, "reason": pl.String}, orient="row")


def why_aside(row: dict[str, object], *, keep_unfinished: bool, most: float | None) -> str | None:
    text, score = row["response"], row["score"]
    if text is None:
        return "no_text"
    if not str(text).strip():
        return "empty_text"
    if score is None:
        return str(row["reason"] or "score_missing")
    if not np.isfinite(float(score)):  # type: ignore[arg-type]
        return "score_not_finite"
    if most is not None and score > most:  # type: ignore[operator]
        return "outside_scale"
    return "unfinished" if row["finish_reason"] == "length" and not keep_unfinished else None


class TestRandomWorlds:
    @settings(max_examples=100, deadline=None)
    @given(
        WORLD,
        st.sampled_from(RULES),
        st.sampled_from([0, 1]),
        st.booleans(),
        st.sampled_from([None, 10.0]),
        st.booleans(),
    )
    @example(
        [[{"response": "a", "score": -1e308, "finish_reason": None, "reason": None}]] * 2, "min", 1, True, None, True
    )
    def test_nothing_is_lost_and_every_pair_is_in_order(self, world, rule, ddof, keep, most, extra):
        frame = frame_of(world)
        pairing = Pairing(rejected=rule, ddof=ddof, unfinished="keep" if keep else "drop", scale_max=most)
        asked = pl.Series([f"p{at}" for at in range(len(world) + extra)], dtype=pl.String)
        built = build_pairs(frame, pairing, prompt_ids=asked)
        check_conserved(built, frame, len(world) + extra)
        lost = (
            built.dropped.filter(pl.col("response_id").is_not_null())
            .select("prompt_id", "response_id", "reason")
            .rows()
        )
        expected = [
            (f"p{at}", f"r{k}", why)
            for at, prompt in enumerate(world)
            for k, row in enumerate(prompt)
            if (why := why_aside(row, keep_unfinished=keep, most=most))
        ]
        assert lost == expected
        for pair in built.pairs.rows(named=True):
            rows_of = world[int(pair["prompt_id"][1:])]
            texts = [rows_of[int(pair[f"{side}_id"][1:])]["response"] for side in ("chosen", "rejected")]
            assert texts[0] != texts[1]
            assert pair["margin"] == pair["score_chosen"] - pair["score_rejected"] > 0

    @settings(max_examples=100, deadline=None)
    @given(WORLD, st.sampled_from([0, 1]))
    def test_best_against_worst_is_what_a_loop_over_dicts_finds(self, world, ddof):
        built = build_pairs(frame_of(world), Pairing(rejected="min", ddof=ddof))
        found = {pair["prompt_id"]: pair for pair in built.pairs.rows(named=True)}
        for at, prompt in enumerate(world):
            by_text: dict[str, list[tuple[str, float]]] = {}
            for k, row in enumerate(prompt):
                if why_aside(row, keep_unfinished=False, most=None) is None:
                    by_text.setdefault(str(row["response"]), []).append((f"r{k}", float(row["score"])))
            means = {text: sum(score / len(copies) for _, score in copies) for text, copies in by_text.items()}
            values = [means[text] for text, copies in by_text.items() for _ in copies]
            if len(means) < 2 or np.ptp(np.array(values) / 4) <= 1e-9:
                assert f"p{at}" not in found
                continue
            pair = found[f"p{at}"]
            assert pair["score_chosen"] == pytest.approx(max(values), rel=1e-12, abs=1e-9)
            assert pair["score_rejected"] == pytest.approx(min(values), rel=1e-12, abs=1e-9)

    @settings(max_examples=40, deadline=None)
    @given(WORLD, st.sampled_from(RULES))
    def test_a_prompt_gives_the_same_alone_and_among_others(self, world, rule):
        frame, pairing = frame_of(world), Pairing(rejected=rule)
        together = build_pairs(frame, pairing)
        alone = [build_pairs(part, pairing) for part in frame.partition_by("prompt_id", maintain_order=True)]
        assert [row for part in alone for row in part.stats.rows()] == together.stats.rows()
        assert [row for part in alone for row in part.pairs.rows()] == together.pairs.rows()

    def test_the_rejected_of_sigma_is_what_core_picks(self):
        scores = np.random.default_rng(12).normal(size=300).tolist()
        candidates = positions.distinct(np.array(scores), np.array([0, 300]))
        at = positions.sigma(candidates, positions.moments(candidates), -2)[0]
        built = build_pairs(one(*scores), Pairing(rejected="mu-2sigma"))
        assert built.pairs["rejected_id"].to_list() == [f"{at:06d}"] == built.stats["sigma_id"].to_list()
