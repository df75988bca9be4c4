//! An agent's side of a keeper's socket: brings keepers up, asks them, and follows what they tell.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::files::{self, SlotFolder};
use super::keeper_start::INHERITED;
use super::protocol::{Answer, LINE_MAX, Request, SOCKET, chain, refused, retryable, unknown};
use super::release::words;
use crate::model::{FailureKind, SlotName};
use crate::runtime::RuntimeError;
use crate::sys::process::{Identity, TEST_BOOT_ID};
use crate::sys::spawn::{self, Launch};

/// How long a keeper may take to answer its socket after its start; a slow disk syncs a few files in it.
const KEEPER_PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries to reach a new keeper; doubles.
const KEEPER_LOOK: Duration = Duration::from_millis(2);
/// How often a request that may be made twice is made before its loss is told.
const TRIES: u32 = 4;
/// How much of a keeper's own log is told when it does not come up.
const LOG_TOLD: u64 = 600;

/// What runs as keepers (and as gateways): this program, or one that stands in for it.
#[derive(Clone, Debug)]
pub struct KeeperCommand {
    /// The program, normally the running one.
    pub program: PathBuf,
    /// What stands before the verb. `program LEADING... keeper --dir DIR` runs a keeper, and
    /// `program LEADING... gateway --dir DIR` a gateway.
    pub leading: Vec<String>,
    /// What is set in a keeper's environment beside the few variables that it inherits.
    pub env: Vec<(String, String)>,
}

impl KeeperCommand {
    /// The running program, with nothing before the verb.
    ///
    /// # Errors
    /// When the system cannot say which program this is.
    pub fn current() -> io::Result<KeeperCommand> {
        Ok(KeeperCommand { program: std::env::current_exe()?, leading: Vec::new(), env: Vec::new() })
    }
}

/// How a request went wrong before there was an answer.
enum Lost {
    /// Nobody listens: nothing was sent.
    Unreached(io::Error),
    /// It was sent, and no answer came.
    Unanswered(String),
}

/// Makes the slots' common folder and the slot's own.
pub(super) fn make_folder(folder: &SlotFolder) -> Result<(), RuntimeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.path());
    made.map_err(|error| {
        refused(FailureKind::Refused, format!("cannot make {}: {}", folder.path().display(), words(&error)))
    })
}

/// Connects to a slot's keeper, however long the path is.
async fn connect(folder: &SlotFolder) -> io::Result<UnixStream> {
    let open = File::open(folder.path())?;
    UnixStream::connect(files::short_path(&open, SOCKET)).await
}

/// Whether a keeper answers for the slot.
pub(super) async fn is_kept(folder: &SlotFolder) -> bool {
    connect(folder).await.is_ok()
}

/// Brings the slot's keeper up, unless one answers.
///
/// # Errors
/// When it cannot be started or does not answer; with what it said last.
pub(super) async fn bring_up(
    folder: &SlotFolder,
    slot: &SlotName,
    command: &KeeperCommand,
) -> Result<(), RuntimeError> {
    if is_kept(folder).await {
        return Ok(());
    }
    make_folder(folder)?;
    let begun = Instant::now();
    let mut spawned: Option<Identity> = None;
    let mut look = KEEPER_LOOK;
    let mut starts = 0;
    loop {
        // One that found the slot still locked by a keeper that was just ending has ended itself.
        if !spawned.as_ref().is_some_and(|identity| identity.is_alive().unwrap_or(true)) {
            if starts == TRIES {
                break;
            }
            starts += 1;
            let (folder, command) = (folder.clone(), command.clone());
            let started = tokio::task::spawn_blocking(move || spawn_keeper(&folder, &command)).await;
            let started = started.map_err(|error| unknown(format!("keeper of {slot}: {error}")))?;
            spawned = Some(started.map_err(|error| {
                refused(FailureKind::Refused, format!("cannot start the keeper of {slot}: {}", chain(&error)))
            })?);
        }
        if is_kept(folder).await {
            return Ok(());
        }
        if begun.elapsed() > KEEPER_PATIENCE {
            break;
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(Duration::from_millis(100));
    }
    let said = last_words(&folder.keeper_log());
    Err(retryable(FailureKind::Refused, format!("the keeper of {slot} does not answer; it said: {said}")))
}

fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let from = text.len().saturating_sub(usize::try_from(LOG_TOLD).unwrap_or(0));
    let text = String::from_utf8_lossy(&text[from..]);
    text.lines().next_back().unwrap_or("nothing").to_owned()
}

/// What went wrong when a keeper was started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
    #[error("cannot start the program")]
    Spawn(#[source] spawn::SpawnError),
}

fn spawn_keeper(folder: &SlotFolder, command: &KeeperCommand) -> Result<Identity, StartError> {
    let open =
        |path: PathBuf, options: &OpenOptions| options.open(&path).map_err(|error| StartError::Open(path, error));
    let null = open("/dev/null".into(), OpenOptions::new().read(true))?;
    let log = open(folder.keeper_log(), OpenOptions::new().append(true).create(true).mode(0o600))?;
    let mut argv = vec![command.program.clone().into_os_string()];
    argv.extend(command.leading.iter().map(Into::into));
    argv.extend(["keeper".into(), "--dir".into(), folder.path().into()]);
    // The agent's environment may hold secrets of its own that are no business of a keeper or an instance.
    let inherited = INHERITED.iter().copied().chain([TEST_BOOT_ID, "RUST_BACKTRACE"]);
    let mut env: Vec<_> =
        inherited.filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value))).collect();
    env.retain(|(name, _): &(std::ffi::OsString, _)| !command.env.iter().any(|(other, _)| name == other.as_str()));
    env.extend(command.env.iter().map(|(name, value)| (name.into(), value.into())));
    spawn::detached(&Launch {
        program: &command.program,
        argv: &argv,
        env: &env,
        cwd: Path::new("/"),
        stdin: null.as_fd(),
        stdout: log.as_fd(),
        stderr: log.as_fd(),
        fds: &[],
        listen_pid: false,
    })
    .map_err(StartError::Spawn)
}

/// Asks once.
async fn ask_once(folder: &SlotFolder, line: &[u8], patience: Option<Duration>) -> Result<Answer, Lost> {
    let mut stream = connect(folder).await.map_err(Lost::Unreached)?;
    let exchange = async {
        stream.write_all(line).await.map_err(|error| Lost::Unanswered(words(&error)))?;
        let mut text = Vec::new();
        let mut reader = BufReader::new(&mut stream).take(LINE_MAX as u64);
        reader.read_until(b'\n', &mut text).await.map_err(|error| Lost::Unanswered(words(&error)))?;
        if text.last() != Some(&b'\n') {
            return Err(Lost::Unanswered("it ended before it answered".to_owned()));
        }
        serde_json::from_slice(&text).map_err(|_| Lost::Unanswered("its answer is not understood".to_owned()))
    };
    match patience {
        None => exchange.await,
        Some(patience) => match timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Lost::Unanswered(format!("no answer within {} s", patience.as_secs()))),
        },
    }
}

/// Whether a request may be made again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice is as good as once.
    Harmless,
    /// A signal or a command counts each time.
    Never,
}

/// Asks a slot's keeper, with a new one brought up where the old one has ended (`command`), and says what it answered.
/// `patience`: for one answer; `None` waits as long as the keeper lives.
pub(super) async fn ask(
    folder: &SlotFolder,
    slot: &SlotName,
    command: Option<&KeeperCommand>,
    request: &Request,
    repeat: Repeat,
    patience: Option<Duration>,
) -> Result<Answer, RuntimeError> {
    let mut line = serde_json::to_vec(request)
        .map_err(|error| refused(FailureKind::Refused, format!("cannot write a request: {error}")))?;
    line.push(b'\n');
    if line.len() > LINE_MAX {
        let text = format!("the definition for {slot} is larger than {} MiB", LINE_MAX >> 20);
        return Err(refused(FailureKind::Refused, text));
    }
    let mut why = String::new();
    let mut sent = false;
    for _ in 0..TRIES {
        match ask_once(folder, &line, patience).await {
            Ok(Answer::Failed { kind, unknown, retryable, message }) => {
                return Err(RuntimeError { kind, unknown, retryable, message: format!("{slot}: {message}") });
            }
            Ok(answer) => return Ok(answer),
            Err(Lost::Unreached(error)) => {
                why = words(&error);
                if let Some(command) = command {
                    bring_up(folder, slot, command).await?;
                }
            }
            Err(Lost::Unanswered(text)) => {
                sent = true;
                why = text;
                if repeat == Repeat::Never {
                    break;
                }
            }
        }
        if command.is_none() {
            break;
        }
    }
    let message = format!("the keeper of {slot} does not answer: {why}");
    Err(if sent { unknown(message) } else { retryable(FailureKind::Refused, message) })
}

/// Lines of changes of a slot, for as long as its keeper lives.
pub(super) struct Watch {
    reader: BufReader<UnixStream>,
}

impl Watch {
    /// Begins to follow a slot.
    pub(super) async fn begin(folder: &SlotFolder) -> io::Result<Watch> {
        let mut stream = connect(folder).await?;
        let mut line = serde_json::to_vec(&Request::Watch)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        Ok(Watch { reader: BufReader::new(stream) })
    }

    /// The number of the next instance that changed; `None` once the keeper has ended.
    pub(super) async fn next(&mut self) -> Option<u64> {
        loop {
            let mut text = Vec::new();
            self.reader.read_until(b'\n', &mut text).await.ok()?;
            match serde_json::from_slice(&text).ok()? {
                Answer::Changed { number } => return Some(number),
                _ => continue,
            }
        }
    }
}
