"""Loading helpers: where a model lies, what its hash covers, and which tokens a conversation becomes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_reward import CHATML, tiny_reward, tiny_tokenizer

from pairwright.backends import hf
from pairwright.errors import BackendError, ConfigError, MissingDependency

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_reward(tmp_path_factory.mktemp("model"))


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


class TestWhere:
    def test_a_folder_is_itself_and_a_gguf_file_is_named_in_its_folder(self, folder: Path, tmp_path: Path) -> None:
        assert hf.where(str(folder)) == (str(folder), {})
        file = tmp_path / "model.gguf"
        file.write_bytes(b"GGUF")
        assert hf.where(str(file)) == (str(tmp_path), {"gguf_file": "model.gguf"})

    @pytest.mark.parametrize("model", ["/no/such/folder", "./here", "name", "a/b/c"])
    def test_what_can_be_no_model_is_an_error(self, model: str) -> None:
        with pytest.raises(ConfigError, match="neither a folder"):
            hf.where(model)

    def test_a_gguf_file_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no file"):
            hf.where(str(tmp_path / "model.gguf"))

    def test_a_name_is_left_to_the_hub(self) -> None:
        assert hf.where("owner/model") == ("owner/model", {})


class TestHashes:
    def test_the_hash_names_weights_configuration_and_what_else_decides(self, folder: Path, tmp_path: Path) -> None:
        base = hf.model_hash(str(folder))
        same = copied(folder, tmp_path / "same")
        assert hf.model_hash(str(same)) == base
        assert hf.model_hash(str(folder), "bfloat16") != base
        for name in ("model.safetensors", "config.json"):
            other = copied(folder, tmp_path / name)
            data = bytearray((other / name).read_bytes())
            data[-2] ^= 1
            (other / name).write_bytes(data)
            assert hf.model_hash(str(other)) != base

    def test_a_file_that_decides_nothing_is_not_hashed(self, folder: Path, tmp_path: Path) -> None:
        other = copied(folder, tmp_path / "other")
        (other / "README.md").write_text("A model.")
        assert hf.model_hash(str(other)) == hf.model_hash(str(folder))

    def test_the_template_hash_names_template_and_special_tokens(self) -> None:
        base = hf.template_hash(tiny_tokenizer())
        assert hf.template_hash(tiny_tokenizer()) == base
        others = [
            hf.template_hash(tiny_tokenizer(template=CHATML + " ")),
            hf.template_hash(tiny_tokenizer(pad="<|im_end|>")),
            hf.template_hash(tiny_tokenizer(bos="<s>")),
            hf.template_hash(tiny_tokenizer(), "max_length=512"),
        ]
        assert len({base, *others}) == 5


class TestTokens:
    def test_special_tokens_are_those_that_the_template_writes(self) -> None:
        for bos in (None, "<s>"):
            tokenizer = tiny_tokenizer(template="{{ bos_token or '' }}" + CHATML, bos=bos)
            ids = hf.encode(tokenizer, TALK)
            text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
            assert tokenizer.decode(ids) == (bos or "") + text

    def test_many_texts_are_encoded_as_one_by_one(self) -> None:
        tokenizer = tiny_tokenizer(bos="<s>")
        talks = [TALK, TALK[:1], [{"role": "user", "content": "数 é 🙂"}]]
        together = hf.encode_texts(tokenizer, [hf.render(tokenizer, talk) for talk in talks])
        assert together == [hf.encode(tokenizer, talk) for talk in talks]
        assert hf.encode_texts(tokenizer, []) == []

    def test_a_tokenizer_without_template_is_refused(self, tmp_path: Path) -> None:
        tiny_tokenizer(template=None).save_pretrained(tmp_path)
        with pytest.raises(BackendError, match="missing_template"):
            hf.load_tokenizer(str(tmp_path))

    def test_a_folder_without_tokenizer_is_an_error_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match=r"the tokenizer of .* cannot be loaded") as told:
            hf.load_tokenizer(str(tmp_path))
        assert "\n" not in str(told.value)


class TestDevices:
    def test_a_named_device_is_taken_as_it_is(self) -> None:
        import torch

        assert hf.pick_device("cpu") == "cpu"
        assert hf.pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")

    def test_precision_is_named_without_its_package(self) -> None:
        import torch

        assert hf.dtype_name(torch.bfloat16) == "bfloat16"

    def test_memory_is_told_from_other_failures(self) -> None:
        import torch

        assert hf.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
        assert hf.is_out_of_memory(MemoryError())
        assert not hf.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        assert not hf.is_out_of_memory(ValueError("can't allocate memory"))

    def test_the_allocator_of_the_cpu_is_understood(self) -> None:
        import torch

        with pytest.raises(RuntimeError) as told:
            torch.empty(1 << 55)
        assert hf.is_out_of_memory(told.value)


@pytest.mark.parametrize("fails", [False, True])
def test_quiet_gives_back_what_was_set(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import logging

    def settings() -> tuple[Any, Any]:
        return logging.get_verbosity(), logging.is_progress_bar_enabled()

    logging.set_verbosity_info()
    logging.enable_progress_bar()
    before = settings()
    try:
        with hf.quiet():
            assert settings() == (logging.ERROR, False)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert settings() == before
    logging.set_verbosity_warning()


def test_what_is_not_installed_is_named_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hf.needs_transformers()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(MissingDependency, match="torch is not installed; run: pip install torch"):
        hf.needs_transformers()
