//! What the commands of `atlas` share: how times are written and read. Nothing here talks to a replica.

pub mod error;
pub mod output;
pub mod parse;
pub mod time;
