//! A budget that groups share goes by what each of them costs the output.

use paredown::internals::onnx::proto::ModelProto;
use paredown::internals::onnx::proto::tensor_proto::DataType;
use paredown::{Array, Dataset, Model, PruneOptions, prune};

use crate::command::fixture;
use crate::networks::{int, model, node, typed_value, value, weight};

/// Three dense layers, and the class if it is asked for, on inputs of this many rows.
fn dense(rows: &str, is_classified: bool) -> ModelProto {
    let mut nodes = vec![
        node("MatMul", &["x", "w1"], "a"),
        node("Relu", &["a"], "b"),
        node("MatMul", &["b", "w2"], "c"),
        node("Relu", &["c"], "d"),
        node("MatMul", &["d", "w3"], "y"),
    ];
    let mut output = value("y", &[rows, "6"]);
    if is_classified {
        let mut class = node("ArgMax", &["y"], "class");
        class.attribute.extend([int("axis", 1), int("keepdims", 0)]);
        nodes.push(class);
        output = typed_value("class", DataType::Int64, &[rows]);
    }
    let weights = [("w1", [5, 24]), ("w2", [24, 24]), ("w3", [24, 6])];
    let weights = weights.iter().map(|(name, dims)| weight(name, dims)).collect();
    model(value("x", &[rows, "5"]), nodes, weights, output)
}

fn samples(count: usize) -> Dataset {
    let values: Vec<f32> = (0..count * 5).map(|at| ((at * 37 % 101) as f32 / 50.0) - 1.0).collect();
    Dataset::from_arrays([("x", Array::new(&[count, 5], values).unwrap())]).unwrap()
}

/// Samples were held out by their number, batches by that number too: of 256 samples in two batches none was left.
#[test]
fn a_large_fixed_batch_is_priced_and_proved() {
    for (batch, count) in [("128", 640), ("64", 1000)] {
        let model = Model::from_proto(dense(batch, false));
        let pruned = prune(&model, &PruneOptions::macs(0.6).align(1).data(samples(count))).unwrap();
        assert!(!pruned.report.pricing.is_empty(), "{batch}: {:?}", pruned.report.notes);
        pruned.prove().unwrap();
    }
}

/// Classes alone, as a segmentation network that ends with `ArgMax` gives them: no removal was said to cost anything.
#[test]
fn a_removal_that_changes_classes_costs_something() {
    let model = Model::from_proto(dense("n", true));
    let pruned = prune(&model, &PruneOptions::macs(0.3).align(1).data(samples(200))).unwrap().prove().unwrap();
    let pricing = pruned.report.pricing.last().unwrap();
    assert_eq!(pricing.metric, "share of elements that differ");
    assert!(pricing.groups.iter().any(|group| group.measured.iter().any(|(_, loss)| *loss > 0.01)), "{pricing:?}");
    let (cosine, verify) = (pruned.report.verify.cosine.unwrap(), &pruned.report.verify);
    assert!(cosine < 1.0 && verify.rel_l2.unwrap() > 0.0, "{verify:?}");
}

#[test]
fn a_report_has_the_price_of_every_group_and_what_all_of_it_costs() {
    for name in ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx"] {
        let model = Model::load(fixture(name)).unwrap();
        let pruned = prune(&model, &PruneOptions::macs(0.6).data(fixture("calib.npz"))).unwrap();
        let report = &pruned.report;
        let pricing = report.pricing.last().unwrap();
        assert!(report.model.after.macs * 10 <= report.model.before.macs * 6, "{name}");
        assert!(pricing.samples > 0 && pricing.metric == "KL divergence", "{name}: {}", pricing.metric);
        assert!(pricing.loss > 0.0 && pricing.measured.unwrap() > 0.0, "{name}");
        for price in &pricing.groups {
            let group = report.groups.iter().find(|group| group.name == price.name).unwrap();
            let (loss, measured) = (price.loss.unwrap(), &price.measured);
            assert_eq!(price.kept, group.kept, "{name} {}", price.name);
            assert_eq!(loss == 0.0, price.kept == group.size, "{name} {}", price.name);
            assert!(measured.windows(2).all(|pair| pair[0].0 > pair[1].0 && pair[0].1 <= pair[1].1), "{measured:?}");
            assert!(price.next.is_none_or(|(kept, next)| kept < price.kept && next >= loss), "{name} {}", price.name);
        }
    }
}

/// Without samples scores are shared by, and the report says what that is.
#[test]
fn without_samples_the_report_says_that_the_shares_are_a_guess() {
    let model = Model::load(fixture("digits_resnet.onnx")).unwrap();
    let pruned = prune(&model, &PruneOptions::macs(0.6)).unwrap();
    assert!(pruned.report.pricing.is_empty());
    assert!(pruned.report.notes.iter().any(|note| note.contains("only an estimate")), "{:?}", pruned.report.notes);
}
