//! Questions to the real engine, each asked once.
//!
//! Two rehearsals at once ask the same of it, and each asks for every container's image again. Nothing that they do
//! changes an answer, and both are better off with the same one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

/// Of one answer. The largest are lists of containers.
const BODY_MAX: usize = 64 << 20;
/// For one question to the real engine: one that does not answer in this time hangs.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The real engine, and what it was asked in this rehearsal.
pub(super) struct Asked {
    engine: PathBuf,
    answers: Mutex<BTreeMap<String, Arc<OnceCell<Answer>>>>,
}

impl Asked {
    pub(super) fn of(engine: &Path) -> Self {
        Self { engine: engine.to_owned(), answers: Mutex::default() }
    }

    /// Asks, or says what was answered before. The path is kept: it has the version that Compose speaks.
    ///
    /// # Errors
    /// When the engine cannot be reached or does not answer. That is no answer: it may be asked again.
    pub(super) async fn ask(&self, head: &http::request::Parts, target: &str) -> io::Result<Answer> {
        let cell = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(answers.entry(format!("{} {target}", head.method)).or_default())
        };
        let ask = || async {
            match tokio::time::timeout(ANSWER_MAX, upstream(&self.engine, head, target)).await {
                Ok(answer) => answer,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        cell.get_or_try_init(ask).await.cloned()
    }
}

/// Asks the real engine whether it is there.
///
/// # Errors
/// When it is not, or says anything else than that it is well.
pub(super) async fn greet(engine: &Path) -> io::Result<()> {
    let (head, ()) = Request::get("/_ping").body(()).map_err(io::Error::other)?.into_parts();
    match upstream(engine, &head, "/_ping").await?.status {
        status if status.is_success() => Ok(()),
        status => Err(io::Error::other(format!("it answers with status {status}"))),
    }
}

async fn upstream(engine: &Path, head: &http::request::Parts, target: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(engine).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(head.method.clone()).uri(target);
    for (name, value) in head.headers.iter().filter(|(name, _)| !is_of_one_hop(name)) {
        request = request.header(name, value);
    }
    let request = request.header(HOST, "docker").body(Full::new(Bytes::new())).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    let headers = head.headers.into_iter().filter_map(|(name, value)| name.map(|name| (name, value)));
    let headers = headers.filter(|(name, _)| !is_of_one_hop(name)).collect();
    Ok(Answer { status: head.status, headers, body })
}

fn is_of_one_hop(name: &http::HeaderName) -> bool {
    [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE].contains(name) || name == "keep-alive"
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn each_question_reaches_the_engine_once_however_often_and_by_whom_it_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let asked = Asked::of(&socket);
        let (head, ()) = Request::get("/v1.41/images/shop:2/json").body(()).unwrap().into_parts();
        // Nobody there is no answer.
        assert!(asked.ask(&head, "/v1.41/images/shop:2/json").await.is_err());
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let engine = tokio::spawn(async move {
            let mut said = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let count = stream.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                said.push(line);
            }
            said
        });
        let (one, other) =
            tokio::join!(asked.ask(&head, "/v1.41/images/shop:2/json"), asked.ask(&head, "/v1.41/images/shop:2/json"),);
        assert_eq!(one.unwrap().body, other.unwrap().body);
        let another = asked.ask(&head, "/v1.41/images/shop:1/json").await.unwrap();
        assert_eq!(another.status, StatusCode::OK);
        let lines = engine.await.unwrap();
        assert_eq!(lines, ["GET /v1.41/images/shop:2/json HTTP/1.1", "GET /v1.41/images/shop:1/json HTTP/1.1"]);
    }
}
