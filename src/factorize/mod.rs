//! Layers of a model, split into two low-rank ones.
//!
//! | module | does |
//! |---|---|
//! | [`candidates`] | finds the layers and says why others stay |
//! | [`decompose`] | the error of every rank of one layer |
//! | [`price`] | what each rank costs |
//! | [`select`] | the rank of each layer, from what the user asked for |
//! | [`resized`] | what ranks cost and lose once units of the layer are gone |
//! | [`rewrite`] | hands split layers to the rewriter |

pub mod candidates;
pub(crate) mod correct;
pub mod decompose;
pub(crate) mod inputs;
pub mod price;
pub(crate) mod resized;
pub mod rewrite;
pub mod select;
pub(crate) mod speed;

pub use crate::lowrank::conv::ConvMode;
pub use crate::lowrank::{ErrorCurve, LowRank};
pub use decompose::Method;
pub use select::Target;
