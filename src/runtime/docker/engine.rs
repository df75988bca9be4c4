//! The way to the engine: one socket, every call bounded, every failure in words.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::OnceCell;

use crate::model::FailureKind;
use crate::runtime::RuntimeError;

/// Where the engine listens when nobody says otherwise.
pub(super) const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// For a question. An engine answers in milliseconds; one under load takes seconds.
pub(super) const ASK: Duration = Duration::from_secs(10);
/// For an act: create, start, rename.
pub(super) const ACT: Duration = Duration::from_secs(60);
/// For finding out whether somebody is there at all.
const GREET: Duration = Duration::from_secs(5);
/// Under bollard's own clock nothing ends: the bounds are here.
const NO_CLOCK: u64 = 24 * 3_600;

/// A Docker Engine behind a Unix socket.
pub(super) struct Engine {
    socket: String,
    client: OnceCell<Docker>,
}

/// What an engine answered instead, or that it did not answer.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The HTTP status, where the engine answered.
    pub(super) status: Option<u16>,
    /// In words.
    pub(super) error: RuntimeError,
}

impl From<Trouble> for RuntimeError {
    fn from(trouble: Trouble) -> RuntimeError {
        trouble.error
    }
}

impl Trouble {
    /// There is no such thing.
    pub(super) fn is_absent(&self) -> bool {
        self.status == Some(404)
    }

    /// The engine stumbled over something of its own.
    pub(super) fn is_internal(&self) -> bool {
        self.status.is_some_and(|status| status >= 500)
    }

    /// It is in a state, or has a name, that does not allow this.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == Some(409)
    }
}

/// An error that is known not to have happened.
pub(super) fn refused(kind: FailureKind, message: String) -> RuntimeError {
    RuntimeError { kind, unknown: false, retryable: false, message }
}

/// The socket that an engine's address names (`DOCKER_HOST`, or `--docker-host`).
///
/// # Errors
/// For people, when it is no Unix socket.
pub fn socket_of(host: Option<&str>) -> Result<String, String> {
    let Some(host) = host.filter(|host| !host.is_empty()) else { return Ok(DEFAULT_SOCKET.to_owned()) };
    match host.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(path.to_owned()),
        None if host.starts_with('/') => Ok(host.to_owned()),
        // The address itself may carry a password.
        _ => Err(
            "the engine's address (--docker-host, DOCKER_HOST) is no Unix socket; write unix:///path/to/docker.sock, \
             and for an engine on another host run `baton agent` there"
                .to_owned(),
        ),
    }
}

impl Engine {
    pub(super) fn new(socket: String) -> Engine {
        Engine { socket, client: OnceCell::new() }
    }

    pub(super) fn socket(&self) -> &str {
        &self.socket
    }

    /// A client that speaks the newest version that both know.
    pub(super) async fn client(&self) -> Result<&Docker, Trouble> {
        let what = "looking for the engine";
        let greet = async {
            let client = Docker::connect_with_unix(&self.socket, NO_CLOCK, bollard::API_DEFAULT_VERSION)?;
            client.negotiate_version().await
        };
        self.client
            .get_or_try_init(|| async { self.bounded(what, GREET, greet).await })
            .await
            // What only looks for the engine has done nothing.
            .map_err(|mut trouble| {
                trouble.error.unknown = false;
                trouble
            })
    }

    /// Waits for an answer, so long.
    pub(super) async fn bounded<T>(
        &self,
        what: &str,
        patience: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.trouble(what, &error)),
            Err(_) => Err(Trouble {
                status: None,
                error: RuntimeError {
                    kind: FailureKind::Deadline,
                    unknown: true,
                    retryable: true,
                    message: format!(
                        "{what}: the Docker Engine at {} did not answer within {}; look at its log (`journalctl -u \
                         docker`)",
                        self.socket,
                        humantime::format_duration(patience)
                    ),
                },
            }),
        }
    }

    fn trouble(&self, what: &str, error: &Error) -> Trouble {
        let socket = &self.socket;
        let made = |status, kind, unknown, retryable, message| Trouble {
            status,
            error: RuntimeError { kind, unknown, retryable, message },
        };
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let kind = if *status_code == 404 { FailureKind::Missing } else { FailureKind::Refused };
                let retryable = *status_code >= 500 || *status_code == 409;
                made(Some(*status_code), kind, false, retryable, format!("{what}: the engine says: {message}"))
            }
            Error::SocketNotFoundError(_) => {
                let message = format!(
                    "{what}: there is no Docker Engine at {socket}; start it (`systemctl start docker`), or name its \
                     socket with DOCKER_HOST"
                );
                made(None, FailureKind::Refused, false, true, message)
            }
            Error::HyperLegacyError { err } if err.is_connect() => {
                let denied = io_kind(err) == Some(std::io::ErrorKind::PermissionDenied);
                let message = if denied {
                    format!(
                        "{what}: no permission on {socket}; run as root, or as a member of the group that owns the \
                         socket (`usermod -aG docker USER`)"
                    )
                } else {
                    format!(
                        "{what}: nobody listens on {socket}; start the Docker Engine (`systemctl start docker`), or \
                         name its socket with DOCKER_HOST"
                    )
                };
                made(None, FailureKind::Refused, false, !denied, message)
            }
            other => {
                let message = format!("{what}: the connection to the engine at {socket} broke: {}", why(other));
                made(None, FailureKind::Deadline, true, true, message)
            }
        }
    }
}

/// The kind of IO error that is the cause.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// The innermost cause. Texts of answers that could not be read are left out: they may quote an environment.
fn why(error: &Error) -> String {
    match error {
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => "its answer has an unknown form".to_owned(),
        other => {
            let mut cause: &dyn std::error::Error = other;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            cause.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_sockets_are_taken_and_an_address_is_never_quoted() {
        assert_eq!(socket_of(None).unwrap(), DEFAULT_SOCKET);
        assert_eq!(socket_of(Some("")).unwrap(), DEFAULT_SOCKET);
        assert_eq!(socket_of(Some("unix:///run/d.sock")).unwrap(), "/run/d.sock");
        assert_eq!(socket_of(Some("/run/d.sock")).unwrap(), "/run/d.sock");
        for host in ["tcp://u:hunter22@h:2375", "ssh://h", "unix://relative", "d.sock"] {
            let error = socket_of(Some(host)).unwrap_err();
            assert!(!error.contains("hunter22") && error.contains("unix:///"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_or_does_not_answer_is_told_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.sock");
        let socket = path.display().to_string();
        let engine = Engine::new(socket.clone());
        let absent = engine.client().await.map(|_| ()).unwrap_err().error;
        assert!(absent.message.contains(&socket) && absent.retryable && !absent.unknown, "{absent:?}");
        // Bound and closed: a file that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let dead = engine.client().await.map(|_| ()).unwrap_err().error;
        assert!(dead.message.contains("nobody listens") && !dead.unknown, "{dead:?}");
        let silent = engine.bounded("starting x", Duration::from_millis(1), std::future::pending::<Result<(), _>>());
        let silent = silent.await.unwrap_err().error;
        assert!(silent.unknown && silent.message.contains("did not answer within 1ms"), "{silent:?}");
    }
}
