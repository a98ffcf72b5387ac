//! Every bound of the management plane.

use std::time::Duration;

/// Longest line that a client may send, bytes, its end included. Beyond it the client is told so and cut off.
pub const MAX_LINE: usize = 4 << 10;

/// Commands in one line.
pub const MAX_COMMANDS: usize = 16;

/// Longest answer to one command, bytes; what is beyond is left out, and said so.
pub const MAX_ANSWER: usize = 256 << 10;

/// Connections of each level. One more is told so and closed.
pub const MAX_CONNECTIONS: [usize; 3] = [64, 32, 16];

/// One user has at most this part of them.
pub const USER_SHARE: usize = 2;

/// Between two recordings that are asked for.
pub const DUMP_EVERY: Duration = Duration::from_secs(1);

/// Events that the ring of the control thread holds.
pub const EVENTS: usize = atlas_dataplane::flight::HELPER_EVENTS;

/// Threads of the process that `cores` shows.
pub const MAX_THREADS: usize = 64;

/// Connections that wait to be taken over by the executor.
pub const MAX_ACCEPTED: usize = 32;

/// Connections that are accepted in a second; the others wait in the listen queue.
pub const ACCEPTS_PER_SECOND: u32 = 500;

/// Connections that wait there, for each level; a further one waits in its own call.
pub const LISTEN_QUEUE: i32 = 32;

/// A connection on which nothing was said for so long is closed.
pub const IDLE: Duration = Duration::from_secs(600);

/// A client that has not taken what was written for so long is cut off.
pub const WRITE: Duration = Duration::from_secs(5);

/// Commands of one connection in a second; the next wait.
pub const LINES_PER_SECOND: f64 = 100.0;

/// Orders to the replica in a second, of all connections together; beyond it they are answered "busy".
pub const ORDERS_PER_SECOND: f64 = 50.0;

/// Orders that wait for the replica.
pub const MAX_ORDERS: usize = 16;

/// How long a command waits for the replica.
pub const ORDER: Duration = Duration::from_secs(2);

/// The parts of one processor that the connections of each level, and those for metrics, may use; beyond it they wait, one after the other,
/// and no other level for them.
pub const CPU_PARTS: [f64; 4] = [0.04, 0.03, 0.03, 0.03];

/// What each may use beyond that at once, after having used little.
pub const CPU_BURST: Duration = Duration::from_millis(100);

/// The files of metrics and of the flight recorder are brought up to date this often.
pub const REFRESH: Duration = Duration::from_millis(100);

/// The replica's named counters are looked at this often, for the times of errors.
pub const ERRORS_EVERY: Duration = Duration::from_secs(1);

/// Kinds of errors that are remembered.
pub const MAX_ERRORS: usize = 512;

/// How long a change is on trial unless the operator says otherwise.
pub const TRIAL: Duration = Duration::from_secs(60);

/// The longest trial, seconds.
pub const MAX_TRIAL_SECONDS: u64 = 3_600;

/// Commands that only show something are noted in the flight recorder together, at most this often.
pub const SHOWN_EVERY: Duration = Duration::from_secs(10);

/// Connections to the endpoint of metrics.
pub const MAX_HTTP_CONNECTIONS: usize = 8;

/// What a request of metrics may take, head and answer.
pub const HTTP: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
pub const MAX_HTTP_HEAD: usize = 8 << 10;
