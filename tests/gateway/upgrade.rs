//! WebSockets and other protocols across a switch.

use std::net::SocketAddr;
use std::time::Duration;

use baton::model::Admission;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::Backend;
use crate::client::{Client, get};
use crate::support::{Gateway, PATIENCE, admitting, target};

pub const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// A server whose end of each connection is in the hands of the test.
pub async fn server() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    (listener.local_addr().expect("an address").port(), listener)
}

/// Accepts until a request comes (a probe sends none), and goes over.
async fn go_over(listener: &TcpListener, protocol: &str) -> BufReader<TcpStream> {
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while stream.read_line(&mut head).await.unwrap_or(0) > 0 && !head.ends_with("\r\n\r\n") {}
            if head.is_empty() {
                continue;
            }
            let lower = head.to_ascii_lowercase();
            assert!(lower.contains(&format!("upgrade: {protocol}")) && lower.contains("connection: upgrade"), "{head}");
            let answer =
                format!("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).await.expect("sent");
            return stream;
        }
    };
    tokio::time::timeout(PATIENCE, accepting).await.expect("a request in time")
}

/// Both ends of a connection that went over.
pub async fn open(address: SocketAddr, listener: &TcpListener, protocol: &str) -> (Client, BufReader<TcpStream>) {
    let mut client = Client::connect(address).await;
    client
        .send(&format!("GET /live HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n"))
        .await;
    let ((status, head), server) = tokio::join!(client.head(), go_over(listener, protocol));
    assert_eq!(status, 101, "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains(&format!("upgrade: {protocol}")) && head.contains("connection: upgrade"), "{head}");
    (client, server)
}

pub async fn read(stream: &mut BufReader<TcpStream>, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("in time").expect("readable");
    bytes
}

async fn write(stream: &mut BufReader<TcpStream>, bytes: &[u8]) {
    stream.get_mut().write_all(bytes).await.expect("sent");
}

/// A masked frame as a client sends it, mask of zeros.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).expect("short"), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn a_websocket_lives_across_a_switch_and_is_closed_with_1001_between_two_frames() {
    let gateway = Gateway::start().await;
    let (port, listener) = server().await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let (mut client, mut server) = open(gateway.address, &listener, "websocket").await;

    let new = Backend::start("api-1.2").await;
    let table = [target("api-1.1", port, Admission::Draining), admitting(&new)];
    let state = gateway.serve(&table).await;
    assert_eq!((state.draining_inflight, state.closed_upgraded), (1, 0));
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.2");
    client.send_bytes(&masked(1, b"hello")).await;
    assert_eq!(read(&mut server, 11).await, masked(1, b"hello"));
    write(&mut server, b"\x81\x05world").await;
    assert_eq!(read(&mut client.stream, 7).await, b"\x81\x05world");

    // Half a frame is under way in each direction: its end comes first, then the close.
    write(&mut server, b"\x82\x04ab").await;
    assert_eq!(read(&mut client.stream, 4).await, b"\x82\x04ab");
    client.send_bytes(&masked(1, b"wxyz")[..8]).await;
    assert_eq!(read(&mut server, 8).await, masked(1, b"wxyz")[..8]);
    gateway.ask(&table, Duration::ZERO, true).await.expect("taken");
    write(&mut server, b"cd\x81\x04lost").await;
    assert_eq!(read(&mut client.stream, 6).await, [b"cd", &GOING_AWAY[..]].concat());
    client.send_bytes(&masked(1, b"wxyz")[8..]).await;
    let end = read(&mut server, 10).await;
    assert_eq!(end[..4], [b'y', b'z', 0x88, 0x82]);
    let mask = &end[4..8];
    assert_eq!([end[8] ^ mask[0], end[9] ^ mask[1]], 1001_u16.to_be_bytes());

    // Both answer, and both see the end.
    client.send_bytes(&masked(8, &1001_u16.to_be_bytes())).await;
    write(&mut server, &GOING_AWAY).await;
    assert_eq!(client.rest().await, b"");
    let state = gateway.until("nothing in flight", |state| state.draining_inflight == 0).await;
    assert_eq!((state.closed_upgraded, state.in_use), (1, true));
}

#[tokio::test]
async fn a_quiet_websocket_is_closed_at_once_even_if_its_peers_never_answer() {
    let gateway = Gateway::start().await;
    let (port, listener) = server().await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let (mut client, mut server) = open(gateway.address, &listener, "websocket").await;
    let gone: [baton::model::TableTarget; 0] = [];
    gateway.ask(&gone, Duration::ZERO, true).await.expect("taken");
    assert_eq!(read(&mut client.stream, 4).await, GOING_AWAY);
    assert_eq!(read(&mut server, 8).await[..2], [0x88, 0x82]);
    let state = gateway.until("nothing in flight", |state| state.draining_inflight == 0).await;
    assert_eq!(state.closed_upgraded, 1, "out of the table altogether, it was closed all the same");
}

#[tokio::test]
async fn a_websocket_that_its_own_ends_close_is_not_counted() {
    let gateway = Gateway::start().await;
    let (port, listener) = server().await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let (mut client, mut server) = open(gateway.address, &listener, "websocket").await;
    gateway.serve(&[target("api-1.1", port, Admission::Draining)]).await;
    client.send_bytes(&masked(8, &1000_u16.to_be_bytes())).await;
    assert_eq!(read(&mut server, 8).await, masked(8, &1000_u16.to_be_bytes()));
    write(&mut server, &[0x88, 2, 0x03, 0xe8]).await;
    assert_eq!(read(&mut client.stream, 4).await, [0x88, 2, 0x03, 0xe8]);
    drop(server);
    assert_eq!(client.rest().await, b"");
    drop(client);
    let state = gateway.until("nothing in flight", |state| state.draining_inflight == 0).await;
    assert_eq!(state.closed_upgraded, 0);
}

#[tokio::test]
async fn another_protocol_is_shut_down_with_nothing_added_to_it() {
    let gateway = Gateway::start().await;
    let (port, listener) = server().await;
    gateway.serve(&[target("api-1.1", port, Admission::Admitting)]).await;
    let (mut client, mut server) = open(gateway.address, &listener, "tunnel").await;
    write(&mut server, b"\x81\x7fraw bytes").await;
    assert_eq!(read(&mut client.stream, 11).await, b"\x81\x7fraw bytes");
    gateway.ask(&[target("api-1.1", port, Admission::Draining)], Duration::ZERO, true).await.expect("taken");
    assert_eq!(client.rest().await, b"");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, server.read_to_end(&mut rest)).await.expect("an end").expect("readable");
    assert_eq!(rest, b"");
    let state = gateway.until("nothing in flight", |state| state.draining_inflight == 0).await;
    assert_eq!(state.closed_upgraded, 1);
}

#[tokio::test]
async fn a_target_that_does_not_go_over_answers_as_usual() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    let mut client = Client::connect(gateway.address).await;
    client.send("GET / HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer(true).await.text(), "api-1.1");
    assert_eq!(client.get("/").await.text(), "api-1.1");
}
