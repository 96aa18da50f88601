//! Whole jobs: hold out → analyse → score → decide → rewrite → repair → train → prove → report.

pub mod factorize;
pub mod prune;
