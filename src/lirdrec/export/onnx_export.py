"""Export LIRDRec's item encoder as ONNX: it maps raw features of new items to vectors, without Python and PyTorch.

There are two graphs; for the symbols see `models/lirdrec.py`. Each input has the features of one modality, `(n, d_m)`
float32, with rows of zeros for items without them.

- `item_branches.onnx` contains only the network. It returns `branches` `(n, K, e)`: the normalized vector `z` of each
  modality and of the shared branch, whose DCT is part of its weights.
- `item_vector.onnx` does the same as `Model.add_items` for items that are added one by one. It also contains the
  features and the smoothed vectors (`item_smoothed_l`) of the catalog at export time, finds the nearest items of each
  new item, and returns `vector` `(n, D)` and `branches`. Items of the same call are not neighbors of each other. If
  the run's `NewItemEncoder` mixes the vectors of new items with the vectors of the nearest trained items, the graph
  does this, too. If the model has content vectors (principal components of the features), they are the last columns of
  `vector`. The metadata of the file contains the offset that is to be added to the scores of new items.

A graph is built operator by operator; large tables are written block by block to a file beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lirdrec.data.features import FeatureMatrix, row_blocks
from lirdrec.errors import CapabilityError, ConfigError
from lirdrec.export.vectors import Vectors
from lirdrec.models.feature_reduction import PCA
from lirdrec.models.lirdrec import LIRDRec
from lirdrec.nn.dct import idct
from lirdrec.nn.normalize_and_dropout import EPSILON
from lirdrec.nn.principal_components import Projection
from lirdrec.recommender.new_item_encoder import SHARPNESS, NewItemEncoder
from lirdrec.recommender.recommender import Recommender

OPSET, IR = 18, 8  # versions of early 2023, which all current runtimes support
ALIGNED = 4096  # bytes; lets a runtime memory-map a table


class Graph:
    """An ONNX graph of operators on float32 tensors, addressed by name.

    Args:
        path: the .onnx file to write; the arrays of `table` are written to a .bin file of the same name.

    Raises:
        ConfigError: onnx is not installed.
    """

    def __init__(self, path: Path):
        try:
            import onnx
        except ImportError:
            raise ConfigError('the item encoder as ONNX needs onnx: pip install "lirdrec[onnx]"') from None
        self._onnx: Any = onnx
        self._path, self._tables = path, path.with_suffix(".bin")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> Any:
        """Add an operator to the graph, and return the name of its result; with several `outputs`, a list of names."""
        name = name or f"{operator}_{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{number}" for number in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """Add an array to the .onnx file, and return its name; floats become float32, integers stay as they are."""
        array = np.array(value, order="C")
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def table(self, shape: Sequence[int], blocks: Iterable[np.ndarray]) -> str:
        """Add an array of this shape to the .bin file, and return its name; `blocks` are its rows, as float32."""
        name = f"constant_{len(self._constants)}"
        with self._tables.open("ab") as file:
            file.write(b"\0" * (-file.tell() % ALIGNED))
            start = file.tell()
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype="<f4").data)
            length = file.tell() - start
        tensor = self._onnx.TensorProto(name=name, data_type=self._onnx.TensorProto.FLOAT, dims=shape)
        tensor.data_location = self._onnx.TensorProto.EXTERNAL
        for key, value in (("location", self._tables.name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._constants.append(tensor)
        return name

    def save(
        self,
        inputs: dict[str, Sequence[Any]],
        outputs: dict[str, Sequence[Any]],
        doc: str,
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Write the .onnx file and check it. `inputs` and `outputs`: name → shape; a string is a variable length."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        ends = [[helper.make_tensor_value_info(n, kind, s) for n, s in side.items()] for side in (inputs, outputs)]
        graph = helper.make_graph(self._nodes, self._path.stem, *ends, self._constants, doc_string=doc)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name="lirdrec")
        helper.set_model_props(model, metadata or {})
        self._onnx.save(model, str(self._path))
        self._onnx.checker.check_model(str(self._path), full_check=True)


ABSENT = -1e30  # smaller values mark absent items

README = """\
item_branches.onnx   from raw features to the {k} branch vectors of {e} numbers each: {branches}
item_vector.onnx     the same, then with the neighbors in the catalog to the item vector of {width} numbers
item_vector.bin      its data: features and vectors of the catalog's {n_items:,} items at export time

Inputs, float32, a row per new item: {inputs}
They are raw features from the same encoders as the catalog's features; the encoders are not included. Items without
a modality have a row of zeros; each item needs at least one modality.

    import onnxruntime

    session = onnxruntime.InferenceSession("item_vector.onnx")
    vector, branches = session.run(["vector", "branches"], features)

with features = {{{example}}}.

A vector equals that of lirdrec add-items for this item alone; items of one call are not neighbors of each other. It
scores by inner products with the users' vectors (lirdrec export --format npy) and can be added to an index of items.
Vectors of existing items do not change.
"""
OFFSET = """
Simulated launches gave new items an offset, which is added to their scores: {offset!r} (also in the metadata of
item_vector.onnx, as "offset"). The vectors of the other exports have it as one more column at the end, which is 1 for
users. So add it to the vectors of new items, too:

    import numpy as np

    offset = np.float32(session.get_modelmeta().custom_metadata_map["offset"])
    row = np.hstack([vector, np.full((len(vector), 1), offset)])
"""


def write_onnx(recommender: Recommender, vectors: Vectors, folder: Path) -> str:
    """Write item_branches.onnx, item_vector.onnx and item_vector.bin; return the text for README.txt.

    `vectors` only says whether the scores have offsets.

    Raises:
        CapabilityError: the model is not LIRDRec or cannot encode single items (dct="matrix"), or the run is stripped.
        ConfigError: onnx is not installed.
        RunFolderError: the features that the run was trained with are missing.
    """
    name = recommender.info.get("model", "this model")
    model = recommender.model("export its item encoder")
    if not isinstance(model, LIRDRec):
        raise CapabilityError(f"the item encoder of {name} cannot be exported; only the model lirdrec can be exported")
    if model.config.dct == "matrix":
        raise CapabilityError(
            'dct="matrix" mixes all training items, so there is no encoder of single items to export; train with'
            " another dct"
        )
    encoder = _Encoder(model, Graph(folder / "item_branches.onnx"))
    encoder.branches()
    encoder.save({"branches": encoder.shape}, "LIRDRec: from raw features to branch vectors")
    encoder = _Encoder(model, Graph(folder / "item_vector.onnx"))
    encoder.vector(recommender)
    width = recommender.scorer.tensors()["items"].shape[1]
    outputs: dict[str, Any] = {"vector": ["n", width], "branches": encoder.shape}
    mixture = recommender.new_item_encoder or NewItemEncoder()
    doc = "LIRDRec: from raw features to the vectors of items that are added one by one"
    encoder.save(outputs, doc, {"offset": repr(mixture.offset)})
    readme = README.format(
        k=len(model.branches),
        e=model.config.embedding_size,
        branches=", ".join(model.branches),
        width=width,
        n_items=recommender.n_items,
        inputs=", ".join(f"{m} (n, {width})" for m, width in encoder.widths.items()),
        example=", ".join(f'"{m}": …' for m in model.modalities),
    )
    return readme + (OFFSET.format(offset=mixture.offset) if vectors.has_offsets else "")


class _Encoder:
    """Adds the computations of `LIRDRec.item_branches` and `LIRDRec.add_items` to a graph.

    The docstrings describe the results that the graph computes; the methods return the names of these results.
    """

    def __init__(self, model: LIRDRec, graph: Graph):
        self.model, self.graph = model, graph
        columns = {m: f.values.shape[1] for m, f in zip(model.modalities, model.features, strict=True)}
        self.projections = {m: p for m, p in model.inputs.projections.items() if m in columns}
        self.widths = columns | {m: len(p.offset) for m, p in self.projections.items()}  # of the inputs
        self.shape = ["n", len(model.branches), model.config.embedding_size]
        self.present = {m: self._presence(m) for m in model.modalities}  # (n, 1), 0 or 1
        self.features = {m: self._projected(m) for m in model.modalities}  # as the model reads them
        self.cosines: dict[str, str] = {}  # (n, I) of each modality that needs them; see `_cosine`

    def save(self, outputs: dict[str, Any], doc: str, metadata: dict[str, str] | None = None) -> None:
        self.graph.save({m: ["n", width] for m, width in self.widths.items()}, outputs, doc, metadata)

    def branches(self) -> str:
        """The branches `(n, K, e)`, put side by side: `(n, K·e)`."""
        model, add = self.model, self.graph.add
        inputs = [self._reduced(row, m) for row, m in enumerate(model.modalities)]
        hidden = [self._linear(x, model.hidden_weight[r], model.hidden_bias[r]) for r, x in enumerate(inputs)]
        if model.config.dct is not None:
            parts = [self._linear(x, idct(model.shared_weight[r])) for r, x in enumerate(inputs)]
            hidden.append(add("Add", add("Sum", *parts), self._weights(model.hidden_bias[-1])))
        outputs = []
        for row, (branch, pre) in enumerate(zip(model.branches, hidden, strict=True)):
            z = self._linear(add("LeakyRelu", pre, alpha=0.01), model.output_weight[row])
            outputs.append(self._normalized(add("Mul", z, self.present[branch]) if branch in self.present else z))
        side_by_side: str = add("Concat", *outputs, axis=1)
        add("Reshape", side_by_side, self.graph.constant([-1, *self.shape[1:]]), name="branches")
        return side_by_side

    def _reduced(self, row: int, modality: str) -> str:
        """The features of a modality, reduced to the columns that the branches read (principal components)."""
        reduction = None if self.model.config.feature_columns is None else self.model.reductions[row]
        features = self.features[modality]
        if not isinstance(reduction, PCA):
            return features
        return self._components(features, reduction.mean, reduction.directions, modality)

    def _projected(self, modality: str) -> str:
        projection = self.projections.get(modality)
        if projection is None:
            return modality
        return self._components(modality, projection.offset, projection.directions, modality)

    def _components(self, x: str, offset: Tensor, directions: Tensor, modality: str) -> str:
        centered = self.graph.add("Sub", x, self._weights(offset))
        return str(self.graph.add("Mul", self._linear(centered, directions.T), self.present[modality]))

    def vector(self, recommender: Recommender) -> None:
        """Add the item vector `(n, D)` to the graph.

        The branches and the messages of the nearest items (Eq. 17) are added, and the sum is mixed with the vectors of
        trained items. The last columns are the content vectors (principal components of features), if there are any.
        """
        model, add = self.model, self.graph.add
        branches, first = self.branches(), model.layer_weights.numbers()[0]
        if first != 1:  # the weight of layer 0, the only layer of a node without edges
            branches = add("Mul", branches, self.graph.constant(first))
        smoothed, neighbors = branches, self._neighbors(recommender)
        memory = recommender.scorer.tensors()
        for layer in range(model.config.n_item_layers):
            states = memory[f"memory.item_smoothed_{layer}"].cpu().numpy()
            level = self.graph.table(states.shape, (block for _, block in row_blocks(states)))
            terms = []
            for share, items, weights in neighbors:
                terms.append(add("Mul", smoothed, share))
                if items is not None:
                    near = add("Gather", level, items, axis=0)  # (n, k-1, D)
                    product = add("MatMul", self._along_columns("Unsqueeze", weights), near)
                    terms.append(self._along_columns("Squeeze", product))
            smoothed = add("Sum", *terms)
        content = add("Add", branches, smoothed)
        if model.config.scoring == "cosine":
            content = self._normalized(content)
        learned = self._mixed(content, recommender)
        add("Identity", self._with_content(learned, recommender) if model.has_content else learned, name="vector")

    def _with_content(self, learned: str, recommender: Recommender) -> str:
        """The result of `NewItemEncoder.new_vectors`: learned vectors `(n, K·e)` and content vectors `(n, C)`, side by
        side, each multiplied by its weight."""
        model, graph, add = self.model, self.graph, self.graph.add
        encoder, parts = recommender.new_item_encoder or NewItemEncoder(), []
        for (m, weight), reduction in zip(model.weights.items(), model.content_reductions, strict=True):
            assert isinstance(reduction, PCA)
            part = self._normalized(self._components(self.features[m], reduction.mean, reduction.directions, m))
            parts.append(add("Mul", part, graph.constant(weight**0.5)))
        content = self._normalized(add("Concat", *parts, axis=1))
        counted = add("Mul", content, graph.constant(encoder.similarity * encoder.scale))
        rest = add("Mul", learned, graph.constant(1 - encoder.similarity))
        return str(add("Concat", rest, counted, axis=1))

    def _mixed(self, content: str, recommender: Recommender) -> str:
        """The result of `NewItemEncoder.mix`: content vectors `(n, D)` mixed with the vectors of the nearest trained
        items."""
        encoder, graph, add = recommender.new_item_encoder, self.graph, self.graph.add
        if encoder is None or encoder.content == 1:
            return content
        assert recommender.features is not None
        trained, n_trained = recommender.features.blocks()[0], recommender.n_trained_items
        width = len(self.model.branches) * self.model.config.embedding_size
        vectors = recommender.scorer.tensors()["items"][:n_trained, :width].float().cpu().numpy()
        table = graph.table(vectors.shape, (block for _, block in row_blocks(vectors)))
        norms = graph.constant(np.linalg.norm(vectors, axis=1))
        sums, lengths, counts = [], [], []
        for m in self.model.modalities:
            if not trained[m].present.any():
                continue
            items, weights = self._nearest_trained(m, recommender, min(encoder.n_neighbors, n_trained))
            product = add("MatMul", self._along_columns("Unsqueeze", weights), add("Gather", table, items, axis=0))
            sums.append(self._along_columns("Squeeze", product))
            near = add("Mul", weights, add("Gather", norms, items, axis=0))
            lengths.append(self._along_columns("ReduceSum", near))
            counts.append(self.present[m])
        count = add("Max", add("Sum", *counts), graph.constant(1e-12))
        mean, length = add("Div", add("Sum", *sums), count), add("Div", add("Sum", *lengths), count)

        def mix(own: str, other: str) -> str:
            share = graph.constant(encoder.content)
            rest = graph.constant(1 - encoder.content)
            return str(add("Add", add("Mul", own, share), add("Mul", other, rest)))

        direction = self._normalized(mix(self._normalized(content), self._normalized(mean)))
        return str(add("Mul", direction, mix(self._along_columns("ReduceL2", content), length)))

    def _nearest_trained(self, modality: str, recommender: Recommender, k: int) -> tuple[str, str]:
        """Row numbers `(n, k)` of the nearest trained items, and weights `(n, k)`: the softmax of the cosines, or 0 if
        the new item has no features of the modality."""
        graph, add = self.graph, self.graph.add
        n = recommender.n_trained_items
        ends = [graph.constant([value]) for value in (0, n, 1)]
        cosines = add("Slice", self._cosine(modality, recommender), *ends)  # from 0 to n along axis 1
        values, items = add("TopK", cosines, graph.constant([k]), outputs=2)
        norm = add("Max", self._along_columns("ReduceL2", self.features[modality]), graph.constant(EPSILON))
        sharp = add("Mul", add("Div", values, norm), graph.constant(SHARPNESS))
        return items, add("Mul", add("Softmax", sharp, axis=1), self.present[modality])

    def _neighbors(self, recommender: Recommender) -> list[tuple[str, str | None, str]]:
        """The new items' rows of the neighbor graph S. For each modality: the own weight of each item `(n, 1)`; the
        row numbers of its neighbors `(n, k-1)`, or None without neighbors; and their weights `(n, k-1)`."""
        graph, add, weighing = self.graph, self.graph.add, self.model.weights
        n_near = min(self.model.config.n_neighbors - 1, recommender.n_items)
        counted = [m for m in self.model.modalities if weighing[m] > 0]  # the others have weight zero
        there = add("Sum", *(add("Mul", self.present[m], graph.constant(weighing[m])) for m in counted))
        there = add("Max", there, graph.constant(EPSILON))
        parts: list[tuple[str, str | None, str]] = []
        for m in counted:
            total = graph.constant(weighing[m] * sum(weighing.values()))
            share = add("Div", add("Mul", self.present[m], total), there)
            if n_near == 0:
                parts.append((share, None, share))
                continue
            values, items = add("TopK", self._cosine(m, recommender), graph.constant([n_near]), outputs=2)
            exists = add("Cast", add("Greater", values, graph.constant(ABSENT)), to=1)  # float
            count = add("Add", self._along_columns("ReduceSum", exists), graph.constant(1.0))  # including itself
            share = add("Div", share, count)
            parts.append((share, items, add("Mul", exists, share)))
        return parts

    def _cosine(self, modality: str, recommender: Recommender) -> str:
        """Cosines `(n, I)` of new items with catalog items, times the new item's norm, which does not change their
        order; -inf for catalog items without features."""
        if modality in self.cosines:
            return self.cosines[modality]
        assert recommender.features is not None
        blocks = [block[modality] for block in recommender.features.blocks()]
        n, projection = sum(map(len, blocks)), self.projections.get(modality)
        width = self.widths[modality] if projection is None else projection.n_columns
        values = self.graph.table((n, width), (rows for block in blocks for rows in _rows(block, projection)))
        norms = [torch.from_numpy(rows).norm(dim=1) for block in blocks for rows in _rows(block, projection)]
        scale = (1 / torch.cat(norms).clamp(min=EPSILON)).numpy()
        absent = np.where(np.concatenate([block.present for block in blocks]), 0, -np.inf)
        products = self.graph.add("Gemm", self.features[modality], values, transB=1)
        scaled = self.graph.add("Mul", products, self.graph.constant(scale))
        self.cosines[modality] = str(self.graph.add("Add", scaled, self.graph.constant(absent)))
        return self.cosines[modality]

    def _presence(self, modality: str) -> str:
        largest = self._along_columns("ReduceMax", self.graph.add("Abs", modality))
        return str(self.graph.add("Cast", self.graph.add("Greater", largest, self.graph.constant(0.0)), to=1))

    def _linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        inputs = [x, self._weights(weight)] + ([] if bias is None else [self._weights(bias)])
        return str(self.graph.add("Gemm", *inputs, transB=1))

    def _weights(self, tensor: Tensor) -> str:
        return self.graph.constant(tensor.detach().cpu().numpy())

    def _normalized(self, x: str) -> str:
        norm = self.graph.add("Max", self._along_columns("ReduceL2", x), self.graph.constant(EPSILON))
        return str(self.graph.add("Div", x, norm))

    def _along_columns(self, operator: str, x: str) -> str:
        """Apply an operator along axis 1; reductions keep this axis with length 1."""
        attributes: dict[str, Any] = {"keepdims": 1} if operator.startswith("Reduce") else {}
        return str(self.graph.add(operator, x, self.graph.constant([1]), **attributes))


def _rows(matrix: FeatureMatrix, projection: Projection | None = None) -> Iterator[np.ndarray]:
    for _, rows in matrix.blocks():
        values = np.array(rows, dtype=np.float32)  # a copy: torch warns about read-only arrays
        yield values if projection is None else projection(torch.from_numpy(values)).numpy()
