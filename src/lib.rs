//! Atlas: a Byzantine-fault-tolerant store of digital twins, and the commands that run and measure it.

pub mod bench;
pub mod cli;
pub mod demo;
pub mod local;
pub mod twin;
