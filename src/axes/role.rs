//! What removing an index of a factor does to the network.

use std::fmt;
use std::sync::Arc;

/// Why a factor may not be pruned freely: the node that says so, and its reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason {
    /// Name of the node, graph input or graph output.
    pub node: Arc<str>,
    /// One clause, e.g. `graph output`.
    pub why: Arc<str>,
}

impl Reason {
    /// The reason `why`, given by `node`.
    pub fn new(node: impl Into<Arc<str>>, why: impl Into<Arc<str>>) -> Self {
        Self { node: node.into(), why: why.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.node, self.why)
    }
}

/// The strongest role that any operator gave a factor. Later variants are stronger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Role {
    /// Removal is exact: it equals the old network with that index masked where it is contracted.
    #[default]
    Free,
    /// Removal is legal, but a statistic over the axis moves.
    Shifts(Reason),
    /// Nothing may be removed.
    Frozen(Reason),
}

impl Role {
    /// The stronger of two roles; of equal ones, the first.
    pub fn strengthen(&mut self, other: &Role) {
        if other.rank() > self.rank() {
            *self = other.clone();
        }
    }

    /// Who gave the role, and why.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Role::Free => None,
            Role::Shifts(reason) | Role::Frozen(reason) => Some(reason),
        }
    }

    /// `free`, `shifts` or `frozen`.
    pub fn name(&self) -> &'static str {
        match self {
            Role::Free => "free",
            Role::Shifts(_) => "shifts",
            Role::Frozen(_) => "frozen",
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Role::Free => 0,
            Role::Shifts(_) => 1,
            Role::Frozen(_) => 2,
        }
    }
}
