"""A graph of ONNX that is put together operator by operator; large tables go into a file beside it, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lirdrec.errors import ConfigError

OPSET, IR = 18, 8  # of early 2023: old enough for whatever runtime is in use
ALIGNED = 4096  # bytes; a runtime can then map a table instead of reading it


class Graph:
    """Operators on float32 tensors, addressed by name.

    Args:
        path: the .onnx file to write; `table` puts its numbers into a .bin file of the same name.

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
        """The name of an operator's result; the names, where it has several."""
        name = name or f"{operator}_{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{number}" for number in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any) -> str:
        """An array, kept in the .onnx file; numbers become float32, integers int64."""
        array = np.ascontiguousarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        name = f"constant_{len(self._constants)}"
        # ascontiguousarray makes a number a row of one
        self._constants.append(self._onnx.numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def table(self, shape: Sequence[int], blocks: Iterable[np.ndarray]) -> str:
        """An array given in blocks of rows, kept in the .bin file."""
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

    def save(self, inputs: dict[str, Sequence[Any]], outputs: dict[str, Sequence[Any]], doc: str) -> None:
        """Write and check the file. Inputs and outputs are name → shape, in which a text is a length that varies."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        ends = [[helper.make_tensor_value_info(n, kind, s) for n, s in side.items()] for side in (inputs, outputs)]
        graph = helper.make_graph(self._nodes, self._path.stem, *ends, self._constants, doc_string=doc)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name="lirdrec")
        self._onnx.save(model, str(self._path))
        self._onnx.checker.check_model(str(self._path), full_check=True)
