//! Placeholder doc of `execution`, replaced by its specification.
