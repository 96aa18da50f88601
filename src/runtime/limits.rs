//! How much memory a job may take, how much that leaves for each of its parts, and how much it took.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is taken to be available where the system does not tell.
const UNKNOWN: u64 = 8 << 30;

/// Largest budgets for what waits between stages, and for sums: the rest is left to other programs.
const PREFERRED_HELD: u64 = 1 << 30;
const PREFERRED_SUMS: u64 = 1 << 30;

/// Copies of the weights that a job holds: the model, the one it becomes, and those that tract runs.
const COPIES: u64 = 4;

/// What the program takes by itself, in bytes.
const PROGRAM: u64 = 64 << 20;

/// A budget of memory, on which everything that grows with data or weights draws.
///
/// The program and four copies of the weights come first, but take at most three quarters. Shares are of what they leave:
///
/// | part | share | at most |
/// |---|---|---|
/// | the values of one sample in one run of a model | all | |
/// | a batch: its values in all runs that are alive at a time | a quarter | 512 MiB, unless one sample is larger |
/// | activations that wait for the next stage | a quarter | 1 GiB |
/// | rows of the original that are recorded for the repair | an eighth | 1 GiB |
/// | sums of a pass over the data | an eighth | 1 GiB |
/// | what is solved at one time, beside its sums | a sixteenth | 512 MiB, unless one layer takes more |
///
/// The rest is for what has no part of its own: the samples, and what the allocator keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    bytes: u64,
    /// Bytes that are taken already.
    reserved: u64,
}

impl Default for Limits {
    /// Half of the memory that is available now.
    fn default() -> Self {
        Self::new(available(Path::new("/")).unwrap_or(UNKNOWN) / 2)
    }
}

impl Limits {
    /// A budget of this many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, reserved: 0 }
    }

    /// All of it, in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The same, less what the program takes and the copies of a model whose weights have `weights` bytes.
    pub(crate) fn beside(self, weights: u64) -> Self {
        Self { reserved: weights.saturating_mul(COPIES).saturating_add(PROGRAM), ..self }
    }

    /// Bytes for the parts: at least a quarter of the budget.
    fn left(self) -> u64 {
        self.bytes.saturating_sub(self.reserved).max(self.bytes / 4)
    }

    /// Bytes of activations that may wait for the next stage.
    pub fn held(self) -> u64 {
        (self.left() / 4).min(PREFERRED_HELD)
    }

    /// Bytes of rows that a pass over the data may record for the repair.
    pub(crate) fn recorded(self) -> u64 {
        (self.left() / 8).min(PREFERRED_HELD)
    }

    /// Bytes of sums that one pass over the data may accumulate.
    pub fn sums(self) -> u64 {
        (self.left() / 8).min(PREFERRED_SUMS)
    }

    /// Bytes of the values of batches that run or wait at one time.
    pub(crate) fn running(self) -> u64 {
        self.left() / 4
    }

    /// Gives freed memory back to the system, where this process takes more than half of the budget.
    pub(crate) fn relieve(self) {
        if taken_bytes().is_some_and(|taken| taken > self.bytes / 2) {
            release_memory();
        }
    }

    /// `items`, in order, in portions whose sums one pass over the data may accumulate. `bytes` are those that an item adds to
    /// a portion with these items. An item that is too large has a portion of its own.
    pub(crate) fn portions<T>(
        self,
        items: impl IntoIterator<Item = T>,
        bytes: impl Fn(&[T], &T) -> usize,
    ) -> Vec<Vec<T>> {
        Self::portioned(items, bytes, self.sums())
    }

    /// As [`portions`](Self::portions), of what may be solved side by side: `bytes` are those that it takes beside its sums, and
    /// all of a portion half of what sums take.
    pub(crate) fn solved_at_once<T>(
        self,
        items: impl IntoIterator<Item = T>,
        bytes: impl Fn(&T) -> usize,
    ) -> Vec<Vec<T>> {
        Self::portioned(items, |_, item| bytes(item), self.sums() / 2)
    }

    fn portioned<T>(items: impl IntoIterator<Item = T>, bytes: impl Fn(&[T], &T) -> usize, most: u64) -> Vec<Vec<T>> {
        let (mut portions, mut held): (Vec<Vec<T>>, usize) = (Vec::new(), 0);
        for item in items {
            let more = portions.last().map_or(0, |last| bytes(last, &item));
            match portions.last_mut() {
                Some(last) if (held + more) as u64 <= most => {
                    held += more;
                    last.push(item);
                }
                _ => {
                    held = bytes(&[], &item);
                    portions.push(vec![item]);
                }
            }
        }
        portions
    }

    /// Samples that run at once where one takes `each` bytes: at least one, and at most `most`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when one sample alone takes more than the budget, with the figure that is needed.
    pub fn batch(self, each: u64, most: usize) -> Result<usize> {
        if each > self.left() {
            return Err(self.exceeded("one sample", each));
        }
        Ok(usize::try_from(self.running() / each.max(1)).unwrap_or(usize::MAX).clamp(1, most.max(1)))
    }

    /// The refusal of `what`, which takes `needed` bytes.
    pub fn exceeded(self, what: &str, needed: u64) -> Error {
        Error::usage(format!(
            "{what} takes {} MB, the budget is {} MB; give at least {} MB with `memory`",
            megabytes(needed),
            megabytes(self.bytes),
            megabytes(needed.saturating_add(self.reserved))
        ))
    }
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// Most bytes of memory that this process has had at one time; `None` where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    field(&read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Bytes of memory that this process has now; `None` where the system does not tell.
fn taken_bytes() -> Option<u64> {
    field(&read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Gives freed memory back to the system, as far as the allocator can. The allocator of Linux keeps what is freed in pieces for
/// later: two models after one another would take the memory of both.
pub(crate) fn release_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> c_int;
        }

        // SAFETY: the function takes a number and changes nothing but free memory.
        unsafe { malloc_trim(0) };
    }
}

/// The figure after `name` in a text of lines such as `MemAvailable:  123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Bytes that this process may still take: what the machine has free, or its control groups allow. `root` is `/`.
fn available(root: &Path) -> Option<u64> {
    let free = read_to_string(root.join("proc/meminfo")).ok().and_then(|text| field(&text, "MemAvailable:"));
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    free.into_iter().chain(groups.lines().flat_map(|group| left_in(root, group))).min()
}

/// What is left in a control group and in those around it; `group` is a line of `/proc/self/cgroup`: `number:controllers:path`.
fn left_in(root: &Path, group: &str) -> Vec<u64> {
    let mut parts = group.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let is_second_version = controllers.is_empty();
    if !is_second_version && !controllers.split(',').any(|name| name == "memory") {
        return Vec::new();
    }
    let (mount, names) = if is_second_version {
        ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file "])
    } else {
        ("sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "])
    };
    let mount = root.join(mount);
    let own: PathBuf = mount.join(path.trim_start_matches('/'));
    own.ancestors().take_while(|folder| folder.starts_with(&mount)).filter_map(|folder| left(folder, names)).collect()
}

/// The limit of one control group less what it uses; files that are merely cached do not count.
fn left(folder: &Path, [limit, used, cached]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cached = statistics.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse::<u64>().ok());
    Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::TempDir::new().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn portions_hold_what_sums_may_take() {
        let limits = Limits::new(800);
        let portions = limits.portions([60, 40, 1, 200, 100, 7], |_, &bytes| bytes);
        assert_eq!(portions, [vec![60, 40], vec![1], vec![200], vec![100], vec![7]]);
        // What is there already takes nothing more.
        let shared = |items: &[usize], bytes: &usize| if items.contains(bytes) { 0 } else { *bytes };
        assert_eq!(limits.portions([60, 60, 40, 60, 50, 60], shared), [vec![60, 60, 40, 60], vec![50], vec![60]]);
        assert!(limits.portions(Vec::<usize>::new(), |_, &bytes| bytes).is_empty());
        assert_eq!(limits.solved_at_once([20, 30, 1], |&bytes| bytes), [vec![20, 30], vec![1]]);
    }

    const FREE: (&str, &str) = ("proc/meminfo", "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n");

    #[test]
    fn what_is_available_is_the_least_that_any_limit_leaves() {
        assert_eq!(available(system(&[FREE]).path()), Some(8000 * 1024));
        let second = [
            FREE,
            ("proc/self/cgroup", "0::/jobs/one\n"),
            ("sys/fs/cgroup/jobs/one/memory.max", "max\n"),
            ("sys/fs/cgroup/jobs/one/memory.current", "5\n"),
            ("sys/fs/cgroup/jobs/memory.max", "3000000\n"),
            ("sys/fs/cgroup/jobs/memory.current", "2500000\n"),
            ("sys/fs/cgroup/jobs/memory.stat", "anon 7\ninactive_file 500000\n"),
        ];
        assert_eq!(available(system(&second).path()), Some(1_000_000));
        let first = [
            FREE,
            ("proc/self/cgroup", "5:cpu:/a\n4:memory,hugetlb:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4000000"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000000"),
        ];
        assert_eq!(available(system(&first).path()), Some(3_000_000));
        assert_eq!(available(system(&[]).path()), None);
    }

    #[test]
    fn a_batch_fits_the_budget_and_one_sample_too_large_is_refused_with_the_figure() {
        let limits = Limits::new(1_000_000_000);
        assert_eq!(limits.batch(100_000_000, 32).unwrap(), 2);
        assert_eq!(limits.batch(1000, 32).unwrap(), 32);
        assert_eq!(limits.batch(900_000_000, 32).unwrap(), 1);
        let error = limits.batch(1_500_000_000, 32).unwrap_err();
        assert!(error.to_string().contains("takes 1500 MB, the budget is 1000 MB; give at least 1500 MB"), "{error}");
        // Beside the program and four copies of the weights there is less.
        let beside = limits.beside(100_000_000);
        assert_eq!((beside.bytes(), beside.batch(50_000_000, 32).unwrap()), (1_000_000_000, 2));
        let error = beside.batch(900_000_000, 32).unwrap_err();
        assert!(error.to_string().contains("takes 900 MB, the budget is 1000 MB; give at least 1368 MB"), "{error}");
    }

    #[test]
    fn the_peak_is_known_on_linux_and_not_less_than_what_is_held() {
        let held = vec![1_u8; 32 << 20];
        if cfg!(target_os = "linux") {
            assert!(peak_bytes().unwrap() > held.iter().map(|&byte| u64::from(byte)).sum());
        }
    }
}
