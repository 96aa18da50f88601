//! Graphs that contradict themselves: a clear error with exit code 3 or a correct result, with bounded memory.

use std::path::PathBuf;

use prost::Message as _;

use paredown::internals::onnx::proto::tensor_proto::{DataLocation, DataType};
use paredown::internals::onnx::proto::tensor_shape_proto::dimension;
use paredown::internals::onnx::proto::{ModelProto, StringStringEntryProto, TensorProto, type_proto};
use paredown::internals::onnx::tensor::{from_f32, vector_i64};

use crate::command::{Folder, Run, Said};
use crate::networks::{graph, int, mlp, model, node, typed_value, value, weight};

/// A run under a limit of its address space, in KiB: four GB, of which stacks of threads take part.
#[cfg(target_os = "linux")]
fn limited(subcommand: &str) -> Run {
    Run::after("ulimit -v 4000000", subcommand)
}

#[cfg(not(target_os = "linux"))]
fn limited(subcommand: &str) -> Run {
    Run::new(subcommand)
}

struct Case {
    folder: Folder,
    file: PathBuf,
}

impl Case {
    fn new(proto: &ModelProto) -> Self {
        let folder = Folder::new();
        let file = folder.write("model.onnx", proto.encode_to_vec());
        Self { folder, file }
    }

    /// `inspect` and `prune`, with and without proof, end with 3 and say all of `texts`.
    #[track_caller]
    fn refused(&self, texts: &[&str]) {
        limited("inspect").arg(&self.file).exits(3).complains(texts);
        self.prune("").exits(3).complains(texts);
        self.prune("--no-verify").exits(3).complains(texts);
        self.untouched();
    }

    #[track_caller]
    fn prune(&self, options: &str) -> Run {
        limited("prune").arg(&self.file).arg("-o").arg(self.folder.at("out.onnx")).args("--ratio 0.5").args(options)
    }

    #[track_caller]
    fn untouched(&self) {
        assert!(!self.folder.at("out.onnx").exists(), "no output file");
    }

    /// Works, and the result is proved.
    #[track_caller]
    fn pruned(&self) -> Said {
        limited("inspect").arg(&self.file).exits(0);
        self.prune("").exits(0)
    }
}

fn initializer<'m>(model: &'m mut ModelProto, name: &str) -> &'m mut TensorProto {
    graph(model).initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap()
}

fn set_dim(model: &mut ModelProto, axis: usize, size: i64) {
    let kind = graph(model).input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
    let type_proto::Value::TensorType(tensor) = kind else { unreachable!() };
    tensor.shape.as_mut().unwrap().dim[axis].value = Some(dimension::Value::DimValue(size));
}

#[test]
fn the_model_that_the_cases_damage_is_good() {
    Case::new(&mlp()).pruned();
}

#[test]
fn a_cycle_is_refused() {
    let mut cyclic = mlp();
    graph(&mut cyclic).node[0].input[0] = "r".to_owned();
    Case::new(&cyclic).refused(&["model.onnx", "cycle"]);
    let mut own = mlp();
    graph(&mut own).node[1].input[0] = "r".to_owned();
    Case::new(&own).refused(&["model.onnx", "Relu_r", "cycle"]);
}

#[test]
fn a_value_defined_twice_is_refused() {
    let mut twice = mlp();
    graph(&mut twice).node[1].output[0] = "h".to_owned();
    Case::new(&twice).refused(&["model.onnx", "'h' is defined twice"]);
    let mut twice = mlp();
    let copy = initializer(&mut twice, "w1").clone();
    graph(&mut twice).initializer.push(copy);
    Case::new(&twice).refused(&["model.onnx", "'w1' is defined twice"]);
    let mut twice = mlp();
    let copy = graph(&mut twice).input[0].clone();
    graph(&mut twice).input.push(copy);
    Case::new(&twice).refused(&["model.onnx", "'x' is defined twice"]);
}

#[test]
fn a_missing_initializer_is_refused() {
    let mut missing = mlp();
    graph(&mut missing).initializer.retain(|tensor| tensor.name() != "w2");
    Case::new(&missing).refused(&["model.onnx", "Gemm_y", "'w2'"]);
    let mut missing = mlp();
    graph(&mut missing).output[0].name = Some("nowhere".to_owned());
    Case::new(&missing).refused(&["model.onnx", "'nowhere'"]);
}

fn external(location: &str, entries: &[(&str, &str)]) -> ModelProto {
    let mut proto = mlp();
    let entry = |(key, value): (&str, &str)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    let tensor = initializer(&mut proto, "w1");
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    tensor.external_data = [("location", location)].into_iter().chain(entries.iter().copied()).map(entry).collect();
    proto
}

#[test]
fn external_data_missing_short_or_escaping_is_refused() {
    let case = |proto: ModelProto| {
        let case = Case::new(&proto);
        case.folder.write("weights.bin", vec![0; 6 * 12 * 4]);
        case
    };
    case(external("weights.bin", &[])).pruned();
    case(external("absent.bin", &[])).refused(&["w1", "absent.bin"]);
    case(external("weights.bin", &[("offset", "4")])).refused(&["w1", "weights.bin"]);
    case(external("weights.bin", &[("length", "284")])).refused(&["w1"]);
    case(external("weights.bin", &[("offset", "-8")])).refused(&["w1"]);
    case(external("weights.bin", &[("offset", "18446744073709551615"), ("length", "288")])).refused(&["w1"]);
    case(external("", &[])).refused(&["w1"]);
    for escaping in ["../weights.bin", "/etc/passwd", "a/../../weights.bin"] {
        case(external(escaping, &[])).refused(&["w1", escaping]);
    }
    #[cfg(unix)]
    {
        let case = case(external("link.bin", &[]));
        std::os::unix::fs::symlink("/etc/passwd", case.folder.at("link.bin")).unwrap();
        case.refused(&["w1", "link.bin"]);
    }
}

#[test]
fn absurd_tensors_are_refused_by_name() {
    let damaged = |change: &dyn Fn(&mut TensorProto)| {
        let mut proto = mlp();
        change(initializer(&mut proto, "w1"));
        Case::new(&proto)
    };
    damaged(&|w| w.dims = vec![-6, -12]).refused(&["w1", "negative"]);
    damaged(&|w| w.dims = vec![i64::MAX, i64::MAX]).refused(&["w1", "more elements than memory can hold"]);
    damaged(&|w| w.dims = vec![1 << 40, 1 << 20]).refused(&["w1"]);
    damaged(&|w| w.dims = vec![0, 1 << 62, 1 << 62]).refused(&["w1"]);
    damaged(&|w| w.dims = vec![6, 13]).refused(&["w1", "needs 312 bytes, found 288"]);
    damaged(&|w| w.data_type = Some(DataType::Double.into())).refused(&["w1", "needs 576 bytes, found 288"]);
    damaged(&|w| w.data_type = Some(77)).refused(&["w1", "unknown element type 77"]);
    damaged(&|w| w.raw_data = Some(vec![0; 287].into())).refused(&["w1", "found 287"]);
    damaged(&|w| w.raw_data = None).refused(&["w1"]);
}

/// The shapes are sound tensors, but the operator cannot take them: nothing may be cut that cannot be understood.
#[test]
fn operands_that_do_not_fit_are_not_pruned() {
    for dims in [vec![8, 9], vec![72], vec![2, 3, 12], vec![12, 6], vec![1, 72]] {
        let mut proto = mlp();
        *initializer(&mut proto, "w1") = weight("w1", &dims);
        let case = Case::new(&proto);
        let said = case.prune("").exits(3);
        assert!(said.err.contains("Gemm_h") || said.err.contains("w1"), "{dims:?}: {}", said.err);
        case.untouched();
    }
}

/// What an input declares is taken with care: no memory is reserved for it, whatever it says.
#[test]
fn absurd_inputs_end_well() {
    for (axis, size) in [(0, -1), (0, i64::MIN), (0, i64::MAX), (0, 1 << 40), (1, -6), (1, 7), (1, i64::MAX), (1, 0)] {
        let mut proto = mlp();
        set_dim(&mut proto, axis, size);
        let case = Case::new(&proto);
        limited("inspect").arg(&case.file).exits_one_of(&[0, 3]);
        let said = case.prune("").exits_one_of(&[0, 3]);
        if said.code != Some(0) {
            case.untouched();
        }
    }
}

/// An axis of size zero is no fault of the file; it holds nothing to remove, and no division by it may happen.
#[test]
fn zero_size_axes_end_well() {
    let mut narrow = mlp();
    *initializer(&mut narrow, "w1") = weight("w1", &[6, 0]);
    *initializer(&mut narrow, "b1") = weight("b1", &[0]);
    *initializer(&mut narrow, "w2") = weight("w2", &[0, 4]);
    let mut empty_batch = mlp();
    set_dim(&mut empty_batch, 0, 0);
    let mut no_classes = mlp();
    *initializer(&mut no_classes, "w2") = weight("w2", &[12, 0]);
    *initializer(&mut no_classes, "b2") = weight("b2", &[0]);
    for proto in [narrow, empty_batch, no_classes] {
        let case = Case::new(&proto);
        limited("inspect").arg(&case.file).exits_one_of(&[0, 3]);
        for options in ["", "--no-verify"] {
            case.prune(options).args("--force").exits_one_of(&[0, 3, 4]);
        }
    }
}

/// Found by fuzzing: tract counts from zero up to the axis, which wraps around below minus the rank.
#[test]
fn an_axis_beyond_the_rank_is_refused_by_name() {
    for axis in [-9, -3, 2, 9] {
        let mut normal = node("LayerNormalization", &["h", "scale"], "l");
        normal.attribute = vec![int("axis", axis)];
        let nodes = vec![node("Gemm", &["x", "w1"], "h"), normal, node("Gemm", &["l", "w2"], "y")];
        let weights = vec![weight("w1", &[6, 12]), weight("scale", &[12]), weight("w2", &[12, 4])];
        let case = Case::new(&model(value("x", &["n", "6"]), nodes, weights, value("y", &["n", "4"])));
        limited("inspect").arg(&case.file).exits(3);
        case.refused(&["LayerNormalization_l", &format!("axis {axis}"), "rank 2"]);
    }
}

#[test]
fn shapes_beyond_memory_are_not_allocated() {
    let huge = 1_i64 << 34;
    let grown = |op: &str, inputs: &[&str], attributes| {
        let mut grow = node(op, inputs, "g");
        grow.attribute = attributes;
        let nodes = vec![grow, node("ReduceMax", &["g"], "m"), node("Add", &["x", "m"], "s")];
        let rest = vec![node("Gemm", &["s", "w1"], "h"), node("Relu", &["h"], "r"), node("Gemm", &["r", "w2"], "y")];
        let weights = vec![
            weight("w1", &[6, 12]),
            weight("w2", &[12, 4]),
            vector_i64("size", &[huge, 1]),
            vector_i64("overflow", &[1 << 40, 1 << 40]),
            vector_i64("negative", &[-5, 3]),
            from_f32("one", &[1, 1], &[1.0]).unwrap(),
        ];
        model(value("x", &["n", "6"]), [nodes, rest].concat(), weights, value("y", &["n", "4"]))
    };
    let cases = [
        grown("ConstantOfShape", &["size"], vec![]),
        grown("ConstantOfShape", &["overflow"], vec![]),
        grown("ConstantOfShape", &["negative"], vec![]),
        grown("Expand", &["one", "size"], vec![]),
        grown("Expand", &["one", "overflow"], vec![]),
        grown("Tile", &["one", "size"], vec![]),
        grown("Reshape", &["one", "overflow"], vec![int("allowzero", 1)]),
    ];
    for proto in cases {
        let case = Case::new(&proto);
        limited("inspect").arg(&case.file).exits_one_of(&[0, 3]);
        let said = case.prune("").exits_one_of(&[0, 3]);
        if said.code != Some(0) {
            assert!(said.err.contains("model.onnx"), "{}", said.err);
            case.untouched();
        }
    }
}

#[test]
fn a_chain_of_10_000_nodes_is_pruned() {
    let case = chain(10_000);
    limited("inspect").arg(&case.file).exits(0);
    case.prune("--no-verify").exits(0);
}

/// The proof plans the model in tract, whose time grows with the square of the nodes.
#[test]
fn a_chain_of_2_000_nodes_is_pruned_and_proved() {
    chain(2_000).pruned();
}

/// Two products with `length` nodes between them.
fn chain(length: usize) -> Case {
    let name = |i: usize| format!("v{i}");
    let mut nodes = vec![node("Gemm", &["x", "w1", "b1"], "v0")];
    nodes.extend((0..length).map(|i| node(["Relu", "Neg"][i % 2], &[&name(i)], &name(i + 1))));
    nodes.push(node("Gemm", &[&name(length), "w2"], "y"));
    let weights = vec![weight("w1", &[6, 12]), weight("b1", &[12]), weight("w2", &[12, 4])];
    Case::new(&model(value("x", &["n", "6"]), nodes, weights, value("y", &["n", "4"])))
}

/// The other way: one value, many readers, and their sum.
#[test]
fn a_value_with_thousands_of_readers_is_pruned() {
    let case = readers(10_000);
    limited("inspect").arg(&case.file).exits(0);
    case.prune("--no-verify").exits(0);
}

#[test]
fn a_value_with_hundreds_of_readers_is_pruned_and_proved() {
    readers(500).pruned();
}

/// Two products, and `count` nodes that read the first and are summed for the second.
fn readers(count: usize) -> Case {
    let mut nodes = vec![node("Gemm", &["x", "w1", "b1"], "h")];
    nodes.extend((0..count).map(|i| node("Relu", &["h"], &format!("r{i}"))));
    let names: Vec<String> = (0..count).map(|i| format!("r{i}")).collect();
    nodes.push(node("Sum", &names.iter().map(String::as_str).collect::<Vec<_>>(), "s"));
    nodes.push(node("Gemm", &["s", "w2"], "y"));
    let weights = vec![weight("w1", &[6, 12]), weight("b1", &[12]), weight("w2", &[12, 4])];
    Case::new(&model(value("x", &["n", "6"]), nodes, weights, value("y", &["n", "4"])))
}

#[test]
fn an_input_without_a_type_or_of_another_type_ends_well() {
    let mut untyped = mlp();
    graph(&mut untyped).input[0].r#type = None;
    let mut strings = mlp();
    graph(&mut strings).input[0] = typed_value("x", DataType::String, &["n", "6"]);
    let mut nameless = mlp();
    graph(&mut nameless).input[0].name = None;
    for proto in [untyped, strings, nameless] {
        let case = Case::new(&proto);
        limited("inspect").arg(&case.file).exits_one_of(&[0, 3]);
        case.prune("").exits(3);
        case.untouched();
    }
}
