//! `atlas serve`'s server: what it gives, what it refuses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use atlas::audit::serve::Server;

use crate::history::History;

/// Runs `ask` beside a server of `dir`, which must then stop by itself.
fn served(dir: &Path, ask: impl FnOnce(SocketAddr)) {
    let server = Server::bind(dir, "127.0.0.1:0".parse().expect("an address")).expect("it listens");
    let address = server.address().expect("an address");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| server.run(&|| stop.load(Ordering::Relaxed)));
        // The server is stopped however the asking ends, or the scope would wait for ever.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask(address)));
        stop.store(true, Ordering::Relaxed);
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Sends bytes as they are and reads to the end: header and body.
fn raw(address: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(request).expect("it takes the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end..].to_vec())
}

fn ask(address: SocketAddr, method: &str, path: &str) -> (String, Vec<u8>) {
    raw(address, format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

#[test]
fn it_gives_the_files_of_the_export_and_nothing_else() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = History::new().export(0, 4, root.path());
    std::fs::write(root.path().join("secret"), "secret").expect("a file");
    std::fs::write(dir.join("mine"), "mine").expect("a file");
    symlink("../secret", dir.join("policies/7")).expect("a link");
    symlink(root.path(), dir.join("tile/3")).expect("a link");
    std::fs::create_dir(dir.join("checkpoints/5")).expect("a folder");
    served(&dir, |address| {
        for (path, kind) in [
            ("checkpoint", "text/plain; charset=utf-8"),
            ("policy.txt", "text/plain; charset=utf-8"),
            ("manifest.json", "application/json"),
            ("tile/0/000", "application/octet-stream"),
            ("tile/1/000.p/2", "application/octet-stream"),
            ("tile/entries/001", "application/octet-stream"),
            ("checkpoints/300", "text/plain; charset=utf-8"),
        ] {
            let expected = std::fs::read(dir.join(path)).expect("a file");
            let (head, body) = ask(address, "GET", &format!("/{path}"));
            assert!(head.starts_with("http/1.1 200") && head.contains(&format!("content-type: {kind}\r\n")), "{head}");
            assert_eq!(body, expected, "{path}");
            let (head, body) = ask(address, "HEAD", &format!("/{path}?query"));
            let length = format!("content-length: {}\r\n", expected.len());
            assert!(head.starts_with("http/1.1 200") && head.contains(&length) && body.is_empty(), "{head}");
        }
        for path in [
            "/",
            "/mine",
            "/tile",
            "/tile/0",
            "/tile/0/999",
            "/../secret",
            "/tile/../../secret",
            "/tile/3/secret",
            "/%2e%2e/secret",
            "//etc/passwd",
            "/etc/passwd",
            "/policies/7",
            "/checkpoints/5",
            "/tile/0/000/",
            "/checkpoints/../checkpoint",
            "/tile/3/000",
        ] {
            let (head, body) = ask(address, "GET", path);
            assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
            assert_eq!(body, b"no such file\n", "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let (head, _) = ask(address, method, "/checkpoint");
            assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head\r\n"), "{method}: {head}");
        }
    });
}

#[test]
fn malformed_and_oversized_requests_end_only_their_connection() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = History::new().export(0, 4, root.path());
    served(&dir, |address| {
        let (head, _) = raw(address, b"nonsense\r\n\r\n");
        assert!(head.is_empty() || head.starts_with("http/1.1 400"), "{head}");
        let long = format!("GET /checkpoint HTTP/1.1\r\nHost: x\r\nx: {}\r\n\r\n", "a".repeat(64 << 10));
        let mut stream = TcpStream::connect(address).expect("a connection");
        // It may be reset before all is sent.
        let _ = stream.write_all(long.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        let (head, _) = ask(address, "GET", "/checkpoint");
        assert!(head.starts_with("http/1.1 200"), "{head}");
    });
}
