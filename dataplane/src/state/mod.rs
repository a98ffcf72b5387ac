//! Placeholder doc of `state`, replaced by its specification.
