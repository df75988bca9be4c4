//! Bodies pass through as they come: none is collected, and who is slow slows the other side down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use crate::backend::Backend;
use crate::client::Client;
use crate::support::{Gateway, PATIENCE, admitting, draining, eventually};

const BODY_BYTES: u64 = 50 * 1024 * 1024;

/// What the kernel's buffers of two connections may swallow, with room: far below the body.
const IN_BETWEEN_MAX: u64 = 24 * 1024 * 1024;

/// Waits until a count does not move any more.
async fn settled(what: &str, count: impl Fn() -> u64) -> u64 {
    let mut before = u64::MAX;
    let mut still = 0;
    eventually(what, async || {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = count();
        still = if now == before && now > 0 { still + 1 } else { 0 };
        before = now;
        (still == 10).then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_waits_for_its_reader() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&format!("GET /download?{BODY_BYTES} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
    let (status, _) = client.head().await;
    assert_eq!(status, 200, "the head comes before the body is there");
    let offered = settled("the server to be slowed down", || backend.seen.sent.load(Ordering::SeqCst)).await;
    assert!(offered < IN_BETWEEN_MAX, "{offered} bytes were taken from the server with nobody reading");

    let mut body: u64 = 0;
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut tail = Vec::new();
        while !tail.ends_with(b"0\r\n\r\n") {
            let count = client.stream.read(&mut buffer).await.expect("readable");
            assert!(count > 0, "the whole body comes");
            body += buffer[..count].iter().filter(|byte| **byte == b'.').count() as u64;
            tail.extend_from_slice(&buffer[count.saturating_sub(5)..count]);
            tail.drain(..tail.len().saturating_sub(5));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("in time");
    assert_eq!(body, BODY_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_waits_for_its_reader() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let client = Client::connect(gateway.address).await;
    let (from, mut to) = client.stream.into_inner().into_split();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let sending = {
        let sent = std::sync::Arc::clone(&sent);
        tokio::spawn(async move {
            let head = format!("POST /upload-gated HTTP/1.1\r\nhost: shop\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
            to.write_all(head.as_bytes()).await.expect("sent");
            let piece = vec![b'.'; 64 * 1024];
            while sent.load(Ordering::SeqCst) < BODY_BYTES {
                to.write_all(&piece).await.expect("sent");
                sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
            to
        })
    };
    let swallowed = settled("the client to be slowed down", || sent.load(Ordering::SeqCst)).await;
    assert!(swallowed < IN_BETWEEN_MAX, "{swallowed} bytes were taken from the client with nobody reading");
    assert_eq!(backend.requests(), 1, "the request is there before its body");
    backend.open_gate();
    let to = tokio::time::timeout(PATIENCE, sending).await.expect("in time").expect("all sent");
    let mut client = Client { stream: BufReader::new(from.reunite(to).expect("two halves of one")) };
    assert_eq!(client.answer(true).await.text(), BODY_BYTES.to_string());
    assert_eq!(client.get("/").await.text(), "api-1.1", "and the connection is as good as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_goes_on_while_nobody_reads_the_answer() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    // A connection that has served a request without a body serves one with a body as well.
    assert_eq!(client.get("/").await.text(), "api-1.1");
    let head = format!("POST /both-ways?{BODY_BYTES} HTTP/1.1\r\nhost: shop\r\ncontent-length: {BODY_BYTES}\r\n\r\n");
    client.send(&head).await;
    settled("the answer to fill every buffer", || backend.seen.sent.load(Ordering::SeqCst)).await;
    let sending = async {
        let piece = vec![b'.'; 64 * 1024];
        for _ in 0..BODY_BYTES / piece.len() as u64 {
            client.stream.write_all(&piece).await.expect("sent");
        }
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("the whole body is taken with nobody reading the answer");
    eventually("the server to have read it", async || {
        (backend.seen.received.load(Ordering::SeqCst) == BODY_BYTES).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_within_an_answer_leaves_nothing_in_flight() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    gateway.serve(&[admitting(&old)]).await;
    let mut client = Client::connect(gateway.address).await;
    client.send(&format!("GET /download?{BODY_BYTES} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
    client.head().await;
    let state = gateway.serve(&[draining(&old), admitting(&new)]).await;
    assert_eq!(state.draining_inflight, 1, "in flight until its body has been sent");
    drop(client);
    gateway.until("it to be forgotten", |state| state.draining_inflight == 0).await;
}
