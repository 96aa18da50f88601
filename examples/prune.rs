//! Halves a network from code: inspect, prune, prove, save.
//!
//! ```text
//! cargo run --example prune -- fixtures/digits_resnet.onnx smaller.onnx
//! ```

use std::path::Path;

use paredown::jobs::prune::{Comparison, Options, Proof, Target, prove, prune};
use paredown::onnx::{Model, SaveOptions};
use paredown::runtime::inputs::DimSizes;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = &arguments[..] else {
        return Err("usage: prune MODEL OUT".into());
    };
    let model = Model::load(Path::new(model))?;
    let options = Options::new(Target::Ratio(0.5));
    let mut pruned = prune(&model, &options, None)?;
    let comparison = Comparison {
        analysis: &pruned.analysis,
        rewritten: &pruned.model.proto,
        thaw: &[],
        data: None,
        dims: &DimSizes::default(),
        seed: 0,
    };
    let proof =
        Proof { comparison, groups: &pruned.groups, selection: &pruned.selection, adjusted: pruned.plan.adjusted };
    prove(&proof, &mut pruned.report)?;
    for group in pruned.report.groups.iter().filter(|group| group.kept < group.size) {
        println!("{}: {} of {} {} stay", group.name, group.kept, group.size, group.axis);
    }
    pruned.model.save(Path::new(out), &SaveOptions::default())?;
    Ok(())
}
