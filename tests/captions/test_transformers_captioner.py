"""Captions by models of the real classes in this process: Mllama, taught what to say, and LLaVA with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

from lirdrec.captions.pipeline import captioning
from lirdrec.captions.prompt_attributes import Attributes, render
from lirdrec.captions.transformers_captioner import TransformersCaptioner
from lirdrec.data.dataset import Dataset
from lirdrec.data.images import with_images
from lirdrec.errors import ConfigError, DataError, TrainingError

from ..features import tiny_models
from ..helpers import assert_error

ATTRIBUTES = Attributes("See.", "English", 2, {"colour": "main one", "kind": "what"})
PROMPT = render(ATTRIBUTES)
SAID = {"red": {"colour": "red", "kind": "a tile"}, "blue": {"colour": "deep blue", "kind": "a rug"}}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in SAID:
        Image.new("RGB", (24, 16), name).save(folder / f"{name}.png")
    Image.effect_noise((50, 30), 80).convert("RGB").save(folder / "noise.png")
    Image.linear_gradient("L").resize((16, 40)).save(folder / "high.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return folder


@pytest.fixture(scope="module")
def taught(tmp_path_factory, images) -> Path:
    """A tiny Mllama that knows the red and the blue image."""
    answers = [json.dumps(said) for said in SAID.values()]
    folder = tiny_models.mllama(tmp_path_factory.mktemp("mllama"), [PROMPT, *answers])
    tiny_models.teach(folder, PROMPT, [Image.open(images / f"{name}.png") for name in SAID], answers)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return tiny_models.llava(tmp_path_factory.mktemp("llava"), [PROMPT])


def captioner(folder: Path, **options) -> TransformersCaptioner:
    return TransformersCaptioner(PROMPT, str(folder), **{"precision": "float32", "max_tokens": 24, **options})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mllama_from_images_to_columns(tmp_path, taught, images, precision):
    """End to end through the classes of Llama 3.2 Vision; what it should say is known, since it was taught it."""
    shown = ["blue", "red", "broken", "red", "blue", "blue"]
    items = pl.DataFrame({"item": range(6), "image": [f"{n}.jpg" if n == "broken" else f"{n}.png" for n in shown]})
    data = with_images(Dataset.from_frames({"user": [0] * 6, "item": range(6)}, items=items, split="none"), images)
    folder = data.save(tmp_path / "data")
    by = captioner(taught, precision=precision, max_tokens=40)
    with captioning(folder, by, ATTRIBUTES) as job:
        job.work()
        outcome = job.finish()
    captions = Dataset.load(folder).item_table["caption"].to_list()
    expected = {"red": "Colour: red. Kind: a tile.", "blue": "Colour: deep blue. Kind: a rug."}
    assert captions == [expected.get(name) for name in shown]
    assert outcome.problems == 1 and "broken.jpg" in (folder / "captions.problems.csv").read_text()
    noted = Dataset.load(folder).info["captions"]
    assert noted["precision"] == precision and len(noted["fingerprint"]) == 64
    assert noted["model"] == taught.name and str(taught) not in (folder / "manifest.json").read_text()


@pytest.mark.parametrize("family", ["taught", "llava"])
def test_batches_say_what_the_library_says_of_each_image_alone(request, images, family):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = request.getfixturevalue(family)
    paths = [images / name for name in ("noise.png", "blue.png", "high.png", "red.png", "noise.png")]
    answers = captioner(folder, batch_size=3).caption(paths)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()
    for path, answer in zip(paths, answers, strict=True):
        content = [{"type": "image", "image": Image.open(path).convert("RGB")}, {"type": "text", "text": PROMPT}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(**inputs, do_sample=False, max_new_tokens=24)
        assert answer.text == processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer.tokens_in == inputs["input_ids"].shape[1] and 0 < answer.tokens_out <= 24
    assert len({one.text for one in answers}) > 1  # it looks at the images


def test_a_processor_without_a_chat_template(tmp_path, images):
    folder = tiny_models.llava(tmp_path / "plain", [PROMPT], chat=False)
    one = captioner(folder)
    assert one._text == f"<image>\n{PROMPT}\n"
    (answer,) = one.caption([images / "noise.png"])
    ids = one._processor.tokenizer(one._text).input_ids
    assert answer.tokens_in == len(ids) + 4 - 1  # the mark becomes the patches of 2 × 2


def test_memory_that_runs_out_halves_the_batch(llava, images, monkeypatch):
    paths = [images / name for name in ("noise.png", "broken.jpg", "blue.png", "high.png", "red.png", "blue.png")]
    expected = [one.text for one in captioner(llava, batch_size=1).caption(paths)]
    generate, sizes = TransformersCaptioner._generate, []

    def scarce(self, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, batch)

    monkeypatch.setattr(TransformersCaptioner, "_generate", scarce)
    one = captioner(llava, batch_size=5)
    assert [answer.text for answer in one.caption(paths)] == expected
    assert sizes == [5, 2, 2, 1] and one.batch_size == 2
    monkeypatch.setattr(TransformersCaptioner, "_generate", lambda self, batch: [][1 << 99 :] if not batch else _full())
    with assert_error(TrainingError, mentions=["precision='bfloat16'", "device_map='auto'"]):
        captioner(llava, batch_size=4).caption(paths)


def _full():
    raise MemoryError


def test_a_folder_is_known_by_its_content(llava, tmp_path):
    copy = shutil.copytree(llava, tmp_path / "elsewhere")
    assert captioner(copy).identity == captioner(llava).identity
    settings = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps(settings | {"repetition_penalty": 1.1}))
    assert captioner(copy).identity != captioner(llava).identity


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"precision": "bfloat"}, ["precision", "'bfloat'", "'bfloat16'"]),
        ({"batch_size": 0}, ["batch_size", 0]),
        ({"max_tokens": 0}, ["max_tokens", 0]),
    ],
)
def test_options_that_are_wrong(options, facts):
    with assert_error(ConfigError, mentions=facts):
        captioner(Path("x"), **options)


def test_models_that_cannot_be_loaded_give_one_sentence(tmp_path, llava, images, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with assert_error(ConfigError, mentions=["nobody/nothing"]):
        captioner(Path("nobody/nothing")).identity  # noqa: B018
    half = shutil.copytree(llava, tmp_path / "half")
    (half / "tokenizer.json").unlink()
    with assert_error(ConfigError, mentions=[half]) as error:
        captioner(half).caption([images / "red.png"])
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with assert_error(DataError, mentions=[tmp_path / "empty"]):
        captioner(tmp_path / "empty").identity  # noqa: B018
