"""Tiny reward models with random weights and a tokenizer trained on the spot: healthy ones, and ones to go wrong with.

Weights are large enough that attention and position matter: scores of the self-test's texts lie about one apart.
"""

from pathlib import Path
from typing import Any

from pairwright.backends.hf import quiet

TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>"
CHATML = "{% for m in messages %}" + TURN + "\n{% endfor %}"
ENDS_WITH_EOS = "{% for m in messages %}" + TURN + "{% endfor %}"
TEXTS = [
    "What is two plus two? Two plus two is four.",
    "The ship left the harbour before dawn, and nobody on the quay saw which way it turned.",
    "I am looking for a present for my sister. Then a field guide to the birds of her country would be a good choice.",
    "user assistant system Hello. Hi",
]
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.15}
WIDE = {"intermediate_size": 128, "num_key_value_heads": 2}
KINDS = {
    "llama": ("Llama", {**SIZE, **WIDE, "max_position_embeddings": 512}),
    "qwen2": ("Qwen2", {**SIZE, **WIDE, "max_position_embeddings": 512}),
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.15}),
    "bert": ("Bert", {**SIZE, "intermediate_size": 128, "max_position_embeddings": 512}),
}
DECODERS = ("llama", "qwen2", "gpt2")


def tiny_tokenizer(*, template: str | None = CHATML, pad: str | None = "<pad>", bos: str | None = None) -> Any:
    """Byte-level BPE with <|im_end|> as EOS. With `bos` a tokenizer that adds it by itself, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXTS, trainer)
    if bos is not None:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, special.index(bos))]
        )
    named = {name: token for name, token in (("pad_token", pad), ("bos_token", bos)) if token is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", **named)
    tokenizer.chat_template = template
    return tokenizer


def tiny_reward(
    folder: Path, kind: str = "llama", *, tokenizer: Any = None, dtype: str = "float32", seed: int = 0, **config: Any
) -> Path:
    """A reward model saved in `folder`; further arguments go into its configuration (num_labels=1 where not given)."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = tokenizer if tokenizer is not None else tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    name, size = KINDS[kind]
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = {
        **size,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        **special,
        "num_labels": 1,
    }
    made = getattr(transformers, f"{name}Config")(**{**settings, **config})
    model = getattr(transformers, f"{name}ForSequenceClassification")(made)
    with quiet():
        model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder
