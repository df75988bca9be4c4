//! The program in the containers: ready a while after its start, and a while to drain after SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::Outcome;

/// Where it answers.
pub const PORT: u16 = 8080;

/// From its start to its first answer, unless its command says otherwise.
pub const BOOT_MS: u64 = 500;
/// From SIGTERM to its end, likewise.
pub const DRAIN_MS: u64 = 500;

/// `bench box [BOOT_MS DRAIN_MS]`: answers `/` and `/health`. After SIGTERM it is unhealthy and goes on answering until
/// its time is over, which is the kindest to whoever stops it before it has taken the traffic away.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let number = |at: usize, usual: u64| arguments.get(at).map_or(Ok(usual), |text| text.parse());
    let (boot, drain) = (number(0, BOOT_MS)?, number(1, DRAIN_MS)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // First the handler: PID 1 does not even hear a signal before it.
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let draining = Arc::new(AtomicBool::new(false));
        let flag = draining.clone();
        let serving = async move {
            tokio::time::sleep(Duration::from_millis(boot)).await;
            let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(answer(stream, flag.clone()));
            }
        };
        let ending = async {
            terminate.recv().await;
            draining.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(drain)).await;
        };
        tokio::select! {
            served = serving => served,
            () = ending => Ok(()),
        }
    })
}

async fn answer(mut stream: tokio::net::TcpStream, draining: Arc<AtomicBool>) {
    let mut head = Vec::with_capacity(1_024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) || head.len() > 16_384 {
            return;
        }
    }
    let unwell = draining.load(Ordering::Relaxed) && head.starts_with(b"GET /health ");
    let status = if unwell { "503 Service Unavailable" } else { "200 OK" };
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// `bench box-health`: what the engine runs in a container as its health check.
pub fn health() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(get("127.0.0.1", PORT, "/health", Duration::from_secs(2))) {
        true => Ok(()),
        false => Err("it is not ready".into()),
    }
}

/// One request on a connection of its own; whether it was answered with 200 in time.
pub async fn get(host: &str, port: u16, path: &str, patience: Duration) -> bool {
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let text = format!("GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::with_capacity(512);
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ok\n"))
    };
    matches!(tokio::time::timeout(patience, asked).await, Ok(Ok(true)))
}
