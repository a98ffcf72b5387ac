//! The management plane of a replica: what it shows, and how it is changed while it works.
//!
//! # Threads
//! The replica's thread knows of all this nothing but a [`ring`] of orders, which it polls at the end of a round, and the board of
//! atomics that it publishes to ([`atlas_dataplane::replica::telemetry`]). It never waits for anybody here. A thread of its own runs a
//! glommio executor with everything else: the control sockets, the file of [`mapped`] metrics, that of the flight recorder
//! ([`atlas_dataplane::flight`]), the HTTP endpoint. A second, which only accepts connections, counts them, asks the kernel who is there, and
//! hands them over. A third prints the lines of the log, and is the only one that a blocked standard error holds up. All run at a
//! lower priority, and off the replica's core where that is configured and there is another.
//!
//! # What a hostile or careless client gets
//! [`limits`] names every bound. A line, an answer, the connections of a level, the lines and bytes of a second, the time that a
//! client may take to read: all are bounded, and who exceeds one is told so and cut off. What most commands tell comes from the
//! board, which costs the replica nothing; orders to the replica are limited to [`limits::ORDERS_PER_SECOND`], whoever asks. What
//! the connections of a level use of the processor is bounded by [`limits::CPU_PARTS`]: beyond it they wait for each other, those of other
//! levels do not, and the replica does not notice.
//!
//! # Changes
//! A change of a setting is tried first: it takes effect at once, and is undone by itself unless it is confirmed in time ([`trial`]).
//! Every change is reported with the level, user and process that made it. What was confirmed can be saved to the replica's file.
//!
//! # The protocol
//! [`protocol`]; `docs/control.md` has it for people.
//!
//! # Without it
//! Where the kernel permits no further io_uring, the memory that may be locked is used up, or the run directory cannot be used, the replica
//! says so, what to do, and goes on without a management plane.

mod accept;
pub mod client;
mod commands;
mod desk;
mod http;
pub mod limits;
mod log;
pub mod mapped;
pub mod metrics;
pub mod protocol;
mod reply;
pub mod ring;
mod save;
mod server;
mod session;
mod sockets;
mod threads;
pub mod trial;

pub use server::{Control, StartError};
