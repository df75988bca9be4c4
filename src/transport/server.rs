//! Letting peers in: bounded in number, in handshake time, and known by name before they speak.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::{Address, Identity, Peer, Security, TlsError};

/// Connections at a time. An agent needs one and a verb one; the mark is 10,000 agents on one coordinator.
const CONNECTIONS_MAX: usize = 12_000;

/// Handshakes at a time: a flood of half-open ones must not take every place.
const HANDSHAKES_MAX: usize = 256;

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TCP without saying how it is kept safe.
    #[error("{address} is a TCP address: name certificates (--tls-ca, --tls-cert, --tls-key) or say --insecure")]
    Unsafe {
        /// Where.
        address: Address,
    },
    /// The certificate files are no good.
    #[error("cannot use the certificates")]
    Tls(#[source] TlsError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound listener.
pub struct Listener {
    inner: Inner,
    address: Address,
}

enum Inner {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl Listener {
    /// Binds. A Unix socket is 0600 and takes the place of a stale one.
    ///
    /// # Errors
    /// When the address cannot be bound or the certificate files are no good.
    pub async fn bind(address: &Address, security: Option<&Security>) -> Result<Self, ListenError> {
        let bind = |source| ListenError::Bind { address: address.clone(), source };
        let (inner, address) = match address {
            Address::Unix(path) => {
                let listener = crate::sys::unix_socket::listen(path).map_err(bind)?;
                listener.set_nonblocking(true).map_err(bind)?;
                (Inner::Unix(UnixListener::from_std(listener).map_err(bind)?, path.clone()), address.clone())
            }
            Address::Tcp { host, port } => {
                let security = security.ok_or_else(|| ListenError::Unsafe { address: address.clone() })?;
                let acceptor = match security {
                    Security::Insecure => None,
                    Security::Tls(files) => Some(TlsAcceptor::from(files.server().map_err(ListenError::Tls)?)),
                };
                let listener = TcpListener::bind((host.as_str(), *port)).await.map_err(bind)?;
                let port = listener.local_addr().map_err(bind)?.port();
                (Inner::Tcp(listener, acceptor), Address::Tcp { host: host.clone(), port })
            }
        };
        Ok(Self { inner, address })
    }

    /// Where it listens, with the port that was given for port 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Peers as they come, each known by name. Ends when the receiver is dropped.
    pub fn incoming(self) -> ReceiverStream<io::Result<Stream>> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move { self.accept(sender).await });
        ReceiverStream::new(receiver)
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<Stream>>) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let ours = std::fs::metadata("/proc/self").map(|data| data.uid()).unwrap_or(u32::MAX);
        loop {
            let Ok(place) = connections.clone().acquire_owned().await else { return };
            match &self.inner {
                Inner::Unix(listener, path) => {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = sender.closed() => return,
                    };
                    let Ok((stream, _)) = accepted else {
                        pause_after_accept_error().await;
                        continue;
                    };
                    let uid = stream.peer_cred().map(|cred| cred.uid()).unwrap_or(u32::MAX);
                    if uid != ours && uid != 0 {
                        tracing::warn!(uid, path = %path.display(), "refused a user who may not use this socket");
                        continue;
                    }
                    let stream = Stream { io: Io::Unix(stream), peer: Peer::Local { uid }, _place: place };
                    if sender.send(Ok(stream)).await.is_err() {
                        return;
                    }
                }
                Inner::Tcp(listener, acceptor) => {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        () = sender.closed() => return,
                    };
                    let Ok((tcp, from)) = accepted else {
                        pause_after_accept_error().await;
                        continue;
                    };
                    let _ = tcp.set_nodelay(true);
                    let Some(acceptor) = acceptor.clone() else {
                        let stream = Stream { io: Io::Tcp(tcp), peer: Peer::Insecure, _place: place };
                        if sender.send(Ok(stream)).await.is_err() {
                            return;
                        }
                        continue;
                    };
                    let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        match handshake(acceptor, tcp).await {
                            Ok((tls, identity)) => {
                                drop(turn);
                                let peer = Peer::Certified(identity);
                                let stream = Stream { io: Io::Tls(Box::new(tls)), peer, _place: place };
                                let _ = sender.send(Ok(stream)).await;
                            }
                            Err(why) => tracing::warn!(%from, %why, "refused a connection"),
                        }
                    });
                }
            }
        }
    }
}

/// Out of descriptors, most likely: without a pause the loop would spin.
async fn pause_after_accept_error() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Identity), String> {
    let tls = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(tcp))
        .await
        .map_err(|_| "the handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate
        .and_then(|certificate| Identity::of_certificate(certificate))
        .ok_or("its certificate has no name of the form spiffe://FLEET/ROLE/NAME")?;
    Ok((tls, identity))
}

enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// One peer's connection.
pub struct Stream {
    io: Io,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for Stream {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
