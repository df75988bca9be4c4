//! The HTTP server of a toy.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::{Life, Stage, ToyKind, api, socket};

/// How long a connection without a request in flight is kept open when the server is ending. Its client may be sending
/// one at this very moment; it is answered, with word that it was the last one.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(300);

/// An answer: status and JSON text.
pub type Answer = (StatusCode, String);

/// Serves until the toy is asked to end, then takes what was already connected, finishes what is in flight and returns.
/// Other toys than the API answer to the end of their process: their last words are what a drain waits for.
pub async fn serve(listener: TcpListener, life: &'static Life) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, life));
                }
                // The peer gave up while it waited, or descriptors are short: the next one may do better.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            Some(_) = connections.join_next() => {}
            () = life.ending(), if life.options.kind == ToyKind::Api => break,
        }
    }
    // `biased` has emptied the backlog before this point; whoever connects from now on is refused.
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn serve_connection(stream: tokio::net::TcpStream, life: &'static Life) {
    // Answers are small and complete: waiting for more to send would only add to their latency.
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| answer(request, life));
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades()
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = life.ending(), if life.options.kind == ToyKind::Api => {
            match tokio::time::timeout(LAST_REQUEST_WITHIN, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        // A client that went away is no fault of the server's.
        println!("a connection ended with: {error}");
    }
}

async fn answer(mut request: Request<Incoming>, life: &'static Life) -> Result<Response<Full<Bytes>>, Infallible> {
    if life.options.kind == ToyKind::Api && request.uri().path() == "/socket" && life.stage() != Stage::Booting {
        return Ok(socket::open(&mut request, life));
    }
    let (status, text) = route(&request, life).await;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if life.stage() == Stage::Ending {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn route(request: &Request<Incoming>, life: &'static Life) -> Answer {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/health") => match life.stage() {
            Stage::Booting => say(StatusCode::SERVICE_UNAVAILABLE, "booting"),
            Stage::Ready | Stage::Ending => say(StatusCode::OK, "ready"),
        },
        (&Method::GET, "/inflight") => (StatusCode::OK, format!("{{\"inflight\":{}}}", life.in_flight())),
        (&Method::POST, "/drain") => {
            life.set_draining(true);
            say(StatusCode::OK, "takes no new work")
        }
        (&Method::POST, "/resume") => {
            life.set_draining(false);
            say(StatusCode::OK, "takes work")
        }
        _ if life.options.kind != ToyKind::Api => say(StatusCode::NOT_FOUND, "no such path"),
        // A request that comes before the toy is ready has come too early: that must be seen.
        _ if life.stage() == Stage::Booting => say(StatusCode::SERVICE_UNAVAILABLE, "not ready yet"),
        _ => {
            life.in_flight.fetch_add(1, Ordering::Relaxed);
            let answer = api::answer(request.method(), path, request.uri().query().unwrap_or(""), life).await;
            life.in_flight.fetch_sub(1, Ordering::Relaxed);
            answer
        }
    }
}

/// An answer that says one thing.
pub fn say(status: StatusCode, what: &str) -> Answer {
    (status, serde_json::json!({ "says": what }).to_string())
}
