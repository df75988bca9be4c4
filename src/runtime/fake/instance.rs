//! One instance of the fake, and what it does by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{
    Admission, Definition, Digest, Endpoint, ExitStatus, Health, InstanceId, InstanceObservation, InstanceState, Probe,
    Timestamp,
};

/// What its main process is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running(Run),
    Restarting { at: Timestamp },
    Exited,
}

/// One run of a main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) since: Timestamp,
    pub(super) pid: u32,
    /// When it gets ready; the flag: it has.
    pub(super) ready: Option<(Timestamp, bool)>,
    pub(super) ends: Option<(Timestamp, ExitStatus)>,
    pub(super) drain: Option<Draining>,
    /// What it was sent.
    pub(super) signals: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draining {
    /// A signal began it: it cannot be given back, and ends with the process.
    pub(super) signalled: bool,
    /// When each piece of work ends.
    pub(super) jobs: Vec<Timestamp>,
    /// Its last piece has ended, and that was told.
    pub(super) idle: bool,
}

/// One instance.
#[derive(Clone, Debug)]
pub(super) struct FakeInstance {
    pub(super) id: InstanceId,
    pub(super) definition: Definition,
    pub(super) definition_digest: Digest,
    pub(super) spec: Digest,
    pub(super) version: Option<String>,
    pub(super) phase: Phase,
    pub(super) held: bool,
    pub(super) restarts: u32,
    pub(super) runs: u32,
    pub(super) back_off: Duration,
    pub(super) exit: Option<ExitStatus>,
    pub(super) endpoint: Endpoint,
    pub(super) sockets_held: bool,
    /// Its keeper did not start it, so nobody will see its exit code.
    pub(super) adopted: bool,
    /// It ran when its host went down, and should be started again by whoever comes first.
    pub(super) down_with_host: bool,
    pub(super) admission: Admission,
}

impl FakeInstance {
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&self.phase, Phase::Running(Run { ready: Some((_, true)), .. }))
    }

    /// The next thing that it does by itself.
    pub(super) fn next(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Restarting { at } => Some(*at),
            Phase::Running(run) => {
                let ready = run.ready.filter(|(_, told)| !told).map(|(at, _)| at);
                let idle = run.drain.as_ref().filter(|drain| !drain.idle);
                let idle = idle.map(|drain| drain.jobs.iter().copied().max().unwrap_or(Timestamp::ZERO));
                let ends = run.ends.map(|(at, _)| at);
                [ready, idle, ends].into_iter().flatten().min()
            }
            Phase::Created | Phase::Exited => None,
        }
    }

    pub(super) fn observe(&self) -> InstanceObservation {
        let state = match &self.phase {
            Phase::Created => InstanceState::Created,
            Phase::Running(_) => InstanceState::Running,
            Phase::Restarting { .. } => InstanceState::Restarting,
            Phase::Exited => InstanceState::Exited,
        };
        let by_notify = self.definition.ready.probe == Some(Probe::Notify);
        let health = match (by_notify && self.is_running(), self.is_ready()) {
            (true, true) => Health::Ready,
            (true, false) => Health::Unready,
            (false, _) => Health::Unknown,
        };
        InstanceObservation {
            id: self.id.clone(),
            spec: Some(self.spec.clone()),
            asked: None,
            definition: Some(self.definition_digest.clone()),
            version: self.version.clone(),
            state,
            health,
            admission: self.admission,
            endpoint: Some(self.endpoint.clone()),
            pid: if let Phase::Running(run) = &self.phase { Some(run.pid) } else { None },
            restarts: self.restarts,
            crashing: state == InstanceState::Restarting,
            exit: if self.is_running() { None } else { self.exit },
            sockets_held: self.sockets_held,
        }
    }
}
