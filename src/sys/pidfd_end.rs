//! Waiting for the end of a process inside a tokio runtime.
#![expect(
    unsafe_code,
    reason = "tokio wants it promised that a descriptor stays the same for as long as it is registered"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::PidFd;

struct Handle(OwnedFd);

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A process whose end can be waited for.
pub struct Ending(AsyncFd<Handle>);

impl Ending {
    /// Of that process.
    ///
    /// # Errors
    /// When the runtime cannot take the descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn of(process: PidFd) -> io::Result<Self> {
        // SAFETY: the handle owns its descriptor, never gives it away and always tells the same number.
        let registered = unsafe { AsyncFd::register_with_interest(Handle(process.into_fd()), Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Returns once it has ended.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }
}
