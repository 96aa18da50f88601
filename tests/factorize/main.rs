//! Factorization of whole models, checked in tract.

mod budgets;
mod compose;
mod graphs;
mod layers;
