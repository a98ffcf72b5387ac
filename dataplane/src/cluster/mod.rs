//! Cluster.

pub mod size;
pub use size::Size;
