//! Tensors in files beside the model: in, out, and every way in which a reference can be wrong.

use std::fs;
use std::path::Path;

use paredown::internals::onnx::proto::tensor_proto::DataLocation;
use paredown::internals::onnx::proto::{ModelProto, TensorProto};
use paredown::internals::onnx::{Model, SaveOptions, tensor};
use paredown::{Error, ErrorKind};
use prost::Message as _;

use crate::samples::{entry, everything, linear, ramp};

const EXTERNAL: SaveOptions = SaveOptions { external_data: true, force: false };

type Entries<'a> = &'a [(&'a str, &'a str)];

/// A model with one external tensor "outside" of shape [4].
fn referring(entries: Entries) -> ModelProto {
    let mut proto = linear(2, 2);
    proto.graph.as_mut().unwrap().initializer.push(TensorProto {
        raw_data: None,
        external_data: entries.iter().map(|(key, value)| entry(key, value)).collect(),
        data_location: Some(DataLocation::External.into()),
        ..tensor::from_f32("outside", &[4], &[0.0; 4]).unwrap()
    });
    proto
}

fn load(folder: &Path, proto: &ModelProto) -> Result<Model, Error> {
    let path = folder.join("model.onnx");
    fs::write(&path, proto.encode_to_vec()).unwrap();
    Model::load(&path)
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn last_initializer(model: &Model) -> &TensorProto {
    model.proto.graph.as_ref().unwrap().initializer.last().unwrap()
}

#[test]
fn a_reference_is_replaced_by_the_bytes_it_stands_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/weights"), little_endian(&ramp(8))).unwrap();
    let cases: [(Entries, &[f32]); 3] = [
        (&[("location", "sub/weights")], &ramp(8)[..4]),
        (&[("location", "./sub/weights"), ("offset", "16"), ("length", "16")], &ramp(8)[4..]),
        (&[("location", "sub/weights"), ("offset", "4"), ("checksum", "0")], &ramp(8)[1..5]),
    ];
    for (entries, expected) in cases {
        let model = load(folder.path(), &referring(entries)).unwrap();
        let tensor = last_initializer(&model);
        assert_eq!(tensor.raw_data.as_deref(), Some(little_endian(expected).as_slice()));
        assert!(tensor.external_data.is_empty() && tensor.data_location.is_none());
        assert!(model.used_external_data());
        assert_eq!(model.file_bytes(), referring(entries).encoded_len() as u64 + 32);
        assert_eq!(model.sources().len(), 2);
        assert_eq!(model.warnings, Vec::<String>::new());
    }
    assert!(!load(folder.path(), &linear(2, 2)).unwrap().used_external_data());
}

#[test]
fn wrong_references_are_refused_with_tensor_and_reason() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), [0; 64]).unwrap();
    let folder = outer.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("weights"), [0; 15]).unwrap();
    let absolute = outer.path().join("secret");
    let cases: [(Entries, &str); 14] = [
        (&[], "no location is given"),
        (&[("location", "")], "is not inside the model's folder"),
        (&[("location", ".")], "is not inside the model's folder"),
        (&[("location", "../secret")], "is not inside the model's folder"),
        (&[("location", "sub/../../secret")], "is not inside the model's folder"),
        (&[("location", "sub/../weights")], "is not inside the model's folder"),
        (&[("location", absolute.to_str().unwrap())], "is not inside the model's folder"),
        (&[("location", "a\0b")], "is not inside the model's folder"),
        (&[("location", "missing")], "missing: cannot be read: No such file"),
        (&[("location", "sub")], "is not a regular file"),
        (&[("location", "weights")], "16 bytes from offset 0 are needed, the file has only 15"),
        (&[("location", "weights"), ("offset", "18446744073709551615")], "the file has only 15"),
        (&[("location", "weights"), ("offset", "-1")], "offset '-1' is not a number of bytes"),
        (&[("location", "weights"), ("length", "15")], "shape [4] of float32 needs 16 bytes, length is 15"),
    ];
    for (entries, reason) in cases {
        let error = load(&folder, &referring(entries)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert_eq!(error.file(), Some(folder.join("model.onnx").as_path()));
        let message = error.to_string();
        assert!(message.contains("tensor 'outside': external data: ") && message.contains(reason), "{message}");
    }
    let encoded = referring(&[("location", "weights")]).encode_to_vec();
    let error = Model::from_bytes(encoded.into()).unwrap_err();
    assert!(error.to_string().contains("load it from its path"), "{error}");
}

/// A link inside the folder may not lead out of it, unless the model is itself a link into the same store, as in the
/// cache of a model hub.
#[cfg(unix)]
#[test]
fn links_may_not_leave_the_folder() {
    use std::os::unix::fs::symlink;
    let outer = tempfile::tempdir().unwrap();
    let (folder, store) = (outer.path().join("model"), outer.path().join("store"));
    fs::create_dir(&folder).unwrap();
    fs::create_dir(&store).unwrap();
    fs::write(store.join("blob"), [0; 16]).unwrap();
    symlink("../store/blob", folder.join("weights")).unwrap();
    let proto = referring(&[("location", "weights")]);
    let error = load(&folder, &proto).unwrap_err();
    assert!(error.to_string().contains("location 'weights' is not inside the model's folder"), "{error}");

    fs::write(store.join("model_blob"), proto.encode_to_vec()).unwrap();
    symlink("../store/model_blob", folder.join("linked.onnx")).unwrap();
    assert!(Model::load(folder.join("linked.onnx")).is_ok());

    fs::write(folder.join("inside"), [0; 16]).unwrap();
    symlink("inside", folder.join("link")).unwrap();
    assert!(load(&folder, &referring(&[("location", "link")])).is_ok());
}

/// Out to external data and in again gives the same model; so does another trip, back to one file.
#[test]
fn external_data_out_and_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let original = Model::from_proto(everything(1_000));
    let written = original.save(&at("m.onnx"), &EXTERNAL).unwrap();
    let sizes = fs::metadata(at("m.onnx")).unwrap().len() + fs::metadata(at("m.onnx.data")).unwrap().len();
    assert_eq!(written, sizes);

    let loaded = Model::load(at("m.onnx")).unwrap();
    assert!(loaded.used_external_data());
    assert_eq!(loaded.file_bytes(), sizes);
    assert!(loaded.proto == original.proto);

    loaded.save(&at("single.onnx"), &SaveOptions::default()).unwrap();
    assert!(fs::read(at("single.onnx")).unwrap() == original.proto.encode_to_vec());
    assert!(!at("single.onnx.data").exists());

    loaded.save(&at("again.onnx"), &EXTERNAL).unwrap();
    assert!(fs::read(at("again.onnx.data")).unwrap() == fs::read(at("m.onnx.data")).unwrap());
}

#[test]
fn large_initializers_go_out_on_page_boundaries_and_small_tensors_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let mut proto = linear(16, 16);
    let values = ramp(256);
    let initializers = &mut proto.graph.as_mut().unwrap().initializer;
    // In a typed field, not in raw_data: goes out all the same.
    initializers.push(TensorProto {
        raw_data: None,
        float_data: values.clone(),
        ..tensor::from_f32("typed", &[256], &values).unwrap()
    });
    Model::from_proto(proto).save(&path, &EXTERNAL).unwrap();

    let raw = ModelProto::decode(fs::read(&path).unwrap().as_slice()).unwrap();
    let [weight, bias, typed] = raw.graph.unwrap().initializer.try_into().unwrap();
    let entries =
        |offset: &str| vec![entry("location", "m.onnx.data"), entry("offset", offset), entry("length", "1024")];
    assert_eq!(weight.external_data, entries("0"));
    assert_eq!(typed.external_data, entries("4096"));
    assert_eq!((weight.raw_data, typed.float_data.len()), (None, 0));
    assert_eq!((bias.data_location, bias.raw_data.map(|raw| raw.len())), (None, Some(64)));
    assert_eq!(fs::metadata(folder.path().join("m.onnx.data")).unwrap().len(), 4096 + 1024);
    let loaded = Model::load(&path).unwrap();
    assert_eq!(last_initializer(&loaded).raw_data.as_deref(), Some(little_endian(&values).as_slice()));
}

#[test]
fn without_large_tensors_there_is_no_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    Model::from_proto(linear(2, 2)).save(&path, &EXTERNAL).unwrap();
    assert!(!folder.path().join("m.onnx.data").exists());
    assert!(Model::load(&path).unwrap().proto == linear(2, 2));
}
