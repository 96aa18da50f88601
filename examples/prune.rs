//! Halves a network from code: prune, prove, save.
//!
//! ```text
//! cargo run --example prune -- fixtures/digits_resnet.onnx smaller.onnx
//! ```

use paredown::{Model, PruneOptions, prune};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out] = &arguments[..] else {
        return Err("usage: prune MODEL OUT".into());
    };
    let mut pruned = prune(&Model::load(model)?, &PruneOptions::ratio(0.5))?.prove()?;
    for group in pruned.report.groups.iter().filter(|group| group.kept < group.size) {
        println!("{}: {} of {} {} are kept", group.name, group.kept, group.size, group.axis);
    }
    pruned.save(out)?;
    Ok(())
}
