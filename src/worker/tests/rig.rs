//! A tiny world to work in: one slot's processes with knobs, and the driver's contract around a worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::model::*;
use crate::worker::*;

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn slot() -> SlotName {
    "worker-1".parse().unwrap()
}

pub fn instance(number: u64) -> InstanceId {
    InstanceId::new(slot(), number)
}

pub fn digest(text: &str) -> Digest {
    Digest(text.to_owned())
}

pub fn step(id: u32, act: Act) -> CommandStep {
    CommandStep { step: StepId(id), act, precondition: Precondition::None, deadline: secs(60) }
}

pub fn command(id: &str, steps: Vec<CommandStep>) -> Command {
    Command { id: id.parse().unwrap(), term: Term(1), slot: slot(), steps }
}

pub fn prepare(number: u64) -> Act {
    Act::Prepare { instance: instance(number), definition: digest("d"), spec: digest("s"), version: None }
}

pub fn start(number: u64) -> Act {
    Act::Start { instance: instance(number) }
}

pub fn ready(number: u64, wait: ReadyWait) -> Act {
    Act::Ready { instance: instance(number), definition: digest("d"), wait }
}

pub fn soak(number: u64) -> Act {
    Act::Soak { instance: instance(number), monitor: secs(5), definition: digest("d"), probed: true }
}

pub fn drain(number: u64, begin: DrainStart, inflight: bool) -> Act {
    Act::Drain {
        instance: instance(number),
        definition: digest("d"),
        begin,
        inflight,
        grace: secs(30),
        stop_timeout: secs(10),
    }
}

pub fn undrain(number: u64) -> Act {
    Act::Undrain { instance: instance(number), definition: digest("d") }
}

pub fn stop(number: u64) -> Act {
    Act::Stop { instance: instance(number), signal: "SIGTERM".into(), timeout: secs(10) }
}

pub fn retire(number: u64) -> Act {
    Act::Retire { instance: instance(number) }
}

pub fn term() -> DrainStart {
    DrainStart::Signal("SIGTERM".into())
}

/// One process of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Proc {
    pub spec: Digest,
    pub state: InstanceState,
    pub pid: u32,
    pub restarts: u32,
    pub exit: Option<ExitStatus>,
    pub held: bool,
    pub children: bool,
    /// When it ends by itself, and how.
    pub exits_at: Option<(Timestamp, ExitStatus)>,
    pub ready_at: Timestamp,
    pub inflight: Option<u64>,
    pub starts: u32,
    /// Signals since its last start.
    pub signals: Vec<String>,
}

/// How the world behaves.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// From start to the first good probe.
    pub ready_after: Duration,
    /// From signal to exit; `None`: it ignores signals.
    pub exit_after: Option<Duration>,
    /// A job ends by itself so long after its start.
    pub job: Option<(Duration, ExitStatus)>,
    /// When work in flight is zero, in all drains.
    pub idle_at: Option<Timestamp>,
    /// Looks fail until then.
    pub blind_until: Timestamp,
    /// Nobody can ask the instance anything until then.
    pub lost_until: Timestamp,
    /// Acts that fail once each.
    pub errors: BTreeMap<ActKind, (ActError, bool)>,
}

pub struct Rig {
    pub worker: Worker,
    pub now: Timestamp,
    pub procs: BTreeMap<InstanceId, Proc>,
    pub knobs: Knobs,
    pub facts: Vec<(Timestamp, Record)>,
    pub log: Vec<String>,
    pub out: BTreeMap<EffectKey, Effect>,
    pub outcomes: BTreeMap<(CommandId, StepId), Outcome>,
    pub reports: Vec<(Timestamp, Progress)>,
    dirty: BTreeSet<EffectKey>,
    exits_told: BTreeSet<InstanceId>,
    queue: VecDeque<Event>,
    /// How long a look takes, and the answers under way.
    pub look_takes: Duration,
    /// How often probes and counts are read.
    pub poll_every: Duration,
    delayed: Vec<(Timestamp, Event)>,
    next_poll: Timestamp,
    /// Records that may still be applied before the agent is killed.
    pub fuse: Option<usize>,
    pub applied: usize,
}

impl Rig {
    pub fn new() -> Self {
        Self {
            worker: Worker::new(slot()),
            now: Timestamp(1_000_000),
            procs: BTreeMap::new(),
            knobs: Knobs {
                ready_after: secs(1),
                exit_after: Some(secs(2)),
                job: None,
                idle_at: None,
                blind_until: Timestamp::ZERO,
                lost_until: Timestamp::ZERO,
                errors: BTreeMap::new(),
            },
            facts: Vec::new(),
            log: Vec::new(),
            out: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            reports: Vec::new(),
            dirty: BTreeSet::new(),
            exits_told: BTreeSet::new(),
            queue: VecDeque::new(),
            look_takes: Duration::ZERO,
            poll_every: Duration::from_millis(100),
            delayed: Vec::new(),
            next_poll: Timestamp(1_000_000),
            fuse: None,
            applied: 0,
        }
    }

    /// A world with a running, ready instance that the worker does not know yet.
    pub fn with_running(numbers: &[u64]) -> Self {
        let mut rig = Self::new();
        for number in numbers {
            rig.create(*number);
            rig.start(&instance(*number));
        }
        rig.log.clear();
        rig
    }

    pub fn create(&mut self, number: u64) {
        let proc = Proc {
            spec: digest("s"),
            state: InstanceState::Created,
            pid: 0,
            restarts: 0,
            exit: None,
            held: false,
            children: false,
            exits_at: None,
            ready_at: Timestamp::ZERO,
            inflight: Some(2),
            starts: 0,
            signals: Vec::new(),
        };
        self.procs.insert(instance(number), proc);
    }

    pub fn proc(&mut self, number: u64) -> &mut Proc {
        self.procs.get_mut(&instance(number)).unwrap()
    }

    fn start(&mut self, id: &InstanceId) {
        let (now, knobs) = (self.now, self.knobs.clone());
        let proc = self.procs.get_mut(id).unwrap();
        if proc.state == InstanceState::Running {
            return;
        }
        proc.starts += 1;
        proc.pid += 100;
        proc.state = InstanceState::Running;
        proc.held = false;
        proc.children = true;
        proc.exit = None;
        proc.signals.clear();
        proc.ready_at = now + knobs.ready_after;
        proc.exits_at = knobs.job.map(|(after, status)| (now + after, status));
        self.exits_told.remove(id);
    }

    pub fn look(&self) -> Vec<InstanceObservation> {
        let seen = |(id, proc): (&InstanceId, &Proc)| InstanceObservation {
            id: id.clone(),
            spec: Some(proc.spec.clone()),
            asked: None,
            definition: Some(digest("d")),
            version: None,
            state: proc.state,
            health: Health::Unknown,
            admission: Admission::Admitting,
            endpoint: Some(Endpoint { address: "127.0.0.1".into(), ports: BTreeMap::new() }),
            pid: (proc.state == InstanceState::Running).then_some(proc.pid),
            restarts: proc.restarts,
            crashing: false,
            exit: proc.exit,
            sockets_held: true,
        };
        self.procs.iter().map(seen).collect()
    }

    /// Carries out an effect that has appeared or changed.
    fn dispatch(&mut self, key: EffectKey, effect: Effect) {
        if let (EffectKey::Act(_, _, kind), Some(id)) = (&key, acted_on(&effect)) {
            self.log.push(format!("{kind:?} {id}"));
            let mut error = self.knobs.errors.remove(kind);
            if *kind == ActKind::DrainCall && self.now < self.knobs.lost_until {
                let (kind, message) = (FailureKind::Refused, "no contact".to_owned());
                error = Some((ActError { kind, unknown: true, retryable: true, message, log: vec![] }, false));
            }
            if error.as_ref().is_none_or(|(_, happens)| *happens) {
                self.carry_out(&effect, &id);
            }
            let endpoint = Some(Endpoint { address: "127.0.0.1".into(), ports: BTreeMap::new() });
            let result = match error {
                Some((error, _)) => Err(error),
                None => Ok(endpoint.filter(|_| *kind == ActKind::Start)),
            };
            self.queue.push_back(Event::Acted { key, result });
            return;
        }
        match effect {
            Effect::Inspect if self.now < self.knobs.blind_until => {
                self.queue.push_back(Event::InspectFailed("engine away".into()));
            }
            Effect::Inspect if self.look_takes.is_zero() => self.queue.push_back(Event::Inspected(self.look())),
            Effect::Inspect => self.delayed.push((self.now + self.look_takes, Event::Inspected(self.look()))),
            Effect::Tell(outcome) => {
                let place = (outcome.command.clone(), outcome.step);
                if let Some(before) = self.outcomes.insert(place, *outcome.clone()) {
                    assert_eq!(before, *outcome, "an outcome changed");
                }
            }
            Effect::Report(progress) => self.reports.push((self.now, *progress)),
            Effect::Run { hook } => {
                self.log.push(format!("Run {hook}"));
                self.queue.push_back(Event::Acted { key, result: Ok(None) });
            }
            Effect::Switch { close, .. } => self.log.push(format!("Switch close={close}")),
            _ => {}
        }
        self.poll();
    }

    fn carry_out(&mut self, effect: &Effect, id: &InstanceId) {
        let now = self.now;
        let exit_after = self.knobs.exit_after;
        match effect {
            Effect::Prepare { .. } if !self.procs.contains_key(id) => self.create(id.number),
            Effect::Start { .. } => self.start(id),
            Effect::HoldRestart { .. } => self.procs.get_mut(id).unwrap().held = true,
            Effect::AllowRestart { .. } => self.procs.get_mut(id).unwrap().held = false,
            Effect::Signal { signal, .. } => {
                let proc = self.procs.get_mut(id).unwrap();
                // As a runtime does it: one run of a process gets a signal once.
                if proc.signals.contains(signal) {
                    return;
                }
                proc.signals.push(signal.clone());
                if let Some(after) = exit_after {
                    proc.exits_at = Some((now + after, ExitStatus::Code(0)));
                }
            }
            Effect::Kill { .. } => {
                let proc = self.procs.get_mut(id).unwrap();
                if proc.state == InstanceState::Running {
                    proc.state = InstanceState::Exited;
                    proc.exit = Some(ExitStatus::Signal(9));
                }
                proc.children = false;
            }
            Effect::Remove { .. } => {
                self.procs.remove(id);
            }
            _ => {}
        }
    }

    /// What watchers see now.
    fn poll(&mut self) {
        let now = self.now;
        for proc in self.procs.values_mut() {
            if let Some((at, status)) = proc.exits_at
                && proc.state == InstanceState::Running
                && now >= at
            {
                proc.state = InstanceState::Exited;
                proc.exit = Some(status);
            }
        }
        for id in self.procs.keys().cloned().collect::<Vec<_>>() {
            let proc = self.procs[&id].clone();
            if self.out.contains_key(&EffectKey::WatchExit(id.clone()))
                && proc.state == InstanceState::Exited
                && self.exits_told.insert(id.clone())
            {
                let status = proc.exit.unwrap();
                self.queue.push_back(Event::Exited { instance: id, status, log: vec!["last words".into()] });
            }
        }
    }

    fn poll_probes(&mut self) {
        for key in self.out.keys().cloned().collect::<Vec<_>>() {
            match key {
                EffectKey::Probe(id) => {
                    let proc = self.procs.get(&id);
                    let ready = proc.is_some_and(|p| p.state == InstanceState::Running && self.now >= p.ready_at);
                    let lost = self.now < self.knobs.lost_until;
                    let (ready, text) = (ready && !lost, if ready { "200" } else { "503" }.to_owned());
                    self.queue.push_back(Event::Probed {
                        instance: id,
                        verdict: Verdict { ready, lost, text, log: vec!["last line".to_owned()] },
                    });
                }
                EffectKey::WatchInflight(id) => {
                    let idle = self.knobs.idle_at.is_some_and(|at| self.now >= at);
                    let count = if idle { Some(0) } else { self.procs[&id].inflight };
                    let count = count.filter(|_| self.now >= self.knobs.lost_until);
                    let count = count.ok_or_else(|| "no contact".to_owned());
                    self.queue.push_back(Event::Inflight { instance: id, count });
                }
                _ => {}
            }
        }
    }

    pub fn tell(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Applies the records of one event and of the ticks after it; `false`: the agent was killed.
    fn handle(&mut self, event: &Event) -> bool {
        let mut event = event.clone();
        for _ in 0..1000 {
            let records = self.worker.decide(self.now, &event);
            if records.is_empty() && event == Event::Tick {
                return true;
            }
            for record in records {
                if let Some(fuse) = &mut self.fuse {
                    if *fuse == 0 {
                        return false;
                    }
                    *fuse -= 1;
                }
                self.applied += 1;
                let keys = self.worker.apply(self.now, &record).expect("an allowed record");
                if record.is_fact() {
                    self.facts.push((self.now, record));
                }
                for key in keys {
                    match self.worker.effect(&key) {
                        Some(effect) => {
                            self.out.insert(key.clone(), effect);
                            self.dirty.insert(key);
                        }
                        None => {
                            if let EffectKey::WatchExit(id) = &key {
                                self.exits_told.remove(id);
                            }
                            self.out.remove(&key);
                        }
                    }
                }
                assert_eq!(self.out, self.worker.outstanding(), "changed keys and outstanding differ");
            }
            event = Event::Tick;
        }
        panic!("the worker does not come to rest");
    }

    /// Handles everything that waits, without letting time pass; `false`: killed.
    pub fn settle(&mut self) -> bool {
        loop {
            let event = match self.queue.pop_front() {
                Some(event) => event,
                None => return true,
            };
            if !self.handle(&event) {
                return false;
            }
            for key in std::mem::take(&mut self.dirty) {
                if let Some(effect) = self.out.get(&key).cloned() {
                    self.dispatch(key, effect);
                }
            }
        }
    }

    /// Lets the time pass until the worker has nothing at work or `until` has come; `false`: killed.
    pub fn run(&mut self, until: Duration) -> bool {
        let end = self.now + until;
        if !self.settle() {
            return false;
        }
        while self.now < end && self.busy() {
            if !self.pass() {
                return false;
            }
        }
        true
    }

    pub fn busy(&self) -> bool {
        self.out.keys().any(|key| matches!(key, EffectKey::Act(..) | EffectKey::Inspect(_)))
            || self.worker.judge(&command("probe/0/1", vec![])) == Judgement::Busy
    }

    /// To the next instant at which something may happen.
    pub fn pass(&mut self) -> bool {
        let due = self.worker.next_deadline().unwrap_or(Timestamp(u64::MAX)).max(self.now);
        assert!(self.worker.next_deadline().is_none_or(|due| due > self.now), "due and not done: {:?}", self.worker);
        if due.0 < u64::MAX {
            let early = Timestamp(due.0 - 1);
            assert!(self.worker.decide(early, &Event::Tick).is_empty(), "something was due before the deadline");
            let at = self.worker.decide(due, &Event::Tick);
            assert!(!at.is_empty(), "nothing is due at the deadline {due}: {:?}", self.worker);
        }
        let answered = self.delayed.iter().map(|(at, _)| *at).min().unwrap_or(self.next_poll);
        self.now = due.min(self.next_poll).min(answered);
        let (come, later) = std::mem::take(&mut self.delayed).into_iter().partition(|(at, _)| *at <= self.now);
        self.delayed = later;
        let come: Vec<(Timestamp, Event)> = come;
        self.queue.extend(come.into_iter().map(|(_, event)| event));
        if self.now >= self.next_poll {
            self.next_poll = self.now + self.poll_every;
            self.poll_probes();
        }
        self.poll();
        self.tell(Event::Tick);
        self.settle()
    }

    /// The agent is killed and started again: only facts are left of it. The world goes on.
    pub fn restart(&mut self) {
        self.worker = Worker::new(slot());
        for (at, record) in &self.facts {
            self.worker.apply(*at, record).expect("a replayed record");
        }
        self.fuse = None;
        self.dirty.clear();
        self.exits_told.clear();
        self.queue.clear();
        self.delayed.clear();
        self.out = self.worker.outstanding();
        self.dirty.extend(self.out.keys().cloned());
        self.tell(Event::Started);
    }

    pub fn command(&mut self, command: &Command) {
        self.tell(Event::Command(Box::new(command.clone())));
    }

    /// Sends a list and lets it come to its end.
    pub fn carry(&mut self, command: &Command) -> Vec<StepResult> {
        self.command(command);
        assert!(self.run(secs(600)));
        self.results(command)
    }

    pub fn results(&self, command: &Command) -> Vec<StepResult> {
        let result = |step: &CommandStep| self.outcomes.get(&(command.id.clone(), step.step)).map(|o| o.result.clone());
        command.steps.iter().filter_map(result).collect()
    }
}

fn acted_on(effect: &Effect) -> Option<InstanceId> {
    match effect {
        Effect::Prepare { instance, .. }
        | Effect::Start { instance }
        | Effect::HoldRestart { instance }
        | Effect::AllowRestart { instance }
        | Effect::DrainCall { instance, .. }
        | Effect::UndrainCall { instance, .. }
        | Effect::Signal { instance, .. }
        | Effect::Kill { instance }
        | Effect::Remove { instance } => Some(instance.clone()),
        _ => None,
    }
}

pub fn error(kind: FailureKind, unknown: bool) -> ActError {
    ActError { kind, unknown, retryable: false, message: "no answer".into(), log: Vec::new() }
}

/// `done`, `failed NotReady`, `unknown`, `skipped Recalled`.
pub fn short(result: &StepResult) -> String {
    match result {
        StepResult::Done(How::Drained(report)) => {
            format!("drained {}ms{}", report.took.as_millis(), if report.killed { " killed" } else { "" })
        }
        StepResult::Done(how) => format!("done {how:?}"),
        StepResult::Failed { kind, .. } => format!("failed {kind:?}"),
        StepResult::Unknown { .. } => "unknown".into(),
        StepResult::Skipped(why) => format!("skipped {why:?}"),
    }
}

pub fn shorts(results: &[StepResult]) -> Vec<String> {
    results.iter().map(short).collect()
}
