//! Real sockets on loopback; what the other side says is scripted byte by byte.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

/// Long enough on a busy machine, and never waited for where all is well.
const PATIENT: Duration = Duration::from_secs(10);

/// What the other side does once it has read a request.
#[derive(Clone)]
enum Script {
    /// Says this and closes.
    Say(Vec<u8>),
    /// Closes.
    Close,
    /// Keeps the connection and says nothing.
    Hang,
    /// Says this, then the same byte without end.
    Flood(Vec<u8>),
}

/// A server that plays a script for every connection and hands over the requests it read.
async fn server(bind: &str, script: Script) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind(bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(play(stream, script.clone(), tell.clone()));
        }
    });
    (address, told)
}

async fn play(stream: TcpStream, script: Script, tell: mpsc::UnboundedSender<String>) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let _ = tell.send(String::from_utf8_lossy(&head).into_owned());
    // The other side may have heard enough and gone: that is no fault of a script.
    match script {
        Script::Say(bytes) => drop(stream.write_all(&bytes).await),
        Script::Close => {}
        Script::Hang => drop(stream.read_to_end(&mut head).await),
        Script::Flood(bytes) => {
            let _ = stream.write_all(&bytes).await;
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
        }
    }
}

fn response(status: &str, body: &str) -> Script {
    Script::Say(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A port on which nobody listens: one that was free a moment ago.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn only_a_2xx_is_ready_and_the_text_says_what_came() {
    for (status, ready, text) in [
        ("200 OK", true, "HTTP 200"),
        ("204 No Content", true, "HTTP 204"),
        ("302 Found\r\nlocation: /elsewhere", false, "HTTP 302"),
        ("404 Not Found", false, "HTTP 404"),
        ("503 Service Unavailable", false, "HTTP 503"),
    ] {
        let (address, mut told) = server("127.0.0.1:0", response(status, "")).await;
        let answer = http_ready(&format!("http://{address}/health?deep=1"), PATIENT).await;
        assert_eq!(answer, Answer { ready, text: text.to_owned() });
        let request = told.recv().await.unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
        assert!(told.try_recv().is_err(), "asked once, and no redirect is followed");
    }
}

#[tokio::test]
async fn a_status_counts_whatever_becomes_of_the_body() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    for script in [Script::Flood(head.clone()), Script::Say(head)] {
        let (address, _told) = server("127.0.0.1:0", script).await;
        assert!(http_ready(&format!("http://{address}/"), PATIENT).await.ready);
    }
}

#[tokio::test]
async fn silence_is_told_by_its_kind() {
    let short = Duration::from_millis(100);
    let nobody = nobody().await;
    let refused = http_ready(&format!("http://{nobody}/"), PATIENT).await;
    assert_eq!(refused, Answer { ready: false, text: "connection refused".to_owned() });

    let (address, _told) = server("127.0.0.1:0", Script::Hang).await;
    let hanging = http_ready(&format!("http://{address}/"), short).await;
    assert_eq!(hanging.text, "no answer within 100ms");

    let (address, _told) = server("127.0.0.1:0", Script::Close).await;
    let closed = http_ready(&format!("http://{address}/"), PATIENT).await;
    assert_eq!(closed.text, "connection closed without an answer");

    let (address, _told) = server("127.0.0.1:0", Script::Say(b"SSH-2.0-dropbear\r\n".to_vec())).await;
    let foreign = http_ready(&format!("http://{address}/"), PATIENT).await;
    assert_eq!(foreign.text, "what answered does not speak HTTP");

    for (url, text) in [
        ("https://127.0.0.1:1/", "only plain http is spoken here, not https"),
        ("127.0.0.1:1", "not a URL"),
        ("http://user:hunter2@127.0.0.1:1/", "a user or password in a URL is not supported"),
        // Longer than a name may be: refused by the resolver itself, no server is asked.
        (&format!("http://{}/", "x".repeat(70)), "cannot resolve xxx"),
    ] {
        let answer = http_ready(url, PATIENT).await;
        assert!(!answer.ready && answer.text.starts_with(text), "{url}: {answer:?}");
        assert!(!answer.text.contains("hunter2"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_call_is_a_post_without_a_body() {
    let (address, mut told) = server("127.0.0.1:0", response("202 Accepted", "")).await;
    let answer = http_post(&format!("http://{address}/drain"), PATIENT).await;
    assert_eq!(answer, Answer { ready: true, text: "HTTP 202".to_owned() });
    let request = told.recv().await.unwrap();
    assert!(request.starts_with("POST /drain HTTP/1.1\r\n") && request.contains("content-length: 0\r\n"), "{request}");
    let (address, _told) = server("127.0.0.1:0", response("500 Internal Server Error", "")).await;
    assert!(!http_post(&format!("http://{address}/drain"), PATIENT).await.ready);
}

#[tokio::test]
async fn names_and_ipv6_addresses_are_reached() {
    let (address, _told) = server("127.0.0.1:0", response("200 OK", "7")).await;
    let by_name = format!("http://localhost:{}/", address.port());
    assert!(http_ready(&by_name, PATIENT).await.ready);
    assert!(tcp_ready(&format!("localhost:{}", address.port()), PATIENT).await.ready);
    // A host without IPv6 has no ::1 to bind; the parsing of such addresses is tested without sockets.
    if TcpListener::bind("[::1]:0").await.is_ok() {
        let (address, _told) = server("[::1]:0", response("200 OK", "7")).await;
        assert!(http_ready(&format!("http://{address}/"), PATIENT).await.ready);
        assert!(tcp_ready(&address.to_string(), PATIENT).await.ready);
        assert_eq!(read_inflight(&format!("http://{address}/"), "", PATIENT).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_taken_connection_is_ready_and_a_refused_one_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert!(tcp_ready(&address, PATIENT).await.ready);
    drop(listener);
    let refused = tcp_ready(&address, PATIENT).await;
    assert_eq!(refused, Answer { ready: false, text: "connection refused".to_owned() });
    assert!(tcp_ready("127.0.0.1", PATIENT).await.text.contains("host:port"));
}

#[tokio::test]
async fn work_in_flight_is_read_from_json_however_it_is_sent() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\n{\"inf\":\r\n3\r\n 4}\r\n0\r\n\r\n";
    let until_closed = "HTTP/1.0 200 OK\r\n\r\n{\"inf\": 4}";
    for said in [Script::Say(chunked.into()), Script::Say(until_closed.into()), response("200 OK", "{\"inf\": 4}")] {
        let (address, _told) = server("127.0.0.1:0", said).await;
        assert_eq!(read_inflight(&format!("http://{address}/"), "/inf", PATIENT).await.unwrap(), 4);
    }
    let (address, _told) = server("127.0.0.1:0", response("200 OK", "{\"jobs\": [1, 2, 3]}")).await;
    assert_eq!(read_inflight(&format!("http://{address}/"), "/jobs", PATIENT).await.unwrap(), 3);
}

#[tokio::test]
async fn what_cannot_be_counted_is_an_error_and_never_zero() {
    type Expected = fn(&ProbeError) -> bool;
    let cases: [(Script, Expected); 8] = [
        (response("503 Service Unavailable", "{\"inf\": 0}"), |error| matches!(error, ProbeError::Status(503))),
        (response("302 Found\r\nlocation: /", "{\"inf\": 0}"), |error| matches!(error, ProbeError::Status(302))),
        (response("200 OK", "none"), |error| matches!(error, ProbeError::NotJson(_))),
        (response("200 OK", ""), |error| matches!(error, ProbeError::NotJson(_))),
        (response("200 OK", "{}"), |error| matches!(error, ProbeError::Nothing(_))),
        (response("200 OK", "{\"inf\": \"0\"}"), |error| matches!(error, ProbeError::NotACount { .. })),
        (Script::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"inf\": 0}".to_vec()), |error| {
            matches!(error, ProbeError::Cut(_))
        }),
        (Script::Flood(b"HTTP/1.1 200 OK\r\n\r\n{\"inf\": 0}".to_vec()), |error| matches!(error, ProbeError::TooLong)),
    ];
    for (number, (script, expected)) in cases.into_iter().enumerate() {
        let (address, _told) = server("127.0.0.1:0", script).await;
        let error = read_inflight(&format!("http://{address}/"), "/inf", PATIENT).await.unwrap_err();
        assert!(expected(&error), "case {number}: {error:?}");
    }
    let (address, _told) = server("127.0.0.1:0", Script::Hang).await;
    let error = read_inflight(&format!("http://{address}/"), "", Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer within 100ms");
    let error = read_inflight(&format!("http://{}/", nobody().await), "", PATIENT).await.unwrap_err();
    assert_eq!(error.to_string(), "connection refused");
}

#[tokio::test]
async fn an_answer_at_the_limit_is_read_and_one_beyond_it_is_not() {
    for (size, fits) in [(MAX_READING_BYTES, true), (MAX_READING_BYTES + 1, false)] {
        let body = format!("5{}", " ".repeat(size - 1));
        let (address, _told) = server("127.0.0.1:0", response("200 OK", &body)).await;
        match read_inflight(&format!("http://{address}/"), "", PATIENT).await {
            Ok(count) => assert!(fits && count == 5),
            Err(error) => assert!(!fits && matches!(error, ProbeError::TooLong), "{error:?}"),
        }
    }
}

/// A probe every 50 ms for each starting instance must not be felt. The mark is 0.3 ms in a release build on a machine
/// at rest; the bound here leaves room for a debug build on a busy one, and still catches a wait that should not be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_costs_next_to_nothing() {
    let (address, _told) = server("127.0.0.1:0", response("200 OK", "ok")).await;
    let url = format!("http://{address}/health");
    let mut took = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        assert!(http_ready(&url, PATIENT).await.ready);
        took.push(begin.elapsed());
    }
    took.sort();
    println!("median {:?}, worst {:?}", took[100], took[199]);
    assert!(took[100] < Duration::from_millis(10), "median {:?}", took[100]);
}
