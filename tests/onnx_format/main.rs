//! The file format: what goes in comes out, and what is broken is refused.

mod attributes;
mod bad_input;
mod external_data;
mod round_trip;
mod samples;
mod saving;
mod tensors;
