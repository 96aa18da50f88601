//! How far a model's values on the tape, on which it would be trained, are from those that tract computes.
//!
//!     cargo run --release --example tape -- MODEL.onnx [NAME=SIZE]…

use paredown::internals::onnx::Model;
use paredown::internals::runtime::inputs::DimSizes;
use paredown::internals::runtime::probes::probe_batches;
use paredown::internals::runtime::{RunOptions, Runnable};
use paredown::internals::train::{Program, Wanted};
use paredown::{Error, Result};

fn main() -> Result<()> {
    let mut typed = std::env::args().skip(1);
    let path = typed.next().ok_or_else(|| Error::usage("which model?"))?;
    let mut sizes = DimSizes::default();
    typed.try_for_each(|size| sizes.add(&size))?;
    let model = Model::load(path)?;
    let graph = model.proto.graph.as_ref().ok_or_else(|| Error::input("the file holds no graph"))?;
    let runnable = Runnable::new(&model.proto, &RunOptions::default())?;
    let program: Program = Program::new(&model.proto, Wanted::Parameters(&|_| true))?;
    let trained: usize = program.parameters().iter().map(|p| p.value.len()).sum();
    println!("{} tensors can be trained, {trained} parameters", program.parameters().len());
    for batch in probe_batches(graph, &sizes, 2, 1)?.iter().take(1) {
        let samples = batch.first().and_then(|(_, tensor)| tensor.shape().first().copied()).unwrap_or(1);
        let expected = runnable.run(batch)?;
        for (name, found) in program.evaluate(batch, samples)?.outputs {
            let Some((_, expected)) = expected.iter().find(|(known, _)| *known == name) else { continue };
            let expected = expected.to_vec::<f32>()?;
            let largest = expected.iter().fold(0_f32, |m, y| m.max(y.abs()));
            let delta = found.data().iter().zip(&expected).fold(0_f32, |m, (a, b)| m.max((a - b).abs()));
            println!("{name}: largest difference {:.1e} of the largest value", delta / largest);
        }
    }
    Ok(())
}
