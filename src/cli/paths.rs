//! Which files a run reads and writes: none may be two of them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::texts::folder;

/// Refuses to write an output over samples, a plan or a teacher that are read, and a plan or a report over anything else of
/// this run or into a folder that is not there: before any work is done. `written` are options and where they write to. (An
/// output over the model itself is the model's own affair.)
pub(super) fn check_paths<'a>(
    model: &'a Path,
    read: impl IntoIterator<Item = &'a Path>,
    output: Option<&'a Path>,
    written: &[(&str, Option<&Path>)],
) -> Result<()> {
    let mut taken: Vec<PathBuf> = read.into_iter().map(entry).collect();
    if let Some(output) = output
        && taken.contains(&entry(output))
    {
        return Err(Error::usage(format!("--output {}: this run reads that file", output.display())));
    }
    taken.extend([model].into_iter().chain(output).map(entry));
    for &(option, path) in written {
        let Some(path) = path else { continue };
        let entry = entry(path);
        if taken.contains(&entry) {
            return Err(Error::usage(format!(
                "{option} {}: this run reads or writes that file already",
                path.display()
            )));
        }
        taken.push(entry);
        if !folder(path).is_dir() {
            return Err(Error::output(format!("{option}: its folder does not exist")).in_file(path));
        }
    }
    Ok(())
}

/// The directory entry that a path names, whether or not there is a file yet.
fn entry(path: &Path) -> PathBuf {
    let folder = folder(path);
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    path.file_name().map_or(folder.clone(), |name| folder.join(name))
}
