//! The same bytes come out whatever the number of threads, and on every run.

use std::fs;

use crate::command::{Folder, Run, fixture};

#[test]
fn one_and_eight_threads_and_a_second_run_write_the_same_bytes() {
    let folder = Folder::new();
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        for options in ["--ratio 0.5", "--macs 40% --criterion l1", "--params 50% --criterion random --seed 7"] {
            let run = |threads: &str| {
                let (out, plan) = (folder.at("out.onnx"), folder.at("plan.json"));
                let prune = Run::prune(&fixture(name), &out).args(options).args("--no-verify --force --plan-out");
                prune.arg(&plan).env("RAYON_NUM_THREADS", threads).exits(0);
                (fs::read(&out).unwrap(), fs::read(&plan).unwrap())
            };
            let first = run("1");
            assert!(first == run("8"), "{name} {options}: threads");
            assert!(first == run("8"), "{name} {options}: second run");
        }
    }
}

#[test]
fn another_seed_chooses_other_units() {
    let folder = Folder::new();
    let run = |seed: &str| {
        let plan = folder.at("plan.json");
        let prune = Run::new("prune").arg(fixture("digits_mlp.onnx")).args("--dry-run --no-verify --ratio 0.5");
        prune.args("--criterion random --seed").arg(seed).arg("--plan-out").arg(&plan).exits(0);
        fs::read_to_string(&plan).unwrap()
    };
    assert_ne!(run("1"), run("2"));
}
