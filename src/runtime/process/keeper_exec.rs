//! Commands that run beside an instance, with its environment: probes and drain calls.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::files;
use super::keeper::Keeper;
use super::keeper_instance::no_such;
use super::keeper_start::find_executable;
use super::protocol::{Answer, chain, refused, retryable};
use super::record::Private;
use super::release::words;
use crate::model::{ExitStatus, FailureKind};
use crate::runtime::RuntimeError;
use crate::sys::process::{self, Identity};
use crate::sys::spawn::{self, Launch};

/// How much of the end of its output is told.
const TAIL_MAX: usize = 4 << 10;
/// How many commands may run beside the instances of one slot at a time.
const EXECS_MAX: usize = 32;
/// How long after SIGKILL a command is waited for.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// A command at work.
pub(super) struct Exec {
    client: u64,
    main: Identity,
    output: Option<File>,
    tail: Vec<u8>,
    deadline: Instant,
    killed: bool,
}

impl Exec {
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Reads what there is, without waiting. At the end of the output, or an error, it is not looked at again.
    fn read(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; TAIL_MAX];
        // Bounded: one that writes without end is not read without end.
        for _ in 0..16 {
            match output.read(&mut buffer) {
                Ok(0) => {
                    self.output = None;
                    return;
                }
                Ok(count) => {
                    self.tail.extend_from_slice(&buffer[..count]);
                    let surplus = self.tail.len().saturating_sub(TAIL_MAX);
                    self.tail.drain(..surplus);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.output = None;
                    return;
                }
            }
        }
    }
}

impl Keeper {
    /// Starts a command; the client is answered when it has ended or is killed at the time-out.
    pub(super) fn exec(
        &mut self,
        number: u64,
        client: u64,
        argv: &[String],
        timeout: Duration,
    ) -> Result<(), RuntimeError> {
        let name = self.instances.get(&number).ok_or_else(|| no_such(number))?.state.instance.to_string();
        if self.execs.len() >= EXECS_MAX {
            return Err(retryable(FailureKind::Refused, format!("{EXECS_MAX} commands run beside this slot already")));
        }
        let broken = |error: &std::io::Error| {
            refused(FailureKind::Missing, format!("cannot run a command beside {name}: {}", words(error)))
        };
        let private: Private = files::read_json(&self.folder.definition(number))
            .and_then(|found| found.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(|error| broken(&error))?;
        let env = self.environment(&private, &name);
        let program = argv.first().filter(|name| !name.is_empty());
        let program = program.ok_or_else(|| refused(FailureKind::Refused, "command names no program"))?;
        let program = find_executable(program, &private.cwd, &env)?;
        let null = File::open("/dev/null").map_err(|error| broken(&error))?;
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (output, input) = rustix::pipe::pipe_with(flags).map_err(|errno| broken(&errno.into()))?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|errno| broken(&errno.into()))?;
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let env: Vec<(OsString, OsString)> = env.into_iter().collect();
        let failed = |error: &spawn::SpawnError| refused(FailureKind::Refused, chain(error));
        let waiting = spawn::fork(&Launch {
            program: &program,
            argv: &argv,
            env: &env,
            cwd: Path::new(&private.cwd),
            stdin: null.as_fd(),
            stdout: input.as_fd(),
            stderr: input.as_fd(),
            fds: &[],
            listen_pid: false,
        })
        .map_err(|error| failed(&error))?;
        drop(input);
        let main = waiting.identity().clone();
        waiting.release().map_err(|error| failed(&error))?;
        let deadline = Instant::now() + timeout;
        let output = Some(output.into());
        self.execs.push(Exec { client, main, output, tail: Vec::new(), deadline, killed: false });
        Ok(())
    }

    pub(super) fn read_exec(&mut self, at: usize) {
        if let Some(exec) = self.execs.get_mut(at) {
            exec.read();
        }
    }

    /// A child that is no main process has ended: perhaps a command.
    pub(super) fn exec_ended(&mut self, pid: i32, status: ExitStatus) {
        let Some(at) = self.execs.iter().position(|exec| exec.main.pid == pid) else { return };
        let mut exec = self.execs.remove(at);
        // What it wrote before its end is in the pipe. Children that it left may hold the pipe open: not waited for.
        exec.read();
        let code = match status {
            ExitStatus::Code(code) if !exec.killed => Some(code),
            _ => None,
        };
        self.finish_exec(&exec, code);
    }

    fn finish_exec(&mut self, exec: &Exec, code: Option<i32>) {
        let tail = String::from_utf8_lossy(&exec.tail).into_owned();
        self.answer(exec.client, &Answer::Output { code, tail });
    }

    /// Kills commands whose time is over: their whole session.
    pub(super) fn exec_timers(&mut self, now: Instant) {
        let mut given_up = Vec::new();
        for (at, exec) in self.execs.iter_mut().enumerate() {
            if exec.deadline > now {
                continue;
            }
            if exec.killed {
                given_up.push(at);
                continue;
            }
            exec.killed = true;
            exec.deadline = now + KILL_PATIENCE;
            process::kill_session(&exec.main);
        }
        for at in given_up.into_iter().rev() {
            let exec = self.execs.remove(at);
            self.finish_exec(&exec, None);
        }
    }
}
