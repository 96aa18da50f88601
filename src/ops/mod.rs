//! Rules: how each operator's axes relate. [`Network::solve`] applies them to a whole graph.
//!
//! A new operator is one line in [`RULES`], and one small function where a row does not do.

mod attention;
mod contract;
mod demand;
mod equation;
mod harmless;
mod layout;
mod network;
mod recurrent;
mod reduce;
mod select;
mod site;
mod sizes;
mod table;

use crate::axes::Role;

pub(crate) use equation::Equation;
pub use harmless::HARMLESS;
pub use network::{Network, constant_values};
pub use site::{Contraction, Cut, Edit, Linear, Refusal, Relation, Site};
pub use sizes::{RuleShapes, output_extents};
pub use table::{RULES, Relate, Rule, rule};

/// `Conv`, or `com.microsoft.Attention`.
pub fn operator_name(domain: &str, op: &str) -> String {
    if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") }
}

/// Whether a factor may be pruned at all, and under `--allow-shifts`.
pub fn is_prunable(role: &Role, size: usize, allow_shifts: bool) -> bool {
    let allowed = match role {
        Role::Free => true,
        Role::Shifts(_) => allow_shifts,
        Role::Frozen(_) => false,
    };
    allowed && size > 1
}
