//! `atlas demo`: a real day of a wind farm, replayed as signed operations.
//!
//! [`data`] holds the measurements. They are real; what a demonstration adds to them (commands, controllers,
//! interlocks) is the project's own and is said to be where it is shown.

pub mod data;
