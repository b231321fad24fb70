"""What every sampler must do, and what the embedded one does on a real model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pairwright.backends.fake import FakeSampler
from pairwright.backends.openvino import EMBEDDED, OpenVINOSampler, model_file
from pairwright.errors import ConfigError, MissingDependency
from pairwright.protocols import Ask, Decoding, Drawn, Sampler

SHORT = Decoding(max_tokens=12)


def asks(n: int = 3, prompts: int = 2, seed: int = 5) -> list[Ask]:
    return [Ask(i, [{"role": "user", "content": f"Say {i} words."}], n, seed + i) for i in range(prompts)]


@pytest.fixture(scope="module")
def openvino() -> Sampler:
    try:
        return OpenVINOSampler()
    except MissingDependency as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    pytest.importorskip("torch")
    from tiny_causal import tiny_causal

    from pairwright.backends.generate import LocalModel, TransformersSampler

    return TransformersSampler(LocalModel(str(tiny_causal(tmp_path_factory.mktemp("every") / "model"))))


@pytest.fixture(params=["fake", "transformers", pytest.param("openvino", marks=pytest.mark.model)])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return FakeSampler() if request.param == "fake" else request.getfixturevalue(request.param)


class TestEveryBackend:
    def test_every_draw_of_every_call_comes_back_once(self, sampler: Sampler) -> None:
        drawn = list(sampler(asks(), SHORT))
        assert sorted((each.key, each.draw) for each in drawn) == [(k, d) for k in range(2) for d in range(3)]

    def test_a_text_says_how_it_ended_and_how_long_it_is(self, sampler: Sampler) -> None:
        for each in sampler(asks(), SHORT):
            assert isinstance(each.text, str)
            assert each.finish_reason in {"stop", "length"}
            assert each.n_tokens is not None
            assert 0 < each.n_tokens <= SHORT.max_tokens + 1

    def test_a_cut_text_is_marked_as_cut(self, sampler: Sampler) -> None:
        drawn = list(sampler(asks(n=8), Decoding(max_tokens=3)))
        assert "length" in {each.finish_reason for each in drawn}

    def test_draws_of_one_call_differ(self, sampler: Sampler) -> None:
        assert len({each.text for each in sampler(asks(n=8, prompts=1), SHORT)}) > 3

    def test_another_seed_draws_another_text(self, sampler: Sampler) -> None:
        texts = [sorted(str(each.text) for each in sampler(asks(seed=seed), SHORT)) for seed in (5, 500)]
        assert texts[0] != texts[1]

    def test_no_calls_draw_nothing(self, sampler: Sampler) -> None:
        assert list(sampler([], SHORT)) == []

    def test_it_says_who_it_is_and_what_a_redraw_gives(self, sampler: Sampler) -> None:
        assert sampler.model
        assert sampler.fingerprint
        assert len(sampler.redraw) > 20


def test_the_fake_sampler_draws_the_same_alone_and_in_a_batch() -> None:
    together = [each for each in FakeSampler()(asks(), SHORT) if each.key == 1]
    assert together == list(FakeSampler()([asks()[1]], SHORT))


@pytest.mark.model
def test_a_prompt_that_exceeds_the_context_is_a_reason_not_a_crash(openvino: OpenVINOSampler) -> None:
    long = Ask(0, [{"role": "user", "content": "word " * 9000}], 2, 1)
    drawn = list(openvino([long, *[ask._replace(key=ask.key + 1) for ask in asks(n=1)]], SHORT))
    lost = [each for each in drawn if each.key == 0]
    assert [each.text for each in lost] == [None, None]
    assert all("prompt_too_long: 8192 or more tokens" in str(each.reason) for each in lost)
    assert len([each for each in drawn if each.text]) == 2


@pytest.mark.model
def test_the_real_chat_template_is_used(openvino: OpenVINOSampler) -> None:
    text = openvino.render([{"role": "user", "content": "Hi"}])
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert "SmolLM" in text


@pytest.mark.model
def test_greedy_decoding_answers_a_plain_question(openvino: OpenVINOSampler) -> None:
    ask = Ask(0, [{"role": "user", "content": "What is the capital of France?"}], 1, 0)
    (drawn,) = openvino([ask], Decoding(temperature=0, max_tokens=20))
    assert "Paris" in str(drawn.text)
    assert drawn.finish_reason == "stop"
    assert "<|im_end|>" not in str(drawn.text)


def test_the_same_run_gives_the_same_texts(sampler: Sampler) -> None:
    def run() -> list[Drawn]:
        return sorted(sampler(asks(n=4), SHORT))

    assert run() == run()


def test_a_model_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gguf"):
        model_file(str(tmp_path / "model.safetensors"))


def test_a_missing_model_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    finder: Callable[[str], None] = lambda _: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", finder)
    with pytest.raises(MissingDependency, match="pip install"):
        model_file(EMBEDDED)
