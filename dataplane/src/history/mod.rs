//! Placeholder doc of `history`, replaced by its specification.
pub mod tree;
