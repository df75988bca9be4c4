//! The step graph: steps are added in an order in which each waits only for earlier ones, so that their place is their
//! id. Steps of one slot are added one after the other where the order allows it: the engine sends runs of them as one
//! list.

use std::time::Duration;

use super::policy::{
    DELAY_MARGIN, PREPARE_DEADLINE, RETIRE_DEADLINE, SOAK_MARGIN, START_DEADLINE, STOP_MARGIN, SWITCH_MARGIN,
    UNDRAIN_DEADLINE, drain_start, ready_wait_for,
};
use super::scene::Pool;
use super::work::{Coming, Going, Work};
use crate::model::{
    AgentId, ComponentName, Definition, Digest, Drain, InstanceId, Order, PortRef, SlotName, Step, StepId, StepKind,
};

/// Above so many edges between two groups of steps a step of the engine's own (a pause of no length) joins them:
/// without
/// it the plan of a thousand slots would have a million edges.
const JOIN_EDGES: usize = 4096;

/// A gateway's slot that switches are sent to.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) slot: SlotName,
    pub(super) agent: AgentId,
    /// What a switch there waits for: the gateway's own start in this plan.
    pub(super) after: Vec<StepId>,
}

/// Which traffic goes where in one switch.
pub(super) struct Turn<'a> {
    pub(super) definition: &'a Definition,
    pub(super) admit: Vec<InstanceId>,
    pub(super) release: Vec<InstanceId>,
    pub(super) while_ready: Option<InstanceId>,
}

/// What entering a slot has led to.
#[derive(Default)]
pub(super) struct Entered {
    /// It is ready (and has its traffic).
    pub(super) ready: Vec<StepId>,
    /// It has stayed so.
    pub(super) proven: Vec<StepId>,
}

pub(super) struct Graph<'a> {
    pub(super) steps: Vec<Step>,
    pub(super) pool: &'a Pool,
    pub(super) doors: Vec<Door>,
    /// Whether a roll is taken back.
    back: bool,
}

impl<'a> Graph<'a> {
    pub(super) fn new(pool: &'a Pool, back: bool) -> Self {
        Self { steps: Vec::new(), pool, doors: Vec::new(), back }
    }

    /// How long an instance of that definition is watched.
    fn monitor(&self, definition: &Definition) -> Duration {
        if self.back { definition.taken_back().monitor } else { definition.update.monitor }
    }

    fn push(&mut self, step: Step) -> StepId {
        let id = StepId(u32::try_from(self.steps.len()).unwrap_or(u32::MAX));
        let mut after = step.after;
        after.sort();
        after.dedup();
        self.steps.push(Step { id, after, ..step });
        id
    }

    /// One step for an instance on an agent.
    fn act(&mut self, kind: StepKind, id: &InstanceId, agent: &AgentId, after: &[StepId], stage: &str) -> StepId {
        let deadline = deadline(&kind);
        self.push(Step {
            id: StepId(0),
            kind,
            slot: Some(id.slot.clone()),
            instance: Some(id.clone()),
            agent: Some(agent.clone()),
            after: after.to_vec(),
            while_ready: None,
            deadline,
            stage: stage.to_owned(),
        })
    }

    /// What `waiters` steps have to wait for so that they wait for all of `ids`.
    pub(super) fn join(&mut self, ids: Vec<StepId>, waiters: usize) -> Vec<StepId> {
        if ids.len().saturating_mul(waiters) <= JOIN_EDGES {
            return ids;
        }
        let stage = ids.last().and_then(|id| self.steps.get(id.0 as usize)).map_or(String::new(), |s| s.stage.clone());
        let kind = StepKind::Delay { pause: Duration::ZERO };
        let deadline = deadline(&kind);
        vec![self.push(Step {
            id: StepId(0),
            kind,
            slot: None,
            instance: None,
            agent: None,
            after: ids,
            while_ready: None,
            deadline,
            stage,
        })]
    }

    /// Creates the new instance, after those that it lives in.
    pub(super) fn prepare(&mut self, work: &Work, coming: &Coming) -> StepId {
        let follows = self.pool.get(&coming.definition).and_then(|definition| definition.compose.as_ref());
        let prepares = self.steps.iter().filter(|step| matches!(step.kind, StepKind::Prepare { .. }));
        let after: Vec<StepId> = follows
            .into_iter()
            .flat_map(|compose| {
                prepares
                    .clone()
                    .filter(|step| step.slot.as_ref().is_some_and(|slot| compose.follows.contains(&slot.component)))
            })
            .map(|step| step.id)
            .collect();
        let kind = StepKind::Prepare {
            definition: coming.definition.clone(),
            spec: coming.spec.clone(),
            version: coming.version.clone(),
        };
        self.act(kind, &coming.id, &work.agent, &after, "prepare")
    }

    /// One switch on each gateway slot; without gateways there is nothing to switch.
    pub(super) fn switch(&mut self, turn: &Turn<'_>, after: &[StepId], stage: &str) -> Vec<StepId> {
        let Some(through) = turn.definition.traffic.switched() else { return Vec::new() };
        let doors = self.doors.clone();
        doors.iter().map(|door| self.switch_one(door, turn, through, after, stage)).collect()
    }

    /// A switch on this gateway alone.
    pub(super) fn tell(&mut self, door: &Door, turn: &Turn<'_>, after: &[StepId], stage: &str) -> Option<StepId> {
        turn.definition.traffic.switched().map(|through| self.switch_one(door, turn, through, after, stage))
    }

    fn switch_one(
        &mut self,
        door: &Door,
        turn: &Turn<'_>,
        (port, hold_max): (&PortRef, Duration),
        after: &[StepId],
        stage: &str,
    ) -> StepId {
        let drain = &turn.definition.drain;
        let kind = StepKind::Switch {
            component: turn.definition.component.clone(),
            admit: turn.admit.clone(),
            release: turn.release.clone(),
            port: port.clone(),
            grace: drain.grace,
            stop_timeout: drain.stop_timeout(),
            hold_max,
        };
        let deadline = deadline(&kind);
        self.push(Step {
            id: StepId(0),
            kind,
            slot: Some(door.slot.clone()),
            instance: None,
            agent: Some(door.agent.clone()),
            after: after.iter().chain(&door.after).copied().collect(),
            while_ready: turn.while_ready.clone(),
            deadline,
            stage: stage.to_owned(),
        })
    }

    /// Releases several instances of one component at once.
    pub(super) fn release_all(&mut self, works: &[&Work], after: &[StepId], stage: &str) -> Vec<StepId> {
        let mut by_component: Vec<(ComponentName, Vec<InstanceId>, &Definition)> = Vec::new();
        for work in works {
            for (id, definition) in self.released(work) {
                match by_component.iter_mut().find(|(name, ..)| *name == id.slot.component) {
                    Some((_, ids, _)) => ids.push(id),
                    None => by_component.push((id.slot.component.clone(), vec![id], definition)),
                }
            }
        }
        let mut switches = Vec::new();
        for (_, release, definition) in by_component {
            let turn = Turn { definition, admit: Vec::new(), release, while_ready: None };
            switches.extend(self.switch(&turn, after, stage));
        }
        switches
    }

    /// The instances of a slot whose traffic is taken away, with the definition that says how.
    pub(super) fn released(&self, work: &Work) -> Vec<(InstanceId, &'a Definition)> {
        let mut all = self.released_again(work);
        all.extend(self.released_for_good(work));
        all
    }

    fn released_for_good(&self, work: &Work) -> Vec<(InstanceId, &'a Definition)> {
        let going = work.going.iter().filter(|going| going.runs);
        self.with_traffic(going.map(|going| (&going.id, going.definition.as_ref())))
    }

    fn released_again(&self, work: &Work) -> Vec<(InstanceId, &'a Definition)> {
        let again = work.coming.iter().filter(|coming| coming.again);
        self.with_traffic(again.map(|coming| (&coming.id, Some(&coming.definition))))
    }

    fn with_traffic<'i>(
        &self,
        instances: impl Iterator<Item = (&'i InstanceId, Option<&'i Digest>)>,
    ) -> Vec<(InstanceId, &'a Definition)> {
        let pool = self.pool;
        instances
            .filter_map(|(id, digest)| Some((id.clone(), pool.get(digest?)?)))
            .filter(|(_, definition)| definition.has_traffic())
            .collect()
    }

    /// Takes everything that may run out of a slot: (switch,) drain, stop. `switched`: the traffic is gone already.
    /// Returns the stops.
    pub(super) fn leave(&mut self, work: &Work, after: &[StepId], stage: &str, switched: bool) -> Vec<StepId> {
        let switches = if switched { Vec::new() } else { self.release_all(&[work], after, stage) };
        let after: &[StepId] = if switches.is_empty() { after } else { &switches };
        let mut stops = Vec::new();
        for going in work.going.iter().filter(|going| going.runs) {
            stops.push(self.drain_and_stop(going, after, None, stage));
        }
        stops.extend(self.end_again(work, after, stage));
        stops
    }

    /// Ends an instance that is leaving in a way that cannot be given back, so that it can be started again.
    fn end_again(&mut self, work: &Work, after: &[StepId], stage: &str) -> Option<StepId> {
        let coming = work.coming.as_ref().filter(|coming| coming.again)?;
        let again = Going {
            id: coming.id.clone(),
            agent: work.agent.clone(),
            runs: true,
            definition: Some(coming.definition.clone()),
            retire: false,
            sockets_held: true,
        };
        Some(self.drain_and_stop(&again, after, None, stage))
    }

    fn drain_and_stop(
        &mut self,
        going: &Going,
        after: &[StepId],
        while_ready: Option<&InstanceId>,
        stage: &str,
    ) -> StepId {
        let known = going.definition.as_ref().and_then(|digest| Some((digest, self.pool.get(digest)?)));
        let unknown = Drain::default();
        let (drain, drained) = match known {
            Some((digest, definition)) => {
                let kind = StepKind::Drain {
                    definition: digest.clone(),
                    begin: drain_start(definition),
                    inflight: definition.drain.inflight.is_some(),
                    grace: definition.drain.grace,
                    stop_timeout: definition.drain.stop_timeout(),
                };
                let step = self.act(kind, &going.id, &going.agent, after, stage);
                self.steps[step.0 as usize].while_ready = while_ready.cloned();
                (&definition.drain, Some(step))
            }
            // Nobody knows how it is drained: the stop signal with the default grace is all there is.
            None => (&unknown, None),
        };
        let timeout = if drained.is_some() { drain.stop_timeout() } else { drain.grace };
        let kind = StepKind::Stop { signal: drain.stop_signal.clone(), timeout };
        let after = drained.map_or(after.to_vec(), |drain| vec![drain]);
        let stop = self.act(kind, &going.id, &going.agent, &after, stage);
        let step = &mut self.steps[stop.0 as usize];
        step.while_ready = while_ready.cloned();
        step.deadline = drain.grace + STOP_MARGIN;
        stop
    }

    /// Start and ready.
    fn begin(&mut self, work: &Work, coming: &Coming, alone: bool, after: &[StepId], stage: &str) -> Vec<StepId> {
        let mut last = after.to_vec();
        if coming.start {
            last = vec![self.act(StepKind::Start { alone }, &coming.id, &work.agent, &last, stage)];
        }
        if let Some(definition) = self.pool.get(&coming.definition).filter(|_| coming.ready) {
            let (wait, deadline) = ready_wait_for(definition, self.monitor(definition));
            let kind = StepKind::Ready { definition: coming.definition.clone(), wait };
            let ready = self.act(kind, &coming.id, &work.agent, &last, stage);
            self.steps[ready.0 as usize].deadline = deadline;
            last = vec![ready];
        }
        if coming.undrain {
            let kind = StepKind::Undrain { definition: coming.definition.clone() };
            last = vec![self.act(kind, &coming.id, &work.agent, &last, stage)];
        }
        last
    }

    fn soak(&mut self, work: &Work, coming: &Coming, after: &[StepId], stage: &str) -> Option<StepId> {
        let definition = self.pool.get(&coming.definition)?;
        let monitor = self.monitor(definition);
        // Weak readiness has watched it for the monitor already: nothing else would be seen.
        let probed = definition.ready.probe.is_some();
        if !coming.ready || monitor.is_zero() || definition.is_job() || !probed {
            return None;
        }
        let kind = StepKind::Soak { definition: coming.definition.clone(), monitor, probed };
        Some(self.act(kind, &coming.id, &work.agent, after, stage))
    }

    /// Brings the instance of a slot in, with nothing old beside it: start, ready, (switch,) soak.
    pub(super) fn enter(&mut self, work: &Work, after: &[StepId], stage: &str) -> Entered {
        let Some(coming) = &work.coming else { return Entered::default() };
        if !work.enters() {
            return Entered::default();
        }
        let alone = coming.start && work.order == Order::StopFirst;
        let begun = self.begin(work, coming, alone, after, stage);
        let pool = self.pool;
        let switches = match pool.get(&coming.definition).filter(|_| coming.admit) {
            Some(definition) => {
                let admit = vec![coming.id.clone()];
                self.switch(&Turn { definition, admit, release: Vec::new(), while_ready: None }, &begun, stage)
            }
            None => Vec::new(),
        };
        let ready = if switches.is_empty() { begun } else { switches };
        let proven = self.soak(work, coming, &ready, stage).map_or(ready.clone(), |soak| vec![soak]);
        Entered { ready, proven }
    }

    /// A slot whose new instance is ready before the old one goes: start, ready, drain, stop, soak; with traffic start,
    /// ready, soak, switch, drain, stop: a release that dies right after it got ready never sees a request. Returns
    /// what
    /// has to be done before the slot counts as done, and its stops.
    pub(super) fn swap(&mut self, work: &Work, after: &[StepId], stage: &str) -> (Entered, Vec<StepId>) {
        let Some(coming) = &work.coming else { return (Entered::default(), self.leave(work, after, stage, false)) };
        // What serves meanwhile stays until the one that is started again is ready.
        let mut ended = after.to_vec();
        if let Some((id, definition)) = self.released_again(work).into_iter().next() {
            let turn = Turn { definition, admit: Vec::new(), release: vec![id], while_ready: None };
            let switches = self.switch(&turn, after, stage);
            ended = if switches.is_empty() { ended } else { switches };
        }
        if let Some(stop) = self.end_again(work, &ended, stage) {
            ended = vec![stop];
        }
        let begun = self.begin(work, coming, false, &ended, stage);
        let pool = self.pool;
        let release: Vec<InstanceId> = self.released_for_good(work).into_iter().map(|(id, _)| id).collect();
        let admit: Vec<InstanceId> = coming.admit.then(|| coming.id.clone()).into_iter().collect();
        let switches = match pool.get(&coming.definition).filter(|_| !admit.is_empty() || !release.is_empty()) {
            Some(definition) => {
                let through = definition.has_traffic() && !self.doors.is_empty();
                let soaked = if through { self.soak(work, coming, &begun, stage) } else { None };
                let turn = Turn { definition, admit, release, while_ready: Some(coming.id.clone()) };
                self.switch(&turn, soaked.as_ref().map_or(begun.as_slice(), std::slice::from_ref), stage)
            }
            None => Vec::new(),
        };
        let soaked = !switches.is_empty();
        let ready = if switches.is_empty() { begun } else { switches };
        let mut stops = Vec::new();
        for going in work.going.iter().filter(|going| going.runs) {
            stops.push(self.drain_and_stop(going, &ready, Some(&coming.id), stage));
        }
        let proven = match if soaked { None } else { self.soak(work, coming, &ready, stage) } {
            Some(soak) => vec![soak],
            None => ready.clone(),
        };
        (Entered { ready, proven }, stops)
    }

    /// Brings a gateway in and hands it what serves now, before anybody watches it.
    pub(super) fn open_door(&mut self, work: &Work, turns: &[Turn<'_>], after: &[StepId], stage: &str) -> Entered {
        let Some(coming) = &work.coming else { return Entered::default() };
        let alone = coming.start && work.order == Order::StopFirst;
        let mut ready = self.begin(work, coming, alone, after, stage);
        let door = Door { slot: work.slot.clone(), agent: work.agent.clone(), after: Vec::new() };
        for turn in turns {
            if let Some(through) = turn.definition.traffic.switched() {
                ready = vec![self.switch_one(&door, turn, through, &ready, stage)];
            }
        }
        let proven = self.soak(work, coming, &ready, stage).map_or(ready.clone(), |soak| vec![soak]);
        Entered { ready, proven }
    }

    /// The end of a slot: a pause before the next one, then what is gone is removed for good.
    pub(super) fn finish(&mut self, work: &Work, after: &[StepId], delay: Duration, stage: &str) -> Vec<StepId> {
        let mut last = after.to_vec();
        let mut end = Vec::new();
        if !delay.is_zero() {
            let kind = StepKind::Delay { pause: delay };
            let deadline = deadline(&kind);
            let step = self.push(Step {
                id: StepId(0),
                kind,
                slot: Some(work.slot.clone()),
                instance: work.coming.as_ref().map(|coming| coming.id.clone()),
                agent: None,
                after: last,
                while_ready: None,
                deadline,
                stage: stage.to_owned(),
            });
            last = vec![step];
            end.push(step);
        }
        let mut seen = last.clone();
        for going in work.going.iter().filter(|going| going.retire) {
            // One after the other, so that they go out as one list.
            let retire = self.act(StepKind::Retire, &going.id, &going.agent, &seen, stage);
            seen = last.clone();
            seen.push(retire);
        }
        end
    }

    /// Undrain of an instance by hand, with its traffic.
    pub(super) fn give_back(&mut self, work: &Work, stage: &str) {
        self.enter(work, &[], stage);
    }

    /// Drain of an instance by hand, with its traffic; nothing stops.
    pub(super) fn drain_only(&mut self, going: &Going, work: &Work, stage: &str) {
        let switches = self.release_all(&[work], &[], stage);
        let Some((digest, definition)) = going.definition.as_ref().and_then(|d| Some((d, self.pool.get(d)?))) else {
            return;
        };
        let kind = StepKind::Drain {
            definition: digest.clone(),
            begin: drain_start(definition),
            inflight: definition.drain.inflight.is_some(),
            grace: definition.drain.grace,
            stop_timeout: definition.drain.stop_timeout(),
        };
        self.act(kind, &going.id, &going.agent, &switches, stage);
    }
}

/// How long a step may take from its begin. Ready and stop steps get theirs from the definition.
fn deadline(kind: &StepKind) -> Duration {
    match kind {
        StepKind::Prepare { .. } => PREPARE_DEADLINE,
        StepKind::Start { .. } => START_DEADLINE,
        StepKind::Retire => RETIRE_DEADLINE,
        StepKind::Undrain { .. } => UNDRAIN_DEADLINE,
        StepKind::Soak { monitor, .. } => *monitor + SOAK_MARGIN,
        StepKind::Drain { grace, .. } => *grace,
        StepKind::Switch { grace, .. } => *grace + SWITCH_MARGIN,
        StepKind::Stop { timeout, .. } => *timeout + STOP_MARGIN,
        StepKind::Delay { pause } => *pause + DELAY_MARGIN,
        // Filled in by whoever makes the step: the definition knows.
        StepKind::Ready { .. } | StepKind::Run { .. } | StepKind::Gate { .. } => START_DEADLINE,
    }
}
