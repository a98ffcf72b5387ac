//! Placeholder doc of `wire`, replaced by its specification.
