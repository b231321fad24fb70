"""Routing of pairs to the preference loss or SFT. Numbered invariants and defects: sections 6 and 7 of the routing notes."""

import json
import math
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairwright.core.losses import cdpo, dpo, sft
from pairwright.core.pair_terms import PairTerms
from pairwright.errors import ConfigError, DataError
from pairwright.tables import DROPPED, MESSAGES, conform
from pairwright.train import routing, schedule
from pairwright.train.routing import Difficulty, Routing, exchange, record, route

MODEST = settings(max_examples=60, deadline=None)
KEEP = Difficulty(negative="keep")
MARGINS = st.lists(st.integers(0, 12).map(lambda x: x / 2), min_size=2, max_size=40).filter(lambda m: len(set(m)) > 1)
LOOSE = 1.0  # most_ties that refuses nothing
SORTED = partial(Routing, order="easy_first")  # most of what is tested here is easiest to see in the published order


def pairs(margins, **columns) -> pl.DataFrame:
    """Pairs p0, p1, ... whose rejected side has score 5."""
    n = len(margins)
    frame = pl.DataFrame(
        {
            "prompt": [[{"role": "user", "content": f"Q{i}"}] for i in range(n)],
            "chosen": [[{"role": "assistant", "content": f"good {i}"}] for i in range(n)],
            "rejected": [[{"role": "assistant", "content": f"bad {i}"}] for i in range(n)],
            "score_chosen": [None if m is None else 5 + m for m in margins],
            "score_rejected": [5.0] * n,
            "margin": margins,
            "prompt_id": [f"p{i}" for i in range(n)],
        },
        schema={
            **dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES),
            **dict.fromkeys(("score_chosen", "score_rejected", "margin"), pl.Float64),
            "prompt_id": pl.String,
        },
    )
    return frame.with_columns(pl.Series(name, values) for name, values in columns.items())


def routed(margins, difficulty=None, **options) -> pl.DataFrame:
    return route(pairs(margins), SORTED(**options), difficulty).kept


def objectives(frame: pl.DataFrame) -> dict[str, str]:
    return dict(frame.select("prompt_id", "objective").iter_rows())


def sft_ids(frame: pl.DataFrame) -> set[str]:
    return {name for name, objective in objectives(frame).items() if objective == "sft"}


class TestTheCut:
    def test_the_hardest_tenth_is_the_default(self):
        assert sft_ids(routed([float(m) for m in range(20)])) == {"p0", "p1"}

    def test_a_cut_in_units_is_strict_unless_told(self):
        margins = [0.0, 0.5, 1.0, 2.0]
        assert sft_ids(routed(margins, tau=0.5)) == {"p0"}
        assert sft_ids(routed(margins, tau=0.5, tie_side="hard")) == {"p0", "p1"}

    def test_a_cut_through_a_level_moves_the_whole_level(self):
        margins = [0.0, 1.0, 1.0, 1.0, 2.0, 3.0]
        assert sft_ids(routed(margins, share=0.5)) == {"p0"}
        assert sft_ids(routed(margins, share=0.5, tie_side="hard")) == {"p0", "p1", "p2", "p3"}

    def test_a_cut_between_two_levels_is_exact_on_both_sides(self):
        margins = [0.0, 1.0, 1.0, 2.0, 3.0, 4.0]
        for side in ("easy", "hard"):
            assert sft_ids(routed(margins, share=0.5, tie_side=side)) == {"p0", "p1", "p2"}

    @MODEST
    @given(MARGINS, st.floats(0, 1), st.floats(0, 1))
    def test_the_realised_share_grows_with_the_share(self, margins, a, b):  # invariant 11
        low, high = sorted((a, b))
        for side in ("easy", "hard"):
            ease = np.array(margins)
            inner = routing.cut_by_rank(ease, low, tie_side=side)
            outer = routing.cut_by_rank(ease, high, tie_side=side)
            assert not (inner & ~outer).any()

    @MODEST
    @given(MARGINS, st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.5]))
    def test_the_sides_of_a_tie_differ_by_one_level_alone(self, margins, share, tau):  # invariant 11
        ease = np.array(margins)
        strict, loose = routing.cut_at(ease, tau), routing.cut_at(ease, tau, tie_side="hard")
        assert np.array_equal(loose & ~strict, ease == tau)
        strict, loose = (routing.cut_by_rank(ease, share, tie_side=side) for side in ("easy", "hard"))
        moved = ease[loose & ~strict]
        assert len(set(moved)) <= 1
        assert not (strict & ~loose).any()
        assert strict.sum() <= math.floor(share * len(ease) + 0.5) <= loose.sum()
        assert all(ease[strict].max(initial=-1) < level < ease[~loose].min(initial=99) for level in moved)
        assert routing.level_at(ease, share) == (np.isin(ease, moved).mean() if len(moved) else 0)

    def test_share_0_and_1_are_all_of_one_objective(self):  # invariant 11
        margins = [0.0, 1.0, 1.0, 2.0]
        assert set(objectives(routed(margins, share=0.0)).values()) == {"dpo"}
        assert set(objectives(routed(margins, share=1.0)).values()) == {"sft"}

    def test_infinite_thresholds_are_all_of_one_objective(self):  # invariant 1
        margins = [0.0, 1.0, 1.0, 2.0]
        assert sft_ids(routed(margins, tau=-math.inf)) == set()
        assert len(sft_ids(routed(margins, tau=math.inf))) == 4
        for option, tau in (("none", -math.inf), ("all", math.inf)):
            assert routed(margins, to_sft=option).equals(routed(margins, tau=tau))

    def test_a_constant_on_both_scores_changes_nothing(self):  # invariant 7
        frame = pairs([0.0, 0.5, 1.0, 2.0, 3.0])
        lifted = frame.with_columns(pl.col("score_chosen", "score_rejected") + 3)
        a, b = (route(each, SORTED(tau=1.0)).kept for each in (frame, lifted))
        assert a["order"].equals(b["order"]) and objectives(a) == objectives(b)

    @pytest.mark.parametrize("c", [0.25, 3.0])
    def test_scaling_leaves_a_rank_cut_and_scales_tau(self, c):  # invariant 7
        frame = pairs([0.0, 0.5, 1.0, 2.0, 3.0])
        scaled = frame.with_columns(pl.col("score_chosen", "score_rejected", "margin") * c)
        for first, second in (
            (SORTED(share=0.4), SORTED(share=0.4)),
            (SORTED(tau=1.5), SORTED(tau=1.5 * c)),
            (SORTED(tau=1.5 / c), SORTED(tau=1.5)),
        ):
            assert objectives(route(frame, first).kept) == objectives(route(scaled, second).kept)

    def test_any_margin_column_can_decide(self):
        frame = pairs([3.0, 2.0, 1.0, 0.5], rm=[0.1, 0.4, 0.3, 0.2])
        assert sft_ids(route(frame, SORTED(share=0.25), Difficulty(margin="rm")).kept) == {"p0"}

    def test_where_high_is_hard_the_cut_is_above(self):
        frame = pairs([3.0, 2.0, 1.0, 0.5], loss=[0.1, 0.9, 0.5, 0.5])
        signal = Difficulty(by="loss", hard="high")
        assert sft_ids(route(frame, SORTED(share=0.25), signal).kept) == {"p1"}
        assert sft_ids(route(frame, SORTED(tau=0.5), signal).kept) == {"p1"}
        assert sft_ids(route(frame, SORTED(tau=0.5, tie_side="hard"), signal).kept) == {"p1", "p2", "p3"}
        kept = route(frame, SORTED(share=0.25), signal).kept
        assert kept["difficulty"].to_list() == [0.1, 0.5, 0.5, 0.9]

    def test_a_band_is_two_rank_shares_from_the_hardest(self):
        margins = [float(m) for m in range(10)]
        assert sft_ids(routed(margins, to_sft="band", band=(0.2, 0.5))) == {"p2", "p3", "p4"}
        same = routed(margins, to_sft="band", band=(0.0, 0.3))
        assert objectives(same) == objectives(routed(margins, share=0.3))


class TestControls:
    @MODEST
    @given(MARGINS, st.floats(0.05, 0.95), st.sampled_from(["easy", "hard"]), st.integers(0, 5))
    def test_controls_have_the_size_of_the_hardest_route(self, margins, share, side, seed):
        common = {"share": share, "tie_side": side, "seed": seed, "most_ties": LOOSE}
        hardest = sft_ids(routed(margins, **common))
        for control in ("random", "easiest"):
            assert len(sft_ids(routed(margins, to_sft=control, **common))) == len(hardest)

    def test_the_easiest_are_the_easiest(self):
        margins = [float(m) for m in range(10)]
        assert sft_ids(routed(margins, to_sft="easiest", share=0.2)) == {"p8", "p9"}

    def test_a_random_route_depends_on_the_seed_and_not_on_the_margin(self):
        margins = [float(m) for m in range(400)]
        one, again, other = (sft_ids(routed(margins, to_sft="random", share=0.25, seed=s)) for s in (1, 1, 2))
        assert one == again != other
        mean = np.mean([margins[int(name[1:])] for name in one])
        assert abs(mean - 199.5) < 4 * 115.5 / math.sqrt(100)  # four standard errors; the hardest 100 have mean 49.5
        assert record(route(pairs(margins), SORTED(to_sft="random", share=0.25)))["sft"] == 100

    def test_controls_keep_the_order_of_the_run_that_they_control(self):
        margins = [0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 3.0]
        orders = [
            routed(margins, to_sft=kind, share=0.3, most_ties=LOOSE)["prompt_id"]
            for kind in ("hardest", "random", "none")
        ]
        assert orders[0].equals(orders[1]) and orders[0].equals(orders[2])

    def test_a_control_must_differ_in_the_named_setting_alone(self):  # defect 6
        run = {"beta": 0.01, "label_smoothing": 0.1, "to_sft": "hardest"}
        routing.check_control(run, {**run, "to_sft": "none"}, may_differ=["to_sft"])
        with pytest.raises(ConfigError, match=r"beta 0\.01 against 0\.1; label_smoothing 0\.1 against 'not set'"):
            routing.check_control(run, {"beta": 0.1, "to_sft": "none"}, may_differ=["to_sft"])


class TestOrder:
    @MODEST
    @given(MARGINS, st.floats(0, 1), st.integers(0, 3))
    def test_easy_pairs_come_first_and_hard_ones_last(self, margins, share, seed):  # invariant 6
        kept = routed(margins, share=share, seed=seed, most_ties=LOOSE)
        assert sorted(kept["prompt_id"]) == sorted(f"p{i}" for i in range(len(margins)))
        assert kept["order"].to_list() == list(range(len(margins)))
        assert (kept["margin"].diff().drop_nulls() <= 0).all()
        easy = (kept["objective"] == "dpo").sum()
        assert kept["objective"].to_list() == ["dpo"] * easy + ["sft"] * (len(margins) - easy)
        assert kept["difficulty"].to_list() == [-m + 0.0 for m in kept["margin"]]

    def test_the_seed_changes_the_order_inside_ties_alone(self):  # invariants 6, 14
        margins = [0.0, 1.0, 2.0] * 20
        one, again, other = (routed(margins, seed=s, most_ties=LOOSE) for s in (1, 1, 2))
        assert one.equals(again)
        assert one["margin"].equals(other["margin"])
        assert not one["prompt_id"].equals(other["prompt_id"])

    def test_the_order_of_the_rows_in_the_file_does_not_matter(self):
        frame = pairs([0.0, 1.0, 2.0, 1.0, 1.0, 0.5] * 5)
        back = frame.reverse()
        for order in ("easy_first", "hard_first", "shuffled"):
            options = SORTED(order=order, to_sft="random", share=0.3, most_ties=LOOSE)
            assert route(frame, options).kept.equals(route(back, options).kept)

    def test_two_pairs_of_one_prompt_have_keys_of_their_own(self):
        frame = pairs([1.0, 1.0, 2.0]).with_columns(prompt_id=pl.lit("same"))
        assert len(set(routing.pair_keys(frame, 0).tolist())) == 3

    def test_anti_sorted_shuffled_and_given_orders(self):
        margins = [2.0, 0.0, 1.0, 3.0, 4.0, 5.0]
        assert routed(margins, order="hard_first")["margin"].to_list() == sorted(margins)
        assert routed(margins, order="as_given")["margin"].to_list() == margins
        shuffled = [routed(margins, order="shuffled", seed=s)["margin"].to_list() for s in range(4)]
        assert all(sorted(each) == sorted(margins) for each in shuffled)
        assert len({tuple(each) for each in shuffled}) > 1

    def test_stages_are_two_when_the_objectives_are_two_runs(self):
        assert routed([0.0, 1.0, 2.0, 3.0], share=0.5)["stage"].to_list() == [0, 0, 1, 1]
        assert routed([0.0, 1.0, 2.0, 3.0], share=0.5, order="hard_first")["stage"].to_list() == [0, 0, 1, 1]
        assert routed([0.0, 1.0, 2.0, 3.0], to_sft="none")["stage"].to_list() == [0] * 4
        assert routed([0.0, 2.0, 1.0, 3.0], share=0.5, order="as_given")["stage"].to_list() == [0] * 4

    @pytest.mark.parametrize("batch", [1, 3, 4, 7])
    def test_at_most_one_batch_mixes_routes(self, batch):  # invariant 13
        sft_I = (routed([float(m % 9) for m in range(50)], share=0.3)["objective"] == "sft").to_numpy()
        mixed = [0 < part.mean() < 1 for part in np.split(sft_I, range(batch, 50, batch))]
        assert sum(mixed) <= 1

    def test_a_sampler_that_sorts_only_within_ranks_is_refused(self):  # defect 5
        n, batch, ranks = 32, 8, 2
        order = np.arange(n)
        dealt = [order[rank::ranks].reshape(-1, batch // ranks) for rank in range(ranks)]  # every rank-th pair
        blocks = [order[rank * n // ranks :][: n // ranks].reshape(-1, batch // ranks) for rank in range(ranks)]
        for step in range(n // batch):
            routing.check_batch(np.concatenate([rank[step] for rank in dealt]), step=step, batch=batch, n=n)
            with pytest.raises(DataError, match="sequential sampler"):
                routing.check_batch(np.concatenate([rank[step] for rank in blocks]), step=step, batch=batch, n=n)

    def test_the_last_batch_may_be_short_and_a_resumed_run_must_go_on(self):
        routing.check_batch(np.array([8, 9]), step=2, batch=4, n=10)
        with pytest.raises(DataError, match="step 2 trains pairs 0"):
            routing.check_batch(np.array([0, 1]), step=2, batch=4, n=10)


class TestRowsThatCannotBeRouted:
    @pytest.mark.parametrize("bad", [None, math.nan, math.inf])
    def test_a_missing_margin_raises_unless_told(self, bad):  # invariant 8, defect 2
        margins = [1.0, bad, 2.0, 3.0]
        with pytest.raises(DataError, match=r"1 of 4 pairs, first row 1 \(prompt p1\).*missing = easy or drop"):
            routed(margins)
        split = route(pairs(margins), SORTED(share=0.3), Difficulty(missing="drop"))
        assert split.kept.height == 3
        assert split.dropped["reason"].to_list() == ["missing"]
        kept = routed(margins, Difficulty(missing="easy"), share=1.0)
        assert objectives(kept) == {"p1": "dpo", "p0": "sft", "p2": "sft", "p3": "sft"}
        assert kept["difficulty"].to_list() == [None, -3.0, -2.0, -1.0]

    def test_missing_scores_are_never_a_gap_of_one(self):  # defect 2
        frame = pairs([1.0, 2.0, 3.0]).with_columns(pl.lit(None, pl.Float64).alias("score_rejected"))
        with pytest.raises(DataError, match="3 of 3 pairs"):
            route(frame)

    def test_a_sentinel_is_missing(self):
        frame = pairs([1.0, 2.0, 16.0]).with_columns(
            score_rejected=pl.Series([5.0, 5.0, -10.0]), score_chosen=pl.Series([6.0, 7.0, 6.0])
        )
        with pytest.raises(DataError, match="first row 2"):
            route(frame, SORTED(), Difficulty(scale_min=1, scale_max=10))
        assert route(frame, SORTED(), Difficulty(scale_min=1, missing="drop")).dropped["prompt_id"].to_list() == ["p2"]

    def test_labels_without_a_number_are_refused(self):
        with pytest.raises(DataError, match=r"lack margin.*compute a margin"):
            route(pairs([1.0, 2.0]).drop("margin"))
        with pytest.raises(ConfigError, match="labels alone"):
            Difficulty(margin=None)

    def test_a_number_that_is_the_same_everywhere_is_a_label(self):
        with pytest.raises(DataError, match="all 3 pairs are equally hard"):
            routed([1.0, 1.0, 1.0])
        assert routed([1.0, 1.0, 1.0], to_sft="none").height == 3

    def test_an_absolute_margin_is_refused(self):
        frame = pairs([1.0, -2.0, 3.0]).with_columns(pl.col("margin").abs())
        with pytest.raises(DataError, match=r"row 1 \(prompt p1\): margin 2\.0 is not .* -2\.0"):
            route(frame, SORTED(), KEEP)

    def test_more_than_half_ties_are_refused(self):
        with pytest.raises(DataError, match="60% of the margins are ties"):
            routed([0.0, 0.0, 0.0, 1.0, 2.0])
        assert routed([0.0, 0.0, 1.0, 2.0]).height == 4

    def test_a_cut_through_a_level_of_most_pairs_is_refused(self):
        margins = [0.0, 1.0, 1.0, 1.0, 2.0]
        with pytest.raises(DataError, match="60% of the pairs stand on the level of the cut"):
            routed(margins, share=0.4)
        assert len(sft_ids(routed(margins, share=0.2))) == 1

    def test_zeros_of_another_signal_are_no_ties(self):
        frame = pairs([1.0, 2.0, 3.0], loss=[0.0, 0.0, 1.0])
        kept = route(frame, SORTED(share=0.34), Difficulty(by="loss", hard="high")).kept
        assert sft_ids(kept) == {"p2"}

    def test_an_empty_side_is_dropped_with_a_count(self):
        frame = pairs([1.0, 2.0, 3.0, 4.0], tokens_chosen=[3, 0, 3, 3], tokens_rejected=[3, 3, 3, 3])
        frame = frame.with_columns(
            rejected=pl.when(pl.col("prompt_id") == "p2")
            .then(frame["rejected"].head(0).implode().list.first())
            .otherwise("rejected")
        )
        split = route(frame)
        assert split.dropped.sort("prompt_id").select("prompt_id", "reason").rows() == [
            ("p1", "empty_side"),
            ("p2", "empty_side"),
        ]
        conform(split.dropped, DROPPED, where="here")

    def test_pairs_are_routed_once(self):
        with pytest.raises(DataError, match="objective, order, stage, difficulty, swapped already"):
            route(routed([0.0, 1.0, 2.0]))

    def test_no_pairs_are_no_error(self):
        kept, dropped = route(pairs([]))
        assert (kept.height, dropped.height) == (0, 0)
        assert set(routing.ROUTED) <= set(kept.columns)
        assert record((kept, dropped))["in"] == 0

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"share": 0.1, "tau": 0.5}, "two ways"),
            ({"share": 1.5}, "share is"),
            ({"tau": math.nan}, "nan"),
            ({"band": (0.1, 0.2)}, "band"),
            ({"to_sft": "band"}, "band"),
            ({"to_sft": "band", "band": (0.3, 0.2)}, "low below high"),
            ({"most_ties": 2}, "most_ties"),
        ],
    )
    def test_settings_that_cannot_be_meant(self, options, said):
        with pytest.raises(ConfigError, match=said):
            SORTED(**options)

    def test_a_margin_is_never_hard_when_large(self):
        with pytest.raises(ConfigError, match="large margin is easy"):
            Difficulty(hard="high")


class TestNegativeMargins:
    MARGINS = (3.0, -2.0, 1.0, 0.5, -0.25, 4.0)

    def split(self, policy, **options):
        return route(pairs(self.MARGINS), SORTED(share=0.5, **options), Difficulty(negative=policy))

    def test_they_raise_unless_told(self):
        with pytest.raises(DataError, match=r"2 of 6 pairs, first row 1 \(prompt p1\).*negative = swap"):
            route(pairs(self.MARGINS))

    def test_drop_counts_them(self):
        split = self.split("drop")
        assert split.dropped.select("prompt_id", "reason").rows() == [
            ("p1", "negative_margin"),
            ("p4", "negative_margin"),
        ]
        assert record(split)["dropped"] == {"negative_margin": 2}

    def test_keep_trusts_the_label(self):
        kept = self.split("keep").kept
        assert sft_ids(kept) == {"p1", "p4", "p3"}
        assert kept["chosen"].list.first().struct.field("content").to_list() == [
            f"good {i}" for i in (5, 0, 2, 3, 4, 1)
        ]
        assert record(self.split("keep"))["negative_kept"] == 2

    def test_swap_trusts_the_score_and_orders_by_it(self):
        kept = self.split("swap").kept
        assert kept["margin"].to_list() == [4.0, 3.0, 2.0, 1.0, 0.5, 0.25]
        assert (kept["score_chosen"] - kept["score_rejected"]).to_list() == kept["margin"].to_list()
        assert sft_ids(kept) == {"p2", "p3", "p4"}
        turned = kept.filter("swapped")
        assert turned["chosen"].list.first().struct.field("content").to_list() == ["bad 1", "bad 4"]
        assert turned["rejected"].list.first().struct.field("content").to_list() == ["good 1", "good 4"]

    def test_sft_best_imitates_the_higher_score_in_every_row(self):  # invariant 12
        kept = self.split("sft_best").kept
        assert (kept["score_chosen"] >= kept["score_rejected"]).all()
        turned = kept.filter("swapped")
        assert turned["prompt_id"].to_list() == ["p4", "p1"]
        assert turned["objective"].to_list() == ["sft", "sft"]
        assert kept["objective"].to_list() == ["dpo"] * 3 + ["sft"] * 3  # they stay at the hard end

    def test_sft_best_holds_in_the_controls_too_at_the_same_size(self):
        sizes = set()
        for kind in ("hardest", "random", "easiest"):
            kept = self.split("sft_best", to_sft=kind).kept
            assert {"p1", "p4"} <= sft_ids(kept)
            sizes.add(len(sft_ids(kept)))
        assert sizes == {3}

    @MODEST
    @given(st.lists(st.booleans(), min_size=3, max_size=3))
    def test_exchange_twice_is_the_identity(self, swap):  # invariant 12
        meta = [
            json.dumps({"chosen_id": "a", "rejected_id": "b", "rule": "max/min"}, separators=(",", ":")),
            None,
            "{}",
        ]
        frame = pairs(
            [1.0, -2.0, 3.0], rm_margin=[1.0, 2.0, -3.0], p_chosen=[0.75, 0.5, 0.25], chosen_model=["x", "y", "z"],
            rejected_model=["u", "v", "w"], ref_chosen_logps=[-1.0, -2.0, -3.0], ref_rejected_logps=[-4.0, -5.0, -6.0],
            meta=meta,
        )  # fmt: skip
        mask = np.array(swap)
        once = exchange(frame, mask)
        assert exchange(once, mask).equals(frame)
        for row, swapped in enumerate(swap):
            before, after = frame.row(row, named=True), once.row(row, named=True)
            sign = -1 if swapped else 1
            assert after["margin"] == sign * before["margin"] and after["rm_margin"] == sign * before["rm_margin"]
            assert after["p_chosen"] == (1 - before["p_chosen"] if swapped else before["p_chosen"])
            assert after["chosen_model"] == before["rejected_model" if swapped else "chosen_model"]
            assert after["ref_chosen_logps"] == before["ref_rejected_logps" if swapped else "ref_chosen_logps"]
        if swap[0]:
            assert json.loads(once["meta"][0]) == {"rejected_id": "a", "chosen_id": "b", "rule": "max/min"}

    def test_a_column_of_one_side_alone_cannot_be_exchanged(self):
        with pytest.raises(DataError, match=r"chosen_avg.*add rejected_avg"):
            exchange(pairs([1.0], chosen_avg=[2.0]), np.array([True]))


class TestEveryPairIsAccountedFor:
    @MODEST
    @given(
        st.lists(st.sampled_from([None, math.nan, -1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=30),
        st.sampled_from(["easy", "drop"]),
        st.sampled_from(["swap", "drop", "sft_best", "keep"]),
        st.sampled_from(["hardest", "easiest", "random", "none", "all"]),
    )
    def test_in_is_dpo_plus_sft_plus_dropped(self, margins, missing, negative, kind):
        try:
            split = route(
                pairs(margins), SORTED(to_sft=kind, most_ties=LOOSE), Difficulty(missing=missing, negative=negative)
            )
        except DataError as error:
            assert "equally hard" in str(error)
            return
        counts = record(split)
        assert counts["in"] == len(margins) == counts["dpo"] + counts["sft"] + sum(counts["dropped"].values())
        names = [*split.kept["prompt_id"], *split.dropped["prompt_id"]]
        assert sorted(names) == sorted(f"p{i}" for i in range(len(margins)))
        routing.require_routed(split.kept.to_dict(as_series=False), counts)
        json.dumps(counts)

    def test_lengths_are_told_per_route(self):
        frame = pairs([0.0, 1.0, 2.0], tokens_chosen=[10, 20, 40], tokens_rejected=[11, 10, 20])
        told = record(route(frame, SORTED(share=0.34)))
        assert told["length_unit"] == "tokens"
        assert told["routes"]["sft"] == {"pairs": 1, "chosen": 10, "rejected": 11, "length_gap": -1}
        assert told["routes"]["dpo"] == {"pairs": 2, "chosen": 30, "rejected": 15, "length_gap": 15}
        assert told["exact_ties"] == 1
        assert record(route(pairs([0.0, 1.0, 2.0]), SORTED(share=0.34)))["routes"]["sft"]["chosen"] == len("good 0")

    def test_input_rows_are_left_alone(self):
        frame = pairs([1.0, -2.0, 3.0])
        before = frame.clone()
        route(frame, SORTED(), Difficulty(negative="swap"))
        assert frame.equals(before)


class TestAtTheDoorOfTheTrainer:
    def setup_method(self):
        self.split = route(pairs([0.0, 1.0, 2.0, 3.0]), SORTED(share=0.5))
        self.counts = record(self.split)
        self.rows = self.split.kept.to_dict(as_series=False)

    def test_the_mask_is_the_column_and_not_a_second_cut(self):  # defect 7
        kept = routed([0.5, 1.0, 2.0], tau=0.5, tie_side="hard")
        mask = routing.require_routed(kept.to_dict(as_series=False), {"dpo": 2, "sft": 1})
        assert mask.tolist() == [False, False, True]

    def test_a_column_that_vanished_is_an_error_and_not_plain_dpo(self):  # invariant 8, defect 1
        with pytest.raises(ConfigError, match=r"lack objective.*remove_unused_columns"):
            routing.require_routed({"order": self.rows["order"]}, self.counts)

    @pytest.mark.parametrize("bad", [None, True, "DPO"])
    def test_an_objective_that_is_none_of_the_two_is_an_error(self, bad):
        rows = {**self.rows, "objective": ["dpo", bad, "sft", "sft"]}
        with pytest.raises(DataError, match="row 1: objective"):
            routing.require_routed(rows, self.counts)

    def test_shuffled_rows_are_an_error(self):
        shuffled = self.split.kept[[1, 0, 2, 3]].to_dict(as_series=False)
        with pytest.raises(DataError, match="row 0: order is 1"):
            routing.require_routed(shuffled, self.counts)

    def test_realised_counts_are_the_expected_ones(self):  # invariant 8
        rows = {**self.rows, "objective": ["dpo"] * 4}
        with pytest.raises(DataError, match="dpo 4 of 2, sft 0 of 2"):
            routing.require_routed(rows, self.counts)

    @pytest.mark.trl
    def test_trl_itself_drops_the_column(self):  # defect 1, the reason for the check
        trl = pytest.importorskip("trl")
        stand_in = type("T", (), {"_signature_columns": None, "_is_vision_dataset": False})()
        trl.DPOTrainer._set_signature_columns_if_needed(stand_in)
        assert not {"objective", "order"} & set(stand_in._signature_columns)


def terms(rng, n=6, **changes) -> PairTerms:
    chosen_logps, rejected_logps = -rng.uniform(5, 50, n), -rng.uniform(5, 50, n)
    t = PairTerms(
        chosen=rng.normal(size=n), rejected=rng.normal(size=n), chosen_logps=chosen_logps, rejected_logps=rejected_logps,
        chosen_length=rng.integers(1, 40, n).astype(float), rejected_length=rng.integers(1, 40, n).astype(float),
    )  # fmt: skip
    return t._replace(**changes)


SMOOTH = partial(cdpo, beta=0.1, flip=0.1)
HALF = np.array([True, False] * 3)


class TestMixedLoss:
    def test_no_sft_is_cdpo_and_all_sft_is_sft(self):  # invariant 1
        t = terms(np.random.default_rng(0))
        none = np.zeros(6, bool)
        assert np.array_equal(routing.mixed_loss(t, none, preference=SMOOTH), SMOOTH(t))
        assert np.array_equal(routing.mixed_loss(t, ~none, preference=SMOOTH), sft(t))
        assert np.allclose(routing.mixed_loss(t, none, preference=partial(cdpo, flip=0.0)), dpo(t), atol=1e-15)

    def test_a_hard_pair_does_not_see_the_rejected_side_nor_the_reference(self):  # invariant 2
        torch = pytest.importorskip("torch")
        t = terms(np.random.default_rng(1))
        logps = torch.tensor(t.chosen_logps, requires_grad=True)
        rejected = torch.tensor(t.rejected, requires_grad=True)
        each = PairTerms(*(None if x is None else torch.tensor(x) for x in t))
        spoilt = torch.tensor([math.nan, 0.0] * 3).double()
        each = each._replace(chosen_logps=logps, chosen=logps - torch.tensor(t.chosen) + spoilt, rejected=rejected)
        loss = routing.mixed_loss(each, torch.tensor(HALF), preference=SMOOTH, sft_weight=0.5)
        assert np.allclose(loss.detach().numpy()[HALF], 0.5 * -t.chosen_logps[HALF] / t.chosen_length[HALF])
        loss.mean().backward()
        assert (rejected.grad.numpy()[HALF] == 0).all() and (rejected.grad.numpy()[~HALF] != 0).all()
        assert np.allclose(logps.grad.numpy()[HALF], -0.5 / t.chosen_length[HALF] / 6)

    def test_an_easy_pair_sees_the_log_ratios_alone(self):  # invariant 3
        rng = np.random.default_rng(2)
        t = terms(rng)
        shift = rng.normal(size=6)
        moved = t._replace(chosen=t.chosen + shift, rejected=t.rejected + shift, rejected_logps=t.rejected_logps * 2)
        a, b = (routing.mixed_loss(x, HALF, preference=SMOOTH)[~HALF] for x in (t, moved))
        assert np.allclose(a, b, atol=1e-14)

    def test_smoothing_is_not_ignored(self):  # invariant 9, defect 3
        torch = pytest.importorskip("torch")
        lengths = np.array([3.0, 282.5])
        pull = []
        for mask in (np.array([False, False]), np.array([True, True])):
            logps = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            zero = torch.zeros(2, dtype=torch.float64)
            t = PairTerms(chosen=logps, rejected=zero, chosen_logps=logps, chosen_length=torch.tensor(lengths))
            loss = routing.mixed_loss(t, torch.tensor(mask), preference=partial(cdpo, beta=0.01, flip=0.1))
            loss.sum().backward()
            pull.append(-logps.grad.numpy())
        assert np.allclose(pull[0], 0.01 * (0.5 - 0.1))
        assert np.allclose(pull[0] / pull[1], schedule.gradient_ratio(lengths, beta=0.01, label_smoothing=0.1))

    def test_sft_is_a_mean_per_sequence_and_not_over_tokens(self):  # invariant 4, defect 4
        t = PairTerms(
            chosen=np.zeros(2),
            rejected=np.zeros(2),
            chosen_logps=np.array([-1.0, -300.0]),
            chosen_length=np.array([2.0, 100.0]),
        )
        loss = routing.mixed_loss(t, np.array([True, True]), preference=SMOOTH).mean()
        assert loss == pytest.approx((0.5 + 3.0) / 2)  # pooled over tokens: 2.95
        double = t._replace(chosen_logps=2 * t.chosen_logps, chosen_length=2 * t.chosen_length)
        assert routing.mixed_loss(double, np.array([True, True]), preference=SMOOTH).mean() == loss

    def test_any_split_of_the_batch_gives_the_same_sum(self):  # invariant 5
        t = terms(np.random.default_rng(3))
        whole = routing.mixed_loss(t, HALF, preference=SMOOTH)
        for cut in range(7):
            parts = [PairTerms(*(None if x is None else x[part] for x in t)) for part in (slice(0, cut), slice(cut, 6))]
            masks = HALF[:cut], HALF[cut:]
            split = [routing.mixed_loss(p, m, preference=SMOOTH).sum() for p, m in zip(parts, masks, strict=True)]
            assert sum(split) / 6 == pytest.approx(whole.mean(), abs=1e-12)


class TestLearningRateMass:
    def test_the_published_recipe_spends_a_third_of_a_percent_on_its_hard_stage(self):
        sft_I = np.arange(382 * 160) >= 53_748  # of 61,135 pairs, the incomplete last batch left out
        said = {}
        for name in ("cosine", "linear", "constant"):
            factor = schedule.lr_factor(382, schedule=name, warmup_steps=38)
            spent = schedule.lr_spent(sft_I, factor, batch=160)
            said[name] = spent["sft"].lr_share
            assert spent["sft"].data_share == pytest.approx(0.1206, abs=1e-4)
        assert said == pytest.approx({"cosine": 0.0036, "linear": 0.016, "constant": 0.127}, rel=0.04)
        assert schedule.lr_factor(382, warmup_steps=38)[336] == pytest.approx(0.044, abs=1e-3)

    @pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
    @pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3])
    @pytest.mark.parametrize("q", [0.12, 0.5, 0.7])
    def test_the_sum_over_steps_agrees_with_the_closed_form(self, name, warmup, q):  # invariant 10
        n = 20_000
        factor = schedule.lr_factor(n, schedule=name, warmup_steps=round(n * warmup))
        spent = schedule.lr_spent(np.arange(n) >= round(n * (1 - q)), factor, batch=1)
        assert spent["sft"].lr_share == pytest.approx(schedule.last_lr_share(q, schedule=name, warmup=warmup), rel=0.01)
        assert spent["sft"].lr_share + spent["dpo"].lr_share == pytest.approx(1)

    @pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
    def test_the_steps_are_those_of_the_real_scheduler(self, name):  # invariant 10
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        real = transformers.get_scheduler(
            "constant_with_warmup" if name == "constant" else name, optimizer, num_warmup_steps=7, num_training_steps=60
        )
        seen = []
        for _ in range(60):
            seen.append(optimizer.param_groups[0]["lr"] / 2)
            optimizer.step()
            real.step()
        assert np.allclose(schedule.lr_factor(60, schedule=name, warmup_steps=7), seen, atol=1e-12)

    def test_a_constant_rate_spends_in_proportion_to_the_data(self):  # invariant 10
        spent = schedule.lr_spent(np.arange(100) >= 88, schedule.lr_factor(10, schedule="constant"), batch=10)
        assert spent["sft"] == pytest.approx((12, 0.12, 0.12))

    def test_a_mixed_step_counts_for_both(self):
        spent = schedule.lr_spent(np.array([False, False, False, True, True]), np.array([1.0, 2.0, 4.0]), batch=2)
        assert spent["sft"].lr_share == pytest.approx((1 + 4) / 7)

    @pytest.mark.parametrize("how", ["constant", "restart"])
    def test_a_hard_stage_of_its_own_gets_its_share(self, how):
        sft_I = np.arange(1000) >= 880
        plain = schedule.lr_factor(1000, warmup_steps=100)
        factor = schedule.lr_factor(1000, warmup_steps=100, first_hard=880, hard_stage_lr=how)
        share = schedule.lr_spent(sft_I, factor, batch=1)["sft"].lr_share
        assert share == pytest.approx({"constant": 0.12 / 0.6196, "restart": 0.12}[how], rel=0.01)
        assert schedule.lr_spent(sft_I, plain, batch=1)["sft"].lr_share < 0.005
        if how == "constant":
            assert np.array_equal(factor[:880], plain[:880]) and (factor[880:] == 1).all()
        else:
            assert np.allclose(factor[880:], schedule.lr_factor(120, warmup_steps=12))
            assert np.allclose(factor[:880], schedule.lr_factor(880, warmup_steps=88))

    def test_a_hard_stage_with_little_of_the_rate_is_told(self):
        sft_I = np.arange(1000) >= 880
        lines = schedule.told(schedule.lr_spent(sft_I, schedule.lr_factor(1000, warmup_steps=100), batch=1))
        assert lines[1].startswith("sft: 120 pairs, 12.00% of the data, 0.3")
        assert len(lines) == 3 and "warning: the sft stage can hardly move the model" in lines[2]
        assert len(schedule.told(schedule.lr_spent(sft_I, schedule.lr_factor(1000, schedule="constant"), batch=1))) == 2

    def test_the_ratio_of_the_gradients_of_the_published_recipe(self):
        ratio = schedule.gradient_ratio(np.array([282.5, 0.0]), beta=0.01, label_smoothing=0.1)
        assert ratio == pytest.approx([1.13, 0.004])
        tenfold = schedule.gradient_ratio(np.array([282.5]), beta=0.1, label_smoothing=0.1, sft_weight=2.0)
        assert tenfold == pytest.approx([5.65])

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda: schedule.lr_factor(10, warmup_steps=11), "warmup_steps"),
            (lambda: schedule.lr_factor(10, hard_stage_lr="restart"), "first_hard"),
            (lambda: schedule.lr_spent(np.zeros(10, bool), np.ones(3), batch=2), "5 steps, not 3"),
            (lambda: schedule.last_lr_share(0.95, schedule="cosine", warmup=0.1), "q is"),
            (lambda: schedule.gradient_ratio(np.ones(1), beta=0.1, label_smoothing=0.6), "label_smoothing"),
            (lambda: schedule.gradient_ratio(np.ones(1), beta=0.1, sft_weight=0.0), "above 0"),
        ],
    )
    def test_what_cannot_be_meant_is_an_error(self, call, said):
        with pytest.raises(ConfigError, match=said):
            call()


def test_sft_pairs_are_spread_over_the_training_unless_an_order_is_asked_for():
    """The evidence bench: what SFT pairs do against over-optimisation they do best spread out."""
    margins = [float(i) for i in range(200)]
    kept = route(pairs(margins)).kept
    place = np.flatnonzero(kept["objective"].to_numpy() == "sft")
    assert len(place) == 20
    assert place.min() < 60
    assert place.max() > 140
    assert kept["stage"].unique().to_list() == [0]
    assert kept["prompt_id"].to_list() == route(pairs(margins)).kept["prompt_id"].to_list()
