//! What a keeper knows of its slot, as it is kept on disk and told over its socket.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{
    Admission, Definition, Digest, Endpoint, ExitStatus, Health, InstanceId, InstanceObservation, InstanceState,
};
use crate::sys::process::Identity;

/// What its main process is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub(super) enum Run {
    /// Never started.
    Created,
    /// This process. Written before it becomes the program.
    Running {
        /// Which.
        main: Identity,
    },
    /// It ended and is to be started again.
    Restarting,
    /// It ended for good, or until somebody starts it.
    Exited,
}

/// A socket that the keeper holds and passes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct PassedPort {
    /// As in `ports`; for LISTEN_FDNAMES.
    pub(super) name: String,
    /// Where it is bound.
    pub(super) at: Place,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    /// A host name or address.
    pub(super) host: String,
    /// The number.
    pub(super) port: u16,
}

/// The state of one instance. Free of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) instance: InstanceId,
    pub(super) definition: Digest,
    pub(super) spec: Digest,
    pub(super) version: Option<String>,
    /// Its end is its end: it is never started again by itself.
    pub(super) job: bool,
    /// Its readiness is `READY=1`.
    pub(super) ready_by_notify: bool,
    /// How others reach it.
    pub(super) address: String,
    /// Its end is its end, because somebody said so.
    pub(super) held: bool,
    pub(super) run: Run,
    /// Its last main process, running or not: what it left behind is found by it.
    pub(super) last_main: Option<Identity>,
    pub(super) restarts: u32,
    pub(super) exit: Option<ExitStatus>,
    /// Its ports by name, chosen ones too.
    pub(super) ports: BTreeMap<String, u16>,
    /// Which of them come as open sockets, in the order of their descriptors.
    pub(super) passed: Vec<PassedPort>,
    /// Those of `ports` that are this instance's own choice.
    pub(super) chosen: Vec<u16>,
    /// It said READY=1 since its last start, and not STOPPING=1 after it.
    pub(super) notified: bool,
    /// What it was sent since its last start. Written before the signal leaves.
    #[serde(default)]
    pub(super) signals: BTreeSet<String>,
}

impl State {
    /// The main process, if it is meant to run.
    pub(super) fn main(&self) -> Option<&Identity> {
        match &self.run {
            Run::Running { main } => Some(main),
            _ => None,
        }
    }

    /// Whether its end is followed by a start.
    pub(super) fn restarts_by_itself(&self) -> bool {
        !self.held && !self.job
    }

    /// Where it is reached.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address.clone(), ports: self.ports.clone() }
    }

    /// As others see it. `run` may differ from what is recorded: the caller looked.
    pub(super) fn observe(&self, state: InstanceState, sockets_held: bool) -> InstanceObservation {
        let health = match (state, self.ready_by_notify) {
            (InstanceState::Running, true) if self.notified => Health::Ready,
            (InstanceState::Running, true) => Health::Unready,
            _ => Health::Unknown,
        };
        let running = state == InstanceState::Running;
        InstanceObservation {
            id: self.instance.clone(),
            spec: Some(self.spec.clone()),
            asked: None,
            definition: Some(self.definition.clone()),
            version: self.version.clone(),
            state,
            health,
            admission: Admission::Admitting,
            endpoint: Some(self.endpoint()),
            pid: self.main().filter(|_| running).and_then(|main| u32::try_from(main.pid).ok()),
            restarts: self.restarts,
            // Its keeper knows better how it runs.
            crashing: state == InstanceState::Restarting,
            exit: if running { None } else { self.exit },
            sockets_held,
        }
    }
}

/// What an instance is started with, values included. The one file that holds them.
#[derive(Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) definition: Definition,
    /// Filled in.
    pub(super) argv: Vec<String>,
    /// Filled in, `env_file` included.
    pub(super) env: BTreeMap<String, String>,
    /// Filled in.
    pub(super) cwd: String,
}

/// One socket of the slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketRecord {
    pub(super) at: Place,
    /// By which it is found among the descriptors of a running instance.
    pub(super) inode: u64,
}

/// What belongs to the slot and not to one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotRecord {
    pub(super) sockets: Vec<SocketRecord>,
}
