//! Placeholder doc of `sim`, replaced by its specification.
