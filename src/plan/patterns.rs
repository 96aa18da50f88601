//! `--include` and `--exclude`: which names the user means.

use glob::Pattern;

use crate::error::{Error, Result};

/// Names that match one of some patterns and none of others.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
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
        let is_one_of = |patterns: &[Pattern]| {
            names.clone().into_iter().any(|name| patterns.iter().any(|pattern| pattern.matches(name)))
        };
        if !self.include.is_empty() && !is_one_of(&self.include) {
            return Some("not matched by `include`");
        }
        is_one_of(&self.exclude).then_some("matched by `exclude`")
    }
}

fn globs(patterns: &[String]) -> Result<Vec<Pattern>> {
    let glob = |pattern: &String| {
        Pattern::new(pattern).map_err(|e| Error::usage(format!("'{pattern}' is not a pattern: {e}")))
    };
    patterns.iter().map(glob).collect()
}
