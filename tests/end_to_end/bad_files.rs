//! Files that are no models, or were: refused with exit code 3, or handled; never a panic, never an output.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use rayon::prelude::*;

use paredown::{ErrorKind, InspectOptions, Model, PruneOptions, inspect, prune};

use crate::command::{Folder, Run, fixture};

/// How it ended with these bytes: refused at loading, at analysis, at pruning, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Load,
    Inspect,
    Prune,
    Done,
}

/// Loads, inspects and prunes; says what must not happen.
fn attempt(bytes: Bytes) -> Result<End, String> {
    let stages = || {
        let model = match Model::from_bytes(bytes) {
            Ok(model) => model,
            Err(error) => return (End::Load, Some(error)),
        };
        if let Err(error) = inspect(&model, &InspectOptions::new().allow_shifts(true)) {
            return (End::Inspect, Some(error));
        }
        match prune(&model, &PruneOptions::ratio(0.5)) {
            Ok(_) => (End::Done, None),
            Err(error) => (End::Prune, Some(error)),
        }
    };
    let (end, error) = catch_unwind(AssertUnwindSafe(stages)).map_err(|_| "panic".to_owned())?;
    match error {
        Some(error) if error.kind() == ErrorKind::Input && !error.to_string().is_empty() => Ok(end),
        // A flip may cut the network in two or freeze the rest of it.
        Some(error) if error.kind() == ErrorKind::Nothing && end == End::Prune => Ok(end),
        Some(error) => Err(format!("{end:?}: {:?}: {error}", error.kind())),
        None => Ok(end),
    }
}

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    CutAt(usize),
    Flip { byte: usize, bit: usize },
}

impl Damage {
    fn done_to(self, whole: &Bytes) -> Bytes {
        match self {
            Damage::CutAt(end) => whole.slice(..end),
            Damage::Flip { byte, bit } => {
                let mut flipped = whole.to_vec();
                flipped[byte] ^= 1 << bit;
                flipped.into()
            }
        }
    }
}

/// All ends, or the first few failures.
fn attempt_all(name: &str, whole: &Bytes, damages: Vec<Damage>) -> Vec<End> {
    let results: Vec<_> = damages.into_par_iter().map(|damage| (damage, attempt(damage.done_to(whole)))).collect();
    let failures: Vec<String> =
        results.iter().filter_map(|(damage, r)| r.as_ref().err().map(|e| format!("{damage:?}: {e}"))).collect();
    let first = failures.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{name}: {} failures\n{first}", failures.len());
    results.into_iter().filter_map(|(_, result)| result.ok()).collect()
}

#[test]
fn a_model_cut_at_200_points_is_refused() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let whole = Bytes::from(std::fs::read(fixture(name)).unwrap());
        let cuts = (0..200).map(|i| Damage::CutAt(whole.len() * i / 200)).collect();
        let ends = attempt_all(name, &whole, cuts);
        assert!(ends.iter().all(|&end| end == End::Load), "{name}");
    }
}

/// Most bits of a model are weights: there a flip is a correct model with another weight. So half of the flips go
/// into what is not a weight.
fn flips(name: &str) -> Vec<End> {
    let whole = Bytes::from(std::fs::read(fixture(name)).unwrap());
    let model = Model::from_bytes(whole.clone()).unwrap();
    let start = whole.as_ptr() as usize;
    let raw = model.proto.graph.as_ref().unwrap().initializer.iter().filter_map(|tensor| tensor.raw_data.as_ref());
    let weights: Vec<_> = raw
        .map(|raw| raw.as_ptr() as usize - start)
        .zip(model.proto.graph.as_ref().unwrap().initializer.iter().filter_map(|t| t.raw_data.as_ref().map(Bytes::len)))
        .collect();
    let structure: Vec<usize> =
        (0..whole.len()).filter(|at| !weights.iter().any(|(from, len)| (*from..from + len).contains(at))).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 24) as usize % below
    };
    let damages = (0..2_000).map(|i| {
        let byte = if i % 2 == 0 { random(whole.len()) } else { structure[random(structure.len())] };
        Damage::Flip { byte, bit: random(8) }
    });
    attempt_all(name, &whole, damages.collect())
}

#[test]
fn flipped_bits_of_the_residual_network_are_refused_or_harmless() {
    let ends = flips("digits_resnet.onnx");
    assert!(ends.iter().filter(|&&end| end < End::Prune).count() > 300, "flips in the structure must be noticed");
    assert!(ends.iter().filter(|&&end| end == End::Done).count() > 800, "flips in weights are harmless");
}

#[test]
fn flipped_bits_of_the_vision_transformer_are_refused_or_harmless() {
    let ends = flips("digits_vit.onnx");
    assert!(ends.iter().filter(|&&end| end < End::Prune).count() > 300, "flips in the structure must be noticed");
    assert!(ends.iter().filter(|&&end| end == End::Done).count() > 800, "flips in weights are harmless");
}

/// Every subcommand, on what is not a model.
fn refused_everywhere(folder: &Folder, path: &Path, texts: &[&str]) {
    let before = folder.names();
    let good = fixture("digits_mlp.onnx");
    Run::new("inspect").arg(path).exits(3).complains(texts);
    Run::prune(path, &folder.at("out.onnx")).args("--ratio 0.5").exits(3).complains(texts);
    Run::prune(path, &folder.at("out.onnx")).args("--ratio 0.5 --no-verify").exits(3).complains(texts);
    Run::new("verify").arg(path).arg(&good).exits(3).complains(texts);
    Run::new("verify").arg(&good).arg(path).exits(3).complains(texts);
    assert_eq!(folder.names(), before, "no output file");
}

#[test]
fn what_is_not_a_model_exits_with_3() {
    let folder = Folder::new();
    refused_everywhere(&folder, &folder.at("nowhere.onnx"), &["nowhere.onnx", "cannot be read"]);
    refused_everywhere(&folder, folder.path(), &["is not a regular file"]);
    refused_everywhere(&folder, &folder.write("empty.onnx", ""), &["empty.onnx", "is empty"]);
    refused_everywhere(&folder, &folder.write("text.onnx", "A text.\n"), &["text.onnx", "is a text file"]);
    refused_everywhere(&folder, &fixture("eval.npz"), &["eval.npz"]);
    let half = std::fs::read(fixture("digits_resnet.onnx")).unwrap();
    refused_everywhere(&folder, &folder.write("half.onnx", &half[..half.len() / 2]), &["half.onnx"]);
}

#[cfg(target_os = "linux")]
#[test]
fn devices_are_no_models() {
    let folder = Folder::new();
    refused_everywhere(&folder, "/dev/null".as_ref(), &["/dev/null"]);
    Run::after("ulimit -v 4000000", "inspect").arg("/dev/zero").exits(3).complains(&["/dev/zero"]);
}
