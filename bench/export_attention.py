"""Small blocks around each fused attention operator, built with onnx.helper and run once in ONNX Runtime.

    python bench/export_attention.py --out models/attention

Each block is: linear projections of `input` [batch, sequence, 32], the operator, an output projection, and a residual
add; 4 heads of 8, two of them key/value heads where the operator groups queries.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, GROUPS, DEPTH = 32, 4, 2, 8
MICROSOFT = "com.microsoft"


class Block:
    """Collects the nodes and random weights of one graph."""

    def __init__(self, seed: int = 0):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.RandomState(seed)

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, (self.random.randn(*shape) * shape[0] ** -0.5).astype(np.float32))

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, inputs: list[str], outputs: list[str], **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return outputs[0]

    def linear(self, name: str, source: str, inputs: int, outputs: int) -> str:
        product = self.node("MatMul", [source, self.weight(f"{name}.weight", inputs, outputs)], [f"{name}.product"])
        return self.node("Add", [product, self.weight(f"{name}.bias", outputs)], [name])

    def finish(self, mixed: str, opset: int) -> onnx.ModelProto:
        projected = self.linear("out", mixed, HEADS * DEPTH, WIDTH)
        self.node("Add", ["input", projected], ["output"])
        shape = ["batch", "sequence", WIDTH]
        graph = helper.make_graph(
            self.nodes,
            "attention",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def queries(block: Block, groups: int) -> list[str]:
    """Query, key and value projections; `groups` key/value heads."""
    query = block.linear("query", "input", WIDTH, HEADS * DEPTH)
    return [query, *(block.linear(name, "input", WIDTH, groups * DEPTH) for name in ("key", "value"))]


def attention_packed() -> onnx.ModelProto:
    """com.microsoft Attention: its weight holds query, key and value side by side."""
    block = Block()
    operands = [
        "input",
        block.weight("qkv.weight", WIDTH, 3 * HEADS * DEPTH),
        block.weight("qkv.bias", 3 * HEADS * DEPTH),
    ]
    return block.finish(block.node("Attention", operands, ["mixed"], domain=MICROSOFT, num_heads=HEADS), 17)


def attention_uneven() -> onnx.ModelProto:
    """The same with `qkv_hidden_sizes`: values of another depth than queries and keys."""
    block = Block()
    sizes = [HEADS * 4, HEADS * 4, HEADS * DEPTH]
    operands = ["input", block.weight("qkv.weight", WIDTH, sum(sizes)), block.weight("qkv.bias", sum(sizes))]
    mixed = block.node(
        "Attention", operands, ["mixed"], domain=MICROSOFT, num_heads=HEADS, qkv_hidden_sizes=sizes
    )  # fmt: skip
    return block.finish(mixed, 17)


def multi_head() -> onnx.ModelProto:
    block = Block()
    mixed = block.node("MultiHeadAttention", queries(block, HEADS), ["mixed"], domain=MICROSOFT, num_heads=HEADS)
    return block.finish(mixed, 17)


def multi_head_biased() -> onnx.ModelProto:
    """MultiHeadAttention with the three biases as one operand."""
    block = Block()
    names = ("query", "key", "value")
    operands = [block.node("MatMul", ["input", block.weight(f"{n}.weight", WIDTH, HEADS * DEPTH)], [n]) for n in names]
    operands.append(block.weight("qkv.bias", 3 * HEADS * DEPTH))
    mixed = block.node("MultiHeadAttention", operands, ["mixed"], domain=MICROSOFT, num_heads=HEADS)
    return block.finish(mixed, 17)


def group_query(packed: bool) -> onnx.ModelProto:
    """GroupQueryAttention without past; lengths computed from the input's shape as exporters do."""
    block = Block()
    if packed:
        operands = [block.linear("qkv", "input", WIDTH, (HEADS + 2 * GROUPS) * DEPTH), "", ""]
    else:
        operands = queries(block, GROUPS)
    block.node("Shape", ["input"], ["batch_size"], start=0, end=1)
    block.node("Shape", ["input"], ["length"], start=1, end=2)
    block.node("Sub", ["length", block.constant("one", np.array([1], np.int64))], ["last"])
    block.node("Expand", ["last", "batch_size"], ["lasts"])
    block.node("Cast", ["lasts"], ["seqlens_k"], to=TensorProto.INT32)
    block.node("Squeeze", ["length", block.constant("axis0", np.array([0], np.int64))], ["length_scalar"])
    block.node("Cast", ["length_scalar"], ["total"], to=TensorProto.INT32)
    mixed = block.node(
        "GroupQueryAttention",
        [*operands, "", "", "seqlens_k", "total"],
        ["mixed", "present_key", "present_value"],
        domain=MICROSOFT,
        num_heads=HEADS,
        kv_num_heads=GROUPS,
    )
    return block.finish(mixed, 17)


def standard(groups: int) -> onnx.ModelProto:
    """Attention of opset 23 on [batch, sequence, hidden] operands, head counts as attributes."""
    block = Block()
    mixed = block.node("Attention", queries(block, groups), ["mixed"], q_num_heads=HEADS, kv_num_heads=groups)
    return block.finish(mixed, 23)


def standard_heads() -> onnx.ModelProto:
    """Attention of opset 23 on [batch, heads, sequence, depth], with RotaryEmbedding on queries and keys."""
    block = Block()
    names = queries(block, GROUPS)
    heads = {"query": HEADS, "key": GROUPS, "value": GROUPS}
    angles = np.arange(64)[:, None] / 100.0 ** (np.arange(DEPTH // 2) / (DEPTH // 2))
    tables = [
        block.constant("cos", np.cos(angles).astype(np.float32)),
        block.constant("sin", np.sin(angles).astype(np.float32)),
    ]
    block.node("Shape", ["input"], ["positions_shape"], start=0, end=2)
    block.node("Expand", [block.constant("one", np.array(1, np.int64)), "positions_shape"], ["ones"])
    block.node(
        "CumSum",
        [
            "ones",
            block.constant("axis1", np.array(1, np.int64)),
        ],
        ["positions"],
        exclusive=1,
    )
    operands = []
    for name in names:
        shape = block.constant(f"{name}.shape", np.array([0, 0, heads[name], DEPTH], np.int64))
        split = block.node("Reshape", [name, shape], [f"{name}.split"])
        operand = block.node("Transpose", [split], [f"{name}.heads"], perm=[0, 2, 1, 3])
        if name != "value":
            operand = block.node("RotaryEmbedding", [operand, *tables, "positions"], [f"{name}.rotated"])
        operands.append(operand)
    block.node("Attention", operands, ["mixed.heads"], is_causal=1)
    block.node("Transpose", ["mixed.heads"], ["mixed.split"], perm=[0, 2, 1, 3])
    merged = block.constant("merged.shape", np.array([0, 0, HEADS * DEPTH], np.int64))
    return block.finish(block.node("Reshape", ["mixed.split", merged], ["mixed"]), 23)


def fused_matmul() -> onnx.ModelProto:
    """A feed-forward block of FusedMatMul (transposed weight, scaled) and BiasGelu, then SkipLayerNormalization."""
    block = Block()
    up = block.node(
        "FusedMatMul", ["input", block.weight("up.weight", 64, WIDTH)], ["up"], domain=MICROSOFT, transB=1, alpha=0.5
    )
    hidden = block.node("BiasGelu", [up, block.weight("up.bias", 64)], ["hidden"], domain=MICROSOFT)
    down = block.node("FusedMatMul", [hidden, block.weight("down.weight", 64, WIDTH)], ["down"], domain=MICROSOFT)
    operands = [
        "input",
        down,
        block.weight("gamma", WIDTH),
        block.weight("beta", WIDTH),
        block.weight("down.bias", WIDTH),
    ]
    return block.finish(block.node("SkipLayerNormalization", operands, ["mixed"], domain=MICROSOFT), 17)


BLOCKS = {
    "attention_packed": attention_packed,
    "attention_uneven": attention_uneven,
    "multi_head": multi_head,
    "multi_head_biased": multi_head_biased,
    "group_query": lambda: group_query(packed=False),
    "group_query_packed": lambda: group_query(packed=True),
    "standard": lambda: standard(HEADS),
    "standard_grouped": lambda: standard(GROUPS),
    "standard_heads_rotary": standard_heads,
    "fused_matmul": fused_matmul,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/attention"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, build in BLOCKS.items():
        model = build()
        onnx.checker.check_model(model, full_check=True)
        path = args.out / f"{name}.onnx"
        onnx.save(model, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for batch, sequence in ((1, 7), (3, 16), (2, 11)):
            feed = np.random.RandomState(0).randn(batch, sequence, WIDTH).astype(np.float32)
            (output,) = session.run(None, {"input": feed})
            if output.shape != feed.shape or not np.isfinite(output).all():
                raise SystemExit(f"{path} gives {output.shape}")
        print(f"{path}  {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
