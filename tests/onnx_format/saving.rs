//! An output appears complete or not at all, and nothing that was there before is lost.

use std::fs;
use std::path::Path;

use paredown::internals::onnx::{Model, SaveOptions};
use paredown::{Error, ErrorKind};
use prost::Message as _;

use crate::samples::{everything, linear};

const KEEP: SaveOptions = SaveOptions { external_data: false, force: false };
const FORCE: SaveOptions = SaveOptions { external_data: false, force: true };
const EXTERNAL: SaveOptions = SaveOptions { external_data: true, force: false };
const FORCE_EXTERNAL: SaveOptions = SaveOptions { external_data: true, force: true };

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn refuse(model: &Model, path: &Path, options: SaveOptions, kind: ErrorKind, reason: &str) {
    let error: Error = model.save(path, &options).expect_err(reason);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn an_existing_file_needs_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.onnx");
    fs::write(&path, "precious").unwrap();
    let model = Model::from_proto(linear(2, 2));
    refuse(&model, &path, KEEP, ErrorKind::Output, "exists already; pass `force`");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    model.save(&path, &FORCE).unwrap();
    assert!(fs::read(&path).unwrap() == linear(2, 2).encode_to_vec());
    assert_eq!(names(folder.path()), ["out.onnx"]);
}

#[test]
fn an_existing_data_file_needs_force_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.onnx");
    let data = folder.path().join("out.onnx.data");
    fs::write(&data, "precious").unwrap();
    let model = Model::from_proto(linear(64, 64));
    refuse(&model, &path, EXTERNAL, ErrorKind::Output, "out.onnx.data: exists already");
    assert_eq!(names(folder.path()), ["out.onnx.data"]);
    assert_eq!(fs::read(&data).unwrap(), b"precious");
    model.save(&path, &FORCE_EXTERNAL).unwrap();
    assert_eq!(names(folder.path()), ["out.onnx", "out.onnx.data"]);
    assert!(Model::load(&path).unwrap().proto == linear(64, 64));
}

/// Even with force, and under another name for the same file; the external files of the input are inputs as well.
#[test]
fn inputs_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    Model::from_proto(linear(64, 64)).save(&at("in.onnx"), &EXTERNAL).unwrap();
    let before = (fs::read(at("in.onnx")).unwrap(), fs::read(at("in.onnx.data")).unwrap());
    let model = Model::load(at("in.onnx")).unwrap();
    let rewritten = model.with_proto(linear(8, 8));
    fs::create_dir(at("sub")).unwrap();
    refuse(&rewritten, &at("in.onnx"), FORCE, ErrorKind::Usage, "is the input");
    refuse(&rewritten, &at("sub/../in.onnx"), FORCE, ErrorKind::Usage, "is the input");
    refuse(&rewritten, &at("in.onnx.data"), FORCE, ErrorKind::Usage, "is the input");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("in.onnx", at("link.onnx")).unwrap();
        fs::hard_link(at("in.onnx"), at("twin.onnx")).unwrap();
        refuse(&model, &at("link.onnx"), FORCE, ErrorKind::Usage, "is the input");
        refuse(&model, &at("twin.onnx"), FORCE, ErrorKind::Usage, "is the input");
    }
    assert!(before == (fs::read(at("in.onnx")).unwrap(), fs::read(at("in.onnx.data")).unwrap()));
}

#[test]
fn places_that_cannot_be_written_are_output_errors() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::from_proto(linear(2, 2));
    let missing = folder.path().join("missing/out.onnx");
    refuse(&model, &missing, KEEP, ErrorKind::Output, "the folder does not exist");
    refuse(&model, folder.path(), FORCE, ErrorKind::Output, "exists and is not a regular file");
    refuse(&model, Path::new("/"), FORCE, ErrorKind::Output, "is not the name of a file");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

/// Renaming over a device would replace it: `-o /dev/null` run by an administrator must not.
#[cfg(unix)]
#[test]
fn devices_and_dangling_links_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::from_proto(linear(2, 2));
    refuse(&model, Path::new("/dev/null"), FORCE, ErrorKind::Output, "not a regular file");
    let link = folder.path().join("link.onnx");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    refuse(&model, &link, FORCE, ErrorKind::Output, "is a broken link");
}

/// Not even an administrator can create a file in `/proc`.
#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_folder_is_an_output_error() {
    let model = Model::from_proto(linear(2, 2));
    refuse(&model, Path::new("/proc/out.onnx"), KEEP, ErrorKind::Output, "/proc/out.onnx: cannot be written");
}

/// A full disk, played by a limit on the size of files, which this test sets on a second run of itself.
#[cfg(target_os = "linux")]
#[test]
fn a_failing_write_leaves_nothing_behind() {
    const FOLDER: &str = "PAREDOWN_TEST_LIMITED_FOLDER";
    let model = Model::from_proto(linear(64, 64));
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        refuse(&model, &folder.join("old.onnx"), FORCE, ErrorKind::Output, "cannot be written: File too large");
        refuse(&model, &folder.join("new.onnx"), KEEP, ErrorKind::Output, "cannot be written: File too large");
        refuse(&model, &folder.join("new.onnx"), EXTERNAL, ErrorKind::Output, "cannot be written: File too large");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.onnx"), "precious").unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$0\" --exact saving::a_failing_write_leaves_nothing_behind"])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        // The limit holds for a log file that standard output may lead to, as well.
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(names(folder.path()), ["old.onnx"]);
    assert_eq!(fs::read(folder.path().join("old.onnx")).unwrap(), b"precious");
}

#[cfg(unix)]
#[test]
fn links_stay_links_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = Model::from_proto(linear(2, 2));
    fs::write(at("real.onnx"), "old").unwrap();
    fs::set_permissions(at("real.onnx"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.onnx", at("link.onnx")).unwrap();
    model.save(&at("link.onnx"), &FORCE).unwrap();
    assert!(at("link.onnx").is_symlink());
    assert!(fs::read(at("real.onnx")).unwrap() == linear(2, 2).encode_to_vec());
    assert_eq!(fs::metadata(at("real.onnx")).unwrap().permissions().mode() & 0o777, 0o640);

    model.save(&at("new.onnx"), &KEEP).unwrap();
    fs::write(at("plain"), "as any program creates it").unwrap();
    let mode = |name: &str| fs::metadata(at(name)).unwrap().permissions().mode();
    assert_eq!(mode("new.onnx"), mode("plain"));
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = Model::from_proto(everything(2_000));
    for name in ["a", "b"] {
        fs::create_dir(at(name)).unwrap();
        model.save(&at(name).join("m.onnx"), &EXTERNAL).unwrap();
    }
    for file in ["m.onnx", "m.onnx.data"] {
        assert!(fs::read(at("a").join(file)).unwrap() == fs::read(at("b").join(file)).unwrap(), "{file}");
    }
}
