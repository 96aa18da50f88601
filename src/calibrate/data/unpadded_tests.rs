use std::collections::BTreeSet;

use ndarray::Array2;
use tempfile::TempDir;

use super::tests::{npy, npz};
use super::{Batch, Dataset};
use crate::analysis::Analysis;
use crate::calibrate::{Calibration, Detail, input_statistics, layers};
use crate::onnx::Model;
use crate::onnx::proto::NodeProto;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::inputs::DimSizes;
use crate::runtime::sample_models::{int, integers, model, node, tensor_value, wavy, weight};

const SAMPLES: usize = 150;
const FILLED: usize = 24;

/// How long a sample is.
fn length(sample: usize) -> usize {
    2 + sample * sample % 11
}

/// A sum over positions of what two layers make of a text: of all positions, or of those that a mask does not leave out.
fn text_model(is_masked: bool) -> Model {
    let integer = DataType::Int64;
    let mut nodes = vec![
        node("Gather", &["table", "ids"], &["e"], vec![]),
        node("MatMul", &["e", "w1"], &["a"], vec![]),
        node("Relu", &["a"], &["b"], vec![]),
        node("MatMul", &["b", "w2"], &["c"], vec![]),
        node("Cast", &["mask"], &["float"], vec![int("to", DataType::Float as i64)]),
        node("Unsqueeze", &["float", "last"], &["factors"], vec![]),
        node("Mul", &["c", "factors"], &["d"], vec![]),
        node("ReduceSum", &[if is_masked { "d" } else { "c" }, "positions"], &["y"], vec![int("keepdims", 0)]),
    ];
    if !is_masked {
        nodes.retain(|node| !["Cast", "Unsqueeze", "Mul"].contains(&node.op_type()));
        nodes.push(node("Identity", &["mask"], &["also"], vec![]));
    }
    let weights = vec![
        weight("table", &[40, 6], wavy),
        weight("w1", &[6, 12], wavy),
        weight("w2", &[12, 5], wavy),
        integers("last", &[1], &[2]),
        integers("positions", &[1], &[1]),
    ];
    let inputs = ["ids", "mask"].map(|name| tensor_value(name, integer, &["n", "length"])).to_vec();
    let mut outputs = vec![tensor_value("y", DataType::Float, &["n", "5"])];
    if !is_masked {
        outputs.push(tensor_value("also", integer, &["n", "length"]));
    }
    Model::from_proto(model(inputs, nodes, weights, outputs))
}

/// Texts for `model`, and the folder that they lie in.
fn texts(model: &Model) -> (TempDir, Dataset) {
    let token = |(sample, at): (usize, usize)| (1 + (sample * 7 + at * 3) % 39) as i64;
    let counts = |(sample, at): (usize, usize)| i64::from(at < length(sample));
    let ids = Array2::from_shape_fn((SAMPLES, FILLED), |at| token(at) * counts(at));
    let mask = Array2::from_shape_fn((SAMPLES, FILLED), counts);
    let arrays = [("ids", npy(&ids.into_dyn())), ("mask", npy(&mask.into_dyn()))];
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("texts.npz");
    std::fs::write(&path, npz(&arrays, zip::CompressionMethod::Stored)).unwrap();
    let data = Dataset::open(&path, model.proto.graph.as_ref().unwrap()).unwrap();
    (folder, data)
}

/// What counts of each sample.
fn tokens(batches: &[Batch]) -> Vec<Vec<i64>> {
    let of_batch = |batch: &Batch| {
        let [ids, mask] = [0, 1].map(|input: usize| batch.inputs[input].1.to_array::<i64>().unwrap());
        let rows = ids.outer_iter().zip(mask.outer_iter());
        let kept = rows.map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, m)| **m == 1).map(|(&id, _)| id).collect());
        kept.collect::<Vec<Vec<i64>>>()
    };
    batches.iter().flat_map(of_batch).collect()
}

fn all(data: &Dataset, size: usize) -> Vec<Batch> {
    data.batches(size).map(Result::unwrap).collect()
}

#[test]
fn a_model_that_heeds_its_mask_runs_without_padding() {
    let model = text_model(true);
    let (_folder, whole) = texts(&model);
    let identity = whole.identity().to_owned();
    let expected: BTreeSet<Vec<i64>> = tokens(&all(&whole, 32)).into_iter().collect();
    let cropped = whole.without_padding(&model.proto).unwrap();
    assert_eq!((cropped.samples(), cropped.together()), (SAMPLES, 8));
    assert_ne!(cropped.identity(), identity);
    assert!(cropped.warnings()[0].contains("without their padding"), "{:?}", cropped.warnings());
    let batches = all(&cropped, 32);
    assert!(batches.iter().all(|batch| batch.samples() <= 8));
    let sizes: BTreeSet<usize> = batches.iter().map(|batch| batch.inputs[0].1.shape()[1]).collect();
    assert!(sizes.len() <= 3 && sizes.last() == Some(&11), "{sizes:?}");
    assert_eq!(tokens(&batches).into_iter().collect::<BTreeSet<_>>(), expected);
    // However many run at once, and of a part of them.
    for size in [1, 3, 8] {
        assert_eq!(tokens(&all(&cropped, size)), tokens(&batches));
    }
    let [others, every_fifth] = cropped.split(5);
    assert_eq!(others.samples() + every_fifth.samples(), SAMPLES);
    let both = [tokens(&all(&others, 8)), tokens(&all(&every_fifth, 8))].concat();
    assert_eq!(both.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_model_that_heeds_no_mask_runs_whole_samples() {
    let model = text_model(false);
    let (_folder, data) = texts(&model);
    let whole = data.without_padding(&model.proto).unwrap();
    assert_eq!((whole.together(), whole.warnings().len()), (1, 0));
    assert!(all(&whole, 32).iter().all(|batch| batch.inputs[0].1.shape()[1] == FILLED));
}

/// Two texts of one length, each with its mask: a sample is as long as the longer one.
#[test]
fn of_two_texts_the_longer_one_is_kept() {
    let whole = text_model(true).proto;
    let mut both = whole.clone();
    let (graph, other) = (both.graph.as_mut().unwrap(), whole.graph.unwrap());
    let is_shared = |name: &str| ["table", "w1", "w2", "last", "positions"].contains(&name);
    let second = |name: &String| if is_shared(name) { name.clone() } else { format!("{name}_2") };
    for node in other.node {
        let input = node.input.iter().map(second).collect();
        let output = node.output.iter().map(second).collect();
        graph.node.push(NodeProto { input, output, ..node });
    }
    graph.input.extend(["ids_2", "mask_2"].map(|name| tensor_value(name, DataType::Int64, &["n", "length"])));
    graph.output.push(tensor_value("y_2", DataType::Float, &["n", "5"]));
    let model = Model::from_proto(both);
    // The second text is long where the first one is short.
    let lengths: [fn(usize) -> usize; 2] = [length, |sample| 14 - length(sample)];
    let mask = |of: fn(usize) -> usize| {
        npy(&Array2::from_shape_fn((SAMPLES, FILLED), |(sample, at)| i64::from(at < of(sample))).into_dyn())
    };
    let ids = || npy(&Array2::from_shape_fn((SAMPLES, FILLED), |(sample, at)| ((sample + at) % 39) as i64).into_dyn());
    let arrays = [("ids", ids()), ("mask", mask(lengths[0])), ("ids_2", ids()), ("mask_2", mask(lengths[1]))];
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("texts.npz");
    std::fs::write(&path, npz(&arrays, zip::CompressionMethod::Stored)).unwrap();
    let data = Dataset::open(&path, model.proto.graph.as_ref().unwrap()).unwrap();
    let cropped = data.without_padding(&model.proto).unwrap();
    assert_eq!(cropped.together(), 8);
    let counted = |batches: &[Batch], input: usize| -> i64 {
        batches.iter().map(|batch| batch.inputs[input].1.to_array::<i64>().unwrap().sum()).sum()
    };
    let batches = all(&cropped, 8);
    for (input, of) in [(1, lengths[0]), (3, lengths[1])] {
        assert_eq!(counted(&batches, input), (0..SAMPLES).map(of).sum::<usize>() as i64);
    }
}

/// Sums go over the positions that count, and are the same however many samples run at once.
#[test]
fn sums_do_not_depend_on_the_batch() {
    let model = text_model(true);
    let (_folder, whole) = texts(&model);
    let cropped = whole.without_padding(&model.proto).unwrap();
    let analysis = Analysis::new(&model, &DimSizes::default(), &BTreeSet::new()).unwrap();
    let subject = analysis.subject();
    let all = layers(subject).unwrap();
    let of = |data: &Dataset, batch: usize| {
        let data = Calibration { batch, ..Calibration::new(data, 1) };
        let found = input_statistics(subject, data, &all, Detail::Covariance).unwrap();
        found
            .iter()
            .flat_map(|all| all.iter())
            .map(|sums| (sums.rows(), sums.mean_x(), sums.covariance()))
            .collect::<Vec<_>>()
    };
    let expected = of(&cropped, 8);
    assert_eq!(expected[0].0, (0..SAMPLES).map(length).sum::<usize>());
    assert!([1, 3].into_iter().all(|batch| of(&cropped, batch) == expected));
    let (_folder, whole) = texts(&model);
    for ((rows, mean, covariance), expected) in of(&whole, 8).into_iter().zip(expected) {
        assert_eq!(rows, expected.0);
        assert!((mean - &expected.1).iter().all(|difference| difference.abs() < 1e-5));
        assert!((covariance - &expected.2).iter().all(|difference| difference.abs() < 1e-4));
    }
}
