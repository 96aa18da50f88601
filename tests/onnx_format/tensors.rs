//! Views, slices and new tensors, for every element type.

use half::{bf16, f16};
use paredown::internals::onnx::proto::TensorProto;
use paredown::internals::onnx::proto::tensor_proto::DataType;
use paredown::internals::onnx::tensor::{self, ElementType, TensorView};
use proptest::prelude::*;

fn typed(kind: DataType, dims: &[i64]) -> TensorProto {
    TensorProto { name: Some("t".into()), dims: dims.to_vec(), data_type: Some(kind.into()), ..TensorProto::default() }
}

const EVERY_WRITABLE: [ElementType; 13] = [
    ElementType::Float,
    ElementType::Double,
    ElementType::Float16,
    ElementType::Bfloat16,
    ElementType::Int8,
    ElementType::Int16,
    ElementType::Int32,
    ElementType::Int64,
    ElementType::Uint8,
    ElementType::Uint16,
    ElementType::Uint32,
    ElementType::Uint64,
    ElementType::Bool,
];

/// Ones and zeros are exact in every type: a checkerboard of 2 × 3 × 4.
fn checkerboard() -> Vec<f64> {
    (0..24).map(|i| f64::from(u8::from(i % 3 == 0))).collect()
}

#[test]
fn every_type_is_sliced_in_its_own_type() {
    for element in EVERY_WRITABLE {
        let tensor = tensor::from_f64_as("w", &[2, 3, 4], &checkerboard(), element).unwrap();
        let taken = TensorView::new(&tensor).unwrap().take(1, &[2, 0]).unwrap();
        let view = TensorView::new(&taken).unwrap();
        assert_eq!((view.name(), view.element_type(), view.dims()), ("w", element, [2, 2, 4].as_slice()));
        let expected: Vec<f64> =
            [8..12, 0..4, 20..24, 12..16].into_iter().flat_map(|run| checkerboard()[run].to_vec()).collect();
        assert_eq!(view.to_f64().unwrap(), expected, "{element}");
    }
}

proptest! {
    /// Element by element: taken[o, k, i] = original[o, indices[k], i], for any shape and any indices.
    #[test]
    fn take_is_gather(dims in prop::collection::vec(1_usize..6, 1..4), seed in 0_usize..1000, width in 0_usize..3) {
        let axis = seed % dims.len();
        let indices: Vec<usize> = (0..seed % 7).map(|k| (seed / 7 + k * k) % dims[axis]).collect();
        let len: usize = dims.iter().product();
        let values: Vec<f64> = (0..len).map(|i| i as f64).collect();
        let element = [ElementType::Double, ElementType::Float, ElementType::Uint16][width];
        let tensor = tensor::from_f64_as("w", &dims, &values, element).unwrap();
        let taken = TensorView::new(&tensor).unwrap().take(axis, &indices).unwrap();
        let view = TensorView::new(&taken).unwrap();

        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let mut expected = Vec::new();
        for o in 0..outer {
            for &index in &indices {
                for i in 0..inner {
                    expected.push(values[(o * dims[axis] + index) * inner + i]);
                }
            }
        }
        prop_assert_eq!(view.to_f64().unwrap(), expected);
        prop_assert_eq!(view.dims()[axis], indices.len());
    }
}

#[test]
fn a_contiguous_slice_of_the_first_axis_is_not_copied() {
    let tensor = tensor::from_f32("w", &[4, 3], &[0.5; 12]).unwrap();
    let taken = TensorView::new(&tensor).unwrap().take(0, &[1, 2]).unwrap();
    let (whole, part) = (tensor.raw_data.unwrap(), taken.raw_data.unwrap());
    assert_eq!(part.as_ptr(), whole[12..].as_ptr());
    assert_eq!(part.len(), 24);
}

#[test]
fn take_keeps_metadata_and_refuses_what_it_cannot_do() {
    let mut tensor = tensor::from_f32("w", &[2, 3], &[0.0; 6]).unwrap();
    tensor.doc_string = Some("kept".into());
    let view = TensorView::new(&tensor).unwrap();
    assert_eq!(view.take(0, &[1]).unwrap().doc_string.as_deref(), Some("kept"));
    assert_eq!(view.take(1, &[]).unwrap().dims, [2, 0]);
    let error = |axis, indices: &[usize]| view.take(axis, indices).unwrap_err().to_string();
    assert_eq!(error(2, &[0]), "tensor 'w': has no axis 2, its rank is 2");
    assert_eq!(error(1, &[0, 3]), "tensor 'w': index 3 is beyond axis 1 of size 3");
    let packed = TensorProto { raw_data: Some(vec![0x21, 0x03].into()), ..typed(DataType::Int4, &[3]) };
    let error = TensorView::new(&packed).unwrap().take(0, &[0]).unwrap_err();
    assert_eq!(error.to_string(), "tensor 't': int4 elements are packed and cannot be sliced");
}

/// The typed fields hold the same numbers as raw data, each type in the field that the specification gives it.
#[test]
fn typed_fields_read_as_raw_data_does() {
    let half = |x: f32| i32::from(f16::from_f32(x).to_bits());
    let brain = |x: f32| i32::from(bf16::from_f32(x).to_bits());
    let cases = [
        (TensorProto { float_data: vec![1.5, -2.0], ..typed(DataType::Float, &[2]) }, vec![1.5, -2.0]),
        (TensorProto { double_data: vec![1e300, -2.0], ..typed(DataType::Double, &[2]) }, vec![1e300, -2.0]),
        (TensorProto { int32_data: vec![half(1.5), half(-2.0)], ..typed(DataType::Float16, &[2]) }, vec![1.5, -2.0]),
        (TensorProto { int32_data: vec![brain(1.5), brain(-2.0)], ..typed(DataType::Bfloat16, &[2]) }, vec![1.5, -2.0]),
        (TensorProto { int32_data: vec![-128, 127], ..typed(DataType::Int8, &[2]) }, vec![-128.0, 127.0]),
        (TensorProto { int32_data: vec![0, 255], ..typed(DataType::Uint8, &[2]) }, vec![0.0, 255.0]),
        (TensorProto { int32_data: vec![-32768, 5], ..typed(DataType::Int16, &[2]) }, vec![-32768.0, 5.0]),
        (TensorProto { int32_data: vec![65535, 5], ..typed(DataType::Uint16, &[2]) }, vec![65535.0, 5.0]),
        (TensorProto { int32_data: vec![i32::MIN, 5], ..typed(DataType::Int32, &[2]) }, vec![-2_147_483_648.0, 5.0]),
        (TensorProto { int32_data: vec![1, 0], ..typed(DataType::Bool, &[2]) }, vec![1.0, 0.0]),
        (
            TensorProto { int64_data: vec![-7, 1 << 40], ..typed(DataType::Int64, &[2]) },
            vec![-7.0, 1_099_511_627_776.0],
        ),
        (
            TensorProto { uint64_data: vec![4_294_967_295, 0], ..typed(DataType::Uint32, &[2]) },
            vec![4_294_967_295.0, 0.0],
        ),
        (
            TensorProto { uint64_data: vec![1 << 63, 0], ..typed(DataType::Uint64, &[2]) },
            vec![9_223_372_036_854_775_808.0, 0.0],
        ),
    ];
    for (tensor, expected) in cases {
        let view = TensorView::new(&tensor).unwrap();
        assert_eq!(view.to_f64().unwrap(), expected, "{}", view.element_type());
        let raw = TensorProto { raw_data: Some(view.bytes().clone()), ..typed(DataType::Float, &[2]) };
        let raw = TensorProto { data_type: tensor.data_type, ..raw };
        assert_eq!(TensorView::new(&raw).unwrap().to_f64().unwrap(), expected, "{} from bytes", view.element_type());
    }
}

/// Packed types: two 4-bit or four 2-bit elements an entry, one 6-bit element an entry.
#[test]
fn packed_types_have_the_bytes_of_the_specification() {
    let bytes = |tensor: &TensorProto| TensorView::new(tensor).unwrap().bytes().to_vec();
    assert_eq!(bytes(&TensorProto { int32_data: vec![0x21, 0x03], ..typed(DataType::Uint4, &[3]) }), [0x21, 0x03]);
    assert_eq!(bytes(&TensorProto { int32_data: vec![0b1110_0100], ..typed(DataType::Int2, &[4]) }), [0b1110_0100]);
    let codes = TensorProto { int32_data: vec![0x01, 0x3f, 0x2a, 0x15, 0x3f], ..typed(DataType::Float6e2m3, &[5]) };
    // byte0 = x0 | x1 << 6, byte1 = x1 >> 2 | x2 << 4, byte2 = x2 >> 4 | x3 << 2
    assert_eq!(bytes(&codes), [0xc1, 0xaf, 0x56, 0x3f]);
    let complex = TensorProto { float_data: vec![1.0, -1.0], ..typed(DataType::Complex64, &[1]) };
    assert_eq!(bytes(&complex).len(), 8);
    let error = TensorView::new(&complex).unwrap().to_f64().unwrap_err();
    assert_eq!(error.to_string(), "tensor 't': complex64 elements cannot be read here");
}

#[test]
fn strings_and_large_integers_are_refused_as_numbers() {
    let strings = TensorProto { string_data: vec!["a".into()], ..typed(DataType::String, &[1]) };
    assert!(tensor::check(&strings).is_ok());
    assert_eq!(TensorView::new(&strings).unwrap_err().to_string(), "tensor 't': holds strings, not numbers");
    let large = TensorProto { uint64_data: vec![u64::MAX], ..typed(DataType::Uint64, &[]) };
    let error = TensorView::new(&large).unwrap().to_i64().unwrap_err();
    assert_eq!(error.to_string(), "tensor 't': holds a value beyond the range of int64");
    let float = tensor::scalar_f32("t", 1.0);
    assert!(TensorView::new(&float).unwrap().to_i64().is_err(), "a float is no shape");
}

#[test]
fn numbers_are_rounded_to_nearest_and_checked_against_the_range() {
    let write = |values: &[f64], element| tensor::from_f64_as("w", &[values.len()], values, element);
    let read = |values: &[f64], element| TensorView::new(&write(values, element).unwrap()).unwrap().to_f64().unwrap();
    assert_eq!(read(&[0.5, 1.5, -0.5, -127.6], ElementType::Int8), [0.0, 2.0, 0.0, -128.0]);
    assert_eq!(read(&[2049.0, 65504.0], ElementType::Float16), [2048.0, 65504.0]);
    assert_eq!(read(&[1.0 + 1.0 / 512.0, 3e38], ElementType::Bfloat16)[0], 1.0);
    assert_eq!(write(&[128.0], ElementType::Int8).unwrap_err().to_string(), "tensor 'w': 128 is out of range for int8");
    assert!(write(&[f64::NAN], ElementType::Int64).is_err());
    assert!(write(&[-1.0], ElementType::Uint8).is_err());
    assert!(write(&[9.3e18], ElementType::Int64).is_err());
    assert!(write(&[1.0], ElementType::Int4).is_err());
    assert!(tensor::from_f32("w", &[2, 2], &[0.0; 3]).is_err());
    assert!(tensor::from_i64("w", &[], &[]).is_err());
}

#[test]
fn scalars_and_vectors_have_the_shapes_of_their_names() {
    let scalar = tensor::scalar_i64("s", -3);
    let vector = tensor::vector_i64("v", &[4, -1]);
    let real = tensor::scalar_f32("s", 0.1);
    let empty = tensor::vector_i64("v", &[]);
    let view = |tensor| TensorView::new(tensor).unwrap();
    assert_eq!((view(&scalar).dims(), view(&scalar).to_i64().unwrap()), ([].as_slice(), vec![-3]));
    assert_eq!((view(&vector).dims(), view(&vector).to_i64().unwrap()), ([2].as_slice(), vec![4, -1]));
    assert_eq!((view(&real).dims(), view(&real).to_f32().unwrap()), ([].as_slice(), vec![0.1]));
    assert!(view(&empty).is_empty());
}

/// A split layer took 11 ms instead of 0.3: an output of the layer was dead, and its factors subnormal.
#[test]
fn computed_weights_hold_no_numbers_whose_products_are_subnormal() {
    let values = [1e-45, -3e-39, 1e-31, 1e-29, -0.5];
    for (element, kept) in
        [(ElementType::Float, 1e-29_f32), (ElementType::Bfloat16, 1e-29), (ElementType::Float16, 0.0)]
    {
        let tensor = tensor::from_weights("w", &[5], &values, element).unwrap();
        let written = TensorView::new(&tensor).unwrap().to_f32().unwrap();
        assert_eq!(written[..3], [0.0; 3], "{element}");
        assert!((written[3] - kept).abs() <= kept / 100.0, "{element}: {written:?}");
        assert_eq!(written[4], -0.5, "{element}");
    }
}
