//! Branches that all samples take: repaired as the main graph is, while the others are kept.

use paredown::internals::onnx::proto::ModelProto;
use paredown::{
    Array, Dataset, ErrorKind, FactorizeOptions, Model, PruneOptions, Report, Training, TuneOptions, factorize, prune,
    tune,
};

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

/// The bytes of a weight of a body.
fn weights_of(model: &ModelProto, name: &str) -> Vec<u8> {
    let bodies = model.graph.iter().flat_map(|graph| &graph.node).flat_map(|node| &node.attribute);
    let tensors = bodies.filter_map(|attribute| attribute.g.as_ref()).flat_map(|graph| &graph.initializer);
    tensors.filter(|t| t.name() == name).flat_map(|t| t.raw_data().to_vec()).collect()
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

/// `factorize` refused every layer of a body.
#[test]
fn the_layers_of_the_branch_that_all_samples_take_are_split() {
    let options = FactorizeOptions::rank(2).align(1).data(samples(7, 4));
    let outcome = factorize(&Model::from_proto(two_rates()), &options).unwrap().prove().unwrap();
    let (model, report) = (outcome.model.proto, outcome.report);
    let split: Vec<&str> = report.layers.iter().filter(|l| l.rank.is_some()).map(|l| l.name.as_str()).collect();
    assert_eq!(split, ["MatMul:seven_y"], "{:?}", report.layers);
    let whole = widths(&two_rates());
    let other = |all: &[(String, Vec<i64>)]| {
        all.iter().filter(|(name, _)| name.starts_with("other")).cloned().collect::<Vec<_>>()
    };
    assert_eq!(other(&widths(&model)), other(&whole));
    assert_eq!(report.verify.valid, Some(true), "{:?}", report.verify);
}

/// No weight in a body was trained: "no real output of the model depends on a weight that can be trained".
#[test]
fn the_branch_that_all_samples_take_is_trained() {
    let mut weak = two_rates();
    let bodies = weak.graph.iter_mut().flat_map(|graph| &mut graph.node).flat_map(|node| &mut node.attribute);
    for tensor in bodies.filter_map(|attribute| attribute.g.as_mut()).flat_map(|graph| &mut graph.initializer) {
        let halves = tensor.raw_data().chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()) / 2.0);
        tensor.raw_data = Some(halves.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into());
    }
    let options = TuneOptions::new(Training::epochs(20)).teacher(Model::from_proto(two_rates())).data(samples(7, 4));
    let outcome = tune(&Model::from_proto(weak.clone()), &options).unwrap().prove().unwrap();
    let trained = &outcome.report.training[0];
    let (before, best) = (trained.before.held_out, trained.epochs[trained.best_epoch as usize - 1].held_out);
    assert!(best < 0.5 * before, "{before} before, {best} after");
    let changed = |name: &str| weights_of(&outcome.model.proto, name) != weights_of(&weak, name);
    assert!(changed("seven_u") && !changed("other_u"));
}

/// The price of a group in a branch could not be measured: "layer … is gone", so the scores of the units decided.
#[test]
fn what_the_layers_of_a_taken_branch_cost_is_measured() {
    let options = PruneOptions::macs(0.5).align(1).data(samples(7, 4));
    let outcome = prune(&Model::from_proto(two_rates()), &options).unwrap().prove().unwrap();
    let pricing = &outcome.report.pricing;
    assert!(pricing.iter().flat_map(|round| &round.groups).any(|group| !group.measured.is_empty()), "{pricing:?}");
    assert!(outcome.report.notes.iter().all(|note| !note.contains("only an estimate")), "{:?}", outcome.report.notes);
}

/// A model that goes on from a state `[2, samples, 3]` if there is one for every sample, as the official silero does.
fn with_states() -> ModelProto {
    let block = |stem: &str| {
        let names = ["w", "u", "a", "b", "c", "y"].map(|name| format!("{stem}_{name}"));
        let [w, u, a, b, c, y] = names.each_ref().map(String::as_str);
        let net = Net::new(&[]).weight(w, &[4, 8]).weight(u, &[8, 3]);
        let net = net.node("MatMul", &["x", w], a, "").node("Relu", &[a], b, "").node("MatMul", &[b, u], c, "");
        let net = net.node("Add", &[c, "last"], y, "");
        body(net, &[y])
    };
    let net = Net::new(&[("x", 1, &["", "4"]), ("state", 1, &["2", "", "3"])]);
    let net = net.ints("zero", &[0]).ints("one", &[1]);
    let net = net.node("Shape", &["x"], "shape", "").node("Gather", &["shape", "zero"], "rows", "axis=0");
    let net = net.node("Shape", &["state"], "shapes", "").node("Gather", &["shapes", "one"], "states", "axis=0");
    let net = net.node("Gather", &["state", "one"], "last", "axis=0");
    let mut net = net.node("Equal", &["rows", "states"], "is", "").node("If", &["is"], "y", "");
    for tensor in &mut net.0.initializer {
        tensor.dims.clear();
    }
    with_bodies(net, vec![subgraph("else_branch", block("other")), subgraph("then_branch", block("taken"))])
}

/// The states of a batch had another size than its rows, so that the branch was open and nothing in it was counted.
#[test]
fn rows_and_states_of_a_batch_have_one_size() {
    let values =
        |count: usize| (0..count).map(|i| ((i * i * 7 + i * 13) % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
    let x = Array::new(&[48, 4], values(48 * 4)).unwrap();
    let state = Array::new(&[2, 48, 3], values(2 * 48 * 3)).unwrap();
    let data = Dataset::from_arrays([("x", x), ("state", state)]).unwrap();
    let options = PruneOptions::ratio(0.5).align(1).data(data);
    let report = prune(&Model::from_proto(with_states()), &options).unwrap().prove().unwrap().report;
    assert!(report.notes.iter().any(|note| note.contains("the same branch of 1 nodes If")), "{:?}", report.notes);
    assert!(report.verify.exact_max_rel.unwrap() < 1e-5);
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
