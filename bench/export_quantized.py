"""Quantized and narrower versions of exported models, by ONNX Runtime's quantizers and by casting.

    python bench/export_quantized.py --models models --data stsb-en-train.csv --out models/quant

For resnet18 and minilm: NAME_qdq (static, QuantizeLinear/DequantizeLinear, int8 per tensor), NAME_qdq_channel (weights
per channel), NAME_fp16, NAME_fp16_io (float16 inside, float32 inputs and outputs), NAME_bf16 and NAME_f64. With integer
operators: resnet18_qoperator (QLinearConv), minilm_integer (MatMulInteger), minilm_nbits (MatMulNBits, 4 bits).
"""

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import minilm
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer
from sts_calib import sample

SENTENCES, IMAGES = 64, 16
BFLOAT16_OPSET = 22  # the first with bfloat16 convolutions
# Largest numbers: the lowest float32, which masks hold, would become minus infinity, and that times zero no number.
RANGES = {TensorProto.FLOAT16: 65504.0, TensorProto.BFLOAT16: 3.3895e38}
# Inputs that stay float32 whatever the type of the data: the regions and scales of Resize.
FLOAT_OPERANDS = {("Resize", 1), ("Resize", 2)}


class Batches(quantization.CalibrationDataReader):
    def __init__(self, batches: list[dict[str, np.ndarray]]):
        self.remaining: Iterator[dict[str, np.ndarray]] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.remaining, None)


def images() -> list[dict[str, np.ndarray]]:
    random = np.random.RandomState(0)
    return [{"input": random.randn(1, 3, 224, 224).astype(np.float32)} for _ in range(IMAGES)]


def sentences(csv: Path) -> list[dict[str, np.ndarray]]:
    encodings = minilm.tokenizer().encode_batch(sample(csv, SENTENCES, 0))
    return [minilm.padded(encodings[i : i + 8]) for i in range(0, SENTENCES, 8)]


def quantize(source: Path, target: Path, batches: list, **options: object) -> None:
    """Static int8 quantization of weights and activations; `options` are those of `quantize_static`."""
    settings = {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QInt8,
        "weight_type": quantization.QuantType.QInt8,
    }
    quantization.quantize_static(source, target, Batches(batches), **settings | options)


def cast_tensor(tensor: TensorProto, element_type: int) -> None:
    """Casts a float32 tensor in place; values beyond the type's range become its extremes."""
    if tensor.data_type != TensorProto.FLOAT:
        return
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    limit = RANGES.get(element_type, np.inf)
    values = np.clip(numpy_helper.to_array(tensor), -limit, limit).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def cast(source: Path, target: Path, element_type: int, keep_io: bool = False) -> None:
    """The same graph with `element_type` for float32 everywhere; `keep_io` leaves inputs and outputs float32."""
    model = onnx.load(source)
    if element_type == TensorProto.BFLOAT16:
        model = version_converter.convert_version(model, BFLOAT16_OPSET)
    graph = model.graph
    fixed = {n.input[i] for n in graph.node for op, i in FLOAT_OPERANDS if n.op_type == op and i < len(n.input)}
    for tensor in graph.initializer:
        if tensor.name not in fixed:
            cast_tensor(tensor, element_type)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = element_type
            elif attribute.type == onnx.AttributeProto.TENSOR and not fixed.intersection(node.output):
                cast_tensor(attribute.t, element_type)
    del graph.value_info[:]
    inputs, outputs = [], []
    for values, casts in ((graph.input, inputs), (graph.output, outputs)):
        for value in values:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                casts.append(value.name)
                if not keep_io:
                    value.type.tensor_type.elem_type = element_type
    if keep_io:
        add_casts(graph, inputs, outputs, element_type)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


def add_casts(graph: onnx.GraphProto, inputs: list[str], outputs: list[str], element_type: int) -> None:
    renamed = {name: f"{name}_narrow" for name in inputs + outputs}
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [renamed.get(name, name) for name in field]
    before = [helper.make_node("Cast", [n], [renamed[n]], f"{n}_cast", to=element_type) for n in inputs]
    after = [helper.make_node("Cast", [renamed[n]], [n], f"{n}_cast", to=TensorProto.FLOAT) for n in outputs]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def integer(source: Path, target: Path) -> None:
    """Dynamic quantization: DynamicQuantizeLinear and MatMulInteger."""
    quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QInt8)


def nbits(source: Path, target: Path) -> None:
    """Weights in blocks of 32 values of 4 bits: MatMulNBits of com.microsoft."""
    quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of resnet18.onnx and minilm.onnx")
    parser.add_argument("--data", type=Path, required=True, help="STS-B csv for the calibration of minilm")
    parser.add_argument("--out", type=Path, default=Path("models/quant"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    # The mask that attention adds holds the lowest float32: quantized, it would swallow every score.
    attention = {"op_types_to_quantize": ["MatMul", "Gather"]}
    for name, batches, options in (("resnet18", images(), {}), ("minilm", sentences(args.data), attention)):
        source = args.models / f"{name}.onnx"
        quantize(source, args.out / f"{name}_qdq.onnx", batches, **options)
        quantize(source, args.out / f"{name}_qdq_channel.onnx", batches, per_channel=True, **options)
        cast(source, args.out / f"{name}_fp16.onnx", TensorProto.FLOAT16)
        cast(source, args.out / f"{name}_fp16_io.onnx", TensorProto.FLOAT16, keep_io=True)
        cast(source, args.out / f"{name}_bf16.onnx", TensorProto.BFLOAT16)
        cast(source, args.out / f"{name}_f64.onnx", TensorProto.DOUBLE)
    quantize(
        args.models / "resnet18.onnx",
        args.out / "resnet18_qoperator.onnx",
        images(),
        quant_format=quantization.QuantFormat.QOperator,
        activation_type=quantization.QuantType.QUInt8,
    )
    integer(args.models / "minilm.onnx", args.out / "minilm_integer.onnx")
    nbits(args.models / "minilm.onnx", args.out / "minilm_nbits.onnx")
    for path in sorted(args.out.glob("*.onnx")):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
