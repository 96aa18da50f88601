//! Loads every model of a folder (searched in depth) and saves it unchanged.
//!
//! ```text
//! cargo run --example round_trip -- FOLDER OUT
//! ```
//!
//! Prints one line for each model: the file that was read, the file that was written, the seconds that loading and
//! saving took, and the warnings, separated by tabs. `bench/roundtrip.py` compares the files with another protobuf
//! implementation. Ends with an error if a model is refused.

use std::path::{Path, PathBuf};
use std::time::Instant;

use paredown::internals::onnx::{Model, SaveOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(out)) = (arguments.next(), arguments.next()) else {
        return Err("two folders are needed: the models, and where to write".into());
    };
    std::fs::create_dir_all(&out)?;
    let mut models = Vec::new();
    find(&folder, &mut models)?;
    models.sort();
    for (number, path) in models.iter().enumerate() {
        let saved = out.join(format!("{number}.onnx"));
        round_trip(path, &saved)?;
    }
    Ok(())
}

fn find(folder: &Path, models: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, models)?;
        } else if path.extension().is_some_and(|extension| extension == "onnx") {
            models.push(path);
        }
    }
    Ok(())
}

fn round_trip(path: &Path, saved: &Path) -> Result<()> {
    let start = Instant::now();
    let model = Model::load(path)?;
    let loaded = start.elapsed().as_secs_f64();
    let start = Instant::now();
    model.save(saved, &SaveOptions { external_data: false, force: true })?;
    let stored = start.elapsed().as_secs_f64();
    println!("{}\t{}\t{loaded:.4}\t{stored:.4}\t{:?}", path.display(), saved.display(), model.warnings);
    Ok(())
}
