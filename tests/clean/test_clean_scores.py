"""Scores through the clean stage: one rater on the others, prompts x models, and what is put in where it is safe."""

import json

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pairwright.clean import matrix
from pairwright.clean.evidence import RATED, Cleaning, Evidence, no_evidence
from pairwright.clean.run import Result, clean
from pairwright.tables import PROPOSALS

ASPECTS = ("help", "honest", "instruct", "truth")


def faulty_parser(said: str) -> float:
    """How the first release of UltraFeedback read a score: up to the first point, and times ten where not above 1."""
    told = said.split(".")[0]
    value = float(told.split("/")[0]) / float(told.split("/")[1]) if "/" in told else float(told)
    return value if value > 1 else value * 10


def evidence(rows: list[tuple]) -> Evidence:
    """(prompt, response, rater, score, model)."""
    return no_evidence()._replace(scores=pl.DataFrame(rows, schema=RATED, orient="row"))


def ratings(n: int = 800, *, wrong: float = 0.02, seed: int = 0) -> tuple[Evidence, set[tuple[str, str]]]:
    """Completions with four aspects (1-5) and an overall score of two to ten; wrong ones are 1 and were stored as 10."""
    rng = np.random.default_rng(seed)
    rows, planted = [], set()
    for at in range(n):
        quality = rng.uniform(1, 5)
        given = np.clip(np.round(quality + 0.5 * rng.normal(size=4)), 1, 5)
        overall = float(np.clip(np.round(2 * quality + 0.5 * rng.normal()), 1, 10))
        told = "10/10" if overall == 10 else f"{overall:g}"
        if quality < 2 and rng.random() < wrong * 4:
            told = "1"
            planted.add((f"p{at // 4}", f"r{at % 4}"))
        elif overall == 1:
            told = "2"
        key = (f"p{at // 4}", f"r{at % 4}")
        rows += [(*key, name, float(value), None) for name, value in zip(ASPECTS, given, strict=True)]
        rows.append((*key, "overall", faulty_parser(told), None))
    return evidence(rows), planted


def judged(n: int = 200, raters: int = 5, *, seed: int = 0, sd: float = 0.3) -> np.ndarray:
    """Responses x raters: one quality, an offset per rater, noise."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1)) + 0.3 * np.arange(raters) + sd * rng.normal(size=(n, raters))


def of_raters(score_RJ: np.ndarray) -> Evidence:
    rows = [
        (f"p{r // 4:03}", f"r{r % 4}", f"j{j}", float(value) if np.isfinite(value) else None, None)
        for r, row in enumerate(score_RJ)
        for j, value in enumerate(row)
    ]
    return evidence(rows)


def of_models(score_PJ: np.ndarray, rater: str = "judge") -> Evidence:
    """Response ids of their own, so that a proposal has to find its way back from the model."""
    rows = [
        (f"p{p:03}", f"r{(j + p) % score_PJ.shape[1]}", rater, float(value), f"m{j}")
        for p, row in enumerate(score_PJ)
        for j, value in enumerate(row)
        if np.isfinite(value)
    ]
    return evidence(rows)


def found(done: Result, case: str) -> dict:
    (told,) = [each for each in done.facts["cases"] if each["case"] == case]
    return told["found"]


class TestTenThatWasOne:
    """The overall-score fault of UltraFeedback (fault F13)."""

    @pytest.mark.parametrize(("said", "stored"), [("1", 10), ("10/10", 10), ("8/10", 8), ("7.5", 7)])
    def test_the_faulty_parser_is_the_published_one(self, said: str, stored: float) -> None:
        assert faulty_parser(said) == stored

    def test_tens_that_the_aspects_contradict_are_listed_and_real_tens_are_not(self) -> None:
        held, planted = ratings()
        listed = clean(held, Cleaning()).proposals.filter(pl.col("rater") == "overall")
        assert len(planted) > 5
        assert set(listed.select("prompt_id", "response_id").iter_rows()) == planted
        assert (listed["old"] == 10).all()
        assert (listed["proposed"] < 6).all()
        tens = held.scores.filter(pl.col("rater") == "overall", pl.col("score") == 10).height
        assert tens > len(planted) + 20

    def test_each_is_listed_with_the_ratings_beside_it(self) -> None:
        held, _ = ratings()
        (first, *_) = clean(held, Cleaning()).proposals.to_dicts()
        assert set(json.loads(first["evidence"])) == {*ASPECTS, "overall"}

    def test_the_scale_of_a_rater_is_never_left(self) -> None:
        held, _ = ratings()
        done = clean(held, Cleaning(z0=2.0)).proposals.filter(pl.col("rater") == "overall")
        assert done.height > 10
        assert done["proposed"].is_between(1, 10).all()


class TestRaters:
    def test_a_wrong_cell_is_found_and_safe_and_its_row_is_not_blamed(self) -> None:
        score = judged()
        score[17, 2] += 9
        done = clean(of_raters(score), Cleaning())
        (safe,) = done.proposals.filter(pl.col("status") == "safe").to_dicts()
        assert (safe["prompt_id"], safe["response_id"], safe["rater"]) == ("p004", "r1", "j2")
        assert safe["old"] == pytest.approx(score[17, 2])
        assert safe["proposed"] == pytest.approx(score[17, 2] - 9, abs=1)
        rest = done.proposals.filter(pl.col("status") != "safe")
        assert set(zip(rest["prompt_id"], rest["response_id"], strict=True)) <= {("p004", "r1")}

    def test_three_wrong_cells_of_five_are_more_than_a_row_can_tell(self) -> None:
        score = judged()
        score[17, :3] += (9, -9, 12)
        done = clean(of_raters(score), Cleaning(method="two_way"))
        assert done.proposals["reason"].to_list() == ["more_than_the_row_can_tell"] * 3
        assert done.facts["safe"] == 0

    def test_of_two_wrong_cells_in_a_row_only_the_larger_is_safe(self) -> None:
        score = judged()
        score[17, :2] += (9, 14)
        held = clean(of_raters(score), Cleaning(method="two_way")).proposals
        assert held.select("rater", "status", "reason").rows() == [
            ("j1", "safe", "out_of_line"),
            ("j0", "contested", "row_of_another"),
        ]

    def test_nothing_is_proposed_that_the_rater_never_says(self) -> None:
        score = judged()
        score[:, 0] = np.clip(score[:, 0], -1, 1)
        score[17] = (-1, 8, 8, 8, 8)
        (row,) = clean(of_raters(score), Cleaning()).proposals.filter(pl.col("rater") == "j0").to_dicts()
        assert (row["response_id"], row["proposed"]) == ("r1", 1.0)

    def test_of_two_raters_nobody_is_called_wrong(self) -> None:
        score = judged(raters=2)
        score[17, 1] += 9
        done = clean(of_raters(score), Cleaning())
        assert done.proposals.height >= 1
        assert set(done.proposals["status"]) == {"contested"}

    def test_a_rater_that_says_the_same_about_everything_has_no_say(self) -> None:  # fault F19
        score = judged(raters=3)
        score[:, 1] = 5
        score[17, 2] += 9
        done = clean(of_raters(score), Cleaning())
        assert found(done, "raters")["constant"] == ["j1"]
        assert "j1" not in done.proposals["rater"].to_list()
        assert done.facts["safe"] == 0  # of two that are left

    def test_two_constant_raters_of_three_leave_nothing_to_ask(self) -> None:
        score = judged(raters=3)
        score[:, :2] = 5
        (case,) = [each for each in clean(of_raters(score), Cleaning()).facts["cases"] if each["case"] == "raters"]
        assert case["outcome"] == "not_identifiable"

    def test_what_belongs_to_a_tail_is_not_safe(self) -> None:
        rng = np.random.default_rng(0)
        done = clean(of_raters(judged(600) + rng.laplace(size=(600, 5))), Cleaning(z0=3.0))
        assert done.proposals.height > 20
        assert done.facts["safe"] <= 1
        assert "within_tail" in done.proposals["reason"].to_list()

    def test_a_missing_score_is_never_a_number(self) -> None:
        score = judged()
        whole = clean(of_raters(score), Cleaning(z0=2.0))
        score[3] = np.nan
        without = clean(of_raters(np.delete(judged(), 3, axis=0)), Cleaning(z0=2.0))
        gone = clean(of_raters(score), Cleaning(z0=2.0))
        assert sorted(gone.proposals["z"]) == pytest.approx(sorted(without.proposals["z"]))
        assert sorted(gone.proposals["z"]) != pytest.approx(sorted(whole.proposals["z"]))

    def test_every_row_is_used_or_counted_as_incomplete(self) -> None:
        score = judged()
        score[::7, 3] = np.nan
        facts = found(clean(of_raters(score), Cleaning()), "raters")
        assert (facts["rows_used"], facts["rows_incomplete"]) == (200 - 29, 29)

    def test_rounding_is_no_disagreement(self) -> None:
        rng = np.random.default_rng(0)
        exact = rng.random((60, 1)).round(2) + rng.random(6).round(2)
        for method in ("columns", "two_way"):
            assert clean(of_raters(exact), Cleaning(method=method)).proposals.is_empty()

    def test_names_of_columns_are_names_of_raters_too(self) -> None:
        held = of_raters(judged(raters=3))
        named = held.scores.with_columns(pl.col("rater").replace({"j0": "prompt_id", "j1": "response_id"}))
        assert clean(held._replace(scores=named), Cleaning()).facts["cases"][0]["outcome"] == "done"


class TestModels:
    def planted(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        score = rng.normal(size=(120, 1)) + np.linspace(0, 3, 9) + 0.2 * rng.normal(size=(120, 9))
        score[40, 4] += 8
        return score

    def test_a_wrong_cell_is_given_back_to_its_response(self) -> None:
        done = clean(of_models(self.planted()), Cleaning())
        (row,) = done.proposals.to_dicts()
        assert (row["prompt_id"], row["response_id"], row["rater"]) == ("p040", f"r{44 % 9}", "judge")
        assert (row["status"], row["case"]) == ("safe", "models")
        assert row["proposed"] == pytest.approx(row["old"] - 8, abs=1)

    def test_each_rater_is_a_matrix_of_its_own(self) -> None:
        both = pl.concat([of_models(self.planted(), name).scores for name in ("one", "two")])
        done = clean(no_evidence()._replace(scores=both), Cleaning(method="two_way"))
        of_each = done.proposals.filter(pl.col("case") == "models")
        assert of_each["rater"].to_list() == ["one", "two"]
        assert done.proposals.select(PROPOSALS.key).is_unique().all()

    def test_four_of_seventeen_models_are_enough_for_a_gross_cell(self) -> None:
        rng = np.random.default_rng(2)
        score = rng.normal(size=(400, 1)) + np.linspace(0, 3, 17) + 0.2 * rng.normal(size=(400, 17))
        hidden = np.argsort(rng.random(score.shape), axis=1) >= 4
        at = int(np.flatnonzero(~hidden[40])[0])
        score[40, at] += 9
        score[hidden] = np.nan
        done = clean(of_models(score), Cleaning())
        largest = done.proposals.row(0, named=True)
        assert (largest["prompt_id"], largest["old"]) == ("p040", pytest.approx(score[40, at]))

    def test_a_prompt_all_of_whose_scores_are_off_is_listed_apart(self) -> None:
        score = self.planted()
        score[7, :5] += (30, -30, 40, -40, 50)
        lines = found(clean(of_models(score), Cleaning()), "models")["rows_or_columns"]
        assert [(each["kind"], each["name"], each["reason"]) for each in lines] == [
            ("prompt", "p007", "row_or_column_effect")
        ]

    def test_interactions_are_explained_by_low_rank_where_columns_are_many(self) -> None:
        rng = np.random.default_rng(3)
        score = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 30)) * 2 + 0.1 * rng.normal(size=(150, 30))
        score[10, 10] += 15
        done = clean(of_models(score), Cleaning())
        assert found(done, "models")["used"] == "low_rank"
        top = done.proposals.row(0, named=True)
        assert (top["prompt_id"], top["response_id"], top["status"]) == ("p010", "r20", "safe")

    def test_rounding_is_no_error_of_a_model(self) -> None:
        rng = np.random.default_rng(0)
        exact = rng.random((60, 1)).round(2) + rng.random(6).round(2)
        assert clean(of_models(exact), Cleaning()).proposals.is_empty()
        exact[5, 2] += 1
        done = clean(of_models(exact), Cleaning())
        assert done.proposals.select("prompt_id", "response_id").rows() == [("p005", f"r{7 % 6}")]


class TestTheBar:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("shape", [of_raters, of_models])
    def test_doubling_it_never_flags_more(self, shape, seed: int) -> None:
        rng = np.random.default_rng(seed)
        score = judged(120, 6, seed=seed)
        score[rng.random(score.shape) < 0.03] += 6
        before: set | None = None
        for z0 in (1.5, 3.0, 6.0, 12.0):
            keys = set(clean(shape(score), Cleaning(z0=z0)).proposals.select(*(k for k in PROPOSALS.key)).iter_rows())
            assert before is None or keys <= before
            before = keys

    def test_a_low_bar_does_not_make_honest_cells_safe(self) -> None:
        done = clean(of_raters(judged(400)), Cleaning(z0=1.0))
        assert done.proposals.height > 400
        assert done.facts["safe"] <= 2


class TestApplied:
    def held(self) -> Evidence:
        score = judged()
        score[17, 2] += 9
        score[30, :3] += (9, -9, 12)
        score[50, 0] = np.nan
        return of_raters(score)

    def test_only_safe_cells_change_and_under_a_name_of_their_own(self) -> None:
        held = self.held()
        before = held.scores.clone()
        done = clean(held, Cleaning(method="two_way", apply="safe"))
        assert_frame_equal(held.scores, before)
        assert set(done.scores["rater"]) == {"j2.clean"}
        both = done.scores.join(
            before.filter(pl.col("rater") == "j2").select("prompt_id", "response_id", was="score"),
            on=["prompt_id", "response_id"],
        )
        assert both.height == 200
        changed = both.filter(pl.col("score").ne_missing(pl.col("was")))
        safe = done.proposals.filter(pl.col("status") == "safe")
        assert changed.select("prompt_id", "response_id").rows() == [("p004", "r1")]
        assert changed["score"].to_list() == safe["proposed"].to_list()
        assert "contested" in done.proposals["status"].to_list()

    def test_a_missing_score_stays_missing_and_says_why(self) -> None:
        score = judged()
        score[17, 2] += 9
        score[50, 2] = np.nan
        done = clean(of_raters(score), Cleaning(apply="safe")).scores
        (row,) = done.filter(pl.col("score").is_null()).to_dicts()
        assert (row["prompt_id"], row["response_id"], row["reason"]) == ("p012", "r2", "score_missing")

    def test_nothing_is_applied_unless_asked(self) -> None:
        done = clean(self.held(), Cleaning(method="two_way"))
        assert (done.scores.height, done.facts["applied"]) == (0, "none")
        assert done.facts["safe"] == 1


class TestNothingMovesIt:
    @pytest.mark.parametrize("shape", [of_raters, of_models])
    @pytest.mark.parametrize("method", ["auto", "two_way"])
    def test_the_order_of_the_rows(self, shape, method: str) -> None:
        score = judged(120, 6)
        score[17, 2] += 9
        held = shape(score)
        mixed = held._replace(scores=held.scores.sample(fraction=1.0, shuffle=True, seed=5))
        settings = Cleaning(method=method, z0=2.5)
        one, two = (clean(each, settings).proposals.sort(PROPOSALS.key) for each in (held, mixed))
        assert one.height > 3
        assert_frame_equal(one, two, check_exact=False, abs_tol=1e-9)

    def test_the_order_of_the_rows_where_ranks_are_chosen_by_chance(self) -> None:
        rng = np.random.default_rng(3)
        held = of_models(rng.normal(size=(60, 2)) @ rng.normal(size=(2, 24)) + 0.1 * rng.normal(size=(60, 24)))
        mixed = held._replace(scores=held.scores.sample(fraction=1.0, shuffle=True, seed=5))
        one, two = (found(clean(each, Cleaning()), "models") for each in (held, mixed))
        assert one["held_out"] == pytest.approx(two["held_out"])

    def test_the_names_of_the_raters(self) -> None:
        score = judged()
        score[17, 2] += 9
        names = {f"j{j}": f"x{9 - j}" for j in range(5)}
        held = of_raters(score)
        other = held._replace(scores=held.scores.with_columns(pl.col("rater").replace(names)))
        one, two = (clean(each, Cleaning(z0=2.5)).proposals for each in (held, other))
        renamed = one.with_columns(pl.col("rater").replace(names)).drop("evidence").sort(PROPOSALS.key)
        assert_frame_equal(renamed, two.drop("evidence").sort(PROPOSALS.key), check_exact=False, abs_tol=1e-6)


class TestNotConverged:
    @pytest.mark.parametrize(
        ("shape", "method", "name"), [(of_raters, "columns", "fit_columns"), (of_models, "two_way", "fit_two_way")]
    )
    def test_a_fit_that_does_not_settle_proposes_nothing(
        self, monkeypatch: pytest.MonkeyPatch, shape, method: str, name: str
    ) -> None:
        honest = getattr(matrix, name)

        def stuck(score):
            fit = honest(score)
            lost = {"converged_J": ~fit.converged_J} if name == "fit_columns" else {"converged": False}
            return fit._replace(**lost)

        monkeypatch.setattr(matrix, name, stuck)
        score = judged()
        score[17, 2] += 9
        done = clean(shape(score), Cleaning(method=method, apply="safe"))
        told = [each for each in done.facts["cases"] if "outcome" in each]
        assert {each["outcome"] for each in told} == {"not_converged"}
        assert (done.proposals.height, done.scores.height) == (0, 0)

    def test_a_low_rank_part_that_does_not_settle_proposes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from pairwright.errors import NotConverged

        def fails(*_: object, **__: object) -> None:
            raise NotConverged("it did not settle")

        monkeypatch.setattr(matrix, "split_low_rank", fails)
        rng = np.random.default_rng(3)
        done = clean(of_models(rng.normal(size=(60, 2)) @ rng.normal(size=(2, 24))), Cleaning(apply="safe"))
        assert "not_converged" in [each.get("outcome") for each in done.facts["cases"]]
        assert (done.proposals.height, done.scores.height) == (0, 0)
