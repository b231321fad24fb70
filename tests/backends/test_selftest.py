"""The self-test against planted defects: each is found and named, and nothing is found where nothing is wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_reward import DECODERS, tiny_reward, tiny_tokenizer

from pairwright.backends.selftest import Options, Probe, Scorer, Special, padded, refuse, self_test
from pairwright.errors import BackendError, DataError

EOS, PAD, BOS = 1, 2, 3
SPECIAL = Special(PAD, EOS, BOS)
SAME = Special(EOS, EOS, BOS)  # padding is EOS
KINDS = pytest.mark.parametrize("kind", DECODERS)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def probes(*, bos: int = 1, eos: int = 1) -> list[Probe]:
    """Texts of 4 to 61 tokens that begin with BOS and end with EOS."""
    rng = np.random.default_rng(5)
    words = {f"text{n}": rng.integers(4, 300, n).tolist() for n in (2, 7, 23, 59)}
    return [Probe(name, [BOS] * bos + ids + [EOS] * eos) for name, ids in words.items()]


Models = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """models(kind, dtype, ...) loads a tiny model, made once."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from pairwright.backends.hf import quiet

    made: dict[str, Any] = {}

    def get(kind: str, dtype: str, **config: Any) -> Any:
        key = f"{kind}-{dtype}-{sorted(config.items())}"
        if key not in made:
            folder = tiny_reward(tmp_path_factory.mktemp("model"), kind, dtype=dtype, **config)
            with quiet():
                model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
            made[key] = model.eval()
        return made[key]

    yield get


def call(model: Any, ids: np.ndarray, mask: np.ndarray | None = None, **more: Any) -> np.ndarray:
    """Logits by the model's own read-out."""
    import torch

    tensors = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in more.items()}
    masked = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids), **masked, **tensors).logits.float().numpy()


def positions(mask: np.ndarray) -> np.ndarray:
    return np.maximum(mask.cumsum(axis=1) - 1, 0)


def healthy(model: Any) -> Scorer:
    return lambda ids, mask: call(model, ids, mask, position_ids=positions(mask))


def without_mask(model: Any) -> Scorer:
    return lambda ids, _: call(model, ids)


def left_without_mask(model: Any) -> Scorer:
    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = [row[seen == 1] for row, seen in zip(ids, mask, strict=True)]
        return call(model, padded(rows, width=ids.shape[1], pad=PAD, left=True)[0])

    return scorer


def without_positions(model: Any) -> Scorer:
    return lambda ids, mask: call(model, ids, mask)


def softmaxed(model: Any) -> Scorer:
    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        raised = np.exp(healthy(model)(ids, mask))
        return raised / raised.sum(axis=1, keepdims=True)

    return scorer


def noisy(model: Any) -> Scorer:
    """What a text scores depends on how many there are."""
    return lambda ids, mask: healthy(model)(ids, mask) + 0.5 * (len(ids) > 1)


def last_column(model: Any) -> Scorer:
    """Reads the last column, whatever stands there."""
    import torch

    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            body = getattr(model, model.base_model_prefix)
            hidden = body(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
            return model.score(hidden[:, -1]).float().numpy()

    return scorer


DEFECTS: dict[str, tuple[Callable[[Any], Scorer], str]] = {
    "missing mask": (without_mask, "padding_variant_scores"),
    "left padding without mask": (left_without_mask, "batch_variant_scores"),
    "softmax over one logit": (softmaxed, "softmaxed_single_logit"),
    "noise that depends on the batch": (noisy, "batch_variant_scores"),
    "last column": (last_column, "batch_variant_scores"),
}


def run(scorer: Scorer, dtype: str = "float32", special: Special = SPECIAL, **options: Any) -> Any:
    return self_test(scorer, probes(), special, Options(dtype=dtype, **options))


@KINDS
@DTYPES
class TestTinyModels:
    def test_a_healthy_model_has_no_finding(self, models: Models, kind: str, dtype: str) -> None:
        test = run(healthy(models(kind, dtype)), dtype)
        assert test.findings == ()
        assert test.ok
        assert test.largest < test.tolerance[0]
        assert set(test.scores) == {"alone", "batched", "right", "left", "extra"}

    @pytest.mark.parametrize("defect", DEFECTS)
    def test_a_planted_defect_is_named(self, models: Models, kind: str, dtype: str, defect: str) -> None:
        build, code = DEFECTS[defect]
        test = run(build(models(kind, dtype)), dtype)
        assert code in test.codes
        assert not test.ok

    def test_three_outputs_without_names_are_named_as_such(self, models: Models, kind: str, dtype: str) -> None:
        model = models(kind, dtype, num_labels=3)
        assert run(healthy(model), dtype, heads=None).codes == ("head_not_named",)
        assert run(healthy(model), dtype, heads=("a", "b")).codes == ("head_not_named",)
        assert run(healthy(model), dtype, heads=("a", "b", "c")).findings == ()

    def test_a_read_out_that_takes_eos_for_padding_is_named(self, models: Models, kind: str, dtype: str) -> None:
        model = models(kind, dtype, pad_token_id=EOS)
        test = run(healthy(model), dtype, SAME)
        assert test.codes == ("pad_is_eos",)
        assert not test.ok
        assert run(healthy(model), dtype, SAME, readout="model").ok  # as the user asked for

    def test_a_doubled_bos_is_named_with_both_numbers(self, models: Models, kind: str, dtype: str) -> None:
        scorer = healthy(models(kind, dtype))
        (found,) = self_test(scorer, probes(bos=2), SPECIAL, Options(dtype=dtype)).findings
        once = self_test(scorer, probes(), SPECIAL, Options(dtype=dtype)).scores["alone"][""][0]
        assert (found.code, found.probe, found.changes) == ("doubled_bos", "text2", True)
        assert found.numbers is not None
        assert found.numbers[1] == pytest.approx(once, abs=1e-5 if dtype == "float32" else 0.02)
        assert found.numbers[0] != found.numbers[1]


@DTYPES
@pytest.mark.parametrize("bias", [-12.0, 0.0, 12.0])
@pytest.mark.parametrize("seed", range(3))
def test_an_offset_that_all_scores_share_hides_no_missing_mask(
    models: Models, dtype: str, bias: float, seed: int
) -> None:
    """Of an encoder, whose head computes in the dtype of its body."""
    import torch

    model = models("bert", dtype, seed=seed)
    before = model.classifier.bias.detach().clone()
    with torch.no_grad():
        model.classifier.bias.fill_(bias)
    try:
        good = run(lambda ids, mask: call(model, ids, mask), dtype, left=False)
        bad = run(without_mask(model), dtype, left=False)
    finally:
        with torch.no_grad():
            model.classifier.bias.copy_(before)
    assert good.findings == ()
    assert "padding_variant_scores" in bad.codes
    assert not bad.ok


@KINDS
@DTYPES
@pytest.mark.parametrize("seed", range(1, 4))
def test_nothing_is_found_under_other_seeds_and_several_heads(models: Models, kind: str, dtype: str, seed: int) -> None:
    model = models(kind, dtype, num_labels=3, seed=seed)
    assert run(healthy(model), dtype, heads=("a", "b", "c")).findings == ()


def test_absolute_positions_need_counting_from_the_text_when_padding_stands_before_it(models: Models) -> None:
    assert run(without_positions(models("gpt2", "float32"))).codes == ("padding_variant_scores",)
    assert run(without_positions(models("llama", "float32"))).ok  # rotary positions are relative


def test_left_padding_may_be_left_out_of_the_test(models: Models) -> None:
    assert run(without_positions(models("gpt2", "float32")), left=False).findings == ()


def last_seen(value: Callable[[np.ndarray], np.ndarray]) -> Scorer:
    """A model without memory: the value of the last token that the mask shows."""

    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        at = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        return value(ids[np.arange(len(ids)), at].astype(float))

    return scorer


def visible_mean(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (ids * mask).sum(axis=1) / mask.sum(axis=1)


TWO = [Probe("t0", [4, 4]), Probe("t1", [6, 6, 6, 6])]
NONE = Special(0, None, None)


def test_a_mean_over_padding_is_a_score_that_moves_with_the_batch() -> None:
    """F08."""
    test = self_test(lambda ids, _: ids.mean(axis=1), TWO, NONE, Options(left=False))
    found = test.findings[0]
    assert (found.code, found.probe, found.numbers) == ("batch_variant_scores", "t0", (4.0, 2.0))
    assert ("t0", "t1", "batched") not in test.flips
    with pytest.raises(BackendError, match=r"batch_variant_scores: probe t0: 4 alone, 2 batched"):
        refuse(test, "stub", allow_variant=False)
    refuse(test, "stub", allow_variant=True)
    kept = self_test(visible_mean, TWO, NONE)
    assert kept.ok
    assert kept.scores["batched"][""] == (4.0, 6.0)


def test_a_difference_of_a_thousandth_stops_a_float32_model() -> None:
    def off(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return visible_mean(ids, mask) + 0.0011 * (len(ids) > 1)

    assert not self_test(off, TWO, NONE).ok
    assert self_test(off, TWO, NONE, Options(dtype="bfloat16")).ok


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 20_000.0), ("bfloat16", -12.0), ("float16", 500.0)])
def test_a_shift_is_held_against_what_separates_texts_not_against_their_offset(dtype: str, offset: float) -> None:
    def shifted(by: float) -> Scorer:
        return lambda ids, mask: visible_mean(ids, mask) + offset + by * (len(ids) > 1)

    assert self_test(shifted(0.0), TWO, NONE, Options(dtype=dtype)).ok
    test = self_test(shifted(1.0), TWO, NONE, Options(dtype=dtype))
    assert test.codes == ("batch_variant_scores", "padding_variant_scores")


@pytest.mark.parametrize(("dtype", "step"), [("bfloat16", 0.0625), ("float16", 2**-7)])
def test_the_last_digit_of_a_coarse_head_may_differ_and_the_last_but_one_may_not(dtype: str, step: float) -> None:
    def rounded(steps: int) -> Scorer:
        return lambda ids, mask: 12 + 3 * step * (visible_mean(ids, mask) > 5) + steps * step * (len(ids) > 1)

    assert self_test(rounded(1), TWO, NONE, Options(dtype=dtype)).ok
    assert not self_test(rounded(2), TWO, NONE, Options(dtype=dtype)).ok
    fine = self_test(lambda ids, mask: rounded(1)(ids, mask) + 1e-4, TWO, NONE, Options(dtype=dtype))
    assert not fine.ok  # these digits are of a float32 head


def test_each_head_is_held_against_its_own_range() -> None:
    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        score = visible_mean(ids, mask)
        return np.stack([10_000 * score, score + 0.5 * (len(ids) > 1)], axis=1)

    test = self_test(scorer, TWO, NONE, Options(heads=("wide", "narrow")))
    assert not test.ok
    assert test.findings[0].message.startswith("probe t0 (head narrow): 4 alone, 4.5 batched")
    assert test.tolerance[0] > 1000 * test.tolerance[1]


def test_texts_that_tell_apart_by_rounding_alone_are_constant() -> None:
    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return 5024 + 32.0 * (visible_mean(ids, mask) > 5)

    assert self_test(scorer, TWO, NONE, Options(dtype="bfloat16")).codes == ("constant_scores",)
    assert self_test(scorer, TWO, NONE, Options(dtype="float32")).ok


def test_texts_that_change_places_over_more_than_rounding_are_refused() -> None:
    """Each moves by less than the tolerance, together by more."""
    move = {4: 0.0, 5: 0.15, 6: -0.15, 14: 0.0}
    score = {4: 0.0, 5: 1.001, 6: 1.001, 14: 2.0}

    def scorer(gap: float) -> Scorer:
        def shifted(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            first = ids.max(axis=1)
            return np.array([score[at] + gap * (at == 6) + move[at] * (len(ids) > 1) for at in first.tolist()])

        return shifted

    given = [Probe(f"t{at}", [at] * n) for n, at in enumerate(score, start=2)]
    test = self_test(scorer(0.25), given, NONE, Options(dtype="bfloat16"))
    assert test.codes == ("batch_variant_scores", "padding_variant_scores")
    assert test.findings[0].message.startswith("probes t5 and t6 change places: -0.25 apart alone, 0.05 batched")
    assert not test.ok
    close = self_test(scorer(0.15), given, NONE, Options(dtype="bfloat16"))
    assert close.flips  # on record
    assert close.ok


def by_position(at: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Scorer:
    """Scores ten times the place, counted from the first token that is no padding, that a rule reads at."""

    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        places = np.array([at(row, seen) for row, seen in zip(ids, mask, strict=True)])
        return 10.0 * (places % ids.shape[1] - mask.argmax(axis=1))  # -1 is the last column

    return scorer


READOUTS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Any], float, bool]] = {
    "last attended": (lambda _, seen: np.flatnonzero(seen)[-1], 50.0, True),
    "rightmost that is no padding": (lambda row, _: np.flatnonzero(row != 1)[-1], 40.0, False),
    "first padding minus one": (lambda row, _: np.argmax(row == 1) - 1, 10.0, False),
}


@pytest.mark.parametrize("rule", READOUTS)
def test_with_padding_as_eos_the_score_is_read_at_the_last_token_or_refused(rule: str) -> None:
    """F09."""
    at, score, good = READOUTS[rule]
    ids = [11, 12, 1, 21, 22, 1]
    given = [Probe("row0", ids), Probe("row1", [5, *ids]), Probe("row2", ids[:3])]
    test = self_test(by_position(at), given, Special(1, 1, None))
    assert test.scores["alone"][""][0] == score
    assert "pad_is_eos" in test.codes
    assert test.ok is good


def test_padding_as_eos_without_a_declared_readout_is_refused_where_the_two_differ() -> None:
    last = by_position(READOUTS["last attended"][0])
    early = by_position(READOUTS["rightmost that is no padding"][0])
    given = [Probe("row0", [11, 12, 1]), Probe("row1", [11, 12, 13, 14, 1])]
    undeclared = self_test(last, given, SAME, Options(readout="auto", other=early))
    assert [each.code for each in undeclared.findings] == ["pad_is_eos"]
    assert undeclared.findings[0].numbers == (20.0, 10.0)
    assert "readout: model" in undeclared.findings[0].message
    assert not undeclared.ok
    assert self_test(last, given, SAME, Options(readout="last_attended", other=early)).ok
    elsewhere = [Probe("row0", [11, 12, 1, 7]), Probe("row1", [11, 12, 13, 14, 7])]  # texts that end with another token
    assert self_test(last, elsewhere, SAME, Options(readout="auto", other=early)).ok


def test_a_readout_that_disagrees_with_the_model_is_refused() -> None:
    test = self_test(last_seen(lambda x: x), TWO, NONE, Options(other=lambda ids, mask: 2 * visible_mean(ids, mask)))
    assert test.codes == ("readout_differs",)
    assert test.findings[0].numbers == (6.0, 12.0)
    assert not test.ok


def test_a_softmax_over_one_logit_is_named_and_constant_scores_are_another_thing() -> None:
    """F10."""
    ones = self_test(lambda ids, _: np.ones((len(ids), 1)), probes(), SPECIAL)
    assert ones.codes == ("softmaxed_single_logit",)
    assert not ones.ok
    same = self_test(lambda ids, _: np.full(len(ids), 0.31), probes(), SPECIAL)
    assert same.codes == ("constant_scores",)
    assert not same.ok
    one_of_two = self_test(
        lambda ids, mask: np.stack([visible_mean(ids, mask), np.full(len(ids), 0.5)], axis=1),
        probes(),
        SPECIAL,
        Options(heads=("a", "b")),
    )
    assert one_of_two.codes == ("constant_scores",)
    assert one_of_two.ok  # one head of two says nothing; the other does
    assert "(b)" in one_of_two.findings[0].message


@pytest.mark.parametrize(
    ("shape", "heads", "code"),
    [((-1, 1), ("",), None), ((-1,), ("",), None), ((-1, 2), None, "head_not_named"), ((-1, 2), ("a", "b"), None)],
)
def test_logits_may_be_flat_or_a_column_and_several_need_names(shape: Any, heads: Any, code: str | None) -> None:
    """F11."""

    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        score = visible_mean(ids, mask)
        return np.stack([score, -score], axis=1) if shape == (-1, 2) else score.reshape(shape)

    test = self_test(scorer, TWO, NONE, Options(heads=heads))
    assert test.codes == ((code,) if code else ())
    if code:
        with pytest.raises(BackendError, match="head_not_named"):
            refuse(test, "stub", allow_variant=True)  # nothing to call the scores


def test_an_infinite_score_is_named_and_nothing_else_is_said() -> None:
    for bad in (np.nan, np.inf):
        test = self_test(lambda ids, mask, bad=bad: np.where(mask.sum(axis=1) > 9, bad, ids[:, 1]), probes(), SPECIAL)
        assert test.codes == ("not_finite",)
        assert test.findings[0].probe == "text23"
        assert test.told()["scores"]["alone"][""][2] is None
        assert not test.ok


def test_no_padding_token_is_recorded_and_refused_where_the_model_reads_by_it() -> None:
    lacks = Special(None, EOS, None)
    ours = self_test(visible_mean, TWO, lacks)
    assert (ours.codes, ours.ok) == (("missing_pad_token",), True)
    assert not self_test(visible_mean, TWO, lacks, Options(readout="model")).ok


def test_flips_name_the_texts_whose_order_depends_on_the_way() -> None:
    def scorer(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return visible_mean(ids, mask) * (-1 if len(ids) > 1 else 1)

    test = self_test(scorer, TWO, NONE)
    assert ("t0", "t1", "batched") in test.flips
    assert ("t0", "t1", "right") not in test.flips
    assert test.largest == 12.0


def test_the_record_is_plain_values() -> None:
    import json

    told = self_test(visible_mean, TWO, NONE).told()
    assert json.loads(json.dumps(told))["scores"]["left"] == {"": [4.0, 6.0]}
    assert told["ok"] is True


def test_one_text_shows_no_batch() -> None:
    with pytest.raises(DataError, match="two probes"):
        self_test(visible_mean, TWO[:1], NONE)


def test_padding_stands_where_it_should_and_the_mask_says_so() -> None:
    ids, mask = padded([[5, 6], [7]], width=3, pad=9, left=True)
    assert ids.tolist() == [[9, 5, 6], [9, 9, 7]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert padded([[5, 6], [7]], width=3, pad=9)[0].tolist() == [[5, 6, 9], [7, 9, 9]]


def test_the_tokenizer_of_the_tiny_models_has_the_ids_used_here(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(bos="<s>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (EOS, PAD, BOS)
