"""Random inputs for an ONNX file, in the ranges that the graph itself implies.

Floats are standard normal. Integers that index an embedding stay within its rows, masks are ones with
some trailing zeros, position ids count up, other integers are zero or one.
"""

import re

import numpy as np

import onnx
from onnx import helper

BATCH_SIZES = (1, 3, 2)
OTHER_SIZES = (7, 16, 11)


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must give: those that are not initializers."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def signature(values: list[onnx.ValueInfoProto]) -> list[tuple[str, int, list[int | str]]]:
    """Name, element type and declared shape of each value; an unknown size is "?"."""
    rows = []
    for value in values:
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
        rows.append((value.name, tensor.elem_type, shape))
    return rows


def symbols(model: onnx.ModelProto) -> list[str]:
    """Symbols of the input shapes, in order of appearance. An unnamed size counts as `input:axis`."""
    found: dict[str, None] = {}
    for name, _, shape in signature(graph_inputs(model)):
        for axis, size in enumerate(shape):
            if isinstance(size, str):
                found[f"{name}:{axis}" if size == "?" else size] = None
    return list(found)


def dimension_sets(model: onnx.ModelProto, fixed: dict[str, list[int]], count: int = 3) -> list[dict[str, int]]:
    """`count` assignments of sizes to symbols; `fixed` overrides, its last size repeating.

    A product or sum of symbols such as `past_sequence + sequence` follows from its parts.
    """
    names = symbols(model)
    unnamed = not any("batch" in name.lower() for name in names)
    sets = []
    for i in range(count):
        sizes = {}
        for position, symbol in enumerate(names):
            if is_expression(symbol):
                continue
            if symbol in fixed:
                sizes[symbol] = fixed[symbol][min(i, len(fixed[symbol]) - 1)]
            elif "batch" in symbol.lower() or symbol.endswith(":0") or (unnamed and position == 0):
                sizes[symbol] = BATCH_SIZES[i % 3]
            elif re.search("height|width", symbol.lower()):
                sizes[symbol] = (224, 256, 192)[i % 3]
            elif symbol == "samples":
                sizes[symbol] = (4000, 3200, 5120)[i % 3]
            else:
                sizes[symbol] = OTHER_SIZES[i % 3]
        sizes.update({symbol: evaluate(symbol, sizes) for symbol in names if is_expression(symbol)})
        if sizes or i == 0:
            sets.append(sizes)
    return sets


def is_expression(symbol: str) -> bool:
    """`past + sequence`, but not `batch-size`, nor `input:axis`."""
    if re.fullmatch(r"[^\W\d]\w*(-[^\W\d]\w*)+", symbol):
        return False
    return re.search(r"[-+*/]", symbol) is not None and ":" not in symbol


def evaluate(expression: str, sizes: dict[str, int]) -> int:
    """Value of sums, differences and products of symbols and integers, left to right in each term."""
    total = 0
    for sign, term in re.findall(r"([-+]?)\s*([^-+]+)", expression):
        factors = [factor.strip() for factor in term.split("*")]
        value = int(np.prod([int(f) if f.isdigit() else sizes[f] for f in factors]))
        total += -value if sign == "-" else value
    return total


def embedding_rows(model: onnx.ModelProto) -> dict[str, int]:
    """Number of rows of the table that each integer input indexes through Gather, followed through Cast,
    Reshape and the like."""
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) >= 2}
    origin = {value.name: value.name for value in graph_inputs(model)}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in {"Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Slice"}:
            if node.input and node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
                rows.setdefault(node.output[0], rows.get(node.input[0], 0))
        elif node.op_type in {"DequantizeLinear", "QuantizeLinear"} and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif node.op_type == "Gather" and node.input[1] in origin and rows.get(node.input[0]):
            name = origin[node.input[1]]
            found[name] = min(found.get(name, rows[node.input[0]]), rows[node.input[0]])
    return found


def random_inputs(model: onnx.ModelProto, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """One array for each graph input, its symbols replaced by `sizes`."""
    random = np.random.RandomState(seed)
    limits = embedding_rows(model)
    arrays = {}
    for name, element_type, declared in signature(graph_inputs(model)):
        shape = [
            size if isinstance(size, int) else sizes[f"{name}:{axis}" if size == "?" else size]
            for axis, size in enumerate(declared)
        ]
        dtype = helper.tensor_dtype_to_np_dtype(element_type)
        arrays[name] = random_array(name, dtype, shape, limits.get(name), random)
    return arrays


def random_array(
    name: str, dtype: np.dtype, shape: list[int], rows: int | None, random: np.random.RandomState
) -> np.ndarray:
    if "mask" in name.lower() and dtype.kind in "biu":
        mask = np.ones(shape, dtype)
        if mask.ndim == 2 and shape[0] > 1 and shape[1] > 2:
            mask[-1, -(shape[1] // 3) :] = 0
        return mask
    if "position_ids" in name and dtype.kind in "iu":
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    if dtype.kind in "biu":
        return random.randint(0, rows or 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
