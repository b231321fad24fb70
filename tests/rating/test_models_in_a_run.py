"""Judges, reward models and log-probabilities as raters of a run: the whole way from the recipe to the tables."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_causal import tiny_adapter, tiny_causal
from tiny_reward import tiny_reward, tiny_tokenizer

from pairwright import pipeline, wiring
from pairwright.backends.fake_endpoint import FakeEndpoint, Fault, chance
from pairwright.errors import BackendError, ConfigError, DataError
from pairwright.recipe import Asked, file_recipe
from pairwright.tables import COMPARISONS, JUDGEMENTS, LOGPS, conform

NOBODY = {"base_urls": "http://127.0.0.1:9/v1", "model": "x"}


def responses(folder: Path, *, prompts: int = 4, n: int = 4) -> Path:
    rows = [
        {"prompt": f"Name {p} ships.", "response": f"Ship {k} of the harbour" + " and more" * k}
        for p in range(prompts)
        for k in range(n)
    ]
    pl.DataFrame(rows).write_parquet(folder / "said.parquet")
    return folder / "said.parquet"


def score(file: Path, out: Path, *raters: object, allow_variant: bool = False, retry: bool = False) -> pl.DataFrame:
    recipe = file_recipe(file, Asked({"shards": 2}, list(raters), allow_variant), columns={}, layout=None)
    steps = wiring.steps(recipe, out)
    if retry:
        wiring.forget_failures(out, steps)
    pipeline.run(out, steps)
    return pl.read_parquet(out / "scores.parquet").sort("prompt_id", "response_id")


def table(out: Path, stage: str, name: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(each) for each in sorted((out / "stages" / stage).glob(f"{name}-*.parquet"))])


def told(out: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return held


def longer(body: dict[str, Any], _: int) -> str:
    """A judge with a rule: the longer reply is better; a reply alone gets a point per three words."""
    said = str(body["messages"][-1]["content"])
    shown = re.findall(r"begins -----\n(.*?)\n----- \w+ ends", said, re.S)[1:]
    if "Verdict" in said:
        return f"Verdict: {'A' if len(shown[0]) > len(shown[1]) else 'B'}"
    return f"I see. Score: {min(10, max(1, len(shown[0].split()) // 2))}"


def test_a_judge_scores_responses_and_its_words_are_kept(tmp_path: Path) -> None:
    with FakeEndpoint(reply=longer) as server:
        entry = {"rater": "judge", "endpoint": {"base_urls": server.url, "model": "fake"}}
        rows = score(responses(tmp_path), tmp_path / "run", entry)
        assert len(server.calls) == 16
        expected = [min(10, max(1, len(text.split()) // 2)) for text in rows["response"]]
        assert rows["judge"].to_list() == [float(each) for each in expected]
        judgements = conform(table(tmp_path / "run", "score-judge", "judgements"), JUDGEMENTS, where="run")
        assert judgements["reply"].str.starts_with("I see. Score:").all()
        assert judgements["request_id"].n_unique() == 16
        score(responses(tmp_path), tmp_path / "run", entry)
        assert len(server.calls) == 16


def test_moving_the_server_asks_nothing_again(tmp_path: Path) -> None:
    entry: dict[str, object] = {"rater": "judge"}
    with FakeEndpoint(reply=longer) as server:
        first = score(
            responses(tmp_path), tmp_path / "run", entry | {"endpoint": {"base_urls": server.url, "model": "fake"}}
        )
    moved = {"base_urls": "http://127.0.0.1:9/v1", "model": "fake", "concurrency": 3, "timeout_s": 1.0}
    assert score(responses(tmp_path), tmp_path / "run", entry | {"endpoint": moved}).equals(first)


def test_a_pairwise_judge_is_asked_in_both_orders_and_unswapped(tmp_path: Path) -> None:
    with FakeEndpoint(reply=longer) as server:
        entry = {"rater": "judge", "mode": "pairwise", "endpoint": {"base_urls": server.url, "model": "fake"}}
        rows = score(responses(tmp_path), tmp_path / "run", entry)
        assert len(server.calls) == 4 * 6 * 2
    assert rows["judge"].to_list() == pytest.approx([0, 1 / 3, 2 / 3, 1] * 4)
    comparisons = conform(pl.read_parquet(tmp_path / "run/comparisons.parquet"), COMPARISONS, where="run")
    lengths = dict(
        rows.select(pl.concat_str("prompt_id", "response_id"), pl.col("response").str.len_chars()).iter_rows()
    )
    for row in comparisons.iter_rows(named=True):
        left, right = (lengths[row["prompt_id"] + row[side]] for side in ("left_id", "right_id"))
        assert row["outcome"] == ("left" if left > right else "right")
    place = told(tmp_path / "run")["position"]["judge"]
    assert (place["n"], place["consistent"], place["share"]) == (24, 24, 0.5)


def test_a_judge_of_places_has_no_outcome_and_is_named(tmp_path: Path) -> None:
    """It always picks the response shown first: faulty tools chose the same side of every pair."""
    with FakeEndpoint(reply=lambda body, _: "Verdict: A") as server:
        entry = {"rater": "judge", "mode": "pairwise", "endpoint": {"base_urls": server.url, "model": "fake"}}
        rows = score(responses(tmp_path), tmp_path / "run", entry, "length")
    assert rows["judge"].null_count() == 16
    facts = told(tmp_path / "run")
    assert (facts["position"]["judge"]["first_both"], facts["position"]["judge"]["consistent"]) == (24, 0)
    assert any("order_inconsistent" in line for line in facts["advice"])
    assert table(tmp_path / "run", "score-judge", "scores")["reason"].unique().to_list() == ["order_inconsistent"]


def test_what_cannot_be_read_is_null_and_never_the_worst(tmp_path: Path) -> None:
    def reply(body: dict[str, Any], _: int) -> str:
        return "I cannot rate this." if "Ship 2" in str(body["messages"]) else longer(body, 0)

    with FakeEndpoint(reply=reply) as server:
        entry = {"rater": "judge", "endpoint": {"base_urls": server.url, "model": "fake"}}
        rows = score(responses(tmp_path), tmp_path / "run", entry)
    assert rows.filter(pl.col("judge").is_null())["response"].str.contains("Ship 2").sum() == 4
    judgements = table(tmp_path / "run", "score-judge", "judgements")
    kept = judgements.filter(pl.col("reason") == "judge_unparsed")["reply"]
    assert kept.to_list() == ["I cannot rate this."] * 4


def test_a_judge_that_fails_now_and_then_loses_and_doubles_nothing(tmp_path: Path) -> None:
    faults = [Fault("500", share=0.3), Fault("cut", share=0.2), Fault("garbage", share=0.2), Fault("empty", share=0.2)]
    with FakeEndpoint(reply=longer, faults=faults) as server:
        endpoint = {"base_urls": server.url, "model": "fake", "retries": 8}
        rows = score(responses(tmp_path, prompts=10), tmp_path / "run", {"rater": "judge", "endpoint": endpoint})
        assert rows["judge"].null_count() == 0
        assert len(server.calls) > 40
        assert set(server.answered.values()) == {1}


def test_calls_that_failed_for_good_are_asked_again_on_retry_alone(tmp_path: Path) -> None:
    def broken(body: dict[str, Any], _: int) -> str:
        return longer(body, 0)

    entry = {"rater": "judge", "endpoint": {"model": "fake", "retries": 0}}
    file, out = responses(tmp_path), tmp_path / "run"
    with FakeEndpoint(reply=broken, faults=[Fault("500", tries=99, text="Ship 1")]) as server:
        entry["endpoint"] = {"model": "fake", "retries": 0, "base_urls": server.url}
        assert score(file, out, entry)["judge"].null_count() == 4
        before = len(server.calls)
        assert score(file, out, entry)["judge"].null_count() == 4
        assert len(server.calls) == before
        server.faults = []
        assert score(file, out, entry, retry=True)["judge"].null_count() == 0
        assert len(server.calls) == before + 4


def test_the_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with FakeEndpoint(reply=longer, faults=[Fault("echo", share=0.5)]) as server:
        endpoint = {"base_urls": server.url, "model": "fake", "api_key_env": "JUDGE_KEY"}
        score(responses(tmp_path), tmp_path / "run", {"rater": "judge", "endpoint": endpoint})
        assert server.keys == {"Bearer sk-very-secret"}
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes(), path


def test_a_reward_server_is_a_rater(tmp_path: Path) -> None:
    with FakeEndpoint(reward=lambda text: float(len(text)) / 7) as server:
        entry = {"rater": "reward_endpoint", "endpoint": {"base_urls": server.url, "model": "fake"}}
        rows = score(responses(tmp_path), tmp_path / "run", entry)
    assert rows["reward_endpoint"].to_list() == pytest.approx([len(text) / 7 for text in rows["response"]])


def test_an_endpoint_samples(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"Say {i} words about rivers."}) for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    with FakeEndpoint(faults=[Fault("half", share=0.5), Fault("429", share=0.3)]) as server:
        text = (
            "prompts: prompts.jsonl\nshards: 2\n"
            f"sample: {{backend: openai, model: fake, n: 6, endpoint: {{base_urls: '{server.url}'}}}}\n"
            "score: [length]\npair: {rejected: min, min_gap: 0, unfinished: keep}\n"
        )
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = wiring.read_recipe(tmp_path / "recipe.yaml")
        pipeline.run(tmp_path / "run", wiring.steps(recipe, tmp_path / "run"))
        calls = len(server.calls)
        pipeline.run(tmp_path / "run", wiring.steps(recipe, tmp_path / "run"))
        assert len(server.calls) == calls
    said = table(tmp_path / "run", "sample", "responses")
    assert said.height == 30
    assert said["source"].unique().to_list() == ["fake"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"rater": "judge"}, "lacks: endpoint"),
        ({"rater": "judge", "endpoint": {"model": "x"}}, "base_urls"),
        ({"rater": "judge", "endpoint": NOBODY, "drows": 2}, "unknown: drows"),
        ({"rater": "judge", "endpoint": NOBODY, "rubric": {"aspects": ["beauty"]}}, "unknown aspect"),
        ({"rater": "implicit", "policy": "here"}, "name a reference, or the adapter"),
        ({"rater": "reward_model"}, "lacks: model"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, entry: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        score(responses(tmp_path), tmp_path / "run", entry)


def test_a_reward_model_proves_itself_and_its_proof_is_on_record(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tiny_reward(tmp_path / "rm")
    rows = score(responses(tmp_path), tmp_path / "run", {"rater": "reward_model", "name": "rm", "model": str(model)})
    assert rows["rm"].null_count() == 0
    assert rows["rm"].n_unique() > 8
    about = told(tmp_path / "run")["about"]["rm"]
    assert about["self_test"]["ok"] is True
    assert about["padding"]["side"] == "right"


def test_a_reward_model_without_a_template_writes_no_row(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tiny_reward(tmp_path / "rm", tokenizer=tiny_tokenizer(template=None))
    with pytest.raises(BackendError, match="missing_template"):
        score(responses(tmp_path), tmp_path / "run", {"rater": "reward_model", "model": str(model)})
    assert not list((tmp_path / "run/stages/score-reward_model").glob("scores-*.parquet"))


def test_an_adapter_against_its_own_base_is_an_implicit_reward(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = tiny_causal(tmp_path / "model")
    adapter = tiny_adapter(tmp_path / "adapter", model)
    entry = {"rater": "implicit", "policy": str(model), "adapter": str(adapter), "dtype": "float32", "max_length": 512}
    rows = score(
        responses(tmp_path),
        tmp_path / "run",
        entry,
        {"rater": "logp", "model": str(model), "dtype": "float32", "max_length": 512},
    )
    logps = conform(pl.read_parquet(tmp_path / "run/logps.parquet"), LOGPS, where="run")
    assert logps.height == 32  # two models, each response once, though two raters asked for the bare one
    assert logps["model_hash"].n_unique() == 2
    wide = logps.pivot("model", index=["prompt_id", "response_id"], values="logp").sort("prompt_id", "response_id")
    policy, bare = wide[f"{model} + {adapter}"], wide[str(model)]
    assert rows["implicit"].to_list() == pytest.approx((policy - bare).to_list(), abs=1e-9)
    assert rows["logp"].to_list() == pytest.approx(bare.to_list(), abs=1e-3)
    assert rows["implicit"].abs().max() > 0.01


def test_two_models_in_turn_and_two_templates_never(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    one, two = tiny_causal(tmp_path / "one"), tiny_causal(tmp_path / "two", seed=5)
    entry = {"rater": "implicit", "policy": str(one), "reference": str(two), "dtype": "float32", "max_length": 512}
    rows = score(responses(tmp_path), tmp_path / "run", entry)
    back = score(responses(tmp_path), tmp_path / "back", entry | {"policy": str(two), "reference": str(one)})
    assert rows["implicit"].to_list() == pytest.approx((-back["implicit"]).to_list())
    other = tiny_causal(tmp_path / "other", template="{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    with pytest.raises(DataError, match="tokenised differently"):
        score(responses(tmp_path), tmp_path / "third", entry | {"reference": str(other)})


def test_two_raters_of_a_kind_have_two_names(tmp_path: Path, pairwright: Callable[..., Any]) -> None:
    with FakeEndpoint(reply=lambda body, _: f"Score: {1 + int(10 * chance(str(body)))}") as server:
        entry = f"{{rater: judge, endpoint: {{base_urls: '{server.url}', model: fake}}"
        done = pairwright(
            "score", responses(tmp_path), "-o", tmp_path / "run",
            "--rater", f"{entry}, name: one}}", "--rater", f"{entry}, name: two, seed: 1}}", "--rater", "length", "--json",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [line["rater"] for line in found["raters"]] == ["one", "two", "length"]
    assert len(found["agreement"]) == 3


def test_more_draws_more_pairs_and_more_aspects_ask_for_themselves_alone(tmp_path: Path) -> None:
    file, out = responses(tmp_path), tmp_path / "run"
    with FakeEndpoint() as server:
        endpoint = {"base_urls": server.url, "model": "fake"}
        entry = {"rater": "judge", "endpoint": endpoint, "temperature": 0.7}
        score(file, out, entry)
        score(file, out, entry | {"draws": 3})
        assert len(server.calls) == 48
        score(file, out, entry | {"draws": 3, "name": "another"})
        assert len(server.calls) == 48
        rubric = {"aspects": ["helpfulness"]}
        score(file, out, entry | {"rubric": rubric})
        score(file, out, entry | {"rubric": {"aspects": ["helpfulness", "honesty"]}})
        assert len(server.calls) == 48 + 16 + 16
        pairs = {"rater": "judge", "endpoint": endpoint, "mode": "pairwise"}
        score(file, out, pairs | {"max_pairs": 2})
        assert len(server.calls) == 80 + 4 * 2 * 2
        score(file, out, pairs)
        assert len(server.calls) == 80 + 4 * 6 * 2


def test_a_failed_item_has_a_row_under_every_head_and_hides_none(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tiny_reward(tmp_path / "rm", num_labels=2)
    rows = [{"prompt": f"Name {p} ships.", "response": "word " * (300 if p == 1 else 3)} for p in range(5)]
    pl.DataFrame(rows).write_parquet(tmp_path / "said.parquet")
    entry = {"rater": "reward_model", "name": "rm", "model": str(model), "heads": ["help", "safe"], "max_length": 100}
    score(tmp_path / "said.parquet", tmp_path / "run", entry)
    facts = told(tmp_path / "run")
    assert [(line["rater"], line["n"], line["nulls"]) for line in facts["raters"]] == [
        ("rm.help", 4, {"too_long": 1}), ("rm.safe", 4, {"too_long": 1})
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["prompt_id", "response", "source", "comparisons"])
def test_the_name_of_a_column_is_no_name_for_a_rater(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="that of a column"):
        score(responses(tmp_path), tmp_path / "run", {"rater": "length", "name": name})


def test_scores_alone_leave_drops_manifest_and_page(tmp_path: Path) -> None:
    score(responses(tmp_path), tmp_path / "run", "rules", "length")
    dropped = pl.read_parquet(tmp_path / "run/dropped.parquet")
    assert dropped["reason"].to_list() == ["no_checks_declared"] * 16
    assert json.loads((tmp_path / "run/manifest.json").read_text())["settings"]["score"][1]["name"] == "length"
    assert "Do they agree?" in (tmp_path / "run/report.html").read_text()
