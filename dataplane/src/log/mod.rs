//! Placeholder doc of `log`, replaced by its specification.
