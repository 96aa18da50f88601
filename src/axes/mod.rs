//! The axis algebra: every axis of every tensor is a sum of products of *factors*, sets of indices that
//! can be removed one by one. Operators contribute equations between axes; the [`Unifier`] solves them;
//! the coupled group of a factor is every axis that mentions it.
//!
//! ```
//! use paredown::internals::axes::{Extent, Selection, Solver, Unifier};
//!
//! // A convolution with 2 channels of 3×1 pixels, flattened into a Gemm with 6 inputs.
//! let mut unifier = Unifier::new();
//! let channels = unifier.factor(Extent::fixed(2));
//! let pixels = unifier.factor(Extent::fixed(3));
//! let flat = unifier.product(&[channels, pixels])?;
//! let gemm = unifier.factor(Extent::fixed(6));
//! unifier.unify(gemm, flat)?;
//!
//! let mut solver = Solver::new(&unifier);
//! let (channels, gemm) = (solver.expr(channels), solver.expr(gemm));
//! let solution = solver.finish();
//! let mut selection = Selection::all();
//! selection.keep(channels.factors()[0], vec![false, true]);
//! assert_eq!(solution.kept(&gemm, &selection), Some(vec![3, 4, 5]));
//! # Ok::<(), paredown::internals::axes::Misfit>(())
//! ```

mod extent;
mod notation;
mod role;
mod solution;
mod text;
mod unify;

pub use extent::{BINDINGS, Extent};
pub use notation::{Applied, NotationError, Row};
pub use role::{Reason, Role};
pub use solution::{Expr, Factor, FactorId, Selection, Solution, Solver};
pub use unify::{Misfit, Unifier, Var};
