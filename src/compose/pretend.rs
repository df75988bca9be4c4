//! The pretend engine: an HTTP server on a Unix socket that answers from a [`Ledger`] and asks the real engine only for
//! what is read.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::asked::{Answer, Asked};
use super::ledger::{Ledger, Reply};
use crate::sys;

/// Of one request. The largest are archives of secrets.
const BODY_MAX: usize = 64 << 20;
/// Compose opens a few connections; more than this is none of its doing.
const CONNECTIONS_MAX: usize = 256;

/// A pretend engine that answers until it is stopped.
pub(super) struct Pretend {
    folder: PathBuf,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    ledger: Mutex<Option<Ledger>>,
    engine: Arc<Asked>,
    /// The first question that the real engine did not answer, and why.
    failed: Mutex<Option<(String, io::Error)>>,
}

impl Pretend {
    /// Begins to answer, in a folder that nobody else can enter.
    pub(super) fn start(ledger: Ledger, engine: &Arc<Asked>) -> Result<Self, (PathBuf, io::Error)> {
        let folder = folder().map_err(|error| (std::env::temp_dir(), error))?;
        let listener = match UnixListener::bind(folder.join(SOCKET)) {
            Ok(listener) => listener,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err((folder, error));
            }
        };
        let shared =
            Arc::new(Shared { ledger: Mutex::new(Some(ledger)), engine: Arc::clone(engine), failed: Mutex::new(None) });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { folder, shared, server })
    }

    /// What to give Compose as `DOCKER_HOST`.
    pub(super) fn address(&self) -> String {
        format!("unix://{}", self.folder.join(SOCKET).display())
    }

    /// Ends, and hands over what was written; an error when the real engine did not answer once.
    pub(super) fn stop(self) -> Result<Ledger, (String, io::Error)> {
        if let Some(error) = lock(&self.shared.failed).take() {
            return Err(error);
        }
        let ledger = lock(&self.shared.ledger).take();
        ledger.ok_or_else(|| ("nothing more".to_owned(), io::Error::other("the rehearsal has ended already")))
    }
}

impl Drop for Pretend {
    fn drop(&mut self) {
        // With it go its connections.
        self.server.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const SOCKET: &str = "engine.sock";

/// A new folder of our own, short enough for a socket's path (107 bytes).
fn folder() -> io::Result<PathBuf> {
    let name = format!("baton-{}", sys::random::id()?);
    let usual = std::env::temp_dir();
    let base = if usual.as_os_str().len() + name.len() + SOCKET.len() + 2 <= 107 { usual } else { "/tmp".into() };
    let folder = base.join(name);
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Nobody panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those that end free some.
            connections.join_next().await;
            continue;
        };
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&shared)));
            // A connection that breaks is Compose's to tell.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return Ok(said(StatusCode::PAYLOAD_TOO_LARGE, "larger than a rehearsal takes"));
    };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let reply = match &mut *lock(&shared.ledger) {
        Some(ledger) => ledger.asked(head.method.as_str(), &target, &body.to_bytes()),
        None => return Ok(said(StatusCode::SERVICE_UNAVAILABLE, "the rehearsal has ended")),
    };
    let (status, headers, body) = match reply {
        Reply::Here(status, value) => {
            let bytes = if value.is_null() { Bytes::new() } else { value.to_string().into() };
            (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), HeaderMap::new(), bytes)
        }
        // One question that was not answered is the end of it: Compose asks again and again, and each would wait.
        Reply::Upstream if lock(&shared.failed).is_some() => {
            return Ok(said(StatusCode::BAD_GATEWAY, "the engine does not answer"));
        }
        Reply::Upstream => match shared.engine.ask(&head, &target).await {
            Ok(Answer { status, headers, body }) => {
                let (status, body) = shown(&shared, &head, &target, status, body);
                (status, headers, body)
            }
            Err(error) => return Ok(shared.lost(&head, error)),
        },
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().entry(CONTENT_TYPE).or_insert(http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What of the real engine's answer Compose gets to see.
fn shown(
    shared: &Shared,
    head: &http::request::Parts,
    target: &str,
    status: StatusCode,
    body: Bytes,
) -> (StatusCode, Bytes) {
    let parsed = serde_json::from_slice::<Value>(&body).ok().filter(|_| head.method == http::Method::GET);
    match (&mut *lock(&shared.ledger), parsed) {
        (Some(ledger), Some(value)) => {
            let (now, value) = ledger.seen(target, status.as_u16(), value);
            (StatusCode::from_u16(now).unwrap_or(status), value.to_string().into())
        }
        _ => (status, body),
    }
}

impl Shared {
    fn lost(&self, head: &http::request::Parts, error: io::Error) -> Response<Full<Bytes>> {
        lock(&self.failed).get_or_insert((format!("{} {}", head.method, head.uri.path()), error));
        said(StatusCode::BAD_GATEWAY, "the engine does not answer")
    }
}

fn said(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(serde_json::json!({ "message": message }).to_string().into()));
    *response.status_mut() = status;
    response
}
