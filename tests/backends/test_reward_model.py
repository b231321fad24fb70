"""Reward models in process: the numbers are those of transformers alone, whatever the batch, or there is a reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_reward import CHATML, DECODERS, ENDS_WITH_EOS, KINDS, tiny_reward, tiny_tokenizer

from pairwright.backends import hf
from pairwright.backends import transformers as backend
from pairwright.backends.transformers import RewardModelSettings, TransformersReward
from pairwright.errors import BackendError, ConfigError, MissingDependency
from pairwright.protocols import Item, Scored

NEAR = 1e-5
ASK = [{"role": "user", "content": "What is two plus two?"}]
WORDS = ["four", "five", "six", "because", "two", "plus", "is", "the", "ship", "harbour", "dawn", "数", "é"]


def items(n: int = 24, *, longest: int = 90) -> list[Item]:
    """Responses of 0 to `longest` words, in no order of length."""
    rng = np.random.default_rng(3)
    sizes = rng.permutation(np.linspace(0, longest, n).astype(int))
    texts = [" ".join(rng.choice(WORDS, size)) for size in sizes]
    return [Item(100 + i, ASK, text) for i, text in enumerate(texts)]


def reward(folder: Path, *, allow_variant: bool = False, **config: Any) -> TransformersReward:
    return TransformersReward(RewardModelSettings(str(folder), **config), allow_variant=allow_variant)


def alike(n: int) -> list[Item]:
    """Responses of nearly one length, which go into one batch."""
    return [Item(i, ASK, "harbour dawn " * 40 + f"{i:02}" + " four" * (i % 3)) for i in range(1000, 1000 + n)]


def by_key(scored: Any) -> dict[int, Scored]:
    told = list(scored)
    assert len({each.key for each in told}) == len(told)
    return {each.key: each for each in told}


def values(model: TransformersReward, given: list[Item], head: str = "") -> np.ndarray:
    told = by_key(model(given))
    return np.array([told[item.key].scores[head] for item in given])


def plain(folder: Path, given: list[Item], dtype: str = "float32") -> np.ndarray:
    """What a script writes that scores one text at a time, as it should be written; shape (I, H)."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    with hf.quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    rows = []
    for item in given:
        said = [*item.messages, {"role": "assistant", "content": item.response}]
        batch = tokenizer.apply_chat_template(said, tokenize=True, return_dict=True, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits.float()[0].numpy())
    return np.array(rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[str, Path] = {}

    def get(kind: str = "llama", **config: Any) -> Path:
        key = f"{kind}{sorted(config.items())}"
        if key not in made:
            made[key] = tiny_reward(tmp_path_factory.mktemp("model"), kind, **config)
        return made[key]

    return get


Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def llama(folders: Folders) -> TransformersReward:
    return reward(folders())


class TestNumbers:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_scores_are_those_of_transformers_at_batch_size_one(self, folders: Folders, kind: str) -> None:
        folder = folders(kind)
        given = items()
        np.testing.assert_allclose(values(reward(folder), given), plain(folder, given)[:, 0], atol=NEAR, rtol=0)

    @pytest.mark.parametrize("kind", DECODERS)
    @pytest.mark.parametrize("readout", ["auto", "model"])
    def test_three_named_heads_are_all_kept(self, folders: Folders, kind: str, readout: Any) -> None:
        folder = folders(kind, num_labels=3)
        model = reward(folder, heads=("help", "truth", "style"), readout=readout)
        given = items(8)
        expected = plain(folder, given)
        for h, head in enumerate(model.heads):
            np.testing.assert_allclose(values(model, given, head), expected[:, h], atol=NEAR, rtol=0)

    def test_scores_are_plain_floats_at_every_batch_size(self, llama: TransformersReward) -> None:
        """F11: two rows, one row, many rows."""
        for n in (1, 2, 5):
            assert [type(each.scores[""]) for each in llama(items(n))] == [float] * n

    def test_the_head_is_computed_in_float32_where_the_body_is_not(self, folders: Folders) -> None:
        """A bfloat16 head rounds scores to 8 bits: different texts become ties."""
        folder = folders(dtype="bfloat16")
        model, given = reward(folder), items()
        scores, rounded = values(model, given), plain(folder, given, "bfloat16")[:, 0]
        assert (model.about["dtype"], model.about["head_dtype"]) == ("bfloat16", "float32")
        np.testing.assert_allclose(scores, rounded, atol=0.05)
        low_bits = np.asarray(scores, np.float32).view(np.uint32) & 0xFFFF
        assert (low_bits != 0).any()
        assert not (np.asarray(rounded, np.float32).view(np.uint32) & 0xFFFF).any()

    def test_dtype_can_be_another_than_that_of_the_checkpoint(self, folders: Folders) -> None:
        assert reward(folders(), dtype="bfloat16").about["dtype"] == "bfloat16"
        assert reward(folders()).about["dtype"] == "float32"


class TestBatches:
    def test_batch_size_and_order_change_nothing(self, llama: TransformersReward) -> None:
        given = items(12, longest=40)
        expected = values(llama, given)

        @settings(max_examples=25, deadline=None)
        @given_(st.integers(1, 3000), st.permutations(range(len(given))))
        def check(batch_tokens: int, order: list[int]) -> None:
            other = with_settings(llama, batch_tokens=batch_tokens)
            found = values(other, [given[i] for i in order])
            np.testing.assert_allclose(found, expected[order], atol=NEAR, rtol=0)

        check()

    def test_batches_hold_to_the_budget_with_padding_counted(self, llama: TransformersReward) -> None:
        seen: list[tuple[int, int]] = []
        watched = with_settings(llama, batch_tokens=900)
        watch(watched, lambda ids: seen.append(ids.shape))
        by_key(watched([*items(), *alike(24)]))
        assert all(rows == 1 or rows * width <= 900 for rows, width in seen)
        assert max(rows for rows, _ in seen) > 3
        assert [width for _, width in seen] == sorted((width for _, width in seen), reverse=True)

    def test_little_padding_is_computed(self, llama: TransformersReward) -> None:
        """On a CPU padding costs as much as text: SmolLM2 took 21.5 s for what takes 12.0 without."""
        masks: list[np.ndarray] = []
        watched = with_settings(llama)
        logits = watched._logits
        watched._logits = lambda ids, mask: (masks.append(mask), logits(ids, mask))[1]  # type: ignore[method-assign]
        by_key(watched(items()))
        assert all(mask.mean(axis=1).min() >= 0.9 for mask in masks)
        assert len(masks) < len(items())

    def test_a_window_at_a_time_is_held(self, llama: TransformersReward, monkeypatch: pytest.MonkeyPatch) -> None:
        given = items()
        whole = values(llama, given)
        monkeypatch.setattr(backend, "WINDOW", 5)
        stream = llama(given)
        assert {next(stream).key for _ in range(5)} == {item.key for item in given[:5]}
        np.testing.assert_allclose(values(llama, given), whole, atol=NEAR, rtol=0)

    def test_equal_texts_are_scored_once_and_equal(self, llama: TransformersReward) -> None:
        seen: list[int] = []
        watched = with_settings(llama)
        watch(watched, lambda ids: seen.append(len(ids)))
        given = [item._replace(key=k) for k, item in enumerate([*items(6), *items(6)])]
        scores = values(watched, given)
        assert sum(seen) == 6
        assert scores[:6].tolist() == scores[6:].tolist()

    def test_no_items_are_no_scores(self, llama: TransformersReward) -> None:
        assert list(llama([])) == []

    @pytest.mark.parametrize("readout", ["last_attended", "model"])
    def test_padding_is_on_the_right_and_the_model_is_given_the_mask(self, folders: Folders, readout: Any) -> None:
        model = reward(folders(), readout=readout)
        calls: list[tuple[Any, dict[str, Any]]] = []
        body = model._model.model
        hook = body.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        by_key(model(alike(4)))
        hook.remove()
        ((args, call),) = calls
        mask, ids = call["attention_mask"].numpy(), (args[0] if args else call["input_ids"]).numpy()
        assert mask[:, 0].all()
        assert (np.diff(mask, axis=1) <= 0).all()
        assert not mask.all()
        assert (ids[mask == 0] == model.about["padding"]["token"]).all()  # type: ignore[index]


def given_(*strategies: Any) -> Any:
    return given(*strategies)


def with_settings(model: TransformersReward, **changed: Any) -> TransformersReward:
    """The same loaded model under other settings."""
    from copy import copy
    from dataclasses import replace

    other = copy(model)
    other.settings = replace(model.settings, **changed)
    return other


def watch(model: TransformersReward, see: Callable[[np.ndarray], object]) -> None:
    """Call `see` with the ids of every batch."""
    logits = model._logits

    def watched(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        see(ids)
        return logits(ids, mask)

    model._logits = watched  # type: ignore[method-assign]


class TestWhatCannotBeScored:
    def test_a_text_that_is_too_long_is_null_and_never_cut(self, folders: Folders) -> None:
        free = reward(folders())
        given = items()
        length = {
            item.key: len(ids)  # type: ignore[arg-type]
            for item, ids in zip(given, free.encode([(i.messages, i.response) for i in given]), strict=True)
        }
        longest = sorted(length.values())[12]
        full = by_key(free(given))
        for limit in (longest - 1, longest):
            told = by_key(reward(folders(), max_length=limit)(given))
            for key, tokens in length.items():
                if tokens > limit:
                    assert told[key] == Scored(key, {}, f"too_long: {tokens} tokens > {limit}")
                else:
                    assert told[key].scores[""] == pytest.approx(full[key].scores[""], abs=NEAR)
            assert 0 < sum(each.reason is None for each in told.values()) < len(told)

    def test_the_limit_is_what_the_model_was_made_for(self, folders: Folders) -> None:
        assert reward(folders("gpt2")).max_length == 512
        (told,) = reward(folders("gpt2"))([Item(0, ASK, "word " * 900)])
        assert "too_long" in str(told.reason)
        with pytest.raises(ConfigError, match="beyond the 512 tokens"):
            reward(folders("gpt2"), max_length=513)

    @pytest.mark.parametrize("pad", ["<pad>", "<|im_start|>"])
    def test_a_model_whose_positions_begin_behind_the_padding_takes_fewer_tokens(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad: str
    ) -> None:
        """RoBERTa: the first token stands in row padding_idx + 1 of the table."""
        monkeypatch.setitem(KINDS, "roberta", ("Roberta", {**KINDS["bert"][1], "max_position_embeddings": 130}))
        tokenizer = tiny_tokenizer(pad=pad)
        folder = tiny_reward(tmp_path, "roberta", tokenizer=tokenizer)
        room = 130 - tokenizer.pad_token_id - 1
        model = reward(folder)
        assert model.max_length == model.about["max_length"] == room
        given = [Item(n, ASK, "z" * n) for n in range(40, 130)]
        tokens = [len(ids) for ids in model.encode([(item.messages, item.response) for item in given])]
        assert {room - 1, room, room + 1, 130, 131} <= set(tokens)
        told = by_key(model(given))
        for item, n in zip(given, tokens, strict=True):
            assert told[item.key].reason == (f"too_long: {n} tokens > {room}" if n > room else None)
        with pytest.raises(ConfigError, match=f"beyond the {room} tokens"):
            reward(folder, max_length=room + 1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_model_whose_positions_begin_at_the_first_row_takes_all_of_them(
        self, folders: Folders, kind: str
    ) -> None:
        assert reward(folders(kind)).max_length == 512

    def test_a_batch_that_does_not_fit_is_halved_until_it_does(self, llama: TransformersReward) -> None:
        sizes: list[int] = []
        given = alike(24)
        expected = values(llama, given)
        tight = out_of_memory(with_settings(llama), lambda ids: ids.shape[0] > 3, sizes)
        np.testing.assert_allclose(values(tight, given), expected, atol=NEAR, rtol=0)
        assert sizes[0] == 24
        assert sizes[:4] == [24, 12, 6, 3]
        assert sizes.count(24) == 1  # what did not fit is not tried again

    @pytest.mark.parametrize("plain_error", [False, True])
    def test_a_text_that_does_not_fit_alone_is_a_reason(self, llama: TransformersReward, plain_error: bool) -> None:
        given = items()
        wide = out_of_memory(with_settings(llama), lambda ids: ids.shape[1] > 150, [], plain_error=plain_error)
        told = by_key(wide(given))
        lost = [each for each in told.values() if each.reason]
        assert 0 < len(lost) < len(given)
        assert all(str(each.reason).startswith("out_of_memory: ") and not each.scores for each in lost)
        assert len(told) == len(given)

    def test_another_failure_is_not_taken_for_memory(self, llama: TransformersReward) -> None:
        broken = with_settings(llama)

        def fail(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        broken._logits = fail  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="mat1"):
            list(broken(items(3)))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_score_that_is_no_number_is_a_reason(self, llama: TransformersReward, bad: float) -> None:
        broken = with_settings(llama)
        logits = llama._logits
        broken._logits = lambda ids, mask: np.where(  # type: ignore[method-assign]
            mask.sum(axis=1, keepdims=True) > 100, bad, logits(ids, mask)
        )
        told = by_key(broken(items()))
        lost = [each for each in told.values() if each.reason]
        assert 0 < len(lost) < len(told)
        assert {each.reason for each in lost} == {"score_not_finite"}
        assert all(np.isfinite(each.scores[""]) for each in told.values() if not each.reason)

    def test_a_conversation_that_the_template_refuses_is_a_reason(self, folders: Folders, tmp_path: Path) -> None:
        strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
        model = reward(tiny_reward(tmp_path, tokenizer=tiny_tokenizer(template=strict)))
        given = [Item(0, [{"role": "system", "content": "Be brief."}, *ASK], "Four."), Item(1, ASK, "Four.")]
        told = by_key(model(given))
        assert told[0] == Scored(0, {}, "template_failed: no system role")
        assert told[1].scores

    def test_a_token_beyond_the_embedding_is_a_reason(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["zzyzx"])
        model = reward(tiny_reward(tmp_path, tokenizer=tokenizer, vocab_size=len(tokenizer) - 1))
        told = by_key(model([Item(0, ASK, "zzyzx"), Item(1, ASK, "Four.")]))
        assert str(told[0].reason).startswith("token_unknown_to_model")
        assert told[1].scores


def out_of_memory(
    model: TransformersReward, when: Callable[[np.ndarray], bool], sizes: list[int], *, plain_error: bool = False
) -> TransformersReward:
    """The model with an allocator that gives up, in the way of a GPU or of a CPU."""
    import torch

    def see(ids: np.ndarray) -> None:
        sizes.append(len(ids))
        if when(ids):
            if plain_error:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch(model, see)
    return model


class TestTemplate:
    def test_bos_is_written_once_although_the_tokenizer_adds_it_too(self, tmp_path: Path) -> None:
        """F12."""
        tokenizer = tiny_tokenizer(template="{{ bos_token }}" + CHATML, bos="<s>")
        assert tokenizer("Hi")["input_ids"][0] == tokenizer.bos_token_id
        model = reward(tiny_reward(tmp_path, tokenizer=tokenizer))
        (ids,) = model.encode([(ASK, "Four.")])
        assert not isinstance(ids, str)
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(ids) == (
            "<s><|im_start|>user\nWhat is two plus two?<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>\n"
        )
        assert model.self_test.ok

    def test_a_template_that_writes_bos_twice_is_refused(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer(template="{{ bos_token }}{{ bos_token }}" + CHATML, bos="<s>")
        folder = tiny_reward(tmp_path, tokenizer=tokenizer)
        with pytest.raises(BackendError, match=r"doubled_bos: probe short begins with the BOS token \(3\) twice"):
            reward(folder)
        assert reward(folder, allow_variant=True).about["self_test"]["ok"] is False  # type: ignore[index]

    def test_a_missing_template_is_refused_whatever_is_allowed(self, tmp_path: Path) -> None:
        folder = tiny_reward(tmp_path, tokenizer=tiny_tokenizer(template=None))
        for allowed in (False, True):
            with pytest.raises(BackendError, match="missing_template"):
                reward(folder, allow_variant=allowed)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts end with EOS, and padding is EOS."""
    tokenizer = tiny_tokenizer(template=ENDS_WITH_EOS, pad="<|im_end|>")
    return tiny_reward(tmp_path_factory.mktemp("same"), tokenizer=tokenizer)


class TestReadOut:
    def test_padding_as_eos_is_refused_with_both_numbers_until_the_readout_is_declared(self, same: Path) -> None:
        """F09."""
        with pytest.raises(BackendError, match=r"pad_is_eos: probe \w+: -?\d.*say readout: last_attended or readout"):
            reward(same)
        last, early = (reward(same, readout=readout) for readout in ("last_attended", "model"))  # type: ignore[arg-type]
        assert last.self_test.codes == early.self_test.codes == ("pad_is_eos",)
        assert (last.about["readout"], early.about["readout"]) == ("last_attended", "model")
        assert last.fingerprint != early.fingerprint
        given = items(8)
        assert np.abs(values(last, given) - values(early, given)).max() > 0.01
        np.testing.assert_allclose(values(early, given), plain(same, given)[:, 0], atol=NEAR, rtol=0)

    def test_the_last_attended_token_is_read_at_every_batch_size(self, same: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        with hf.quiet():
            model = AutoModelForSequenceClassification.from_pretrained(same).eval()
        model.config.pad_token_id = 400_000  # no token: nothing is taken for padding
        ours, given = reward(same, readout="last_attended"), items(8)
        encoded = ours.encode([(item.messages, item.response) for item in given])
        with torch.inference_mode():
            expected = [model(input_ids=torch.tensor([ids])).logits.item() for ids in encoded]
        for batch_tokens in (1, 500, 10_000):
            found = values(with_settings(ours, batch_tokens=batch_tokens), given)
            np.testing.assert_allclose(found, expected, atol=NEAR, rtol=0)

    def test_padding_as_eos_is_only_recorded_where_no_text_ends_with_it(self, tmp_path: Path) -> None:
        folder = tiny_reward(tmp_path, tokenizer=tiny_tokenizer(pad="<|im_end|>"))  # texts end with a newline
        model = reward(folder)
        assert (model.self_test.codes, model.self_test.ok) == (("pad_is_eos",), True)

    @pytest.mark.parametrize("kind", DECODERS)
    def test_a_model_without_padding_token_is_batched_all_the_same(self, tmp_path: Path, kind: str) -> None:
        folder = tiny_reward(tmp_path, kind, tokenizer=tiny_tokenizer(pad=None))
        model, given = reward(folder), items(8)
        assert model.self_test.codes == ("missing_pad_token",)
        assert model.about["padding"] == {"token": 1, "side": "right", "pad": None, "eos": 1, "bos": None}
        np.testing.assert_allclose(values(model, given), plain(folder, given)[:, 0], atol=NEAR, rtol=0)
        with pytest.raises(BackendError, match="missing_pad_token"):
            reward(folder, readout="model")

    def test_a_padding_token_outside_the_embedding_is_none(self, tmp_path: Path) -> None:
        tokenizer = tiny_tokenizer(pad="<never>")
        folder = tiny_reward(tmp_path, tokenizer=tokenizer, vocab_size=len(tokenizer) - 1, pad_token_id=None)
        model = reward(folder)
        assert model.self_test.codes == ("missing_pad_token",)
        assert len(list(model(items(4)))) == 4

    def test_the_models_own_rule_is_told_the_padding_token_of_the_tokenizer(self, tmp_path: Path) -> None:
        folder = tiny_reward(tmp_path, pad_token_id=None)
        given = items(8)
        np.testing.assert_allclose(
            values(reward(folder, readout="model"), given), values(reward(folder), given), atol=NEAR, rtol=0
        )

    def test_an_encoder_is_left_to_its_own_code(self, folders: Folders) -> None:
        assert reward(folders("bert")).about["readout"] == "model"
        with pytest.raises(ConfigError, match="BertForSequenceClassification"):
            reward(folders("bert"), readout="last_attended")


class TestHeads:
    @pytest.mark.parametrize("outputs", [2, 3])
    def test_several_outputs_without_names_are_refused(self, folders: Folders, outputs: int) -> None:
        """F11."""
        with pytest.raises(ConfigError, match=f"head_not_named: .* has {outputs} outputs .* heads: .name0, name1"):
            reward(folders(num_labels=outputs))

    def test_names_of_the_configuration_are_taken_where_they_say_something(self, tmp_path: Path) -> None:
        names = {0: "helpful", 1: "harmless"}
        folder = tiny_reward(tmp_path, num_labels=2, id2label=names, label2id={v: k for k, v in names.items()})
        assert reward(folder).heads == ("helpful", "harmless")
        assert reward(folder, heads=("a", "b")).heads == ("a", "b")

    def test_as_many_names_as_outputs(self, folders: Folders) -> None:
        with pytest.raises(ConfigError, match="has 1 outputs"):
            reward(folders(), heads=("a", "b"))

    def test_one_output_may_have_a_name(self, folders: Folders) -> None:
        model = reward(folders(), heads=("quality",))
        assert set(next(iter(model(items(1)))).scores) == {"quality"}


def test_a_head_that_the_checkpoint_does_not_hold_is_refused(tmp_path: Path, folders: Folders) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(folders(), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendError, match=r"untrained_head: the checkpoint has no weights for score\.weight"):
        reward(folder)
    assert "untrained_head" in reward(folder, allow_variant=True).self_test.codes


def test_scores_that_move_with_the_batch_are_refused_or_put_on_record(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F08."""
    logits = TransformersReward._logits
    monkeypatch.setattr(
        TransformersReward, "_logits", lambda self, ids, mask: logits(self, ids, mask) + 0.25 * (len(ids) > 1)
    )
    with pytest.raises(
        BackendError, match=r"nothing was scored: batch_variant_scores: probe \w+: .* alone, .* batched"
    ):
        reward(folders())
    model = reward(folders(), allow_variant=True)
    assert model.about["allow_variant"] is True
    assert model.about["self_test"]["ok"] is False  # type: ignore[index]
    assert len(list(model(items(3)))) == 3


ARMO = """
from dataclasses import dataclass
import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput

@dataclass
class Output(ModelOutput):
    rewards: torch.Tensor = None
    {score}
    logits: torch.Tensor = None

class ArmoLike(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression = torch.nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **_):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        last = -1 if attention_mask is None else attention_mask.sum(1) - 1
        rewards = self.regression(hidden[torch.arange(len(hidden)), last])
        return Output(rewards=rewards, {given})
"""


@pytest.mark.parametrize("with_score", [True, False])
def test_code_that_comes_with_a_model_runs_only_when_allowed(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch, with_score: bool
) -> None:
    from safetensors.torch import load_file, save_file

    cache = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    monkeypatch.syspath_prepend(str(cache))
    folder = tiny_reward(tmp_path / f"armo{int(with_score)}", num_labels=2)
    weights = load_file(folder / "model.safetensors")
    weights["regression.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    parts = ("score: torch.Tensor = None", "score=rewards.sum(1)") if with_score else ("", "")
    (folder / "armo_like.py").write_text(ARMO.format(score=parts[0], given=parts[1]))
    config = json.loads((folder / "config.json").read_text())
    config.update(auto_map={"AutoModelForSequenceClassification": "armo_like.ArmoLike"}, model_type="llama")
    (folder / "config.json").write_text(json.dumps(config))

    model = reward(folder, heads=("a", "b"), allow_remote_code=True)
    assert model.heads == (("", "a", "b") if with_score else ("a", "b"))
    told = next(iter(model(items(1)))).scores
    if with_score:
        assert told[""] == pytest.approx(told["a"] + told["b"], abs=NEAR)
        assert reward(folder, allow_remote_code=True).heads == ("",)
    else:
        with pytest.raises(ConfigError, match="head_not_named"):
            reward(folder, allow_remote_code=True)
    with pytest.raises((BackendError, ConfigError)):
        reward(folder)


class TestIdentity:
    def test_the_fingerprint_changes_with_what_changes_the_numbers(self, folders: Folders) -> None:
        base = reward(folders()).fingerprint
        assert reward(folders(), batch_tokens=77).fingerprint == base
        others = [
            reward(folders(seed=1)).fingerprint,
            reward(folders(), dtype="bfloat16").fingerprint,
            reward(folders(), max_length=200).fingerprint,
            reward(folders(), readout="model").fingerprint,
            reward(folders(), heads=("quality",)).fingerprint,
        ]
        assert len({base, *others}) == 6
        assert reward(folders(), readout="last_attended").fingerprint == base  # what auto is
        assert all(len(each) == 16 for each in (base, *others))

    def test_what_the_manifest_is_told_is_plain(self, llama: TransformersReward) -> None:
        told = json.loads(json.dumps(llama.about))
        assert told["readout"] == "last_attended"
        assert told["self_test"]["ok"] is True
        assert set(told["self_test"]["probes"]) == {"short", "right", "wrong", "long", "turns", "eos"}
        assert {"torch", "transformers"} == set(told["versions"])
        assert len(told["template"]) == 16

    def test_another_template_is_another_fingerprint(self, tmp_path: Path, folders: Folders) -> None:
        other = tiny_reward(tmp_path, tokenizer=tiny_tokenizer(template=ENDS_WITH_EOS))
        assert reward(other).fingerprint != reward(folders()).fingerprint


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_tokens": 0},
        {"max_length": 0},
        {"dtype": "int8"},
        {"readout": "first"},
        {"heads": ()},
        {"heads": ("a", "a")},
    ],
)
def test_a_setting_that_cannot_be_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RewardModelSettings("folder", **wrong)


def test_a_model_too_short_for_the_probes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no texts to score: max_length is 20"):
        reward(tiny_reward(tmp_path, max_position_embeddings=20))


def test_an_adapter_is_named_as_one(folders: Folders, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folders(), tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter; merge it"):
        reward(tmp_path / "model")


def test_a_folder_that_holds_no_model_is_an_error_in_one_line(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="cannot be loaded"):
        reward(tmp_path)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingDependency, match="torch and transformers is not installed; run: pip install torch"):
        reward(Path("anything"))
