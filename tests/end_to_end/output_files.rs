//! An output appears complete or not at all, and no input is ever touched.

use std::fs;

use crate::command::{Folder, Run, fixture, json};

#[test]
fn an_output_equal_to_the_input_is_refused() {
    let folder = Folder::new();
    let original = fs::read(fixture("digits_mlp.onnx")).unwrap();
    let model = folder.write("model.onnx", &original);
    let refused = |run: Run| run.args("--ratio 0.5 --force").exits(2).complains(&[".onnx: is the input"]);
    refused(Run::prune(&model, &model));
    refused(Run::prune("model.onnx".as_ref(), "./model.onnx".as_ref()).within(folder.path()));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model.onnx", folder.at("link.onnx")).unwrap();
        refused(Run::prune(&model, &folder.at("link.onnx")));
        fs::remove_file(folder.at("link.onnx")).unwrap();
    }
    assert_eq!(folder.names(), ["model.onnx"]);
    assert!(fs::read(&model).unwrap() == original);
}

/// A plan or report at the model's own path would destroy the model just as well.
#[test]
fn plan_and_report_do_not_overwrite_what_is_read_or_written() {
    let folder = Folder::new();
    let original = fs::read(fixture("digits_mlp.onnx")).unwrap();
    let model = folder.write("model.onnx", &original);
    let out = folder.at("out.onnx");
    for option in ["--plan-out", "--report"] {
        let prune = || Run::prune(&model, &out).args("--ratio 0.5 --force --no-verify").arg(option);
        prune().arg(&model).exits(2).complains(&[option, "model.onnx"]);
        prune().arg(&out).exits(2).complains(&[option, "out.onnx"]);
    }
    let verify = Run::new("verify").arg(&model).arg(&model).arg("--report").arg(&model);
    verify.exits(2).complains(&["--report", "model.onnx"]);
    assert_eq!(folder.names(), ["model.onnx"]);
    assert!(fs::read(&model).unwrap() == original);
}

/// Found out before any work is done: no model is written whose plan or report is then missing.
#[test]
fn a_plan_or_report_that_has_nowhere_to_go_stops_the_run() {
    let folder = Folder::new();
    for option in ["--plan-out", "--report"] {
        let prune = Run::prune(&fixture("digits_mlp.onnx"), &folder.at("out.onnx")).args("--ratio 0.5").arg(option);
        prune.arg(folder.at("nowhere/text.json")).exits(6).complains(&[option, "nowhere/text.json", "does not exist"]);
    }
    assert!(folder.names().is_empty());
}

#[test]
fn an_existing_output_needs_force() {
    let folder = Folder::new();
    let out = folder.write("out.onnx", "precious");
    let prune = || Run::prune(&fixture("digits_mlp.onnx"), &out).args("--ratio 0.5");
    prune().exits(6).complains(&["out.onnx: exists already; pass --force to replace it"]);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    prune().args("--force").exits(0);
    assert_ne!(fs::read(&out).unwrap(), b"precious");
    assert_eq!(folder.names(), ["out.onnx"]);
}

#[test]
fn a_folder_that_cannot_hold_the_output_exits_with_6() {
    let folder = Folder::new();
    let file = folder.write("file", "precious");
    fs::create_dir(folder.at("out.onnx")).unwrap();
    let prune = |out: &std::path::Path| Run::prune(&fixture("digits_mlp.onnx"), out).args("--ratio 0.5 --force");
    prune(&folder.at("nowhere/out.onnx")).exits(6).complains(&["nowhere/out.onnx", "folder does not exist"]);
    prune(&file.join("out.onnx")).exits(6).complains(&["file/out.onnx"]);
    prune(&folder.at("out.onnx")).exits(6).complains(&["is not a regular file"]);
    #[cfg(target_os = "linux")]
    {
        prune("/proc/out.onnx".as_ref()).exits(6).complains(&["/proc/out.onnx"]);
        prune("/dev/full".as_ref()).exits(6).complains(&["is not a regular file"]);
    }
    assert_eq!(folder.names(), ["file", "out.onnx"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

/// The limit on file sizes stands for a full disk: a write in the middle of the file fails.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_and_loses_nothing() {
    let folder = Folder::new();
    let out = folder.write("out.onnx", "precious");
    let prune = || Run::after("trap '' XFSZ; ulimit -f 64", "prune").arg(fixture("digits_mlp.onnx")).arg("-o");
    prune().arg(&out).args("--ratio 0.25 --force").exits(6).complains(&["out.onnx", "File too large"]);
    prune().arg(folder.at("new.onnx")).args("--ratio 0.25 --external-data").exits(6).complains(&["new.onnx"]);
    assert_eq!(folder.names(), ["out.onnx"]);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_exits_with_6() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let said = Run::new("inspect").arg(fixture("digits_mlp.onnx")).stdout_to(full).exits(6);
    assert!(said.err.contains("standard output"), "{}", said.err);
}

#[test]
fn a_dry_run_writes_no_model_and_shows_the_same_table() {
    let folder = Folder::new();
    let table = |said: &str| -> Vec<String> {
        // Latency is measured anew each time, and a note says if the result is slower.
        said.lines()
            .filter(|line| !line.contains("latency") && !line.contains("slower"))
            .map(|line| line.replace(' ', ""))
            .collect()
    };
    let prune = || Run::prune(&fixture("digits_resnet.onnx"), &folder.at("out.onnx")).args("--macs 50%");
    let dry = prune().args("--dry-run").exits(0);
    assert!(folder.names().is_empty());
    let wet = prune().exits(0);
    assert_eq!(table(&dry.out).len(), table(&wet.out).len());
    for (dry, wet) in table(&dry.out).iter().zip(&table(&wet.out)) {
        assert!(dry == wet || dry.chars().all(|c| c == '─'), "{dry}\n{wet}");
    }
    Run::new("prune").arg(fixture("digits_resnet.onnx")).args("--dry-run --ratio 0.5").exits(0);
    assert_eq!(folder.names(), ["out.onnx"]);
}

/// Nothing but the table on standard output, nothing at all on standard error; `--quiet` silences both.
#[test]
fn nothing_moves_when_piped() {
    let folder = Folder::new();
    let model = fixture("digits_mlp.onnx");
    let prune = |out: &str| Run::prune(&model, &folder.at(out)).args("--ratio 0.5");
    for said in [
        Run::new("inspect").arg(&model).exits(0),
        prune("out.onnx").exits(0),
        Run::new("verify").arg(&model).arg(&model).exits(0),
    ] {
        assert_eq!(said.err, "");
        assert!(!said.out.contains(['\r', '\x1b']), "{}", said.out);
        assert!(said.out.contains("parameters"), "{}", said.out);
    }
    let quiet = prune("quiet.onnx").args("--quiet").exits(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
}

#[test]
fn external_data_is_written_on_request_and_read_again() {
    let folder = Folder::new();
    let (inline, split) = (folder.at("inline.onnx"), folder.at("split.onnx"));
    let model = fixture("digits_resnet.onnx");
    Run::prune(&model, &inline).args("--ratio 0.5").exits(0);
    Run::prune(&model, &split).args("--ratio 0.5 --external-data").exits(0);
    assert_eq!(folder.names(), ["inline.onnx", "split.onnx", "split.onnx.data"]);
    let load = |path: &std::path::Path| paredown::internals::onnx::Model::load(path).unwrap().proto;
    assert!(load(&inline) == load(&split));
    // A model with external data stays one.
    let smaller = folder.at("smaller.onnx");
    let report = folder.at("report.json");
    Run::prune(&split, &smaller).args("--ratio 0.5 --report").arg(&report).exits(0);
    let size = |name: &str| fs::metadata(folder.at(name)).unwrap().len();
    let written = size("smaller.onnx") + size("smaller.onnx.data");
    assert_eq!(json(&report)["model"]["after"]["bytes"], written);
    assert_eq!(json(&report)["model"]["before"]["bytes"], size("split.onnx") + size("split.onnx.data"));
}
