//! Sample sizes of dynamic dimensions.

use std::collections::{BTreeMap, BTreeSet};

use crate::axes::BINDINGS;
use crate::error::Result;
use crate::onnx::proto::GraphProto;
use crate::onnx::tensor::ElementType;
use crate::runtime::inputs::{DimSizes, declared_inputs, evaluate};

/// Size of each dynamic dimension, by name; unnamed ones are called `input:axis`.
pub type Binding = BTreeMap<String, usize>;

/// Sizes of dynamic axes other than the batch, in the order in which they are tried: position tables may be short,
/// vision models may want larger ones, speech models raw audio.
const SAMPLES: [usize; 6] = [32, 128, 224, 8, 4096, 16_000];

/// Sample sizes of a graph's dynamic dimensions, the most likely to be valid first, and whether the first that are
/// valid will do. Under the first binding, dimensions have the sizes that `given` names, or else its typical ones if the graph
/// is valid at them. Every dimension but those of `fixed` gets different sizes under each binding, and no two dimensions the
/// same ones but those that count samples.
///
/// # Errors
/// As [`declared_inputs`].
pub fn sample_sizes(
    graph: &GraphProto,
    given: &DimSizes,
    fixed: &BTreeSet<String>,
) -> Result<(Vec<[Binding; BINDINGS]>, bool)> {
    let mut names: Vec<(String, bool)> = Vec::new();
    // Token sequences keep their length; images and sounds shrink on their way through the network.
    let mut shrinks = false;
    for input in declared_inputs(graph)? {
        let is_real = ElementType::from_code(input.element as i32).is_ok_and(ElementType::is_float);
        for axis in 0..input.dims.as_ref().map_or(0, Vec::len) {
            let Some(name) = input.axis_name(axis) else { continue };
            shrinks |= axis > 0 && is_real;
            match names.iter_mut().find(|(known, _)| *known == name) {
                Some((_, batch)) => *batch |= axis == 0,
                None => names.push((name, axis == 0)),
            }
        }
    }
    names.iter_mut().for_each(|(name, batch)| *batch |= given.samples.contains(name));
    let DimSizes { named, typical, .. } = given;
    let bindings = |typical: &Binding| {
        let is_guessed =
            |(name, batch): &(String, bool)| !batch && ![named, typical].iter().any(|b| b.contains_key(name));
        let samples = if names.iter().any(is_guessed) { &SAMPLES[..] } else { &SAMPLES[..1] };
        samples.iter().map(|&sample| bind(&names, (given, typical), (sample, shrinks), fixed)).collect::<Vec<_>>()
    };
    let mut all = bindings(typical);
    // A size that is fixed to that of the samples is not guessed.
    let certain: Binding =
        typical.iter().filter(|(name, _)| fixed.contains(*name)).map(|(n, &s)| (n.clone(), s)).collect();
    if certain.len() < typical.len() {
        all.extend(bindings(&certain));
    }
    Ok((all, !shrinks))
}

/// Where sizes shrink, those of the later bindings are larger. Else one is smaller and one larger: what a graph clamps, such as
/// a window of relative positions, or pads to a block, is then seen to be dynamic.
fn bind(
    names: &[(String, bool)],
    (given, typical): (&DimSizes, &Binding),
    (sample, shrinks): (usize, bool),
    fixed: &BTreeSet<String>,
) -> [Binding; BINDINGS] {
    let DimSizes { named: given, samples: counts, .. } = given;
    let mut sizes: [Binding; BINDINGS] = Default::default();
    let (mut batches, mut others) = (0, 0);
    for (name, batch) in names {
        let steps = |first: usize, step: usize| [first, first + step, first + 2 * step];
        let known = typical.get(name).copied();
        let sample = known.unwrap_or(sample);
        let samples = match (given.get(name), *batch && known.is_none()) {
            (Some(&size), _) => steps(size, (size / 4).max(1) * 2 + others),
            (None, true) if counts.contains(name) => steps(1, 2),
            (None, true) => {
                batches += 1;
                steps(1, 1 + batches + usize::from(!counts.is_empty()))
            }
            (None, false) => {
                others += 1;
                if shrinks {
                    steps(sample, (sample / 4).max(1) * others)
                } else {
                    [sample, sample / 4 + others, 2 * sample + others]
                }
            }
        };
        let samples = if fixed.contains(name) { [samples[0]; BINDINGS] } else { samples };
        for (sizes, sample) in sizes.iter_mut().zip(samples) {
            sizes.insert(name.clone(), sample);
        }
    }
    // Names such as `past + sequence` are sums of others.
    for sizes in &mut sizes {
        let composite: Vec<String> =
            sizes.keys().filter(|n| !given.contains_key(*n) && !typical.contains_key(*n)).cloned().collect();
        for name in composite {
            if let Some(size) = evaluate(&name, sizes) {
                sizes.insert(name, size);
            }
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::*;

    #[test]
    fn sizes_of_samples_come_first_and_guesses_after_them() {
        let graph = GraphProto {
            input: vec![tensor_value("x", DataType::Float, &["n", "3", "height", "width"])],
            ..GraphProto::default()
        };
        let known = |sizes: &[(&str, usize)]| DimSizes {
            typical: sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect(),
            ..DimSizes::default()
        };
        let none = BTreeSet::new();
        let (guessed, _) = sample_sizes(&graph, &known(&[]), &none).unwrap();
        let (found, _) = sample_sizes(&graph, &known(&[("height", 48), ("width", 320)]), &none).unwrap();
        assert_eq!(found[1..], guessed[..]);
        let [first, second, third] = &found[0];
        assert_eq!((first["n"], first["height"], first["width"]), (1, 48, 320));
        for name in ["n", "height", "width"] {
            assert!(first[name] != second[name] && second[name] != third[name], "{name}: {:?}", found[0]);
        }
        // What is typical of one axis says nothing about the other; what the user says comes before both.
        let (found, _) = sample_sizes(&graph, &known(&[("height", 48)]), &none).unwrap();
        assert_eq!((found.len(), found[1][0]["height"], found[1][0]["width"]), (2 * SAMPLES.len(), 48, SAMPLES[1]));
        let mut named = known(&[("height", 48), ("width", 320)]);
        named.add("width=100").unwrap();
        let (found, _) = sample_sizes(&graph, &named, &none).unwrap();
        assert_eq!((found[0][0]["height"], found[0][0]["width"]), (48, 100));
    }

    #[test]
    fn axes_that_count_samples_have_one_size_wherever_they_stand() {
        let inputs = [("x", ["", "576"]), ("state", ["2", ""]), ("other", ["", "3"])];
        let input = inputs.map(|(name, dims)| tensor_value(name, DataType::Float, &dims)).to_vec();
        let graph = GraphProto { input, ..GraphProto::default() };
        let samples = ["x:0", "state:1"].map(str::to_owned).into();
        let given = DimSizes { samples, ..DimSizes::default() };
        let (found, _) = sample_sizes(&graph, &given, &BTreeSet::new()).unwrap();
        for binding in &found[0] {
            assert_eq!(binding["x:0"], binding["state:1"], "{binding:?}");
        }
        let [first, second, third] = &found[0];
        assert!(first["x:0"] < second["x:0"] && second["x:0"] < third["x:0"], "{found:?}");
        assert!(second["other:0"] != second["x:0"], "{second:?}");
    }
}
