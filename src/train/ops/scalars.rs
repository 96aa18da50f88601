//! The scalar functions of elementwise operators, with their derivatives.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use libm::erf;

use crate::train::kernel::Reads;

/// A scalar function of up to three operands.
pub(super) trait Scalar: Send + Sync + 'static {
    /// What the slopes are computed from.
    const READS: Reads;

    /// The value at the operands `a`; `p` are the operator's parameters.
    fn value(a: [f64; 3], p: &[f64]) -> f64;

    /// The derivatives by each operand at `a`, where the value is `y`.
    fn slopes(a: [f64; 3], y: f64, p: &[f64]) -> [f64; 3];
}

/// Rows of scalar functions: `Name(operands, parameters, value) = value, [slopes];`. A third column says what the slopes are
/// computed from, where that is not everything.
macro_rules! scalars {
    (@reads) => { Reads::All };
    (@reads $reads:ident) => { Reads::$reads };
    ($($(#[$doc:meta])* $name:ident($a:pat, $p:pat, $y:pat) = $value:expr, $slopes:expr $(, $reads:ident)?;)*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            // A row names its operands once; value and slopes need not read all of them.
            #[allow(unused_variables)]
            impl Scalar for $name {
                const READS: Reads = scalars!(@reads $($reads)?);

                #[inline]
                fn value($a: [f64; 3], $p: &[f64]) -> f64 {
                    $value
                }

                #[inline]
                fn slopes($a: [f64; 3], $y: f64, $p: &[f64]) -> [f64; 3] {
                    $slopes
                }
            }
        )*
    };
}

/// Derivatives of a function of one operand.
const fn one(slope: f64) -> [f64; 3] {
    [slope, 0.0, 0.0]
}

/// Derivatives of a function that jumps or reads a truth value: gradients stop there.
const STOPS: [f64; 3] = [0.0; 3];

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn sigmoid(x: f64) -> f64 {
    0.5 * ((0.5 * x).tanh() + 1.0)
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Cumulative distribution of the standard normal distribution.
fn normal(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// Inner argument of the tanh form of GELU.
fn gelu_inner(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)
}

/// Scale and slope of SELU's exponential part come as parameters.
fn elu_slope(x: f64, y: f64, alpha: f64) -> f64 {
    if x >= 0.0 { 1.0 } else { y + alpha }
}

scalars! {
    Abs([x, ..], _, _y) = x.abs(), one(if x == 0.0 { 0.0 } else { x.signum() });
    Acos([x, ..], _, _y) = x.acos(), one(-1.0 / (1.0 - x * x).sqrt());
    Acosh([x, ..], _, _y) = x.acosh(), one(1.0 / (x * x - 1.0).sqrt());
    Add([a, b, _], _, _y) = a + b, [1.0, 1.0, 0.0], Shapes;
    /// `scale · x + shift`.
    Affine([x, ..], p, _y) = p[0] * x + p[1], one(p[0]), Shapes;
    And([a, b, _], _, _y) = truth(a != 0.0 && b != 0.0), STOPS, Shapes;
    Asin([x, ..], _, _y) = x.asin(), one(1.0 / (1.0 - x * x).sqrt());
    Asinh([x, ..], _, _y) = x.asinh(), one(1.0 / (1.0 + x * x).sqrt());
    Atan([x, ..], _, _y) = x.atan(), one(1.0 / (1.0 + x * x));
    Atanh([x, ..], _, _y) = x.atanh(), one(1.0 / (1.0 - x * x));
    Ceil([x, ..], _, _y) = x.ceil(), STOPS, Shapes;
    Celu([x, ..], p, y) = x.max(0.0) + (p[0] * ((x / p[0]).exp() - 1.0)).min(0.0), one(elu_slope(x, y / p[0], 1.0));
    Clip([x, ..], p, _y) = x.clamp(p[0], p[1].max(p[0])), one(truth(x >= p[0] && x <= p[1]));
    Cos([x, ..], _, _y) = x.cos(), one(-x.sin());
    Cosh([x, ..], _, _y) = x.cosh(), one(x.sinh());
    Div([a, b, _], _, y) = a / b, [1.0 / b, -y / b, 0.0];
    Elu([x, ..], p, y) = if x >= 0.0 { x } else { p[0] * (x.exp() - 1.0) }, one(elu_slope(x, y, p[0]));
    Equal([a, b, _], _, _y) = truth(a == b), STOPS, Shapes;
    Erf([x, ..], _, _y) = erf(x), one(FRAC_2_SQRT_PI * (-x * x).exp());
    Exp([x, ..], _, y) = x.exp(), one(y), Result;
    Floor([x, ..], _, _y) = x.floor(), STOPS, Shapes;
    Gelu([x, ..], _, _y) = x * normal(x), one(normal(x) + x * density(x));
    GeluTanh([x, ..], _, _y) = 0.5 * x * (1.0 + gelu_inner(x).tanh()), one({
        let tanh = gelu_inner(x).tanh();
        let inner = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044_715 * x * x);
        0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
    });
    Greater([a, b, _], _, _y) = truth(a > b), STOPS, Shapes;
    GreaterOrEqual([a, b, _], _, _y) = truth(a >= b), STOPS, Shapes;
    HardSigmoid([x, ..], p, y) = (p[0] * x + p[1]).clamp(0.0, 1.0), one(if y > 0.0 && y < 1.0 { p[0] } else { 0.0 });
    HardSwish([x, ..], _, _y) = x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        one(if x <= -3.0 { 0.0 } else if x >= 3.0 { 1.0 } else { x / 3.0 + 0.5 });
    Identity([x, ..], _, _y) = x, one(1.0), Shapes;
    IsInf([x, ..], _, _y) = truth(x.is_infinite()), STOPS, Shapes;
    IsNaN([x, ..], _, _y) = truth(x.is_nan()), STOPS, Shapes;
    LeakyRelu([x, ..], p, _y) = if x >= 0.0 { x } else { p[0] * x }, one(if x >= 0.0 { 1.0 } else { p[0] });
    Less([a, b, _], _, _y) = truth(a < b), STOPS, Shapes;
    LessOrEqual([a, b, _], _, _y) = truth(a <= b), STOPS, Shapes;
    Log([x, ..], _, _y) = x.ln(), one(1.0 / x);
    Max([a, b, _], _, _y) = a.max(b), if a == b { [0.5, 0.5, 0.0] } else { [truth(a > b), truth(b > a), 0.0] };
    Min([a, b, _], _, _y) = a.min(b), if a == b { [0.5, 0.5, 0.0] } else { [truth(a < b), truth(b < a), 0.0] };
    Mish([x, ..], _, _y) = x * softplus(x).tanh(), one({
        let tanh = softplus(x).tanh();
        tanh + x * (1.0 - tanh * tanh) * sigmoid(x)
    });
    Mul([a, b, _], _, _y) = a * b, [b, a, 0.0], Operands;
    /// `a · b + c`.
    MulAdd([a, b, c], _, _y) = a * b + c, [b, a, 1.0], Operands;
    Neg([x, ..], _, _y) = -x, one(-1.0), Shapes;
    Not([x, ..], _, _y) = truth(x == 0.0), STOPS, Shapes;
    Or([a, b, _], _, _y) = truth(a != 0.0 || b != 0.0), STOPS, Shapes;
    PRelu([x, s, _], _, _y) = if x >= 0.0 { x } else { s * x }, if x >= 0.0 { [1.0, 0.0, 0.0] } else { [s, x, 0.0] };
    Pow([a, b, _], _, y) = a.powf(b),
        [if b == 0.0 { 0.0 } else { b * a.powf(b - 1.0) }, if a > 0.0 { y * a.ln() } else { 0.0 }, 0.0];
    QuickGelu([x, ..], p, _y) = x * sigmoid(p[0] * x), one({
        let s = sigmoid(p[0] * x);
        s + p[0] * x * s * (1.0 - s)
    });
    Reciprocal([x, ..], _, y) = 1.0 / x, one(-y * y), Result;
    Relu([x, ..], _, y) = x.max(0.0), one(truth(y > 0.0)), Result;
    Round([x, ..], _, _y) = x.round_ties_even(), STOPS, Shapes;
    Selu([x, ..], p, y) = p[1] * if x >= 0.0 { x } else { p[0] * (x.exp() - 1.0) },
        one(p[1] * elu_slope(x, y / p[1], p[0]));
    Shrink([x, ..], p, _y) = if x < -p[0] { x + p[1] } else if x > p[0] { x - p[1] } else { 0.0 }, one(truth(x.abs() > p[0]));
    Sigmoid([x, ..], _, y) = sigmoid(x), one(y * (1.0 - y)), Result;
    Sign([x, ..], _, _y) = if x == 0.0 { 0.0 } else { x.signum() }, STOPS, Shapes;
    Sin([x, ..], _, _y) = x.sin(), one(x.cos());
    Sinh([x, ..], _, _y) = x.sinh(), one(x.cosh());
    Softplus([x, ..], _, _y) = softplus(x), one(sigmoid(x));
    Softsign([x, ..], _, _y) = x / (1.0 + x.abs()), one(1.0 / ((1.0 + x.abs()) * (1.0 + x.abs())));
    Sqrt([x, ..], _, y) = x.sqrt(), one(0.5 / y), Result;
    Sub([a, b, _], _, _y) = a - b, [1.0, -1.0, 0.0], Shapes;
    Tan([x, ..], _, y) = x.tan(), one(1.0 + y * y), Result;
    Tanh([x, ..], _, y) = x.tanh(), one(1.0 - y * y), Result;
    ThresholdedRelu([x, ..], p, _y) = if x > p[0] { x } else { 0.0 }, one(truth(x > p[0]));
    Trunc([x, ..], _, _y) = x.trunc(), STOPS, Shapes;
    Where([c, a, b], _, _y) = if c == 0.0 { b } else { a }, [0.0, truth(c != 0.0), truth(c == 0.0)];
    Xor([a, b, _], _, _y) = truth((a != 0.0) != (b != 0.0)), STOPS, Shapes;
}
