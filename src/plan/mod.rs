//! What to remove: prunable groups, what they cost, which of their units stay.
//!
//! A *unit* is a factor and one of its indices. A [`Plan`] is the kept indices of each group, by stable names; it can
//! be saved, edited by hand and replayed on another file of the same architecture.

mod align;
mod cost;
mod file;
mod groups;
pub mod knapsack;
mod patterns;
mod remaining;
mod select;
mod surface;

pub use align::{Align, Hardware, Misaligned};
pub use cost::{Cost, CostModel};
pub(crate) use cost::{Timed, nanos};
pub use file::{Plan, PlannedGroup};
pub use groups::{Filter, Group, Kind, Member, Units, groups};
pub use patterns::Patterns;
pub use remaining::Remaining;
pub(crate) use select::reachable;
pub use select::{Budget, Quota, Request, Scope, Scored, select};
pub(crate) use surface::Surface;
