//! An HTTP server to stand behind the gateway, with the manners that a path asks for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What a backend has seen and what it waits for.
#[derive(Debug)]
pub struct Seen {
    name: String,
    pub requests: AtomicU64,
    pub connections: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
    /// Bytes of bodies read, and offered.
    pub received: AtomicU64,
    pub sent: AtomicU64,
    /// Requests on `/gated`, and uploads on `/upload-gated`, go on when this is true.
    gate: watch::Sender<bool>,
}

pub struct Backend {
    pub seen: Arc<Seen>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    pub async fn start(name: &str) -> Self {
        Self::start_on(name, 0).await
    }

    pub async fn start_on(name: &str, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let seen = Arc::new(Seen {
            name: name.to_owned(),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            gate: watch::Sender::new(false),
        });
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(accept(listener, Arc::clone(&seen)));
        Self { seen, address, task }
    }

    pub fn name(&self) -> &str {
        &self.seen.name
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub fn open_gate(&self) {
        self.seen.gate.send_replace(true);
    }

    /// Gone at once, with all its connections.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("accepted");
                seen.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(stream, Arc::clone(&seen)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, seen: Arc<Seen>) {
    seen.open.fetch_add(1, Ordering::SeqCst);
    let counted = Arc::clone(&seen);
    let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&seen)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    counted.open.fetch_sub(1, Ordering::SeqCst);
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).boxed())
}

async fn answer(mut request: Request<Incoming>, seen: Arc<Seen>) -> Result<Answer, Infallible> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/gated" => {
            let _ = seen.gate.subscribe().wait_for(|open| *open).await;
            text(seen.name.clone())
        }
        "/upload" => {
            drink(&mut request, &seen).await;
            text(seen.received.load(Ordering::SeqCst).to_string())
        }
        "/upload-gated" => {
            let _ = seen.gate.subscribe().wait_for(|open| *open).await;
            drink(&mut request, &seen).await;
            text(seen.received.load(Ordering::SeqCst).to_string())
        }
        // Answers at once and reads on its own, as fast as it can.
        "/both-ways" => {
            let left = request.uri().query().and_then(|left| left.parse().ok()).expect("a number of bytes");
            let reader = Arc::clone(&seen);
            tokio::spawn(async move { drink(&mut request, &reader).await });
            Response::new(Spring { left, seen: Arc::clone(&seen), exact: false }.boxed())
        }
        "/download" => {
            let left = request.uri().query().and_then(|left| left.parse().ok()).expect("a number of bytes");
            Response::new(Spring { left, seen: Arc::clone(&seen), exact: false }.boxed())
        }
        "/sized" => {
            let left = request.uri().query().and_then(|left| left.parse().ok()).expect("a number of bytes");
            Response::new(Spring { left, seen: Arc::clone(&seen), exact: true }.boxed())
        }
        "/head" => text(format!("{:?} {} {:?}", request.method(), request.uri(), request.headers())),
        "/status" => {
            let mut answer = text("");
            *answer.status_mut() = request.uri().query().and_then(|code| code.parse().ok()).expect("a status");
            answer
        }
        "/not-modified" => {
            let mut answer = text("");
            *answer.status_mut() = hyper::StatusCode::NOT_MODIFIED;
            answer.headers_mut().insert("etag", hyper::header::HeaderValue::from_static("\"a\""));
            answer
        }
        _ => {
            drink(&mut request, &seen).await;
            text(seen.name.clone())
        }
    })
}

async fn drink(request: &mut Request<Incoming>, seen: &Seen) {
    while let Some(Ok(frame)) = request.body_mut().frame().await {
        let count = frame.data_ref().map_or(0, Bytes::len);
        seen.received.fetch_add(count as u64, Ordering::SeqCst);
    }
}

/// A body that is made as it is asked for.
struct Spring {
    left: u64,
    seen: Arc<Seen>,
    exact: bool,
}

impl Body for Spring {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static PIECE: [u8; 64 * 1024] = [b'.'; 64 * 1024];
        let count = self.left.min(PIECE.len() as u64);
        if count == 0 {
            return Poll::Ready(None);
        }
        self.left -= count;
        self.seen.sent.fetch_add(count, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..count as usize])))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}
