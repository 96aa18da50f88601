//! Gradients against central differences, forward values against tract.

mod case;
mod every_operator;
mod forward;
mod shapes;
