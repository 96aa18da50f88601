//! Writes the masked original of a plan: the reference against which a removal is exact, for any other runtime.
//!
//!     paredown prune model.onnx -o pruned.onnx --ratio 0.5 --plan-out plan.json
//!     cargo run --release --example mask -- model.onnx plan.json masked.onnx [thawed value…]

use std::path::Path;

use paredown::jobs::prune::{Options, Target, prune};
use paredown::onnx::{Model, SaveOptions};
use paredown::plan::Plan;
use paredown::rewrite::masked;
use paredown::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, plan, target, thaw @ ..] = arguments.as_slice() else {
        return Err(Error::usage("usage: mask MODEL PLAN TARGET [THAWED VALUE…]"));
    };
    let model = Model::load(Path::new(model))?;
    // What a plan says is carried out as it stands, shifting removals included.
    let options =
        Options { thaw: thaw.to_vec(), allow_shifts: true, ..Options::new(Target::Plan(Plan::load(Path::new(plan))?)) };
    let pruned = prune(&model, &options, None)?;
    let reference = masked(pruned.analysis.subject(), &pruned.selection)?;
    model.with_proto(reference).save(Path::new(target), &SaveOptions { force: true, ..SaveOptions::default() })?;
    Ok(())
}
