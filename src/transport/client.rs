//! Opening a channel to a coordinator.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use super::{Address, Identity, Role, Security, TlsError};

/// How long a connection, handshake included, may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP without saying how it is kept safe.
    #[error("{address} is a TCP address: name certificates (--tls-ca, --tls-cert, --tls-key) or say --insecure")]
    Unsafe {
        /// Where.
        address: Address,
    },
    /// The certificate files are no good.
    #[error("cannot use the certificates")]
    Tls(#[source] TlsError),
    /// Nobody answers there.
    #[error("cannot reach a coordinator at {address}; see that `baton coordinator` runs there")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Opens a channel. Bounded by 5 s.
///
/// # Errors
/// When the address cannot be reached or the other side is not who it must be.
pub async fn connect(address: &Address, security: Option<&Security>, fleet: &str) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_static("http://baton")
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let unreachable = |source| ConnectError::Unreachable { address: address.clone(), source };
    match address {
        Address::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    let stream = crate::sys::unix_socket::connect(&path)?;
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream).map(TokioIo::new)
                }
            });
            endpoint.connect_with_connector(connector).await.map_err(unreachable)
        }
        Address::Tcp { host, port } => {
            let security = security.ok_or_else(|| ConnectError::Unsafe { address: address.clone() })?;
            let (host, port) = (host.clone(), *port);
            match security {
                Security::Insecure => {
                    let connector = tower::service_fn(move |_| {
                        let host = host.clone();
                        async move { open(&host, port).await.map(TokioIo::new) }
                    });
                    endpoint.connect_with_connector(connector).await.map_err(unreachable)
                }
                Security::Tls(files) => {
                    let config = files.client().map_err(ConnectError::Tls)?;
                    let fleet = fleet.to_owned();
                    let connector = tower::service_fn(move |_| {
                        let (host, config, fleet) = (host.clone(), config.clone(), fleet.clone());
                        async move { secure(&host, port, config, &fleet).await.map(TokioIo::new) }
                    });
                    endpoint.connect_with_connector(connector).await.map_err(unreachable)
                }
            }
        }
    }
}

async fn open(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn secure(
    host: &str,
    port: u16,
    config: Arc<rustls::ClientConfig>,
    fleet: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = rustls_pki_types::ServerName::try_from(host.to_owned())
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))?;
    let handshake = async {
        let tcp = open(host, port).await?;
        tokio_rustls::TlsConnector::from(config).connect(name, tcp).await
    };
    let stream = tokio::time::timeout(CONNECT_MAX, handshake).await.map_err(std::io::Error::other)??;
    // An agent's certificate is of our authority too, and so may be that of another fleet's coordinator; neither holder
    // must be able to pose as ours.
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match peer.and_then(|certificate| Identity::of_certificate(certificate)) {
        Some(identity) if identity.role == Role::Coordinator && identity.fleet == fleet => Ok(stream),
        Some(identity) if identity.role == Role::Coordinator => Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            format!("the certificate of {host} is that of a coordinator of fleet {}, not {fleet}", identity.fleet),
        )),
        Some(identity) => Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            format!("the certificate of {host} is that of {identity}, not of a coordinator"),
        )),
        None => Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            format!("the certificate of {host} has no name of the form spiffe://FLEET/coordinator/ID"),
        )),
    }
}
