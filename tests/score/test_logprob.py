"""Tables of log-probabilities: built, checked, subtracted, and set beside pairs."""

from dataclasses import dataclass

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairwright.errors import DataError
from pairwright.protocols import LogProb
from pairwright.score.logprob import check_logps, implicit, logp_rows, pair_logps, to_ask
from pairwright.tables import LOGPS, PROMPTS, RESPONSES, SCORES, conform, frame, text_hash

TEXTS = {("p0", "000000"): "Blue.", ("p0", "000001"): None, ("p0", "000002"): "Seven.", ("p1", "000000"): ""}
CODES = ("missing_row", "unknown_row", "text_differs", "positive_logp", "not_finite", "null_without_reason")
CODES += ("tokens_missing", "token_counts_differ", "two_models", "two_templates")


@dataclass
class Model:
    model_hash: str = "m0"
    template_hash: str = "t0"

    def __call__(self, prompts: object, /) -> object:
        raise AssertionError("the table is built from replies alone")


def responses() -> pl.DataFrame:
    rows = [
        {"prompt_id": p, "response_id": r, "response": text, "source": "s", "sample": int(r)}
        for (p, r), text in TEXTS.items()
    ]
    return frame(RESPONSES, rows)


def prompts() -> pl.DataFrame:
    ask = [{"role": "user", "content": "Name a colour."}]
    return frame(PROMPTS, [{"prompt_id": p, "prompt": ask} for p in ("p0", "p1", "unused")])


def logps(values: dict[tuple[str, str], float | None] | None = None, **also: object) -> pl.DataFrame:
    """A sound table of the three texts; `also` overwrites columns of every row."""
    values = {("p0", "000000"): -3.0, ("p0", "000002"): -8.0, ("p1", "000000"): -1.0} if values is None else values
    rows = [
        {"prompt_id": p, "response_id": r, "model": "m", "model_hash": "m0", "template_hash": "t0", "logp": logp,
         "n_tokens": 4, "truncated": False, "reason": None if logp is not None else "out_of_memory",
         "response_hash": text_hash(TEXTS.get((p, r)) or ""), **also}
        for (p, r), logp in values.items()
    ]  # fmt: skip
    return frame(LOGPS, rows)


def scored(found: pl.DataFrame) -> dict[tuple[str, str], tuple[float | None, str | None]]:
    return {
        (p, r): (score, why) for p, r, score, why in found.select("prompt_id", "response_id", "score", "reason").rows()
    }


class TestBuilding:
    def test_a_prompt_is_asked_once_with_all_its_texts(self) -> None:
        asks, asked = to_ask(prompts(), responses())
        assert [(ask.key, list(ask.responses)) for ask in asks] == [(0, ["Blue.", "Seven."]), (1, [""])]
        assert asks[0].messages == [{"role": "user", "content": "Name a colour."}]
        assert asked.select("response_id", "key", "place").rows() == [
            ("000000", 0, 0), ("000001", None, None), ("000002", 0, 1), ("000000", 1, 0),
        ]  # fmt: skip

    def test_a_prompt_without_any_text_is_not_asked_but_accounted_for(self) -> None:
        silent = responses().with_columns(response=pl.when(pl.col("prompt_id") == "p0").then(pl.col("response")))
        asks, asked = to_ask(prompts(), silent)
        assert [ask.key for ask in asks] == [0]
        made = logp_rows(asked, [LogProb(0, 0, -1.0, 2), LogProb(0, 1, -1.0, 2)], Model(), name="m")
        assert made.filter(pl.col("prompt_id") == "p1")["reason"].to_list() == ["no_response"]

    def test_replies_in_any_order_reach_their_texts(self) -> None:
        _, asked = to_ask(prompts(), responses())
        replies = [LogProb(1, 0, -1.0, 2), LogProb(0, 1, -8.0, 5, True), LogProb(0, 0, -3.0, 4)]
        made = logp_rows(asked, replies, Model(), name="tiny")
        assert conform(made, LOGPS, where="test").equals(made)
        assert made.select("response_id", "logp", "n_tokens", "truncated", "reason").rows() == [
            ("000000", -3.0, 4, False, None), ("000001", None, 0, False, "no_response"),
            ("000002", -8.0, 5, True, None), ("000000", -1.0, 2, False, None),
        ]  # fmt: skip
        assert made["response_hash"].to_list() == [text_hash("Blue."), None, text_hash("Seven."), text_hash("")]
        assert made.select("model", "model_hash", "template_hash").unique().rows() == [("tiny", "m0", "t0")]

    def test_a_missing_reply_is_a_null_with_a_reason(self) -> None:
        _, asked = to_ask(prompts(), responses())
        replies = [LogProb(0, 0, -3.0, 4), LogProb(0, 1, None, 5, reason="out_of_memory")]
        made = logp_rows(asked, replies, Model(), name="m")
        assert made["reason"].to_list() == [None, "no_response", "out_of_memory", "no_reply"]
        assert made["logp"].to_list() == [-3.0, None, None, None]

    @pytest.mark.parametrize(
        ("reply", "why"),
        [
            (LogProb(0, 0, -3.0, 4), "twice"),
            (LogProb(0, 9, -3.0, 4), "not asked"),
            (LogProb(9, 0, -3.0, 4), "not asked"),
        ],
    )
    def test_a_second_or_a_strange_reply_is_refused(self, reply: LogProb, why: str) -> None:
        _, asked = to_ask(prompts(), responses())
        with pytest.raises(DataError, match=why):
            logp_rows(asked, [LogProb(0, 0, -3.0, 4), reply], Model(), name="m")

    def test_responses_of_an_unknown_prompt_are_refused(self) -> None:
        with pytest.raises(DataError, match="p1 has responses"):
            to_ask(prompts().filter(pl.col("prompt_id") != "p1"), responses())

    def test_nothing_asked_gives_an_empty_table(self) -> None:
        asks, asked = to_ask(prompts(), responses().clear())
        assert asks == []
        assert logp_rows(asked, [], Model(), name="m").height == 0


class TestImplicit:
    def test_it_is_the_log_ratio_of_the_same_text(self) -> None:
        reference = logps({("p1", "000000"): -2.0, ("p0", "000002"): -6.0, ("p0", "000000"): -4.5}, model_hash="m1")
        found = implicit(logps(), reference)
        assert conform(found, SCORES, where="test").equals(found)
        assert scored(found) == {
            ("p0", "000000"): (1.5, None), ("p0", "000002"): (-2.0, None), ("p1", "000000"): (1.0, None),
        }  # fmt: skip
        per_token = scored(implicit(logps(), reference, per_token=True, rater="implicit.per_token"))
        assert per_token["p0", "000000"] == (1.5 / 4, None)

    def test_a_model_against_itself_is_zero(self) -> None:
        assert implicit(logps(), logps())["score"].to_list() == [0.0, 0.0, 0.0]

    @given(shift=st.integers(-1000, 1000), values=st.lists(st.integers(-1000, -1), min_size=3, max_size=3))
    def test_what_both_models_say_of_a_prefix_cancels(self, shift: int, values: list[int]) -> None:
        ids = [("p0", "000000"), ("p0", "000002"), ("p1", "000000")]
        reference = logps(dict(zip(ids, map(float, values), strict=True)))
        moved = [data.with_columns(pl.col("logp") + shift) for data in (logps(), reference)]
        assert implicit(*moved).equals(implicit(logps(), reference))
        turned = implicit(reference, logps()).with_columns(-pl.col("score"))
        assert turned.equals(implicit(logps(), reference))

    def test_the_order_of_rows_does_not_matter(self) -> None:
        assert scored(implicit(logps(), logps().reverse())) == scored(implicit(logps(), logps()))

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"response_hash": text_hash("another text")}, "text_differs"),
            ({"response_hash": None}, "text_differs"),
            ({"truncated": True}, "truncated"),
            ({"n_tokens": 5}, "token_counts_differ"),
            ({"logp": None, "reason": "out_of_memory"}, "{side}: out_of_memory"),
            ({"logp": None, "reason": None}, "{side}: logp_missing"),
        ],
    )
    @pytest.mark.parametrize("side", ["policy", "reference"])
    def test_what_cannot_be_compared_is_null_with_its_reason(
        self, change: dict[str, object], why: str, side: str
    ) -> None:
        changed = logps(**change)
        found = implicit(changed, logps()) if side == "policy" else implicit(logps(), changed)
        assert set(scored(found).values()) == {(None, why.format(side=side))}

    def test_a_row_that_one_side_lacks_is_kept_as_null(self) -> None:
        few = logps().filter(pl.col("prompt_id") == "p0")
        assert scored(implicit(logps(), few))["p1", "000000"] == (None, "reference_missing")
        assert scored(implicit(few, logps()))["p1", "000000"] == (None, "policy_missing")

    def test_two_templates_are_never_subtracted(self) -> None:
        with pytest.raises(DataError, match="tokenised differently"):
            implicit(logps(), logps(template_hash="t1"))

    @pytest.mark.parametrize("column", ["model_hash", "template_hash"])
    def test_a_table_of_two_models_is_refused(self, column: str) -> None:
        mixed = pl.concat([logps(), logps().with_columns(pl.lit("other").alias(column))])
        with pytest.raises(DataError, match=f"policy log-probabilities hold several {column}"):
            implicit(mixed, logps())


class TestChecking:
    def test_a_sound_table_has_no_findings(self) -> None:
        assert check_logps(logps(), responses()).height == 0

    @pytest.mark.parametrize("code", CODES)
    def test_each_fault_is_found_and_nothing_else(self, code: str) -> None:
        first = pl.col("response_id") == "000002"

        def but(column: str, value: object, data: pl.DataFrame) -> pl.DataFrame:
            changed = pl.when(first).then(pl.lit(value)).otherwise(column)
            return data.with_columns(changed.cast(LOGPS.schema[column]).alias(column))

        other = logps(model_hash="m1")
        faulty = {
            "missing_row": lambda: logps().filter(~first),
            "unknown_row": lambda: pl.concat([logps(), logps({("p7", "000002"): -2.0})]),
            "text_differs": lambda: but("response_hash", "x", logps()),
            "positive_logp": lambda: but("logp", 0.5, logps()),
            "not_finite": lambda: but("logp", float("nan"), logps()),
            "null_without_reason": lambda: but("logp", None, logps()),
            "tokens_missing": lambda: but("n_tokens", 0, logps()),
            "token_counts_differ": lambda: pl.concat([logps(), but("n_tokens", 5, other)]),
            "two_models": lambda: pl.concat([logps(), other]),
            "two_templates": lambda: pl.concat([logps(), logps(template_hash="t1")]),
        }[code]()
        found = check_logps(faulty, responses())
        assert set(found["code"]) - {"two_models"} == {code} - {"two_models"}
        assert (code in {"two_models", "token_counts_differ"}) == ("two_models" in set(found["code"]))
        if not code.startswith("two_"):
            assert set(found.filter(pl.col("code") == code)["response_id"]) == {"000002"}

    def test_a_zero_is_no_positive_log_probability(self) -> None:
        assert check_logps(logps().with_columns(logp=pl.lit(0.0)), responses()).height == 0


class TestPairs:
    @staticmethod
    def pairs() -> pl.DataFrame:
        ids = {"prompt_id": ["p0", "p0", "p1"], "chosen_id": ["000002", "000000", "000000"]}
        return pl.DataFrame({**ids, "rejected_id": ["000000", "000001", "000009"], "margin": [1.0, 2.0, 3.0]})

    def test_each_side_gets_its_own_number_and_null_where_there_is_none(self) -> None:
        found = pair_logps(self.pairs(), logps())
        assert found.columns == [*self.pairs().columns, "ref_chosen_logps", "ref_rejected_logps"]
        assert found["ref_chosen_logps"].to_list() == [-8.0, -3.0, -1.0]
        assert found["ref_rejected_logps"].to_list() == [-3.0, None, None]

    def test_a_number_of_another_text_is_not_used(self) -> None:
        edited = responses().with_columns(response=pl.col("response").str.replace("Seven", "Eight"))
        found = pair_logps(self.pairs(), logps(), edited)
        assert found["ref_chosen_logps"].to_list() == [None, -3.0, -1.0]
        assert pair_logps(self.pairs(), logps(), responses()).equals(pair_logps(self.pairs(), logps()))

    def test_two_models_and_doubled_rows_are_refused(self) -> None:
        with pytest.raises(DataError, match="several model_hash: m0, m1"):
            pair_logps(self.pairs(), pl.concat([logps(), logps(model_hash="m1")]))
        with pytest.raises(DataError, match="twice"):
            pair_logps(self.pairs(), pl.concat([logps(), logps()]))
