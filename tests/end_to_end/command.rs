//! Runs the built program and looks at what it left behind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A file of the repository's `fixtures/`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The five trained networks.
pub(crate) const FIXTURES: [&str; 5] =
    ["digits_mlp.onnx", "digits_resnet.onnx", "digits_vit.onnx", "digits_nonneg.onnx", "digits_overfit.onnx"];

/// The program with its first arguments.
pub(crate) struct Run(Command);

impl Run {
    pub(crate) fn new(subcommand: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paredown"));
        command.arg(subcommand);
        Self(command)
    }

    /// The program under a shell that first does `preparation`, for instance sets a limit.
    #[cfg(unix)]
    pub(crate) fn after(preparation: &str, subcommand: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{preparation}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_paredown"), subcommand]);
        Self(command)
    }

    /// `prune MODEL -o OUT`.
    pub(crate) fn prune(model: &Path, out: &Path) -> Self {
        Self::new("prune").arg(model).arg("-o").arg(out)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// Arguments separated by white space.
    pub(crate) fn args(mut self, args: &str) -> Self {
        self.0.args(args.split_whitespace());
        self
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.0.env(key, value);
        self
    }

    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    pub(crate) fn stdout_to(mut self, file: std::fs::File) -> Self {
        self.0.stdout(file);
        self
    }

    /// Starts it, and does not wait.
    #[cfg(unix)]
    pub(crate) fn spawn(mut self) -> std::process::Child {
        self.0.spawn().unwrap()
    }

    /// Runs, and requires this exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Said {
        self.exits_one_of(&[code])
    }

    /// Runs, and requires one of these exit codes, and words unless all went well.
    #[track_caller]
    pub(crate) fn exits_one_of(mut self, codes: &[i32]) -> Said {
        let said = Said::from(self.0.output().unwrap());
        let code = said.code.unwrap_or(-1);
        assert!(codes.contains(&code), "{code} from {:?}\n{}\n{}", self.0, said.out, said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
        assert!(code == 0 || !said.err.is_empty(), "{:?} fails without a word", self.0);
        said
    }
}

/// What a run printed.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Requires an error message with each of these texts in it.
    #[track_caller]
    pub(crate) fn complains(self, texts: &[&str]) {
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is not in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
        assert_eq!(self.out, "", "errors go to standard error only");
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A folder of its own for one test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Names of all files in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A JSON file.
#[track_caller]
pub(crate) fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
