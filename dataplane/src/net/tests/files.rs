//! File writes arrive where they should, and misuse is refused.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::*;

fn written(reactor: &mut Reactor) -> (u64, io::Result<usize>) {
    until(reactor, |_, event| match event {
        Event::Written { token, result } => Some((token, result)),
        _ => None,
    })
}

/// Writes from buffers of the reactor with the given flags, and reads back.
fn write_and_read_back(registered: bool, flags: i32) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    let file = fs::OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(&path).unwrap();
    let mut reactor = Reactor::new(&ReactorConfig { registered_memory: registered, ..ReactorConfig::small() }).unwrap();
    let mut buffers = reactor.write_buffers(4, 3 * PAGE_BYTES).unwrap();
    assert!(buffers.iter().all(|buffer| buffer.is_registered() == registered && buffer.len() == 3 * PAGE_BYTES));
    let id = reactor.register_file(file.as_fd()).unwrap();
    drop(file);

    let mut numbers = Numbers(3);
    let mut expected = vec![0; 4 * PAGE_BYTES];
    for (token, buffer) in (0..).zip(&mut buffers) {
        let data = numbers.bytes(PAGE_BYTES);
        Arc::get_mut(buffer).unwrap()[PAGE_BYTES..2 * PAGE_BYTES].copy_from_slice(&data);
        let offset = (3 - token) * PAGE_BYTES;
        expected[offset..offset + PAGE_BYTES].copy_from_slice(&data);
        reactor.write_durable(id, buffer, PAGE_BYTES..2 * PAGE_BYTES, offset as u64, token as u64).unwrap();
        assert!(Arc::get_mut(buffer).is_none(), "a buffer cannot change while it is written");
    }
    let mut tokens: Vec<_> = (0..4)
        .map(|_| {
            let (token, result) = written(&mut reactor);
            assert_eq!(result.unwrap(), PAGE_BYTES);
            token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3]);
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert!(Arc::get_mut(&mut buffers[0]).is_some(), "and can again afterwards");

    reactor.write(id, &buffers[0], 0..PAGE_BYTES, 0, Durability::Cached, 8).unwrap();
    assert_eq!(written(&mut reactor).0, 8);
    reactor.sync(id, 9).unwrap();
    let (token, result) = written(&mut reactor);
    assert_eq!((token, result.unwrap()), (9, 0));
    assert_eq!(fs::read(&path).unwrap()[..PAGE_BYTES], [0; PAGE_BYTES]);
}

#[test]
fn durable_writes_are_read_back() {
    write_and_read_back(true, 0);
    write_and_read_back(false, 0);
}

#[test]
fn direct_durable_writes_are_read_back() {
    write_and_read_back(true, libc::O_DIRECT);
    write_and_read_back(false, libc::O_DIRECT);
}

#[test]
fn buffers_of_another_reactor_are_written_all_the_same() {
    let mut other = Reactor::new(&ReactorConfig::default()).unwrap();
    let mut buffers = other.write_buffers(1, 1).unwrap();
    Arc::get_mut(&mut buffers[0]).unwrap()[..5].copy_from_slice(b"other");
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut reactor = Reactor::new(&ReactorConfig::default()).unwrap();
    let mut own = reactor.write_buffers(1, 1).unwrap();
    Arc::get_mut(&mut own[0]).unwrap()[..5].copy_from_slice(b"owned");
    let id = reactor.register_file(file.as_file().as_fd()).unwrap();
    reactor.write_durable(id, &buffers[0], 0..5, 0, 0).unwrap();
    assert_eq!(written(&mut reactor).1.unwrap(), 5);
    assert_eq!(fs::read(file.path()).unwrap(), b"other");
}

#[test]
fn a_failed_write_says_so() {
    let file = fs::File::open("/dev/null").unwrap();
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let buffer = Arc::new(WriteBuffer::new(1).unwrap());
    let id = reactor.register_file(file.as_fd()).unwrap();
    reactor.write_durable(id, &buffer, 0..10, 0, 5).unwrap();
    let (token, result) = written(&mut reactor);
    assert_eq!((token, result.unwrap_err().raw_os_error()), (5, Some(libc::EBADF)));
}

#[test]
fn misuse_of_files_and_buffers_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let buffer = reactor.write_buffers(1, PAGE_BYTES).unwrap().remove(0);
    assert!(matches!(reactor.write_buffers(1, 1), Err(NetError::BuffersRegistered)));
    assert!(matches!(reactor.write_buffers(MAX_WRITE_BUFFERS + 1, 1), Err(NetError::TooManyBuffers)));

    let id = reactor.register_file(file.as_fd()).unwrap();
    let beyond = reactor.write_durable(id, &buffer, 0..PAGE_BYTES + 1, 0, 0);
    assert!(matches!(beyond, Err(WriteError::OutOfBounds)));
    for token in 0..MAX_WRITES_IN_FLIGHT as u64 {
        reactor.write_durable(id, &buffer, 0..8, token * 8, token).unwrap();
    }
    assert!(matches!(reactor.write_durable(id, &buffer, 0..8, 0, 99), Err(WriteError::Full)));
    assert!(matches!(reactor.unregister_file(id), Err(WriteError::FileBusy)));
    for _ in 0..MAX_WRITES_IN_FLIGHT {
        written(&mut reactor).1.unwrap();
    }
    reactor.unregister_file(id).unwrap();
    assert!(matches!(reactor.write_durable(id, &buffer, 0..8, 0, 0), Err(WriteError::UnknownFile)));
    assert!(matches!(reactor.unregister_file(id), Err(WriteError::UnknownFile)));

    let ids: Vec<_> = (0..MAX_FILES).map(|_| reactor.register_file(file.as_fd()).unwrap()).collect();
    assert!(!ids.contains(&id), "an id is never used twice");
    assert!(matches!(reactor.register_file(file.as_fd()), Err(WriteError::TooManyFiles)));
}

#[test]
fn a_reactor_dropped_while_writing_frees_the_buffer_afterwards() {
    let file = tempfile::tempfile().unwrap();
    let mut reactor = Reactor::new(&ReactorConfig::default()).unwrap();
    let mut buffer = reactor.write_buffers(1, 1 << 20).unwrap().remove(0);
    let id = reactor.register_file(file.as_fd()).unwrap();
    for token in 0..8 {
        reactor.write_durable(id, &buffer, 0..1 << 20, token << 20, token).unwrap();
    }
    reactor.submit().unwrap();
    drop(reactor);
    assert!(Arc::get_mut(&mut buffer).is_some());
}
