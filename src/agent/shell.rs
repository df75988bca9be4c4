//! The agent's one loop: words and results in, one sync, effects out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::acts::{Changes, Hands, starts_max};
use super::contact::Contacts;
use super::definitions::Definitions;
use super::doors::Doors;
use super::project::{self, Reader};
use super::session::{self, News};
use super::{AgentConfig, AgentError};
use crate::driver::{Driver, Tag};
use crate::journal::{InPlace, JournalKind, SpecStore, SqliteJournal};
use crate::link::{AgentEndEvent, AgentEndRecord};
use crate::model::{
    AgentHello, AgentId, CommandId, ComponentName, CoordinatorId, Definition, FleetName, InstanceObservation,
    Inventory, PROTOCOL_VERSION, Resolution, SlotName, StepId, Term, ToAgent, ToCoordinator,
};
use crate::node::{AgentEffect, AgentEvent, AgentKey, AgentNode, AgentRecord};
use crate::sys;
use crate::worker::{ActKind, EffectKey};

/// Events taken into one batch, and so into one sync. Large enough for a burst of outcomes of a big host.
const BATCH_MAX: usize = 512;

/// News that nobody asked for goes out at most so often.
const NEWS_EVERY: Duration = Duration::from_millis(200);

/// All slots are looked at so often, whatever hints say or do not say.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Where that takes long, so many times what it took: a twentieth of the time is enough for it.
const REPORT_EVERY_SHARE: u32 = 20;

/// But not later than this: a runtime that hung once is no reason to look away.
const REPORT_EVERY_MAX: Duration = Duration::from_secs(30);

/// Between two reports that nobody asked for, so many times what the last one took to gather: a host with a thousand
/// slots has better things to do in a roll than to look at all of them five times a second.
const REPORT_SHARE: u32 = 4;

/// Slots that are looked at side by side when all are, and definitions that are resolved.
const LOOKS_MAX: usize = 8;

/// An agent that is to stop waits so long for the coordinator to acknowledge what it was told: what the ledger holds as
/// open is asked about at the next start.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Why a gathering of inventory was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Hello(u64),
    Report(u64),
}

struct Gathered {
    purpose: For,
    took: Duration,
    /// Where not all slots were looked at.
    only: Option<BTreeSet<SlotName>>,
    slots: BTreeMap<SlotName, Vec<InstanceObservation>>,
    resolutions: BTreeMap<ComponentName, Resolution>,
}

pub(super) struct Shell {
    config: AgentConfig,
    driver: Driver<AgentNode>,
    hands: Hands,
    events: mpsc::Receiver<AgentEvent>,
    news: mpsc::Receiver<News>,
    news_out: mpsc::Sender<News>,
    gathered: mpsc::Receiver<Gathered>,
    gathered_out: mpsc::Sender<Gathered>,
    session: Option<(u64, mpsc::Sender<ToCoordinator>)>,
    dial: Option<AbortHandle>,
    watches: BTreeMap<AgentKey, AbortHandle>,
    acting: BTreeSet<AgentKey>,
    /// Acknowledged outcomes that are not in the ledger yet.
    acknowledged: Vec<(CommandId, StepId)>,
    /// What was found of every slot, and the slots that have changed since.
    seen: BTreeMap<SlotName, Vec<InstanceObservation>>,
    changed: BTreeSet<SlotName>,
    /// How long news wait for what the last report has cost.
    report_pause: Duration,
    /// How long it took to look at all slots.
    all_took: Duration,
    /// Once it is to stop: when it does, whatever is still open.
    leaves_at: Option<Instant>,
    boot_id: String,
    _lock: sys::lock::FileLock,
    _names: Vec<sys::abstract_socket::NameHold>,
}

/// What a ledger record's head says.
fn tag(node: &AgentNode, record: &AgentRecord) -> Tag {
    let term = node.link().obeys().map_or(0, |claim| claim.term.0);
    let roll = match record {
        AgentRecord::Slot { entry: crate::worker::Record::Accepted { command }, .. } => command.id.roll.to_string(),
        AgentRecord::Slot { entry: crate::worker::Record::Ended { command, .. }, .. } => command.roll.to_string(),
        _ => String::new(),
    };
    Tag { roll, term, actor: "agent".to_owned() }
}

fn folder_error(path: &Path) -> impl Fn(std::io::Error) -> AgentError + '_ {
    move |error| AgentError::Folder { path: path.to_owned(), source: Box::new(error) }
}

fn open(
    folder: &Path,
    fleet: &FleetName,
    id: &AgentId,
) -> Result<(Driver<AgentNode>, sys::lock::FileLock), AgentError> {
    sys::state_dir::create(folder)
        .map_err(|error| AgentError::Folder { path: folder.to_owned(), source: Box::new(error) })?;
    let lock =
        sys::lock::FileLock::take(&folder.join("lock"), &format!("agent {id} of fleet {fleet}")).map_err(|error| {
            match error {
                sys::lock::LockError::Held { holder, .. } => {
                    AgentError::Held { what: format!("folder {}", folder.display()), holder }
                }
                other => AgentError::Folder { path: folder.to_owned(), source: Box::new(other) },
            }
        })?;
    let journal = SqliteJournal::<AgentRecord>::open(&folder.join("ledger.db"), fleet, JournalKind::Ledger)?;
    // Two agents of one host must not dial in step; their ids and processes differ.
    let seed = id.as_str().bytes().fold(u64::from(std::process::id()), |seed, byte| {
        seed.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
    });
    let clock = sys::clock::SystemClock::new().map_err(folder_error(folder))?;
    let driver =
        Driver::recover(AgentNode::new(id.clone(), seed), Box::new(InPlace(journal)), Box::new(clock), Box::new(tag))?;
    Ok((driver, lock))
}

pub(super) fn adopt(folder: &Path, fleet: &FleetName, id: &AgentId, heir: &CoordinatorId) -> Result<(), AgentError> {
    let (mut driver, _lock) = open(folder, fleet, id)?;
    driver.step(vec![AgentNode::adopt(heir.clone())], || AgentEvent::Tick)?;
    Ok(())
}

impl Shell {
    pub(super) fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let (driver, lock) = open(&config.folder, &config.fleet, &config.id)?;
        let myself = format!("folder {}", config.folder.display());
        let held = config.runtime_ids.iter().map(|runtime| {
            let name = format!("baton/{runtime}/{}/{}", config.fleet, config.id);
            sys::abstract_socket::NameHold::take(&name, &myself).map_err(|error| match error {
                sys::abstract_socket::HoldError::Held { holder, .. } => {
                    AgentError::Held { what: format!("the runtime of fleet {} as {}", config.fleet, config.id), holder }
                }
                other => AgentError::Folder { path: config.folder.clone(), source: Box::new(other) },
            })
        });
        let names = held.collect::<Result<Vec<_>, _>>()?;
        let boot_id = sys::clock::boot_id().map_err(folder_error(Path::new("/proc/sys/kernel/random/boot_id")))?;
        let specs = SpecStore::open(&config.folder.join("specs"))
            .map_err(|error| AgentError::Folder { path: config.folder.clone(), source: Box::new(error) })?;
        let (events_out, events) = mpsc::channel(4_096);
        let (news_out, news) = mpsc::channel(256);
        let (gathered_out, gathered) = mpsc::channel(16);
        let hands = Hands {
            runtime: config.runtime.clone(),
            specs: Arc::new(Definitions::of(specs)),
            me: config.id.clone(),
            starts: Arc::new(Semaphore::new(starts_max())),
            changes: Changes::default(),
            contacts: Contacts::default(),
            doors: Doors::default(),
            events: events_out,
        };
        Ok(Self {
            config,
            driver,
            hands,
            events,
            news,
            news_out,
            gathered,
            gathered_out,
            session: None,
            dial: None,
            watches: BTreeMap::new(),
            acting: BTreeSet::new(),
            acknowledged: vec![],
            seen: BTreeMap::new(),
            changed: BTreeSet::new(),
            report_pause: Duration::ZERO,
            all_took: Duration::ZERO,
            leaves_at: None,
            boot_id,
            _lock: lock,
            _names: names,
        })
    }

    /// The machines, to read.
    fn node(&self) -> &AgentNode {
        self.driver.machine().expect("a failed append ends the loop before anybody looks again")
    }

    pub(super) async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
        // What ran before this agent comes first: a keeper that is gone is brought back before anybody asks.
        let should_run: Vec<_> = self.node().workers().values().flat_map(|worker| worker.should_run()).collect();
        if let Err(error) = self.hands.runtime.adopt_running(&should_run).await {
            // What is down is told as down; a keeper that comes up later takes its slot over.
            tracing::error!(why = error.message, "a keeper did not come up");
        }
        // What changes with the start is part of what is outstanding after it: carried out once, not twice.
        let driver = &mut self.driver;
        driver.step(vec![AgentEvent::Started], || AgentEvent::Tick)?;
        for (key, effect) in self.driver.outstanding()? {
            self.carry_out(key, Some(effect));
        }
        let mut hints = self.hands.runtime.hints();
        let mut hints_open = true;
        let mut report = tokio::time::interval(NEWS_EVERY);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut since_report, mut since_all) = (Duration::ZERO, Duration::ZERO);
        tokio::pin!(stop);
        loop {
            if self.leaves_at.is_some_and(|at| Instant::now() >= at || !self.awaits_acknowledgement()) {
                return self.step_with_acknowledged(vec![]);
            }
            let wake = self.driver.next_deadline()?.unwrap_or(Duration::from_secs(3_600));
            let mut batch = vec![];
            tokio::select! {
                () = &mut stop, if self.leaves_at.is_none() => self.leaves_at = Some(Instant::now() + LEAVE_MAX),
                Some(event) = self.events.recv() => batch.push(event),
                Some(news) = self.news.recv() => self.hear(news, &mut batch),
                Some(gathered) = self.gathered.recv() => self.gathered(gathered).await,
                hint = hints.recv(), if hints_open => match hint {
                    Some(hint) => {
                        self.hands.changes.tell(&hint.slot);
                        self.changed.insert(hint.slot);
                    }
                    None => hints_open = false,
                },
                _ = report.tick() => {
                    self.step_with_acknowledged(vec![])?;
                    self.hands.doors.tidy();
                    since_report += NEWS_EVERY;
                    since_all += NEWS_EVERY;
                    let all = since_all >= (self.all_took * REPORT_EVERY_SHARE).clamp(REPORT_EVERY, REPORT_EVERY_MAX);
                    if all || (!self.changed.is_empty() && since_report >= self.report_pause) {
                        since_report = Duration::ZERO;
                        let changed = std::mem::take(&mut self.changed);
                        if all {
                            since_all = Duration::ZERO;
                        }
                        if self.node().link().is_up() {
                            // A fleet is large, and what has changed of it is little.
                            let only = if all { None } else { Some(changed) };
                            self.gather(For::Report(0), BTreeMap::new(), false, only);
                        }
                    }
                    continue;
                }
                () = tokio::time::sleep(wake) => batch.push(AgentEvent::Tick),
            }
            while batch.len() < BATCH_MAX {
                if let Ok(event) = self.events.try_recv() {
                    batch.push(event);
                } else if let Ok(news) = self.news.try_recv() {
                    self.hear(news, &mut batch);
                } else {
                    break;
                }
            }
            // A word about the session is no fact: it has no sync that acknowledgements could share.
            if batch.iter().any(|event| !matches!(event, AgentEvent::Link(_) | AgentEvent::Tick)) {
                self.step_with_acknowledged(batch)?;
            } else {
                self.step(batch)?;
            }
        }
    }

    /// Whether the coordinator has been told something and has not answered yet.
    fn awaits_acknowledgement(&self) -> bool {
        let told = self.driver.outstanding().unwrap_or_default();
        let open = |key: &AgentKey| match key {
            AgentKey::Tell(_, command, step, _) => {
                !self.acknowledged.iter().any(|(known, of)| known == command && of == step)
            }
            _ => false,
        };
        self.session.is_some() && told.keys().any(open)
    }

    /// Acknowledgements wait for something that needs a sync anyway, or for the next look at the clock. Nothing comes
    /// of them but that the ledger may forget, and for one that is lost with the host the outcome is told again.
    fn step_with_acknowledged(&mut self, mut events: Vec<AgentEvent>) -> Result<(), AgentError> {
        if !self.acknowledged.is_empty() {
            events.push(AgentEvent::Acknowledged(std::mem::take(&mut self.acknowledged)));
        }
        self.step(events)
    }

    fn step(&mut self, events: Vec<AgentEvent>) -> Result<(), AgentError> {
        if events.is_empty() {
            return Ok(());
        }
        for event in &events {
            if let AgentEvent::Slot(slot, event) = event
                && let crate::worker::Event::Acted { key, .. } = &**event
            {
                self.acting.remove(&AgentKey::Slot(slot.clone(), key.clone()));
            }
        }
        let driver = &mut self.driver;
        let batch = driver.step(events, || AgentEvent::Tick)?;
        for record in batch.notes.iter().chain(batch.facts.iter().map(|entry| &entry.record)) {
            match record {
                AgentRecord::Link { entry: AgentEndRecord::Refused { refusal } } => {
                    tracing::error!(%refusal, "refused the coordinator");
                }
                AgentRecord::Link { entry: AgentEndRecord::Up { .. } } => {
                    tracing::info!(coordinator = %self.config.coordinator, "session is up");
                }
                AgentRecord::Link { entry: AgentEndRecord::Down { why } } => {
                    tracing::warn!(%why, "no session");
                    self.session = None;
                    if let Some(dial) = self.dial.take() {
                        dial.abort();
                    }
                }
                AgentRecord::Slot { slot, entry } => self.note(slot, entry),
                _ => {}
            }
        }
        for (key, effect) in batch.changed {
            self.carry_out(key, effect);
        }
        Ok(())
    }

    /// Logs what an operator of this host wants to find, and marks what a report has to be about.
    fn note(&mut self, slot: &SlotName, record: &crate::worker::Record) {
        use crate::worker::Record;
        match record {
            Record::Accepted { command } => {
                let verbs: Vec<_> = command.steps.iter().map(|step| step.act.verb()).collect();
                tracing::info!(%slot, command = %command.id, steps = verbs.join(", "), "accepted");
            }
            Record::Ended { step, result, .. } => {
                self.changed.insert(slot.clone());
                tracing::info!(%slot, %step, ?result, "ended");
            }
            Record::Exited { instance, status, .. } => {
                self.changed.insert(slot.clone());
                tracing::info!(%instance, %status, "main process ended");
            }
            Record::AdmissionSet { .. } | Record::HeldDrained { .. } | Record::TableSet { .. } => {
                self.changed.insert(slot.clone());
            }
            _ => {}
        }
    }

    fn hear(&mut self, news: News, batch: &mut Vec<AgentEvent>) {
        match news {
            News::Connected(number, sender) => {
                if self.node().link().dial() == Some(number) {
                    self.session = Some((number, sender));
                    batch.push(AgentEvent::Link(AgentEndEvent::Connected));
                    self.gather(For::Hello(number), BTreeMap::new(), false, None);
                }
            }
            News::Ended(number, why) => {
                let live = self.session.as_ref().is_some_and(|(session, _)| *session == number);
                if live || self.node().link().dial() == Some(number) {
                    self.session = None;
                    batch.push(AgentEvent::Link(AgentEndEvent::Disconnected { why }));
                }
            }
            News::Word(number, word) => {
                if self.session.as_ref().is_some_and(|(session, _)| *session == number) {
                    batch.push(AgentEvent::Link(AgentEndEvent::Heard));
                    self.word(*word, batch);
                }
            }
        }
    }

    fn word(&mut self, word: ToAgent, batch: &mut Vec<AgentEvent>) {
        match word {
            ToAgent::Hello(reply) => batch.push(AgentNode::greeted(reply)),
            ToAgent::Refused(refusal) => {
                tracing::error!(%refusal, "the coordinator refused this agent");
                batch.push(AgentEvent::Link(AgentEndEvent::Disconnected { why: refusal.to_string() }));
            }
            // It is sent again to whoever comes next.
            ToAgent::Command { .. } if self.leaves_at.is_some() => {}
            ToAgent::Command { command, definitions } => {
                // Judged is what would be made here, where that is known; what is not known here cannot be made.
                let here = |definition: &Definition| {
                    let local = project::local(definition.clone(), &self.config.id, &self.hands.specs);
                    local.unwrap_or_else(|_| definition.clone())
                };
                let judged = definitions.iter().map(|(digest, entry)| (digest.clone(), here(entry))).collect();
                let admitted = self.config.policy.admit(&command, &judged).and_then(|()| {
                    let keep = |(digest, definition)| self.hands.specs.keep(digest, definition);
                    definitions.iter().try_for_each(keep).map_err(|error| crate::cause::chain(&error))
                });
                match admitted {
                    Ok(()) => batch.push(AgentEvent::Command(Box::new(command))),
                    Err(why) => {
                        tracing::warn!(command = %command.id, %why, "refused a command");
                        batch.push(AgentEvent::Forbidden { command: command.id, why });
                    }
                }
            }
            ToAgent::Recall { command, term } => batch.push(AgentEvent::Recall { command, term }),
            ToAgent::Acknowledge(outcomes) => self.acknowledged.extend(outcomes),
            ToAgent::Forget(rolls) => batch.push(AgentEvent::Forget(rolls)),
            ToAgent::Report { number, resolve, pull } => self.gather(For::Report(number), resolve, pull, None),
            ToAgent::Logs { number, slot, lines } => self.read_logs(number, slot, lines),
            ToAgent::Heartbeat => {}
        }
    }

    fn send(&mut self, word: ToCoordinator) {
        if let Some((_, sender)) = &self.session
            && sender.try_send(word).is_err()
        {
            // Too slow or gone: the session ends, and what must arrive is sent again in the next one.
            self.session = None;
            if let Some(dial) = self.dial.take() {
                dial.abort();
            }
            let event = AgentEvent::Link(AgentEndEvent::Disconnected {
                why: "the coordinator does not take what is sent".to_owned(),
            });
            let events = self.hands.events.clone();
            tokio::spawn(async move { events.send(event).await });
        }
    }

    fn carry_out(&mut self, key: AgentKey, effect: Option<AgentEffect>) {
        match (key, effect) {
            (AgentKey::Dial(number), Some(AgentEffect::Dial)) => {
                let (address, security) = (self.config.coordinator.clone(), self.config.security.clone());
                let fleet = self.config.fleet.clone();
                let task = session::attach(number, address, security, fleet, Some(self.news_out.clone()));
                self.dial = Some(tokio::spawn(task).abort_handle());
            }
            (AgentKey::Heartbeat(_), Some(AgentEffect::Heartbeat)) => self.send(ToCoordinator::Heartbeat),
            (AgentKey::Tell(..), Some(AgentEffect::Tell(outcome))) => self.send(ToCoordinator::Outcome(*outcome)),
            (AgentKey::Report(..), Some(AgentEffect::Report(progress))) => {
                self.send(ToCoordinator::Progress(*progress));
            }
            (AgentKey::Refuse(..), Some(AgentEffect::Refuse { command, why })) => {
                self.send(ToCoordinator::CommandRefused { command, why });
            }
            (AgentKey::Slot(slot, key), effect) => self.act(slot, key, effect),
            _ => {}
        }
    }

    fn act(&mut self, slot: SlotName, key: EffectKey, effect: Option<AgentEffect>) {
        let name = AgentKey::Slot(slot.clone(), key.clone());
        let watching = matches!(
            key,
            EffectKey::Probe(_)
                | EffectKey::WatchInflight(_)
                | EffectKey::WatchExit(_)
                | EffectKey::Act(_, _, ActKind::Switch)
        );
        if watching && let Some(watch) = self.watches.remove(&name) {
            watch.abort();
        }
        let Some(AgentEffect::Slot(effect)) = effect else { return };
        if !watching && matches!(key, EffectKey::Act(..)) && !self.acting.insert(name.clone()) {
            return; // It is being carried out; once is enough.
        }
        let task = tokio::spawn(self.hands.clone().carry_out(slot, key, *effect));
        if watching {
            self.watches.insert(name, task.abort_handle());
        }
    }

    fn read_logs(&mut self, number: u64, slot: SlotName, lines: u32) {
        let runtime = self.hands.runtime.clone();
        let Some((_, sender)) = self.session.clone() else { return };
        tokio::spawn(async move {
            let newest = runtime.inspect(&slot).await.map(|instances| instances.into_iter().next_back());
            let answer = match newest {
                Ok(Some(instance)) => runtime.logs(&instance.id, lines).await,
                Ok(None) => Ok(vec![]),
                Err(error) => Err(error),
            };
            let word = match answer {
                Ok(lines) => ToCoordinator::Logs { number, lines, problem: None },
                Err(error) => ToCoordinator::Logs { number, lines: vec![], problem: Some(error.message) },
            };
            let _ = sender.send(word).await;
        });
    }

    /// Looks at every slot or at `only` these (and resolves), in a task of its own; the answer is merged with what the
    /// workers know.
    fn gather(
        &self,
        purpose: For,
        resolve: BTreeMap<ComponentName, Definition>,
        pull: bool,
        only: Option<BTreeSet<SlotName>>,
    ) {
        let (runtime, policy, out) =
            (self.hands.runtime.clone(), self.config.policy.clone(), self.gathered_out.clone());
        let mut reader = Reader {
            me: self.config.id.clone(),
            project: self.config.project.clone(),
            policy: policy.clone(),
            specs: self.hands.specs.clone(),
            runtime: runtime.clone(),
            pull,
            look: None,
        };
        let known: BTreeSet<SlotName> = self.node().workers().keys().cloned().collect();
        tokio::spawn(async move {
            // Resolving comes first: it may find out which containers of this host are the fleet's.
            let (of_hosts, rest): (Vec<_>, Vec<_>) = resolve.into_iter().partition(|(_, one)| one.is_of_hosts());
            let resolve = async |(component, definition): (ComponentName, Definition)| {
                let resolution = match policy.admit_definition(&definition) {
                    Ok(()) => runtime.resolve(&definition, pull).await,
                    Err(why) => Resolution { problem: Some(why), ..Resolution::default() },
                };
                (component, resolution)
            };
            let resolved = futures_util::stream::iter(rest).map(resolve).buffer_unordered(LOOKS_MAX);
            let mut resolutions = resolved.collect::<BTreeMap<_, _>>().await;
            for (component, definition) in of_hosts {
                // What another host calls an image says nothing about this one: the reader judges what it is here.
                let resolution = match policy.admit_definition(&Definition { image: None, ..definition.clone() }) {
                    Ok(()) => reader.resolve(&definition).await,
                    Err(why) => Resolution { problem: Some(why), ..Resolution::default() },
                };
                resolutions.insert(component, resolution);
            }
            let begun = Instant::now();
            let names = match &only {
                Some(only) => only.clone(),
                None => known.into_iter().chain(runtime.slots().await.unwrap_or_default()).collect(),
            };
            let look = async |slot: SlotName| {
                let instances = runtime.inspect(&slot).await.ok()?;
                Some((slot, instances))
            };
            // A slot that cannot be looked at is not told as empty: what the worker knows of it stays.
            let looks = futures_util::stream::iter(names).map(look).buffer_unordered(LOOKS_MAX);
            let slots = looks.filter_map(std::future::ready).collect::<BTreeMap<_, _>>().await;
            let took = begun.elapsed();
            let _ = out.send(Gathered { purpose, took, only, slots, resolutions }).await;
        });
    }

    async fn gathered(&mut self, gathered: Gathered) {
        self.report_pause = gathered.took * REPORT_SHARE;
        match gathered.only {
            Some(only) => self.seen.retain(|slot, _| !only.contains(slot)),
            None => {
                self.seen.clear();
                self.all_took = gathered.took;
            }
        }
        self.seen.extend(gathered.slots);
        let node = self.node();
        let slots = node.inventory(&self.seen);
        let inventory = Inventory {
            agent: self.config.id.clone(),
            boot_id: self.boot_id.clone(),
            runtimes: self.hands.runtime.kinds(),
            address: self.config.address.clone().unwrap_or_else(|| "127.0.0.1".to_owned()),
            // Once a person has handed this agent over, what the coordinator before was at is no sign of anything.
            term: node.link().hello_obeys().map_or(Term(0), |claim| claim.term),
            nonce: node.link().hello_obeys().map_or_else(String::new, |claim| claim.nonce.clone()),
            rolls: node.rolls().into_iter().collect(),
            slots,
            resolutions: gathered.resolutions,
        };
        let obeys = node.link().hello_obeys().cloned();
        match gathered.purpose {
            For::Hello(number) => {
                if self.session.as_ref().is_some_and(|(session, _)| *session == number) {
                    self.send(ToCoordinator::Hello(Box::new(AgentHello {
                        protocol: PROTOCOL_VERSION,
                        fleet: self.config.fleet.clone(),
                        agent: self.config.id.clone(),
                        obeys,
                        inventory,
                    })));
                }
            }
            For::Report(number) => self.send(ToCoordinator::Report { number, inventory: Box::new(inventory) }),
        }
    }
}
