"""Margins, gradients and slopes of pairs: by hand, in float64 where an identity is meant, and against dattri."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_pairs import moved_copy, soup, texts, turn
from tiny_causal import THINKS, tiny_adapter, tiny_causal

from pairwright.backends.gradients import Laid, PairModel
from pairwright.core.influence import central_slope, forward_slope, influence, lossdiff, losses
from pairwright.errors import BackendError, ConfigError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

BETA = 0.1
SOME = r"h\.1\.|ln_f"  # the second layer and the last norm of a GPT-2


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Reference and theta in float64; GPT-2, whose norms do not fall back to float32."""
    place = tmp_path_factory.mktemp("gpt")
    model = tiny_causal(place / "reference", "gpt2", dtype="float64")
    return str(model), str(moved_copy(place / "theta", model, scale=0.03))


@pytest.fixture(scope="module")
def wide(gpt: tuple[str, str]) -> PairModel:
    return PairModel(*gpt, params=SOME, max_length=400)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    place = tmp_path_factory.mktemp("llama")
    model = tiny_causal(place / "model")
    return str(model), str(tiny_adapter(place / "adapter", model))


PAIRS = soup(10, prompts=7)


@pytest.fixture(scope="module")
def laid(wide: PairModel) -> Laid:
    return wide.lay(*texts(PAIRS))


@pytest.fixture(scope="module")
def ref_I(wide: PairModel, laid: Laid) -> Any:
    return wide.gaps(laid, reference=True)


def flat_gradients(model: PairModel, laid: Laid, ref_I: Any, **more: Any) -> Any:
    return torch.stack([g for *_, g in model.pair_gradients(laid, ref_I, beta=BETA, **more)])


def uniform(laid: Laid) -> Any:
    return np.full((1, len(laid.group_I)), 1 / len(laid.group_I))


def by_hand(folder: str, prompt: Any, side: Any) -> tuple[Any, int, Any]:
    """(summed log-probability, tokens, model) of one side with nothing of ours, with its graph."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    whole = tokenizer.apply_chat_template([*prompt, *side], tokenize=False)
    ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
    logp_T = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[start - 1 :, 0]
    return logp_T.sum(), len(logp_T), model


@pytest.fixture(scope="module")
def g_V(wide: PairModel) -> Any:
    valid = wide.lay(*texts(soup(6, seed=9, first="v")))
    return wide.gradient(valid, wide.gaps(valid, reference=True), beta=BETA, weight_WI=uniform(valid))[0]


@pytest.fixture(scope="module")
def slopes(wide: PairModel, laid: Laid, ref_I: Any) -> Callable[..., Any]:
    """Influence of the pairs on the gradient g by finite differences with a step along it."""
    here_I = wide.gaps(laid)

    def made(g: Any, step: float, scheme: str = "central") -> Any:
        norm = float(g.norm())
        with wide.moved(g / norm, step):
            ahead_I = wide.gaps(laid)
        with wide.moved(g / norm, -step):
            behind_I = wide.gaps(laid)
        two = central_slope(ahead_I, behind_I, step), forward_slope(ahead_I, here_I, step)
        return influence(two[scheme == "forward"], BETA * (here_I - ref_I), beta=BETA, norm=norm)

    return made


class TestMargins:
    def test_both_sides_are_sums_over_their_tokens_and_no_means(self, wide: PairModel, laid: Laid, gpt: Any) -> None:
        found = wide.logps(laid), wide.logps(laid, reference=True)
        for row in (0, 3, 9):
            for side, name in enumerate(("chosen", "rejected")):
                for folder, told in zip(reversed(gpt), found, strict=True):
                    total, n, _ = by_hand(folder, PAIRS["prompt"][row].to_list(), PAIRS[name][row].to_list())
                    assert told[side, row] == pytest.approx(total.item(), rel=1e-9)
                    assert laid.n_tokens_SI[side, row] == n > 1

    def test_an_adapter_is_theta_and_its_model_the_reference(self, llama: tuple[str, str]) -> None:
        model = PairModel(*llama, max_length=400)
        laid = model.lay(*texts(PAIRS))
        total, *_ = by_hand(llama[0], PAIRS["prompt"][0].to_list(), PAIRS["chosen"][0].to_list())
        assert model.logps(laid, reference=True)[0, 0] == pytest.approx(total.item(), abs=1e-3)
        assert np.abs(model.gaps(laid) - model.gaps(laid, reference=True)).min() > 1e-3

    def test_a_response_is_computed_once_however_many_pairs_it_is_in(self, wide: PairModel) -> None:
        said = [turn("assistant", text) for text in ("good", "two birds", "nobody turned")]
        prompt = turn("user", "choice")
        laid = wide.lay([prompt] * 3, [said[0], said[0], said[1]], [said[1], said[2], said[2]])
        assert [len(group.branches) for group in laid.groups] == [3]
        ab, ac, bc = wide.gaps(laid)
        assert ab + bc == pytest.approx(ac, rel=1e-12)

    def test_a_pair_without_two_sides_has_a_reason_and_the_others_their_numbers(self, wide: PairModel) -> None:
        good = turn("assistant", "good")
        rows = [
            (turn("user", "a"), good, turn("assistant", "two"), None),
            (turn("user", "a"), good, good, "identical"),
            (turn("user", "b"), [*good, *turn("user", "and?"), *good], good, "side_is_not_one_turn"),
            (turn("user", "ship " * 400), good, turn("assistant", "two"), "prompt_too_long"),
            (
                turn("user", "c"),
                turn("assistant", "ship " * 450 + "one"),
                turn("assistant", "ship " * 450 + "two"),
                "identical_after_truncation",
            ),
        ]
        laid = wide.lay(*([row[at] for row in rows] for at in range(3)))
        reasons = [reason and reason.split(":")[0] for reason in laid.reason_I]
        assert reasons == [row[3] for row in rows]
        assert np.isfinite(wide.gaps(laid)).tolist() == [True, False, False, False, False]
        assert laid.truncated_I.tolist() == [False, False, False, True, True]

    def test_a_selection_of_pairs_has_their_numbers(self, wide: PairModel, laid: Laid) -> None:
        rows = [8, 1, 4]
        assert wide.gaps(laid.select(rows)) == pytest.approx(wide.gaps(laid)[rows], rel=1e-12)

    def test_batches_and_padding_change_nothing(self, llama: tuple[str, str]) -> None:
        found = []
        for size in (16, 200, 8192):
            model = PairModel(*llama, max_length=400, batch_tokens=size)
            found.append(model.gaps(model.lay(*texts(PAIRS))))
        assert found[0] == pytest.approx(found[2], rel=1e-4)
        assert found[1] == pytest.approx(found[2], rel=1e-4)


class TestGradients:
    def test_a_pairs_gradient_is_the_closed_form(self, wide: PairModel, laid: Laid, ref_I: Any, gpt: Any) -> None:
        row, prompt = 2, PAIRS["prompt"][2].to_list()
        gradient = {}
        for name in ("chosen", "rejected"):
            total, _, model = by_hand(gpt[1], prompt, PAIRS[name][row].to_list())
            named = dict(model.named_parameters())
            grads = torch.autograd.grad(total, [named[each] for each in wide.names])
            gradient[name] = torch.cat([g.flatten() for g in grads])
        m = BETA * (wide.gaps(laid) - ref_I)[row]
        expected = -BETA / (1 + np.exp(m)) * (gradient["chosen"] - gradient["rejected"])
        (found,) = flat_gradients(wide, laid.select([row]), ref_I[[row]])
        assert (found - expected).norm() <= 1e-6 * expected.norm()

    def test_packed_and_plain_are_the_same(self, wide: PairModel, laid: Laid, ref_I: Any) -> None:
        assert wide.held._method == "shared"
        plain, packed = (flat_gradients(wide, laid, ref_I, plain=plain) for plain in (True, False))
        assert (plain - packed).norm() <= 1e-9 * plain.norm()
        assert wide.held._method == "shared"  # and attention is what it was
        assert wide.gaps(laid) - ref_I == pytest.approx(wide.gaps(laid) - wide.gaps(laid, reference=True), rel=1e-9)

    def test_the_mean_of_the_pairs_gradients_is_that_of_the_batch(
        self, wide: PairModel, laid: Laid, ref_I: Any
    ) -> None:
        each = flat_gradients(wide, laid, ref_I)
        halves = np.zeros((2, 10))
        halves[0, ::2] = halves[1, 1::2] = 0.1
        both = wide.gradient(laid, ref_I, beta=BETA, weight_WI=halves)
        assert (both.sum(0) - each.mean(0)).norm() <= 1e-9 * each.mean(0).norm()
        assert (both[0] - each[::2].sum(0) / 10).norm() <= 1e-9 * both[0].norm()

    def test_at_the_reference_the_loss_is_ln_2_and_the_weight_one_half(self, gpt: tuple[str, str]) -> None:
        model = PairModel(gpt[0], None, params=SOME, max_length=400)
        laid = model.lay(*texts(PAIRS)).select([0, 1])
        ref_I = model.gaps(laid, reference=True)
        assert model.gaps(laid) - ref_I == pytest.approx([0, 0], abs=1e-12)
        for (_, loss, g), row in zip(model.pair_gradients(laid, ref_I, beta=BETA), (0, 1), strict=True):
            assert loss == pytest.approx(np.log(2), rel=1e-9)
            far = next(model.pair_gradients(laid.select([row]), ref_I[[row]] + 2000.0, beta=1.0))[2]  # weight 1, beta 1
            assert (g + BETA / 2 * -far).norm() <= 1e-6 * g.norm()

    def test_parameters_that_the_model_has_not_are_refused(self, gpt: tuple[str, str], llama: tuple[str, str]) -> None:
        with pytest.raises(ConfigError, match="has no LoRA: name a PEFT folder"):
            PairModel(*gpt, max_length=400)
        with pytest.raises(ConfigError, match=r"no parameter's name matches 'layer\.99'; there is for example"):
            PairModel(*gpt, params="layer.99", max_length=400)
        with pytest.raises(ConfigError, match="is no pattern"):
            PairModel(*llama, params="(", max_length=400)

    def test_an_adapter_at_its_initialisation_is_refused(self, llama: tuple[str, str], tmp_path: Path) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        fresh = get_peft_model(AutoModelForCausalLM.from_pretrained(llama[0]), LoraConfig(target_modules=["q_proj"]))
        fresh.save_pretrained(tmp_path / "fresh")
        with pytest.raises(ConfigError, match=r"every B is 0.*after a warm-up"):
            PairModel(llama[0], str(tmp_path / "fresh"), max_length=400)

    def test_a_reference_with_another_template_is_refused(self, gpt: tuple[str, str], tmp_path: Path) -> None:
        other = tiny_causal(tmp_path / "other", "gpt2", dtype="float64", template=THINKS)
        with pytest.raises(ConfigError, match="write the tokens of a conversation differently"):
            PairModel(str(other), gpt[1], params=SOME, max_length=400)

    def test_pairs_without_tokens_have_no_gradient(self, wide: PairModel) -> None:
        same = wide.lay([turn("user", "a")], [turn("assistant", "b")], [turn("assistant", "b")])
        with pytest.raises(BackendError, match="no pair has tokens"):
            wide.gradient(same, np.zeros(1), beta=BETA, weight_WI=np.ones((1, 1)))


class TestSlopes:
    @pytest.mark.parametrize(("scheme", "order"), [("central", 4), ("forward", 2)])
    def test_halving_the_step_divides_the_distance_to_the_dot_product(
        self, wide: PairModel, laid: Laid, ref_I: Any, g_V: Any, slopes: Any, scheme: str, order: int
    ) -> None:
        exact_I = (flat_gradients(wide, laid, ref_I) @ g_V).numpy()
        off = [np.linalg.norm(slopes(g_V, step, scheme) - exact_I) for step in (0.008, 0.004, 0.002)]
        assert off[0] / off[1] == pytest.approx(order, rel=0.15)
        assert off[1] / off[2] == pytest.approx(order, rel=0.15)

    def test_influence_on_itself_is_the_squared_length_of_the_gradient(
        self, wide: PairModel, laid: Laid, ref_I: Any, slopes: Any
    ) -> None:
        for row in (0, 5):
            (g,) = flat_gradients(wide, laid.select([row]), ref_I[[row]])
            made = slopes(g, 1e-5)[row]
            assert made == pytest.approx(float(g @ g), rel=1e-5)
            assert made > 0

    def test_influence_on_a_set_is_the_mean_of_those_on_its_pairs(
        self, wide: PairModel, laid: Laid, ref_I: Any, slopes: Any
    ) -> None:
        g_I = flat_gradients(wide, laid, ref_I)[:3]
        alone = np.mean([slopes(g, 1e-5) for g in g_I], axis=0)
        assert slopes(g_I.mean(0), 1e-5) == pytest.approx(alone, rel=1e-5, abs=1e-9)

    def test_turning_a_pair_round_turns_its_influence_by_the_weights(
        self, wide: PairModel, laid: Laid, ref_I: Any, g_V: Any
    ) -> None:
        turned = wide.lay(*(texts(PAIRS)[at] for at in (0, 2, 1)))
        m_I = BETA * (wide.gaps(laid) - ref_I)
        one, other = ((flat_gradients(wide, *sides) @ g_V).numpy() for sides in ((laid, ref_I), (turned, -ref_I)))
        assert other == pytest.approx(-one * np.exp(m_I), rel=1e-6)

    def test_one_plain_step_on_the_validation_set_gives_lossdiff(
        self, wide: PairModel, laid: Laid, ref_I: Any, g_V: Any
    ) -> None:
        exact_I = (flat_gradients(wide, laid, ref_I) @ g_V).numpy()
        m_I, off = BETA * (wide.gaps(laid) - ref_I), []
        for eta in (0.008, 0.004, 0.002):
            with wide.moved(g_V, -eta):
                after_I = BETA * (wide.gaps(laid) - ref_I)
            off.append(np.linalg.norm(lossdiff(m_I, after_I) / eta - exact_I))
        assert off[0] / off[1] == pytest.approx(2, rel=0.15)
        assert off[1] / off[2] == pytest.approx(2, rel=0.15)
        assert losses(m_I) - losses(after_I) == pytest.approx(lossdiff(m_I, after_I), rel=1e-9)

    def test_the_parameters_come_back_bit_by_bit(self, wide: PairModel) -> None:
        before = [p.detach().clone() for p in wide.params]
        u = torch.ones(sum(p.numel() for p in wide.params), dtype=torch.float64)
        with pytest.raises(RuntimeError, match="stop"), wide.moved(u, 0.1):
            assert (wide.params[0] - before[0]).detach().abs().min().item() == pytest.approx(0.1)
            raise RuntimeError("stop")
        assert all(torch.equal(p, old) for p, old in zip(wide.params, before, strict=True))


class TestAgainstDattri:
    @pytest.mark.filterwarnings("ignore")
    def test_tracin_without_projection_says_the_same(self, tmp_path: Path) -> None:
        pytest.importorskip("dattri")
        sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "speed"))
        import influence as bench

        model = str(tiny_causal(tmp_path / "model", max_position_embeddings=2048))
        adapter = bench.trained_adapter(model, tmp_path / "adapter")
        bench.prepare(model, adapter, 5, 2, tmp_path / "made.npz")
        made, held, data = dict(np.load(tmp_path / "made.npz")), bench.load(model, adapter), bench.pairs(model, 5, 2)
        ours = bench.ours(held, made, data, central=True)
        theirs = bench.dattri_tracin(held, made, data, model)
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-3)
