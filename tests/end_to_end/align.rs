//! Sizes that hardware computes in.

use paredown::internals::onnx::proto::{ModelProto, NodeProto};
use paredown::{Hardware, Model, Outcome, PruneOptions, prune};

use super::command::{Run, fixture};
use super::networks::{int, model, node, value, weight};

/// Names, sizes and kept units of the groups that may be pruned.
fn kept(pruned: &Outcome) -> Vec<(String, usize, usize)> {
    let open = pruned.report.groups.iter().filter(|group| group.is_open());
    open.map(|group| (group.name.clone(), group.size, group.kept)).collect()
}

/// `x → Conv → Relu → Conv → … → y` with these numbers of channels, the first of them those of `x`.
fn chain(channels: &[usize]) -> Model {
    let pairs = || channels.windows(2).enumerate();
    let nodes: Vec<NodeProto> = pairs()
        .map(|(at, _)| {
            let (from, to) = (format!("v{at}"), format!("v{}", at + 1));
            node("Conv", &[&from, &format!("k{at}")], &to)
        })
        .collect();
    let weights = pairs().map(|(at, pair)| weight(&format!("k{at}"), &[pair[1], pair[0], 1, 1])).collect();
    let first = channels[0].to_string();
    let last = format!("v{}", channels.len() - 1);
    let ends = (
        value("v0", &["n", &first, "6", "6"]),
        value(&last, &["n", &channels[channels.len() - 1].to_string(), "6", "6"]),
    );
    Model::from_proto(model(ends.0, nodes, weights, ends.1))
}

#[test]
fn kept_channels_are_blocks_and_small_groups_keep_a_divisor() {
    for (hardware, sizes) in [
        (Hardware::Avx512, [(64, 32), (24, 16), (16, 8), (6, 4), (4, 4)]),
        (Hardware::Avx2, [(64, 32), (24, 16), (16, 8), (6, 4), (4, 4)]),
        (Hardware::CudaInt8, [(96, 64), (48, 32), (16, 8), (6, 4), (4, 4)]),
    ] {
        let channels: Vec<usize> = [3].into_iter().chain(sizes.iter().map(|size| size.0)).chain([2]).collect();
        let model = chain(&channels);
        let pruned = prune(&model, &PruneOptions::ratio(0.5).hardware(hardware)).unwrap();
        let found: Vec<(usize, usize)> = kept(&pruned).into_iter().map(|(_, size, kept)| (size, kept)).collect();
        assert_eq!(found, sizes, "{hardware:?}");
        let notes = pruned.report.notes.join("\n");
        assert!(notes.contains("too small to be narrowed to a multiple of what"), "{notes}");
    }
}

#[test]
fn a_budget_is_met_with_blocks_alone() {
    let model = chain(&[3, 64, 64, 96, 32, 2]);
    for share in [0.7, 0.5, 0.3] {
        let pruned = prune(&model, &PruneOptions::macs(share).hardware(Hardware::Avx2)).unwrap();
        let (before, after) = (pruned.report.model.before.macs as f64, pruned.report.model.after.macs as f64);
        assert!(after <= share * before && after > (share - 0.15) * before, "{share}: {after} of {before}");
        assert!(kept(&pruned).iter().all(|(_, _, kept)| kept % 8 == 0), "{:?}", kept(&pruned));
    }
}

/// Two branches joined, a depthwise convolution behind them, and a product: every axis is a multiple of 8.
#[test]
fn concatenations_and_depthwise_layers_are_aligned() {
    let mut joined = node("Concat", &["a", "b"], "c");
    joined.attribute.push(int("axis", 1));
    let mut depthwise = node("Conv", &["c", "kd"], "d");
    depthwise.attribute.push(int("group", 64));
    let nodes = vec![
        node("Conv", &["x", "ka"], "a"),
        node("Conv", &["x", "kb"], "b"),
        joined,
        depthwise,
        node("GlobalAveragePool", &["d"], "e"),
        node("Flatten", &["e"], "f"),
        node("Gemm", &["f", "w"], "y"),
    ];
    let weights = [("ka", vec![40, 3, 3, 3]), ("kb", vec![24, 3, 3, 3]), ("kd", vec![64, 1, 3, 3]), ("w", vec![64, 5])];
    let weights = weights.iter().map(|(name, dims)| weight(name, dims)).collect();
    let joined = Model::from_proto(model(value("x", &["n", "3", "9", "9"]), nodes, weights, value("y", &["n", "5"])));
    for options in [PruneOptions::ratio(0.5), PruneOptions::macs(0.5)] {
        let pruned = prune(&joined, &options.hardware(Hardware::Avx2)).unwrap();
        let found = kept(&pruned);
        assert!(found.iter().all(|(_, _, kept)| kept % 8 == 0), "{found:?}");
        assert!(found.iter().any(|(_, size, kept)| kept < size), "{found:?}");
    }
}

/// Heads of 8 numbers are aligned whatever their number; the numbers inside a head are a whole axis of its products.
#[test]
fn heads_are_aligned_by_what_they_hold() {
    let model = Model::load(fixture("digits_vit.onnx")).unwrap();
    let pruned = prune(&model, &PruneOptions::ratio(0.5).hardware(Hardware::Avx2)).unwrap();
    let found = kept(&pruned);
    assert!(found.iter().any(|(name, size, kept)| name.contains("heads") && kept * 2 == *size), "{found:?}");
    let neurons = found.iter().filter(|(name, ..)| name.contains("neurons"));
    assert!(neurons.clone().count() > 0 && neurons.clone().all(|(_, _, kept)| kept % 8 == 0), "{found:?}");
}

#[test]
fn what_stays_beside_a_group_in_its_axis_is_told() {
    let mut joined = node("Concat", &["a", "x"], "c");
    joined.attribute.push(int("axis", 1));
    let nodes = vec![node("Conv", &["x", "ka"], "a"), joined, node("Conv", &["c", "kb"], "y")];
    let weights = [("ka", vec![32, 3, 1, 1]), ("kb", vec![2, 35, 1, 1])];
    let weights = weights.iter().map(|(name, dims)| weight(name, dims)).collect();
    let proto: ModelProto = model(value("x", &["n", "3", "9", "9"]), nodes, weights, value("y", &["n", "2", "9", "9"]));
    let model = Model::from_proto(proto);
    let pruned = prune(&model, &PruneOptions::ratio(0.5).hardware(Hardware::Avx2)).unwrap();
    let notes = pruned.report.notes.join("\n");
    assert!(notes.contains("3 positions that cannot be removed, which is not a multiple of 8"), "{notes}");
}

#[test]
fn the_target_is_named_or_left_open() {
    let model = fixture("digits_resnet.onnx");
    let run =
        |options: &str| Run::new("prune").arg(model.clone()).args("--ratio 0.5 --dry-run --no-verify").args(options);
    for known in ["--target cpu", "--target avx512", "--target tensorrt", "--target none", "--align 4"] {
        run(known).exits(0);
    }
    for (wrong, said) in [("--target gpu", "choose one of cpu, avx512"), ("--align 0", "--align")] {
        let said_of = run(wrong).exits(2);
        assert!(said_of.err.contains(said), "{}", said_of.err);
    }
}
