//! A proxy that misbehaves on request: between any client and any server, without root and without the kernel's help.
//!
//! ```text
//! client ──► TCP 127.0.0.1 or Unix socket ──► FaultProxy ──► TCP or Unix socket ──► server
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Pieces that wait for their time in one direction; beyond it the sender is held back.
const PIECES_WAITING_MAX: usize = 64;
/// The size of a piece.
const PIECE_BYTES: usize = 16 * 1024;

/// One side of the proxy.
#[derive(Clone, Debug)]
pub enum Address {
    /// Host and port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// How the proxy behaves, towards connections that are there and towards new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As if it were not there.
    None,
    /// Every piece arrives so much later, in each direction; nothing is slowed down otherwise.
    Delay(Duration),
    /// Nothing arrives, not even an end; what was sent arrives when the fault is over, as after a partition.
    Blackhole(Way),
    /// Nobody listens: new connections are refused. Those that are there go on.
    Refuse,
    /// Connections are reset, and so is every new one.
    Reset,
    /// The server's side of every connection ends and the client is not told. When the fault is over such connections
    /// are reset, as a host does that was restarted in between.
    HalfOpen,
}

/// In which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to server.
    ToServer,
    /// From server to client.
    ToClient,
    /// In both.
    Both,
}

impl Fault {
    fn blocks(self, way: Way) -> bool {
        matches!(self, Fault::Blackhole(blocked) if blocked == way || blocked == Way::Both)
    }

    fn delay(self) -> Duration {
        if let Fault::Delay(delay) = self { delay } else { Duration::ZERO }
    }
}

/// A running proxy. Dropped, it ends with all its connections.
pub struct FaultProxy {
    listen: Address,
    fault: watch::Sender<Fault>,
    accepted: Arc<AtomicU64>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Listens on a free loopback port in front of `server`.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn tcp(server: Address) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let listen = Address::Tcp(listener.local_addr()?);
        Ok(Self::start(listen, Listener::Tcp(listener), server))
    }

    /// Listens on a Unix socket in front of `server`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn unix(path: &Path, server: Address) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        Ok(Self::start(Address::Unix(path.to_owned()), Listener::Unix(listener), server))
    }

    fn start(listen: Address, listener: Listener, server: Address) -> Self {
        let (fault, seen) = watch::channel(Fault::None);
        let (tell_listening, listening) = watch::channel(true);
        let accepted = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listen.clone(), listener, server, seen, tell_listening, Arc::clone(&accepted)));
        Self { listen, fault, accepted, listening, task }
    }

    /// Where clients connect.
    pub fn address(&self) -> &Address {
        &self.listen
    }

    /// Where clients connect, over TCP.
    ///
    /// # Panics
    /// When it listens on a Unix socket.
    pub fn tcp_address(&self) -> SocketAddr {
        match &self.listen {
            Address::Tcp(address) => *address,
            Address::Unix(path) => panic!("this proxy listens on {}", path.display()),
        }
    }

    /// Switches. Returns when the door is as the fault says: closed for `Refuse`, open for all others.
    ///
    /// # Panics
    /// When the port could not be bound again.
    pub async fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
        let open = fault != Fault::Refuse;
        let mut listening = self.listening.clone();
        listening.wait_for(|listening| *listening == open).await.expect("the proxy lost its port");
    }

    /// How many connections it has accepted since it began.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === Accepting ===

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn bind(listen: &Address) -> io::Result<Self> {
        match listen {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Address::Unix(path) => UnixListener::bind(path).map(Listener::Unix),
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

async fn accept(
    listen: Address,
    listener: Listener,
    server: Address,
    mut fault: watch::Receiver<Fault>,
    listening: watch::Sender<bool>,
    accepted: Arc<AtomicU64>,
) {
    let mut open = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuse = *fault.borrow_and_update() == Fault::Refuse;
        if refuse && open.take().is_some() {
            if let Address::Unix(path) = &listen {
                std::fs::remove_file(path).ok();
            }
            listening.send_replace(false);
        } else if !refuse && open.is_none() {
            let Ok(again) = Listener::bind(&listen).await else { return };
            open = Some(again);
            listening.send_replace(true);
        }
        let next = async {
            match &open {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(client) = next => {
                accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, server.clone(), fault.clone()));
            }
            changed = fault.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
        }
    }
}

// === One connection ===

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl Stream {
    async fn connect(server: &Address) -> io::Result<Self> {
        match server {
            Address::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    }

    /// Its two directions, and for TCP a copy of the socket: it outlives them and decides how the connection ends.
    /// Dropped, the directions say nothing to the other side; the halves of `into_split` would send an end.
    fn split(self) -> io::Result<(Reader, Writer, Option<rustix::fd::OwnedFd>)> {
        Ok(match self {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                let handle = rustix::io::fcntl_dupfd_cloexec(&stream, 0)?;
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(reader), Box::new(writer), Some(handle))
            }
            Stream::Unix(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (Box::new(reader), Box::new(writer), None)
            }
        })
    }
}

/// Carries one connection to its end.
async fn carry(client: Stream, server: Address, mut fault: watch::Receiver<Fault>) -> io::Result<()> {
    let (from_client, to_client, client_handle) = client.split()?;
    let reset = |handle: &Option<rustix::fd::OwnedFd>| match handle {
        // Closed with nothing to linger for, TCP sends a reset. The last copy is closed when this task returns.
        Some(handle) => set_socket_linger(handle, Some(Duration::ZERO)).map_err(io::Error::from),
        None => Ok(()),
    };
    // Behind a partition nobody is reached, not even to be refused.
    let reachable = |fault: &Fault| !fault.blocks(Way::ToServer) && *fault != Fault::HalfOpen;
    let was_half_open = *fault.borrow() == Fault::HalfOpen;
    let now = fault.wait_for(|fault| reachable(fault)).await.map(|now| *now).unwrap_or(Fault::None);
    if now == Fault::Reset || was_half_open {
        return reset(&client_handle);
    }
    let Ok(target) = Stream::connect(&server).await else { return reset(&client_handle) };
    let (from_server, to_server, server_handle) = target.split()?;
    let pumps = async {
        tokio::join!(
            pump(from_client, to_server, fault.clone(), Way::ToServer),
            pump(from_server, to_client, fault.clone(), Way::ToClient),
        )
    };
    let mut watched = fault.clone();
    let cut = watched.wait_for(|fault| matches!(fault, Fault::Reset | Fault::HalfOpen));
    let how = tokio::select! {
        (there, back) = pumps => {
            // An end with an error was a reset of one side: the other one is told the same.
            if there.is_err() || back.is_err() {
                reset(&client_handle)?;
                reset(&server_handle)?;
            }
            return Ok(());
        }
        how = cut => how.map(|how| *how).unwrap_or(Fault::Reset),
    };
    if how == Fault::HalfOpen {
        // `pumps` is gone and with it the server's streams; the client's stay open through this copy alone.
        drop(server_handle);
        fault.wait_for(|fault| *fault != Fault::HalfOpen).await.ok();
    } else {
        reset(&server_handle)?;
    }
    reset(&client_handle)
}

/// Carries one direction: each piece becomes due after the delay and leaves when nothing blocks the way.
async fn pump(mut from: Reader, mut to: Writer, fault: watch::Receiver<Fault>, way: Way) -> io::Result<()> {
    let (push, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_WAITING_MAX);
    let seen = fault.clone();
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let length = from.read(&mut piece).await?;
            piece.truncate(length);
            let due = Instant::now() + seen.borrow().delay();
            if push.send((due, piece)).await.is_err() || length == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let mut blocked = fault;
    let write = async move {
        while let Some((due, piece)) = waiting.recv().await {
            sleep_until(due).await;
            blocked.wait_for(|fault| !fault.blocks(way)).await.ok();
            if piece.is_empty() {
                to.shutdown().await.ok();
                return Ok(());
            }
            to.write_all(&piece).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}
