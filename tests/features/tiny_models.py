"""Tiny models of the real classes for texts, images and sounds, with random weights, in folders like the hub's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lirdrec.features.encoder import encode_rows
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder

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
    """Mllama, the class of Llama 3.2 Vision: images in tiles, read through cross-attention."""
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
    images = MllamaImageProcessorPil(size={"height": 16, "width": 16}, max_image_tiles=2)
    torch.manual_seed(seed)
    model = MllamaForConditionalGeneration(config)
    processor = MllamaProcessor(images, words, chat_template=CHAT.replace("IMAGE", "<|image|>"))
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
    images = CLIPImageProcessorPil(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
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


def mistral(folder: Path, words: Any = None, padding_side: str = "right") -> Path:
    """A decoder as e5-mistral is published: causal, its last token's vector; `words` default to `word_tokenizer`."""
    from transformers import MistralConfig, MistralForCausalLM

    words = words or word_tokenizer("mistral", padding_side)
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


def teach(folder: Path, prompt: str, images: list[Any], answers: list[str]) -> None:
    """Overfit a model of this file until it gives each image (all of one size) its answer; the folder is replaced."""
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
        images=[[one] for one in images], text=texts, padding=True, return_tensors="pt", add_special_tokens=False
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


WORDS = ["red", "blue", "boots", "tent", "lamp", "bike", "for", "two", "persons", "with", "and", "a", "the", "in", "of"]
WORDS += ["steel", "light", "rope"]
TEXTS = [
    "red boots",
    "a tent for two persons with light steel rope in the red bike lamp",
    "lamp",
    "bike bike bike",
    "the steel rope of a blue tent",
    "blue boots for the bike and a lamp for the tent and the rope",
]


def word_tokenizer(kind: str, padding_side: str = "right"):
    """A word tokenizer with BERT's special tokens, or with the beginning and end of e5-mistral."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    first, last = ("[CLS]", "[SEP]") if kind == "bert" else ("<s>", "</s>")
    names = ["[PAD]", "[UNK]", first, last, "Instruct", "Query", ":", "find", *WORDS]
    vocabulary = {name: index for index, name in enumerate(names)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])]
    )
    special = {"cls_token": first, "sep_token": last} if kind == "bert" else {"bos_token": first, "eos_token": last}
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="[UNK]",
        pad_token="[PAD]",
        padding_side=padding_side,
        model_max_length=64,
        **special,
    )


def bert(folder: Path, **options) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        **options,
    )
    BertModel(config).save_pretrained(folder)
    word_tokenizer("bert").save_pretrained(folder)
    return folder


def modules(folder: Path, *names: str, pooling: str = "mean", prompts: dict | None = None, **settings) -> Path:
    """The configuration of sentence-transformers beside a bare model."""
    listed = []
    for index, name in enumerate(names):
        path = "" if index == 0 else f"{index}_{name}"
        listed.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"})
        (folder / path).mkdir(exist_ok=True)
        if name == "Pooling":
            hidden = json.loads((folder / "config.json").read_text())["hidden_size"]
            modes = {
                f"pooling_mode_{one}": one.startswith(pooling) for one in ("cls_token", "mean_tokens", "lasttoken")
            }
            settings_ = {
                "word_embedding_dimension": hidden,
                **modes,
                "include_prompt": settings.get("include_prompt", True),
            }
            (folder / path / "config.json").write_text(json.dumps(settings_))
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    return folder


def alone(encoder: SentenceEncoder, texts: list[str]) -> np.ndarray:
    return np.stack([encode_rows(encoder, [text], 1).vectors[0] for text in texts])


def library(folder: Path, texts: list[str], **options) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(texts, **options)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
