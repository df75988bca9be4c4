//! Starting a program in a session of its own, with nothing inherited by accident.
//!
//! The child is forked, waits at a gate until the caller has written down who it is, and only then becomes the program:
//! a caller that is killed in between leaves no program behind that nobody knows of.
#![expect(unsafe_code, reason = "between fork and exec only plain system calls are allowed; std offers no gate there")]

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::process::{Identity, PidFd};

/// The highest signal number of Linux.
const LAST_SIGNAL: i32 = 64;
/// `LISTEN_PID=` is filled in by the child itself, which alone knows its pid.
const LISTEN_PID: &[u8] = b"LISTEN_PID=";

/// What to start, and how.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The file to execute; relative to `cwd` when it has a slash but does not begin with one.
    pub program: &'a Path,
    /// All of the argv, the program's name first.
    pub argv: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// The working folder.
    pub cwd: &'a Path,
    /// Becomes 0.
    pub stdin: BorrowedFd<'a>,
    /// Becomes 1.
    pub stdout: BorrowedFd<'a>,
    /// Becomes 2.
    pub stderr: BorrowedFd<'a>,
    /// Become 3, 4, ...
    pub fds: &'a [BorrowedFd<'a>],
    /// Adds `LISTEN_PID` with the child's pid.
    pub listen_pid: bool,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A text with a NUL byte cannot be an argument, a variable or a path.
    #[error("an argument, environment variable or path has a NUL byte")]
    Nul(#[source] std::ffi::NulError),
    /// No process could be made.
    #[error("cannot fork a process")]
    Fork(#[source] io::Error),
    /// The working folder.
    #[error("cannot enter the working folder {cwd}")]
    Cwd {
        /// Which.
        cwd: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Session, descriptors or signals of the child.
    #[error("cannot set up the new process")]
    Setup(#[source] io::Error),
    /// The program.
    #[error("cannot execute {program}")]
    Exec {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the child failed at; sent over the report pipe.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    Setup = 1,
    Cwd = 2,
    Exec = 3,
}

/// A child that waits at the gate. Dropped, it goes away without having become the program.
#[derive(Debug)]
pub struct Waiting {
    identity: Identity,
    pidfd: PidFd,
    gate: std::fs::File,
    report: std::fs::File,
    program: String,
    cwd: String,
}

impl Waiting {
    /// Who it is; the same before and after it becomes the program.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Opens the gate and returns once it is the program.
    ///
    /// # Errors
    /// When it could not become the program. It has ended then, or is about to, and is to be reaped.
    pub fn release(mut self) -> Result<PidFd, SpawnError> {
        self.gate.write_all(&[1]).map_err(SpawnError::Setup)?;
        read_report(&mut self.report, &self.program, &self.cwd)?;
        Ok(self.pidfd)
    }
}

/// Everything that the child needs, made before the fork: no memory is allocated after it.
struct Prepared {
    program: CString,
    cwd: CString,
    _argv: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    _env: Vec<CString>,
    env: Vec<*const libc::c_char>,
    listen_pid: Box<[u8; 32]>,
    sources: Vec<RawFd>,
}

impl Prepared {
    fn new(launch: &Launch<'_>) -> Result<Prepared, std::ffi::NulError> {
        let argv_texts = launch.argv.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let mut env_texts = Vec::with_capacity(launch.env.len());
        for (name, value) in launch.env {
            env_texts.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        let mut listen_pid = Box::new([0_u8; 32]);
        listen_pid[..LISTEN_PID.len()].copy_from_slice(LISTEN_PID);
        let mut argv: Vec<_> = argv_texts.iter().map(|text| text.as_ptr()).collect();
        argv.push(ptr::null());
        let mut env: Vec<_> = env_texts.iter().map(|text| text.as_ptr()).collect();
        if launch.listen_pid {
            env.push(listen_pid.as_ptr().cast());
        }
        env.push(ptr::null());
        let mut sources = vec![launch.stdin.as_raw_fd(), launch.stdout.as_raw_fd(), launch.stderr.as_raw_fd()];
        sources.extend(launch.fds.iter().map(AsRawFd::as_raw_fd));
        Ok(Prepared {
            program: CString::new(launch.program.as_os_str().as_bytes())?,
            cwd: CString::new(launch.cwd.as_os_str().as_bytes())?,
            _argv: argv_texts,
            argv,
            _env: env_texts,
            env,
            listen_pid,
            sources,
        })
    }

    /// Becomes the program, or says why not and ends. Runs in the child: plain system calls only.
    ///
    /// # Safety
    /// Only to be called in a child right after fork.
    unsafe fn become_program(&mut self, report: RawFd) -> ! {
        // SAFETY: every pointer was made before the fork and lives on in this copy of the memory; each call is
        // async-signal-safe.
        unsafe {
            // A signal that the spawner ignored would stay ignored over exec; one that it blocked would stay blocked.
            // The system call itself: the C library keeps two signals to itself and would leave them ignored. All
            // zeroes are the default action with an empty mask; KILL and STOP are refused, as they should be.
            let default_action = [0_u64; 4];
            for signal in 1..=LAST_SIGNAL {
                let (action, former) = (default_action.as_ptr(), ptr::null_mut::<u64>());
                libc::syscall(libc::SYS_rt_sigaction, signal, action, former, 8_usize);
            }
            let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            if libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) != 0 {
                fail(report, Stage::Setup);
            }
            // Everything is first copied to numbers above all places, so that no move overwrites what is still to be
            // moved; the report pipe too, which must live on and close by itself at exec.
            let places = self.sources.len() as RawFd;
            let report_copy = libc::fcntl(report, libc::F_DUPFD_CLOEXEC, places);
            if report_copy < 0 {
                fail(report, Stage::Setup);
            }
            let report = report_copy;
            for source in &mut self.sources {
                *source = libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, places);
                if *source < 0 {
                    fail(report, Stage::Setup);
                }
            }
            for (place, &source) in self.sources.iter().enumerate() {
                if libc::dup2(source, place as RawFd) < 0 {
                    fail(report, Stage::Setup);
                }
            }
            // Whatever else is open closes at exec, also what some library forgot to mark.
            libc::syscall(libc::SYS_close_range, places as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if libc::chdir(self.cwd.as_ptr()) != 0 {
                fail(report, Stage::Cwd);
            }
            write_decimal(&mut self.listen_pid[LISTEN_PID.len()..], libc::getpid());
            libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
            fail(report, Stage::Exec)
        }
    }
}

/// Tells the parent what went wrong and ends.
///
/// # Safety
/// Only to be called in a child after fork.
unsafe fn fail(report: RawFd, stage: Stage) -> ! {
    // SAFETY: plain system calls on memory of this frame.
    unsafe {
        let errno = *libc::__errno_location();
        let mut message = [0_u8; 5];
        message[0] = stage as u8;
        message[1..].copy_from_slice(&errno.to_ne_bytes());
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// Writes a number in decimal, NUL-terminated, without allocating. No leading zeros: they would be read as octal.
fn write_decimal(to: &mut [u8], number: i32) {
    let mut digits = [0_u8; 12];
    let mut rest = number.unsigned_abs();
    let mut length = 0;
    loop {
        digits[length] = b'0' + (rest % 10) as u8;
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    for at in 0..length {
        to[at] = digits[length - 1 - at];
    }
    to[length] = 0;
}

/// Forks a child in a session of its own that waits at the gate.
///
/// # Errors
/// When no process can be made, or an argument cannot be one.
pub fn fork(launch: &Launch<'_>) -> Result<Waiting, SpawnError> {
    let mut prepared = Prepared::new(launch).map_err(SpawnError::Nul)?;
    let (gate_out, gate_in) = pipe().map_err(SpawnError::Fork)?;
    let (report_out, report_in) = pipe().map_err(SpawnError::Fork)?;
    // SAFETY: the child runs plain system calls only until it execs or exits (see `become_program`).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: in the child; the descriptors are copies of the parent's, so closing them here closes none there.
        unsafe {
            libc::setsid();
            libc::close(gate_in.as_raw_fd());
            libc::close(report_out.as_raw_fd());
            let mut byte = 0_u8;
            loop {
                let count = libc::read(gate_out.as_raw_fd(), (&raw mut byte).cast(), 1);
                if count == 1 {
                    break;
                }
                if count == 0 || *libc::__errno_location() != libc::EINTR {
                    libc::_exit(126);
                }
            }
            prepared.become_program(report_in.as_raw_fd())
        }
    }
    if pid < 0 {
        return Err(SpawnError::Fork(io::Error::last_os_error()));
    }
    drop((gate_out, report_in));
    let identity = Identity::of(pid).map_err(SpawnError::Fork)?;
    let gone = || SpawnError::Fork(io::Error::other("the new process was killed at once"));
    let pidfd = identity.open().map_err(SpawnError::Fork)?.ok_or_else(gone)?;
    Ok(Waiting {
        identity,
        pidfd,
        gate: gate_in.into(),
        report: report_out.into(),
        program: launch.program.display().to_string(),
        cwd: launch.cwd.display().to_string(),
    })
}

/// Starts a program that is nobody's child: in a session of its own, its parent gone. Returns once it is the program.
///
/// # Errors
/// When it cannot be started.
pub fn detached(launch: &Launch<'_>) -> Result<Identity, SpawnError> {
    let mut prepared = Prepared::new(launch).map_err(SpawnError::Nul)?;
    let (report_out, report_in) = pipe().map_err(SpawnError::Fork)?;
    let (pid_out, pid_in) = pipe().map_err(SpawnError::Fork)?;
    // SAFETY: both children run plain system calls only until they exec or exit.
    let between = unsafe { libc::fork() };
    if between == 0 {
        // SAFETY: in the child, as above.
        unsafe {
            libc::setsid();
            let pid = libc::fork();
            if pid == 0 {
                prepared.become_program(report_in.as_raw_fd());
            }
            libc::write(pid_in.as_raw_fd(), (&raw const pid).cast(), std::mem::size_of_val(&pid));
            libc::_exit(0)
        }
    }
    if between < 0 {
        return Err(SpawnError::Fork(io::Error::last_os_error()));
    }
    drop((report_in, pid_in));
    let mut pid = [0_u8; 4];
    let told = std::fs::File::from(pid_out).read_exact(&mut pid);
    if let Some(between) = rustix::process::Pid::from_raw(between) {
        // It ends by itself at once. An error means that somebody else reaped it, which is as good.
        let _ = rustix::process::waitpid(Some(between), rustix::process::WaitOptions::empty());
    }
    told.map_err(SpawnError::Fork)?;
    let pid = i32::from_ne_bytes(pid);
    if pid < 0 {
        return Err(SpawnError::Fork(io::Error::other("the second fork failed")));
    }
    let cwd = launch.cwd.display().to_string();
    read_report(&mut std::fs::File::from(report_out), &launch.program.display().to_string(), &cwd)?;
    Identity::of(pid).map_err(SpawnError::Fork)
}

/// End of file: the program runs (the pipe closed at exec). Otherwise what went wrong.
fn read_report(report: &mut std::fs::File, program: &str, cwd: &str) -> Result<(), SpawnError> {
    let mut message = Vec::new();
    report.take(5).read_to_end(&mut message).map_err(SpawnError::Setup)?;
    let Some((&stage, errno)) = message.split_first() else { return Ok(()) };
    let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
    let source = io::Error::from_raw_os_error(errno);
    Err(match stage {
        stage if stage == Stage::Exec as u8 => SpawnError::Exec { program: program.to_owned(), source },
        stage if stage == Stage::Cwd as u8 => SpawnError::Cwd { cwd: cwd.to_owned(), source },
        _ => SpawnError::Setup(source),
    })
}

/// A pipe whose ends close at exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn run(script: &str, fds: &[BorrowedFd<'_>], listen_pid: bool) -> (String, i32) {
        let null = File::open("/dev/null").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = File::create(folder.path().join("out")).unwrap();
        let argv = ["sh", "-c", script].map(OsString::from);
        let env = [("PATH", "/usr/bin:/bin")].map(|(name, value)| (name.into(), value.into()));
        let waiting = fork(&Launch {
            program: Path::new("/bin/sh"),
            argv: &argv,
            env: &env,
            cwd: folder.path(),
            stdin: null.as_fd(),
            stdout: out.as_fd(),
            stderr: out.as_fd(),
            fds,
            listen_pid,
        })
        .unwrap();
        let pid = waiting.identity().pid;
        waiting.release().unwrap();
        rustix::process::waitpid(rustix::process::Pid::from_raw(pid), rustix::process::WaitOptions::empty()).unwrap();
        (std::fs::read_to_string(folder.path().join("out")).unwrap(), pid)
    }

    #[test]
    fn a_child_leads_its_session_and_inherits_no_mask_no_ignored_signal_and_no_descriptor() {
        let stray = rustix::io::fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), 200).unwrap();
        rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
        // The spawner of a test ignores SIGPIPE, as every Rust program does.
        let (text, pid) =
            run("cat /proc/self/status; echo session $(cut -d' ' -f6 /proc/$$/stat); ls /proc/$$/fd", &[], false);
        for field in ["SigBlk", "SigIgn"] {
            let line = text.lines().find(|line| line.starts_with(field)).unwrap();
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        assert!(text.contains(&format!("session {pid}")), "{text}");
        assert!(!text.lines().any(|line| line == "200"), "{text}");
    }

    #[test]
    fn listen_pid_is_the_pid_of_the_child_and_descriptors_begin_at_3() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let second = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let script = "echo $LISTEN_PID $$; readlink /proc/$$/fd/3 /proc/$$/fd/4";
        let (text, pid) = run(script, &[first.as_fd(), second.as_fd()], true);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(format!("{pid} {pid}").as_str()));
        for listener in [&first, &second] {
            let inode = rustix::fs::fstat(listener).unwrap().st_ino;
            assert_eq!(lines.next(), Some(format!("socket:[{inode}]").as_str()));
        }
    }

    #[test]
    fn a_child_whose_gate_never_opens_becomes_nothing() {
        let null = File::open("/dev/null").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let argv = [OsString::from("touch"), mark.clone().into()];
        let waiting = fork(&Launch {
            program: Path::new("/usr/bin/touch"),
            argv: &argv,
            env: &[],
            cwd: Path::new("/"),
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: null.as_fd(),
            fds: &[],
            listen_pid: false,
        })
        .unwrap();
        let pid = rustix::process::Pid::from_raw(waiting.identity().pid);
        drop(waiting);
        let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(126));
        assert!(!mark.exists());
    }

    #[test]
    fn a_program_that_is_not_there_is_told_with_its_cause() {
        let null = File::open("/dev/null").unwrap();
        let argv = [OsString::from("nothing")];
        let launch = Launch {
            program: Path::new("/nowhere/nothing"),
            argv: &argv,
            env: &[],
            cwd: Path::new("/"),
            stdin: null.as_fd(),
            stdout: null.as_fd(),
            stderr: null.as_fd(),
            fds: &[],
            listen_pid: false,
        };
        let error = detached(&launch).unwrap_err();
        assert!(
            matches!(&error, SpawnError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound),
            "{error}"
        );
        let error = detached(&Launch { cwd: Path::new("/nowhere"), ..launch }).unwrap_err();
        assert!(matches!(error, SpawnError::Cwd { .. }), "{error}");
    }
}
