//! One request on one connection.

use std::pin::pin;

use futures_util::future::{Either, select};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::target::{Target, connect, in_words};
use super::{Said, Silence};

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The text that was asked for makes no request.
    #[error("the URL makes no HTTP request")]
    Request(#[source] hyper::http::Error),
    /// The connection ended or what came back is no HTTP.
    #[error("{}", explain(_0))]
    Hyper(#[source] hyper::Error),
}

/// What hyper's errors mean to people.
fn explain(error: &hyper::Error) -> String {
    let io = std::iter::successors(std::error::Error::source(error), |cause| cause.source())
        .find_map(|cause| cause.downcast_ref::<std::io::Error>());
    if let Some(io) = io {
        return in_words(io, "connection failed");
    }
    if error.is_parse() {
        return "what answered does not speak HTTP".to_owned();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "connection closed without an answer".to_owned();
    }
    error.to_string()
}

/// Asks for a status; 2xx is ready.
pub(super) async fn status(method: &str, url: &str) -> Result<Said, Silence> {
    exchange(method, url, |response| async move {
        let status = response.status();
        Ok(Said { ready: status.is_success(), text: format!("HTTP {}", status.as_u16()) })
    })
    .await
}

/// Sends one request and gives the response to `read`, which runs while the connection is driven. Neither a task nor a
/// pool: whoever drops this future has ended the connection too.
pub(super) async fn exchange<T, E, R, F>(method: &str, url: &str, read: R) -> Result<T, E>
where
    R: FnOnce(Response<Incoming>) -> F,
    F: Future<Output = Result<T, E>>,
    E: From<Silence>,
{
    let (target, uri) = Target::of_url(url).map_err(Silence::from)?;
    let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("baton/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close");
    // Some servers refuse a POST that does not say how long it is.
    let request = if method == "POST" { request.header(header::CONTENT_LENGTH, 0) } else { request };
    let request = request.body(Empty::<Bytes>::new()).map_err(ExchangeError::Request).map_err(Silence::from)?;
    let stream = connect(&target).await.map_err(Silence::from)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(ExchangeError::Hyper).map_err(Silence::from)?;
    let asked = pin!(async move {
        let response = sender.send_request(request).await.map_err(ExchangeError::Hyper).map_err(Silence::from)?;
        read(response).await
    });
    match select(asked, pin!(connection)).await {
        Either::Left((result, _)) => result,
        // The connection is done; what was read from it is still to be handed over, or says why there is nothing.
        Either::Right((_, asked)) => asked.await,
    }
}
