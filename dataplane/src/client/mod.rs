//! The client: what turns the words of n replicas, f of them lying, into results.
//!
//! [`ClientCore`] is pure: submissions, messages, link changes and the time go in; frames to send and finished tickets come
//! out. It holds no socket, key file or clock, so the simulator runs what programs run. One core is one identity.
//!
//! # Submitting
//! A submission of up to 256 operations becomes one signed bundle, encoded once and sent to every connected replica. The
//! result of a request counts when f+1 replicas sent the same [`Reply`](crate::wire::message::Reply), field by field: one of
//! them is correct. A replica's first reply to a request counts and no other.
//!
//! ```text
//! no session --submit--> opening --request 0 done--> open --unknown session, or a refused bundle--> no session
//! ```
//! The first submission travels in the bundle that opens the session, so it costs no extra round trip; further ones wait for
//! the session's name. Numbers in flight never span more than the session's window. A bundle that was refused leaves a gap
//! in the numbers, which would hold the window for ever: later submissions then open a new session, at no extra round trip.
//!
//! # What a failed submission means
//! * [`ClientError::Refused`]: f+1 replicas said the same code; they will not have it ordered.
//! * [`ClientError::Timeout`]: it may have been executed, or may yet be until its `not_after_ms` (by default the deadline of the
//!   ticket) has passed in agreed time. Its bundle is sent further, in the background, so that its number is used up.
//! * [`ClientError::SessionLost`]: the replicas closed the session, by age or because the identity opened too many, or forgot what
//!   became of its numbers; whether it was executed is unknown. A refusal that replicas also give on what they executed long ago
//!   (STALE_NUMBER, and EXPIRED on a session's opening that was sent more than once) counts as this. Nothing is ever signed
//!   again under another number, so nothing is executed twice.
//!
//! # Reading
//! A query goes to f+1 replicas, and to the others once that does not do (`read`). Replicas answer at different history sizes, and an answer says from which entry on it holds. It
//! counts when f+1 replicas gave the same (code, `valid_from`, body), each with `valid_from` < size and size >= the lowest size
//! asked for. One of them is correct, and vouches that the answer holds from `valid_from` to its own size; so it holds at the
//! smallest of the f+1 sizes, which lies in between: that is the size that the read reports. It is true there, not
//! necessarily fresh. By default a read asks for at least the highest size that this core has seen proved, so a client never
//! reads backwards and sees its own writes. When n-f have answered without a match, it asks again, at no less than the
//! (f+1)-th highest size they named: a correct replica is there, those behind wait for that very size and answer alike.
//! A linearizable read is an ordered operation that changes nothing, whose position is the lowest size of a query.
//!
//! # Changes
//! A subscription ([`changes`]) asks each replica by long poll for its pages, and merges them: an event is delivered when f+1
//! replicas have it as their next one, byte for byte, and the position moves over a quiet stretch when f+1 have nothing in it.
//!
//! # Retransmission
//! What has no result is sent again with back-off to the replicas that owe an answer, later where results take longer lately, and at once to a replica whose link
//! comes up. A replica that said when to try again is asked then.
//!
//! # Limits
//! In [`limits`]. All tables are bounded by the window, by [`limits::MAX_READS`] and [`limits::MAX_SUBSCRIPTIONS`]; a replica adds to
//! them at most one value per request, read or page that we asked it for. What nobody asked for is ignored.
//!
//! Sources: Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999), 4.1; Lee et al., RIFL (SOSP 2015).

pub mod changes;
mod core;
pub mod limits;
mod patience;
mod read;
mod readers;
mod submit;
mod tally;
#[cfg(test)]
mod tests;
mod types;

pub use self::core::ClientCore;
pub use changes::{Page, PageDecoder};
pub use types::{
    ClientError, ClientMessage, Completion, CoreConfig, Evidence, NotAfter, Output, ProofQuestion, ReadOptions,
    ReadResult, Refusals, ReplicaSet, ReplicaStatus, RequestResult, Said, Signer, SubmitError, SubmitOptions,
    Subscription, Ticket,
};
