"""Hugging Face architectures with small random configurations, exported to ONNX. Nothing is downloaded.

    python bench/export_transformers.py --out models/hf                # every architecture, every variant
    python bench/export_transformers.py bert llama --variant dynamic   # some

Variants: `dynamic` (TorchScript exporter, opset 17, dynamic batch and sequence), `static` (the same with fixed
sizes), `dynamo` (torch.export, opset 18, dynamic). Files are NAME_VARIANT.onnx. What an exporter refuses is printed
with its reason and left out.
"""

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers as hf
from torch import nn
from transformers import masking_utils

VARIANTS = ("dynamic", "static", "dynamo")
VOCABULARY = 200
BATCH, SEQUENCE = 2, 12


@dataclass(frozen=True)
class Argument:
    """One graph input: a sample and the names of its dynamic axes."""

    name: str
    value: torch.Tensor
    axes: dict[int, str]


@dataclass(frozen=True)
class Architecture:
    """A model class with its configuration; `outputs` names what is taken of the result, in order.

    `part` is a submodule to export instead of the whole.
    """

    model: type[hf.PreTrainedModel]
    config: Callable[[], hf.PretrainedConfig]
    arguments: Callable[[], list[Argument]]
    outputs: dict[str, dict[int, str]]
    attention: str = "eager"
    part: str | None = None

    def build(self) -> nn.Module:
        model = self.model._from_config(self.config(), attn_implementation=self.attention)
        return getattr(model, self.part) if self.part else model


class Wrapper(nn.Module):
    """Positional arguments in, a tuple of the chosen outputs out: what both exporters want."""

    def __init__(self, model: nn.Module, names: list[str], outputs: list[str]):
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs
        accepts_cache = "use_cache" in inspect.signature(model.forward).parameters
        self.options = {"use_cache": False} if accepts_cache else {}

    # No *tensors: the guards of torch.export name arguments one by one.
    def forward(self, first, second=None, third=None) -> tuple[torch.Tensor, ...]:
        tensors = [tensor for tensor in (first, second, third) if tensor is not None]
        result = self.model(**dict(zip(self.names, tensors, strict=True)), **self.options)
        return tuple(getattr(result, name) for name in self.outputs)


class CachedDecoder(nn.Module):
    """A causal decoder of two layers whose key/value caches are graph inputs and outputs."""

    def __init__(self, model: nn.Module, *_: object):
        super().__init__()
        self.model = model

    def forward(self, ids, attention_mask, key0, value0, key1, value1) -> tuple[torch.Tensor, ...]:
        cache = hf.DynamicCache.from_legacy_cache(((key0, value0), (key1, value1)))
        result = self.model(ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return result.logits, *(tensor for layer in result.past_key_values.to_legacy_cache() for tensor in layer)


def tokens(name: str = "input_ids", symbol: str = "sequence", length: int = SEQUENCE) -> Argument:
    return Argument(name, torch.randint(3, VOCABULARY, (BATCH, length)), {0: "batch", 1: symbol})


def mask(name: str = "attention_mask", symbol: str = "sequence", length: int = SEQUENCE) -> Argument:
    ones = torch.ones(BATCH, length, dtype=torch.long)
    ones[1, length - 3 :] = 0
    return Argument(name, ones, {0: "batch", 1: symbol})


def text() -> list[Argument]:
    return [tokens(), mask()]


def text_with_types() -> list[Argument]:
    return [
        *text(),
        Argument("token_type_ids", torch.zeros(BATCH, SEQUENCE, dtype=torch.long), {0: "batch", 1: "sequence"}),
    ]


def image(size: int = 32) -> list[Argument]:
    return [Argument("pixel_values", torch.randn(BATCH, 3, size, size), {0: "batch"})]


def mel() -> list[Argument]:
    return [Argument("input_features", torch.randn(BATCH, 16, 64), {0: "batch"})]


def waveform() -> list[Argument]:
    return [Argument("input_values", torch.randn(BATCH, 4000), {0: "batch", 1: "samples"})]


def decoder_text() -> list[Argument]:
    hidden = Argument("encoder_hidden_states", torch.randn(BATCH, 9, 64), {0: "batch", 1: "encoder_sequence"})
    return [tokens(), hidden, mask("encoder_attention_mask", "encoder_sequence", 9)]


def two_towers() -> list[Argument]:
    return [tokens(), *image(), mask()]


HIDDEN = {"last_hidden_state": {0: "batch", 1: "sequence"}}
LOGITS = {"logits": {0: "batch", 1: "sequence"}}
CLASSES = {"logits": {0: "batch"}}

# Sizes that the text configurations share.
BASE = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = BASE | {"intermediate_size": 128, "max_position_embeddings": 80}
DECODER = ENCODER | {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
}


def cached_text(past: int = 5) -> list[Argument]:
    caches = [f"past_{kind}{layer}" for layer in range(2) for kind in ("key", "value")]
    axes = {0: "batch", 2: "past_sequence"}
    everything = torch.ones(BATCH, past + SEQUENCE, dtype=torch.long)
    return [
        tokens(),
        Argument("attention_mask", everything, {0: "batch", 1: "past_sequence + sequence"}),
        *(Argument(name, torch.randn(BATCH, 2, past, 16), axes) for name in caches),
    ]


def present() -> dict[str, dict[int, str]]:
    axes = {0: "batch", 2: "past_sequence + sequence"}
    return LOGITS | {f"present_{kind}{layer}": axes for layer in range(2) for kind in ("key", "value")}


def distilbert() -> hf.DistilBertConfig:
    return hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=80
    )


def gpt2() -> hf.GPT2Config:
    return hf.GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=80)


def t5() -> hf.T5Config:
    return hf.T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip


def shifted_windows(config: type[hf.PretrainedConfig]) -> hf.PretrainedConfig:
    return config(
        image_size=32, patch_size=2, embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10
    )


def whisper() -> hf.WhisperConfig:
    return hf.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=16, d_model=64, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=128, max_source_positions=32, decoder_layers=1, decoder_attention_heads=4, pad_token_id=0,
    )  # fmt: skip


def clip() -> hf.CLIPConfig:
    text_config = ENCODER | {"projection_dim": 48, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = VISION | {"patch_size": 8, "projection_dim": 48}
    return hf.CLIPConfig(text_config=text_config, vision_config=vision, projection_dim=48)


def wav2vec2() -> hf.Wav2Vec2Config:
    return hf.Wav2Vec2Config(
        **BASE | {"vocab_size": 32}, intermediate_size=128, conv_dim=[32, 32, 32], conv_stride=[5, 4, 4],
        conv_kernel=[10, 5, 4], num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, apply_spec_augment=False,
    )  # fmt: skip


def modernbert() -> hf.ModernBertConfig:
    return hf.ModernBertConfig(
        **ENCODER | {"num_hidden_layers": 4}, local_attention=8, global_attn_every_n_layers=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, reference_compile=False,
    )  # fmt: skip


ARCHITECTURES = {
    "bert": Architecture(hf.BertModel, lambda: hf.BertConfig(**ENCODER), text_with_types, HIDDEN),
    "bert_sdpa": Architecture(hf.BertModel, lambda: hf.BertConfig(**ENCODER), text_with_types, HIDDEN, "sdpa"),
    "distilbert": Architecture(hf.DistilBertModel, distilbert, text, HIDDEN),
    "roberta": Architecture(hf.RobertaModel, lambda: hf.RobertaConfig(**ENCODER), text, HIDDEN),
    "albert": Architecture(hf.AlbertModel, lambda: hf.AlbertConfig(**ENCODER, embedding_size=32), text, HIDDEN),
    "gpt2": Architecture(hf.GPT2LMHeadModel, gpt2, text, LOGITS),
    "llama": Architecture(hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**DECODER), text, LOGITS),
    "llama_sdpa": Architecture(hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**DECODER), text, LOGITS, "sdpa"),
    "llama_cache": Architecture(hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**DECODER), cached_text, present()),
    "qwen2": Architecture(hf.Qwen2ForCausalLM, lambda: hf.Qwen2Config(**DECODER), text, LOGITS),
    "qwen3": Architecture(hf.Qwen3ForCausalLM, lambda: hf.Qwen3Config(**DECODER), text, LOGITS),
    "mistral": Architecture(
        hf.MistralForCausalLM, lambda: hf.MistralConfig(**DECODER, sliding_window=None), text, LOGITS
    ),
    "t5_encoder": Architecture(hf.T5EncoderModel, t5, text, HIDDEN),
    "t5_decoder": Architecture(hf.T5ForConditionalGeneration, t5, decoder_text, HIDDEN, part="decoder"),
    "vit": Architecture(
        hf.ViTForImageClassification, lambda: hf.ViTConfig(**VISION, patch_size=8, num_labels=10), image, CLASSES
    ),
    "deit": Architecture(
        hf.DeiTForImageClassificationWithTeacher,
        lambda: hf.DeiTConfig(**VISION, patch_size=8, num_labels=10),
        image,
        CLASSES,
    ),
    "swin": Architecture(hf.SwinForImageClassification, lambda: shifted_windows(hf.SwinConfig), image, CLASSES),
    "swinv2": Architecture(hf.Swinv2ForImageClassification, lambda: shifted_windows(hf.Swinv2Config), image, CLASSES),
    "whisper_encoder": Architecture(hf.WhisperModel, whisper, mel, {"last_hidden_state": {0: "batch"}}, part="encoder"),
    "clip": Architecture(hf.CLIPModel, clip, two_towers, {"text_embeds": {0: "batch"}, "image_embeds": {0: "batch"}}),
    "wav2vec2": Architecture(hf.Wav2Vec2ForCTC, wav2vec2, waveform, {"logits": {0: "batch", 1: "frames"}}),
    "modernbert": Architecture(hf.ModernBertModel, modernbert, text, HIDDEN),
}


def randomize(model: nn.Module) -> None:
    """Random scales and biases, and weights large enough that the output depends on the input.

    Hugging Face starts at a standard deviation of 0.02 and norms at the identity.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name and "relative" not in name:
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5)
            elif parameter.ndim >= 2:
                parameter.normal_(0.0, 0.5)
            elif name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)


def mask_without_vmap(batch_size, cache_position, kv_length, kv_offset=0, mask_function=None, attention_mask=None, **_):
    """The boolean attention mask [batch, 1, query, key] by broadcasting; tracing cannot follow vmap."""
    mask_function = mask_function or masking_utils.causal_mask_function
    key = torch.arange(kv_length, device=cache_position.device) + kv_offset
    index = torch.arange(batch_size, device=cache_position.device)[:, None, None, None]
    head = torch.zeros(1, dtype=torch.long, device=cache_position.device)[None, :, None, None]
    allowed = mask_function(index, head, cache_position[None, None, :, None], key[None, None, None, :])
    allowed = allowed.expand(batch_size, -1, cache_position.shape[0], kv_length)
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, :].to(torch.bool)
    return allowed


def eager_mask_without_vmap(*args, dtype: torch.dtype = torch.float32, **kwargs) -> torch.Tensor:
    allowed = mask_without_vmap(*args, **kwargs)
    return torch.where(allowed, torch.tensor(0.0, dtype=dtype), torch.finfo(dtype).min)


def export(architecture: Architecture, path: Path, variant: str, seed: int) -> None:
    torch.manual_seed(seed)
    inner = architecture.build()
    randomize(inner)
    arguments = architecture.arguments()
    values = tuple(argument.value for argument in arguments)
    names = {"input_names": [argument.name for argument in arguments], "output_names": list(architecture.outputs)}
    wrapper = CachedDecoder if architecture.arguments is cached_text else Wrapper
    model = wrapper(inner.eval(), names["input_names"], names["output_names"])
    if variant == "dynamo":
        parameters = inspect.signature(model.forward).parameters
        shapes = {parameter: argument.axes for parameter, argument in zip(parameters, arguments, strict=False)}
        program = torch.onnx.export(
            model, values, dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False, **names
        )
        program.save(str(path), external_data=False)
        return
    axes = {argument.name: argument.axes for argument in arguments} | architecture.outputs
    torch.onnx.export(
        model,
        values,
        str(path),
        dynamo=False,
        opset_version=17,
        dynamic_axes=axes if variant == "dynamic" else None,
        **names,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ARCHITECTURES))
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("models/hf"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    hf.logging.set_verbosity_error()
    masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register("eager", eager_mask_without_vmap)
    masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", mask_without_vmap)
    args.out.mkdir(parents=True, exist_ok=True)
    refused = 0
    for name in args.names or ARCHITECTURES:
        for variant in args.variant or VARIANTS:
            path = args.out / f"{name}_{variant}.onnx"
            try:
                export(ARCHITECTURES[name], path, variant, args.seed)
                print(f"{path}  {path.stat().st_size} bytes", flush=True)
            except Exception as error:  # one refusal must not stop the rest
                refused += 1
                path.unlink(missing_ok=True)
                reason = " ".join(str(error.__cause__ or error).split())[:300]
                print(f"{path}: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
