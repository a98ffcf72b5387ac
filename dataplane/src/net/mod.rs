//! Placeholder doc of `net`, replaced by its specification.
