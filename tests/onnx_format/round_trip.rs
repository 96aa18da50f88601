//! Loading and saving unchanged keeps every message, every field and the presence of every field.

use std::path::Path;

use bytes::Bytes;
use paredown::internals::onnx::{Model, SaveOptions};
use prost::Message as _;

use crate::samples::{everything, linear};

/// Loads `path`, saves it elsewhere, and returns both encodings (canonical, so that they are comparable).
fn load_and_save(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.onnx");
    let model = Model::load(path).unwrap();
    let written = model.save(&saved, &SaveOptions::default()).unwrap();
    let bytes = std::fs::read(&saved).unwrap();
    assert_eq!(written, bytes.len() as u64);
    (model.proto.encode_to_vec(), bytes)
}

/// Small messages are encoded as a whole and big ones are taken apart: both must be what `prost` writes.
#[test]
fn every_field_comes_out_as_it_went_in() {
    let folder = tempfile::tempdir().unwrap();
    for len in [1, 100, 5_000, 20_000] {
        let proto = everything(len);
        let path = folder.path().join(format!("{len}.onnx"));
        let encoded = proto.encode_to_vec();
        std::fs::write(&path, &encoded).unwrap();
        let model = Model::load(&path).unwrap();
        assert_eq!(model.warnings, Vec::<String>::new());
        assert!(model.proto == proto, "loaded model of {len} differs");
        let (_, saved) = load_and_save(&path);
        assert!(saved == encoded, "saved model of {len} differs from what prost writes");
    }
}

#[test]
fn absent_and_default_stay_different() {
    let mut proto = linear(2, 2);
    proto.doc_string = Some(String::new());
    proto.model_version = None;
    let model = Model::from_bytes(proto.encode_to_vec().into()).unwrap();
    assert_eq!(model.proto.doc_string, Some(String::new()));
    assert_eq!(model.proto.model_version, None);
    assert_eq!(model.proto.domain, None);
}

#[test]
fn fixtures_come_out_unchanged() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let models: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "onnx")).collect();
    assert!(models.len() >= 3, "the networks on handwritten digits are missing");
    for path in models {
        let (loaded, saved) = load_and_save(&path);
        assert!(loaded == saved, "{}", path.display());
        assert!(saved == std::fs::read(&path).unwrap(), "{} is not canonical", path.display());
    }
}

/// Weights must not be copied: the initializer's bytes lie inside the buffer that was decoded.
#[test]
fn weights_are_slices_of_the_buffer() {
    let buffer = Bytes::from(linear(64, 64).encode_to_vec());
    let model = Model::from_bytes(buffer.clone()).unwrap();
    let graph = model.proto.graph.as_ref().unwrap();
    let weight = graph.initializer[0].raw_data.as_ref().unwrap();
    assert!(buffer.as_ptr_range().contains(&weight.as_ptr()));
    assert_eq!(weight.len(), 64 * 64 * 4);
}

/// A field of a later version of the format cannot be kept; the user is told which, and how often.
#[test]
fn unknown_fields_are_reported() {
    let mut encoded = linear(2, 2).encode_to_vec();
    encoded.extend([0xfa, 0x3e, 2, b'h', b'i']); // field 1007, two bytes
    encoded.extend([0xf8, 0x3e, 1]); // field 1007 as a varint
    encoded.extend([0x3a, 4, 0x98, 0x06, 0x96, 0x01]); // another part of `graph` with field 99
    let model = Model::from_bytes(encoded.into()).unwrap();
    let expected = [
        "field 99 of GraphProto is unknown to this version and dropped (found 1 times)",
        "field 1007 of ModelProto is unknown to this version and dropped (found 2 times)",
    ];
    assert_eq!(model.warnings, expected);
}

#[test]
fn a_newer_ir_version_is_reported() {
    let mut proto = linear(2, 2);
    proto.ir_version = Some(99);
    let model = Model::from_bytes(proto.encode_to_vec().into()).unwrap();
    assert_eq!(model.warnings, ["IR version 99 is newer than 14, the newest that this version knows"]);
}

#[test]
fn opsets_are_found_by_domain() {
    let model = Model::from_proto(everything(1));
    assert_eq!(model.opset(""), Some(21));
    assert_eq!(model.opset("ai.onnx"), Some(21));
    assert_eq!(model.opset("com.example.unknown"), Some(3));
    assert_eq!(model.opset("ai.onnx.ml"), None);
}
