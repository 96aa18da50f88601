use std::io::{Cursor, Write};

use image::{Rgb, RgbImage};
use ndarray::{Array, Array1, Array2, ArrayD};
use ndarray_npy::{WritableElement, WriteNpyExt};
use prost::Message;
use tempfile::TempDir;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::images::{ImageOptions, Layout};
use super::*;
use crate::ErrorKind;
use crate::onnx::proto::tensor_proto::DataType;
use crate::runtime::sample_models::{embedding, integers, mlp, model, tensor_value, weight};

/// Name and `.npy` bytes of an array.
pub(super) type NamedBytes = (&'static str, Vec<u8>);

pub(super) fn npy<T: WritableElement>(array: &ArrayD<T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).unwrap();
    bytes
}

fn rows(count: usize, width: usize) -> Vec<u8> {
    npy(&Array2::from_shape_fn((count, width), |(row, column)| (row * 10 + column) as f32).into_dyn())
}

pub(super) fn npz(arrays: &[(&str, Vec<u8>)], compression: CompressionMethod) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive
            .start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(compression))
            .unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An `.npz` with these arrays opened as a data set, and the folder that it lives in.
fn opened(arrays: &[(&str, Vec<u8>)], graph: &GraphProto) -> (TempDir, Result<Dataset>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.npz");
    std::fs::write(&path, npz(arrays, CompressionMethod::Stored)).unwrap();
    let dataset = Dataset::open(&path, graph);
    (folder, dataset)
}

fn refusal(arrays: &[(&str, Vec<u8>)], graph: &GraphProto) -> String {
    let error = opened(arrays, graph).1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.file().is_some(), "{error}");
    error.to_string()
}

fn read_all(dataset: &Dataset, size: usize) -> Vec<Batch> {
    dataset.batches(size).collect::<Result<_>>().unwrap()
}

#[test]
fn packed_and_plain_archives_hold_the_same_samples() {
    let labels = npy(&Array1::from_iter((0..10_i32).map(|i| i % 2)).into_dyn());
    let arrays = [("x", rows(10, 3)), ("labels", labels)];
    let folder = TempDir::new().unwrap();
    let graph = mlp().graph.unwrap();
    let mut hashes = Vec::new();
    for compression in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let path = folder.path().join("data.npz");
        std::fs::write(&path, npz(&arrays, compression)).unwrap();
        let dataset = Dataset::open(&path, &graph).unwrap();
        assert_eq!((dataset.samples(), dataset.has_labels(), dataset.warnings().len()), (10, true, 0));
        let batches = read_all(&dataset, 4);
        let shapes: Vec<&[usize]> = batches.iter().map(|batch| batch.inputs[0].1.shape()).collect();
        assert_eq!(shapes, [[4, 3], [4, 3], [2, 3]]);
        assert_eq!(batches[2].inputs[0].1.as_slice::<f32>().unwrap(), [80.0, 81.0, 82.0, 90.0, 91.0, 92.0]);
        assert_eq!(batches[2].labels, Some(Labels::Classes(vec![0, 1])));
        hashes.push(dataset.hash().to_owned());
    }
    assert_eq!((hashes[0].len(), &hashes[0]), (16, &hashes[1]));
    let (_folder, other) = opened(&[("x", rows(9, 3))], &graph);
    assert_ne!(other.unwrap().hash(), hashes[0]);
}

#[test]
fn a_range_gives_its_samples_only() {
    let (_folder, dataset) = opened(&[("x", rows(10, 3))], &mlp().graph.unwrap());
    let dataset = dataset.unwrap();
    let firsts: Vec<f32> =
        dataset.batches_of(3..8, 2).map(|batch| batch.unwrap().inputs[0].1.as_slice::<f32>().unwrap()[0]).collect();
    assert_eq!(firsts, [30.0, 50.0, 70.0]);
    assert_eq!(dataset.batches_of(3..8, 2).last().unwrap().unwrap().inputs[0].1.shape(), [1, 3]);
}

#[test]
fn numbers_are_cast_where_nothing_is_lost() {
    let ids = npy(&Array2::from_shape_fn((2, 3), |(row, column)| (row + column) as i32).into_dyn());
    let mask = npy(&Array::from_elem((2, 3, 1), 0.5_f64).into_dyn());
    let (_folder, dataset) = opened(&[("mask", mask), ("ids", ids)], &embedding().graph.unwrap());
    let dataset = dataset.unwrap();
    let batch = &read_all(&dataset, 8)[0];
    assert_eq!(batch.inputs[0].0, "ids");
    assert_eq!(batch.inputs[0].1.as_slice::<i64>().unwrap(), [0, 1, 2, 1, 2, 3]);
    assert_eq!(batch.inputs[1].1.as_slice::<f32>().unwrap(), [0.5; 6]);
}

#[test]
fn every_misfit_says_which_array_and_what_is_wanted() {
    let graph = mlp().graph.unwrap();
    let x = || ("x", rows(4, 3));
    let labels = |values: &[i64]| ("labels", npy(&Array1::from(values.to_vec()).into_dyn()));
    let mut broken = Array2::<f32>::zeros((100, 3));
    broken[[77, 1]] = f32::NAN;
    let cases: Vec<(Vec<NamedBytes>, &str)> = vec![
        (vec![("input", rows(4, 3))], "has no array for input 'x'; it has arrays input"),
        (vec![("x", rows(4, 5))], "array 'x' has shape [4, 5], the model wants [N, 3]"),
        (vec![("x", npy(&Array1::<f32>::zeros(3).into_dyn()))], "array 'x' has shape [3], the model wants [N, 3]"),
        (vec![("x", npy(&Array2::<i64>::zeros((4, 3)).into_dyn()))], "array 'x' is int64, the model wants Float"),
        (vec![("x", npy(&broken.into_dyn()))], "sample 77 of array 'x' contains NaN"),
        (vec![("x", rows(0, 3))], "there are no samples"),
        (vec![x(), labels(&[0, 1])], "array 'x' has 4 samples and array 'labels' has 2"),
        (vec![x(), labels(&[0, 1, 2, 1])], "the label of sample 2 is 2; classes are 0 to 1"),
        (vec![x(), labels(&[0, 1, -1, 1])], "the label of sample 2 is -1"),
        (
            vec![x(), ("labels", npy(&Array2::<i64>::zeros((4, 3)).into_dyn()))],
            "array 'labels' has shape [4, 3], one class for each sample is wanted",
        ),
        (vec![("x", b"no array at all".to_vec())], "array 'x' is not in NumPy's .npy format"),
        (vec![("x", rows(4, 3)[..140].to_vec())], "array 'x' of shape [4, 3] needs 48 bytes, the file has 12"),
    ];
    for (arrays, expected) in cases {
        let message = refusal(&arrays, &graph);
        assert!(message.contains(expected), "{message}\n{expected}");
    }
    let ids = ("ids", npy(&Array2::<i64>::zeros((2, 3)).into_dyn()));
    let mask = ("mask", npy(&Array::<f32, _>::zeros((2, 4, 1)).into_dyn()));
    let message = refusal(&[ids, mask], &embedding().graph.unwrap());
    assert!(message.contains("'length' is 3 in array 'ids' and 4 in array 'mask'"), "{message}");
}

#[test]
fn unused_arrays_and_labels_that_are_no_classes_are_told() {
    let scores = npy(&Array1::<f32>::zeros(4).into_dyn());
    let (_folder, dataset) =
        opened(&[("x", rows(4, 3)), ("extra", rows(1, 1)), ("labels", scores)], &mlp().graph.unwrap());
    let dataset = dataset.unwrap();
    assert!(!dataset.has_labels());
    assert_eq!(
        dataset.warnings(),
        [
            "array 'extra' is not used",
            "labels of type float32 and shape [4] are neither classes (integers) nor values of an output, and not used"
        ]
    );
}

#[test]
fn labels_of_all_files_are_of_one_kind() {
    let classes = npy(&Array1::<i64>::zeros(4).into_dyn());
    let values = npy(&Array2::<f32>::zeros((4, 2)).into_dyn());
    let files = [("a", Some(&classes)), ("b", Some(&values)), ("c", None)];
    for (left, right, problem) in
        [(0, 1, "labels are classes (integers) in some files"), (0, 2, "some files have labels")]
    {
        let folder = TempDir::new().unwrap();
        for index in [left, right] {
            let (name, labels) = files[index];
            let arrays: Vec<NamedBytes> =
                [("x", rows(4, 3))].into_iter().chain(labels.map(|labels| ("labels", labels.clone()))).collect();
            std::fs::write(folder.path().join(format!("{name}.npz")), npz(&arrays, CompressionMethod::Stored)).unwrap();
        }
        let error = Dataset::open(folder.path(), &mlp().graph.unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_fixed_batch_axis_gets_whole_batches() {
    let mut graph = mlp().graph.unwrap();
    graph.input[0] = tensor_value("x", DataType::Float, &["4", "3"]);
    let (_folder, dataset) = opened(&[("x", rows(10, 3))], &graph);
    let dataset = dataset.unwrap();
    assert_eq!(
        (dataset.samples(), dataset.warnings()),
        (8, &["2 samples are left over: the model runs 4 at a time".to_owned()][..])
    );
    assert!(read_all(&dataset, 3).iter().all(|batch| batch.inputs[0].1.shape() == [4, 3]));
    assert_eq!(dataset.batches_of(1..8, 1).count(), 1);
    assert!(refusal(&[("x", rows(3, 3))], &graph).contains("there are no samples: the model runs 4 at a time"));
}

#[test]
fn what_training_holds_out_is_left_out() {
    let graph = mlp().graph.unwrap();
    let labels = npy(&Array1::from_iter((0..25_i64).map(|n| n % 2)).into_dyn());
    let (_folder, dataset) = opened(&[("x", rows(25, 3)), ("labels", labels)], &graph);
    let dataset = dataset.unwrap();
    let numbers = |dataset: &Dataset, size| -> Vec<i64> {
        let batches = read_all(dataset, size);
        let numbers: Vec<i64> =
            batches.iter().flat_map(|b| b.inputs[0].1.to_vec::<i64>().unwrap()).step_by(3).map(|v| v / 10).collect();
        let classes = batches.iter().flat_map(|b| b.labels.as_ref().unwrap().classes().unwrap());
        assert!(classes.zip(&numbers).all(|(class, number)| *class == number % 2));
        numbers
    };
    let kept = dataset.without_held_out();
    assert_eq!(kept.samples(), 23);
    assert_eq!(numbers(&kept, 4), (0..25).filter(|n| !matches!(n, 9 | 19)).collect::<Vec<_>>());
    // Counted from the first sample of a part.
    assert_eq!(
        numbers(&dataset.part(5..25).without_held_out(), 64),
        (5..25).filter(|n| !matches!(n, 14 | 24)).collect::<Vec<_>>()
    );

    let mut graph = mlp().graph.unwrap();
    graph.input[0] = tensor_value("x", DataType::Float, &["2", "3"]);
    let labels = npy(&Array1::from_iter((0..24_i64).map(|n| n % 2)).into_dyn());
    let (_folder, dataset) = opened(&[("x", rows(24, 3)), ("labels", labels)], &graph);
    let kept = dataset.unwrap().without_held_out();
    assert_eq!(numbers(&kept, 2), (0..24).filter(|n| !matches!(n, 18 | 19)).collect::<Vec<_>>());
}

#[test]
fn each_file_of_a_directory_is_batched_by_itself() {
    let folder = TempDir::new().unwrap();
    for (name, count, length) in [("b", 3, 5), ("a", 2, 4)] {
        let ids = npy(&Array2::<i64>::from_elem((count, length), length as i64).into_dyn());
        let mask = npy(&Array::<f32, _>::ones((count, length, 1)).into_dyn());
        let bytes = npz(&[("ids", ids), ("mask", mask)], CompressionMethod::Deflated);
        std::fs::write(folder.path().join(format!("{name}.npz")), bytes).unwrap();
    }
    let dataset = Dataset::open(folder.path(), &embedding().graph.unwrap()).unwrap();
    let shapes: Vec<Vec<usize>> =
        read_all(&dataset, 2).iter().map(|batch| batch.inputs[0].1.shape().to_vec()).collect();
    assert_eq!(shapes, [vec![2, 4], vec![2, 5], vec![1, 5]]);
    assert_eq!(dataset.samples(), 5);

    std::fs::write(folder.path().join("c.npz"), npz(&[("ids", rows(2, 2))], CompressionMethod::Stored)).unwrap();
    let error = Dataset::open(folder.path(), &embedding().graph.unwrap()).unwrap_err();
    assert!(error.file().unwrap().ends_with("c.npz"), "{error}");
}

#[test]
fn a_single_npy_feeds_a_single_input() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("samples.npy");
    std::fs::write(&path, rows(5, 3)).unwrap();
    let dataset = Dataset::open(&path, &mlp().graph.unwrap()).unwrap();
    assert_eq!(read_all(&dataset, 2)[1].inputs[0].1.as_slice::<f32>().unwrap()[0], 20.0);
    let error = Dataset::open(&path, &embedding().graph.unwrap()).unwrap_err();
    assert!(error.to_string().contains("the model has inputs ids, mask; save an .npz"), "{error}");
}

#[test]
fn test_data_of_onnx_goes_by_name_or_in_order() {
    let folder = TempDir::new().unwrap();
    let set = folder.path().join("test_data_set_0");
    std::fs::create_dir(&set).unwrap();
    let ids = integers("", &[2, 3], &[1, 2, 3, 4, 5, 6]);
    std::fs::write(set.join("input_0.pb"), ids.encode_to_vec()).unwrap();
    std::fs::write(set.join("input_1.pb"), weight("mask", &[2, 3, 1], |_| 1.0).encode_to_vec()).unwrap();
    std::fs::write(set.join("output_0.pb"), b"ignored").unwrap();
    for path in [folder.path(), &set] {
        let dataset = Dataset::open(path, &embedding().graph.unwrap()).unwrap();
        let batches = read_all(&dataset, 1);
        assert_eq!((batches.len(), batches[1].inputs[0].1.as_slice::<i64>().unwrap()), (2, &[4, 5, 6][..]));
    }
    std::fs::write(set.join("input_1.pb"), weight("mask", &[2, 3], |_| 1.0).encode_to_vec()).unwrap();
    let error = Dataset::open(folder.path(), &embedding().graph.unwrap()).unwrap_err();
    assert!(error.to_string().contains("array 'mask' has shape [2, 3], the model wants [N, length, 1]"), "{error}");
}

#[test]
fn a_large_packed_array_is_read_from_a_temporary_file() {
    // 72 MB unpacked, above the 64 MB that are kept in memory.
    let count = 6_000_000;
    let mut samples = Array2::<f32>::zeros((count, 3));
    samples[[count - 1, 2]] = 7.0;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.npz");
    std::fs::write(&path, npz(&[("x", npy(&samples.into_dyn()))], CompressionMethod::Deflated)).unwrap();
    let dataset = Dataset::open(&path, &mlp().graph.unwrap()).unwrap();
    let last = dataset.batches_of(count - 1..count, 5).next().unwrap().unwrap();
    assert_eq!(last.inputs[0].1.as_slice::<f32>().unwrap(), [0.0, 0.0, 7.0]);
}

#[test]
fn damaged_archives_are_errors_at_every_cut() {
    let whole = npz(&[("x", rows(6, 3))], CompressionMethod::Deflated);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.npz");
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(Dataset::open(&path, &mlp().graph.unwrap()).unwrap_err().kind(), ErrorKind::Input, "{cut}");
    }
}

#[test]
fn a_header_that_claims_too_much_is_refused_without_allocating() {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 3), }\n";
    bytes.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend(header.as_bytes());
    let message = refusal(&[("x", bytes.clone())], &mlp().graph.unwrap());
    assert!(message.contains("needs 1199999999988 bytes, the file has 0"), "{message}");
    let deep = format!("{}\n", "(".repeat(60_000));
    let mut nested = b"\x93NUMPY\x01\x00".to_vec();
    nested.extend(u16::try_from(deep.len()).unwrap().to_le_bytes());
    nested.extend(deep.as_bytes());
    assert!(refusal(&[("x", nested)], &mlp().graph.unwrap()).contains("not in NumPy's .npy format"));
}

#[test]
fn made_up_samples_are_labelled_as_such_and_repeat() {
    let graph = mlp().graph.unwrap();
    let sample = |seed| Dataset::synthetic(&graph, &DimSizes::default(), 100, seed).unwrap();
    let dataset = sample(1);
    assert!(dataset.is_synthetic() && dataset.samples() == 100 && !dataset.has_labels());
    assert_eq!(dataset.hash(), sample(1).hash());
    assert_ne!(dataset.hash(), sample(2).hash());
    assert_eq!(read_all(&dataset, 30).len(), 4);
}

fn image_model(layout: &[&str]) -> GraphProto {
    let input = tensor_value("x", DataType::Float, layout);
    model(vec![input], vec![], vec![], vec![]).graph.unwrap()
}

#[test]
fn images_are_normalized_per_channel_in_either_layout() {
    let folder = TempDir::new().unwrap();
    RgbImage::from_pixel(2, 3, Rgb([255, 0, 51])).save(folder.path().join("a.png")).unwrap();
    RgbImage::from_pixel(5, 5, Rgb([0, 0, 0])).save(folder.path().join("b.png")).unwrap();
    let options = ImageOptions { mean: vec![0.5], std: vec![0.5, 0.25, 1.0], ..ImageOptions::default() };
    let dataset = Dataset::images(folder.path(), &image_model(&["n", "3", "3", "2"]), &options).unwrap();
    let batch = &read_all(&dataset, 2)[0].inputs[0].1;
    assert_eq!(batch.shape(), [2, 3, 3, 2]);
    let values = batch.as_slice::<f32>().unwrap();
    for (channel, expected) in [1.0_f32, -2.0, -0.3].into_iter().enumerate() {
        assert!(values[channel * 6..][..6].iter().all(|value| (value - expected).abs() < 1e-6), "{values:?}");
    }
    let options = ImageOptions { layout: Layout::Nhwc, ..options };
    let dataset = Dataset::images(folder.path(), &image_model(&["n", "3", "2", "3"]), &options).unwrap();
    let batch = &read_all(&dataset, 1)[0].inputs[0].1;
    assert_eq!(batch.shape(), [1, 3, 2, 3]);
    assert_eq!(batch.as_slice::<f32>().unwrap()[..2], [1.0, -2.0]);
}

#[test]
fn resize_scales_the_shorter_side_and_cuts_out_the_middle() {
    let folder = TempDir::new().unwrap();
    let column = |x: u32, _| if (4..8).contains(&x) { Rgb([255; 3]) } else { Rgb([0; 3]) };
    RgbImage::from_fn(12, 4, column).save(folder.path().join("wide.png")).unwrap();
    let options = ImageOptions { resize: Some(4), ..ImageOptions::default() };
    let dataset = Dataset::images(folder.path(), &image_model(&["n", "3", "h", "w"]), &options).unwrap();
    let image = &read_all(&dataset, 1)[0].inputs[0].1;
    assert_eq!(image.shape(), [1, 3, 4, 4]);
    assert!(image.as_slice::<f32>().unwrap().iter().all(|&value| value == 1.0));
}

#[test]
fn options_that_do_not_fit_the_input_are_usage_errors() {
    let folder = TempDir::new().unwrap();
    RgbImage::new(2, 2).save(folder.path().join("a.png")).unwrap();
    let refused = |graph: GraphProto, options: ImageOptions, expected: &str| {
        let error = Dataset::images(folder.path(), &graph, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let options = ImageOptions::default;
    refused(image_model(&["n", "4", "8", "8"]), options(), "images have 1 or 3 channels");
    refused(image_model(&["n", "3", "h", "w"]), options(), "pass `resize`");
    refused(image_model(&["n", "64"]), options(), "inputs of rank 4");
    refused(
        image_model(&["n", "3", "8", "8"]),
        ImageOptions { mean: vec![0.1, 0.2], ..options() },
        "`mean` has 2 numbers",
    );
    refused(embedding().graph.unwrap(), options(), "one input");
    let error = Dataset::open(folder.path(), &image_model(&["n", "3", "8", "8"])).unwrap_err();
    assert!(error.to_string().contains("use `images`"), "{error}");
}
