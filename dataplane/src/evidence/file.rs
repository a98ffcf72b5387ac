//! The file, and the thread that writes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::format::{self, HEADER, Next};
use super::{Book, MAX_BYTES};
use crate::types::Digest;
use crate::wire::limits::MAX_REPLICAS;

/// Name of the file in the data directory.
const NAME: &str = "evidence";
/// What could not be read to its end.
const DAMAGED: &str = "evidence.damaged";
/// While a new file is made.
const NEW: &str = "evidence.new";

/// Longest file that is read: every replica's share, with room for counts. A longer one is not ours.
const MAX_FILE: u64 = ((MAX_BYTES + (1 << 20)) * MAX_REPLICAS) as u64;

/// Records that may wait for the disk.
const MAX_WAITING: usize = 256;

/// How long a clean end waits for the disk.
const END: Duration = Duration::from_secs(1);

/// See the module doc of [`crate::evidence`].
pub struct EvidenceFile {
    records: Option<SyncSender<Vec<u8>>>,
    done: Receiver<()>,
    lost: Arc<AtomicU64>,
}

impl EvidenceFile {
    /// Reads the file in a data directory, and starts the thread that appends to it. Always gives a book; what is wrong with the
    /// file is said by a line for the operator.
    pub fn open(data: &Path, genesis: Digest) -> (Self, Book, Option<String>) {
        let (book, opened) = open(data, &genesis);
        let (file, warning) = match opened {
            Ok((file, warning)) => (Some(file), warning),
            Err(error) => {
                let path = data.join(NAME);
                let path = path.display();
                (None, Some(format!("warning: {path} cannot be used: {error}; evidence is kept in memory alone")))
            }
        };
        let (records, waiting) = sync_channel(MAX_WAITING);
        let (ended, done) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let work = move || {
            write_all(file, &waiting, &counted);
            // Nobody may be waiting any more.
            let _ = ended.send(());
        };
        let thread = crate::cores::spawn("evidence", work);
        (Self { records: thread.is_ok().then_some(records), done, lost }, book, warning)
    }

    /// Hands a record over to be written; it is lost and counted where the disk does not keep up.
    pub fn append(&self, record: Vec<u8>) {
        let taken = self.records.as_ref().is_some_and(|records| records.try_send(record).is_ok());
        if !taken {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that the file does not have.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all is written, for a second at most.
    pub fn end(&mut self) {
        if self.records.take().is_some() {
            let _ = self.done.recv_timeout(END);
        }
    }
}

/// The file, open for appending, and how long it is.
struct Tail {
    file: File,
    length: u64,
}

fn write_all(mut tail: Option<Tail>, waiting: &Receiver<Vec<u8>>, lost: &AtomicU64) {
    for record in waiting {
        let written = tail.as_mut().is_some_and(|tail| tail.append(&record).is_ok());
        if !written {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tail {
    /// Appends a record. One that failed half-way before is cut off first.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        self.file.write_all(record)?;
        self.file.sync_data()?;
        self.length += record.len() as u64;
        Ok(())
    }
}

/// What a file's bytes say, which of them are to be kept, and whether they are all sound.
struct Contents {
    book: Book,
    /// Evidence as it stood there.
    records: Vec<u8>,
    whole: bool,
    /// It ends as it should, and says nothing twice.
    tidy: bool,
}

/// Reads the file, and opens it for appending; what is wrong with it for the operator.
fn open(data: &Path, genesis: &Digest) -> (Book, io::Result<(Tail, Option<String>)>) {
    let path = data.join(NAME);
    let found = match read(&path) {
        Ok(bytes) => contents(&bytes, genesis),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Contents { book: Book::default(), records: Vec::new(), whole: true, tidy: false }
        }
        Err(error) => return (Book::default(), Err(error)),
    };
    let opened = renew(data, &path, genesis, &found);
    (found.book, opened)
}

/// Sets a damaged file aside and writes an untidy one anew.
fn renew(data: &Path, path: &Path, genesis: &Digest, found: &Contents) -> io::Result<(Tail, Option<String>)> {
    let mut warning = None;
    if !found.whole {
        let damaged = data.join(DAMAGED);
        fs::rename(path, &damaged)?;
        let (path, damaged) = (path.display(), damaged.display());
        warning = Some(format!("warning: {path} is damaged: it is kept as {damaged}, and what could be read goes on"));
    }
    if !found.tidy {
        let mut bytes = format::header(genesis);
        bytes.extend_from_slice(&found.records);
        for ((replica, kind), tally) in &found.book.tallies {
            bytes.extend_from_slice(&format::count(tally.at_ms, *replica, kind, tally.count));
        }
        let new = data.join(NEW);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(data)?.sync_all()?;
    }
    let file = OpenOptions::new().append(true).open(path)?;
    let length = file.metadata()?.len();
    Ok((Tail { file, length }, warning))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A byte beyond the limit makes it damaged; what stands before is read.
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn contents(bytes: &[u8], genesis: &Digest) -> Contents {
    let mut book = Book::default();
    let mut records = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(format::header(genesis).as_slice()) else {
        // A header that was cut short holds nothing yet.
        let whole = bytes.len() < HEADER && format::header(genesis).starts_with(bytes);
        return Contents { book, records, whole, tidy: false };
    };
    let mut whole = bytes.len() as u64 <= MAX_FILE;
    let mut counts = 0;
    let tidy = loop {
        match format::next(rest) {
            // A count of each is what a start writes.
            Next::End => break counts <= book.tallies.len(),
            Next::Torn => break false,
            Next::Damaged => {
                whole = false;
                break false;
            }
            Next::Record(record, bytes) => {
                rest = &rest[bytes.len()..];
                match record {
                    Some(record @ format::Record::Evidence(_)) => {
                        records.extend_from_slice(bytes);
                        book.restore(record, bytes.len());
                    }
                    Some(record) => {
                        counts += 1;
                        book.restore(record, bytes.len());
                    }
                    // A later version's: kept as it is.
                    None => records.extend_from_slice(bytes),
                }
            }
        }
    };
    Contents { book, records, whole, tidy: tidy && whole }
}
