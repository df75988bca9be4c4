//! One stream as a channel for calls.

use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Error, Uri};

/// A channel over this one stream. When it breaks, so does the channel: whoever finds it broken opens another.
///
/// # Errors
/// When the stream ends before it is one.
pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Channel, Error> {
    let once = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || std::io::Error::from(std::io::ErrorKind::NotConnected);
        async move { stream.map(TokioIo::new).ok_or_else(gone) }
    });
    // The name is never looked up: the connector knows where to go.
    Endpoint::from_static("http://baton").connect_with_connector(connector).await
}
