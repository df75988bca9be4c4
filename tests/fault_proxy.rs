//! The fault proxy by itself: a proxy that does not misbehave as told would make other tests prove nothing.

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::fault_proxy::{Address, Fault, FaultProxy, Way};
use support::procs::Stage;
use support::wait::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Nothing of interest takes longer than this.
const BOUND: Duration = Duration::from_secs(10);
/// What is blocked must stay away for at least this long. It cannot be waited for by a predicate.
const QUIET: Duration = Duration::from_millis(200);

/// A server that answers each piece with the same piece.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    address
}

async fn proxied_echo() -> (FaultProxy, TcpStream) {
    let proxy = FaultProxy::tcp(Address::Tcp(echo().await)).await.unwrap();
    let mut client = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    assert_eq!(asked(&mut client, b"are you there").await.unwrap(), b"are you there");
    (proxy, client)
}

async fn asked(client: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    tokio::time::timeout(BOUND, client.read_exact(&mut answer)).await.expect("an answer or an error in time")?;
    Ok(answer)
}

async fn is_quiet(client: &mut TcpStream) -> bool {
    tokio::time::timeout(QUIET, client.read(&mut [0u8; 16])).await.is_err()
}

#[tokio::test]
async fn without_a_fault_bytes_and_ends_pass() {
    let (proxy, mut client) = proxied_echo().await;
    let long = vec![7u8; 3_000_000];
    let (mut reader, mut writer) = client.split();
    let (sent, received) = tokio::join!(
        async {
            writer.write_all(&long).await.unwrap();
            writer.shutdown().await.unwrap();
        },
        async {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await.unwrap();
            all
        }
    );
    let () = sent;
    assert!(received == long, "{} of {} bytes came back", received.len(), long.len());
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_delay_counts_once_in_each_direction() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.set(Fault::Delay(Duration::from_millis(250))).await;
    let begun = Instant::now();
    asked(&mut client, b"slowly").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(500), "took {:?}", begun.elapsed());
    proxy.set(Fault::None).await;
    let begun = Instant::now();
    asked(&mut client, b"quickly").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn behind_a_partition_nothing_arrives_and_afterwards_everything_does() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.set(Fault::Blackhole(Way::Both)).await;
    client.write_all(b"held").await.unwrap();
    assert!(is_quiet(&mut client).await);
    let mut late = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    late.write_all(b"new").await.unwrap();
    assert!(is_quiet(&mut late).await);

    proxy.set(Fault::None).await;
    let mut answer = [0u8; 4];
    tokio::time::timeout(BOUND, client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"held");
    tokio::time::timeout(BOUND, late.read_exact(&mut answer[..3])).await.unwrap().unwrap();
    assert_eq!(&answer[..3], b"new");
}

#[tokio::test]
async fn a_partition_of_one_way_lets_the_other_way_pass() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::tcp(Address::Tcp(listener.local_addr().unwrap())).await.unwrap();
    let mut client = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();

    proxy.set(Fault::Blackhole(Way::ToClient)).await;
    client.write_all(b"up").await.unwrap();
    let mut heard = [0u8; 2];
    tokio::time::timeout(BOUND, server.read_exact(&mut heard)).await.unwrap().unwrap();
    server.write_all(b"down").await.unwrap();
    assert!(is_quiet(&mut client).await);

    proxy.set(Fault::Blackhole(Way::ToServer)).await;
    let mut heard = [0u8; 4];
    tokio::time::timeout(BOUND, client.read_exact(&mut heard)).await.unwrap().unwrap();
    client.write_all(b"up").await.unwrap();
    assert!(is_quiet(&mut server).await);
}

#[tokio::test]
async fn refused_connections_are_refused_and_old_ones_go_on() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.set(Fault::Refuse).await;
    let refused = TcpStream::connect(proxy.tcp_address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    asked(&mut client, b"still here").await.unwrap();
    proxy.set(Fault::None).await;
    let mut again = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    asked(&mut again, b"open again").await.unwrap();
}

#[tokio::test]
async fn a_reset_is_a_reset_and_not_an_end() {
    let (proxy, mut client) = proxied_echo().await;
    proxy.set(Fault::Reset).await;
    let cut = tokio::time::timeout(BOUND, client.read(&mut [0u8; 16])).await.unwrap().unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    let mut new = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    let cut = tokio::time::timeout(BOUND, new.read(&mut [0u8; 16])).await.unwrap().unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn half_open_the_server_is_told_and_the_client_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::tcp(Address::Tcp(listener.local_addr().unwrap())).await.unwrap();
    let mut client = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    proxy.set(Fault::HalfOpen).await;
    let end = tokio::time::timeout(BOUND, server.read(&mut [0u8; 16])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "the server still has its connection: {end:?}");
    client.write_all(b"anybody?").await.unwrap();
    assert!(is_quiet(&mut client).await);
    let mut new = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    assert!(is_quiet(&mut new).await);

    proxy.set(Fault::None).await;
    for stream in [&mut client, &mut new] {
        let cut = tokio::time::timeout(BOUND, stream.read(&mut [0u8; 16])).await.unwrap().unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_unix_socket_can_stand_on_either_side() {
    let stage = Stage::new();
    let front = stage.path("front.sock");
    let behind = FaultProxy::tcp(Address::Tcp(echo().await)).await.unwrap();
    let proxy = FaultProxy::unix(&front, behind.address().clone()).unwrap();
    let outer = FaultProxy::tcp(Address::Unix(front.clone())).await.unwrap();

    let mut client = TcpStream::connect(outer.tcp_address()).await.unwrap();
    asked(&mut client, b"through three").await.unwrap();
    assert_eq!((proxy.accepted(), behind.accepted()), (1, 1));

    proxy.set(Fault::Refuse).await;
    assert!(UnixStream::connect(&front).await.is_err());
    proxy.set(Fault::None).await;
    wait_until("the Unix socket is back", BOUND, async || UnixStream::connect(&front).await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_resets_is_passed_on_as_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::tcp(Address::Tcp(listener.local_addr().unwrap())).await.unwrap();
    let mut client = TcpStream::connect(proxy.tcp_address()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
    drop(server);
    let cut = tokio::time::timeout(BOUND, client.read(&mut [0u8; 16])).await.unwrap().unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
}
