//! Branches that all samples take: repaired as the main graph is, while the others are kept.

use paredown::internals::onnx::proto::ModelProto;
use paredown::{Array, Dataset, ErrorKind, Model, PruneOptions, Report, prune};

use super::bodies::{body, subgraph, with_bodies};
use super::net::{Net, halved};

/// A model for two rates, each with windows of its own width: at rate 7, two layers over 4 values, else over 6.
fn two_rates() -> ModelProto {
    let block = |stem: &str, width: usize| {
        let names = ["w", "u", "a", "b", "y"].map(|name| format!("{stem}_{name}"));
        let [w, u, a, b, y] = names.each_ref().map(String::as_str);
        let net = Net::new(&[]).weight(w, &[width, 8]).weight(u, &[8, 4]);
        let net = net.node("MatMul", &["x", w], a, "").node("Relu", &[a], b, "").node("MatMul", &[b, u], y, "");
        body(net, &[y])
    };
    let net = Net::new(&[("x", 1, &["n", "width"]), ("rate", 7, &[])]).ints("seven", &[7]);
    let net = net.node("Equal", &["rate", "seven"], "is", "").node("If", &["is"], "y", "");
    let mut net = net;
    net.0.initializer[0].dims.clear();
    with_bodies(net, vec![subgraph("else_branch", block("other", 6)), subgraph("then_branch", block("seven", 4))])
}

/// Runs of five rows of `width` values, all at one rate.
fn samples(rate: i64, width: usize) -> Dataset {
    let count = 24 * 5 * width;
    let values: Vec<f32> = (0..count).map(|i| ((i * i * 7 + i * 13) % 101) as f32 / 50.0 - 1.0).collect();
    let x = Array::new(&[24, 5, width], values).unwrap();
    Dataset::from_arrays([("x", x), ("rate", Array::new(&[24], vec![rate; 24]).unwrap())]).unwrap()
}

fn pruned(rate: i64, width: usize) -> (ModelProto, Report) {
    let options = PruneOptions::ratio(0.5).align(1).data(samples(rate, width));
    let outcome = prune(&Model::from_proto(two_rates()), &options).unwrap().prove().unwrap();
    (outcome.model.proto, outcome.report)
}

/// The sizes of the weights of both branches.
fn widths(model: &ModelProto) -> Vec<(String, Vec<i64>)> {
    let bodies = model.graph.iter().flat_map(|graph| &graph.node).flat_map(|node| &node.attribute);
    let tensors = bodies.filter_map(|attribute| attribute.g.as_ref()).flat_map(|graph| &graph.initializer);
    tensors.filter(|t| t.dims.len() == 2).map(|t| (t.name().to_owned(), t.dims.clone())).collect()
}

/// A voice detector for 8 and 16 kHz: none of its layers was repaired, and the branch for which there are no samples was
/// pruned like the other.
#[test]
fn the_branch_that_all_samples_take_is_repaired() {
    for (rate, width, taken) in [(7, 4, "seven"), (3, 6, "other")] {
        let (model, report) = pruned(rate, width);
        let whole = widths(&two_rates());
        for ((name, dims), (_, before)) in widths(&model).into_iter().zip(whole) {
            assert_eq!(dims == before, !name.starts_with(taken), "{name}: {dims:?} of {before:?}");
        }
        let layers = report.calibration.unwrap().layers;
        assert!(layers.iter().any(|layer| layer.reason.is_none()), "{layers:?}");
        assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
        assert!(report.notes.iter().any(|note| note.contains("the same branch of 1 nodes If")), "{:?}", report.notes);
    }
}

/// It was refused in tract's words alone: "Impossible to unify Val(224) with Val(6)".
#[test]
fn without_samples_a_size_that_does_not_fit_is_named() {
    let error = halved(two_rates(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    for part in ["x [2, ", "rate = 1", "If", "`data`", "`dim`"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}
