//! Waiting for the end of a process inside a tokio runtime.
#![expect(
    unsafe_code,
    reason = "tokio wants it promised that a descriptor stays the same for as long as it is registered, and the kernel \
              is asked how a process ended by a call that has no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

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

    /// How it ended, also where it is somebody else's child (`PIDFD_GET_INFO` of `linux/pidfd.h`). `None`: it runs, or
    /// its parent has not taken notice of its end yet.
    ///
    /// # Errors
    /// Where the kernel does not tell (before Linux 6.15).
    pub fn status(&self) -> io::Result<Option<ExitStatus>> {
        // SAFETY: a struct of integers, for which zeros are values.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        info.mask = u64::from(libc::PIDFD_INFO_EXIT);
        // SAFETY: the descriptor is open, and the struct lives for the call, which writes no more than its size: that
        // is a part of the request's number.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        let told = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        // A kernel that knows the call and not this question answers like one whose process runs.
        Ok(told.then(|| ExitStatus::from_raw(info.exit_code)))
    }
}
