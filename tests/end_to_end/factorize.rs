//! `factorize` on the command line: what it refuses, with which exit code, and that nothing is left behind.

use prost::Message as _;

use paredown::internals::onnx::proto::ModelProto;
use paredown::internals::onnx::tensor::from_f32;

use crate::command::{Folder, Run, Said, fixture, json};
use crate::networks::{graph, model, node, value, weight};

/// A model on disk and `factorize` for it.
struct Case {
    folder: Folder,
    file: std::path::PathBuf,
}

impl Case {
    fn new(proto: &ModelProto) -> Self {
        let folder = Folder::new();
        let file = folder.write("model.onnx", proto.encode_to_vec());
        Self { folder, file }
    }

    fn factorize(&self, options: &str, code: i32) -> Said {
        let out = self.folder.at("out.onnx");
        let said = Run::new("factorize").arg(&self.file).arg("-o").arg(&out).args(options).exits(code);
        assert_eq!(self.folder.names(), ["model.onnx"], "{options}");
        said
    }
}

fn square() -> ModelProto {
    let nodes = vec![node("MatMul", &["x", "w1"], "h"), node("Relu", &["h"], "r"), node("MatMul", &["r", "w2"], "y")];
    let weights = vec![weight("w1", &[32, 48]), weight("w2", &[48, 32])];
    model(value("x", &["n", "32"]), nodes, weights, value("y", &["n", "32"]))
}

#[test]
fn ranks_energies_and_budgets_out_of_range() {
    let case = Case::new(&square());
    case.factorize("--rank 0", 2).complains(&["rank 0"]);
    case.factorize("--energy 0", 2).complains(&["energy"]);
    case.factorize("--energy 1.5", 2).complains(&["1.5"]);
    case.factorize("--energy nan", 2).complains(&["nan"]);
    case.factorize("--rank 4 --align 0", 2).complains(&["--align"]);
    case.factorize("--rank 4 --energy 0.5", 2).complains(&["--energy"]);
    case.factorize("--rank 33", 2).complains(&["rank 33", "from 1 to 32"]);
    // At rank 20 no layer is smaller than before, and each says so.
    case.factorize("--rank 20", 4).complains(&["MatMul_h", "MatMul_y"]);
    case.factorize("--params 1%", 4).complains(&["model.onnx"]);
    case.factorize("--macs 3", 4).complains(&["model.onnx"]);
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_name() {
    let mut proto = square();
    let mut values = vec![0.5; 32 * 48];
    values[7] = f32::NAN;
    graph(&mut proto).initializer[0] = from_f32("w1", &[32, 48], &values).unwrap();
    Case::new(&proto).factorize("--rank 4 --no-verify", 3).complains(&["model.onnx", "MatMul_h", "w1", "NaN"]);
    let mut negative = square();
    graph(&mut negative).initializer[0] = weight("w1", &[32, 48]);
    Case::new(&negative).factorize("--rank 4 --method nmf", 3).complains(&["w1", "negative", "semi-nmf"]);
}

/// Products of two computed operands, and operators that have no weight, are listed with the reason.
#[test]
fn a_model_without_weights_has_nothing_to_split() {
    let dynamic = model(
        value("x", &["n", "8", "8"]),
        vec![node("MatMul", &["x", "x"], "h"), node("Relu", &["h"], "y")],
        vec![],
        value("y", &["n", "8", "8"]),
    );
    Case::new(&dynamic).factorize("--rank 2", 4).complains(&["MatMul_h"]);
    let none = model(value("x", &["n", "8"]), vec![node("Relu", &["x"], "y")], vec![], value("y", &["n", "8"]));
    Case::new(&none).factorize("--rank 2", 4).complains(&["no products"]);
}

/// A Gemm before operator set 7 broadcasts its bias by an attribute: it is left alone.
#[test]
fn an_operator_set_that_is_too_old_is_named() {
    let nodes = vec![node("Gemm", &["x", "w1", "b"], "y")];
    let weights = vec![weight("w1", &[32, 48]), weight("b", &[48])];
    let mut old = model(value("x", &["n", "32"]), nodes, weights, value("y", &["n", "48"]));
    old.opset_import[0].version = Some(6);
    Case::new(&old).factorize("--rank 4", 4).complains(&["Gemm_y", "operator set"]);
}

#[test]
fn a_plan_that_does_not_fit_is_refused() {
    let case = Case::new(&square());
    for (ranks, named) in
        [(r#"{"nowhere": 4}"#, "nowhere"), (r#"{"MatMul_h": 0}"#, "MatMul_h"), (r#"{"MatMul_h": 33}"#, "MatMul_h")]
    {
        let folder = Folder::new();
        let plan = folder.write("plan.json", format!(r#"{{"version": 1, "groups": [], "ranks": {ranks}}}"#));
        let out = case.folder.at("out.onnx");
        let run = Run::new("factorize").arg(&case.file).arg("-o").arg(&out).arg("--plan").arg(&plan);
        let said = run.exits_one_of(&[2, 3]);
        assert!(said.err.contains(named), "{}", said.err);
        assert_eq!(case.folder.names(), ["model.onnx"]);
    }
}

#[test]
fn a_full_disk_leaves_nothing() {
    let folder = Folder::new();
    let out = folder.write("out.onnx", "precious");
    let factorize = Run::after("trap '' XFSZ; ulimit -f 64", "factorize").arg(fixture("digits_mlp.onnx"));
    factorize.arg("-o").arg(&out).args("--rank 100 --force").exits(6).complains(&["out.onnx", "File too large"]);
    assert_eq!(folder.names(), ["out.onnx"]);
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
}

#[test]
fn the_table_is_the_same_dry() {
    let folder = Folder::new();
    let (dry, wet) = (folder.at("dry.json"), folder.at("wet.json"));
    let factorize = || Run::new("factorize").arg(fixture("digits_mlp.onnx")).args("--params 60% --no-verify --quiet");
    factorize().args("--dry-run --report").arg(&dry).exits(0);
    factorize().arg("-o").arg(folder.at("out.onnx")).arg("--report").arg(&wet).exits(0);
    assert_eq!(json(&dry)["layers"], json(&wet)["layers"]);
}
