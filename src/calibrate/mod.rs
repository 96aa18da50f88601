//! Calibration: reads data, runs models on it, accumulates statistics.

pub mod data;
