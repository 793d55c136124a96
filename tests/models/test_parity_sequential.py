"""Models of ordered histories against numbers of public code: states, loss and every gradient, in float64.

What `parity/next_item.npz` holds, and `parity/text_items.npz` for item vectors of UniSRec and WhitenRec:
parity/README.md. SASRec, whose variant no public code has, is compared with layers of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lirdrec.models.base import Features, ModelInputs
from lirdrec.models.bsarec import low_pass
from lirdrec.models.registry import build, config_type
from lirdrec.models.sequential import SequentialModel
from lirdrec.models.whitenrec import ZCA

PARITY = Path(__file__).parent / "parity"
TOLERANCE = 1e-10  # of the largest value; everything is float64
Arrays = Mapping[str, np.ndarray]
Values = Mapping[str, Callable[[Arrays], np.ndarray]]  # our parameter → its value, from arrays of the public code


def load(file: str = "next_item") -> Arrays:
    with np.load(PARITY / f"{file}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def under(arrays: Arrays, prefix: str) -> Arrays:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def close(ours: Any, theirs: Any, what: str) -> None:
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape, what
    difference = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)
    assert difference < TOLERANCE, f"{what}: off by {difference:.2e}"


def named(name: str, shape: tuple[int, ...] | None = None) -> Callable[[Arrays], np.ndarray]:
    return lambda theirs: theirs[name] if shape is None else theirs[name].reshape(shape)


def without_padding(name: str) -> Callable[[Arrays], np.ndarray]:
    """A table of the public code, whose row 0 is padding."""
    return lambda theirs: theirs[name][1:]


def joined(prefix: str, part: str) -> Callable[[Arrays], np.ndarray]:
    return lambda theirs: np.concatenate([theirs[f"{prefix}.{one}.{part}"] for one in ("query", "key", "value")])


def transformer(layers: int, item_table: str, positions: str, block: str, attention: str, hidden: str) -> Values:
    """Parameters of BSARec, but for those of the filter."""
    values = {
        "item_embedding": without_padding(item_table),
        "position": named(positions),
        "norm_input.weight": named("LayerNorm.weight"),
        "norm_input.bias": named("LayerNorm.bias"),
    }
    for number in range(layers):
        prefix, ours = block.format(number), f"blocks.{number}"
        for part in ("weight", "bias"):
            values |= {
                f"{ours}.attention_input.{part}": joined(prefix + attention, part),
                f"{ours}.attention_output.{part}": named(f"{prefix}{attention}.dense.{part}"),
                f"{ours}.norm_attention.{part}": named(f"{prefix}{attention}.LayerNorm.{part}"),
                f"{ours}.hidden.{part}": named(f"{prefix}{hidden}.dense_1.{part}"),
                f"{ours}.output.{part}": named(f"{prefix}{hidden}.dense_2.{part}"),
                f"{ours}.norm_output.{part}": named(f"{prefix}{hidden}.LayerNorm.{part}"),
            }
    return values


def bsarec(layers: int) -> Values:
    values = dict(
        transformer(
            layers,
            "item_embeddings.weight",
            "position_embeddings.weight",
            "blocks.{}.",
            "layer.attention_layer",
            "feed_forward",
        )
    )
    for number in range(layers):
        theirs = f"blocks.{number}.layer.filter_layer"
        values[f"blocks.{number}.root_beta"] = named(f"{theirs}.sqrt_beta", (8,))
        for part in ("weight", "bias"):
            values[f"blocks.{number}.norm_filter.{part}"] = named(f"{theirs}.LayerNorm.{part}")
    return values


def hstu() -> Values:
    values = {
        "item_embedding": without_padding("_embedding_module.table.weight"),
        "position": named("_input_features_preproc._pos_emb.weight"),
    }
    for number in range(2):
        ours, theirs = f"units.{number}", f"_hstu._attention_layers.{number}"
        values |= {
            f"{ours}.input_weight": named(f"{theirs}._uvqk"),
            # theirs has 2N - 1 distances, of later items too: N - 1 - r is that of an item r steps earlier
            f"{ours}.distance_bias": lambda a, theirs=theirs: a[f"{theirs}._rel_attn_bias._pos_w"][5::-1],
            f"{ours}.output_weight": named(f"{theirs}._o.weight"),
            f"{ours}.output_bias": named(f"{theirs}._o.bias"),
        }
    return values


SHAPE = {"embedding_size": 8, "max_length": 6, "dropout": 0.0, "n_layers": 2}
PRODUCT = SHAPE | {"similarity": "product", "temperature": 1.0}
CASES: Mapping[str, tuple[str, Mapping[str, Any], Values]] = {
    "gru4rec": (
        "gru4rec",
        PRODUCT | {"hidden_size": 10},
        {
            "item_embedding": without_padding("item_embedding.weight"),
            **{
                name: named(name.replace("network", "gru_layers"))
                for name in (f"network.weight_{kind}h_l{layer}" for kind in "ih" for layer in range(2))
            },
            "output_weight": named("dense.weight"),
            "output_bias": named("dense.bias"),
        },
    ),
    "sasrec_recbole": (
        "bsarec",
        PRODUCT | {"filter_weight": 0.0},
        transformer(
            2,
            "item_embedding.weight",
            "position_embedding.weight",
            "trm_encoder.layer.{}.",
            "multi_head_attention",
            "feed_forward",
        ),
    ),
    "bsarec": ("bsarec", PRODUCT | {"n_layers": 1, "filter_weight": 0.7, "cutoff": 3}, bsarec(1)),
    "hstu": ("hstu", SHAPE | {"similarity": "cosine", "temperature": 0.05}, hstu()),
}


def model(name: str, options: Mapping[str, Any], values: Values, theirs: Arrays) -> SequentialModel:
    items = torch.arange(12)
    inputs = ModelInputs(12, 12, items, items, {}, lambda *_: items[:, None], timestamps=items)
    ours = build(name, inputs, config_type(name)(**options)).double()
    assert isinstance(ours, SequentialModel)
    with torch.no_grad():
        for key, parameter in ours.named_parameters():
            if key in values:
                value = torch.from_numpy(np.ascontiguousarray(values[key](theirs)))
                assert parameter.shape == value.shape, key
                parameter.copy_(value)
            else:  # the filter of a network that does not use it
                assert name == "bsarec" and key.rsplit(".", 2)[-2] in ("norm_filter", "0", "1"), key
                parameter.fill_(torch.nan)
    return ours


@pytest.mark.parametrize("case", CASES)
def test_states_loss_and_gradients(case):
    """BSARec: the public code gets each history once for each prefix, padded in front with zeros."""
    name, options, values = CASES[case]
    arrays = load()
    ours = model(name, options, values, under(arrays, f"{case}/param/"))
    items = torch.from_numpy(arrays["items"])
    is_target = items[:, 1:] >= 0
    states = ours.states(ours.item_table()[items[:, :-1].clamp(min=0)], None)[is_target].detach()
    if options.get("similarity") == "cosine":  # theirs are normalized
        states = nn.functional.normalize(states, dim=-1)
    close(states, arrays[f"{case}/states"], "states")
    ours.start_epoch(1)
    loss = ours.loss(items, torch.zeros_like(items), torch.arange(len(items)))["loss"]
    close(loss.detach(), arrays[f"{case}/loss"], "loss")
    loss.backward()
    gradients, compared = under(arrays, f"{case}/grad/"), 0
    left_out = ("position", "norm_input.bias") if case == "bsarec" else ()  # 0 there, so that padding is 0
    for key, parameter in ours.named_parameters():
        if key in values and key not in left_out:
            close(parameter.grad, values[key](gradients), f"gradient of {key}")
            compared += 1
    assert compared == len(values) - len(left_out)


def test_bsarec_of_two_layers_whose_filter_keeps_all_frequencies():
    """Then no filter looks ahead, and every state of the public code is one of ours, positions included."""
    arrays = load()
    options = PRODUCT | {"filter_weight": 0.3, "cutoff": 7}
    ours = model("bsarec", options, bsarec(2), under(arrays, "bsarec_all/param/"))
    items = torch.from_numpy(arrays["items"][:2, :6])
    close(ours.states(ours.item_table()[items], None).detach(), arrays["bsarec_all/states"], "states")


def test_the_low_pass_is_the_last_row_of_a_fourier_filter():
    rows = under(load(), "low_pass/")
    assert len(rows) == 5
    for key, row in rows.items():
        length, cutoff = map(int, key.split("/"))
        filter_ = low_pass(length, cutoff)
        close(filter_[-1], row, key)
        assert torch.equal(filter_, filter_.tril())
        for shift in range(1, length):  # a convolution
            torch.testing.assert_close(filter_[-1 - shift, : length - shift], filter_[-1, shift:], rtol=0, atol=0)
        close(torch.fft.fft(filter_[-1]).abs()[: length // 2 + 1], np.arange(length // 2 + 1) <= cutoff // 2, key)


def test_sasrec_is_a_network_of_torch_with_norms_before_attention():
    options = PRODUCT | {"n_heads": 2}
    arrays = load()
    items = torch.from_numpy(arrays["items"])
    n = torch.arange(12)
    inputs = ModelInputs(12, 12, n, n, {}, lambda *_: n[:, None], timestamps=n)
    ours = build("sasrec", inputs, config_type("sasrec")(**options)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    network: Any = ours.network
    layers = []
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", 1e-5, batch_first=True, norm_first=True).double()
        pairs = [
            (layer.self_attn.in_proj_weight, block.attention_input.weight[0].T),
            (layer.self_attn.in_proj_bias, block.attention_input.bias[0, 0]),
            *((getattr(layer.norm1, a), getattr(block.norm_attention, b)[0]) for a, b in NORM),
            *((getattr(layer.norm2, a), getattr(block.norm_hidden, b)[0]) for a, b in NORM),
        ]
        for theirs, mine in (
            (layer.self_attn.out_proj, block.attention_output),
            (layer.linear1, block.hidden),
            (layer.linear2, block.output),
        ):
            pairs += [(theirs.weight, mine.weight[0].T), (theirs.bias, mine.bias[0, 0])]
        with torch.no_grad():
            for target, value in pairs:
                target.copy_(value)
        layers.append(layer)
    inputs_ = ours.item_embedding[items[:, :-1].clamp(min=0)] + network.position[0]
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    x = nn.functional.layer_norm(inputs_, (8,), network.norm_input.scale[0], network.norm_input.shift[0])
    for layer in layers:
        x = layer(x, src_mask=mask, is_causal=True)
    x = nn.functional.layer_norm(x, (8,), network.norm_output.scale[0], network.norm_output.shift[0])
    is_target = items[:, 1:] >= 0
    expected = nn.functional.cross_entropy(x[is_target] @ ours.item_embedding.T, items[:, 1:][is_target])
    close(ours.loss(items, items, items[:, 0])["loss"].detach(), expected.detach(), "loss")
    close(ours.states(ours.item_embedding[items[:, :-1].clamp(min=0)], None).detach(), x.detach(), "states")


NORM = (("weight", "scale"), ("bias", "shift"))


ITEMS_SHAPE = {"embedding_size": 4, "n_layers": 1, "n_heads": 1, "feature_dropout": 0.0, "dropout": 0.0}


def items_model(name: str, features: np.ndarray, **options: Any) -> Any:
    """The model for items with the features `(n, d)`, each of which occurs in training."""
    n = len(features)
    items = torch.arange(n)
    own = Features(torch.from_numpy(features), torch.ones(n, dtype=torch.bool))
    inputs = ModelInputs(n, n, items, items, {"text": own}, lambda *_: items[:, None], timestamps=items)
    return build(name, inputs, config_type(name)(**ITEMS_SHAPE, **options)).double()


def experts(part: str) -> Callable[[Arrays, str], np.ndarray]:
    return lambda theirs, prefix: np.stack([theirs[f"{prefix}/experts.{k}.{part}"] for k in range(3)])


def of_case(name: str, transposed: bool = False) -> Callable[[Arrays, str], np.ndarray]:
    return lambda theirs, prefix: theirs[f"{prefix}/{name}"].T if transposed else theirs[f"{prefix}/{name}"]


ADAPTOR = {
    "expert_weight": experts("lin.weight"),
    "expert_bias": experts("bias"),
    "gate_weight": of_case("w_gate", transposed=True),
    "noise_weight": of_case("w_noise", transposed=True),
}
HEAD = {
    f"projection_{part}.{layer}": of_case(f"mlp_layers.{1 + 3 * layer}.{part}")
    for layer in (0, 1)
    for part in ("weight", "bias")
}


def set_parameters(ours: Any, values: Mapping[str, Any], theirs: Arrays, prefix: str) -> None:
    parameters = dict(ours.named_parameters())
    with torch.no_grad():
        for key, value in values.items():
            given = torch.from_numpy(np.ascontiguousarray(value(theirs, prefix)))
            assert parameters[key].shape == given.shape, key
            parameters.pop(key).copy_(given)
    assert all(key.startswith("network.") for key in parameters)


@pytest.mark.parametrize("item_ids", [False, True])
def test_unisrec(item_ids):
    """Row 0 of the public code's table is its padding: one of the candidates, here an item without features."""
    arrays, case = load("text_items"), "unisrec_ids" if item_ids else "unisrec"
    ours = items_model("unisrec", arrays["features"], n_experts=3, temperature=0.07, item_ids=item_ids)
    values = ADAPTOR | ({"item_embedding": of_case("item_embedding")} if item_ids else {})
    set_parameters(ours, values, arrays, f"{case}/param")
    ours.draw_noise = lambda n: torch.from_numpy(arrays[f"{case}/noise"])
    states = torch.from_numpy(arrays["states"])
    loss = ours._softmax(states, ours.item_table(), torch.from_numpy(arrays["targets"]), None)
    close(loss.detach(), arrays[f"{case}/loss"], "loss")
    loss.backward()
    parameters = dict(ours.named_parameters())
    for key, value in values.items():
        close(parameters[key].grad, value(arrays, f"{case}/grad"), f"gradient of {key}")
    ours.eval()
    with torch.no_grad():
        table = ours.item_table()
        close(table, arrays[f"{case}/table"], "item vectors")
        close(ours.comparable(states) @ ours.comparable(table).T, arrays[f"{case}/scores"], "scores")


@pytest.mark.parametrize(
    ("name", "options"),
    [("sasrec_features", {}), ("whitenrec", {"n_groups": 4}), ("whitenrec_plus", {"n_groups": 4})],
)
def test_whitened_and_projected_items(name, options):
    arrays = load("text_items")
    ours = items_model(name, arrays["features"][1:], **options)
    set_parameters(ours, HEAD, arrays, "head/param")
    table = ours.item_table()
    close(table.detach(), arrays[f"{name}/table"], "item vectors")
    (table * torch.from_numpy(arrays["probe"])).sum().backward()
    parameters = dict(ours.named_parameters())
    for key, value in HEAD.items():
        close(parameters[key].grad, value(arrays, f"{name}/grad"), f"gradient of {key}")


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_group_whitening(groups):
    arrays = load("text_items")
    ours = items_model("whitenrec", arrays["features"][1:], n_groups=groups)
    (whitened,) = ours.projection_inputs(ours.features)
    close(whitened, arrays[f"whitened/{groups}"], "whitened features")
    for block in whitened.tensor_split(groups, dim=1):
        close(block.T @ block / len(block), np.eye(block.shape[1]), "covariance within a group")


def test_directions_without_variance_become_zero():
    """12 columns of rank 5: the public code divides by the root of rounding errors."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 5, generator=generator).double() @ torch.randn(5, 12, generator=generator).double()
    own = Features(values, torch.ones(20, dtype=torch.bool))
    zca = ZCA(12, torch.float64)
    zca.fit(own)
    whitened = zca(own).values
    close(torch.linalg.eigvalsh(whitened.T @ whitened / 20), [0] * 7 + [1] * 5, "variances")
