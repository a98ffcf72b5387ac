//! Walks through the history: the changes of a twin backwards along its chains, those under a prefix forwards.

use atlas_dataplane::state::{Answer, Entries};
use atlas_dataplane::types::{Code, EntryIndex, Position};

use super::entry::{BundleEntry, Executed, Item};
use super::query::{BLOCK, Bound, Cursor, MAX_PAGE_BYTES};
use super::slot::encode_value;
use super::store::{SlotIndex, Twin, TwinStore};
use atlas_dataplane::cbor::Writer;

/// Bytes of entries that one call for changes reads, beyond its first entry.
pub(super) const MAX_SCANNED_BYTES: usize = 1024 * 1024;
/// Twins under a prefix whose state is asked before the entries are.
const MAX_QUIET_TWINS: usize = 4096;

/// The part of the order that a history is asked for.
pub(super) struct Range {
    /// Included.
    pub(super) from: Position,
    /// Excluded; `None` for no upper end.
    pub(super) below: Option<Position>,
}

impl Range {
    pub(super) fn new(entries: &dyn Entries, from: Option<Bound>, to: Option<Bound>) -> Self {
        let start_of = |entry| Position { entry, request: 0 };
        let from = match from {
            None => start_of(0),
            Some(Bound::Position(position)) => position,
            Some(Bound::Time(time)) => start_of(entries.first_at_or_after(time)),
        };
        let below = match to {
            None => None,
            Some(Bound::Position(position)) => successor(position),
            Some(Bound::Time(time)) => time.checked_add(1).map(|time| start_of(entries.first_at_or_after(time))),
        };
        Self { from, below }
    }
}

pub(super) fn successor(position: Position) -> Option<Position> {
    match position.request.checked_add(1) {
        Some(request) => Some(Position { request, ..position }),
        None => position.entry.checked_add(1).map(|entry| Position { entry, request: 0 }),
    }
}

/// The last position that an entry may hold.
fn end_of(entry: EntryIndex) -> Position {
    Position { entry, request: u16::MAX }
}

/// Takes what a walk finds, operation by operation.
pub(super) trait Collect {
    /// Adds one operation's changes; `false`, and nothing added, where they no longer fit.
    fn add(&mut self, bundle: &BundleEntry<'_>, executed: &Executed<'_>, items: &[Item<'_>]) -> bool;

    /// What was collected.
    fn page(&self) -> &SetPage;
}

/// Collects whole operations until the page is full.
pub(super) struct SetPage {
    sets: usize,
    items: usize,
    limit: usize,
    bytes: Vec<u8>,
}

impl Collect for SetPage {
    fn add(&mut self, bundle: &BundleEntry<'_>, executed: &Executed<'_>, items: &[Item<'_>]) -> bool {
        self.add_encoded(items.len(), |bytes| {
            let runs = items.chunk_by(|a, b| a.reason == b.reason);
            runs.map(|run| encode_set(bundle, executed.position, run, &mut Writer(bytes))).count()
        })
    }

    fn page(&self) -> &SetPage {
        self
    }
}

impl SetPage {
    pub(super) fn new(limit: usize) -> Self {
        Self { sets: 0, items: 0, limit, bytes: Vec::new() }
    }

    /// Whether nothing is on it.
    pub(super) fn is_empty(&self) -> bool {
        self.sets == 0
    }

    /// Adds one operation with so many items, which `encode` appends as sets and counts; `false`, and nothing added, where it no
    /// longer fits.
    pub(super) fn add_encoded(&mut self, items: usize, encode: impl FnOnce(&mut Vec<u8>) -> usize) -> bool {
        let (bytes, is_first) = (self.bytes.len(), self.is_empty());
        if !is_first && self.items + items > self.limit {
            return false;
        }
        let sets = encode(&mut self.bytes);
        if !is_first && self.bytes.len() > MAX_PAGE_BYTES {
            self.bytes.truncate(bytes);
            return false;
        }
        self.sets += sets;
        self.items += items;
        true
    }

    pub(super) fn finish<'a>(&self, answer: &'a mut Answer) -> Writer<'a> {
        Writer(&mut answer.body).array(2).array(self.sets);
        answer.body.extend_from_slice(&self.bytes);
        Writer(&mut answer.body)
    }
}

fn encode_set(bundle: &BundleEntry<'_>, position: Position, items: &[Item<'_>], out: &mut Writer<'_>) {
    out.array(6).uint(position.entry).uint(u64::from(position.request)).int(bundle.time_ms).bytes(&bundle.origin.0);
    out.optional(items.first().and_then(|item| item.reason), |out, reason| {
        out.text(reason);
    });
    out.array(items.len());
    for item in items {
        out.array(6).text(item.twin).text(item.path);
        encode_value(item.value, out);
        out.uint(item.quality as u64).optional(item.source_time_ns, |out, time| {
            out.int(time);
        });
        out.uint(item.revision);
    }
}

/// Whether the walk goes on behind an entry.
enum Step {
    On,
    /// The page is full: what comes next lies below the last operation on it.
    Full,
    /// The entry reaches below the range.
    End,
}

struct HistoryWalk<'a, P> {
    store: &'a TwinStore,
    name: &'a str,
    property: Option<&'a str>,
    row: &'a Twin,
    range: Range,
    /// For each slot that has more: the entry that holds its next older change.
    heads: Vec<(SlotIndex, EntryIndex)>,
    page: P,
    /// The newest entry that changed anything below the upper end.
    newest: Option<EntryIndex>,
}

/// Answers [`super::query::Query::History`], or whatever `page` collects of it.
pub(super) fn history(
    store: &TwinStore,
    entries: &dyn Entries,
    (name, property): (&str, Option<&str>),
    mut range: Range,
    page: impl Collect,
    cursor: Option<Cursor>,
    answer: &mut Answer,
) -> Code {
    let Some(row) = store.twin(name) else { return Code::UNKNOWN_TWIN };
    let resumed = cursor.is_some();
    // A cursor comes from the client: what it leads to is checked, and it alone is to blame where that fails.
    let fault = if resumed { Code::BAD_QUERY } else { Code::INTERNAL };
    let heads = match (cursor, property.map(|property| row.find(property))) {
        (_, Some(Err(_))) => return Code::UNKNOWN_PROPERTY,
        (Some(cursor), asked) => {
            range.below = match (range.below, cursor.below) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let known = |(slot, _): &(SlotIndex, _)| match asked {
                Some(asked) => asked == Ok(*slot),
                None => store.slots.get(*slot as usize).is_some_and(|slot| *slot.twin == *name),
            };
            if !cursor.heads.iter().all(known) {
                return fault;
            }
            cursor.heads
        }
        (None, Some(Ok(slot))) => vec![(slot, store.slots[slot as usize].position.entry)],
        (None, None) => {
            row.properties.iter().map(|(_, slot)| (*slot, store.slots[*slot as usize].position.entry)).collect()
        }
    };
    let mut walk = HistoryWalk { store, name, property, row, range, heads, page, newest: None };
    let Ok(cursor) = walk.run(entries) else { return fault };
    if walk.newest.is_none() && !resumed && cursor.is_none() {
        return if property.is_some() { Code::UNKNOWN_PROPERTY } else { Code::UNKNOWN_TWIN };
    }
    answer.valid_from = walk.newest.unwrap_or(0);
    walk.page.page().finish(answer).optional(cursor.as_ref(), Cursor::encode);
    Code::DONE
}

/// An entry of a chain cannot be read or does not hold what the chain says.
pub(super) struct BrokenChain;

impl<P: Collect> HistoryWalk<'_, P> {
    /// Fills the page; gives the cursor where there may be more.
    fn run(&mut self, entries: &dyn Entries) -> Result<Option<Cursor>, BrokenChain> {
        let (mut passed_by, mut left_out) = (0, 0);
        let mut last = EntryIndex::MAX;
        while let Some(index) = self.heads.iter().map(|(_, entry)| *entry).max() {
            let start = Position { entry: index, request: 0 };
            if self.range.below.is_some_and(|below| below <= start) {
                // Stopping only where a block ends makes replicas whose chains begin later stop at the same place.
                if passed_by >= BLOCK && index / BLOCK != last / BLOCK {
                    self.newest = Some(index);
                    return Ok(Some(self.cursor()));
                }
                passed_by += 1;
            } else if index < self.range.from.entry {
                self.newest.get_or_insert(index);
                return Ok(None);
            }
            last = index;
            let bytes = entries.entry(index).ok_or(BrokenChain)?;
            let bundle = BundleEntry::decode(index, &bytes).map_err(|_| BrokenChain)?.ok_or(BrokenChain)?;
            let sets = self.page.page().sets;
            match self.visit(index, &bundle)? {
                // All replicas begin to leave out at the same entry, so they stop at the same one too.
                Step::On if self.page.page().sets == sets && self.newest.is_some() => {
                    left_out += 1;
                    if left_out >= BLOCK && !self.heads.is_empty() {
                        return Ok(Some(self.cursor()));
                    }
                }
                Step::On => {}
                Step::Full => return Ok(Some(self.cursor())),
                Step::End => return Ok(None),
            }
        }
        Ok(None)
    }

    fn cursor(&self) -> Cursor {
        Cursor { below: self.range.below, heads: self.heads.clone() }
    }

    fn visit(&mut self, index: EntryIndex, bundle: &BundleEntry<'_>) -> Result<Step, BrokenChain> {
        // Per slot the entry before this one: from its first change in here, which is the last one met.
        let mut previous: Vec<(SlotIndex, Option<EntryIndex>)> = Vec::new();
        for executed in bundle.executed.iter().rev() {
            let asked =
                |item: &Item<'_>| item.twin == self.name && self.property.is_none_or(|property| property == item.path);
            let items: Vec<Item<'_>> = executed.items(self.store).filter(asked).collect();
            for item in &items {
                let slot = self.row.find(item.path).map_err(|_| BrokenChain)?;
                match previous.iter_mut().find(|(known, _)| *known == slot) {
                    Some(known) => known.1 = item.previous,
                    None => previous.push((slot, item.previous)),
                }
            }
            let position = executed.position;
            if items.is_empty() || self.range.below.is_some_and(|below| below <= position) {
                continue;
            }
            self.newest.get_or_insert(index);
            if position < self.range.from {
                return Ok(Step::End);
            }
            if !self.page.add(bundle, executed, &items) {
                return Ok(Step::Full);
            }
            self.range.below = Some(position);
        }
        self.step_back(index, &previous)
    }

    fn step_back(
        &mut self,
        index: EntryIndex,
        previous: &[(SlotIndex, Option<EntryIndex>)],
    ) -> Result<Step, BrokenChain> {
        let mut heads = Vec::with_capacity(self.heads.len());
        for (slot, entry) in &self.heads {
            if *entry != index {
                heads.push((*slot, *entry));
                continue;
            }
            match previous.iter().find(|(known, _)| known == slot).ok_or(BrokenChain)?.1 {
                Some(older) if older >= index => return Err(BrokenChain),
                Some(older) => heads.push((*slot, older)),
                None => {}
            }
        }
        self.heads = heads;
        Ok(Step::On)
    }
}

/// Answers [`super::query::Query::Changes`].
pub(super) fn changes(
    store: &TwinStore,
    entries: &dyn Entries,
    prefix: &str,
    (from, to): (Position, Option<EntryIndex>),
    limit: usize,
    answer: &mut Answer,
) -> Code {
    let size = entries.size();
    let mut page = SetPage::new(limit);
    let is_short = to.is_some_and(|to| to >= size);
    let end = to.filter(|_| !is_short).map_or(size, |to| to + 1);
    let covered = if is_short {
        None
    } else if is_quiet(store, prefix, from) {
        covered_quietly(from, to, end)
    } else {
        match scan(store, entries, prefix, from, end, &mut page) {
            Err(BrokenChain) => return Code::INTERNAL,
            Ok(Scanned::Part(covered)) => Some(covered),
            Ok(Scanned::All(Some(last))) => Some(end_of(to.unwrap_or(last))),
            Ok(Scanned::All(None)) => covered_quietly(from, to, end),
        }
    };
    answer.wait = covered.is_none();
    let covered = covered.unwrap_or(from);
    answer.valid_from = covered.entry;
    page.finish(answer).array(2).uint(covered.entry).uint(u64::from(covered.request));
    Code::DONE
}

/// Whether the state tells that nothing under the prefix changed behind `from`; `false` where that would take long to say.
fn is_quiet(store: &TwinStore, prefix: &str, from: Position) -> bool {
    let unchanged = |last: EntryIndex| end_of(last) <= from;
    if unchanged(store.last_entry) {
        return true;
    }
    let mut under = store.under(prefix, prefix);
    let quiet = under.by_ref().take(MAX_QUIET_TWINS).all(|(_, twin)| unchanged(twin.last_entry));
    quiet && under.next().is_none()
}

/// How far a page without changes reaches that saw all of the history: `None` where it is to wait.
fn covered_quietly(from: Position, to: Option<EntryIndex>, end: EntryIndex) -> Option<Position> {
    match to {
        Some(to) => Some(end_of(to).max(from)),
        None => (end - end % BLOCK).checked_sub(1).map(end_of).filter(|covered| *covered > from),
    }
}

/// How far a scan came.
enum Scanned {
    /// Up to the end; the entry of the last change, if there was one.
    All(Option<EntryIndex>),
    /// Up to this position, where the page or the work for one call was full.
    Part(Position),
}

fn scan(
    store: &TwinStore,
    entries: &dyn Entries,
    prefix: &str,
    from: Position,
    end: EntryIndex,
    page: &mut SetPage,
) -> Result<Scanned, BrokenChain> {
    let mut bytes_read = 0;
    let mut last = None;
    for index in from.entry..end {
        if index - from.entry >= BLOCK || bytes_read > MAX_SCANNED_BYTES {
            return Ok(Scanned::Part(end_of(index - 1)));
        }
        let bytes = entries.entry(index).ok_or(BrokenChain)?;
        bytes_read += bytes.len();
        let Some(bundle) = BundleEntry::decode(index, &bytes).map_err(|_| BrokenChain)? else { continue };
        for executed in bundle.executed.iter().filter(|executed| executed.position > from) {
            let items: Vec<Item<'_>> = executed.items(store).filter(|item| item.twin.starts_with(prefix)).collect();
            if items.is_empty() {
                continue;
            }
            if !page.add(&bundle, executed, &items) {
                return Ok(Scanned::Part(before(executed.position)));
            }
            last = Some(index);
        }
    }
    Ok(Scanned::All(last))
}

/// The last position before this one that an operation may have.
fn before(position: Position) -> Position {
    match position.request.checked_sub(1) {
        Some(request) => Position { request, ..position },
        None => end_of(position.entry.saturating_sub(1)),
    }
}
