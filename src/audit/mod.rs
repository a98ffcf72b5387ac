//! Evidence in files: written out of a cluster, and checked without one.
//!
//! # An export
//! A directory that any static web server serves and any C2SP tlog-tiles reader reads ([`layout`]):
//!
//! ```text
//! checkpoint             the certified checkpoint that all of it stands under
//! policy.txt             the policy (C2SP tlog-policy) that certifies it
//! policies/<epoch>       the policy of each epoch
//! checkpoints/<size>     certified checkpoints, the newest being `checkpoint`
//! tile/<L>/<N>[.p/<W>]   all hashes of the tree, from entry 0
//! tile/entries/<N>[.p/<W>]   the entries of [from, to), 256 a file
//! manifest.json          from, to, size, root, and every file with its length and SHA-256
//! ```
//! [`export`] writes one and checks everything that it writes against the checkpoint; a directory is there whole or not at all.
//!
//! # What an audit shows
//! [`run`] reads nothing but the directory and a policy that the auditor brings. It stops at the first thing that is wrong
//! ([`finding::Finding`]: which file, entry, byte and why), in the order of the history whatever the number of threads.
//! 1. Files are those of the manifest, if there is one. It is no evidence: it tells damage from forgery.
//! 2. The policy certifies `checkpoint` and every one of `checkpoints/`, and all tiles hash to their roots.
//! 3. Every entry hashes to its place, is an entry in deterministic CBOR, and follows in sequence and time. Entry 0 is the
//!    genesis: it names the auditor's policy, and the members' keys are those of the policy.
//! 4. Deep: every client's signature holds, strictly; one that only ZIP 215 accepts is named as crafted by the key's holder. What was
//!    signed is what stands there: origin, numbers, root of the requests. From the genesis on, every operation is executed again
//!    ([`replay`]) and each outcome, use of a session's number, and STATE entry compared byte for byte.
//!
//! What this proves holds under the policy's assumption ([`Policy::assumption`](atlas_dataplane::history::tlog_policy::Policy)): that
//! those who signed the checkpoint did not lie together. What replay proves needs no assumption about replicas: given the agreed
//! order, everything else follows.
//!
//! # Limits
//! Files are read whole and are bounded by what they are; 256 entries at a time for each thread, so memory does not grow with the
//! history but for the state itself and the sessions that may be open.

pub mod export;
pub mod files;
pub mod finding;
pub mod layout;
pub mod replay;
pub mod roster;
pub mod run;
pub mod serve;
mod sessions;
mod signatures;
mod stages;
pub mod verify;
