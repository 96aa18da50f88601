//! Times the way from a file to a pruned file, step by step: `load`, `axes` (facts and solved axes), `rewrite`, `save`.
//!
//! `cargo bench --bench pruning` runs on the fixtures; `PAREDOWN_BENCH_MODEL=model.onnx` adds another model.

// Small numbers that the tests wrote themselves.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_update
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use criterion::{Criterion, criterion_group, criterion_main};

use paredown::internals::analysis::Analysis;
use paredown::internals::rewrite;
use paredown::internals::runtime::inputs::DimSizes;
use paredown::{Model, PruneOptions, SaveOptions, prune};

/// Share of every group that `rewrite` removes.
const RATIO: f64 = 0.5;

fn models() -> Vec<(String, PathBuf)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut models: Vec<PathBuf> =
        ["digits_resnet.onnx", "digits_vit.onnx"].iter().map(|name| fixtures.join(name)).collect();
    models.extend(std::env::var_os("PAREDOWN_BENCH_MODEL").map(PathBuf::from));
    let name = |path: &PathBuf| path.file_stem().and_then(OsStr::to_str).unwrap_or("model").to_owned();
    models.into_iter().map(|path| (name(&path), path)).collect()
}

fn load(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    for (name, path) in models() {
        group.bench_function(name, |bencher| bencher.iter(|| Model::load(&path).expect("a model")));
    }
}

fn axes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("axes");
    group.sample_size(10);
    for (name, path) in models() {
        let model = Model::load(&path).expect("a model");
        let analyse = || Analysis::new(&model, &DimSizes::default(), &BTreeSet::new()).expect("an analysis");
        group.bench_function(name, |bencher| bencher.iter(analyse));
    }
}

fn rewriting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite");
    group.sample_size(10);
    for (name, path) in models() {
        let model = Model::load(&path).expect("a model");
        let pruned = prune(&model, &PruneOptions::ratio(RATIO)).expect("something to remove");
        let subject = pruned.evidence.analysis.subject();
        let rewrite = || rewrite::prune(subject, &pruned.evidence.selection).expect("a rewritten model");
        group.bench_function(name, |bencher| bencher.iter(rewrite));
    }
}

fn save(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("save");
    group.sample_size(10);
    let folder = tempfile::tempdir().expect("a folder");
    let options = SaveOptions { force: true, ..SaveOptions::default() };
    for (name, path) in models() {
        let model = Model::load(&path).expect("a model");
        let out = folder.path().join("out.onnx");
        group.bench_function(name, |bencher| bencher.iter(|| model.save(&out, &options).expect("a file")));
    }
}

criterion_group!(pruning, load, axes, rewriting, save);
criterion_main!(pruning);
