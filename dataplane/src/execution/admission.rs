//! What can be said of a bundle before it is ordered, and the replies to what was executed before.

use super::sessions::{Executed as Done, Session, Standing, Target};
use super::{Admission, Execution, MAX_REPEATED_BYTES, MAX_REPEATED_ENTRIES, Settled};
use crate::history::entry::EntryView;
use crate::history::store::EntryStore;
use crate::state::Application;
use crate::types::Code;
use crate::wire::bundle::Bundle;
use crate::wire::limits::{MAX_BUNDLE_STATEMENTS, MAX_ENTRY};
use crate::wire::message::{Changes, Reply};
use crate::wire::statement::{SignedStatement, is_statement};

impl<A: Application, S: EntryStore> Execution<A, S> {
    /// What can be said of a bundle without any state: before a leader orders it, and before a backup votes for it. Its origin and
    /// counts were checked when it was parsed, its signature is checked elsewhere.
    ///
    /// # Errors
    /// The code of the first request that the application refuses, or of a key statement that is none; TOO_LARGE
    /// where the worst-case entry is, or more statements come than one bundle may have.
    pub fn check(&self, bundle: &Bundle) -> Result<(), Code> {
        let (mut changes, mut statements) = (0usize, 0);
        for request in bundle.decoded_requests().filter(|request| !request.opens_session()) {
            if is_statement(request.operation) {
                statements += 1;
                if statements > MAX_BUNDLE_STATEMENTS {
                    return Err(Code::TOO_LARGE);
                }
                SignedStatement::of_operation(request.operation, self.cluster.origin())
                    .map_err(|error| error.code())?;
                continue;
            }
            changes = changes.saturating_add(self.application.check(request.operation)?);
        }
        if changes <= MAX_ENTRY && bundle.fits_entry(changes) { Ok(()) } else { Err(Code::TOO_LARGE) }
    }

    /// What the present state says of a bundle: whether to order it, or what to answer at once.
    pub fn admit(&self, bundle: &Bundle) -> Admission {
        self.admit_counted(bundle, &mut 0)
    }

    /// As [`Execution::admit`]; adds to `read_bytes` the bytes of the entries that were read for the answer.
    pub fn admit_counted(&self, bundle: &Bundle, read_bytes: &mut usize) -> Admission {
        let header = bundle.header();
        let settled = Settled::new(bundle.digest(), 0);
        let Some(place) = self.identities.place(bundle.key()) else {
            return Admission::Settled(settled.refuse_all(bundle, Code::UNKNOWN_IDENTITY));
        };
        // A key that is not valid yet may be so by the time that the bundle is executed.
        let barred = self.identities.all().get(place).and_then(|identity| identity.barred(self.time_ms));
        // A session whose entry is not executed here yet may well exist by the time that the bundle is.
        let is_later = header.session.is_some_and(|id| id >= self.tree.size());
        match (self.sessions.resolve(header, &bundle.digest(), place, self.time_ms), barred) {
            (_, None) if is_later => Admission::Order,
            (_, Some(code)) if is_later => Admission::Settled(settled.refuse_all(bundle, code)),
            (Ok(Target::Opens), None) => Admission::Order,
            (Ok(Target::Opens), Some(code)) => Admission::Settled(settled.refuse_all(bundle, code)),
            (Err(code), _) => Admission::Settled(settled.refuse_all(bundle, code)),
            (Ok(Target::Known(id)), _) => match self.sessions.get(id) {
                Some(session) => self.admit_to((id, session), barred, bundle, settled, read_bytes),
                None => Admission::Settled(settled.refuse_all(bundle, Code::UNKNOWN_SESSION)),
            },
        }
    }

    fn admit_to(
        &self,
        (id, session): (u64, &Session),
        barred: Option<Code>,
        bundle: &Bundle,
        mut settled: Settled,
        read_bytes: &mut usize,
    ) -> Admission {
        let mut repeated = Vec::new();
        for (index, hash) in bundle.request_hashes().iter().enumerate() {
            let number = bundle.header().first + index as u64;
            match (session.standing(number, hash), barred) {
                (Standing::New | Standing::Refused(Code::BEYOND_WINDOW), Some(code)) => settled.refuse(number, code),
                (Standing::New, None) => return Admission::Order,
                (Standing::Repeated(done), _) => repeated.push((number, done)),
                // The window moves on execution, and the client may know of executions that this replica has yet to see.
                (Standing::Refused(Code::BEYOND_WINDOW), None) if session.is_soon(number) => return Admission::Order,
                (Standing::Refused(code), _) => settled.refuse(number, code),
            }
        }
        *read_bytes += self.read_replies(id, &repeated, &mut settled.replies);
        Admission::Settled(settled)
    }

    /// Reads the replies to executed requests from their entries, each entry once where they stand together. Gives the bytes read.
    fn read_replies(&self, session: u64, repeated: &[(u64, &Done)], replies: &mut Vec<Reply>) -> usize {
        let mut read_bytes = 0;
        let mut room = MAX_REPEATED_BYTES;
        for group in repeated.chunk_by(|left, right| left.1.entry == right.1.entry).take(MAX_REPEATED_ENTRIES) {
            let Some(bytes) = group.first().and_then(|first| self.store.entry(first.1.entry)) else { continue };
            read_bytes += bytes.len();
            let Ok(EntryView::Bundle(view)) = EntryView::decode(&bytes) else { continue };
            let outcomes: Vec<_> = view.outcomes().collect();
            for (number, done) in group {
                let Some(Some(outcome)) = outcomes.get(usize::from(done.index)) else { continue };
                let detail = done.detail.as_deref().unwrap_or_default();
                let Some(left) = room.checked_sub(outcome.changes.len() + detail.len()) else { return read_bytes };
                room = left;
                replies.push(Reply {
                    session,
                    number: *number,
                    sequence: view.sequence,
                    entry: done.entry,
                    request: done.index,
                    time_ms: view.time_ms,
                    code: outcome.code.0,
                    changes: Changes::from_slice(outcome.changes),
                    detail: detail.to_owned(),
                });
            }
        }
        read_bytes
    }
}
