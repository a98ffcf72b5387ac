//! Placeholder doc of `client`, replaced by its specification.
