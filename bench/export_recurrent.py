"""Recurrent networks with random weights, from PyTorch's exporter and built with onnx.helper (peepholes, layout 1).

python bench/export_recurrent.py --out models/rnn

Input `input` [batch, sequence, 12], output `logits` [batch, sequence, 5], opset 17, dynamic batch and sequence;
`_initial` files take the initial states as inputs too and return the final ones.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

FEATURES, HIDDEN, CLASSES = 12, 32, 5
OPSET = 17
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Tagger(nn.Module):
    """Recurrent layers and a linear layer at every step; the initial state is zero."""

    def __init__(self, cell: str, layers: int, bidirectional: bool):
        super().__init__()
        self.recurrent = CELLS[cell](FEATURES, HIDDEN, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(HIDDEN * (2 if bidirectional else 1), CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(x)[0])


class StatefulTagger(Tagger):
    """The same with states [layers × directions, batch, hidden] as inputs and outputs."""

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, final = self.recurrent(x, states if len(states) == 2 else states[0])
        return self.head(y), *(final if isinstance(final, tuple) else (final,))


class Classifier(Tagger):
    """Logits [batch, classes] from the last hidden state, through a projection before the recurrence."""

    def __init__(self, cell: str, layers: int, bidirectional: bool):
        super().__init__(cell, layers, bidirectional)
        self.embed = nn.Linear(FEATURES, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        final = self.recurrent(torch.tanh(self.embed(x)))[1]
        hidden = final[0] if isinstance(final, tuple) else final
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1) if self.recurrent.bidirectional else hidden[-1])


def export(model: nn.Module, path: Path, states: int = 0) -> None:
    """`states`: number of state tensors (h, and c of an LSTM) that are inputs and outputs."""
    recurrent = model.recurrent
    rows = recurrent.num_layers * (2 if recurrent.bidirectional else 1)
    inputs = [torch.randn(2, 6, FEATURES)] + [torch.randn(rows, 2, HIDDEN) for _ in range(states)]
    state_inputs = ["h0", "c0"][:states]
    state_outputs = ["hn", "cn"][:states]
    axes = {"input": {0: "batch", 1: "sequence"}, "logits": {0: "batch"}}
    if not isinstance(model, Classifier):
        axes["logits"][1] = "sequence"
    axes.update({name: {1: "batch"} for name in state_inputs + state_outputs})
    torch.onnx.export(
        model.eval(),
        tuple(inputs),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input", *state_inputs],
        output_names=["logits", *state_outputs],
        dynamic_axes=axes,
    )


def lstm_with_peepholes(path: Path, directions: int, random: np.random.RandomState) -> None:
    """Two LSTM layers with biases and peepholes, layout 0: input [sequence, batch, features]."""

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.randn(*shape) * 0.3).astype(np.float32), name)

    initializers, nodes = [], []
    value, width = "input", FEATURES
    for layer in range(2):
        names = {kind: f"{kind}{layer}" for kind in "WRBP"}
        initializers += [
            weight(names["W"], directions, 4 * HIDDEN, width),
            weight(names["R"], directions, 4 * HIDDEN, HIDDEN),
            weight(names["B"], directions, 8 * HIDDEN),
            weight(names["P"], directions, 3 * HIDDEN),
        ]
        inputs = [value, names["W"], names["R"], names["B"], "", "", "", names["P"]]
        direction = "bidirectional" if directions == 2 else "forward"
        nodes += [
            helper.make_node("LSTM", inputs, [f"y{layer}"], f"lstm{layer}", hidden_size=HIDDEN, direction=direction),
            helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], f"transpose{layer}", perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"t{layer}", "merge"], [f"m{layer}"], f"merge{layer}"),
        ]
        value, width = f"m{layer}", directions * HIDDEN
    initializers += [
        numpy_helper.from_array(np.array([0, 0, -1], np.int64), "merge"),
        weight("head", width, CLASSES),
        weight("head_bias", CLASSES),
    ]
    nodes += [
        helper.make_node("MatMul", [value, "head"], ["scores"], "head"),
        helper.make_node("Add", ["scores", "head_bias"], ["logits"], "head_bias"),
    ]
    save(path, nodes, initializers, ["sequence", "batch", FEATURES], ["sequence", "batch", CLASSES])


def gru_batch_first(path: Path, random: np.random.RandomState) -> None:
    """A GRU with `layout = 1` and `linear_before_reset`: Y is [batch, sequence, 1, hidden]."""

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.randn(*shape) * 0.3).astype(np.float32), name)

    initializers = [
        weight("W", 1, 3 * HIDDEN, FEATURES),
        weight("R", 1, 3 * HIDDEN, HIDDEN),
        weight("B", 1, 6 * HIDDEN),
        numpy_helper.from_array(np.array([2], np.int64), "direction_axis"),
        weight("head", HIDDEN, CLASSES),
    ]
    nodes = [
        helper.make_node("GRU", ["input", "W", "R", "B"], ["y"], hidden_size=HIDDEN, layout=1, linear_before_reset=1),
        helper.make_node("Squeeze", ["y", "direction_axis"], ["s"]),
        helper.make_node("MatMul", ["s", "head"], ["logits"]),
    ]
    save(path, nodes, initializers, ["batch", "sequence", FEATURES], ["batch", "sequence", CLASSES])


def save(path: Path, nodes: list, initializers: list, input_shape: list, output_shape: list) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models/rnn"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    for cell in CELLS:
        for layers, bidirectional in ((1, False), (1, True), (2, False), (2, True)):
            marks = f"{layers}" + ("_bi" if bidirectional else "")
            export(Tagger(cell, layers, bidirectional), args.out / f"{cell}{marks}.onnx")
            states = 2 if cell == "lstm" else 1
            export(StatefulTagger(cell, layers, bidirectional), args.out / f"{cell}{marks}_initial.onnx", states)
        export(Classifier(cell, 2, True), args.out / f"{cell}2_bi_classifier.onnx")
    random = np.random.RandomState(args.seed)
    lstm_with_peepholes(args.out / "lstm2_peephole.onnx", 1, random)
    lstm_with_peepholes(args.out / "lstm2_bi_peephole.onnx", 2, random)
    gru_batch_first(args.out / "gru1_layout1.onnx", random)
    for path in sorted(args.out.glob("*.onnx")):
        print(f"{path}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
