//! Broken files: a clear error or a correct model, never a panic, never memory out of proportion.

use bytes::Bytes;
use paredown::internals::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use paredown::internals::onnx::{Model, tensor};
use paredown::{Error, ErrorKind};
use prost::Message as _;

use crate::samples::{everything, linear, segmented};

fn refuse(bytes: impl Into<Bytes>) -> Error {
    let error = Model::from_bytes(bytes.into()).expect_err("the model should be refused");
    assert_eq!(error.kind(), ErrorKind::Input);
    error
}

fn refuse_tensor(tensor: TensorProto) -> String {
    let mut proto = linear(2, 2);
    proto.graph.as_mut().unwrap().initializer.push(tensor);
    refuse(proto.encode_to_vec()).to_string()
}

#[test]
fn files_that_are_no_models_are_named_for_what_they_are() {
    assert_eq!(refuse(Bytes::new()).to_string(), "is empty");
    assert_eq!(refuse("Hello, this is a text.\n").to_string(), "is a text file, not an ONNX model");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    assert!(refuse(pointer).to_string().contains("git lfs pull"));
    let no_graph = ModelProto { graph: None, ..linear(2, 2) };
    assert_eq!(refuse(no_graph.encode_to_vec()).to_string(), "not an ONNX model: it holds no graph");
    let error = Model::load("/nowhere/model.onnx").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().starts_with("/nowhere/model.onnx: cannot be read"), "{error}");
}

/// The end of the encoding is the operator set, without which a model means nothing.
#[test]
fn a_file_cut_anywhere_is_refused() {
    let encoded = Bytes::from(linear(16, 16).encode_to_vec());
    for cut in 0..200 {
        let end = encoded.len() * cut / 200;
        assert_eq!(refuse(encoded.slice(..end)).kind(), ErrorKind::Input, "cut at {end}");
    }
}

#[test]
fn a_file_with_every_field_cut_anywhere_does_not_panic() {
    let encoded = Bytes::from(everything(3).encode_to_vec());
    for end in 0..encoded.len() {
        let _ = Model::from_bytes(encoded.slice(..end));
    }
}

#[test]
fn flipped_bits_are_refused_or_harmless() {
    let encoded = everything(3).encode_to_vec();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut refused = 0;
    for _ in 0..2_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bit = (state >> 20) as usize % (encoded.len() * 8);
        let mut flipped = encoded.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match Model::from_bytes(flipped.into()) {
            Ok(model) => assert!(model.proto.encoded_len() <= 2 * encoded.len()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Input);
                refused += 1;
            }
        }
    }
    assert!(refused > 200, "flips in lengths and keys must be noticed, {refused} were");
}

/// Two bytes of file stand for an empty node of hundreds of bytes in memory.
#[test]
fn a_file_of_empty_messages_is_refused_before_memory_is_taken() {
    let nodes = 8_000_000;
    let body: Vec<u8> = [0x0a, 0x00].into_iter().cycle().take(2 * nodes).collect();
    let mut encoded = vec![0x3a];
    prost::encode_length_delimiter(body.len(), &mut encoded).unwrap();
    encoded.extend(body);
    assert!(refuse(encoded).to_string().contains("8000002 messages are too many for 16000005 bytes of file"));
}

/// Subgraphs in subgraphs: past the depth that the decoder accepts it must refuse, not overflow the stack.
#[test]
fn deep_nesting_is_refused() {
    let nest = |depth: usize| {
        let mut graph = GraphProto::default();
        for _ in 0..depth {
            let attribute = AttributeProto { g: Some(graph), ..AttributeProto::default() };
            let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
            graph = GraphProto { node: vec![node], ..GraphProto::default() };
        }
        ModelProto { graph: Some(graph), ..linear(1, 1) }.encode_to_vec()
    };
    assert!(Model::from_bytes(nest(30).into()).is_ok());
    assert_eq!(refuse(nest(40)).to_string(), "messages are nested more than 100 deep");
    let groups = vec![0x0b; 1_000_000]; // start of group 1, never ended
    assert_eq!(refuse(groups).to_string(), "messages are nested more than 100 deep");
}

/// A group that does end is an unknown field like any other.
#[test]
fn groups_are_skipped() {
    let mut encoded = linear(2, 2).encode_to_vec();
    encoded.extend([0xfb, 0x3e, 0x08, 0x01, 0x13, 0x14, 0xfc, 0x3e]); // group 1007 {1: 1, group 2 {}}
    let model = Model::from_bytes(encoded.into()).unwrap();
    assert_eq!(model.warnings.len(), 1, "{:?}", model.warnings);
}

#[test]
fn tensors_that_contradict_themselves_are_refused_by_name() {
    let good = || tensor::from_f32("bad", &[2, 3], &[0.0; 6]).unwrap();
    let cases = [
        (TensorProto { dims: vec![-2, -3], ..good() }, "shape [-2, -3] has a negative dimension"),
        (TensorProto { dims: vec![2, 4], ..good() }, "shape [2, 4] of float32 needs 32 bytes, found 24"),
        (TensorProto { data_type: Some(11), ..good() }, "shape [2, 3] of float64 needs 48 bytes, found 24"),
        (TensorProto { data_type: Some(0), ..good() }, "unknown element type 0"),
        (TensorProto { data_type: None, ..good() }, "unknown element type 0"),
        (TensorProto { data_type: Some(99), ..good() }, "unknown element type 99"),
        (
            TensorProto { data_type: Some(8), ..good() },
            "holds strings in raw_data, where the format does not allow them",
        ),
        (TensorProto { raw_data: None, ..good() }, "shape [2, 3] of float32 needs 6 values, found 0"),
        (
            TensorProto { dims: vec![i64::MAX, i64::MAX], ..good() },
            "shape [9223372036854775807, 9223372036854775807] has more elements than memory can hold",
        ),
        (
            TensorProto { dims: vec![0, 1 << 40, 1 << 40], raw_data: None, ..good() },
            "shape [0, 1099511627776, 1099511627776] has more elements than memory can hold",
        ),
        (
            TensorProto { dims: vec![1 << 59, 2], ..good() },
            "shape [576460752303423488, 2] has more elements than memory can hold",
        ),
    ];
    for (tensor, reason) in cases {
        assert_eq!(refuse_tensor(tensor), format!("tensor 'bad': {reason}"));
    }
    assert_eq!(refuse_tensor(segmented()), "tensor 'segmented': is stored in segments, which is not supported");
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    let mut proto = linear(2, 2);
    proto.graph.as_mut().unwrap().node[0].name = Some("NODENAME".to_owned());
    let mut encoded = proto.encode_to_vec();
    let at = encoded.windows(8).position(|window| window == b"NODENAME").unwrap();
    encoded[at] = 0xff;
    let error = refuse(encoded).to_string();
    assert!(error.contains("NodeProto.name") && error.contains("UTF-8"), "{error}");
}
