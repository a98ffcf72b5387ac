//! The io_uring itself: set-up, one queue of submissions with one rule for overflow, one wait, and a count of what the
//! kernel still works on.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Entries of the submission queue: what one system call hands over at most; more are handed over in several.
pub(super) const SUBMISSION_ENTRIES: u32 = 256;
/// Entries of the completion queue. The kernel keeps what does not fit until there is room.
pub(super) const COMPLETION_ENTRIES: u32 = 4096;
/// How often `drain` waits for the kernel before it gives up, and how long each time. A process ends with it, which is to take
/// no longer than a second here.
const DRAIN_ROUNDS: u32 = 5;
const DRAIN_WAIT: Duration = Duration::from_millis(200);

/// An io_uring that one thread uses.
pub(super) struct Ring {
    ring: IoUring,
    /// Submissions for which the queue had no room, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Operations in the queue or with the kernel whose last completion has not been popped.
    in_flight: usize,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(SUBMISSION_ENTRIES)?;
        Ok(Self { ring, backlog: VecDeque::new(), in_flight: 0 })
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Queues an operation behind all queued before; it starts with the next `enter`, or sooner if the queue is full.
    ///
    /// # Safety
    /// All memory that the entry names stays valid and is not otherwise touched until its last completion was popped.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.fill_queue();
    }

    /// Moves the backlog into the submission queue, as far as it goes.
    fn fill_queue(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever called `push` vouches for the memory of the entry.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                self.backlog.pop_front();
                self.in_flight += 1;
            } else if self.ring.submit().is_err() || self.ring.submission().is_full() {
                return;
            }
        }
    }

    /// Hands over what is queued and, with `want`, sleeps until something completes or the time is over.
    ///
    /// # Errors
    /// Those of `io_uring_enter`, except those that pass by themselves (time over, interrupted, short of memory).
    pub(super) fn enter(&mut self, want: bool, timeout: Option<Duration>) -> io::Result<()> {
        self.fill_queue();
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        let result = match timeout {
            _ if !want || !self.backlog.is_empty() => {
                if idle {
                    return Ok(());
                }
                self.ring.submit()
            }
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether a completion waits to be popped.
    pub(super) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    pub(super) fn pop(&mut self) -> Option<cqueue::Entry> {
        let completion = self.ring.completion().next()?;
        if !cqueue::more(completion.flags()) {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        Some(completion)
    }

    /// Cancels everything and waits for the end of each operation, after which the kernel touches no memory of ours.
    /// False when it did not end in time: then no memory that an operation names may be freed.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&cqueue::Entry)) -> bool {
        self.backlog.clear();
        for _ in 0..DRAIN_ROUNDS {
            // What was only queued when the cancellation ran may need another one.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            // SAFETY: a cancellation names no memory.
            unsafe { self.push(cancel) };
            while self.in_flight > 0 {
                let idle = !self.is_ready();
                let entered = self.enter(idle, Some(DRAIN_WAIT));
                let mut progress = false;
                while let Some(completion) = self.pop() {
                    each(&completion);
                    progress = true;
                }
                if entered.is_err() || !progress {
                    break;
                }
            }
            if self.in_flight == 0 && self.backlog.is_empty() {
                return true;
            }
        }
        false
    }
}
