//! Placeholder doc of `ordering`, replaced by its specification.

pub mod batch;
