//! LSTM, GRU, RNN: one factor for the hidden width, through all gates and both directions.

use super::site::{Contraction, Outcome, Refusal, Site};

/// `k` gates, `e = 2` biases (of the input and of the state), `p` peepholes. The state is summed over where it returns.
pub(super) fn recurrent(site: &mut Site<'_>) -> Outcome {
    let gates = match site.node.op.as_str() {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let batch_first = site.int("layout", 0) != 0;
    let row = match (site.node.op.as_str(), batch_first) {
        ("LSTM", false) => {
            "s# b# i, d# (k# h) i, d (k h) h*, d (e# k h)?, b?, d b h?, d b h?, d (p# h)? -> s d b h, d b h, d b h"
        }
        ("LSTM", true) => {
            "b# s# i, d# (k# h) i, d (k h) h*, d (e# k h)?, b?, b d h?, b d h?, d (p# h)? -> b s d h, b d h, b d h"
        }
        (_, false) => "s# b# i, d# (k# h) i, d (k h) h*, d (e# k h)?, b?, d b h? -> s d b h, d b h",
        (_, true) => "b# s# i, d# (k# h) i, d (k h) h*, d (e# k h)?, b?, b d h? -> b s d h, b d h",
    };
    let known = [("k", gates), ("e", 2), ("p", 3)];
    let applied = site.row_with(row, &[("h", "hidden_size", 1)], &known)?;
    let var =
        |name: &str| applied.vars.get(name).copied().ok_or_else(|| Refusal::new(format!("size '{name}' is not known")));
    let step = [var("s")?, var("b")?, var("d")?, var("k")?, var("h")?];
    let with = |last| step.iter().copied().chain([last]).collect();
    let macs = vec![with(var("i")?), with(var("h")?)];
    site.relation.contraction = Some(Contraction { macs, linear: None });
    Ok(())
}
