//! Read errors of mapped files, in words.
//!
//! Segments are read through mappings. Where the disk cannot give a page the kernel has no call to fail and ends the process with
//! SIGBUS: nothing wrong is ever served, but nobody is told why. So the handler says it, and the process ends all the same.

use std::sync::Once;

/// What the operator reads; a constant, as nothing can be put together in a signal handler.
const MESSAGE: &str = "error: a file in this replica's data directory cannot be read (SIGBUS): its disk is failing, or the file was cut \
                       short; nothing that was not read was told to anybody. Check the disk and what the kernel says about it, then \
                       start the replica again; if the disk is lost, `atlas recover` first\n";

extern "C" fn say(_signal: libc::c_int) {
    // SAFETY: `write` may be called in a signal handler, and the message is a constant.
    unsafe { libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
}

/// From now on a read error of a mapped file is told on standard error before it ends the process.
pub(crate) fn explain_read_errors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(libc::c_int) = say;
        // SAFETY: all zeros is a valid value of this plain struct.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        // Once: the handler returns to the same read, which then ends the process as it would have.
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the handler calls nothing but `write`, and lives as long as the program.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    });
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Set for the process that is to fail.
    const FAILS: &str = "ATLAS_TEST_READ_FAILS";

    #[test]
    fn a_mapped_read_that_fails_says_why_and_ends_the_process() {
        if std::env::var_os(FAILS).is_some() {
            explain_read_errors();
            let dir = tempfile::tempdir().unwrap();
            let file = File::create_new(dir.path().join("segment")).unwrap();
            file.set_len(8_192).unwrap();
            let file = File::open(dir.path().join("segment")).unwrap();
            // SAFETY: cutting the file short is the point: it is what a read error of the disk looks like from here.
            let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
            File::options().write(true).open(dir.path().join("segment")).unwrap().set_len(0).unwrap();
            assert_eq!(std::hint::black_box(&map)[5_000], 0, "it was read");
            return;
        }
        let name = "log::bus::tests::a_mapped_read_that_fails_says_why_and_ends_the_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", name, "--nocapture"]).env(FAILS, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Check the disk"), "{output:?}");
    }
}
