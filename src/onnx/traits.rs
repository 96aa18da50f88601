//! Facts about operators that hold wherever they stand: which ones move elements, draw random numbers, make sequences, …
//!
//! One row an operator, one column a fact. `RULES` in `ops` says how an operator's axes relate; this table says
//! what else other modules ask about it. It stands beside the file format because the runtime and the inference of shapes
//! read it too, and both come before the rules. A test holds the two tables against each other: every operator with a rule
//! has a row here, and the few rows without a rule are named there.
//!
//! ```
//! use paredown::internals::onnx::traits::{self, CONVERTS, MOVES};
//!
//! assert!(traits::of("", "Cast").has(MOVES) && traits::of("", "Cast").has(CONVERTS));
//! assert!(!traits::of("", "Relu").has(MOVES) && !traits::of("com.example", "Cast").has(MOVES));
//! ```

use crate::onnx::domain::canonical;
use crate::onnx::proto::NodeProto;

/// A set of facts about an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits(u16);

/// None of the facts below.
pub const NONE: Traits = Traits(0);
/// Moves, repeats or converts the elements of its operands, and combines none.
pub const MOVES: Traits = Traits(1);
/// Picks numbers without a look at them: its result is the same at all sample sizes if its operands are.
pub const PICKS: Traits = Traits(1 << 1);
/// Its result follows its operands without a case distinction.
pub const COMPUTES: Traits = Traits(1 << 2);
/// Integer ids are the same ids in its first result.
pub const CARRIES_IDS: Traits = Traits(1 << 3);
/// Converts each element, so that its first operand keeps its axes.
pub const CONVERTS: Traits = Traits(1 << 4);
/// Writes or reads at positions that an operand or an attribute names.
pub const ADDRESSES: Traits = Traits(1 << 5);
/// Takes a statistic that moves when its axis shrinks. Sums, as for the norm of a weight, shrink with their axis exactly.
pub const AVERAGES: Traits = Traits(1 << 6);
/// Its result is a sequence of tensors.
pub const MAKES_SEQUENCE: Traits = Traits(1 << 7);
/// Reads a tensor or a size out of a sequence of tensors.
pub const READS_SEQUENCE: Traits = Traits(1 << 8);
/// Multiplies with integer weights.
pub const INTEGER: Traits = Traits(1 << 9);
/// Draws random numbers: its result is no constant though its operands are.
pub const RANDOM: Traits = Traits(1 << 10);
/// Reads the shape of its operand, and none of its elements.
pub const READS_SHAPE: Traits = Traits(1 << 11);
/// A recurrent layer with gates.
pub const RECURRENT: Traits = Traits(1 << 12);
/// The first result has the shape of the first operand.
pub const KEEPS_SHAPE: Traits = Traits(1 << 13);
/// Its attribute `axis` counts the axes of the first operand.
pub const AXIS_OF_FIRST: Traits = Traits(1 << 14);

impl Traits {
    /// Both sets of facts together.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every fact of `wanted` holds.
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether one fact of `wanted` holds.
    pub const fn has_any(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// The facts of an operator; [`NONE`] for one that has no row.
pub fn of(domain: &str, op: &str) -> Traits {
    let at = TRAITS.binary_search_by(|row| (row.domain, row.op).cmp(&(domain, op)));
    at.ok().and_then(|at| TRAITS.get(at)).map_or(NONE, |row| row.traits)
}

/// The facts of a node's operator.
pub(crate) fn of_node(node: &NodeProto) -> Traits {
    of(canonical(node.domain()), node.op_type())
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Operator domain, empty for `ai.onnx`.
    pub domain: &'static str,
    /// Operator type.
    pub op: &'static str,
    /// Its facts.
    pub traits: Traits,
}

const fn standard(op: &'static str, traits: Traits) -> Row {
    Row { domain: "", op, traits }
}

const fn classical(op: &'static str, traits: Traits) -> Row {
    Row { domain: "ai.onnx.ml", op, traits }
}

const fn microsoft(op: &'static str, traits: Traits) -> Row {
    Row { domain: "com.microsoft", op, traits }
}

/// All rows, sorted by domain and name.
pub const TRAITS: &[Row] = &[
    standard("Abs", NONE),
    standard("Acos", NONE),
    standard("Acosh", NONE),
    standard("Add", COMPUTES),
    standard("And", NONE),
    standard("ArgMax", AXIS_OF_FIRST),
    standard("ArgMin", AXIS_OF_FIRST),
    standard("Asin", NONE),
    standard("Asinh", NONE),
    standard("Atan", NONE),
    standard("Atanh", NONE),
    standard("Attention", NONE),
    standard("AveragePool", NONE),
    standard("BatchNormalization", AVERAGES.and(KEEPS_SHAPE)),
    standard("Bernoulli", RANDOM),
    standard("BitShift", NONE),
    standard("BitwiseAnd", NONE),
    standard("BitwiseNot", NONE),
    standard("BitwiseOr", NONE),
    standard("BitwiseXor", NONE),
    standard("Cast", MOVES.and(PICKS).and(CARRIES_IDS).and(CONVERTS)),
    standard("CastLike", NONE),
    standard("Ceil", NONE),
    standard("Celu", NONE),
    standard("Clip", NONE),
    standard("Col2Im", NONE),
    standard("Compress", ADDRESSES),
    standard("Concat", MOVES.and(PICKS).and(AXIS_OF_FIRST)),
    standard("ConcatFromSequence", READS_SEQUENCE),
    standard("Constant", COMPUTES),
    standard("ConstantOfShape", COMPUTES),
    standard("Conv", NONE),
    standard("ConvInteger", INTEGER),
    standard("ConvTranspose", NONE),
    standard("Cos", NONE),
    standard("Cosh", NONE),
    standard("CumSum", ADDRESSES),
    standard("DeformConv", NONE),
    standard("DepthToSpace", NONE),
    standard("DequantizeLinear", CONVERTS.and(KEEPS_SHAPE)),
    standard("Div", NONE),
    standard("Dropout", KEEPS_SHAPE),
    standard("DynamicQuantizeLinear", NONE),
    standard("Einsum", NONE),
    standard("Elu", NONE),
    standard("Equal", NONE),
    standard("Erf", NONE),
    standard("Exp", NONE),
    standard("Expand", MOVES.and(COMPUTES).and(CARRIES_IDS)),
    standard("EyeLike", ADDRESSES),
    standard("Flatten", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Floor", NONE),
    standard("GRU", RECURRENT),
    standard("Gather", PICKS.and(AXIS_OF_FIRST)),
    standard("GatherElements", ADDRESSES.and(AXIS_OF_FIRST)),
    standard("GatherND", ADDRESSES),
    standard("Gelu", NONE),
    standard("Gemm", NONE),
    standard("GlobalAveragePool", NONE),
    standard("GlobalLpPool", NONE),
    standard("GlobalMaxPool", NONE),
    standard("Greater", NONE),
    standard("GreaterOrEqual", NONE),
    standard("GridSample", NONE),
    standard("GroupNormalization", NONE),
    standard("HardSigmoid", NONE),
    standard("HardSwish", NONE),
    standard("Hardmax", NONE),
    standard("Identity", MOVES.and(PICKS).and(CARRIES_IDS).and(CONVERTS)),
    standard("If", NONE),
    standard("InstanceNormalization", AVERAGES.and(KEEPS_SHAPE)),
    standard("IsInf", NONE),
    standard("IsNaN", NONE),
    standard("LRN", NONE),
    standard("LSTM", RECURRENT),
    standard("LayerNormalization", AVERAGES.and(KEEPS_SHAPE).and(AXIS_OF_FIRST)),
    standard("LeakyRelu", NONE),
    standard("Less", NONE),
    standard("LessOrEqual", NONE),
    standard("Log", NONE),
    standard("LogSoftmax", KEEPS_SHAPE),
    standard("Loop", NONE),
    standard("LpNormalization", KEEPS_SHAPE),
    standard("LpPool", NONE),
    standard("MatMul", NONE),
    standard("MatMulInteger", INTEGER),
    standard("Max", NONE),
    standard("MaxPool", NONE),
    standard("MaxRoiPool", NONE),
    standard("MaxUnpool", NONE),
    standard("Mean", NONE),
    standard("MeanVarianceNormalization", NONE),
    standard("Min", NONE),
    standard("Mish", NONE),
    standard("Mod", NONE),
    standard("Mul", COMPUTES),
    standard("Multinomial", RANDOM),
    standard("Neg", NONE),
    standard("NonMaxSuppression", NONE),
    standard("NonZero", NONE),
    standard("Not", NONE),
    standard("OneHot", ADDRESSES),
    standard("Or", NONE),
    standard("PRelu", NONE),
    standard("Pad", NONE),
    standard("Pow", NONE),
    standard("QLinearConv", INTEGER),
    standard("QLinearMatMul", INTEGER),
    standard("QuantizeLinear", KEEPS_SHAPE),
    standard("RMSNormalization", KEEPS_SHAPE.and(AXIS_OF_FIRST)),
    standard("RNN", RECURRENT),
    standard("RandomNormal", RANDOM),
    standard("RandomNormalLike", RANDOM),
    standard("RandomUniform", RANDOM),
    standard("RandomUniformLike", RANDOM),
    standard("Range", COMPUTES),
    standard("Reciprocal", NONE),
    standard("ReduceL1", NONE),
    standard("ReduceL2", NONE),
    standard("ReduceLogSum", NONE),
    standard("ReduceLogSumExp", NONE),
    standard("ReduceMax", AVERAGES),
    standard("ReduceMean", AVERAGES),
    standard("ReduceMin", AVERAGES),
    standard("ReduceProd", NONE),
    standard("ReduceSum", NONE),
    standard("ReduceSumSquare", NONE),
    standard("Relu", NONE),
    standard("Reshape", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Resize", NONE),
    standard("ReverseSequence", KEEPS_SHAPE),
    standard("RoiAlign", NONE),
    standard("RotaryEmbedding", KEEPS_SHAPE),
    standard("Round", NONE),
    standard("Scan", NONE),
    standard("Scatter", ADDRESSES),
    standard("ScatterElements", ADDRESSES),
    standard("ScatterND", ADDRESSES),
    standard("Selu", NONE),
    standard("SequenceAt", READS_SEQUENCE),
    standard("SequenceConstruct", MAKES_SEQUENCE),
    standard("SequenceEmpty", MAKES_SEQUENCE),
    standard("SequenceErase", MAKES_SEQUENCE),
    standard("SequenceInsert", MAKES_SEQUENCE),
    standard("SequenceLength", READS_SEQUENCE),
    standard("Shape", PICKS.and(READS_SHAPE)),
    standard("Shrink", NONE),
    standard("Sigmoid", NONE),
    standard("Sign", NONE),
    standard("SimplifiedLayerNormalization", KEEPS_SHAPE),
    standard("Sin", NONE),
    standard("Sinh", NONE),
    standard("Size", PICKS.and(READS_SHAPE)),
    standard("Slice", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Softmax", KEEPS_SHAPE),
    standard("Softplus", NONE),
    standard("Softsign", NONE),
    standard("SpaceToDepth", NONE),
    standard("Split", MOVES.and(PICKS).and(AXIS_OF_FIRST)),
    standard("SplitToSequence", MAKES_SEQUENCE),
    standard("Sqrt", NONE),
    standard("Squeeze", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Sub", COMPUTES),
    standard("Sum", NONE),
    standard("Swish", NONE),
    standard("Tan", NONE),
    standard("Tanh", NONE),
    standard("ThresholdedRelu", NONE),
    standard("Tile", MOVES.and(CARRIES_IDS)),
    standard("TopK", AXIS_OF_FIRST),
    standard("Transpose", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Trilu", ADDRESSES),
    standard("Unique", NONE),
    standard("Unsqueeze", MOVES.and(PICKS).and(CARRIES_IDS)),
    standard("Upsample", NONE),
    standard("Where", COMPUTES),
    standard("Xor", NONE),
    classical("ArrayFeatureExtractor", NONE),
    classical("Binarizer", NONE),
    classical("CastMap", NONE),
    classical("CategoryMapper", NONE),
    classical("DictVectorizer", NONE),
    classical("FeatureVectorizer", NONE),
    classical("Imputer", NONE),
    classical("LabelEncoder", NONE),
    classical("LinearClassifier", NONE),
    classical("LinearRegressor", NONE),
    classical("Normalizer", NONE),
    classical("OneHotEncoder", NONE),
    classical("SVMClassifier", NONE),
    classical("SVMRegressor", NONE),
    classical("Scaler", NONE),
    classical("TreeEnsemble", NONE),
    classical("TreeEnsembleClassifier", NONE),
    classical("TreeEnsembleRegressor", NONE),
    classical("ZipMap", NONE),
    microsoft("Attention", NONE),
    microsoft("BiasGelu", NONE),
    microsoft("DequantizeLinear", CONVERTS.and(KEEPS_SHAPE)),
    microsoft("DynamicQuantizeMatMul", INTEGER),
    microsoft("EmbedLayerNormalization", NONE),
    microsoft("FastGelu", NONE),
    microsoft("FusedConv", NONE),
    microsoft("FusedGemm", NONE),
    microsoft("FusedMatMul", NONE),
    microsoft("Gelu", NONE),
    microsoft("GroupQueryAttention", NONE),
    microsoft("MatMulIntegerToFloat", INTEGER),
    microsoft("MatMulNBits", INTEGER),
    microsoft("MultiHeadAttention", NONE),
    microsoft("QAttention", NONE),
    microsoft("QGemm", INTEGER),
    microsoft("QLinearAdd", NONE),
    microsoft("QuantizeLinear", KEEPS_SHAPE),
    microsoft("QuickGelu", NONE),
    microsoft("RotaryEmbedding", KEEPS_SHAPE),
    microsoft("SimplifiedLayerNormalization", KEEPS_SHAPE),
    microsoft("SkipLayerNormalization", NONE),
    microsoft("SkipSimplifiedLayerNormalization", NONE),
];
