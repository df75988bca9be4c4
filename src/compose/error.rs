//! Why there is no answer from Compose.

use std::path::PathBuf;
use std::time::Duration;

use crate::manifest::ManifestError;

/// Why a Compose project did not become a manifest. No message has a value of the environment, save where Compose's own
/// message has one.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// Neither `docker compose` nor `docker-compose`.
    #[error(
        "Docker Compose v2 was not found: neither `docker compose` nor `docker-compose` answers; install the Compose \
         plugin (docs.docker.com/compose/install)"
    )]
    Missing,
    /// Only the one in Python, whose projects look different to the engine.
    #[error(
        "only Docker Compose {version} was found; Baton needs v2 or newer: install the Compose plugin \
         (docs.docker.com/compose/install), so that `docker compose version` answers"
    )]
    Old {
        /// What it says it is.
        version: String,
    },
    /// It could not be run.
    #[error("cannot run {program}")]
    Run {
        /// What was tried.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What Compose said, as it is.
    #[error("{text}")]
    Said {
        /// Its own words.
        text: String,
    },
    /// It did not end.
    #[error("`{what}` did not end within {}; is the engine busy, or does it wait for an answer?",
            humantime::format_duration(*after))]
    TimedOut {
        /// The command.
        what: String,
        /// How long it had.
        after: Duration,
    },
    /// It said more than any project needs.
    #[error("`{what}` wrote more than {max} bytes; is this the right project?")]
    TooLong {
        /// The command.
        what: String,
        /// The limit.
        max: usize,
    },
    /// What it wrote is not what was expected.
    #[error("`docker compose config` wrote something that Baton does not understand: {why}")]
    NotUnderstood {
        /// Where, and what was expected.
        why: String,
    },
    /// The engine is not there.
    #[error("the Docker Engine does not answer at {} ({asked}); {}", socket.display(), advice(source))]
    Engine {
        /// Where it was tried.
        socket: PathBuf,
        /// What it was asked.
        asked: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The pretend engine could not be set up.
    #[error("cannot set up the rehearsal in {}", place.display())]
    Stage {
        /// Where.
        place: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Compose asked for something that a rehearsal has no answer for, so its outcome would be a guess.
    #[error(
        "Docker Compose {version} asked the engine for something that Baton does not know in a rehearsal: {}; please \
         report this",
        asked.join(", ")
    )]
    Unknown {
        /// Compose's version.
        version: String,
        /// Method and path of each.
        asked: Vec<String>,
    },
    /// The project asks for what Baton cannot do.
    #[error("{}", why.join("\n"))]
    Project {
        /// Everything that is wrong.
        why: Vec<String>,
    },
    /// `x-baton` is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "this user may not use it: run as root, or add the user to the group docker and log in again"
        }
        std::io::ErrorKind::TimedOut => {
            "it takes connections and is silent: look at its log (`journalctl -u docker`), start it again if it hangs, \
             then run this again"
        }
        _ => "start it (`systemctl start docker`), or name another with DOCKER_HOST=unix:///PATH",
    }
}
