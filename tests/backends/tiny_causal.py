"""Tiny causal models with random weights, and adapters for them. Weights are large enough that attention matters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# ends the prompt with an empty thought that a finished conversation does not have
THINKS = CHATML.replace("assistant\n{% endif", "assistant\n<think></think>\n{% endif")
TEXTS = [
    "What is two plus two? Two plus two is four.",
    "The ship left the harbour before dawn, and nobody on the quay saw which way it turned.",
    "A field guide to the birds of her country would be a good choice. user assistant system",
]
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
WIDE = {**SIZE, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 512}
CAPPED = {"head_dim": 16, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", WIDE),
    "qwen2": ("Qwen2", WIDE),
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.2}),
    "gemma2": ("Gemma2", {**WIDE, **CAPPED, "sliding_window": 16}),
    "mistral": ("Mistral", {**WIDE, "sliding_window": 12}),
    "mixtral": ("Mixtral", {**WIDE, "num_local_experts": 4, "sliding_window": None}),
    "granite": ("Granite", {**WIDE, "logits_scaling": 7.0, "embedding_multiplier": 3.0, "attention_multiplier": 0.4}),
    "gptoss": ("GptOss", {**WIDE, "head_dim": 16, "num_local_experts": 4, "sliding_window": 16}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}),
}


def tiny_tokenizer(template: str = CHATML) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.chat_template = template
    return tokenizer


def tiny_causal(
    folder: Path, kind: str = "llama", *, template: str = CHATML, seed: int = 0, dtype: str = "float32", **config: Any
) -> Path:
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer(template)
    tokenizer.save_pretrained(folder)
    name, size = KINDS[kind]
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    made = getattr(transformers, f"{name}Config")(**{**size, "vocab_size": len(tokenizer), **ids, **config})
    model = (getattr(transformers, f"{name}ForCausalLM", None) or transformers.GPT2LMHeadModel)(made)
    with torch.no_grad():
        for parameter in model.parameters():  # also biases and norms, which start at 0 and 1
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def tiny_adapter(folder: Path, model: Path, *, targets: Sequence[str] = ("q_proj", "v_proj"), seed: int = 1) -> Path:
    """A LoRA whose both factors are random, so that it changes what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder
