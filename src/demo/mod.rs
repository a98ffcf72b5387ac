//! x
pub mod check;
pub mod data;
pub mod meter;
pub mod plan;
