"""Models above the 2 GiB limit of one protobuf message, with their weights in a file beside them.

    python bench/big_model.py chain --out models/big           # 3.2 GB: 12 Gemm layers of width 8192, float32
    python bench/big_model.py llama --out models/big           # 1.1 B parameters, 4.4 GB: a Llama configuration

Weights are written one by one, so that little memory is needed. The Llama's graph comes from PyTorch's TorchScript
exporter.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np

import onnx
from onnx import TensorProto, helper

OPSET = 17
INPUTS, CLASSES = 256, 10


def external(name: str, shape: list[int], file: str, offset: int) -> TensorProto:
    """A float32 tensor whose values are at `offset` of `file`."""
    length = 4 * int(np.prod(shape))
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def chain(path: Path, width: int, layers: int, seed: int) -> None:
    """Gemm and Relu, INPUTS-width-…-width-CLASSES with `layers` square layers, He initialization."""
    widths = [INPUTS, *[width] * (layers + 1), CLASSES]
    random = np.random.default_rng(seed)
    nodes, tensors, value = [], [], "input"
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for layer, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            scale = np.float32((2 / before) ** 0.5)
            for name, shape in ((f"weight{layer}", [before, after]), (f"bias{layer}", [after])):
                tensors.append(external(name, shape, data.name, file.tell()))
                (random.standard_normal(shape, np.float32) * scale).tofile(file)
            last = layer == len(widths) - 2
            result = "logits" if last else f"sum{layer}"
            nodes.append(helper.make_node("Gemm", [value, f"weight{layer}", f"bias{layer}"], [result], f"layer{layer}"))
            if not last:
                nodes.append(helper.make_node("Relu", [result], [f"hidden{layer}"], f"relu{layer}"))
                value = f"hidden{layer}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def without_weights(layers: int) -> "torch.nn.Module":  # noqa: F821 (PyTorch is imported for the Llama only)
    """A Llama of 1.1 B parameters (width 2048, 32 heads in 8 groups, feed-forward 8192) whose parameters are one number
    each, expanded: they take no memory."""
    import export_transformers as transformers
    import torch

    config = transformers.hf.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    masks = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    masks.register("eager", transformers.eager_mask_without_vmap)
    with torch.device("meta"):
        model = transformers.hf.LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are values, not parameters
    count = 0
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            count += 1  # numbers apart from each other: the exporter merges equal parameters
            constant = torch.full((1,) * parameter.ndim, 1e-4 * count).expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(constant, requires_grad=False))
    return model.eval()


def llama(path: Path, layers: int, seed: int) -> None:
    """Exports the graph alone, then writes random weights beside it, each stored transposed where the graph
    transposes it: what the exporter's constant folding does."""
    import export_transformers as transformers
    import torch

    inner = without_weights(layers)
    arguments = transformers.text()
    names = [argument.name for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.onnx"
        torch.onnx.export(
            transformers.Wrapper(inner, names, ["logits"]),
            tuple(argument.value for argument in arguments),
            str(bare),
            dynamo=False,
            opset_version=OPSET,
            export_params=False,
            do_constant_folding=False,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={argument.name: argument.axes for argument in arguments} | transformers.LOGITS,
        )
        model = onnx.load(bare)
    add_weights(model, names, path, seed)


def add_weights(model: onnx.ModelProto, inputs: list[str], path: Path, seed: int) -> None:
    """Turns every graph input but `inputs` into a random external initializer and saves the model."""
    random = np.random.default_rng(seed)
    graph = model.graph
    weights = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input if v.name not in inputs}
    folded = fold_transposes(graph, weights)
    kept = [value for value in graph.input if value.name in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for name, shape in (weights | folded).items():
            graph.initializer.append(external(name, shape, data.name, file.tell()))
            values = random.standard_normal(shape, np.float32)
            values *= np.float32(shape[0] ** -0.5 if len(shape) > 1 else 0.1)
            (values if len(shape) > 1 else values + 1).tofile(file)
    path.write_bytes(model.SerializeToString())


def fold_transposes(graph: onnx.GraphProto, weights: dict[str, list[int]]) -> dict[str, list[int]]:
    """Removes Transposes of matrices in `weights`; their results become weights of the turned shape."""
    turned = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights}
    nodes = [node for node in graph.node if node.output[0] not in turned]
    used = {name for node in nodes for name in node.input}
    folded = {result: weights[source][::-1] for result, source in turned.items()}
    for source in turned.values():
        if source not in used:
            weights.pop(source, None)
    del graph.node[:]
    graph.node.extend(nodes)
    return folded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("chain", "llama"))
    parser.add_argument("--out", type=Path, default=Path("models/big"))
    parser.add_argument("--width", type=int, default=8192, help="of the chain")
    parser.add_argument("--layers", type=int, help="default: 12 for the chain, 16 for the Llama")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.kind}.onnx"
    for leftover in (path, path.with_name(path.name + ".data")):
        leftover.unlink(missing_ok=True)
    if args.kind == "chain":
        chain(path, args.width, args.layers or 12, args.seed)
    else:
        llama(path, args.layers or 16, args.seed)
    total = sum(file.stat().st_size for file in args.out.glob(f"{args.kind}.onnx*"))
    print(f"{path}  {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
