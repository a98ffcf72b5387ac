//! The replica: puts the parts together.
//!
//! [`Node`] joins the ordering core, the log, execution and the client side without a socket, thread or clock of its own: the
//! process ([`process`]) drives it from one io_uring, the simulator ([`crate::sim`]) from a seeded event queue. What differs
//! between the two stands behind [`Shell`].
//!
//! # The way of a request
//! 1. A client's bundle is parsed, held against limits and the application's check, and against the session table: what was
//!    executed is answered at once, what cannot succeed is refused at once.
//! 2. The rest waits for the end of the round, when all signatures that came together are verified as one batch.
//! 3. Verified bundles go to the ordering core; its records go to the log; a write starts when none is in flight and something
//!    that is waited for is staged (group commit).
//! 4. When the write completes, the durable records go back to the core, which makes votes of them.
//! 5. Decided batches are executed at once; replies go to the connection from which the bundle came last.
//!
//! # Rounds
//! The shell feeds what arrived ([`Node::on_peer`], [`Node::on_client`], [`Node::log_completed`]), then ends the round with
//! [`Node::turn`]. Whatever came together in a round is verified, voted and written together: batches form by themselves under
//! load, and an idle replica waits for nothing.
//!
//! # Whose connections
//! Links are accepted from replicas and from every key that the replicated table of identities knows
//! ([`crate::execution::identities`]), those registered a moment ago included. A key that ended or is not valid may connect too, twice
//! at most, so that it can be told: its requests and queries are answered REVOKED or NOT_VALID, by agreed time where they are answered,
//! and where that lasts the connection is closed behind the answer. Questions for the status it gets no answer to.
//!
//! # Limits
//! What one client or peer gets done in a round is bounded, so a flood costs its sender and not its neighbours. A round takes at
//! most 256 bundles of one key, and none for which the pool has no room; a client whose bundle has a bad signature is told so and
//! disconnected: the key is that of its own link, so nobody else can have done it. One peer is sent at most
//! [`MAX_BODIES_PER_ROUND`] bodies and [`MAX_TOLD_PER_ROUND`] other messages. A turn answers at most 16 reads, and
//! reads and answers half a MiB (local settings say otherwise), one key after the other, a quarter of it for one key: who takes more at
//! once waits as many turns. When a read comes, its key may have 63 others queued. Parked reads: [`MAX_PARKED`] in all and
//! [`MAX_PARKED_PER_CLIENT`] a key; questions for the status wait one a connection, their digests take a twentieth of the time.
//! Routes from bundles to connections: pruned to what the core still holds.

mod clients;
mod cold_storage;
pub mod copies;
mod cosigning;
mod counters;
mod crash;
mod divergence;
mod links;
mod meters;
mod node;
mod node_error;
mod noted;
mod outbox;
mod outgoing;
pub mod oversight;
mod peers;
pub mod process;
mod proofs;
mod reads;
mod replay;
mod resolver;
pub mod restore;
mod service;
mod snapshot_files;
mod snapshots;
mod space;
mod start;
mod strangers;
mod supply;
pub mod telemetry;
mod telling;
mod tried;
mod verifying;

pub use counters::Counters;
pub use node::{ClientId, HostStatus, Node, NodeConfig, Recovery, Shell};
pub use node_error::NodeError;
pub use reads::ReadBudget;
pub use snapshots::Save;
pub(crate) use space::Gauge;
pub use start::recover;
pub use verifying::{Job, MAX_JOB};

/// Reads that wait for the history to grow, in all; beyond it a read is answered OVERLOADED.
pub const MAX_PARKED: usize = 4_096;

/// Reads that one client's key may have waiting.
pub const MAX_PARKED_PER_CLIENT: usize = 64;

/// The longest that a read waits here, ms; a client that wants to wait longer asks again.
pub const MAX_WAIT_MS: u32 = 10_000;

/// Bodies and pages of decisions that one peer is sent in a round; it asks for no more than 16 bodies at once.
pub const MAX_BODIES_PER_ROUND: usize = 16;

/// Other messages to one peer alone in a round: the proposals of a full status and what belongs to them.
pub const MAX_TOLD_PER_ROUND: usize = 512;

/// Bundles of clients that one peer may send on in a round; more are dropped, and sent on again.
pub const MAX_RELAYED_PER_ROUND: usize = 64;
