//! Runs a model in tract and writes its outputs, to be compared with another runtime's.
//!
//! ```text
//! cargo run --release --example run -- model.onnx inputs.npz outputs.npz
//! ```
//!
//! `inputs.npz` holds arrays named as the graph's inputs, one batch; `outputs.npz` gets float32 arrays named as its outputs.

use std::fs::File;
use std::path::Path;

use ndarray::ArrayD;
use ndarray_npy::NpzWriter;
use paredown::internals::calibrate::data::Dataset;
use paredown::internals::onnx::Model;
use paredown::internals::runtime::{RunOptions, Runnable};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, inputs, outputs] = &arguments[..] else {
        return Err("usage: run MODEL INPUTS.npz OUTPUTS.npz".into());
    };
    let model = Model::load(Path::new(model))?;
    let graph = model.proto.graph.as_ref().ok_or("the file holds no graph")?;
    let data = Dataset::open(Path::new(inputs), graph)?;
    let batch = data.batches(data.samples()).next().ok_or("there are no samples")??;
    let runnable = Runnable::new(&model.proto, &RunOptions::default())?;
    let mut archive = NpzWriter::new(File::create(outputs)?);
    for (name, tensor) in runnable.run(&batch.inputs)? {
        archive.add_array(&name, &ArrayD::from_shape_vec(tensor.shape(), tensor.to_vec::<f32>()?)?)?;
    }
    archive.finish()?;
    Ok(())
}
