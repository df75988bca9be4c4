//! A proxy that people run themselves, before one component: it is told the table again and again until it works by it,
//! and looked after from then on. A proxy that starts anew has what its own configuration says.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::control::TableState;
use super::haproxy::Haproxy;
use super::store::SavedTable;
use crate::model::{Admission, ComponentName, Proxy, TableTarget};

/// Between two looks while a table comes into use or something is in flight.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two looks when all is as asked: a proxy that was started anew is told again within this time.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// What a command that tells a proxy may take. Beyond it, it is killed and run again.
const COMMAND_MAX: Duration = Duration::from_secs(30);
/// Of what such a command says, so much is shown.
const SAID_MAX: usize = 500;

/// What a proxy was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// It works by the table.
    pub(super) in_use: bool,
    /// What it has in flight on targets that do not admit.
    pub(super) inflight: u64,
    /// Connections cut on request.
    pub(super) closed: u64,
    /// For people.
    pub(super) text: String,
}

/// One proxy and the table that it was asked for.
#[derive(Debug)]
pub(super) struct Front {
    component: ComponentName,
    proxy: Proxy,
    asked: Mutex<Asked>,
    changed: Notify,
}

#[derive(Debug)]
struct Asked {
    /// Grows with each table: what was found for an earlier one says nothing of this.
    turn: u64,
    table: SavedTable,
    close: bool,
    /// `None`: nobody has looked since it was asked for.
    found: Option<Found>,
}

impl Front {
    /// With the table that was asked for last. Before a first one the proxy is left as it is.
    pub(super) fn new(component: ComponentName, proxy: Proxy, table: SavedTable) -> Self {
        let asked = Mutex::new(Asked { turn: 0, table, close: false, found: None });
        Self { component, proxy, asked, changed: Notify::new() }
    }

    /// Asks for a table. The same again changes nothing.
    pub(super) fn ask(&self, table: SavedTable, close: bool) {
        let mut asked = self.lock();
        if asked.turn > 0 && asked.table == table && asked.close == close {
            return;
        }
        // Where only the closing is new, what is in use stays in use.
        let found = asked.found.take().filter(|_| asked.table == table);
        *asked = Asked { turn: asked.turn + 1, table, close, found };
        self.changed.notify_one();
    }

    pub(super) fn state(&self) -> TableState {
        let asked = self.lock();
        let found = asked.found.clone().unwrap_or_else(|| Found { text: "being told".to_owned(), ..Found::default() });
        TableState {
            in_use: found.in_use,
            draining_inflight: found.inflight,
            held: 0,
            closed_upgraded: found.closed,
            text: found.text,
            targets: asked.table.targets.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a proxy as it was asked to be, for ever.
pub(super) async fn keep(front: Arc<Front>) {
    let mut hand = match &front.proxy {
        Proxy::Haproxy { socket, backend, server } => {
            Hand::Haproxy(Haproxy::new(front.component.clone(), socket.clone(), backend.clone(), server.clone()))
        }
        Proxy::Exec { switch, settle } => Hand::Command { switch: switch.clone(), settle: *settle, told: None },
    };
    loop {
        let (turn, table, close) = {
            let asked = front.lock();
            (asked.turn, asked.table.clone(), asked.close)
        };
        let mut pause = WATCH_EVERY;
        if turn > 0 || !table.targets.is_empty() {
            let found = hand.tell(&front.component, &table.targets, close).await;
            if !found.in_use || found.inflight > 0 {
                pause = LOOK_EVERY;
            }
            let mut asked = front.lock();
            if asked.turn == turn {
                let before = asked.found.as_ref();
                if before.map(|found| &found.text) != Some(&found.text) {
                    tracing::info!(component = %front.component, text = found.text, "a proxy");
                }
                let closed = before.map_or(0, |found| found.closed) + found.closed;
                asked.found = Some(Found { closed, ..found });
            }
        }
        tokio::select! {
            () = front.changed.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// How a proxy is told.
enum Hand {
    Haproxy(Haproxy),
    Command { switch: Vec<String>, settle: Duration, told: Option<(Vec<TableTarget>, Instant)> },
}

impl Hand {
    async fn tell(&mut self, component: &ComponentName, targets: &[TableTarget], close: bool) -> Found {
        match self {
            Hand::Haproxy(haproxy) => match haproxy.tell(targets, close).await {
                Ok(found) => found,
                Err(text) => Found { text, ..Found::default() },
            },
            Hand::Command { switch, settle, told } => {
                let before = told.take().filter(|(of, _)| of == targets);
                let (of, at) = match before {
                    Some(before) => before,
                    None => match run(component, switch, targets).await {
                        Ok(()) => (targets.to_vec(), Instant::now()),
                        Err(text) => return Found { text, ..Found::default() },
                    },
                };
                let settled = at.elapsed() >= *settle;
                *told = Some((of, at));
                let text = if settled { "in use" } else { "told; its requests on what was taken out are finishing" };
                Found { in_use: settled, text: text.to_owned(), ..Found::default() }
            }
        }
    }
}

/// Runs the command once. It has the table twice: as JSON on its standard input, and as `host:port` words in its
/// environment.
async fn run(component: &ComponentName, switch: &[String], targets: &[TableTarget]) -> Result<(), String> {
    let (program, args) = switch.split_first().ok_or("no command")?;
    let of = |admission| {
        let mine = targets.iter().filter(|target| (target.admission == Admission::Admitting) == admission);
        mine.map(|target| format!("{}:{}", target.host, target.port)).collect::<Vec<_>>().join(" ")
    };
    let table = json!({ "component": component, "targets": targets }).to_string();
    let mut child = Command::new(program)
        .args(args)
        .env("BATON_COMPONENT", component.as_str())
        .env("BATON_ADMITTING", of(true))
        .env("BATON_DRAINING", of(false))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read it is none the worse.
        let _ = stdin.write_all(table.as_bytes()).await;
    }
    match timeout(COMMAND_MAX, child.wait_with_output()).await {
        Err(_) => Err(format!("{program} did not end within {} s and was killed", COMMAND_MAX.as_secs())),
        Ok(Err(error)) => Err(format!("cannot wait for {program}: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(SAID_MAX).collect();
            Err(format!("{program} ended with {}: {said}", output.status))
        }
    }
}
