//! The replica of Atlas: everything between a client's signed bundle and its durable, agreed, executed result.
//!
//! Each folder is one concern and opens with a doc that is its specification. `ordering`, `execution`, `history`,
//! `state` and `client` are pure: they take an event and the time and return effects, so the simulator runs the very
//! code that the replica runs. Sockets live in [`net`], files in [`log`] and [`history`], and [`replica`] joins them.

pub mod adversary;
pub mod cbor;
pub mod client;
pub mod cluster;
pub mod cores;
pub mod crypto;
pub mod evidence;
pub mod execution;
pub mod flight;
pub mod histogram;
pub mod history;
pub mod log;
pub mod net;
pub mod ordering;
pub mod replica;
pub mod sim;
pub mod state;
pub mod transfer;
pub mod types;
pub mod wire;
