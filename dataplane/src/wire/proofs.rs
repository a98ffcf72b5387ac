//! Messages about what can be proved: cosignatures between replicas, questions of clients and their answers.

use rkyv::{Archive, Serialize};

/// The newest certified head, once it has at least `first` entries: a C2SP note.
pub const ASKS_CHECKPOINT: u8 = 0;
/// The receipt of entry `first`: a C2SP tlog-proof.
pub const ASKS_RECEIPT: u8 = 1;
/// The state of the slot `name` in a STATE entry at or above `first`: a C2SP tlog-proof.
pub const ASKS_STATE: u8 = 2;
/// That there is no slot `name` in a checkpoint's STATE entry at or above `first`: a C2SP tlog-proof.
pub const ASKS_ABSENCE: u8 = 3;
/// Entries from `first` on, at most `count`: each with its length (u32, little-endian) before it.
pub const ASKS_ENTRIES: u8 = 4;
/// Hashes of the leaves from `first` on, at most `count`: 32 bytes each.
pub const ASKS_LEAVES: u8 = 5;

/// The sender's signature under a head of the history ([`crate::history::cosign`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Cosignature {
    /// Entries.
    pub size: u64,
    /// Root over them.
    pub root: [u8; 32],
    /// The signer's clock, seconds since the Unix epoch.
    pub time_s: u64,
    /// Its cosignature.
    pub signature: [u8; 64],
    /// The sender asks for the receiver's last one.
    pub again: bool,
    /// Somebody waits for a certificate at the sender.
    pub wanted: bool,
}

/// Asks for something with its proof, of any one replica: the asker verifies it.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Prove {
    /// The client's number for it.
    pub id: u64,
    /// How long the replica may wait for a certificate, ms.
    pub wait_ms: u32,
    /// What: [`ASKS_CHECKPOINT`] and so on.
    pub what: u8,
    /// An entry, or a size.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// A slot, as the application names it.
    pub name: Vec<u8>,
}

/// Answers [`Prove`].
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Proof {
    /// The client's number for it.
    pub id: u64,
    /// DONE, or why there is none.
    pub code: u16,
    /// Entries that the replica has.
    pub size: u64,
    /// As the question says.
    pub body: Vec<u8>,
}
