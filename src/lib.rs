//! Atlas: Byzantine-fault-tolerant state of digital twins.

pub mod twin;
