//! Placeholder doc of `replica`, replaced by its specification.
