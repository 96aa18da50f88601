"""Transformers fused by ONNX Runtime's optimizer into the operators of com.microsoft.

    python bench/export_optimized.py --models models --out models/ort

Reads minilm.onnx and hf/*_dynamic.onnx (bench/export_minilm.py, bench/export_transformers.py) and writes
NAME_ort.onnx with what the optimizer finds to fuse: Attention, SkipLayerNormalization, EmbedLayerNormalization,
BiasGelu, FastGelu and others. bench/export_attention.py builds the operators that it does not find.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers import optimizer

# File, kind of fusions, heads, hidden size.
SOURCES = [
    ("minilm", "bert", 12, 384),
    ("hf/bert_dynamic", "bert", 4, 64),
    ("hf/distilbert_dynamic", "bert", 4, 64),
    ("hf/roberta_dynamic", "bert", 4, 64),
    ("hf/gpt2_dynamic", "gpt2", 4, 64),
    ("hf/llama_dynamic", "gpt2", 4, 64),
    ("hf/t5_encoder_dynamic", "t5", 4, 64),
    ("hf/vit_dynamic", "vit", 4, 64),
    ("hf/swin_dynamic", "swin", 0, 0),
    ("hf/clip_dynamic", "clip", 4, 64),
    ("hf/whisper_encoder_dynamic", "bart", 4, 64),
]


def optimize(source: Path, target: Path, kind: str, heads: int, width: int) -> str:
    """Writes `target`; returns the com.microsoft operators in it."""
    fused = optimizer.optimize_model(str(source), model_type=kind, num_heads=heads, hidden_size=width, opt_level=0)
    fused.save_model_to_file(str(target))
    counts: dict[str, int] = {}
    for node in onnx.load(target, load_external_data=False).graph.node:
        if node.domain == "com.microsoft" or node.op_type == "SkipLayerNormalization":
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return ", ".join(f"{count} {operator}" for operator, count in sorted(counts.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, default=Path("models/ort"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, kind, heads, width in SOURCES:
        target = args.out / f"{Path(name).name.removesuffix('_dynamic')}_ort.onnx"
        try:
            fused = optimize(args.models / f"{name}.onnx", target, kind, heads, width)
            print(f"{target}  {fused or 'nothing fused'}", flush=True)
        except Exception as error:  # one refusal must not stop the rest
            failed += 1
            print(f"{target}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
