//! Hashing.

pub mod hash;
