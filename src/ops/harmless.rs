//! Attributes that change what an operator computes, but not how its axes relate.
//!
//! A rule reads the attributes that it needs. One that neither a rule has read nor this table names is not understood: it
//! freezes the node, with its name as the reason. The table also names attributes that a rule reads in some cases only, and
//! those that the rewriter reads (`allowzero`, `split`, `num_outputs`) or that [`facts`](crate::facts) account for (the
//! spatial axes of windows, which all rules freeze).

/// Attributes of convolutions and pools that move windows.
const WINDOWS: &[&str] = &["auto_pad", "dilations", "kernel_shape", "pads", "strides"];

/// Attributes of recurrent layers. `direction` makes an axis that the rule freezes.
const GATES: &[&str] =
    &["activation_alpha", "activation_beta", "activations", "clip", "direction", "input_forget", "linear_before_reset"];

/// Attributes of any operator that older operator sets had: a memory plan, and numpy's way to broadcast spelled out.
const OLD: &[&str] = &["broadcast", "consumed_inputs"];

/// Further attributes, by domain and name, sorted.
pub const HARMLESS: &[(&str, &str, &[&str])] = &[
    ("", "ArgMax", &["select_last_index"]),
    ("", "ArgMin", &["select_last_index"]),
    (
        "",
        "Attention",
        &[
            "is_causal",
            "left_window_size",
            "qk_matmul_output_mode",
            "right_window_size",
            "scale",
            "softcap",
            "softmax_precision",
        ],
    ),
    ("", "AveragePool", &["ceil_mode", "count_include_pad"]),
    ("", "BatchNormalization", &["epsilon", "is_test", "momentum", "spatial", "training_mode"]),
    ("", "BitShift", &["direction"]),
    ("", "Cast", &["round_mode", "saturate", "to"]),
    ("", "CastLike", &["round_mode", "saturate"]),
    ("", "Celu", &["alpha"]),
    ("", "Clip", &["max", "min"]),
    (
        "",
        "Constant",
        &[
            "sparse_value",
            "value",
            "value_float",
            "value_floats",
            "value_int",
            "value_ints",
            "value_string",
            "value_strings",
        ],
    ),
    ("", "ConstantOfShape", &["value"]),
    ("", "ConvTranspose", &["output_padding", "output_shape"]),
    ("", "CumSum", &["exclusive", "reverse"]),
    ("", "DequantizeLinear", &["axis", "output_dtype"]),
    ("", "Dropout", &["is_test", "ratio", "seed"]),
    ("", "Elu", &["alpha"]),
    ("", "Flatten", &["axis"]),
    ("", "GRU", &["output_sequence"]),
    ("", "Gelu", &["approximate"]),
    ("", "Gemm", &["alpha", "beta"]),
    ("", "GlobalLpPool", &["p"]),
    ("", "GridSample", &["align_corners", "mode", "padding_mode"]),
    ("", "GroupNormalization", &["epsilon", "stash_type"]),
    ("", "HardSigmoid", &["alpha", "beta"]),
    ("", "InstanceNormalization", &["epsilon"]),
    ("", "IsInf", &["detect_negative", "detect_positive"]),
    ("", "LRN", &["alpha", "beta", "bias", "size"]),
    ("", "LSTM", &["output_sequence"]),
    ("", "LayerNormalization", &["epsilon", "stash_type"]),
    ("", "LeakyRelu", &["alpha"]),
    ("", "LpNormalization", &["p"]),
    ("", "LpPool", &["ceil_mode", "p"]),
    ("", "MaxPool", &["ceil_mode", "storage_order"]),
    ("", "MaxRoiPool", &["pooled_shape", "spatial_scale"]),
    ("", "Mod", &["fmod"]),
    ("", "Pad", &["value"]),
    ("", "QuantizeLinear", &["axis", "output_dtype", "precision", "saturate"]),
    ("", "RMSNormalization", &["epsilon", "stash_type"]),
    ("", "RNN", &["output_sequence"]),
    ("", "ReduceL1", &["noop_with_empty_axes"]),
    ("", "ReduceL2", &["noop_with_empty_axes"]),
    ("", "ReduceLogSum", &["noop_with_empty_axes"]),
    ("", "ReduceLogSumExp", &["noop_with_empty_axes"]),
    ("", "ReduceMax", &["noop_with_empty_axes"]),
    ("", "ReduceMean", &["noop_with_empty_axes"]),
    ("", "ReduceMin", &["noop_with_empty_axes"]),
    ("", "ReduceProd", &["noop_with_empty_axes"]),
    ("", "ReduceSum", &["noop_with_empty_axes"]),
    ("", "ReduceSumSquare", &["noop_with_empty_axes"]),
    ("", "Reshape", &["allowzero"]),
    (
        "",
        "Resize",
        &[
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        ],
    ),
    (
        "",
        "RoiAlign",
        &["coordinate_transformation_mode", "mode", "output_height", "output_width", "sampling_ratio", "spatial_scale"],
    ),
    ("", "RotaryEmbedding", &["interleaved", "rotary_embedding_dim"]),
    ("", "ScatterElements", &["reduction"]),
    ("", "ScatterND", &["reduction"]),
    ("", "Selu", &["alpha", "gamma"]),
    ("", "Shape", &["end", "start"]),
    ("", "Shrink", &["bias", "lambd"]),
    ("", "SimplifiedLayerNormalization", &["epsilon", "stash_type"]),
    ("", "Split", &["num_outputs", "split"]),
    ("", "Squeeze", &["axes"]),
    ("", "Swish", &["alpha"]),
    ("", "ThresholdedRelu", &["alpha"]),
    ("", "TopK", &["k", "largest", "sorted"]),
    ("", "Trilu", &["upper"]),
    ("", "Unsqueeze", &["axes"]),
    ("", "Upsample", &["height_scale", "mode", "scales", "width_scale"]),
    ("ai.onnx.ml", "Binarizer", &["threshold"]),
    ("ai.onnx.ml", "CategoryMapper", &["cats_int64s", "cats_strings", "default_int64", "default_string"]),
    (
        "ai.onnx.ml",
        "Imputer",
        &["imputed_value_floats", "imputed_value_int64s", "replaced_value_float", "replaced_value_int64"],
    ),
    (
        "ai.onnx.ml",
        "LabelEncoder",
        &[
            "classes_strings",
            "default_float",
            "default_int64",
            "default_string",
            "default_tensor",
            "keys_floats",
            "keys_int64s",
            "keys_strings",
            "keys_tensor",
            "values_floats",
            "values_int64s",
            "values_strings",
            "values_tensor",
        ],
    ),
    ("ai.onnx.ml", "Normalizer", &["norm"]),
    ("ai.onnx.ml", "Scaler", &["offset", "scale"]),
    (
        "com.microsoft",
        "Attention",
        &["mask_filter_value", "past_present_share_buffer", "rotary_embedding_dim", "scale", "unidirectional"],
    ),
    ("com.microsoft", "DequantizeLinear", &["axis"]),
    ("com.microsoft", "EmbedLayerNormalization", &["epsilon", "mask_index_type"]),
    ("com.microsoft", "FusedConv", &["activation", "activation_params"]),
    (
        "com.microsoft",
        "FusedGemm",
        &["activation", "activation_alpha", "activation_beta", "activation_gamma", "alpha", "beta", "leaky_relu_alpha"],
    ),
    ("com.microsoft", "FusedMatMul", &["alpha"]),
    (
        "com.microsoft",
        "GroupQueryAttention",
        &[
            "k_quant_type",
            "kv_cache_bit_width",
            "local_window_size",
            "qk_output",
            "rotary_interleaved",
            "scale",
            "smooth_softmax",
            "softcap",
            "v_quant_type",
        ],
    ),
    ("com.microsoft", "MultiHeadAttention", &["mask_filter_value", "scale", "unidirectional"]),
    ("com.microsoft", "QuantizeLinear", &["axis"]),
    ("com.microsoft", "QuickGelu", &["alpha"]),
    ("com.microsoft", "RotaryEmbedding", &["interleaved", "is_packed_batching", "rotary_embedding_dim", "scale"]),
    ("com.microsoft", "SimplifiedLayerNormalization", &["epsilon", "stash_type"]),
    ("com.microsoft", "SkipLayerNormalization", &["epsilon"]),
    ("com.microsoft", "SkipSimplifiedLayerNormalization", &["epsilon"]),
];

/// Whether the relation of the operator's axes is the same whatever this attribute says.
pub(super) fn is_harmless(domain: &str, op: &str, attribute: &str) -> bool {
    let shared: &[&str] = match op {
        "AveragePool" | "Col2Im" | "Conv" | "ConvTranspose" | "DeformConv" | "FusedConv" | "LpPool" | "MaxPool" => {
            WINDOWS
        }
        "GRU" | "LSTM" | "RNN" => GATES,
        _ => &[],
    };
    let at = HARMLESS.binary_search_by(|row| (row.0, row.1).cmp(&(domain, op)));
    let own = at.ok().and_then(|at| HARMLESS.get(at)).map_or(&[][..], |row| row.2);
    [OLD, shared, own].iter().any(|list| list.contains(&attribute))
}
