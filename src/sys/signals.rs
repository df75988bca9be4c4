//! Signals by name, and signals as something to poll.
#![expect(unsafe_code, reason = "signalfd, sigprocmask and recvmsg with credentials have no safe wrapper in use here")]

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Names and numbers of the signals that a manifest may name.
const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// The number of a signal: `SIGTERM`, `TERM` or `15`.
pub fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return NAMES.iter().any(|(_, known)| *known == number).then_some(number);
    }
    let short = name.strip_prefix("SIG").unwrap_or(name);
    NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number)
}

/// Blocked signals of this process as a descriptor to poll.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks the signals in the calling thread and receives them here from now on. For a process of one thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(signals: &[i32]) -> io::Result<SignalFd> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given; the others are given an initialised one, and
        // signalfd returns a new descriptor that nobody else owns.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                if libc::sigaddset(set.as_mut_ptr(), signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(SignalFd { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The next signal that has come, if any.
    ///
    /// # Errors
    /// When the read fails.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut buffer = [0_u8; mem::size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(count) if count == buffer.len() => {
                let number = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                Ok(i32::try_from(number).ok())
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One datagram with the pid of its sender as the kernel knows it (`SO_PASSCRED` must be set). The pid is `None` when
/// the kernel did not say, or the sender is outside this pid namespace.
///
/// # Errors
/// `WouldBlock` when there is none; whatever else the kernel says.
pub fn receive_with_pid(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<i32>)> {
    // As many words as one ucred needs, aligned as the kernel's header wants it.
    let mut control = [0_u64; 16];
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which zero is a valid value; iov and control outlive the call and their lengths
    // are the true ones. The control messages are walked with libc's own macros and read unaligned.
    unsafe {
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = mem::size_of_val(&control) as _;
        let count = libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut pid = None;
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let (level, kind) = ((*message).cmsg_level, (*message).cmsg_type);
            if level == libc::SOL_SOCKET && kind == libc::SCM_CREDENTIALS {
                let credentials: libc::ucred = libc::CMSG_DATA(message).cast::<libc::ucred>().read_unaligned();
                pid = (credentials.pid > 0).then_some(credentials.pid);
            } else if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
                // Nobody asked for descriptors (FDSTORE is not offered): they are closed, or a sender could fill the
                // table of this process.
                let length = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let fds = libc::CMSG_DATA(message).cast::<i32>();
                for at in 0..length / mem::size_of::<i32>() {
                    drop(OwnedFd::from_raw_fd(fds.add(at).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
        Ok((usize::try_from(count).unwrap_or(0), pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number_and_nothing_else_is_one() {
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("TERM"), Some(15));
        assert_eq!(number("9"), Some(9));
        for text in ["SIGTERMX", "term", "", "0", "-9", "99"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_datagram_comes_with_the_pid_of_its_sender() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        theirs.send(b"READY=1").unwrap();
        let mut buffer = [0; 64];
        let (count, pid) = receive_with_pid(ours.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        assert_eq!(pid, Some(i32::try_from(std::process::id()).unwrap()));
    }
}
