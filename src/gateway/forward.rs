//! One request: choose a target, hold it while there is none, send it on, bring the answer back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::body::{Download, Reply, ReplyBody, Upload};
use super::headers::{self, Refused};
use super::limits::{HELD_MAX, REUSE_UNSAFE_MAX, SEND_ATTEMPTS_MAX};
use super::listener::Listener;
use super::pool::Conn;
use super::serve::{Activity, Shared};
use super::shutdown::Stop;
use super::target::Permit;
use super::upgrade::{self, Tunnel};

/// A held request is woken by every change; it also looks by itself this often, so that no lost signal can keep it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) listener: Arc<Listener>,
    pub(super) shared: Shared,
    pub(super) peer: IpAddr,
    pub(super) activity: Arc<Activity>,
    pub(super) stop: Stop,
    /// Its place among the connections of the process; an upgraded connection keeps it.
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

/// Why a request gets an answer from us and not from a target.
#[derive(Debug)]
enum Failure {
    /// It is not one that may be passed on.
    Refused(Refused),
    /// No target took it in time.
    NoTarget,
    /// Too many wait already.
    HoldFull,
    /// A target had it, or may have had it, and gave no answer.
    Lost,
}

impl Failure {
    /// The only place where a failure becomes an answer.
    fn response(&self) -> Response<ReplyBody> {
        let (status, text) = match self {
            Failure::Refused(refused) => (refused.status, refused.why),
            Failure::NoTarget => (StatusCode::SERVICE_UNAVAILABLE, "no instance takes requests at the moment"),
            Failure::HoldFull => (StatusCode::SERVICE_UNAVAILABLE, "too many requests wait for an instance"),
            Failure::Lost => (StatusCode::BAD_GATEWAY, "the instance closed the connection without an answer"),
        };
        let mut response = Response::new(ReplyBody::text(format!("{text}\n")));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Answers a request, in any case.
pub(super) async fn answer(client: Arc<Client>, request: Request<Incoming>) -> Response<Reply> {
    let response = match forward(&client, request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(listener = client.listener.name(), peer = %client.peer, ?failure, "not forwarded");
            failure.response()
        }
    };
    response.map(|body| Reply::new(body, &client.activity))
}

async fn forward(client: &Arc<Client>, mut request: Request<Incoming>) -> Result<Response<ReplyBody>, Failure> {
    let arrival = Instant::now();
    let protocol = headers::upgrade(request.headers());
    let client_side = protocol.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::request(&mut parts, client.peer, protocol.as_ref()).map_err(Failure::Refused)?;

    let repeatable = body.is_end_stream() && protocol.is_none() && parts.method.is_safe();
    let (upload, uploaded) = if body.is_end_stream() {
        (Upload::none(), None)
    } else {
        let (upload, uploaded) = Upload::stream(body);
        (upload, Some(uploaded))
    };
    let mut outgoing = Request::from_parts(parts, upload);
    // A connection that goes over to another protocol is used up: it may as well be new, and then cannot be stale.
    let mut reuse = match (&protocol, repeatable) {
        (Some(_), _) => Reuse::Never,
        (None, true) => Reuse::Any,
        (None, false) => Reuse::Young,
    };
    let mut attempts = 1;
    let (permit, conn, response) = loop {
        let (permit, mut conn) = reach(client, arrival, reuse).await?;
        let copy = (repeatable && conn.reused).then(|| without_body(&outgoing));
        if protocol.is_some() || uploaded.is_some() {
            conn.set_apart(protocol.is_some());
        }
        match conn.send(outgoing).await {
            Ok(response) => break (permit, conn, response),
            Err(mut error) => {
                let unsent = error.take_message();
                tracing::debug!(
                    instance = %permit.target().instance(), error = %error.error(), unsent = unsent.is_some(),
                    reused = conn.reused, "a target gave no answer"
                );
                outgoing = match (unsent, copy) {
                    // Not a byte has gone out: nobody can have acted on it.
                    (Some(unsent), _) if attempts < SEND_ATTEMPTS_MAX => unsent,
                    // The target closed an idle connection while the request was on its way; asking again changes
                    // nothing.
                    (None, Some(copy)) => copy,
                    _ => return Err(Failure::Lost),
                };
                reuse = Reuse::Never;
                attempts += 1;
            }
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        headers::response(&mut parts);
        let body = ReplyBody::Stream(Download::new(body, conn, uploaded, permit));
        return Ok(Response::from_parts(parts, body));
    }
    let (Some(protocol), Some(client_side)) = (protocol, client_side) else { return Err(Failure::Lost) };
    Ok(go_over(client, response, client_side, headers::is_websocket(&protocol), permit))
}

fn without_body(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::none());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn go_over(
    client: &Arc<Client>,
    mut response: Response<Incoming>,
    client_side: hyper::upgrade::OnUpgrade,
    websocket: bool,
    permit: Permit,
) -> Response<ReplyBody> {
    let target_side = hyper::upgrade::on(&mut response);
    tokio::spawn(upgrade::carry(Tunnel {
        client: client_side,
        target: target_side,
        websocket,
        permit,
        listener: Arc::clone(&client.listener),
        stop: client.stop.clone(),
        place: Arc::clone(&client.place),
    }));
    let (mut parts, _) = response.into_parts();
    headers::response(&mut parts);
    Response::from_parts(parts, ReplyBody::text(""))
}

/// Which idle connections will do.
#[derive(Clone, Copy, Debug)]
enum Reuse {
    /// Any: the request can be sent again.
    Any,
    /// Only one that the target cannot be closing yet.
    Young,
    Never,
}

/// A place on a target and a connection to it. Waits while there is none, as long as the table allows since `arrival`.
async fn reach(client: &Client, arrival: Instant, reuse: Reuse) -> Result<(Permit, Conn), Failure> {
    let listener = &client.listener;
    let mut changes = None;
    let mut held = None;
    loop {
        let table = listener.table();
        // Each failure leaves one target out, so this many tries have seen them all.
        for _ in 0..table.targets.len() {
            let Some(permit) = table.admit() else { break };
            let target = Arc::clone(permit.target());
            let idle = match reuse {
                Reuse::Any => target.pool().take(None),
                Reuse::Young => target.pool().take(Some(REUSE_UNSAFE_MAX)),
                Reuse::Never => None,
            };
            if let Some(conn) = idle {
                return Ok((permit, conn));
            }
            match target.pool().connect(&target).await {
                Ok(conn) => return Ok((permit, conn)),
                Err(error) => {
                    drop(permit);
                    listener.leave_out(&target, &error.reason());
                }
            }
        }
        let Some(changes) = &mut changes else {
            // Listen first, then look once more: what changes in between is not missed.
            changes = Some(listener.changes());
            continue;
        };
        let left = table.hold_max.saturating_sub(arrival.elapsed());
        if left.is_zero() {
            return Err(Failure::NoTarget);
        }
        if held.is_none() {
            held = Some((Held::new(&client.shared.held).ok_or(Failure::HoldFull)?, listener.hold()));
        }
        // The listener is alive for as long as we have it, so there will always be another change or the time is over.
        let _ = tokio::time::timeout(left.min(LOOK_AGAIN), changes.changed()).await;
    }
}

/// A place among the requests held by the process.
struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicU64) -> Option<Self> {
        count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| (held < HELD_MAX).then_some(held + 1))
            .ok()
            .map(|_| Self(count))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_held_requests_is_bounded() {
        let count = AtomicU64::new(HELD_MAX - 1);
        let last = Held::new(&count);
        assert!(last.is_some(), "at the limit");
        assert!(Held::new(&count).is_none(), "beyond it");
        drop(last);
        assert!(Held::new(&count).is_some());
        let refused = Failure::HoldFull.response();
        assert_eq!((refused.status().as_u16(), refused.headers()[RETRY_AFTER].as_bytes()), (503, &b"1"[..]));
    }
}
