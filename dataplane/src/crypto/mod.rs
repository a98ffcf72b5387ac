//! Placeholder doc of `crypto`, replaced by its specification.
