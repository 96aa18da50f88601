//! The rule table, sorted by domain and name.

use super::site::{Outcome, Site};
use super::{attention, contract, layout, recurrent, reduce, select};

/// How an operator's axes relate.
#[derive(Clone, Copy)]
pub enum Relate {
    /// Every operand broadcasts to every result, as in numpy.
    Elementwise,
    /// A row in einx style; see [`Row`](crate::axes::Row).
    Row(&'static str),
    /// A function, where a row does not do.
    Rule(fn(&mut Site<'_>) -> Outcome),
    /// Reads or makes values whose axes all stay; the text says why.
    Frozen(&'static str),
}

/// A line of the table.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Operator domain, empty for `ai.onnx`.
    pub domain: &'static str,
    /// Operator type.
    pub op: &'static str,
    /// How its axes relate.
    pub relate: Relate,
}

const fn standard(op: &'static str, relate: Relate) -> Rule {
    Rule { domain: "", op, relate }
}

const fn microsoft(op: &'static str, relate: Relate) -> Rule {
    Rule { domain: "com.microsoft", op, relate }
}

use Relate::{Elementwise, Frozen, Row, Rule as By};

/// Pooling keeps channels; windows fix the spatial axes.
const POOL: Relate = Row("n# c _..# -> n c _..#, n c _..#");

/// All rules, sorted by domain and name. An operator that is not here freezes what it touches.
pub const RULES: &[Rule] = &[
    standard("Abs", Elementwise),
    standard("Acos", Elementwise),
    standard("Acosh", Elementwise),
    standard("Add", Elementwise),
    standard("And", Elementwise),
    standard("ArgMax", By(reduce::arg)),
    standard("ArgMin", By(reduce::arg)),
    standard("Asin", Elementwise),
    standard("Asinh", Elementwise),
    standard("Atan", Elementwise),
    standard("Atanh", Elementwise),
    standard("Attention", By(attention::attention)),
    standard("AveragePool", POOL),
    standard("BatchNormalization", Row("n# c s.., c, c, c, c -> n c s.., c, c, c, c")),
    standard("BitShift", Elementwise),
    standard("BitwiseAnd", Elementwise),
    standard("BitwiseNot", Elementwise),
    standard("BitwiseOr", Elementwise),
    standard("BitwiseXor", Elementwise),
    standard("Cast", Elementwise),
    standard("CastLike", Row("s.., _..# -> s..")),
    standard("Ceil", Elementwise),
    standard("Celu", Elementwise),
    standard("Clip", Elementwise),
    standard("Concat", By(select::concat)),
    standard("Constant", Row("-> s..")),
    standard("ConstantOfShape", By(layout::constant_of_shape)),
    standard("Conv", By(contract::conv)),
    standard("ConvTranspose", By(contract::conv_transpose)),
    standard("Cos", Elementwise),
    standard("Cosh", Elementwise),
    standard("CumSum", By(reduce::scan_axis)),
    standard("DepthToSpace", By(layout::depth_to_space)),
    standard("DequantizeLinear", By(reduce::quantize)),
    standard("Div", Elementwise),
    standard("Dropout", Row("s.., _..#?, _..#? -> s.., s..")),
    standard("Einsum", By(contract::einsum)),
    standard("Elu", Elementwise),
    standard("Equal", Elementwise),
    standard("Erf", Elementwise),
    standard("Exp", Elementwise),
    standard("Expand", By(layout::expand)),
    standard("Flatten", By(layout::reshape)),
    standard("Floor", Elementwise),
    standard("GRU", By(recurrent::recurrent)),
    standard("Gather", By(select::gather)),
    standard("GatherElements", By(select::gather_elements)),
    standard("Gelu", Elementwise),
    standard("Gemm", By(contract::gemm)),
    standard("GlobalAveragePool", POOL),
    standard("GlobalLpPool", POOL),
    standard("GlobalMaxPool", POOL),
    standard("Greater", Elementwise),
    standard("GreaterOrEqual", Elementwise),
    standard("GridSample", Row("n# c _..#, n _..# -> n c _..#")),
    standard("GroupNormalization", By(reduce::group_norm)),
    standard("HardSigmoid", Elementwise),
    standard("HardSwish", Elementwise),
    standard("Hardmax", By(reduce::softmax)),
    standard("Identity", Elementwise),
    standard("InstanceNormalization", Row("n# c s..!, c, c -> n c s..")),
    standard("IsInf", Elementwise),
    standard("IsNaN", Elementwise),
    standard("LRN", Row("n# c! s.. -> n c s..")),
    standard("LSTM", By(recurrent::recurrent)),
    standard("LayerNormalization", By(reduce::layer_norm)),
    standard("LeakyRelu", Elementwise),
    standard("Less", Elementwise),
    standard("LessOrEqual", Elementwise),
    standard("Log", Elementwise),
    standard("LogSoftmax", By(reduce::softmax)),
    standard("LpNormalization", By(reduce::softmax)),
    standard("LpPool", POOL),
    standard("MatMul", By(contract::matmul)),
    standard("Max", Elementwise),
    standard("MaxPool", POOL),
    standard("Mean", Elementwise),
    standard("Min", Elementwise),
    standard("Mish", Elementwise),
    standard("Mod", Elementwise),
    standard("Mul", Elementwise),
    standard("Neg", Elementwise),
    standard("NonZero", Frozen("positions of nonzero values")),
    standard("Not", Elementwise),
    standard("Or", Elementwise),
    standard("PRelu", Elementwise),
    standard("Pad", By(select::pad)),
    standard("Pow", Elementwise),
    standard("QuantizeLinear", By(reduce::quantize)),
    standard("RMSNormalization", By(reduce::layer_norm)),
    standard("RNN", By(recurrent::recurrent)),
    standard("Range", Frozen("a list of numbers")),
    standard("Reciprocal", Elementwise),
    standard("ReduceL1", By(reduce::sum)),
    standard("ReduceL2", By(reduce::sum)),
    standard("ReduceLogSum", By(reduce::statistic)),
    standard("ReduceLogSumExp", By(reduce::statistic)),
    standard("ReduceMax", By(reduce::statistic)),
    standard("ReduceMean", By(reduce::statistic)),
    standard("ReduceMin", By(reduce::statistic)),
    standard("ReduceProd", By(reduce::statistic)),
    standard("ReduceSum", By(reduce::sum)),
    standard("ReduceSumSquare", By(reduce::sum)),
    standard("Relu", Elementwise),
    standard("Reshape", By(layout::reshape)),
    standard("Resize", By(layout::resize)),
    standard("RotaryEmbedding", By(attention::rotary)),
    standard("Round", Elementwise),
    standard("Selu", Elementwise),
    standard("Shape", By(layout::shape)),
    standard("Shrink", Elementwise),
    standard("Sigmoid", Elementwise),
    standard("Sign", Elementwise),
    standard("SimplifiedLayerNormalization", By(reduce::layer_norm)),
    standard("Sin", Elementwise),
    standard("Sinh", Elementwise),
    standard("Size", By(layout::shape)),
    standard("Slice", By(select::slice)),
    standard("Softmax", By(reduce::softmax)),
    standard("Softplus", Elementwise),
    standard("Softsign", Elementwise),
    standard("SpaceToDepth", By(layout::space_to_depth)),
    standard("Split", By(select::split)),
    standard("Sqrt", Elementwise),
    standard("Squeeze", By(layout::reshape)),
    standard("Sub", Elementwise),
    standard("Sum", Elementwise),
    standard("Swish", Elementwise),
    standard("Tan", Elementwise),
    standard("Tanh", Elementwise),
    standard("ThresholdedRelu", Elementwise),
    standard("Tile", By(layout::tile)),
    standard("TopK", By(reduce::top_k)),
    standard("Transpose", By(layout::transpose)),
    standard("Trilu", By(reduce::triangle)),
    standard("Unsqueeze", By(layout::reshape)),
    standard("Upsample", By(layout::resize)),
    standard("Where", Elementwise),
    standard("Xor", Elementwise),
    microsoft("Attention", By(attention::packed)),
    microsoft("BiasGelu", Elementwise),
    microsoft(
        "EmbedLayerNormalization",
        Row("b# s#, b s?, _# c!, _# c, _# c?, c, c, _..#?, _..#? -> b s c, _..#, b s c"),
    ),
    microsoft("FastGelu", Elementwise),
    microsoft("FusedMatMul", By(contract::matmul)),
    microsoft("Gelu", Elementwise),
    microsoft("GroupQueryAttention", By(attention::group_query)),
    microsoft("MultiHeadAttention", By(attention::multi_head)),
    microsoft("QuickGelu", Elementwise),
    microsoft("RotaryEmbedding", By(attention::rotary)),
    microsoft("SimplifiedLayerNormalization", By(reduce::layer_norm)),
    microsoft("SkipLayerNormalization", Row("s.. c!, s.. c, c, c?, c? -> s.. c, _..#, _..#, s.. c")),
    microsoft("SkipSimplifiedLayerNormalization", Row("s.. c!, s.. c, c, c? -> s.. c, _..#, _..#, s.. c")),
];

/// The rule of an operator.
pub fn rule(domain: &str, op: &str) -> Option<&'static Rule> {
    let at = RULES.binary_search_by(|rule| (rule.domain, rule.op).cmp(&(domain, op))).ok()?;
    RULES.get(at)
}
