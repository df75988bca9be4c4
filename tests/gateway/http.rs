//! What a proxy owes to HTTP/1.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton::model::Admission;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::backend::Backend;
use crate::client::Client;
use crate::support::{Gateway, admitting, target};

#[tokio::test]
async fn bodies_and_their_absence_come_through_on_one_connection() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;

    client.send("HEAD /sized?12345 HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    let head = client.answer(false).await;
    assert_eq!((head.status, head.field("content-length").as_deref()), (200, Some("12345")));
    client.send("HEAD /download?12345 HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.answer(false).await.status, 200);
    assert_eq!(client.get("/status?204").await.status, 204);
    let unchanged = client.get("/not-modified").await;
    assert_eq!((unchanged.status, unchanged.field("etag").as_deref()), (304, Some("\"a\"")));
    let chunked = client.get("/download?100000").await;
    assert_eq!((chunked.body.len(), chunked.field("content-length")), (100_000, None));
    let sized = client.get("/sized?100000").await;
    assert_eq!((sized.body.len(), sized.field("transfer-encoding")), (100_000, None));
    client
        .send(
            "POST /upload HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer(true).await.text(), "5");
    client.send("POST /upload HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    client.send("fg").await;
    assert_eq!(client.answer(true).await.text(), "7");
    assert_eq!(client.get("/status?500").await.status, 500, "a target's own failure is passed on");
    assert_eq!(backend.seen.connections.load(Ordering::SeqCst), 2, "the probe's and one that is kept");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_and_its_connection_closed() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    client.send("GET /download?5000 HTTP/1.0\r\n\r\n").await;
    let answer = client.answer(true).await;
    assert_eq!((answer.status, answer.body.len(), answer.field("transfer-encoding")), (200, 5000, None));
}

#[tokio::test]
async fn who_asked_is_told_and_fields_of_the_connection_are_not() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    client
        .send(concat!(
            "GET /head?a=%20b HTTP/1.1\r\nHost: shop.example\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: x\r\n",
            "X-Forwarded-For: 198.51.100.1\r\nAccept: */*\r\n\r\n"
        ))
        .await;
    let text = client.answer(true).await.text();
    for part in [
        "GET /head?a=%20b ",
        "\"host\": \"shop.example\"",
        "\"x-forwarded-for\": \"198.51.100.1, 127.0.0.1\"",
        "\"x-forwarded-proto\": \"http\"",
        "\"x-forwarded-host\": \"shop.example\"",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains("x-mine") && !text.contains("keep-alive"), "{text}");
}

#[tokio::test]
async fn heads_beyond_the_limit_and_requests_for_a_forward_proxy_are_refused() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let long = "a".repeat(70 * 1024);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nhost: shop\r\nx: {long}\r\n\r\n"), 431),
        ("CONNECT shop:443 HTTP/1.1\r\nhost: shop\r\n\r\n".to_owned(), 405),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx".to_owned(), 400),
    ] {
        let mut client = Client::connect(gateway.address).await;
        client.send(&request).await;
        assert_eq!(client.head().await.0, status, "{}", &request[..request.len().min(60)]);
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_request_with_two_lengths_reaches_the_target_with_one() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    client
        .send("POST /head HTTP/1.1\r\nhost: shop\r\ncontent-length: 50\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        .await;
    let (status, _) = client.head().await;
    // Refused or made one of: both keep the next request apart from this one.
    assert!(status == 200 || status == 400, "{status}");
    let text = String::from_utf8_lossy(client.stream.fill_buf().await.expect("readable")).into_owned();
    assert!(!text.contains("\"content-length\": \"50\""), "{text}");
}

/// A server that answers `answered` requests on each connection and then closes it over the next one, unanswered.
async fn rude(answered: usize) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let requests = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&requests);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                for number in 0.. {
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                        if let Some(text) = line.strip_prefix("content-length:") {
                            length = text.trim().parse().expect("a number");
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).await.expect("a body");
                    count.fetch_add(1, Ordering::SeqCst);
                    if number == answered {
                        return;
                    }
                    let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (port, requests)
}

#[tokio::test]
async fn a_request_that_changes_nothing_is_asked_again_when_an_idle_connection_was_closed_over_it() {
    let gateway = Gateway::start().await;
    let (port, requests) = rude(1).await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let mut client = Client::connect(gateway.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert!(requests.load(Ordering::SeqCst) > 10, "some were asked twice");
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_is_never_sent_twice() {
    for answered in [0, 1] {
        let gateway = Gateway::start().await;
        let (port, requests) = rude(answered).await;
        let (other_port, other) = rude(1).await;
        gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
        let mut client = Client::connect(gateway.address).await;
        for _ in 0..answered {
            assert_eq!(client.post("/", "pay").await.text(), "ok");
        }
        // Others are there to take it.
        let both = [target("api-1.1", port, Admission::Admitting), target("api-2.1", other_port, Admission::Admitting)];
        gateway.serve(&both[..1]).await;
        assert_eq!(client.post("/", "pay").await.status, 502);
        assert_eq!(requests.load(Ordering::SeqCst), answered as u64 + 1);
        gateway.serve(&both).await;
        let mut paid = 0;
        for _ in 0..6 {
            let before = requests.load(Ordering::SeqCst) + other.load(Ordering::SeqCst);
            let status = client.post("/", "pay").await.status;
            assert!(status == 200 || status == 502, "{status}");
            paid += u64::from(status == 200);
            assert_eq!(requests.load(Ordering::SeqCst) + other.load(Ordering::SeqCst), before + 1);
        }
        assert!(paid > 0);
    }
}

#[tokio::test]
async fn a_get_that_a_fresh_connection_does_not_answer_is_a_bad_gateway() {
    let gateway = Gateway::start().await;
    let (port, requests) = rude(0).await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let mut client = Client::connect(gateway.address).await;
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}
