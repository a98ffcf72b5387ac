//! Metrics over HTTP: GET /metrics, in OpenMetrics text, on the address that `[control] metrics_listen` names. Nothing else is served.
//!
//! HTTP/1.1 by hyper, which needs no runtime of its own. A request's head has at most [`MAX_HTTP_HEAD`] bytes, a request and its answer
//! take at most [`HTTP`], and [`MAX_HTTP_CONNECTIONS`] are served at a time; one more waits in the listen queue.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::{sleep, timeout};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};

use crate::desk::{Desk, Share};
use crate::limits::{HTTP, MAX_HTTP_CONNECTIONS, MAX_HTTP_HEAD};
use crate::log::report;
use crate::mapped::Measured;
use crate::metrics;

/// Bytes that are read at once.
const CHUNK: usize = 1_024;

/// Between two looks for a free place.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves until the process ends; says why where it cannot.
pub(crate) async fn serve(desk: Rc<Desk>, address: SocketAddr) {
    let listener = match TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => return report(&format!("warning: no metrics over HTTP, cannot listen on {address}: {error}")),
    };
    report(&format!("metrics are served on http://{address}/metrics"));
    let open = Rc::new(Cell::new(0));
    loop {
        desk.admit(Share::Metrics).await;
        if open.get() >= MAX_HTTP_CONNECTIONS {
            sleep(PAUSE).await;
            continue;
        }
        let Ok(stream) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        open.set(open.get() + 1);
        let (desk, open) = (Rc::clone(&desk), Rc::clone(&open));
        glommio::spawn_local(async move {
            // What ends a connection badly is the client's affair.
            let work = desk.metered(Share::Metrics, connection(Rc::clone(&desk), stream));
            let _ = timeout(HTTP, async { Ok(work.await) }).await;
            open.set(open.get() - 1);
        })
        .detach();
    }
}

async fn connection(desk: Rc<Desk>, stream: TcpStream) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let desk = Rc::clone(&desk);
        async move { Ok::<_, Infallible>(answer(&desk, &request)) }
    });
    let mut builder = http1::Builder::new();
    // One request a connection: a scraper asks seldom, and places are few.
    builder.keep_alive(false).max_buf_size(MAX_HTTP_HEAD.max(8_192)).half_close(true);
    builder.serve_connection(Socket(stream), service).await
}

fn answer(desk: &Desk, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = |status, text: &str| {
        let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "only /metrics is here");
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return response;
    }
    match metrics::open_metrics(Measured::of_board(&desk.board)) {
        Ok(text) => {
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let kind = hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// A glommio stream as hyper takes it.
struct Socket(TcpStream);

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let room = out.remaining().min(CHUNK);
        let read = ready!(Pin::new(&mut self.get_mut().0).poll_read(cx, &mut chunk[..room]))?;
        out.put_slice(&chunk[..read]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_close(cx)
    }
}
