//! The plan file: kept indices by group name, readable and editable by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::select::{Request, Scored};
use crate::axes::Selection;
use crate::error::{Error, Result};
use crate::texts::write_text;

/// Version of the plan file that this program writes.
const VERSION: u32 = 1;

/// A plan: the units to keep in each group and the rank of each split layer, readable and editable by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Version of the file format.
    pub version: u32,
    /// The groups that lose units.
    pub groups: Vec<PlannedGroup>,
    /// Ranks of factorized layers, by node name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<String, usize>,
    /// Whether the kept weights were repaired or trained afterwards, so that the result no longer equals the masked
    /// original.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adjusted: bool,
    /// Graph inputs and outputs whose axes may be pruned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thaw: Vec<String>,
    /// Whether groups whose removal shifts a statistic may be pruned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_shifts: bool,
}

/// The planned units of one group: either the indices to keep, or the share to remove.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedGroup {
    /// Name of the group, as `inspect` shows it.
    pub name: String,
    /// Size of the group in the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Indices to keep, ascending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<usize>>,
    /// Share of the indices to remove, the least important first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Whether the indices are head dimensions in the basis computed from the data, ordered by importance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebased: bool,
}

impl Plan {
    /// The plan that `selection` carries out.
    pub(crate) fn of(groups: &[Group], selection: &Selection) -> Self {
        let planned = groups.iter().filter_map(|group| {
            let flags = selection.flags(group.factor)?;
            let kept = flags.iter().enumerate().filter_map(|(i, &keep)| keep.then_some(i)).collect();
            let size = Some(group.size);
            Some(PlannedGroup { name: group.name.clone(), size, kept: Some(kept), ratio: None, rebased: false })
        });
        Self { version: VERSION, groups: planned.collect(), ranks: BTreeMap::new(), ..Self::empty() }
    }

    /// The plan that changes nothing.
    pub(crate) fn empty() -> Self {
        Self {
            version: VERSION,
            groups: Vec::new(),
            ranks: BTreeMap::new(),
            adjusted: false,
            thaw: Vec::new(),
            allow_shifts: false,
        }
    }

    /// The same plan, with the groups that `is_rebased` counted in new bases of heads.
    #[must_use]
    pub fn rebased(mut self, is_rebased: impl Fn(&str) -> bool) -> Self {
        self.groups.iter_mut().for_each(|group| group.rebased = is_rebased(&group.name));
        self
    }

    /// A plan of ranks alone.
    #[doc(hidden)]
    pub fn of_ranks(ranks: BTreeMap<String, usize>) -> Self {
        Self { ranks, ..Self::empty() }
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if the file cannot be read or is not a plan of this version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::input(e.to_string()).in_file(path).caused_by(e))?;
        let plan: Self = serde_json::from_str(&text).map_err(|e| not_a_plan(e).in_file(path))?;
        if plan.version != VERSION {
            let message =
                format!("plan version {} is not supported; this program reads version {VERSION}", plan.version);
            return Err(Error::input(message).in_file(path));
        }
        Ok(plan)
    }

    /// Writes the plan to a file that [`load`](Self::load) reads.
    ///
    /// # Errors
    /// [`Output`](crate::ErrorKind::Output) if it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write_text(path.as_ref(), &self.to_text())
    }

    /// Formats the plan as JSON text, one group per line.
    pub fn to_text(&self) -> String {
        let groups: Vec<String> =
            self.groups.iter().map(|g| format!("    {}", serde_json::to_string(g).unwrap_or_default())).collect();
        let ranks = if self.ranks.is_empty() {
            String::new()
        } else {
            format!(",\n  \"ranks\": {}", serde_json::to_string(&self.ranks).unwrap_or_default())
        };
        let adjusted = if self.adjusted { ",\n  \"adjusted\": true" } else { "" };
        let thaw = if self.thaw.is_empty() {
            String::new()
        } else {
            format!(",\n  \"thaw\": {}", serde_json::to_string(&self.thaw).unwrap_or_default())
        };
        let shifts = if self.allow_shifts { ",\n  \"allow_shifts\": true" } else { "" };
        let (version, groups) = (self.version, groups.join(",\n"));
        format!("{{\n  \"version\": {version},\n  \"groups\": [\n{groups}\n  ]{ranks}{adjusted}{thaw}{shifts}\n}}\n")
    }

    /// Whether some group is given by a ratio, so that scores are needed to carry the plan out.
    pub(crate) fn needs_scores(&self) -> bool {
        self.groups.iter().any(|group| group.kept.is_none())
    }

    /// The selection that the plan describes, on a model with these groups.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) if a group is unknown, frozen, of another size, or would lose everything.
    pub(crate) fn selection(
        &self,
        groups: &[Group],
        scored: &[Scored<'_>],
        request: &Request,
        allow_shifts: bool,
    ) -> Result<Selection> {
        let mut selection = Selection::all();
        let mut seen = BTreeSet::new();
        for planned in &self.groups {
            let fail = |why: String| Error::input(format!("group '{}' of the plan: {why}", planned.name));
            if !seen.insert(&planned.name) {
                return Err(fail("it is named twice".to_owned()));
            }
            let group = groups.iter().find(|group| group.name == planned.name);
            let group =
                group.ok_or_else(|| fail("the model has no such group; `paredown inspect` lists them".to_owned()))?;
            if planned.size.is_some_and(|size| size != group.size) {
                return Err(fail(format!("its size is {}, not {}", group.size, planned.size.unwrap_or(0))));
            }
            let allowed = crate::ops::is_prunable(&group.role, group.size, allow_shifts);
            if !allowed {
                let reason = group.role.reason().map_or_else(|| "it has one index".to_owned(), ToString::to_string);
                return Err(fail(format!("it is {} ({reason})", group.role.name())));
            }
            let flags = match (&planned.kept, planned.ratio) {
                (Some(kept), None) => flags_of(kept, group.size).map_err(fail)?,
                (None, Some(ratio)) if (0.0..1.0).contains(&ratio) => {
                    let scored = scored.iter().find(|s| s.group.factor == group.factor);
                    let scored = scored.ok_or_else(|| fail(group.excluded.clone().unwrap_or_default()))?;
                    super::select::flags_by_ratio(scored, ratio, request)
                }
                (None, Some(ratio)) => return Err(fail(format!("ratio {ratio} is not in 0..1"))),
                _ => return Err(fail("give either 'kept' or 'ratio'".to_owned())),
            };
            selection.keep(group.factor, flags);
        }
        Ok(selection)
    }
}

fn not_a_plan(error: serde_json::Error) -> Error {
    Error::input(format!("this is not a plan: {error}")).caused_by(error)
}

fn flags_of(kept: &[usize], size: usize) -> Result<Vec<bool>, String> {
    let mut flags = vec![false; size];
    for &index in kept {
        let flag = flags.get_mut(index).ok_or_else(|| format!("index {index} is out of range for size {size}"))?;
        if std::mem::replace(flag, true) {
            return Err(format!("index {index} is kept twice"));
        }
    }
    if kept.is_empty() { Err("at least one index must be kept".to_owned()) } else { Ok(flags) }
}
