//! Where the samples of a file lie in its arrays.
//!
//! Most graphs have an axis of samples: axis 0 of every input, or another one that has the same symbol. A graph that carries
//! a state from run to run may have none: one run is one sample then. Which of the two a file means, the ranks of its
//! arrays say.
//!
//! | an array of rank | is |
//! |---|---|
//! | of the input | samples along the input's axis of samples; where the graph has none, the input of a single run |
//! | one more | runs: `array[i]` is the input of sample i |
//!
//! An input of rank 0 is the same for all samples; its array may repeat the number for each of them. So is an input whose
//! array has exactly the declared shape beside arrays of runs.

use super::batch_axes::SampleAxis;
use super::npy::NpyArray;
use super::schema::{Schema, Symbols, check_elements, check_shape, written};
use crate::runtime::inputs::DeclaredInput;
use crate::{Error, Result};

/// Where the samples of an array are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Along this axis of the input.
    Along(usize),
    /// `array[i]` is the input of sample i.
    Runs,
    /// All samples share the array.
    Shared,
}

/// The arrays of a file, with their places.
#[derive(Debug)]
pub(super) struct Placed {
    /// One for each input of the graph, in graph order.
    pub(super) inputs: Vec<(DeclaredInput, NpyArray, Place)>,
    /// Number of samples.
    pub(super) count: usize,
    /// Whether each sample is one run of the graph.
    pub(super) runs: bool,
}

/// Places the samples of `arrays`, one for each input of the graph.
///
/// # Errors
/// [`ErrorKind::Input`](crate::ErrorKind::Input) when an array fits its input in no way, or arrays have different numbers of samples.
pub(super) fn placed(arrays: Vec<NpyArray>, schema: &Schema) -> Result<Placed> {
    let ranks = schema.inputs.iter().map(|input| input.dims.as_ref().map(Vec::len));
    let has_runs =
        ranks.zip(&arrays).any(|(rank, array)| rank.is_some_and(|rank| rank > 0 && array.shape.len() == rank + 1));
    let arrays = if has_runs { arrays } else { with_numbers(arrays, schema)? };
    let pairs: Vec<(&DeclaredInput, &NpyArray)> = schema.inputs.iter().zip(&arrays).collect();
    pairs.iter().try_for_each(|(input, array)| check_elements(array, input))?;
    let (places, runs) = if has_runs {
        (pairs.iter().map(|(input, array)| place_of_runs(input, array)).collect(), true)
    } else if schema.axes.contains(&SampleAxis::Missing)
        || !schema.axes.iter().any(|axis| matches!(axis, SampleAxis::At(_)))
    {
        without_axis(&pairs, schema)?
    } else {
        let along = |axis: &SampleAxis| axis.position().map_or(Place::Shared, Place::Along);
        (schema.axes.iter().map(along).collect(), false)
    };
    let mut symbols = Symbols::new();
    for ((input, array), place) in pairs.iter().zip(&places) {
        match place {
            Place::Along(axis) => check_shape(&array.shape, input, Some(*axis), &mut symbols)?,
            Place::Shared => check_shape(&array.shape, input, None, &mut symbols)?,
            Place::Runs => check_shape(array.shape.get(1..).unwrap_or_default(), input, None, &mut symbols)?,
        }
    }
    let count = count(&pairs, &places)?;
    let inputs = schema.inputs.iter().cloned().zip(arrays).zip(places);
    Ok(Placed { inputs: inputs.map(|((input, array), place)| (input, array, place)).collect(), count, runs })
}

/// The arrays, those that repeat the number of an input of rank 0 for every sample as that number.
fn with_numbers(arrays: Vec<NpyArray>, schema: &Schema) -> Result<Vec<NpyArray>> {
    let number = |(input, array): (&DeclaredInput, NpyArray)| {
        let is_number = input.dims.as_ref().is_some_and(Vec::is_empty);
        if !is_number || array.shape.len() != 1 {
            return Ok(array);
        }
        array.same_number()?.ok_or_else(|| {
            Error::input(format!(
                "array '{0}' has a number for each sample, but all samples of a run share input '{0}': give every array one \
                 more axis in front, so that each sample is a run",
                input.name
            ))
        })
    };
    schema.inputs.iter().zip(arrays).map(number).collect()
}

/// The place of an array beside arrays of runs.
fn place_of_runs(input: &DeclaredInput, array: &NpyArray) -> Place {
    let rank = input.dims.as_ref().map(Vec::len);
    if rank == Some(array.shape.len()) { Place::Shared } else { Place::Runs }
}

/// Places, and whether a sample is a run, where the graph has no axis of samples.
fn without_axis(pairs: &[(&DeclaredInput, &NpyArray)], schema: &Schema) -> Result<(Vec<Place>, bool)> {
    let mut symbols = Symbols::new();
    let whole = pairs.iter().try_for_each(|(input, array)| check_shape(&array.shape, input, None, &mut symbols));
    if whole.is_ok() {
        return Ok((vec![Place::Shared; pairs.len()], true));
    }
    // Rows in front of every array, where the graph takes one row at a time.
    let sampled = || pairs.iter().map(|(_, array)| array).filter(|array| !array.shape.is_empty());
    let first = sampled().next().map(|array| array.row_count());
    let is_common = sampled().all(|array| Some(array.row_count()) == first);
    let takes_rows = pairs.iter().all(|(input, array)| {
        array.shape.is_empty() || check_shape(&array.shape, input, Some(0), &mut Symbols::new()).is_ok()
    });
    let takes_one = pairs.iter().all(|(input, _)| input.fixed_batch().is_none_or(|size| size == 1));
    let is_unsaid = !schema.axes.iter().all(|axis| *axis == SampleAxis::Shared);
    if is_common && takes_rows && takes_one && is_unsaid {
        let rows = |array: &NpyArray| if array.shape.is_empty() { Place::Shared } else { Place::Along(0) };
        return Ok((pairs.iter().map(|(_, array)| rows(array)).collect(), false));
    }
    Err(Error::input(unsure(pairs, schema)))
}

/// Which arrays would be accepted.
fn unsure(pairs: &[(&DeclaredInput, &NpyArray)], schema: &Schema) -> String {
    let found: Vec<String> = pairs.iter().map(|(input, array)| format!("{} {:?}", input.name, array.shape)).collect();
    let dims = |input: &DeclaredInput| input.dims.clone().unwrap_or_default();
    let runs = |(input, _): &(&DeclaredInput, &NpyArray)| {
        let declared = written(&dims(input), None);
        let rest = declared.trim_start_matches('[');
        if rest == "]" { format!("{} [N]", input.name) } else { format!("{} [N, {rest}", input.name) }
    };
    let single = |(input, _): &(&DeclaredInput, &NpyArray)| format!("{} {}", input.name, written(&dims(input), None));
    let join =
        |form: &dyn Fn(&(&DeclaredInput, &NpyArray)) -> String| pairs.iter().map(form).collect::<Vec<_>>().join(", ");
    let missing = schema.inputs.iter().zip(&schema.axes).find(|(_, axis)| **axis == SampleAxis::Missing);
    let why = missing.map_or_else(
        || "the inputs were said to have no axis of samples".to_owned(),
        |(input, _)| format!("input '{}' has no axis of samples in common with the others", input.name),
    );
    format!(
        "the arrays {} fit in no way: {why}, so a sample is one run of the model. Accepted are N runs ({}), or a directory \
         with one file for each run ({}). If an axis does count samples, name it: `batch_axis` {}=0",
        found.join(", "),
        join(&runs),
        join(&single),
        pairs.first().map_or("NAME", |(input, _)| input.name.as_str())
    )
}

/// The number of samples, which all arrays must have; one where all are shared.
fn count(pairs: &[(&DeclaredInput, &NpyArray)], places: &[Place]) -> Result<usize> {
    let sampled = pairs.iter().zip(places).filter_map(|((_, array), place)| {
        let axis = match place {
            Place::Along(axis) => *axis,
            Place::Runs => 0,
            Place::Shared => return None,
        };
        Some((array.name.as_str(), array.shape.get(axis).copied()?))
    });
    let sampled: Vec<(&str, usize)> = sampled.collect();
    let Some(&(first, count)) = sampled.first() else { return Ok(1) };
    match sampled.iter().find(|(_, other)| *other != count) {
        None => Ok(count),
        Some((name, other)) => {
            Err(Error::input(format!("array '{first}' has {count} samples and array '{name}' has {other}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};
    use tempfile::TempDir;
    use zip::CompressionMethod;

    use super::*;
    use crate::ErrorKind;
    use crate::calibrate::data::tests::{npy, npz};
    use crate::calibrate::data::{Batch, BatchAxes, Dataset};
    use crate::onnx::proto::GraphProto;
    use crate::onnx::proto::tensor_proto::DataType;
    use crate::runtime::sample_models::{model, tensor_value};

    /// Numbers that count up, as floats.
    fn counted(shape: &[usize]) -> Vec<u8> {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| i as f32).collect();
        npy(&ArrayD::<f32>::from_shape_vec(IxDyn(shape), values).unwrap())
    }

    /// The files as a data set, and the folder that it lives in.
    fn opened(files: &[&[(&str, Vec<u8>)]], graph: &GraphProto, axes: &[&str]) -> Result<(TempDir, Dataset)> {
        let folder = TempDir::new().unwrap();
        for (number, arrays) in files.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{number}.npz")), npz(arrays, CompressionMethod::Stored))
                .unwrap();
        }
        let mut typed = BatchAxes::default();
        axes.iter().try_for_each(|axis| typed.add(axis))?;
        let dataset = Dataset::open_along(folder.path(), graph, &typed)?;
        Ok((folder, dataset))
    }

    fn shapes(dataset: &Dataset, size: usize) -> Vec<Vec<Vec<usize>>> {
        let shapes = |batch: Result<Batch>| {
            batch.unwrap().inputs.iter().map(|(_, tensor)| tensor.shape().to_vec()).collect::<Vec<_>>()
        };
        dataset.batches(size).map(shapes).collect()
    }

    fn graph(inputs: &[(&str, &[&str])]) -> GraphProto {
        let inputs = inputs.iter().map(|(name, dims)| tensor_value(name, DataType::Float, dims)).collect();
        model(inputs, vec![], vec![], vec![]).graph.unwrap()
    }

    /// A pitch network takes the range of frequencies as two numbers; samples repeated them, and were refused.
    #[test]
    fn a_number_may_be_repeated_for_every_sample() {
        let graph = graph(&[("x", &["n", "3"]), ("low", &[])]);
        let low = |values: Vec<f32>| npy(&ArrayD::from_shape_vec(IxDyn(&[values.len()]), values).unwrap());
        let (_folder, dataset) =
            opened(&[&[("x", counted(&[4, 3])), ("low", low(vec![5.0; 4]))]], &graph, &[]).unwrap();
        assert_eq!(shapes(&dataset, 2), [[vec![2, 3], vec![]], [vec![2, 3], vec![]]]);
        let batch = dataset.batches(4).next().unwrap().unwrap();
        assert_eq!(batch.inputs[1].1.to_vec::<f32>().unwrap(), [5.0]);

        let files: [&[(&str, Vec<u8>)]; 1] = [&[("x", counted(&[2, 3])), ("low", low(vec![5.0, 6.0]))]];
        let error = opened(&files, &graph, &[]).unwrap_err();
        assert!(error.to_string().contains("array 'low' has a number for each sample"), "{error}");
        // A sample that is a run may have a number of its own.
        let files: [&[(&str, Vec<u8>)]; 1] = [&[("x", counted(&[2, 1, 3])), ("low", low(vec![5.0, 6.0]))]];
        assert_eq!(shapes(&opened(&files, &graph, &[]).unwrap().1, 1).len(), 2);
    }

    /// A network over a stream: a sequence, and a state of one.
    fn stream() -> GraphProto {
        graph(&[("x", &["sequence", "3"]), ("h", &["1", "1", "4"])])
    }

    #[test]
    fn an_array_with_one_axis_more_holds_runs() {
        for h in [&[5, 1, 1, 4][..], &[1, 1, 4]] {
            let (_folder, dataset) =
                opened(&[&[("x", counted(&[5, 7, 3])), ("h", counted(h))]], &stream(), &[]).unwrap();
            assert_eq!((dataset.samples(), dataset.fixed_batch()), (5, Some(1)));
            assert_eq!(shapes(&dataset, 32), vec![vec![vec![7, 3], vec![1, 1, 4]]; 5]);
        }
        let (_folder, dataset) =
            opened(&[&[("x", counted(&[2, 7, 3])), ("h", counted(&[2, 1, 1, 4]))]], &stream(), &[]).unwrap();
        let second = dataset.batches(8).nth(1).unwrap().unwrap();
        assert_eq!((second.samples(), second.inputs[0].1.as_slice::<f32>().unwrap()[0]), (1, 21.0));
        assert!(second.pick(&[0, 1]).is_err() && second.pick(&[0]).unwrap() == second);
    }

    #[test]
    fn a_file_may_be_a_run() {
        let run = |length: usize| [("x", counted(&[length, 3])), ("h", counted(&[1, 1, 4]))];
        let (_folder, dataset) = opened(&[&run(7), &run(9)], &stream(), &[]).unwrap();
        assert_eq!(shapes(&dataset, 32), [[vec![7, 3], vec![1, 1, 4]], [vec![9, 3], vec![1, 1, 4]]]);
    }

    #[test]
    fn where_the_guess_is_unsure_the_message_shows_what_would_do() {
        let error = opened(&[&[("x", counted(&[7, 3])), ("h", counted(&[2, 1, 4]))]], &stream(), &[]).unwrap_err();
        let message = error.to_string();
        for part in
            ["x [7, 3], h [2, 1, 4]", "'h' has no axis", "x [N, sequence, 3], h [N, 1, 1, 4]", "`batch_axis` x=0"]
        {
            assert!(message.contains(part), "{message}\n{part}");
        }
    }

    /// The published voice detector: a state `[2, batch, 128]` and the rate of the sound as one number.
    #[test]
    fn samples_may_lie_along_another_axis_than_the_first() {
        let graph = graph(&[("x", &["", ""]), ("state", &["2", "", "4"]), ("rate", &[])]);
        let arrays = [("x", counted(&[6, 3])), ("state", counted(&[2, 6, 4])), ("rate", counted(&[]))];
        let (_folder, dataset) = opened(&[&arrays], &graph, &[]).unwrap();
        assert_eq!(shapes(&dataset, 4), [[vec![4, 3], vec![2, 4, 4], vec![]], [vec![2, 3], vec![2, 2, 4], vec![]]]);
        let batch = dataset.batches(4).next().unwrap().unwrap();
        let picked = batch.pick(&[3, 1]).unwrap();
        assert_eq!((batch.samples(), picked.samples()), (4, 2));
        assert_eq!(picked.inputs[1].1.as_slice::<f32>().unwrap()[..8], [12., 13., 14., 15., 4., 5., 6., 7.]);

        let runs = [("x", counted(&[5, 1, 3])), ("state", counted(&[5, 2, 1, 4])), ("rate", counted(&[5]))];
        let (_folder, dataset) = opened(&[&runs], &graph, &[]).unwrap();
        assert_eq!(shapes(&dataset, 4), vec![vec![vec![1, 3], vec![2, 1, 4], vec![]]; 5]);
    }

    #[test]
    fn the_caller_has_the_last_word() {
        let graph = graph(&[("x", &["a", "b", "3"])]);
        let arrays = [("x", counted(&[4, 6, 3]))];
        assert_eq!(opened(&[&arrays], &graph, &[]).unwrap().1.samples(), 4);
        assert_eq!(opened(&[&arrays], &graph, &["x=1"]).unwrap().1.samples(), 6);
        let (_folder, run) = opened(&[&arrays], &graph, &["x=none"]).unwrap();
        assert_eq!(shapes(&run, 8), [[vec![4, 6, 3]]]);
        for (axis, expected) in
            [("y=0", "no such input"), ("x=3", "the input has 3 axes"), ("x", "NAME=AXIS"), ("x=-1", "NAME=AXIS")]
        {
            let error = opened(&[&arrays], &graph, &[axis]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
