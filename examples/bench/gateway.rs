//! The gateway beside no proxy and beside HAProxy: 64 kept connections, each with one request under way, client, proxy and
//! back end on the same cores.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton::gateway::control;
use baton::model::{Admission, ComponentName, InstanceId, SlotName, TableTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Outcome, median};

const CONNECTIONS: usize = 64;
const ROUNDS: usize = 3;
/// What /proc counts in; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
const REQUEST: &[u8] = b"GET /item HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n";

/// The back end, a process of its own: one answer for each head.
pub fn backend(port: &str) -> Outcome<()> {
    let port: u16 = port.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let (mut buffer, mut seen) = (vec![0; 4_096], 0usize);
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    for byte in &buffer[..read] {
                        let expected = b"\r\n\r\n"[seen];
                        seen = if *byte == expected { seen + 1 } else { usize::from(*byte == b'\r') };
                        if seen == 4 {
                            seen = 0;
                            if stream.write_all(ANSWER).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    })
}

struct Ended(Child);

impl Ended {
    /// What it has used of a core so far, in seconds: unlike a rate, it does not depend on who else uses the machine.
    fn used(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).ok_or("a process has times");
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }
}

/// What was found on one way, a value a round.
#[derive(Default)]
struct Found {
    rates: Vec<f64>,
    p99: Vec<f64>,
    failed: u64,
    /// Microseconds of a core that the proxy used for a request.
    cost: Vec<f64>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `bench gateway`
pub fn run() -> Outcome<()> {
    let exe = std::env::current_exe()?;
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let (back, front, proxy) = (free_port()?, free_port()?, free_port()?);
    let quiet = |command: &mut Command| -> Outcome<Ended> {
        Ok(Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    };
    let backend = quiet(Command::new(&exe).args(["backend", &back.to_string()]))?;
    let gateway_folder = folder.path().join("gateway");
    let gateway = quiet(
        Command::new(&exe)
            .arg("gateway")
            .arg("--dir")
            .arg(&gateway_folder)
            .args(["--listen", &format!("api=127.0.0.1:{front}")]),
    )?;
    let haproxy = haproxy(folder.path(), proxy, back)?.map(|mut command| quiet(&mut command)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        listening(back).await?;
        listening(front).await?;
        let target = TableTarget {
            instance: InstanceId::new(SlotName::new(ComponentName::new("api")?, 1), 1),
            host: "127.0.0.1".to_owned(),
            port: back,
            admission: Admission::Admitting,
        };
        let socket = gateway_folder.join("control.sock");
        control::set_table(&socket, "api", &[target], Duration::from_secs(5), true).await?;
        while !control::table(&socket, "api").await?.in_use {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut ways = vec![("direct", back, &backend), ("gateway", front, &gateway)];
        if let Some(haproxy) = &haproxy {
            listening(proxy).await?;
            ways.push(("haproxy", proxy, haproxy));
        }
        let mut found: Vec<Found> = ways.iter().map(|_| Found::default()).collect();
        for _ in 0..ROUNDS {
            // One after the other, again and again: what else the machine does weighs on all alike.
            for (found, (_, port, server)) in found.iter_mut().zip(&ways) {
                let before = server.used()?;
                let (rate, p99, failed) = load(*port).await?;
                found.rates.push(rate);
                found.p99.push(p99);
                found.failed += failed;
                found.cost.push((server.used()? - before) * 1e6 / (rate * (WARM_UP + MEASURED).as_secs_f64()));
            }
        }
        println!("{CONNECTIONS} kept connections, client, proxy and back end on the same cores\n");
        println!(
            "{:<10} {:>12} {:>9} {:>8} {:>14} {:>12} {:>15}",
            "", "requests/s", "p99 ms", "failed", "of direct", "of haproxy", "cpu us/request"
        );
        let rates: Vec<f64> = found.iter().map(|found| median(found.rates.clone())).collect();
        for (place, (name, ..)) in ways.iter().enumerate() {
            let of_haproxy = rates.get(2).map_or_else(|| "-".to_owned(), |peer| format!("{:.2}x", rates[place] / peer));
            let (p99, cost) = (median(found[place].p99.clone()), median(found[place].cost.clone()));
            let failed = found[place].failed;
            let of_direct = format!("{:.2}x", rates[place] / rates[0]);
            println!(
                "{name:<10} {:>12.0} {p99:>9.2} {failed:>8} {of_direct:>14} {of_haproxy:>12} {cost:>15.1}",
                rates[place]
            );
        }
        Ok(())
    })
}

/// Each connection sends its next request when the last was answered.
async fn load(port: u16) -> Outcome<(f64, f64, u64)> {
    let begun = Instant::now();
    let (from, until) = (begun + WARM_UP, begun + WARM_UP + MEASURED);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let (mut times, mut failed) = (Vec::with_capacity(16_384), 0u64);
            let Ok(mut stream) = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                return (times, 1);
            };
            let _ = stream.set_nodelay(true);
            let mut buffer = Vec::with_capacity(4_096);
            loop {
                let asked = Instant::now();
                if asked >= until {
                    return (times, failed);
                }
                buffer.clear();
                let answered = async {
                    stream.write_all(REQUEST).await?;
                    while !buffer.ends_with(b"hello, world\n") {
                        if stream.read_buf(&mut buffer).await? == 0 {
                            return Err(std::io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Ok::<_, std::io::Error>(())
                };
                if answered.await.is_err() || !buffer.starts_with(b"HTTP/1.1 200") {
                    failed += 1;
                    return (times, failed);
                }
                if asked >= from {
                    times.push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
            }
        });
    }
    let (mut times, mut failed) = (vec![], 0);
    while let Some(client) = clients.join_next().await {
        let (more, lost) = client?;
        times.extend(more);
        failed += lost;
    }
    times.sort_unstable();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Ok((times.len() as f64 / MEASURED.as_secs_f64(), f64::from(p99) / 1e3, failed))
}

async fn listening(port: u16) -> Outcome<()> {
    for _ in 0..1_000 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("nobody listens on port {port}").into())
}

fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?.port())
}

/// HAProxy with its usual settings and kept connections on both sides; `None` where it is not installed.
fn haproxy(folder: &Path, front: u16, back: u16) -> Outcome<Option<Command>> {
    if Command::new("haproxy").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let path = folder.join("haproxy.cfg");
    std::fs::write(
        &path,
        format!(
            "global\n  maxconn 4096\ndefaults\n  mode http\n  option http-keep-alive\n  option forwardfor\n  \
             http-reuse always\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend front\n  bind 127.0.0.1:{front}\n  default_backend back\n\
             backend back\n  server one 127.0.0.1:{back}\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.arg("-f").arg(path).arg("-db");
    Ok(Some(command))
}
