//! What was typed wrongly is said with exit code 2, before anything is read or written.

use crate::command::{Folder, Run, fixture};

#[test]
fn wrong_command_lines_exit_with_2() {
    let folder = Folder::new();
    let (model, out) = (fixture("digits_mlp.onnx"), folder.at("out.onnx"));
    Run::new("shrink").exits(2).complains(&["unrecognized subcommand 'shrink'"]);
    Run::new("inspect").exits(2).complains(&["<MODEL>"]);
    Run::new("prune").arg(&model).args("--ratio 0.5").exits(2).complains(&["--output <FILE>"]);
    Run::prune(&model, &out).exits(2).complains(&["--ratio"]);
    Run::prune(&model, &out).args("--ratio 0.5 --macs 50%").exits(2).complains(&["cannot be used with"]);
    Run::prune(&model, &out).args("--ratio 1").exits(2).complains(&["1 would remove everything"]);
    Run::prune(&model, &out).args("--ratio=-0.5").exits(2).complains(&["'-0.5' is not a share"]);
    Run::prune(&model, &out).args("--params 10Q").exits(2).complains(&["'10Q' is not an amount"]);
    Run::prune(&model, &out).args("--ratio 0.5 --unit toes").exits(2).complains(&["heads", "dims", "both"]);
    Run::prune(&model, &out).args("--ratio 0.5 --criterion best").exits(2).complains(&["best", "l1", "l2", "random"]);
    Run::prune(&model, &out).args("--ratio 0.5 --min-keep 0").exits(2).complains(&["--min-keep"]);
    Run::prune(&model, &out).args("--ratio 0.5 --include [").exits(2).complains(&["'[' is not a pattern"]);
    Run::prune(&model, &out).args("--ratio 0.5 --thaw nobody").exits(2).complains(&["--thaw nobody"]);
    Run::prune(&model, &out).args("--ratio 0.5 --dim batch=0").exits(2).complains(&["at least one"]);
    Run::prune(&model, &out).args("--ratio 0.5 --dim batch").exits(2).complains(&["batch"]);
    Run::prune(&model, &out).args("--ratio 0.5 --dim nobody=3").exits(2).complains(&["nobody", "batch"]);
    assert!(folder.names().is_empty());
}

#[test]
fn help_and_version_are_no_errors() {
    assert!(Run::new("--version").exits(0).out.starts_with("paredown "));
    for subcommand in ["inspect", "prune", "verify"] {
        let said = Run::new(subcommand).args("--help").exits(0);
        assert!(said.out.contains("Usage: paredown ") && said.err.is_empty(), "{}", said.out);
    }
}
