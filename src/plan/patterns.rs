//! `--include` and `--exclude`: which names the user means.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::error::{Error, Result};

/// Names that match one of some patterns and none of others.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Patterns {
    /// Names that match one of `include` (all, if empty) and none of `exclude`; `*` and `?` match anything.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if a pattern is malformed.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self { include: globs(include)?, exclude: globs(exclude)? })
    }

    /// Why something with these names is left out, if it is: it is meant if one of its names is.
    pub fn refusal<'n>(&self, names: impl IntoIterator<Item = &'n str> + Clone) -> Option<&'static str> {
        let matches = |set: &GlobSet| names.clone().into_iter().any(|name| set.is_match(name));
        if self.include.as_ref().is_some_and(|set| !matches(set)) {
            return Some("not matched by `include`");
        }
        self.exclude.as_ref().is_some_and(matches).then_some("matched by `exclude`")
    }
}

fn globs(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|e| Error::usage(format!("'{pattern}' is not a pattern: {e}")))?);
    }
    set.build().map(Some).map_err(|e| Error::usage(e.to_string()))
}
