//! Placeholder doc of `cluster`, replaced by its specification.
