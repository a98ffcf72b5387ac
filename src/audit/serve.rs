//! `atlas serve`: an export over HTTP, read-only, for C2SP tlog-tiles clients.
//!
//! GET and HEAD of the files of an export and of nothing else: a path is first one that an export has, then opened so that nothing
//! leads out of the directory. Tiles, entries, `checkpoints/` and `policies/` never change and say so; `checkpoint` must be asked again.
//! Compression, ranges and TLS are left to a proxy in front.
//!
//! # Limits
//! [`MAX_CONNECTIONS`] at a time (more wait to be accepted), [`HEADER_SECONDS`] for a request's header, [`MAX_HEADER`] of it,
//! [`CONNECTION_SECONDS`] for a connection from its beginning to its end. Files are read whole: the longest are entries, 16 MiB, and the
//! manifest, so memory is bounded by [`MAX_READS`] of them; requests beyond wait.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use atlas_dataplane::history::tiles::{MAX_BUNDLE_BYTES, Tile};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::net::{TcpListener, TcpStream};
use smol::{Executor, Timer};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::files::{FileFault, Tree};
use super::layout::{CHECKPOINT, MANIFEST, MAX_MANIFEST, is_export_path};

/// Most connections at a time.
pub const MAX_CONNECTIONS: usize = 256;

/// A request's header must be there by then, seconds.
pub const HEADER_SECONDS: u64 = 10;

/// A connection lasts no longer, seconds.
pub const CONNECTION_SECONDS: u64 = 120;

/// Longest header of a request, bytes.
pub const MAX_HEADER: usize = 16 << 10;

/// Most files in memory at a time.
pub const MAX_READS: usize = 32;

/// How often the end is looked for.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// How long connections have to end once the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// An export that is served.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    tree: Tree,
    connections: Semaphore,
    reads: Semaphore,
}

impl Server {
    /// Opens the directory and listens.
    ///
    /// # Errors
    /// The directory or the address.
    pub fn bind(dir: &Path, address: SocketAddr) -> io::Result<Self> {
        let tree = Tree::open(dir)?;
        let listener = smol::block_on(TcpListener::bind(address))?;
        let shared = Shared { tree, connections: Semaphore::new(MAX_CONNECTIONS), reads: Semaphore::new(MAX_READS) };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` says so; connections that are open then have five seconds to end.
    pub fn run(&self, stop: &dyn Fn() -> bool) {
        let executor = Executor::new();
        smol::block_on(executor.run(async {
            let stopped = async {
                while !stop() {
                    Timer::after(STOP_INTERVAL).await;
                }
            };
            self.accept(&executor).or(stopped).await;
            let ended = async {
                while !executor.is_empty() {
                    Timer::after(STOP_INTERVAL).await;
                }
            };
            let late = async {
                Timer::after(GRACE).await;
            };
            ended.or(late).await;
        }));
    }

    async fn accept<'a>(&self, executor: &Executor<'a>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors, as a rule: some connection will end.
                Timer::after(STOP_INTERVAL).await;
                continue;
            };
            let shared = Arc::clone(&self.shared);
            // Whoever has no permit yet is accepted and waits; so at most one connection more than permitted is open.
            while shared.connections.try_acquire().is_none() {
                Timer::after(STOP_INTERVAL).await;
            }
            executor.spawn(async move { connection(stream, shared).await }).detach();
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    let _permit = shared.connections.acquire().await;
    let service = service_fn(|request| answer(request, &shared));
    let mut builder = http1::Builder::new();
    builder.timer(SmolTimer::new()).header_read_timeout(Duration::from_secs(HEADER_SECONDS)).max_buf_size(MAX_HEADER);
    let served = pin!(builder.serve_connection(FuturesIo::new(stream), service));
    let limit = async {
        Timer::after(Duration::from_secs(CONNECTION_SECONDS)).await;
        Ok(())
    };
    // A connection that fails harms nobody but its client.
    let _: Result<(), hyper::Error> = served.or(limit).await;
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_head = request.method() == Method::HEAD;
    if !is_head && request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = request.uri().path().strip_prefix('/').unwrap_or_default();
    // No path of an export needs decoding: one with a % is none.
    if !is_export_path(path) {
        return Ok(plain(StatusCode::NOT_FOUND, "no such file\n"));
    }
    let _permit = shared.reads.acquire().await;
    let max = if path == MANIFEST { MAX_MANIFEST } else { MAX_BUNDLE_BYTES };
    let bytes = match shared.tree.read(path, max) {
        Ok(bytes) => bytes,
        Err(FileFault::Missing | FileFault::NotAFile) => return Ok(plain(StatusCode::NOT_FOUND, "no such file\n")),
        Err(_) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n")),
    };
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Full::new(if is_head { Bytes::new() } else { Bytes::from(bytes) }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(path)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control(path)));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn content_type(path: &str) -> &'static str {
    match path {
        MANIFEST => "application/json",
        path if Tile::parse(path).is_some() => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    }
}

fn cache_control(path: &str) -> &'static str {
    // An export that is written anew in the same place changes these, and nothing else.
    if path == CHECKPOINT || path == MANIFEST { "no-cache" } else { "public, max-age=604800, immutable" }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
