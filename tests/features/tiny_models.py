"""Tiny multimodal language models of the real classes, with random weights, in folders like those of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(texts: list[str], image_token: str, size: int = 400) -> Any:
    """A byte-level tokenizer that knows the words of `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|begin|>", "<|eot|>", image_token, "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|begin|>",
        eos_token="<|eot|>",
        pad_token="<|pad|>",
        extra_special_tokens={"image_token": image_token},
    )


def mllama(folder: Path, texts: list[str], seed: int = 0) -> Path:
    """Mllama, the class of Llama 3.2 Vision: pictures in tiles, read through cross-attention."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    words = tokenizer(texts, "<|image|>")
    size = len(words)
    config = MllamaConfig(
        image_token_index=words.convert_tokens_to_ids("<|image|>"),
        text_config={
            "vocab_size": size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1],
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            **_ids(words),
        },
        vision_config={
            "hidden_size": 16,
            "attention_heads": 2,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "vision_output_dim": 32,
            "image_size": 16,
            "patch_size": 8,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
    )
    pictures = MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=2)
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(config)
    processor = MllamaProcessor(pictures, words, chat_template=CHAT.replace("IMAGE", "<|image|>"))
    return _save(folder, model, processor, words)


def llava(folder: Path, texts: list[str], chat: bool = True, seed: int = 0) -> Path:
    """LLaVA: a CLIP tower whose patches become tokens of the text; `chat` off: a processor without a chat template."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(texts, "<image>")
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        **_ids(words),
    )
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    pictures = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        pictures,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>") if chat else None,
    )
    torch.manual_seed(seed)
    return _save(folder, LlavaForConditionalGeneration(config), processor, words)


def _ids(words: Any) -> dict[str, int]:
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def _save(folder: Path, model: Any, processor: Any, words: Any) -> Path:
    for name, value in _ids(words).items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def mistral(folder: Path, words: Any) -> Path:
    """A decoder as e5-mistral is published: causal, its last token's vector."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=max(40, len(words)),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        initializer_range=0.3,
        sliding_window=None,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def teach(folder: Path, prompt: str, pictures: list[Any], answers: list[str]) -> None:
    """Overfit a model of this file until it gives each picture (all of one size) its answer; the folder is replaced."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).train()
    words = processor.tokenizer
    for name, weight in model.named_parameters():
        if "gate" in name:  # Mllama begins blind
            torch.nn.init.ones_(weight)
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(said, add_generation_prompt=True)
    texts = [f"{text}{answer}<|eot|>" for answer in answers]
    words.padding_side = "right"
    batch = processor(
        images=[[one] for one in pictures], text=texts, padding=True, return_tensors="pt", add_special_tokens=False
    )
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, : len(words(text, add_special_tokens=False).input_ids)] = -100
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.95))
    for _ in range(300):
        loss = model(**batch, labels=labels).loss
        if loss.item() < 0.03:
            break
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.save_pretrained(folder)
