"""Tiny audio and image-text models of the real classes, with random weights, in folders like those of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .tiny_models import tokenizer

HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = {**HEADS, "hidden_size": 32, "intermediate_size": 40, "image_size": 32, "patch_size": 8}


def wav2vec2() -> tuple[Any, Any]:
    import transformers as t

    layers = {"conv_dim": (16, 16), "conv_stride": (5, 64), "conv_kernel": (10, 64), "num_feat_extract_layers": 2}
    places = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    config = t.Wav2Vec2Config(**HEADS, hidden_size=32, intermediate_size=40, **layers, **places)
    return t.Wav2Vec2Model(config), t.Wav2Vec2FeatureExtractor()


def whisper() -> tuple[Any, Any]:
    import transformers as t

    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 40))}
    sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32, "vocab_size": 60}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return t.WhisperForConditionalGeneration(t.WhisperConfig(**sizes, **ids)), t.WhisperFeatureExtractor()


def ast() -> tuple[Any, Any]:
    import transformers as t

    config = t.ASTConfig(**HEADS, hidden_size=32, intermediate_size=40, max_length=128, num_mel_bins=32)
    return t.ASTModel(config), t.ASTFeatureExtractor(max_length=128, num_mel_bins=32)


def clap() -> tuple[Any, Any]:
    import transformers as t

    text = {**HEADS, "vocab_size": 99, "hidden_size": 32, "intermediate_size": 40}
    audio = {"patch_embeds_hidden_size": 16, "hidden_size": 32, "depths": [1, 1], "num_attention_heads": [2, 4]}
    audio |= {"num_hidden_layers": 2, "window_size": 8}
    config = t.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    return t.ClapModel(config), t.ClapFeatureExtractor(truncation="rand_trunc")


def clip(folder: Path, texts: list[str]) -> Path:
    """A model with one part for texts and one for images."""
    import transformers as t
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = tokenizer(texts, "<image>")
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**HEADS, "hidden_size": 32, "intermediate_size": 40, "vocab_size": len(words)}
    config = t.CLIPConfig(
        text_config={**text, "max_position_embeddings": 32, **ids}, vision_config=TOWER, projection_dim=24
    )
    torch.manual_seed(5)
    t.CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    t.CLIPProcessor(images, words).save_pretrained(folder)
    return folder


AUDIO = {"wav2vec2": wav2vec2, "whisper": whisper, "ast": ast, "clap": clap}


def save_audio(name: str, folder: Path) -> Path:
    torch.manual_seed(3)
    for part in AUDIO[name]():
        part.save_pretrained(folder)
    return folder
