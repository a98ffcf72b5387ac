//! What surrounds the reactor: other threads, signals, limits of the host, a kernel that refuses.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use super::super::probe::classify;
use super::*;

#[test]
fn another_thread_wakes_a_sleeping_reactor() {
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let waker = reactor.waker();
    let (go, gone) = std::sync::mpsc::channel();
    let other = thread::spawn(move || {
        for () in gone {
            waker.wake();
        }
    });
    for _ in 0..1000 {
        go.send(()).unwrap();
        // Without a limit: it returns only because it was woken.
        reactor.wait(None).unwrap();
        assert!(matches!(reactor.next_event(), Some(Event::Woken)));
        assert!(reactor.next_event().is_none());
    }
    drop(go);
    other.join().unwrap();
}

#[test]
fn wakes_before_a_wait_are_one() {
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let waker = reactor.waker();
    for _ in 0..5 {
        waker.wake();
    }
    reactor.wait(None).unwrap();
    assert!(matches!(reactor.next_event(), Some(Event::Woken)));
    reactor.wait(Some(Duration::ZERO)).unwrap();
    assert!(reactor.next_event().is_none());
    drop(reactor);
    waker.wake();
}

#[test]
fn signals_arrive_as_events() {
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    reactor.handle_signals(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();
    assert!(matches!(reactor.handle_signals(&[libc::SIGUSR1]), Err(NetError::SignalsHandled)));
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGUSR1] {
        // SAFETY: the signal goes to this thread, which has it blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
        let got = until(&mut reactor, |_, event| match event {
            Event::Signal(number) => Some(number),
            _ => None,
        });
        assert_eq!(got, signal);
    }
    let mut other = Reactor::new(&ReactorConfig::small()).unwrap();
    assert!(matches!(other.handle_signals(&[4711]), Err(NetError::System { .. })));
}

#[test]
fn this_host_passes_the_probe() {
    let found = probe().unwrap();
    assert!(found.kernel.contains('.'));
    assert!(found.file_descriptor_limit > 0);
}

#[test]
fn each_refusal_of_the_kernel_is_told_apart() {
    let case =
        |errno, switch, kernel: &str| classify("try", io::Error::from_raw_os_error(errno), switch, kernel.to_owned());
    assert!(matches!(case(libc::EPERM, Some(2), "6.8.0"), ProbeError::DisabledForAll));
    assert!(matches!(case(libc::EPERM, Some(1), "6.8.0"), ProbeError::DisabledForUser));
    assert!(matches!(case(libc::EPERM, Some(0), "6.8.0"), ProbeError::Blocked { .. }));
    assert!(matches!(case(libc::ENOSYS, None, "6.1.0-18-amd64"), ProbeError::Blocked { .. }));
    assert!(matches!(case(libc::ENOSYS, None, "4.19.0"), ProbeError::KernelTooOld { .. }));
    assert!(matches!(case(libc::EINVAL, None, "5.15.0-91-generic"), ProbeError::KernelTooOld { .. }));
    assert!(matches!(case(libc::EINVAL, None, "6.1"), ProbeError::Other { .. }));
    assert!(matches!(case(libc::ENOMEM, None, "6.8.0"), ProbeError::LockedMemory { .. }));
    assert!(matches!(case(libc::EMFILE, None, "6.8.0"), ProbeError::FileDescriptors { .. }));
    assert!(case(libc::EPERM, Some(2), "6.8.0").to_string().contains("sysctl -w kernel.io_uring_disabled=0"));
    assert!(case(libc::ENOMEM, None, "6.8.0").to_string().contains("LimitMEMLOCK="));
    assert!(case(libc::ENOSYS, None, "6.8.0").to_string().contains("seccomp"));
}

/// Has the kernel refuse io_uring_setup in this thread with `errno`, as a container's seccomp profile does.
fn forbid_io_uring(errno: i32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain system calls with a filter that lives across them; they bind this thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn a_seccomp_filter_is_recognised() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let thread = thread::spawn(move || {
            forbid_io_uring(errno);
            assert!(matches!(probe(), Err(ProbeError::Blocked { .. })));
            assert!(matches!(
                Reactor::new(&ReactorConfig::small()),
                Err(NetError::Unsupported(ProbeError::Blocked { .. }))
            ));
        });
        thread.join().unwrap();
    }
}

/// Runs one test of this file again in a process of its own, whose limits it may change.
fn alone(test: &str) -> bool {
    const MARK: &str = "ATLAS_NET_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn set_limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: a plain system call with a limit that lives across it.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Gives up the right to exceed limits (root's), in this thread.
fn become_ordinary() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let none = [0u32; 6];
    // SAFETY: the header names version 3 of the interface and this thread; the data has the two triples it wants.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) }, 0);
}

/// What a replica registers by default.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

#[test]
fn four_reactors_of_a_user_fit_into_8_mib_and_what_does_not_fit_goes_unregistered() {
    if !alone("four_reactors_of_a_user_fit_into_8_mib_and_what_does_not_fit_goes_unregistered") {
        return;
    }
    become_ordinary();
    set_limit(libc::RLIMIT_MEMLOCK, 8 << 20);
    let unregistered = |reactor: &Reactor| {
        reactor.warnings().iter().find(|warning| matches!(warning, Warning::UnregisteredBuffers { .. })).cloned()
    };
    let mut reactors = Vec::new();
    for _ in 0..4 {
        let mut reactor = Reactor::new(&ReactorConfig::default()).unwrap();
        let buffers = reactor.write_buffers(4, WRITE_BUFFER_BYTES / 4).unwrap();
        assert_eq!(unregistered(&reactor), None);
        assert!(buffers.iter().all(|buffer| buffer.is_registered()));
        reactors.push((reactor, buffers));
    }
    let mut crowded = Reactor::new(&ReactorConfig::default()).unwrap();
    let mut buffers = crowded.write_buffers(4, WRITE_BUFFER_BYTES).unwrap();
    assert!(unregistered(&crowded).unwrap().to_string().contains("LimitMEMLOCK="));
    assert!(!buffers[0].is_registered());
    let file = tempfile::NamedTempFile::new().unwrap();
    let id = crowded.register_file(file.as_file().as_fd()).unwrap();
    Arc::get_mut(&mut buffers[0]).unwrap()[..4].copy_from_slice(b"slow");
    crowded.write_durable(id, &buffers[0], 0..4, 0, 1).unwrap();
    until(&mut crowded, |_, event| matches!(event, Event::Written { result: Ok(4), .. }).then_some(()));
    assert_eq!(std::fs::read(file.path()).unwrap(), b"slow");
}

#[test]
fn without_lockable_memory_the_probe_says_so() {
    if !alone("without_lockable_memory_the_probe_says_so") {
        return;
    }
    become_ordinary();
    set_limit(libc::RLIMIT_MEMLOCK, 0);
    assert!(matches!(probe(), Err(ProbeError::LockedMemory { limit: 0, .. })));
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_nothing_else() {
    if !alone("running_out_of_descriptors_pauses_accepting_and_nothing_else") {
        return;
    }
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // The kernel holds an accept to the limit that was in force when it was armed.
    set_limit_soft_files(used + 3);
    let first = plain(address);
    let connection = accept(&mut reactor);
    set_limit_soft_files(used + 100);
    let peers: Vec<_> = (0..20).map(|_| plain(address)).collect();
    set_limit_soft_files(used + 3);
    settle(&mut reactor, |reactor| reactor.counters().accept_failures > 0);
    for _ in 0..1000 {
        reactor.wait(Some(Duration::ZERO)).unwrap();
        assert!(reactor.next_event().is_none());
    }
    assert!(reactor.counters().accept_failures < 100, "it tries again and again");
    settle(&mut reactor, |reactor| reactor.counters().accept_failures >= 2);
    assert!(reactor.counters().accepted < 21);
    reactor.send_with(connection, 5, |queue| queue.extend_from_slice(b"alive")).unwrap();
    reactor.submit().unwrap();
    let mut got = [0; 5];
    (&first).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"alive");
    set_limit_soft_files(used + 100);
    settle(&mut reactor, |reactor| reactor.counters().accepted == 21);
    drop(peers);
}

/// Lowers or raises the soft limit of descriptors only.
fn set_limit_soft_files(value: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls with a limit that lives across them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = value;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}
