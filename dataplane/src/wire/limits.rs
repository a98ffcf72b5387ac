//! Every limit of what travels, in one place, with what happens there.

/// Version of the frame format and of the messages. A frame of another version closes the link.
pub const WIRE_VERSION: u8 = 1;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;

/// Bytes that sealing adds to a body (the AES-256-GCM tag).
pub const TAG_BYTES: usize = 16;

/// Largest body of a handshake frame; Noise XX with our payloads needs under 300 bytes. Beyond: malformed.
pub const MAX_HANDSHAKE_BODY: usize = 512;

/// Largest entry of the history (tlog-tiles): a bundle whose worst-case entry is larger is refused before ordering.
pub const MAX_ENTRY: usize = 65_535;

/// Largest body of a frame from a client: a bundle that fills an entry, and its envelope. Beyond: malformed.
pub const MAX_CLIENT_BODY: usize = MAX_ENTRY + 8_192;

/// Most bundle bytes in one batch. A leader closes a batch before it; a batch beyond it is misbehaviour.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// Most bundles in one batch. A leader closes a batch before it; a batch beyond it is misbehaviour.
pub const MAX_BATCH_BUNDLES: usize = 4_096;

/// Fewest bytes of an encoded request: array head, class, null deadline and an operation of one byte.
pub const MIN_REQUEST: usize = 4;

/// Bytes by which an archive names one list: relative pointer and length.
pub const ARCHIVED_LIST: usize = 8;

/// Largest body of a frame between replicas: a full batch, a list per request and two per bundle, and its envelope. Beyond:
/// malformed. The lists outweigh the batch itself when clients send the shortest requests, and such a batch must travel too.
pub const MAX_PEER_BODY: usize =
    MAX_BATCH_BYTES + MAX_BATCH_BYTES / MIN_REQUEST * ARCHIVED_LIST + MAX_BATCH_BUNDLES * 2 * ARCHIVED_LIST + 4_096;

/// Largest body of a frame to a client: an answer page and its envelope. A client treats more as malformed.
pub const MAX_ANSWER_BODY: usize = 512 << 10;

/// Most requests under one signature.
pub const MAX_BUNDLE_REQUESTS: usize = 256;

/// Most votes or decisions in one message; more go in further messages.
pub const MAX_VOTES: usize = 1_024;

/// Most open sequences that a status names; the rest follow once these closed.
pub const MAX_STATUS_SLOTS: usize = 256;

/// Most replies in one message to a client.
pub const MAX_REPLIES: usize = 1_024;

/// Longest query, bytes.
pub const MAX_QUERY: usize = 4_096;

/// Most counters in a status answer; what is beyond is left out.
pub const MAX_COUNTERS: usize = 1_024;

/// Most pieces of evidence in a status answer; what is beyond is left out.
pub const MAX_EVIDENCE: usize = 256;

/// Bytes of signed messages in the evidence of a status answer; what is beyond is shown without its bytes.
pub const MAX_EVIDENCE_BYTES: usize = 128 << 10;

/// Digests, and signed messages, of one piece of evidence.
pub const MAX_EVIDENCE_PARTS: usize = MAX_REPLICAS;

/// Longest key statement, bytes of its COSE_Sign1. Beyond: TOO_LARGE.
pub const MAX_STATEMENT: usize = 2_048;

/// Most key statements in one bundle. Beyond: TOO_LARGE, before ordering.
pub const MAX_BUNDLE_STATEMENTS: usize = 1;

/// Deepest nesting of arrays, maps and tags in an operation. Beyond: the bundle is refused.
pub const MAX_OPERATION_DEPTH: usize = 16;

/// A piece of a transfer holds so many bytes; the last one fewer, and one of the history up to an entry more, as it ends with a whole
/// entry. Beyond: malformed.
pub const PIECE_BYTES: usize = 256 << 10;

/// Longest piece: the last entry of it may begin just below [`PIECE_BYTES`].
pub const MAX_PIECE: usize = PIECE_BYTES + MAX_ENTRY + 4;

/// Most pieces in one list; a snapshot has no more, so it has at most 8 GiB.
pub const MAX_PIECES: usize = 32_768;

/// Most replicas of a cluster: votes are kept in 32-bit sets.
pub const MAX_REPLICAS: usize = 32;

// The largest bundle fits a client's frame, a batch holds whatever a client's frame holds, and every list of votes fits a frame.
const _: () = assert!(MAX_ENTRY + (2 + MAX_BUNDLE_REQUESTS) * ARCHIVED_LIST <= MAX_CLIENT_BODY);
const _: () = assert!(MAX_CLIENT_BODY <= MAX_BATCH_BYTES);
const _: () = assert!(64 + MAX_VOTES * 40 <= MAX_PEER_BODY);
const _: () = assert!(64 + MAX_BATCH_BUNDLES * 32 <= MAX_PEER_BODY);
const _: () = assert!(64 + MAX_PIECES * 40 <= MAX_PEER_BODY);
const _: () = assert!(64 + MAX_PIECE <= MAX_PEER_BODY);
const _: () = assert!(MAX_PEER_BODY <= u32::MAX as usize);

/// Longest certificate of a checkpoint, bytes: the statement and a signature of every replica.
pub const MAX_CERTIFICATE: usize = 256 + 65 * MAX_REPLICAS;
