//! The log's writes on the replica's own io_uring: what [`Log::begin_write`] describes, handed to a
//! [`Reactor`](crate::net::Reactor), so that one wait covers sockets and disk.

use super::core::Log;
use super::device::Device as _;
use super::error::LogError;
use super::files::{FileDevice, fault};
use super::{Record, Write};
use crate::net::{FileId, Reactor, WriteError};

/// Bytes at the start of each staging buffer that are registered with the kernel. Writes that reach beyond them are rare and
/// go unregistered, so that four replicas of one user fit the usual 8 MiB of locked memory.
const REGISTERED_BYTES: usize = 512 << 10;

/// The token under which the reactor reports the log's writes.
pub const LOG_WRITE: u64 = u64::MAX;

/// Carries a log's writes out on a reactor. One log, one reactor, one of these.
#[derive(Debug, Default)]
pub struct ReactorWriter {
    file: Option<(u32, FileId)>,
    registered: bool,
}

impl ReactorWriter {
    /// Registers the log's buffers with the reactor where locked memory permits; the reactor keeps a warning where not.
    ///
    /// # Errors
    /// The system refuses for another reason than memory.
    pub fn new<T: Record>(log: &Log<T, FileDevice>, reactor: &mut Reactor) -> Result<Self, crate::net::NetError> {
        let parts = log.buffers().map(|(address, length)| (address, length.min(REGISTERED_BYTES)));
        // SAFETY: a registered buffer is read only by the writes that `start` begins, while the log keeps it; a buffer that
        // is freed meanwhile stays pinned by the kernel and is never named again.
        let registered = unsafe { reactor.register_borrowed(&parts) }?;
        Ok(Self { file: None, registered })
    }

    /// Starts the log's next write, if there is one; [`Event::Written`](crate::net::Event::Written) with [`LOG_WRITE`] follows,
    /// whose result goes to [`Log::completed`].
    ///
    /// # Errors
    /// The log's end.
    pub fn start<T: Record>(&mut self, log: &mut Log<T, FileDevice>, reactor: &mut Reactor) -> Result<bool, LogError> {
        let Some(write) = log.begin_write()? else { return Ok(false) };
        match self.submit(log, reactor, &write) {
            Ok(()) => Ok(true),
            Err(WriteError::Register(source)) => {
                let file = log.device().path(&super::device::segment_name(write.segment));
                Err(fault(&file, "register")(source))
            }
            // Nothing was begun: the log reports the failed sync.
            Err(_) => log.completed(Err(libc::EIO)).map(|_| false),
        }
    }

    fn submit<T: Record>(
        &mut self,
        log: &Log<T, FileDevice>,
        reactor: &mut Reactor,
        write: &Write,
    ) -> Result<(), WriteError> {
        let file = match self.file {
            Some((segment, file)) if segment == write.segment => file,
            old => {
                if let Some((_, file)) = old {
                    reactor.unregister_file(file)?;
                }
                let tail = log.device().file(write.segment).ok_or(WriteError::UnknownFile)?;
                let file = reactor.register_file(tail)?;
                self.file = Some((write.segment, file));
                file
            }
        };
        let inside = self.registered && log.registered_prefix(write, REGISTERED_BYTES);
        let buffer = inside.then_some(u16::from(write.buffer));
        // SAFETY: the log leaves the memory of a write it began alone until `completed`, and leaks it rather than free it
        // before; the completion reaches `completed` only through the reactor's event.
        unsafe { reactor.write_borrowed(file, write.address, write.len, buffer, u64::from(write.offset), LOG_WRITE) }
    }
}
