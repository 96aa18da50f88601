//! Ctrl-C ends the program with exit code 130, and what it was writing is complete or not there.

#![cfg(unix)]

use std::process::Command;
use std::time::Duration;

use paredown::internals::onnx::Model;

use crate::command::{Folder, Run, fixture};

#[test]
fn an_interrupt_exits_with_130_and_leaves_no_half_written_file() {
    let folder = Folder::new();
    let mut interrupted = 0;
    for delay in [40, 80, 120, 200, 400] {
        let out = folder.at("out.onnx");
        let run = Run::prune(&fixture("digits_resnet.onnx"), &out).args("--ratio 0.5 --force --quiet");
        let mut child = run.arg("--data").arg(fixture("calib.npz")).spawn();
        std::thread::sleep(Duration::from_millis(delay));
        Command::new("kill").args(["-INT", &child.id().to_string()]).output().unwrap();
        let code = child.wait().unwrap().code();
        interrupted += usize::from(code == Some(130));
        // None: the signal came before the program's first line.
        assert!([None, Some(0), Some(130)].contains(&code), "{code:?} after {delay} ms");
        if out.exists() {
            Model::load(&out).unwrap();
        }
        assert!(folder.names().iter().all(|name| name == "out.onnx"), "{:?}", folder.names());
    }
    assert!(interrupted > 0, "no run took long enough to be interrupted");
}
