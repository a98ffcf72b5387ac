//! The kinds of events, what their words mean, and what people are told of them.

use std::io;

use super::KIND_BITS;
use super::lines::Level;
use crate::cluster::settings::LocalConfig;
use crate::net::CloseReason;
use crate::wire::error::Misbehaviour;

/// Declares the kinds: number, name, level of its line (none: no line), whether people outside cause it, names of its words.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, $level:expr, $outside:literal, [$a:literal, $b:literal, $c:literal];)+) => {
        /// What happened. Numbers never change their meaning; 0 stands for an event that is not there.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[doc = $doc])+ $id = $number,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$id),+];

            /// Its name, as `atlas trace` shows it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)+ }
            }

            /// Names of its words; empty for one without a meaning.
            pub fn fields(self) -> [&'static str; 3] {
                match self { $(Self::$id => [$a, $b, $c],)+ }
            }

            /// The level of the line that people get; none for what only the recorder keeps.
            pub fn level(self) -> Option<Level> {
                match self { $(Self::$id => $level,)+ }
            }

            /// Whether people outside the replica can cause it as often as they like.
            pub fn is_outside(self) -> bool {
                match self { $(Self::$id => $outside,)+ }
            }

            fn of_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$id),)+ _ => None }
            }
        }
    };
}

const ERROR: Option<Level> = Some(Level::Error);
const WARN: Option<Level> = Some(Level::Warn);
const INFO: Option<Level> = Some(Level::Info);
const DEBUG: Option<Level> = Some(Level::Debug);

kinds! {
    /// The replica begins to serve.
    Serves = 1, "serves", None, false, ["replica", "view", "sequence"];
    /// A round took longer than [`crate::replica::oversight::LONG_ROUND_US`]; the stage that took most of it.
    RoundLong = 2, "round_long", DEBUG, false, ["us", "stage", "stage_us"];
    /// A round took longer than [`crate::replica::oversight::STALL_US`].
    Stall = 3, "stall", WARN, false, ["us", "stage", "stage_us"];
    /// It asks for another view; why, 255: because others do.
    ViewLeft = 4, "view_left", WARN, false, ["view", "leader", "why"];
    /// It takes part in a view.
    ViewBegun = 5, "view_begun", INFO, false, ["view", "leader", ""];
    /// As leader it proposes.
    ProposalSent = 6, "proposal_sent", None, false, ["sequence", "view", "bundles"];
    /// A proposal came.
    ProposalReceived = 7, "proposal_received", None, false, ["sequence", "view", "from"];
    /// Its acceptance of a proposal is staged for the log.
    Accepted = 8, "accepted", None, false, ["sequence", "view", "bundles"];
    /// That acceptance is durable: its PREPARE leaves.
    AcceptedDurable = 9, "accepted_durable", None, false, ["sequence", "view", ""];
    /// P is staged: a quorum's PREPAREs are there.
    Prepared = 10, "prepared", None, false, ["sequence", "view", ""];
    /// P is durable: its COMMIT leaves.
    PreparedDurable = 11, "prepared_durable", None, false, ["sequence", "view", ""];
    /// A sequence is decided: 0 by PREPAREs of all, 1 by COMMITs of a quorum, 2 by what others told.
    Decided = 12, "decided", None, false, ["sequence", "path", ""];
    /// A batch was executed.
    Executed = 13, "executed", None, false, ["sequence", "bundles", ""];
    /// A write of the log went to the kernel: its last record, and the last that is staged.
    SyncSubmitted = 14, "sync_submitted", None, false, ["record", "staged", ""];
    /// The log is durable up to this record.
    SyncDurable = 15, "sync_durable", None, false, ["record", "", ""];
    /// A quorum signed a checkpoint.
    CheckpointStable = 16, "checkpoint_stable", None, false, ["sequence", "", ""];
    /// A snapshot of the state is to be written.
    SnapshotBegun = 17, "snapshot_begun", None, false, ["sequence", "", ""];
    /// It is on the disk.
    SnapshotKept = 18, "snapshot_kept", None, false, ["sequence", "bytes", ""];
    /// There was no room for it.
    SnapshotNoRoom = 19, "snapshot_no_room", WARN, false, ["sequence", "", ""];
    /// The link to a replica stands.
    LinkUp = 20, "link_up", INFO, true, ["replica", "", ""];
    /// It is down.
    LinkDown = 21, "link_down", WARN, true, ["replica", "cause", "number"];
    /// No link came about; told once until one does.
    LinkFailed = 22, "link_failed", WARN, true, ["replica", "cause", "number"];
    /// A link or a handshake was closed over what came on it.
    LinkClosed = 23, "link_closed", WARN, true, ["replica", "cause", "number"];
    /// A client proved its key: the connection's number, the key's first eight bytes.
    ClientAccepted = 24, "client_accepted", None, true, ["connection", "key", ""];
    /// A client was refused something.
    ClientRefused = 25, "client_refused", None, true, ["connection", "code", "bundle"];
    /// A client's connection is gone.
    ClientGone = 26, "client_gone", None, true, ["connection", "", ""];
    /// History and state up to a sequence are taken from others.
    TransferBegun = 27, "transfer_begun", WARN, false, ["sequence", "entries", ""];
    /// They are here.
    TransferDone = 28, "transfer_done", INFO, false, ["sequence", "", ""];
    /// That ended otherwise.
    TransferEnded = 29, "transfer_ended", None, false, ["sequence", "", ""];
    /// A replica did what no correct one does: the kind by its place in the list of kinds.
    Misbehaved = 30, "misbehaved", WARN, true, ["replica", "kind", ""];
    /// Little space is left: new writes are refused.
    LowSpace = 31, "low_space", WARN, false, ["free_mib", "enough_mib", "log_waits"];
    /// There is enough again.
    SpaceAgain = 32, "space_again", INFO, false, ["free_mib", "", ""];
    /// A setting of `[local]` by its place there was changed.
    Setting = 33, "setting", DEBUG, false, ["setting", "old", "new"];
    /// It is as before: its trial was not confirmed in time.
    SettingReverted = 34, "setting_reverted", WARN, false, ["setting", "old", "new"];
    /// Clients' bundles are refused (1) or taken (0).
    Paused = 35, "paused", DEBUG, false, ["paused", "", ""];
    /// Peers have votes of this replica that its log does not know.
    Abstains = 36, "abstains", WARN, false, ["", "", ""];
    /// It votes again after the checkpoint at this sequence.
    VotesAfter = 37, "votes_after", INFO, false, ["sequence", "", ""];
    /// It asks for the next view and votes from there on.
    VotesAgain = 38, "votes_again", INFO, false, ["", "", ""];
    /// A frame could not be sealed: a fault of this program.
    FrameNotSent = 39, "frame_not_sent", ERROR, false, ["kind", "", ""];
    /// A command on a control socket that changes something: level, user, the first eight letters of the command ([`word`]).
    Command = 40, "command", None, true, ["level", "uid", "command"];
    /// Threads were moved: the replica's to a core (one more than its number, 0 for none), the others to so many (0 for any); whether the
    /// system did it.
    Placement = 41, "placement", DEBUG, false, ["core", "helper_cores", "done"];
    /// They are as before: the change was not confirmed in time.
    PlacementReverted = 42, "placement_reverted", WARN, false, ["core", "helper_cores", "done"];
    /// Commands that only show something since the last such event, and the level and user of the last of them.
    CommandsShown = 43, "commands_shown", None, false, ["level", "uid", "count"];
    /// A bundle that is followed came from its client.
    BundleArrived = 48, "bundle_arrived", None, false, ["bundle", "connection", "requests"];
    /// Its signature holds, and it waits to be ordered.
    BundleVerified = 49, "bundle_verified", None, false, ["bundle", "", ""];
    /// It is in a batch that this replica accepted (or proposed) at a sequence.
    BundleProposed = 50, "bundle_proposed", None, false, ["bundle", "sequence", "view"];
    /// The batch was executed.
    BundleExecuted = 51, "bundle_executed", None, false, ["bundle", "sequence", ""];
    /// Its reply is queued for its client.
    BundleReplied = 52, "bundle_replied", None, false, ["bundle", "connection", ""];
}

/// Numbers below this may be kinds.
pub(super) const KINDS: usize = 64;

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// When, us since the process began to record.
    pub at_us: u64,
    /// What.
    pub kind: Kind,
    /// [`Kind::fields`] says what they mean.
    pub words: [u64; 3],
}

impl Event {
    /// The event of four words; `None` for one that is not there, the number of a kind that this program does not know as the error.
    ///
    /// # Errors
    /// That number.
    pub fn of_words(words: [u64; 4]) -> Result<Option<Self>, u64> {
        let [first, a, b, c] = words;
        let number = first & ((1 << KIND_BITS) - 1);
        if number == 0 {
            return Ok(None);
        }
        let kind = Kind::of_number(number).ok_or(number)?;
        Ok(Some(Self { at_us: first >> KIND_BITS, kind, words: [a, b, c] }))
    }

    /// Names and values of its words, as people read them.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, String)> {
        let named = self.kind.fields().into_iter().zip(self.words).filter(|(name, _)| !name.is_empty());
        let kind = self.kind;
        named.map(move |(name, value)| (name, shown(kind, name, value)))
    }

    /// The same as values of JSON: numbers where they count something, else text.
    pub fn json_fields(&self) -> impl Iterator<Item = (&'static str, Result<u64, String>)> {
        let raw = self.kind.fields().into_iter().zip(self.words).filter(|(name, _)| !name.is_empty());
        self.fields().zip(raw).map(|((name, text), (_, word))| {
            let is_number = text == word.to_string() && !matches!(name, "bundle" | "key" | "command");
            (name, if is_number { Ok(word) } else { Err(text) })
        })
    }

    /// The value of a word by its name.
    pub fn field(&self, name: &str) -> Option<u64> {
        let place = self.kind.fields().iter().position(|field| *field == name)?;
        self.words.get(place).copied()
    }

    /// The line that people get.
    pub fn text(&self) -> String {
        let [a, b, c] = self.words;
        let stage = || stage_name(b);
        match self.kind {
            Kind::RoundLong => format!("a round took {a} us, {c} us of it to {}", stage()),
            Kind::Stall => format!(
                "a round took {} ms, {} ms of it to {}: nothing else was done meanwhile",
                a / 1_000,
                c / 1_000,
                stage()
            ),
            Kind::ViewLeft => format!("asking for view {a}, which replica {b} would lead: {}", why_left(c)),
            Kind::ViewBegun => format!("view {a} has begun: replica {b} leads"),
            Kind::SnapshotNoRoom => "no room for a snapshot of the state: the log stays until there is some".to_owned(),
            Kind::LinkUp => format!("link to replica {a} stands"),
            Kind::LinkDown => format!("link to replica {a} is down: {}", Cause::text(b, c)),
            Kind::LinkFailed => format!("no link to replica {a}: {}; trying on", Cause::text(b, c)),
            Kind::LinkClosed => format!("link to replica {a} closed: {}", Cause::text(b, c)),
            Kind::TransferBegun => format!(
                "behind the others' logs: takes history and state up to sequence {a} from them; {b} entries are here"
            ),
            Kind::TransferDone => format!("has the state of sequence {a}, and goes on with the others' logs"),
            Kind::Misbehaved => format!(
                "replica {a} did what no correct one does: {}; `evidence` on the control socket has what is kept of it",
                misbehaviour(b)
            ),
            Kind::LowSpace => {
                let wait = if c == 0 { "" } else { ", what waits for the log's next segment is told to nobody" };
                format!("low on space: {a} MiB are free{wait}; new writes are refused until {b} MiB are")
            }
            Kind::SpaceAgain => format!("{a} MiB are free again: new writes are taken"),
            Kind::Setting => format!("{} is {c}, and was {b}", setting_name(a)),
            Kind::SettingReverted => {
                format!("{} is {c} again, and not {b}: the change was not confirmed in time", setting_name(a))
            }
            Kind::Placement => placement(a, b, c),
            Kind::PlacementReverted => format!("{} again: the change was not confirmed in time", placement(a, b, c)),
            Kind::Paused => format!("clients' bundles are {}", if a == 0 { "taken" } else { "refused" }),
            Kind::Abstains => {
                "peers have votes of this replica that its log does not know: its disk was set back; it abstains until \
                               voting is safe"
                    .to_owned()
            }
            Kind::VotesAfter => format!(
                "a quorum has answered: this replica votes again after the stable checkpoint at sequence {a} or above"
            ),
            Kind::VotesAgain => "this replica asks for the next view and votes again from there on".to_owned(),
            Kind::FrameNotSent => format!("a frame of kind {a} was not sent; this is a fault in Atlas"),
            _ => {
                let fields: Vec<String> = self.fields().map(|(name, value)| format!("{name} {value}")).collect();
                format!("{} {}", self.kind.name(), fields.join(" "))
            }
        }
    }
}

/// A value by what it stands for.
fn shown(kind: Kind, name: &str, value: u64) -> String {
    match name {
        "bundle" | "key" => format!("{value:016x}"),
        "stage" => stage_name(value).to_owned(),
        "command" => letters(value),
        "why" => why_left(value).to_owned(),
        "cause" => Cause::of(value).map_or_else(|| value.to_string(), |cause| cause.name().to_owned()),
        "path" => ["fast", "slow", "told"].get(value as usize).map_or_else(|| value.to_string(), |it| (*it).to_owned()),
        "setting" => setting_name(value).to_owned(),
        "core" => value.checked_sub(1).map_or_else(|| "any".to_owned(), |core| core.to_string()),
        "level" => crate::cluster::control::LEVELS
            .get(value as usize)
            .map_or_else(|| value.to_string(), |level| (*level).to_owned()),
        "kind" if kind == Kind::Misbehaved => misbehaviour(value).to_owned(),
        _ => value.to_string(),
    }
}

/// The first eight letters of a name as one word of an event.
pub fn word(name: &str) -> u64 {
    name.bytes().take(8).enumerate().fold(0, |word, (place, byte)| word | u64::from(byte) << (8 * place))
}

/// A name that was made a [`word`]; what is no letter of one is a dot.
fn letters(word: u64) -> String {
    let bytes = word.to_le_bytes();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes[..used].iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect()
}

fn stage_name(place: u64) -> &'static str {
    super::Stage::NAMES.get(place as usize).copied().unwrap_or("something")
}

fn setting_name(place: u64) -> &'static str {
    LocalConfig::TABLE.get(place as usize).map_or("a setting", |setting| setting.key)
}

fn placement(core: u64, helpers: u64, done: u64) -> String {
    let own = core.checked_sub(1).map_or_else(|| "any core".to_owned(), |core| format!("core {core}"));
    let others = if helpers == 0 { "any".to_owned() } else { format!("the {helpers} of helper_cores") };
    let refused = if done == 0 { ", and the system refuses that" } else { "" };
    format!("the replica's thread belongs on {own}, all others on {others}{refused}")
}

fn misbehaviour(place: u64) -> &'static str {
    Misbehaviour::KINDS.get(place as usize).copied().unwrap_or("something")
}

/// `why` of a view that was left where others do.
pub const OTHERS_DO: u64 = 255;

fn why_left(place: u64) -> &'static str {
    // In the order of `crate::ordering::Suspicion`, in its words.
    match place {
        0 => "nothing was executed for too long",
        1 => "its leader did not begin it in time",
        2 => "its leader is slow",
        3 => "its leader passes over a client",
        _ => "others do",
    }
}

/// Declares causes: number, name, text.
macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $id:ident = $number:literal, $name:literal, $text:literal;)+) => {
        /// Why there is no link, or none any more.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u64)]
        pub enum Cause { $($(#[doc = $doc])+ $id = $number,)+ }

        impl Cause {
            fn of(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$id),)+ _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)+ }
            }

            fn words(self) -> &'static str {
                match self { $(Self::$id => $text,)+ }
            }
        }
    };
}

causes! {
    /// By the other end.
    Peer = 1, "closed_by_peer", "closed by the peer";
    /// By this end.
    Asked = 2, "closed_as_asked", "closed as asked";
    /// It could not be established; the number is the system's error.
    Connect = 3, "connect", "could not connect";
    /// The system ended it; the number is its error.
    Lost = 4, "lost", "connection lost";
    /// The handshake took too long.
    Slow = 5, "handshake_slow", "the handshake took too long";
    /// Too many connections that prove no key.
    Crowd = 6, "crowd", "more connect than prove a key";
    /// What came first is no handshake.
    NoHandshake = 7, "no_handshake", "this is no handshake";
    /// The name has no address.
    Name = 8, "name", "its name cannot be resolved";
    /// The thread that resolves names does not start.
    Resolver = 9, "resolver", "the thread that resolves names does not start";
    /// No socket, or no room for one.
    Socket = 10, "socket", "this process has no socket for it";
    /// A handshake does not decrypt.
    Forged = 11, "handshake_forged", "a handshake does not decrypt: another cluster file, or somebody tampers with the connection";
    /// Somebody else answers.
    OtherIdentity = 12, "other_identity", "another answers than was called, or proves no key; check the address and the keys in the cluster file";
    /// Frames that were forged, repeated, reordered or cut.
    BadFrames = 13, "bad_frames", "frames that were forged, repeated, reordered or cut";
    /// A malformed frame.
    Malformed = 14, "malformed", "a malformed frame";
    /// A key that nobody serves here.
    NotAdmitted = 15, "not_admitted", "its key is not in the cluster file";
    /// A fault of this side.
    Ours = 16, "ours", "a fault of this side";
    /// Its identity has too many connections.
    TooMany = 17, "too_many", "its identity has as many connections as it may";
}

impl Cause {
    fn text(number: u64, detail: u64) -> String {
        let Some(cause) = Self::of(number) else { return format!("cause {number}") };
        let system = matches!(cause, Self::Connect | Self::Lost) && detail > 0;
        match i32::try_from(detail).ok().filter(|_| system) {
            Some(errno) => format!("{}: {}", cause.words(), io::Error::from_raw_os_error(errno)),
            None => cause.words().to_owned(),
        }
    }

    /// The two words of an event.
    pub(crate) fn of_close(reason: &CloseReason) -> (Self, u64) {
        let errno = |error: &io::Error| error.raw_os_error().map_or(0, |errno| errno as u64);
        match reason {
            CloseReason::Peer => (Self::Peer, 0),
            CloseReason::Asked => (Self::Asked, 0),
            CloseReason::Connect(error) => (Self::Connect, errno(error)),
            CloseReason::Lost(error) => (Self::Lost, errno(error)),
        }
    }
}
