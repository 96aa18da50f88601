//! Writes the masked original of a plan: the reference against which a removal is exact, for any other runtime.
//!
//!     paredown prune model.onnx -o pruned.onnx --ratio 0.5 --plan-out plan.json
//!     cargo run --release --example mask -- model.onnx plan.json masked.onnx [thawed value…]

use std::path::Path;

use paredown::internals::rewrite::masked;
use paredown::{Error, Model, Plan, PruneOptions, Result, SaveOptions, prune};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, plan, target, thaw @ ..] = arguments.as_slice() else {
        return Err(Error::usage("usage: mask MODEL PLAN TARGET [THAWED VALUE…]"));
    };
    let model = Model::load(model)?;
    // What a plan says is carried out as it stands, shifting removals included.
    let options = PruneOptions::plan(Plan::load(plan)?).allow_shifts(true);
    let options = thaw.iter().fold(options, PruneOptions::thaw);
    let pruned = prune(&model, &options)?;
    let reference = masked(pruned.evidence.analysis.subject(), &pruned.evidence.selection)?;
    model.with_proto(reference).save(Path::new(target), &SaveOptions { force: true, ..SaveOptions::default() })?;
    Ok(())
}
