//! From decisions to steps: what waits for what in a staged roll, a rolling one, and a `down`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::draft::Draft;
use super::follow;
use super::gateway::is_gateway;
use super::graph::{Door, Entered, Graph, Turn};
use super::moved::{Moved, moved};
use super::policy::{Mode, is_api};
use super::scene::Scene;
use super::stages::{dependencies, is_staged};
use super::work::Work;
use crate::model::{
    Admission, ApiAt, ComponentName, Definition, Health, InstanceId, InstanceState, Order, PlanKind, Step, StepId,
    Strategy,
};

/// The label of what happens while everything in the stop stages is down.
pub(super) const QUIET: &str = "quiet point";
const API: &str = "api";
const GATEWAY: &str = "gateway";
const JOBS: &str = "jobs";
const ORPHANS: &str = "orphans";

/// How the slots of a lane are labelled.
enum Label {
    As(&'static str),
    Batch,
}

struct Roll<'a> {
    draft: &'a Draft,
    scene: &'a Scene<'a>,
    graph: Graph<'a>,
    /// What every component of this plan that was entered so far is ready by.
    ready: BTreeMap<ComponentName, Vec<StepId>>,
    /// Everything that must be done before orphans go.
    ends: Vec<StepId>,
    jobs_done: BTreeSet<ComponentName>,
    batches: u32,
    /// Gateways that start on a port of the host that instances have which go in this plan.
    late: Vec<Moved<'a>>,
    /// The ends of those that new ones stand in for already. What only starts need not wait for them.
    leaving: Vec<StepId>,
    /// What a component's first step waits for: gateways that knew nothing of it have been told who serves.
    introduced: BTreeMap<ComponentName, Vec<StepId>>,
}

/// The steps of a plan.
pub(super) fn steps(draft: &Draft, scene: &Scene<'_>) -> Vec<Step> {
    let mut roll = Roll {
        draft,
        scene,
        graph: Graph::new(&draft.pool, matches!(draft.kind, PlanKind::Rollback { .. })),
        ready: BTreeMap::new(),
        ends: Vec::new(),
        jobs_done: BTreeSet::new(),
        batches: 0,
        late: moved(draft, scene),
        leaving: Vec::new(),
        introduced: BTreeMap::new(),
    };
    match draft.kind {
        PlanKind::Down => roll.down(),
        PlanKind::Drain | PlanKind::Undrain => roll.by_hand(),
        PlanKind::Up | PlanKind::Restart | PlanKind::Rollback { .. } => roll.roll(),
    }
    roll.graph.steps
}

impl<'a> Roll<'a> {
    fn changing(&self, fits: impl Fn(&Definition) -> bool) -> Vec<&'a Work> {
        let draft = self.draft;
        let known = |work: &&Work| draft.definition(&work.slot.component).is_some_and(&fits);
        draft.works.iter().filter(|work| work.changes() && !work.orphan).filter(known).collect()
    }

    fn find_doors(&mut self) {
        let running = self.scene.running_gateways(&self.draft.components);
        let mut doors: BTreeMap<_, Door> = running
            .into_iter()
            .map(|(slot, agent, ..)| (slot.clone(), Door { slot, agent, after: Vec::new() }))
            .collect();
        for work in self.changing(is_gateway).into_iter().filter(|work| !self.is_late(work)) {
            if work.coming.as_ref().is_some_and(|coming| coming.start) {
                let door = Door { slot: work.slot.clone(), agent: work.agent.clone(), after: Vec::new() };
                doors.insert(work.slot.clone(), door);
            }
        }
        self.graph.doors = doors.into_values().collect();
    }

    // === up, restart, rollback ===

    fn roll(&mut self) {
        self.find_doors();
        let draft = self.draft;
        let mut prepared = Vec::new();
        for component in follow::leaders_first(&draft.components) {
            for work in draft.works_of(component) {
                if let Some(coming) = work.coming.as_ref().filter(|coming| coming.prepare) {
                    prepared.push(self.graph.prepare(work, coming));
                }
            }
        }
        let waiters = draft.works.iter().filter(|work| work.changes()).count();
        let prepared = self.graph.join(prepared, waiters);
        let base = self.gateways(prepared);
        self.introduce(&base);
        match draft.layout.strategy {
            Strategy::Staged => self.staged(base.clone()),
            Strategy::Rolling => {
                let mut gate = base.clone();
                for name in &draft.layout.rolling {
                    gate = match draft.definition(name).is_some_and(Definition::is_job) {
                        true => self.job(name, &gate, None).unwrap_or(gate),
                        false => self.lane(name, gate, &Label::Batch),
                    };
                }
            }
        }
        self.open_late(&base);
        self.orphans(&base);
    }

    /// A gateway that was never told who serves a component finds it by its name, and a name leads to the new ones too,
    /// long before they are ready. So it is told before the first of them starts.
    fn introduce(&mut self, base: &[StepId]) {
        let draft = self.draft;
        for definition in draft.components.values() {
            let Some((port, _)) = definition.traffic.switched() else { continue };
            let name = &definition.component;
            let starts = |work: &Work| work.coming.as_ref().is_some_and(|coming| coming.start);
            if !draft.works_of(name).any(|work| work.changes() && (starts(work) || work.leaves())) {
                continue;
            }
            let serving = self.serving(name);
            if serving.is_empty() || !serving.iter().all(|id| self.scene.is_reached(id, port)) {
                continue;
            }
            for (slot, _, _, inventory) in self.scene.running_gateways(&draft.components) {
                let stays = !draft.works.iter().any(|work| work.slot == slot && work.changes());
                let Some(door) = self.graph.doors.iter().find(|door| door.slot == slot).cloned() else { continue };
                if stays && !inventory.table.contains_key(name) {
                    let turn = Turn { definition, admit: serving.clone(), release: Vec::new(), while_ready: None };
                    let told = self.graph.tell(&door, &turn, base, GATEWAY);
                    self.introduced.entry(name.clone()).or_default().extend(told);
                }
            }
        }
    }

    fn is_late(&self, work: &Work) -> bool {
        self.late.iter().any(|late| late.work.slot == work.slot)
    }

    /// Late gateways come when the port is free, and get the table of what serves by then.
    fn open_late(&mut self, base: &[StepId]) {
        let draft = self.draft;
        for Moved { work, .. } in std::mem::take(&mut self.late) {
            let after = if self.ends.is_empty() { base.to_vec() } else { both(&self.ends, &[]) };
            let definitions: Vec<&Definition> = draft.components.values().filter(|d| d.has_traffic()).collect();
            let turns: Vec<Turn<'_>> = definitions
                .into_iter()
                .map(|definition| {
                    let works = draft.works_of(&definition.component);
                    let entering = works.filter_map(|work| work.coming.as_ref()).filter(|coming| coming.admit);
                    let mut admit: BTreeSet<InstanceId> = entering.map(|coming| coming.id.clone()).collect();
                    let kept = self.serving(&definition.component).into_iter();
                    admit.extend(kept.filter(|id| !draft.works.iter().any(|w| w.changes() && w.slot == id.slot)));
                    Turn { definition, admit: admit.into_iter().collect(), release: Vec::new(), while_ready: None }
                })
                .filter(|turn| !turn.admit.is_empty())
                .collect();
            let entered = self.graph.open_door(work, &turns, &after, GATEWAY);
            self.graph.finish(work, &entered.proven, Duration::ZERO, GATEWAY);
            self.ends.extend(entered.proven);
        }
    }

    /// Gateways come first, one after the other, and get the table of what serves now. What goes for good goes last.
    fn gateways(&mut self, prepared: Vec<StepId>) -> Vec<StepId> {
        let draft = self.draft;
        let mut gate = prepared;
        let mut proven: BTreeMap<_, Vec<StepId>> = BTreeMap::new();
        for name in draft.components.iter().filter(|(_, d)| is_gateway(d)).map(|(name, _)| name) {
            let lane: Vec<&Work> = draft.lane(name).into_iter().filter(|work| !self.is_late(work)).collect();
            for work in lane.into_iter().filter(|work| work.coming.is_some()) {
                let definitions: Vec<&Definition> = draft.components.values().filter(|d| d.has_traffic()).collect();
                let turns: Vec<Turn<'_>> = definitions
                    .into_iter()
                    .map(|definition| Turn {
                        definition,
                        admit: self.serving(&definition.component),
                        release: Vec::new(),
                        while_ready: None,
                    })
                    .filter(|turn| !turn.admit.is_empty())
                    .collect();
                let starts = work.coming.as_ref().is_some_and(|coming| coming.start);
                let turns = if starts { turns } else { Vec::new() };
                let stops = self.graph.leave(work, &gate, GATEWAY, false);
                let after = if stops.is_empty() { gate.clone() } else { stops.clone() };
                let entered = self.graph.open_door(work, &turns, &after, GATEWAY);
                let done = both(&entered.proven, &stops);
                self.graph.finish(work, &done, Duration::ZERO, GATEWAY);
                self.ends.extend(done);
                gate = entered.ready;
                proven.insert(work.slot.clone(), entered.proven);
            }
        }
        for door in &mut self.graph.doors {
            if let Some(proven) = proven.remove(&door.slot) {
                door.after = proven;
            }
        }
        gate
    }

    /// What of a component takes requests now.
    fn serving(&self, component: &ComponentName) -> Vec<InstanceId> {
        let serves = |seen: &crate::model::InstanceObservation| {
            seen.state == InstanceState::Running
                && seen.health != Health::Unready
                && seen.admission == Admission::Admitting
        };
        let slots = self.scene.slots_of(component);
        slots
            .iter()
            .filter(|slot| !self.scene.held(slot))
            .filter_map(|slot| self.scene.instances(slot).into_iter().rev().find(|found| serves(found.seen)))
            .map(|found| found.seen.id.clone())
            .collect()
    }

    fn staged(&mut self, base: Vec<StepId>) {
        let draft = self.draft;
        let api_at = draft.layout.api_at;
        let mut gate = base;
        if api_at == ApiAt::First {
            gate = self.jobs(gate, JOBS, |_| true);
            gate = self.apis(gate);
        }
        for (index, stage) in draft.layout.stop.iter().enumerate() {
            gate = self.stop_stage(stage, gate, &format!("stop {}", index + 1));
        }
        let quiet: Vec<&Work> = self.changing(|definition| draft.mode(definition) == Mode::Quiet);
        for work in &quiet {
            gate = both(&gate, self.introduced.get(&work.slot.component).map_or(&[], Vec::as_slice));
        }
        gate = self.stop_together(&quiet, gate, QUIET);
        // A job that needs something of this fleet up waits until that is up again.
        let started: BTreeSet<ComponentName> =
            self.changing(is_staged).iter().filter(|w| w.enters()).map(|w| w.slot.component.clone()).collect();
        gate = self.jobs(gate, QUIET, |needs| needs.is_disjoint(&started));
        gate = self.start_together(&quiet, gate, QUIET);
        for (index, stage) in draft.layout.start.iter().enumerate() {
            gate = self.start_stage(stage, gate, &format!("start {}", index + 1));
        }
        gate = self.jobs(gate, JOBS, |_| true);
        if api_at == ApiAt::Last {
            self.apis(gate);
        }
    }

    fn apis(&mut self, mut gate: Vec<StepId>) -> Vec<StepId> {
        let draft = self.draft;
        for name in draft.layout.rolling.iter().filter(|name| draft.definition(name).is_some_and(is_api)) {
            gate = self.lane(name, gate, &Label::As(API));
        }
        gate
    }

    fn stop_stage(&mut self, stage: &[ComponentName], gate: Vec<StepId>, label: &str) -> Vec<StepId> {
        let works: Vec<&Work> =
            self.changing(is_staged).into_iter().filter(|work| stage.contains(&work.slot.component)).collect();
        self.stop_together(&works, gate, label)
    }

    /// All of them drain and stop at the same time. Returns what the next stage waits for.
    fn stop_together(&mut self, works: &[&Work], gate: Vec<StepId>, label: &str) -> Vec<StepId> {
        let gate = self.graph.join(gate, works.len());
        let switches = self.graph.release_all(works, &gate, label);
        let mut stopped = Vec::new();
        for work in works {
            let switched = !self.graph.released(work).is_empty() && !switches.is_empty();
            let after = if switched { &switches } else { &gate };
            let stops = self.graph.leave(work, after, label, true);
            if !work.enters() {
                self.graph.finish(work, if stops.is_empty() { &gate } else { &stops }, Duration::ZERO, label);
            }
            self.ends.extend(&stops);
            stopped.extend(stops);
        }
        if stopped.is_empty() { gate } else { stopped }
    }

    fn start_stage(&mut self, stage: &[ComponentName], mut gate: Vec<StepId>, label: &str) -> Vec<StepId> {
        let draft = self.draft;
        let mut ready = Vec::new();
        let waiters = self.changing(is_staged).iter().filter(|work| stage.contains(&work.slot.component)).count();
        gate = self.graph.join(gate, waiters);
        // Jobs that could not run at the quiet point: they need something that has come up since.
        let mut ran: Vec<(&ComponentName, Vec<StepId>)> = Vec::new();
        for name in draft.layout.rolling.iter().filter(|name| stage.contains(name)) {
            let works: Vec<&Work> =
                self.changing(is_staged).into_iter().filter(|w| w.slot.component == *name && w.enters()).collect();
            if works.is_empty() {
                continue;
            }
            let needs = dependencies(&draft.components, name);
            for job in draft.layout.rolling.iter().filter(|job| needs.contains(job)) {
                if let Some(done) = self.job(job, &gate, Some(JOBS)) {
                    ran.push((job, done));
                }
            }
            let mut after = gate.clone();
            for (_, done) in ran.iter().filter(|(job, _)| needs.contains(job)) {
                after = both(&after, done);
            }
            ready.extend(self.start_each(&works, &after, label));
        }
        if ready.is_empty() { gate } else { ready }
    }

    fn start_together(&mut self, works: &[&Work], gate: Vec<StepId>, label: &str) -> Vec<StepId> {
        let works: Vec<&Work> = works.iter().copied().filter(|work| work.enters()).collect();
        let gate = self.graph.join(gate, works.len());
        let ready = self.start_each(&works, &gate, label);
        if ready.is_empty() { gate } else { ready }
    }

    fn start_each(&mut self, works: &[&Work], after: &[StepId], label: &str) -> Vec<StepId> {
        let mut ready = Vec::new();
        for work in works {
            let Entered { ready: up, proven } = self.graph.enter(work, after, label);
            self.graph.finish(work, &proven, Duration::ZERO, label);
            self.ends.extend(proven);
            self.ready.entry(work.slot.component.clone()).or_default().extend(&up);
            ready.extend(up);
        }
        ready
    }

    /// Jobs that have not run yet and whose needs fit. Returns what waits for them.
    fn jobs(&mut self, gate: Vec<StepId>, label: &str, fits: impl Fn(&BTreeSet<ComponentName>) -> bool) -> Vec<StepId> {
        let draft = self.draft;
        let mut ready = Vec::new();
        for name in &draft.layout.rolling {
            if fits(&dependencies(&draft.components, name))
                && let Some(done) = self.job(name, &gate, Some(label))
            {
                ready.extend(done);
            }
        }
        if ready.is_empty() { gate } else { ready }
    }

    /// Runs one job, after those that it depends on and after whatever else it needs that this plan has brought up.
    /// `None`: it is no job, or it has nothing to do (any more).
    fn job(&mut self, name: &ComponentName, gate: &[StepId], label: Option<&str>) -> Option<Vec<StepId>> {
        let draft = self.draft;
        let works = draft.lane(name);
        if !draft.definition(name).is_some_and(Definition::is_job)
            || works.is_empty()
            || !self.jobs_done.insert(name.clone())
        {
            return None;
        }
        let batch = format!("batch {}", self.batches + 1);
        if label.is_none() {
            self.batches += 1;
        }
        let label = label.unwrap_or(&batch);
        let needs = dependencies(&draft.components, name);
        let mut after = both(gate, &std::mem::take(&mut self.leaving));
        for need in self.ready.iter().filter(|(need, _)| needs.contains(need)).map(|(_, ready)| ready) {
            after = both(&after, need);
        }
        let mut done = Vec::new();
        for work in works {
            let stops = self.graph.leave(work, &after, label, false);
            let begin = if stops.is_empty() { after.clone() } else { stops.clone() };
            let entered = self.graph.enter(work, &begin, label);
            let end = both(&entered.proven, &stops);
            self.graph.finish(work, if end.is_empty() { &after } else { &end }, Duration::ZERO, label);
            self.ends.extend(&end);
            done.extend(both(&entered.ready, &stops));
        }
        self.ready.insert(name.clone(), done.clone());
        Some(done).filter(|done| !done.is_empty())
    }

    /// The slots of one component, as many at a time as its parallelism: the engine gives the places. Returns what the
    /// next component waits for: batch by batch that is the new ones of this one, not the end of those that they stand
    /// in for.
    fn lane(&mut self, name: &ComponentName, gate: Vec<StepId>, label: &Label) -> Vec<StepId> {
        let draft = self.draft;
        let works = draft.lane(name);
        let Some(definition) = draft.definition(name).filter(|_| !works.is_empty()) else { return gate };
        let mut gate = both(&gate, self.introduced.get(name).map_or(&[], Vec::as_slice));
        if works.iter().any(|work| work.order == Order::StopFirst) {
            gate = both(&gate, &std::mem::take(&mut self.leaving));
        }
        let gate = self.graph.join(gate, works.len());
        let size = match definition.update.parallelism {
            0 => works.len(),
            places => places as usize,
        };
        let (mut done, mut next) = (Vec::new(), Vec::new());
        for (index, work) in works.iter().enumerate() {
            let batch = u32::try_from(index / size).unwrap_or(u32::MAX);
            let stage = match label {
                Label::As(label) => (*label).to_owned(),
                Label::Batch => format!("batch {}", self.batches + batch + 1),
            };
            let (entered, stops) = if work.order == Order::StartFirst {
                self.graph.swap(work, &gate, &stage)
            } else {
                let stops = self.graph.leave(work, &gate, &stage, false);
                let entered = self.graph.enter(work, if stops.is_empty() { &gate } else { &stops }, &stage);
                (entered, stops)
            };
            let mut end = both(&entered.proven, &stops);
            if end.is_empty() {
                end = gate.clone();
            }
            let more = index + 1 < works.len() && work.coming.is_some();
            let delay = if more { definition.update.delay } else { Duration::ZERO };
            self.graph.finish(work, &end, delay, &stage);
            self.ready.entry(name.clone()).or_default().extend(&entered.ready);
            let swapped =
                matches!(label, Label::Batch) && work.order == Order::StartFirst && !entered.proven.is_empty();
            if swapped {
                next.extend(&entered.proven);
                self.leaving.extend(&end);
            } else {
                next.extend(&end);
            }
            done.extend(end);
        }
        if matches!(label, Label::Batch) {
            self.batches += u32::try_from(works.len().div_ceil(size)).unwrap_or(u32::MAX);
        }
        self.ends.extend(&done);
        both(&next, &[])
    }

    /// What is gone from the manifest goes when everything else is there; a gateway that goes, after that.
    fn orphans(&mut self, base: &[StepId]) {
        let draft = self.draft;
        let gone = |work: &&Work| work.orphan && work.changes();
        let gateway = |work: &Work| draft.definition(&work.slot.component).is_some_and(is_gateway);
        let plain: Vec<&Work> = draft.works.iter().filter(gone).filter(|work| !gateway(work)).collect();
        let doors: Vec<&Work> = draft
            .works
            .iter()
            .filter(|work| work.changes() && gateway(work) && (work.orphan || work.coming.is_none()))
            .collect();
        let mut gate = if self.ends.is_empty() { base.to_vec() } else { both(&self.ends, &[]) };
        gate = self.stop_together(&plain, gate, ORPHANS);
        self.stop_together(&doors, gate, GATEWAY);
    }

    // === down, drain, undrain ===

    fn down(&mut self) {
        self.find_doors();
        let draft = self.draft;
        let mut gate = Vec::new();
        for (index, stage) in draft.layout.stop.iter().enumerate() {
            let mut works: Vec<&Work> =
                self.changing(is_staged).into_iter().filter(|w| stage.contains(&w.slot.component)).collect();
            if index == 0 {
                works.extend(self.changing(Definition::is_job));
            }
            gate = self.stop_together(&works, gate, &format!("stop {}", index + 1));
        }
        if draft.layout.stop.is_empty() {
            let jobs = self.changing(Definition::is_job);
            gate = self.stop_together(&jobs, gate, "stop 1");
        }
        // Nobody knows what these are; before the API they are in nobody's way.
        let unknown: Vec<&Work> = draft
            .works
            .iter()
            .filter(|work| work.changes() && draft.definition(&work.slot.component).is_none())
            .collect();
        let unknown: (Vec<&Work>, Vec<&Work>) =
            unknown.into_iter().partition(|work| work.slot.component.as_str() != super::gateway::GATEWAY);
        let label = format!("stop {}", draft.layout.stop.len().max(1) + 1);
        gate = self.stop_together(&unknown.0, gate, &label);
        let apis = self.changing(is_api);
        gate = self.stop_together(&apis, gate, API);
        let mut gateways = self.changing(is_gateway);
        gateways.extend(unknown.1);
        self.stop_together(&gateways, gate, GATEWAY);
    }

    fn by_hand(&mut self) {
        self.find_doors();
        let draft = self.draft;
        for work in draft.works.iter().filter(|work| work.changes()) {
            match work.going.first() {
                Some(going) => self.graph.drain_only(going, work, draft.kind.to_string().as_str()),
                None => self.graph.give_back(work, draft.kind.to_string().as_str()),
            }
        }
    }
}

/// Both, once each, in order.
fn both(a: &[StepId], b: &[StepId]) -> Vec<StepId> {
    let set: BTreeSet<StepId> = a.iter().chain(b).copied().collect();
    set.into_iter().collect()
}
