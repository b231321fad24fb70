"""Log-probabilities equal the plain computation and TRL's, whatever is shared, packed, cut off or switched off."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_causal import CHATML, THINKS, tiny_adapter, tiny_causal

from pairwright.backends import causal, prefix
from pairwright.backends.prefix import Branch, Group, bunches, lay_out, plan, to_tokens
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Answered, LogProb, Message

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

NATS = 1e-4  # per response, up to 300 tokens, float32
LONG = "The ship left the harbour before dawn. " * 5
SHARED = ("llama", "qwen2", "gpt2", "gemma2", "mistral", "mixtral", "granite")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


ASKS = [
    Answered(7, [user("What is two plus two?")], ["Four.", "", "Four.", LONG, "ünïcödé 猫 🎉", " four", "Four. "]),
    Answered(
        3,
        [{"role": "system", "content": "Be nice."}, user("Hi"), {"role": "assistant", "content": "Hello."}, user(LONG)],
        ["A field guide.", LONG],
    ),
    Answered(5, [user("x")], ["y"]),
    Answered(6, [user("y")], []),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[str, Path] = {}

    def make(kind: str = "llama", **config: Any) -> Path:
        name = f"{kind}{config}"
        if name not in made:
            made[name] = tiny_causal(tmp_path_factory.mktemp("model"), kind, **config)
        return made[name]

    return make


@pytest.fixture(scope="module")
def adapter(folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return tiny_adapter(tmp_path_factory.mktemp("adapter"), folder("llama"))


def load(path: Path, *, method: str = "auto", **changes: Any) -> causal.CausalLM:
    return causal.CausalLM(causal.CausalSettings(str(path), **{"max_length": 512, **changes}), method=method)


def by_place(replies: Any) -> dict[tuple[int, int], LogProb]:
    found = list(replies)
    assert len({(each.key, each.place) for each in found}) == len(found)
    return {(each.key, each.place): each for each in found}


def by_hand(path: Path, asks: Sequence[Answered], *, max_length: int = 512) -> dict[tuple[int, int], tuple[float, int]]:
    """One response at a time through a model loaded apart, with nothing of ours: (sum, tokens)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    found = {}
    for ask in asks:
        for place, text in enumerate(ask.responses):
            said = [*ask.messages, {"role": "assistant", "content": text}]
            start = len(tokenizer.apply_chat_template(list(ask.messages), add_generation_prompt=True)["input_ids"])
            ids = tokenizer.apply_chat_template(said)["input_ids"][:max_length]
            with torch.no_grad():
                logp = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
            total = sum(logp[at - 1, ids[at]].item() for at in range(start, len(ids)))
            found[ask.key, place] = (total, len(ids) - start)
    return found


def assert_same(got: dict[tuple[int, int], LogProb], want: dict[tuple[int, int], tuple[float, int]]) -> None:
    assert set(got) == set(want)
    for at, (total, n_tokens) in want.items():
        assert got[at].logp == pytest.approx(total, abs=NATS), at
        assert got[at].n_tokens == n_tokens


class TestAgainstThePlainComputation:
    @pytest.mark.parametrize("kind", SHARED)
    def test_every_response_has_its_own_sum_over_one_computed_prompt(self, kind: str, folder: Any) -> None:
        model = load(folder(kind))
        got = by_place(model.logprobs()(ASKS))
        assert model.about["method"] == "shared", model.about
        assert_same(got, by_hand(folder(kind), ASKS))
        assert got[7, 0].logp == got[7, 2].logp  # the same text
        assert got[7, 1].n_tokens > 0  # an empty response still ends its turn

    @pytest.mark.parametrize("kind", SHARED)
    def test_the_prompt_matters_so_that_sharing_it_wrongly_would_show(self, kind: str, folder: Any) -> None:
        replies = by_place(
            load(folder(kind)).logprobs()([Answered(k, [user(LONG[: -1 - 4 * k])], ["Four."]) for k in (0, 1)])
        )
        assert abs(replies[0, 0].logp - replies[1, 0].logp) > 100 * NATS

    @pytest.mark.parametrize("method", causal.METHODS)
    @pytest.mark.parametrize("batch_tokens", [1, 150, 400, 8192])
    def test_how_it_is_batched_changes_nothing(self, method: str, batch_tokens: int, folder: Any) -> None:
        model = load(folder("llama"), method=method, batch_tokens=batch_tokens)
        assert_same(by_place(model.logprobs()(ASKS)), by_hand(folder("llama"), ASKS))

    @given(
        shapes=st.lists(
            st.tuples(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=9)), min_size=1, max_size=4
        ),
        budget=st.integers(1, 400),
        order=st.randoms(use_true_random=False),
    )
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_order_and_batching_change_nothing(self, shapes: Any, budget: int, order: Any, folder: Any) -> None:
        asks = [Answered(k, [user("a b" * n)], ["c d" * size for size in sizes]) for k, (n, sizes) in enumerate(shapes)]
        model = load(folder("gpt2"))
        want = by_place(model.logprobs()(asks))
        model.budget = budget
        shuffled = list(asks)
        order.shuffle(shuffled)
        got = by_place(model.logprobs()(shuffled))
        assert set(got) == set(want)
        assert all(got[at].logp == pytest.approx(want[at].logp, abs=NATS) for at in want)

    @given(
        shapes=st.lists(
            st.tuples(st.integers(0, 50), st.lists(st.integers(2, 60), min_size=1, max_size=9)), min_size=2, max_size=4
        ),
        budget=st.integers(1, 400),
        seed=st.integers(0, 2**32 - 1),
    )
    @example(shapes=[(5, [41, 41, 41]), (2, [4])], budget=100, seed=0)  # what is left of one prompt, then another
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_groups_of_any_size_have_the_plain_sums_under_any_budget(
        self, shapes: list[tuple[int, list[int]]], budget: int, seed: int, folder: Any
    ) -> None:
        rng = np.random.default_rng(seed)
        groups = [
            Group(
                tuple(rng.integers(0, 300, n).tolist()),
                tuple(Branch(tuple(rng.integers(0, 300, size).tolist())) for size in sizes),
            )
            for n, sizes in shapes
        ]
        model = load(folder("mistral"), method="shared", batch_tokens=budget)
        with torch.inference_mode():
            plain = {(g, b): logp_T.sum() for g, b, logp_T in model_plain(folder)._plain(groups)}
            got = [((g, b), logp_T.sum()) for g, b, logp_T in model._shared(groups, budget)]
        assert sorted(at for at, _ in got) == sorted(plain)  # every one, and once
        assert all(total == pytest.approx(plain[at], abs=NATS) for at, total in got)

    def test_a_prompt_beyond_the_budget_may_stand_before_a_small_one(self, folder: Any) -> None:
        asks = [Answered(0, [user("Tell me.")], ["ship " * n for n in range(5, 25)]), Answered(1, [user("x")], ["y"])]
        for batch_tokens in (60, 100, 200, 400):
            model = load(folder("llama"), batch_tokens=batch_tokens)
            assert_same(by_place(model.logprobs()(asks)), by_hand(folder("llama"), asks))
            assert model.about["method"] == "shared"

    def test_bfloat16_differs_little(self, folder: Any) -> None:
        model = load(folder("llama"), dtype="bfloat16")
        got = by_place(model.logprobs()(ASKS))
        for at, (total, n_tokens) in by_hand(folder("llama"), ASKS).items():
            assert got[at].logp == pytest.approx(total, abs=0.15 * n_tokens)
        assert model.about["dtype"] == "bfloat16"

    def test_nothing_to_ask_gives_nothing(self, folder: Any) -> None:
        assert list(load(folder("llama")).logprobs()([])) == []
        assert list(load(folder("llama")).logprobs()([Answered(0, [user("x")], [])])) == []


class TestTruncation:
    def test_what_stands_behind_max_length_is_cut_off_and_marked(self, folder: Any) -> None:
        got = by_place(load(folder("llama"), max_length=60).logprobs()(ASKS[:1]))
        assert [got[7, place].truncated for place in range(7)] == [False, False, False, True, False, False, False]
        assert_same(got, by_hand(folder("llama"), ASKS[:1], max_length=60))
        assert got[7, 3].n_tokens < by_place(load(folder("llama")).logprobs()(ASKS[:1]))[7, 3].n_tokens

    def test_a_prompt_that_fills_max_length_leaves_nulls_with_the_reason(self, folder: Any) -> None:
        got = by_place(load(folder("llama"), max_length=60).logprobs()(ASKS))
        for place in range(2):
            assert got[3, place].logp is None
            assert str(got[3, place].reason).startswith("prompt_too_long: ")
            assert got[3, place].n_tokens == 0
        assert got[5, 0].logp is not None

    @pytest.mark.parametrize("max_length", range(3, 9))
    def test_the_edge_is_where_trl_has_it(self, max_length: int) -> None:
        made = to_tokens([1, 2, 3, 4, 5], [[1, 2, 3, 4, 5, 6, 7]], max_length)
        if max_length <= 5:
            assert str(made.branch[0]).startswith("prompt_too_long")
        else:
            assert made.branch == [0]
            assert made.group.branches[0].n_tokens == min(max_length, 7) - 5
            assert [*made.group.prefix, *made.group.branches[0].ids] == [1, 2, 3, 4, 5, 6, 7][:max_length]
        assert made.truncated == [max_length < 7]


class TestTokens:
    def test_equal_responses_are_computed_once(self) -> None:
        made = to_tokens([1, 2], [[1, 2, 5], [1, 2, 6], [1, 2, 5]], 10)
        assert made.branch == [0, 1, 0]
        assert made.group == Group((1,), (Branch((2, 5)), Branch((2, 6))))

    def test_a_response_begins_where_prompt_and_whole_part(self) -> None:
        made = to_tokens([1, 2, 3, 4], [[1, 2, 8, 9], [1, 2, 3, 4, 5]], 10)
        assert made.start == [2, 4]
        assert made.group.prefix == (1,)
        assert [(b.ids, b.skip, b.n_tokens) for b in made.group.branches] == [((2, 8, 9), 0, 2), ((2, 3, 4, 5), 2, 1)]

    def test_a_first_token_without_anything_before_it_is_not_counted(self) -> None:
        made = to_tokens([], [[4, 5, 6], [4]], 10)
        assert made.branch == [0, "no_response_tokens"]
        assert made.group.branches[0].n_tokens == 2

    def test_a_template_that_writes_the_prompt_otherwise_alone_is_told_and_followed(self, folder: Any) -> None:
        model = load(folder("llama", template=THINKS))
        got = by_place(model.logprobs()(ASKS[:1]))
        assert "<think>" in str(model.about["notes"]["prompt_not_prefix"])
        assert model.about["seen"]["prompt_not_prefix"] == 7
        plain = by_place(load(folder("llama", template=CHATML)).logprobs()(ASKS[:1]))
        assert all(got[at].n_tokens == plain[at].n_tokens for at in plain)

    def test_responses_that_begin_at_different_tokens_are_told(self, folder: Any) -> None:
        model = load(folder("llama", template=THINKS))
        got = by_place(model.logprobs()([Answered(0, [user("x")], ["Four.", "<think> Four."])]))
        assert "starts_differ" in model.about["notes"]
        assert got[0, 1].logp is not None

    def test_a_prompt_that_the_template_refuses_is_null_with_its_words(self, folder: Any) -> None:
        template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHATML
        got = by_place(load(folder("llama", template=template)).logprobs()(ASKS))
        assert [got[3, place].reason for place in range(2)] == ["template_refused: no system turn"] * 2
        assert got[5, 0].logp is not None


def model_plain(folder: Any) -> causal.CausalLM:
    return load(folder("mistral"), method="plain")


group_st = st.builds(
    Group,
    st.integers(0, 30).map(lambda n: tuple(range(n))),
    st.lists(st.integers(2, 40).map(lambda n: Branch(tuple(range(n)))), min_size=1, max_size=8).map(tuple),
)


class TestPacking:
    @given(groups=st.lists(group_st, min_size=1, max_size=6), budget=st.integers(1, 200))
    def test_every_branch_is_in_one_pack_and_packs_keep_the_budget(self, groups: list[Group], budget: int) -> None:
        packs = list(plan(groups, budget))
        placed = [(slot.group, i) for slots in packs for slot in slots for i in slot.branches]
        assert sorted(placed) == [(g, b) for g, group in enumerate(groups) for b in range(len(group.branches))]
        open_group = None
        for slots in packs:
            made = lay_out(groups, slots, {}, "cpu")
            assert len(made.ids_T) == len(made.position_T)
            assert len(made.ids_T) <= budget or sum(len(slot.branches) for slot in slots) == 1
            for slot in slots:
                assert slot.fresh == (slot.group != open_group)
                open_group = slot.group if slot.keep else None
        assert open_group is None

    @given(groups=st.lists(group_st, min_size=1, max_size=6), budget=st.integers(1, 200))
    def test_a_prompt_that_is_not_computed_again_finds_its_own_keys(self, groups: list[Group], budget: int) -> None:
        kept: dict[int, Any] = {}
        for slots in plan(groups, budget):
            pack = lay_out(groups, slots, kept, "cpu")
            for slot, part in zip(slots, pack.parts, strict=True):
                if not part.fresh:
                    assert pack.kept == {0: slot.group}
                if part.keep:
                    kept[0] = slot.group

    @given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=70).map(sorted))
    def test_bunches_cover_their_branches_in_order_with_little_padding(self, sizes: list[int]) -> None:
        made = list(bunches(sizes, 11))
        assert [size for *_, held in made for size in held] == sizes
        assert [first for first, *_ in made] == [11, *(end for _, end, _ in made[:-1])]
        for first, end, held in made:
            assert end - first == sum(held)
            assert len(held) <= prefix.TOGETHER
            assert max(held) * len(held) <= prefix.PADDED * sum(held)

    def test_the_prompt_is_computed_once_and_nothing_is_padded(self, folder: Any) -> None:
        model = load(folder("llama"), method="shared")
        seen: list[int] = []
        model.model.base_model.register_forward_pre_hook(
            lambda *told: seen.append(told[2]["input_ids"].numel()), with_kwargs=True
        )
        list(model.logprobs()(ASKS))
        groups = [made.group for made in map(model.tokens, ASKS)]
        assert sum(seen) == sum(group.cost for group in groups)
        seen.clear()
        model.budget = 100
        list(model.logprobs()(ASKS))
        assert len(seen) > 3
        assert sum(seen) == sum(group.cost for group in groups)


class TestTheComparisonBeforeTheFirstRow:
    @pytest.mark.parametrize(("kind", "why"), [("gptoss", "s_aux"), ("mamba", "Error")])
    @pytest.mark.filterwarnings("ignore")
    def test_a_model_whose_prefix_cannot_be_shared_is_computed_otherwise_and_says_so(
        self, kind: str, why: str, folder: Any
    ) -> None:
        model = load(folder(kind))
        assert_same(by_place(model.logprobs()(ASKS)), by_hand(folder(kind), ASKS))
        assert model.about["method"] == "padded"
        assert why in str(model.about["notes"]["not_shared"])

    def test_rotary_scalings_that_depend_on_the_batch_are_not_batched(self, folder: Any) -> None:
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
        made = folder("llama", rope_parameters=rope, max_position_embeddings=64)
        model = load(made, max_length=64)
        assert_same(by_place(model.logprobs()(ASKS[2:3])), by_hand(made, ASKS[2:3]))
        assert "dynamic" in model.about["notes"]["not_shared"]

    @pytest.mark.parametrize("defect", ["sees_other_responses", "forgets_the_prompt", "sees_the_future"])
    def test_a_silent_defect_of_sharing_is_found_and_named(
        self, defect: str, folder: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        true = prefix.visible

        def wrong(pack: Any, length: int, rows: int, window: int | None) -> Any:
            mask = true(pack, length, rows, window).clone()
            if defect == "forgets_the_prompt":
                mask[:, :length] = False
            elif defect == "sees_the_future":
                mask[:] = True
            return mask

        monkeypatch.setattr(prefix, "visible", wrong)
        if defect == "sees_other_responses":
            whole = lay_out

            def one_text(*told: Any) -> Any:
                pack = whole(*told)
                for part in pack.parts:
                    part.bunches = [
                        (part.bunches[0][0], part.bunches[-1][1], [sum(map(sum, (b[2] for b in part.bunches)))])
                    ]
                return pack

            monkeypatch.setattr(prefix, "lay_out", one_text)
        model = load(folder("llama"))
        assert_same(by_place(model.logprobs()(ASKS)), by_hand(folder("llama"), ASKS))
        assert model.about["method"] == "padded"
        assert "off the plain computation" in model.about["notes"]["not_shared"]
        assert model.about["off_plain_nats_per_token"]["shared"] > 100 * model.tolerance

    def test_padding_that_changes_numbers_leaves_the_plain_computation(
        self, folder: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = causal.CausalLM._read
        monkeypatch.setattr(causal.CausalLM, "_read", lambda *told: read(*told) + 0.01)  # both faster methods use it
        model = load(folder("llama"))
        assert_same(by_place(model.logprobs()(ASKS)), by_hand(folder("llama"), ASKS))
        assert model.about["method"] == "plain"
        assert set(model.about["notes"]) == {"not_shared", "not_padded"}

    def test_a_sliding_window_shorter_than_the_prompt_is_heeded(self, folder: Any) -> None:
        window, full = (load(folder("mistral", sliding_window=size)) for size in (12, None))
        one, other = (by_place(model.logprobs()(ASKS)) for model in (window, full))
        assert abs(one[3, 1].logp - other[3, 1].logp) > 1
        assert window.about["method"] == full.about["method"] == "shared"


class TestAdapters:
    def test_off_is_the_bare_model_to_the_last_bit_and_on_is_another(self, folder: Any, adapter: Path) -> None:
        both = load(folder("llama"), adapter=str(adapter))
        policy, reference, bare = both.policy(), both.reference(), load(folder("llama")).logprobs()
        on, off, alone = (by_place(view(ASKS)) for view in (policy, reference, bare))
        assert off == alone
        assert all(abs(on[at].logp - off[at].logp) > 0.01 for at in off)
        assert by_place(reference(ASKS)) == off  # the adapter left nothing behind
        assert (reference.model_hash, reference.template_hash) == (bare.model_hash, bare.template_hash)
        assert policy.model_hash != reference.model_hash
        assert policy.template_hash == reference.template_hash
        assert str(adapter) in policy.model
        assert str(adapter) not in reference.model

    def test_on_is_what_peft_computes(self, folder: Any, adapter: Path, tmp_path: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder("llama")), adapter)
        merged.merge_and_unload().save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(folder("llama")).save_pretrained(tmp_path)
        got = by_place(load(folder("llama"), adapter=str(adapter)).policy()(ASKS))
        assert_same(got, by_hand(tmp_path, ASKS))

    def test_two_views_may_take_turns(self, folder: Any, adapter: Path) -> None:
        both = load(folder("llama"), adapter=str(adapter), batch_tokens=50)
        want = [by_place(view(ASKS)) for view in (both.policy(), both.reference())]
        turns = zip(both.policy()(ASKS), both.reference()(ASKS), strict=True)
        got = [by_place(side) for side in zip(*turns, strict=True)]
        assert got == want

    def test_weights_are_in_memory_once(self, folder: Any, adapter: Path) -> None:
        def held(model: Any) -> int:
            storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
            return sum(storages.values())

        both, bare = load(folder("llama"), adapter=str(adapter)), load(folder("llama"))
        policy, reference = both.policy(), both.reference()
        assert policy._held.model is reference._held.model is both.model
        lora = sum(p.nbytes for name, p in both.adapted.named_parameters() if "lora_" in name)
        assert 0 < lora < held(bare.model) / 10
        assert held(both.adapted) == held(bare.model) + lora

    def test_without_an_adapter_there_is_neither_policy_nor_reference(self, folder: Any) -> None:
        for ask in (load(folder("llama")).policy, load(folder("llama")).reference):
            with pytest.raises(ConfigError, match="no adapter"):
                ask()

    def test_an_adapter_that_learns_a_prompt_is_refused(self, folder: Any, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        from transformers import AutoModelForCausalLM

        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = AutoModelForCausalLM.from_pretrained(folder("llama"))
        peft.get_peft_model(model, config).save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="learns a prompt"):
            load(folder("llama"), adapter=str(tmp_path))

    def test_an_adapter_of_another_model_is_refused(self, folder: Any, adapter: Path) -> None:
        with pytest.raises(BackendError, match="does not go with"):
            load(folder("llama", hidden_size=32), adapter=str(adapter))


class TestMemory:
    @pytest.mark.parametrize("limit", [60, 250])
    def test_a_batch_that_does_not_fit_is_halved(
        self, limit: int, folder: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = load(folder("llama"), method="shared")
        whole = causal.CausalLM._run

        def small(self: Any, groups: Any, adapter: bool, budget: int) -> Any:
            if sum(group.cost for group in groups) > limit:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return whole(self, groups, adapter, budget)

        monkeypatch.setattr(causal.CausalLM, "_run", small)
        got = by_place(model.logprobs()(ASKS))
        want = by_hand(folder("llama"), ASKS)
        too_long = set()
        for ask in ASKS:
            made = model.tokens(ask)
            for place, branch in enumerate(made.branch):
                if len(made.group.prefix) + made.group.branches[branch].cost > limit:
                    too_long.add((ask.key, place))
        assert {at for at, each in got.items() if each.reason == "out_of_memory"} == too_long
        assert bool(too_long) == (limit == 60)
        assert_same(*({at: told[at] for at in want if at not in too_long} for told in (got, want)))
        assert model.about["seen"]["out_of_memory"] > 0
        assert model.budget < 8192

    def test_another_failure_is_not_swallowed(self, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> Any:
            raise RuntimeError("something else")

        model = load(folder("llama"), method="shared")
        monkeypatch.setattr(causal.CausalLM, "_run", fail)
        with pytest.raises(RuntimeError, match="something else"):
            list(model.logprobs()(ASKS))

    def test_weights_that_are_no_numbers_give_nulls(self, folder: Any) -> None:
        model = load(folder("llama"), method="shared")
        with torch.no_grad():
            model.model.get_output_embeddings().weight[5] = torch.nan
        assert {str(each.reason)[:16] for each in model.logprobs()(ASKS)} == {"logp_not_finite:"}


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"dtype": "float8"}, "known: auto"),
            ({"max_length": 0}, "max_length = 0"),
            ({"batch_tokens": 0}, "batch_tokens = 0"),
            ({"adapter": "nowhere"}, "not a PEFT folder"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, change: dict[str, Any], why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            causal.CausalSettings("some/model", **change)

    def test_a_length_that_the_model_cannot_read_is_refused(self, folder: Any) -> None:
        with pytest.raises(ConfigError, match="reads 512 tokens at most"):
            load(folder("gpt2"), max_length=513)

    def test_hashes_change_with_weights_precision_template_and_length(self, folder: Any) -> None:
        views = [
            load(folder("llama")).logprobs(),
            load(folder("llama", seed=1)).logprobs(),
            load(folder("llama"), dtype="bfloat16").logprobs(),
            load(folder("llama", template=THINKS)).logprobs(),
            load(folder("llama"), max_length=100).logprobs(),
        ]
        assert len({view.model_hash for view in views}) == 3
        assert len({view.template_hash for view in views}) == 3
        assert load(folder("llama"), batch_tokens=9).logprobs().model_hash == views[0].model_hash


@pytest.mark.trl
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", [CHATML, THINKS], ids=["chatml", "thinks"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_sums_are_those_of_trls_own_reference_pass(
    kind: str, template: str, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = [(ask.messages, *ask.responses[at : at + 2]) for ask in ASKS for at in range(0, len(ask.responses) - 1, 2)]
    rows = [
        {"prompt": list(messages)}
        | {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", a), ("rejected", b))}
        for messages, a, b in pairs
    ]
    config = DPOConfig(
        output_dir=str(tmp_path), precompute_ref_log_probs=True, max_length=80, use_cpu=True, bf16=False,
        report_to="none", disable_tqdm=True, per_device_train_batch_size=2, gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DPOTrainer(model=str(folder(kind, template=template)), args=config, train_dataset=Dataset.from_list(rows))
    asks = [Answered(k, messages, sides) for k, (messages, *sides) in enumerate(pairs)]
    got = by_place(load(folder(kind, template=template), max_length=80).logprobs()(asks))
    kept = [k for k in range(len(pairs)) if got[k, 0].reason is None]
    assert 0 < len(kept) < len(pairs)  # TRL leaves out the rows whose prompt fills max_length
    assert any(each.truncated for each in got.values())
    assert len(trainer.train_dataset) == len(kept)
    for k, row in zip(kept, trainer.train_dataset, strict=True):
        for place, side in enumerate(("chosen", "rejected")):
            assert got[k, place].logp == pytest.approx(row[f"ref_{side}_logps"], abs=2e-4)  # TRL adds up in float32
            n_tokens = min(len(row[f"{side}_ids"]), 80 - len(row["prompt_ids"]))
            assert got[k, place].n_tokens == n_tokens


@pytest.mark.parametrize("bug", ["shifted by one", "prompt counted", "end of turn dropped"])
def test_planted_bugs_are_seen_by_these_tests(bug: str, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    true = causal.to_tokens

    def wrong(prompt: Sequence[int], full_R: Sequence[Sequence[int]], max_length: int) -> Any:
        if bug == "end of turn dropped":
            return true(prompt, [full[:-2] for full in full_R], max_length)
        return true(prompt[: -1 if bug == "shifted by one" else 1], full_R, max_length)

    monkeypatch.setattr(causal, "to_tokens", wrong)
    got = by_place(load(folder("llama")).logprobs()(ASKS))
    for at, (total, _) in by_hand(folder("llama"), ASKS).items():
        assert got[at].logp is None or abs(got[at].logp - total) > 100 * NATS
    assert sum(each.logp is None for each in got.values()) <= 1  # an empty response without its end
