"""Models above the 2 GiB limit of one protobuf message, with their weights in a file beside them.

    python bench/big_model.py chain --out models/big           # 3.2 GB: 12 Gemm layers of width 8192, float32
    python bench/big_model.py llama --out models/big           # 1.1 B parameters, 4.4 GB: a Llama configuration

The chain is written layer by layer and needs little memory; the Llama goes through PyTorch's TorchScript exporter and
needs about 14 GB.
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


def llama(path: Path, layers: int, seed: int) -> None:
    """The sizes of a 1 B-parameter Llama: width 2048, 32 heads in 8 groups, feed-forward 8192."""
    import export_transformers as transformers
    import torch

    torch.manual_seed(seed)
    config = transformers.hf.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    masks = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    masks.register("eager", transformers.eager_mask_without_vmap)
    inner = transformers.hf.LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
    arguments = transformers.text()
    names = [argument.name for argument in arguments]
    model = transformers.Wrapper(inner, names, ["logits"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} B parameters", flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            model, tuple(argument.value for argument in arguments), str(raw), dynamo=False, opset_version=OPSET,
            input_names=names, output_names=["logits"],
            dynamic_axes={argument.name: argument.axes for argument in arguments} | transformers.LOGITS,
            do_constant_folding=False,
        )  # fmt: skip
        del model, inner
        proto = onnx.load(raw)
    onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=path.name + ".data")


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
