"""The sampler of models in this process, a trained policy as a GGUF file, and the distance of a policy to its base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_causal import tiny_adapter, tiny_causal

from pairwright.backends.divergence import divergences, token_kl
from pairwright.backends.generate import LocalModel, TransformersSampler, batches, fingerprint, local_model, until_end
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Answered, Ask, Decoding

torch: Any = pytest.importorskip("torch")
pytest.importorskip("transformers")
FREE = Decoding(temperature=1.0, top_p=1.0, max_tokens=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal(tmp_path_factory.mktemp("generate") / "model", initializer_range=0.06)


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("generate") / "adapter", model)


def says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class TestSampler:
    def test_a_draw_depends_on_its_seed_and_the_state_of_torch_is_left_alone(self, model: Path) -> None:
        sampler = TransformersSampler(LocalModel(str(model)))
        before = torch.random.get_rng_state()
        first = [each.text for each in sampler([Ask(0, says("two"), 3, 7)], FREE)]
        assert torch.equal(before, torch.random.get_rng_state())
        assert first == [each.text for each in sampler([Ask(0, says("two"), 3, 7)], FREE)]
        assert first != [each.text for each in sampler([Ask(0, says("two"), 3, 8)], FREE)]

    def test_draws_follow_the_model(self, model: Path) -> None:
        """The first token of 4,000 draws against the model's own probabilities; a deviation this large has a chance of 1e-6."""
        from scipy import stats
        from transformers import AutoModelForCausalLM

        from pairwright.backends.hf import encode

        sampler = TransformersSampler(LocalModel(str(model)))
        one = Decoding(temperature=1.0, top_p=1.0, max_tokens=1)
        texts = [each.text for each in sampler([Ask(i, says("two plus"), 50, i) for i in range(80)], one)]
        ids = encode(sampler._tokenizer, says("two plus"), add_generation_prompt=True)
        held = AutoModelForCausalLM.from_pretrained(model)
        p = torch.softmax(held(torch.tensor([ids])).logits[0, -1].double(), -1).detach().numpy()
        decoded = [sampler._tokenizer.decode([token], skip_special_tokens=True) for token in range(len(p))]
        wanted: dict[str, float] = {}
        for text, share in zip(decoded, p, strict=True):
            wanted[text] = wanted.get(text, 0.0) + float(share) * len(texts)
        frequent = [text for text, n in wanted.items() if n >= 5]
        seen = np.array([sum(each == text for each in texts) for text in frequent] + [0.0])
        asked = np.array([wanted[text] for text in frequent] + [0.0])
        seen[-1], asked[-1] = len(texts) - seen.sum(), len(texts) - asked.sum()
        assert len(frequent) > 20
        chi = float(((seen - asked) ** 2 / np.maximum(asked, 1e-9)).sum())
        assert stats.chi2.sf(chi, len(seen) - 1) > 1e-6

    def test_what_a_checkpoint_says_of_generation_bends_nothing(self, model: Path, tmp_path: Path) -> None:
        import shutil

        from transformers import GenerationConfig

        bent = tmp_path / "bent"
        shutil.copytree(model, bent)
        held = GenerationConfig.from_pretrained(bent)
        held.repetition_penalty, held.min_p, held.top_k, held.do_sample = 1.5, 0.9, 3, True
        held.save_pretrained(bent)
        draws = [
            [each.text for each in TransformersSampler(LocalModel(str(each)))([Ask(0, says("two"), 6, 7)], FREE)]
            for each in (model, bent)
        ]
        assert draws[0] == draws[1]

    def test_an_adapter_is_merged_and_names_its_base(self, model: Path, adapter: Path) -> None:
        held = local_model(str(adapter))
        assert held == LocalModel(str(model), str(adapter))
        assert local_model(str(model)) == LocalModel(str(model))
        assert fingerprint(held) != fingerprint(LocalModel(str(model)))
        draws = [
            [each.text for each in TransformersSampler(each)([Ask(0, says("two"), 4, 7)], FREE)]
            for each in (held, LocalModel(str(model)))
        ]
        assert draws[0] != draws[1]

    def test_greedy_draws_once(self, model: Path) -> None:
        sampler = TransformersSampler(LocalModel(str(model)))
        greedy = Decoding(temperature=0.0, max_tokens=5)
        (one,) = sampler([Ask(0, says("two"), 1, 1)], greedy)
        (two,) = sampler([Ask(0, says("two"), 1, 2)], greedy)
        assert one.text == two.text
        with pytest.raises(ConfigError, match="temperature 0"):
            list(sampler([Ask(0, says("two"), 2, 1)], greedy))

    def test_a_prompt_beyond_the_context_is_a_reason(self, model: Path) -> None:
        drawn = list(TransformersSampler(LocalModel(str(model)))([Ask(0, says("two " * 900), 2, 1)], FREE))
        assert [each.text for each in drawn] == [None, None]
        assert all("prompt_too_long" in str(each.reason) for each in drawn)

    def test_a_batch_that_does_not_fit_is_halved(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sampler = TransformersSampler(LocalModel(str(model)))
        whole = TransformersSampler._generate
        sizes = []

        def small(self: Any, batch: Any, decoding: Any) -> Any:
            sizes.append(sum(ask.n for ask, _ in batch))
            if sizes[-1] > 4:
                raise MemoryError
            return whole(self, batch, decoding)

        monkeypatch.setattr(TransformersSampler, "_generate", small)
        drawn = list(sampler([Ask(i, says(f"{i}"), 2, i) for i in range(4)], FREE))
        assert sorted((each.key, each.draw) for each in drawn) == [(k, d) for k in range(4) for d in range(2)]
        assert sizes == [8, 4, 4]
        with pytest.raises(BackendError, match="lower"):
            list(sampler([Ask(0, says("x"), 8, 1)], FREE))

    def test_whole_calls_make_a_batch(self) -> None:
        fit = [(Ask(i, [], n, 0), [0]) for i, n in enumerate([3, 2, 9, 1, 1])]
        assert [[ask.key for ask, _ in batch] for batch in batches(fit, 5)] == [[0, 1], [2], [3, 4]]
        assert until_end([5, 6, 2, 0, 0], {2}) == [5, 6, 2]
        assert until_end([5, 6], {2}) == [5, 6]


class TestDivergence:
    def test_the_estimate_has_the_mean_of_the_exact_kl_and_a_smaller_spread(self, model: Path, adapter: Path) -> None:
        """One token: the exact KL over the vocabulary against 600 draws; within 4.5 standard errors (1e-5 to be red)."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from pairwright.backends.hf import encode, load_tokenizer

        tokenizer = load_tokenizer(str(model))
        ids = torch.tensor([encode(tokenizer, says("two plus"), add_generation_prompt=True)])
        held = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter)
        pi = torch.log_softmax(held(ids).logits[0, -1].double(), -1).detach().numpy()
        with held.disable_adapter():
            ref = torch.log_softmax(held(ids).logits[0, -1].double(), -1).detach().numpy()
        exact = float((np.exp(pi) * (pi - ref)).sum())
        drawn = np.random.default_rng(0).choice(len(pi), size=600, p=np.exp(pi) / np.exp(pi).sum())
        k3 = np.array([token_kl(pi[[t]], ref[[t]]) for t in drawn])
        k1 = pi[drawn] - ref[drawn]
        assert exact > 0.01
        assert abs(k3.mean() - exact) < 4.5 * k3.std() / np.sqrt(len(k3))
        assert k3.std() < k1.std()
        assert (k3 >= 0).all()

    def test_it_counts_the_tokens_that_the_model_drew(self, model: Path, adapter: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from pairwright.backends.hf import encode_texts, load_tokenizer, render

        said = "two plus two is"
        ask = Answered(0, says("four"), [said])
        policy = LocalModel(str(model), str(adapter), "float32")
        told = {
            ended: next(
                divergences([ask], {(0, 0): ended}, policy, LocalModel(str(model), None, "float32"), max_length=256)
            )
            for ended in (True, False)
        }
        tokenizer = load_tokenizer(str(model))
        prompt = encode_texts(tokenizer, [render(tokenizer, says("four"), add_generation_prompt=True)])[0]
        own = encode_texts(tokenizer, [said])[0]
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        held = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).eval()
        for ended, answer in ((True, [*own, end]), (False, own)):
            ids = torch.tensor([[*prompt, *answer]])
            target = torch.tensor(answer)

            def logps(ids: Any = ids, target: Any = target) -> Any:
                logits = held(ids).logits[0, len(prompt) - 1 : -1].double()
                return torch.log_softmax(logits, -1).gather(-1, target[:, None])[:, 0].detach().numpy()

            pi = logps()
            with held.disable_adapter():
                ref = logps()
            assert told[ended].n_tokens == len(answer)
            assert told[ended].kl == pytest.approx(float((np.exp(ref - pi) - 1 + pi - ref).sum()), rel=1e-4)

    def test_a_model_is_no_distance_from_itself_and_another_is(self, model: Path, tmp_path: Path) -> None:
        other = tiny_causal(tmp_path / "other", seed=1)
        ask = [Answered(0, says("four"), ["two", "plus two"])]
        same = LocalModel(str(model), None, "float32")
        assert [each.kl for each in divergences(ask, {}, same, same, max_length=128)] == pytest.approx([0, 0], abs=1e-9)
        apart = LocalModel(str(other), None, "float32")
        assert all(each.kl and each.kl > 0.1 for each in divergences(ask, {}, apart, same, max_length=128))

    def test_an_adapter_on_another_base_is_refused(self, model: Path, adapter: Path) -> None:
        with pytest.raises(ConfigError, match="its own base model"):
            next(divergences([], {}, LocalModel(str(model), str(adapter)), LocalModel("elsewhere"), max_length=64))


@pytest.mark.model
def test_a_policy_written_as_gguf_is_the_policy(tmp_path: Path) -> None:
    """Read back by transformers it has the merged weights, and the embedded engine draws from it."""
    from pairwright.backends.generate import load_merged
    from pairwright.backends.gguf_file import write_policy
    from pairwright.backends.openvino import EMBEDDED, OpenVINOSampler
    from pairwright.backends.plain import trainable
    from pairwright.errors import MissingDependency

    try:
        plain = trainable(EMBEDDED)
    except MissingDependency as missing:
        pytest.skip(str(missing))
    adapter = tiny_adapter(tmp_path / "adapter", Path(plain))
    policy = LocalModel(plain, str(adapter), "float32")
    file = write_policy(EMBEDDED, policy, tmp_path / "policy.gguf")
    wanted, found = (
        load_merged(policy, "float32").state_dict(),
        load_merged(LocalModel(str(file)), "float32").state_dict(),
    )
    for name, weight in wanted.items():
        assert torch.allclose(weight, found[name], rtol=1e-3, atol=1e-4), name
    base = load_merged(LocalModel(plain), "float32").state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(base[name], found[name], rtol=1e-3, atol=1e-4)
    drawn = list(OpenVINOSampler(str(file))([Ask(0, says("Say one word."), 2, 0)], Decoding(1.0, 1.0, 0, 4)))
    assert all(each.text is not None for each in drawn)
