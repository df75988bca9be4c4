//! What is known of agents and instances: reports (notes), brought up to date by outcomes between two reports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::graph::Graph;
use crate::model::{
    Admission, AgentId, Claim, Command, ExitStatus, Health, How, InstanceId, InstanceObservation, InstanceState,
    Inventory, ReadyWait, RollId, SlotInventory, Step, StepKind, StepResult, Term, Timestamp,
};

/// What notes told of an agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AgentNote {
    /// Whether its session is up; `None`: nothing was heard of a session.
    pub up: Option<bool>,
    /// Since when.
    pub since: Timestamp,
    /// When its last report came, in this term.
    pub reported: Option<Timestamp>,
    /// It has reported since its session came up.
    pub fresh: bool,
    /// A report taken after now is wanted.
    pub wants_look: bool,
    /// What in its last report shows that the journal is older than the fleet.
    pub older: Option<String>,
}

/// Whether anything may be begun towards an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It answers, and has reported.
    Good,
    /// Its session is lost, since then.
    Lost(Timestamp),
    /// It has not reported in this term, or since its session came back.
    NoReport(Timestamp),
}

/// All that notes told, and what outcomes told since. Forgotten at a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub agents: BTreeMap<AgentId, AgentNote>,
    pub inventories: BTreeMap<AgentId, Inventory>,
}

impl Known {
    pub fn reach(&self, agent: &AgentId, term_began: Timestamp) -> Reach {
        match self.agents.get(agent) {
            None => Reach::NoReport(term_began),
            Some(note) if note.up == Some(false) => Reach::Lost(note.since),
            Some(note) if note.fresh => Reach::Good,
            Some(note) => Reach::NoReport(note.since),
        }
    }

    pub fn has_reported(&self, agent: &AgentId) -> bool {
        self.agents.get(agent).is_some_and(|note| note.reported.is_some())
    }

    pub fn session(&mut self, at: Timestamp, agent: &AgentId, up: bool) {
        let note = self.agents.entry(agent.clone()).or_default();
        if note.up != Some(up) {
            note.since = at;
        }
        note.up = Some(up);
        // After a cut, what it said before is no longer fresh; its hello brings a new report, before or after this.
        note.fresh &= up;
    }

    pub fn report(&mut self, at: Timestamp, inventory: &Inventory, older: Option<String>) {
        let note = self
            .agents
            .entry(inventory.agent.clone())
            .or_insert_with(|| AgentNote { since: at, ..AgentNote::default() });
        note.reported = Some(at);
        note.fresh = true;
        note.wants_look = false;
        note.older = older;
        self.inventories.insert(inventory.agent.clone(), inventory.clone());
    }

    /// A newer look at this agent is wanted. Without a report in this term one is wanted anyway.
    pub fn want_look(&mut self, agent: &AgentId) {
        if let Some(note) = self.agents.get_mut(agent) {
            note.wants_look = true;
        }
    }

    /// What shows that the journal is older than the fleet, if anything does.
    pub fn older(&self) -> Option<&str> {
        self.agents.values().find_map(|note| note.older.as_deref())
    }

    /// An instance, as its agent reported it last.
    pub fn instance(&self, graph: &Graph, id: &InstanceId) -> Option<&InstanceObservation> {
        let inventory = self.inventories.get(graph.agent_of.get(&id.slot)?)?;
        inventory.slots.get(&id.slot)?.instances.iter().find(|instance| instance.id == *id)
    }

    /// A slot, as its agent reported it last.
    pub fn slot<'a>(&'a self, graph: &Graph, slot: &crate::model::SlotName) -> Option<&'a SlotInventory> {
        self.inventories.get(graph.agent_of.get(slot)?)?.slots.get(slot)
    }

    /// Brings what was reported up to date with a step that is done. Only what was reported is changed: without a
    /// report nothing is known.
    pub fn done(&mut self, graph: &Graph, step: &Step, command: Option<&Command>, result: &StepResult) {
        let StepResult::Done(how) = result else { return };
        match &step.kind {
            StepKind::Switch { component, admit, release, .. } => {
                for (instances, admission) in [(admit, Admission::Admitting), (release, Admission::Drained)] {
                    for id in instances {
                        self.change(graph, id, |instance| instance.admission = admission);
                    }
                }
                let Some((slot, agent)) = step.slot.as_ref().zip(step.agent.as_ref()) else { return };
                let Some(inventory) = self.inventories.get_mut(agent) else { return };
                let table = command.into_iter().flat_map(|command| &command.steps).find(|one| one.step == step.id);
                if let Some(crate::model::Act::Switch { targets, .. }) = table.map(|one| &one.act) {
                    let of_slot = inventory.slots.entry(slot.clone()).or_default();
                    of_slot.table.insert(component.clone(), targets.clone());
                }
            }
            _ => {
                let Some((agent, id)) = step.agent.as_ref().zip(step.instance.as_ref()) else { return };
                match &step.kind {
                    StepKind::Prepare { definition, spec, version } => {
                        let Some(inventory) = self.inventories.get_mut(agent) else { return };
                        let slot = inventory.slots.entry(id.slot.clone()).or_default();
                        slot.highest = slot.highest.max(id.number);
                        if slot.instances.iter().all(|instance| instance.id != *id) {
                            slot.instances.push(InstanceObservation {
                                spec: Some(spec.clone()),
                                definition: Some(definition.clone()),
                                version: version.clone(),
                                ..created(id)
                            });
                        }
                    }
                    StepKind::Start { .. } => self.make(agent, id, |instance| {
                        instance.state = InstanceState::Running;
                        instance.health = Health::Unknown;
                        instance.admission = Admission::Admitting;
                        instance.exit = None;
                    }),
                    StepKind::Ready { wait: ReadyWait::Completed, .. } => self.change(graph, id, |instance| {
                        instance.state = InstanceState::Exited;
                        instance.exit = Some(ExitStatus::Code(0));
                    }),
                    StepKind::Ready { .. } => self.make(agent, id, |instance| {
                        instance.state = InstanceState::Running;
                        instance.health = Health::Ready;
                    }),
                    StepKind::Drain { .. } => self.change(graph, id, |instance| {
                        instance.admission = Admission::Drained;
                        if let How::Drained(report) = how
                            && let Some(exit) = report.exited
                        {
                            instance.state = InstanceState::Exited;
                            instance.exit = Some(exit);
                        }
                    }),
                    StepKind::Undrain { .. } => {
                        self.change(graph, id, |instance| instance.admission = Admission::Admitting);
                    }
                    StepKind::Stop { .. } => self.change(graph, id, |instance| {
                        instance.state = InstanceState::Exited;
                        if let How::Drained(report) = how {
                            instance.exit = report.exited.or(instance.exit);
                        }
                    }),
                    StepKind::Retire => {
                        let slot =
                            self.inventories.get_mut(agent).and_then(|inventory| inventory.slots.get_mut(&id.slot));
                        if let Some(slot) = slot {
                            slot.instances.retain(|instance| instance.id != *id);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Changes an instance, also one that a report from before its prepare did not have.
    fn make(&mut self, agent: &AgentId, id: &InstanceId, change: impl FnOnce(&mut InstanceObservation)) {
        let Some(inventory) = self.inventories.get_mut(agent) else { return };
        let slot = inventory.slots.entry(id.slot.clone()).or_default();
        let place = slot.instances.iter().position(|instance| instance.id == *id).unwrap_or_else(|| {
            slot.instances.push(created(id));
            slot.instances.len() - 1
        });
        change(&mut slot.instances[place]);
    }

    fn change(&mut self, graph: &Graph, id: &InstanceId, change: impl FnOnce(&mut InstanceObservation)) {
        let Some(agent) = graph.agent_of.get(&id.slot) else { return };
        let slot = self.inventories.get_mut(agent).and_then(|inventory| inventory.slots.get_mut(&id.slot));
        if let Some(instance) = slot.and_then(|slot| slot.instances.iter_mut().find(|instance| instance.id == *id)) {
            change(instance);
        }
    }
}

/// An instance of which nothing is known but that it is there.
fn created(id: &InstanceId) -> InstanceObservation {
    InstanceObservation {
        id: id.clone(),
        spec: None,
        asked: None,
        definition: None,
        version: None,
        state: InstanceState::Created,
        health: Health::Unknown,
        admission: Admission::Admitting,
        endpoint: None,
        pid: None,
        restarts: 0,
        crashing: false,
        exit: None,
        sockets_held: true,
    }
}

/// What in a report shows that the journal is older than the fleet, if anything does.
pub(super) fn evidence(
    inventory: &Inventory,
    claim: &Claim,
    nonces: &BTreeMap<Term, String>,
    knows: impl Fn(&RollId) -> bool,
) -> Option<String> {
    let agent = &inventory.agent;
    if inventory.term > claim.term {
        let (theirs, ours) = (inventory.term, claim.term);
        return Some(format!("agent {agent} has accepted term {theirs}, this coordinator is at term {ours}"));
    }
    // Two journals that grew from one copy reach the same terms, never the same nonces. Terms of the past count as
    // well: however often a coordinator was started on the older one, it does not hold the start that the agent saw.
    if !inventory.nonce.is_empty() && nonces.get(&inventory.term) != Some(&inventory.nonce) {
        let term = inventory.term;
        return Some(format!("agent {agent} has accepted term {term} from another start of this coordinator"));
    }
    let stranger = inventory.rolls.iter().find(|roll| !knows(roll))?;
    Some(format!("agent {agent} has carried out commands of roll {stranger}, which the journal does not hold"))
}

/// Whether a report shows that a step of unknown outcome is done. `since`: for a switch, how long ago it began.
///
/// Only ever says yes on positive evidence; a hook and a soak leave nothing to see.
pub(super) fn shows_done(
    inventory: &Inventory,
    known: &Known,
    graph: &Graph,
    step: &Step,
    given_up: &BTreeSet<InstanceId>,
    since: Duration,
) -> bool {
    let slot = step.slot.as_ref().and_then(|slot| inventory.slots.get(slot));
    let instance = step.instance.as_ref().and_then(|id| slot?.instances.iter().find(|one| one.id == *id));
    let gone = || instance.is_none_or(|one| one.state == InstanceState::Exited);
    match &step.kind {
        StepKind::Prepare { spec, .. } => instance.is_some_and(|one| one.is_made_of(spec)),
        StepKind::Start { .. } => {
            let job = graph.node(step.id).exclusive;
            instance.is_some_and(|one| {
                one.state == InstanceState::Running || (job && one.state == InstanceState::Exited && one.exit.is_some())
            })
        }
        StepKind::Ready { wait: ReadyWait::Completed, .. } => {
            instance.is_some_and(|one| one.state == InstanceState::Exited && one.exit.is_some_and(ExitStatus::success))
        }
        StepKind::Ready { .. } => {
            instance.is_some_and(|one| one.state == InstanceState::Running && one.health == Health::Ready)
        }
        StepKind::Drain { .. } => gone() || instance.is_some_and(|one| one.admission == Admission::Drained),
        StepKind::Undrain { .. } => {
            instance.is_some_and(|one| one.state == InstanceState::Running && one.admission == Admission::Admitting)
        }
        StepKind::Stop { .. } => gone(),
        StepKind::Retire => slot.is_some() && instance.is_none(),
        StepKind::Switch { component, admit, release, grace, stop_timeout, .. } => {
            let Some(table) = slot.and_then(|slot| slot.table.get(component)) else { return false };
            let target = |id: &InstanceId| table.iter().find(|target| target.instance == *id);
            let admitted = admit
                .iter()
                .filter(|id| !given_up.contains(*id))
                .all(|id| target(id).is_some_and(|target| target.admission == Admission::Admitting));
            // The wait for zero in flight is over when the gateway says so, when nobody is left who could have any, or
            // when its time is.
            let waited = since >= grace.saturating_sub(*stop_timeout);
            let released = release.iter().filter(|id| !given_up.contains(*id)).all(|id| match target(id) {
                None => true,
                Some(target) => match target.admission {
                    Admission::Admitting => false,
                    Admission::Drained => true,
                    Admission::Draining => waited || known.instance(graph, id).is_some_and(|one| !one.may_run()),
                },
            });
            admitted && released
        }
        StepKind::Soak { .. } | StepKind::Delay { .. } | StepKind::Run { .. } | StepKind::Gate { .. } => false,
    }
}
