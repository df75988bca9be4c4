//! How a verb ends. Every code is documented and tested.

use std::process::ExitCode;

/// Exit codes, as scripts know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or nothing to do.
    Done,
    /// 1: failed and needs a person.
    Failed,
    /// 2: bad usage or manifest, or no terminal and no `--yes`.
    Usage,
    /// 3: failed and rolled back.
    RolledBack,
    /// 4: stopped by a person, a gate or a window.
    Stopped,
    /// 5: refused before anything was touched, or another roll owns the fleet.
    Refused,
    /// 10: `plan --detailed-exitcode` found changes.
    Changes,
    /// 130: interrupted and resumable.
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::RolledBack => 3,
            Exit::Stopped => 4,
            Exit::Refused => 5,
            Exit::Changes => 10,
            Exit::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// What went wrong, for people, with its exit code.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) exit: Exit,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// With all causes.
    pub(super) fn of(exit: Exit, error: &dyn std::error::Error) -> Self {
        Self::new(exit, crate::cause::chain(error))
    }
}

/// The one place that turns a coordinator's answer into an exit code.
impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        // With a cause, it is no answer: the connection ended. A coordinator that refuses a certificate does just that.
        if let Some(cause) = std::error::Error::source(&status) {
            let text = format!(
                "the coordinator ended the connection ({}); if that was at once, does it take these certificates?",
                crate::cause::chain(cause)
            );
            return Problem::new(Exit::Refused, text);
        }
        let exit = match status.code() {
            tonic::Code::InvalidArgument => Exit::Usage,
            tonic::Code::FailedPrecondition
            | tonic::Code::PermissionDenied
            | tonic::Code::Unauthenticated
            | tonic::Code::Aborted => Exit::Refused,
            tonic::Code::Unavailable => {
                return Problem::new(Exit::Refused, format!("the coordinator went away: {}", status.message()));
            }
            _ => Exit::Failed,
        };
        Problem::new(exit, status.message())
    }
}

/// Whether nobody was there to answer, instead of an answer that says no: a failure of the transport has a cause on
/// this side, an answer has none.
pub(super) fn went_away(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unavailable || std::error::Error::source(status).is_some()
}
