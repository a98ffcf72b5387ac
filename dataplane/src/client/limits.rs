//! The client core's limits and times, each with what happens there.

/// Reads under way at most, status questions included; one more is [`SubmitError::TooManyReads`](super::SubmitError). An
/// answer may have half a MiB, and f lying replicas can make each read keep f+1 different ones.
pub const MAX_READS: usize = 64;
/// Subscriptions at most; one more is refused.
pub const MAX_SUBSCRIPTIONS: usize = 16;
/// Events that a subscription keeps from one replica before it stops asking it.
pub const MAX_BUFFERED_EVENTS: usize = 1_024;
/// Most events in one page; a page with more is a lie.
pub const MAX_PAGE_EVENTS: usize = 4_096;
/// First pause before something is sent again, ms, or as long as results take lately where that is longer; it doubles each time.
pub const RESEND_FIRST_MS: u64 = 500;
/// Longest pause before something is sent again, ms.
pub const RESEND_LONGEST_MS: u64 = 5_000;
/// First pause before a read without a match is asked again, ms; it doubles each time.
pub const REASK_FIRST_MS: u64 = 5;
/// Longest pause before a read without a match is asked again, ms.
pub const REASK_LONGEST_MS: u64 = 500;
/// What a replica says about when to try again is held between these, ms.
pub const RETRY_MS: (u64, u64) = (10, 10_000);
/// A replica must say "unknown session" about a bundle in this many answers to different sendings before it counts: one that
/// lags says so until it has caught up.
pub const UNKNOWN_SESSION_WORDS: u8 = 3;
/// Longest long poll of a subscription, ms.
pub const POLL_MS: u32 = 1_000;
/// How long beyond [`POLL_MS`] the answer to a poll is waited for before it is asked again, ms.
pub const POLL_GRACE_MS: u64 = 2_000;
/// Codes of refusals that are counted apart; those beyond, which only liars send, are not counted.
pub const MAX_REFUSAL_CODES: usize = 64;
