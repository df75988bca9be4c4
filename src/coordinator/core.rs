//! The one loop that owns engine and journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub(super) use super::message::{Message, NewsItem, Snapshot, Turned, Watching};
use super::planning;
use super::turned_away::TurnedAway;
use super::{CoordinatorConfig, CoordinatorError};
use crate::driver::{Driver, Tag};
use crate::engine::{self, FleetView, RollSummary};
use crate::journal::{InPlace, JournalKind, SpecStore, SqliteJournal};
use crate::model::{
    AgentId, Claim, CommandId, CoordinatorId, Definition, Digest, FleetName, HelloReply, Inventory, PROTOCOL_VERSION,
    PlanKind, RollId, RollNumber, SlotName, StepId, Term, ToAgent, ToCoordinator,
};
use crate::node::{CoordinatorEffect, CoordinatorEvent, CoordinatorKey, CoordinatorNode, CoordinatorRecord};
use crate::sys;

/// Messages that may wait. Senders wait beyond it, which is how a flood is slowed down.
const QUEUE: usize = 4_096;

/// Messages taken into one batch, and so into one sync.
const BATCH_MAX: usize = 1_024;

/// News kept for whoever begins to watch a roll that has begun.
const BACKLOG_MAX: usize = 20_000;

/// Views go out at most so often: people cannot read faster.
const VIEW_EVERY: Duration = Duration::from_millis(100);

/// A cheap way to talk to the loop.
#[derive(Clone)]
pub struct CoreHandle {
    id: CoordinatorId,
    fleet: FleetName,
    specs: Arc<SpecStore>,
    sender: mpsc::Sender<Message>,
}

impl CoreHandle {
    /// Who the coordinator is.
    pub fn id(&self) -> &CoordinatorId {
        &self.id
    }

    /// Its fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    pub(super) fn specs(&self) -> &Arc<SpecStore> {
        &self.specs
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), Turned> {
        self.sender.send(message).await.map_err(|_| Turned::Stopping)
    }

    pub(super) async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Turned> {
        let (answer, answered) = oneshot::channel();
        self.send(message(answer)).await?;
        answered.await.map_err(|_| Turned::Stopping)
    }
}

/// What a journal record's head says.
fn tag(node: &CoordinatorNode, record: &CoordinatorRecord) -> Tag {
    let term = node.engine().claim().map_or(0, |claim| claim.term.0);
    let roll = node.engine().current().map(|current| current.roll.to_string()).unwrap_or_default();
    let actor = match record {
        CoordinatorRecord::Engine {
            entry: engine::Record::RollBegan { actor, .. } | engine::Record::Asked { actor, .. },
        } => actor.clone(),
        _ => "baton".to_owned(),
    };
    Tag { roll, term, actor }
}

/// To whom log lines go, or why there are none.
type LogAnswer = oneshot::Sender<Result<Vec<String>, String>>;

pub(super) struct Core {
    claim: Claim,
    handle: CoreHandle,
    driver: Driver<CoordinatorNode>,
    queue: mpsc::Receiver<Message>,
    sessions: BTreeMap<AgentId, (u64, mpsc::Sender<ToAgent>)>,
    turned_away: TurnedAway,
    next_session: u64,
    reports: BTreeMap<u64, (AgentId, oneshot::Sender<Inventory>)>,
    logs: BTreeMap<u64, (AgentId, LogAnswer)>,
    next_number: u64,
    backlog: VecDeque<Arc<NewsItem>>,
    news: broadcast::Sender<Arc<NewsItem>>,
    views: watch::Sender<Arc<FleetView>>,
    view_stale: bool,
    heartbeat: Duration,
    sequence: u64,
    _lock: sys::lock::FileLock,
}

impl Core {
    pub(super) fn open(config: &CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let folder = &config.folder;
        let wrong = |error: Box<dyn std::error::Error + Send + Sync>| CoordinatorError::Folder {
            path: folder.clone(),
            source: error,
        };
        sys::state_dir::create(folder).map_err(|error| wrong(Box::new(error)))?;
        let lock = sys::lock::FileLock::take(&folder.join("lock"), &format!("coordinator of fleet {}", config.fleet))
            .map_err(|error| match error {
            sys::lock::LockError::Held { holder, .. } => CoordinatorError::Held { fleet: config.fleet.clone(), holder },
            other => wrong(Box::new(other)),
        })?;
        let journal = SqliteJournal::<CoordinatorRecord>::open(
            &folder.join("journal.db"),
            &config.fleet,
            JournalKind::Coordinator,
        )?;
        let specs = Arc::new(SpecStore::open(&folder.join("specs")).map_err(|error| wrong(Box::new(error)))?);
        let clock = sys::clock::SystemClock::new().map_err(|error| wrong(Box::new(error)))?;
        let node = CoordinatorNode::new(config.fleet.clone(), config.heartbeat);
        let mut driver = Driver::recover(node, Box::new(InPlace(journal)), Box::new(clock), Box::new(tag))?;
        let before = driver.machine()?.engine().claim().cloned();
        let random = || sys::random::id().map_err(|error| wrong(Box::new(error)));
        let id = match &before {
            Some(claim) if !config.new_id => claim.coordinator.clone(),
            _ => CoordinatorId::new(random()?).map_err(|error| wrong(Box::new(error)))?,
        };
        let term = Term(before.map_or(0, |claim| claim.term.0) + 1);
        let claim = Claim { coordinator: id.clone(), term, nonce: random()? };
        let asleep = config.asleep.then_some(engine::Event::FellAsleep);
        let first = asleep.into_iter().chain([engine::Event::Started(claim.clone())]);
        driver
            .step(first.map(|event| CoordinatorEvent::Engine(Box::new(event))).collect(), || CoordinatorEvent::Tick)?;
        tracing::info!(coordinator = %id, %term, "started");
        let (sender, queue) = mpsc::channel(QUEUE);
        let (news, _) = broadcast::channel(4_096);
        let view = Arc::new(driver.machine()?.engine().view(driver.now()));
        Ok(Self {
            claim,
            handle: CoreHandle { id, fleet: config.fleet.clone(), specs, sender },
            sequence: driver.position(),
            driver,
            queue,
            sessions: BTreeMap::new(),
            turned_away: TurnedAway::default(),
            next_session: 1,
            reports: BTreeMap::new(),
            logs: BTreeMap::new(),
            next_number: 1,
            backlog: VecDeque::new(),
            news,
            views: watch::channel(view).0,
            view_stale: false,
            heartbeat: config.heartbeat,
            _lock: lock,
        })
    }

    /// The machines, to read.
    fn node(&self) -> &CoordinatorNode {
        self.driver.machine().expect("a failed append ends the loop before anybody looks again")
    }

    pub(super) fn handle(&self) -> CoreHandle {
        self.handle.clone()
    }

    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), CoordinatorError> {
        for (key, effect) in self.driver.outstanding()? {
            self.carry_out(key, effect, &mut Sending::default());
        }
        let mut views = tokio::time::interval(VIEW_EVERY);
        views.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut quiet = 0u32;
        loop {
            let wake = self.driver.next_deadline()?.unwrap_or(Duration::from_secs(3_600));
            let mut messages = vec![];
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                message = self.queue.recv() => match message {
                    Some(message) => messages.push(message),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(wake) => {}
                _ = views.tick() => {
                    // Elapsed times grow though nothing happens: a live view is refreshed now and then all the same.
                    quiet += 1;
                    if self.views.receiver_count() > 0 && (self.view_stale || quiet >= 5) {
                        quiet = 0;
                        self.show();
                    }
                    continue;
                }
            }
            while messages.len() < BATCH_MAX
                && let Ok(message) = self.queue.try_recv()
            {
                messages.push(message);
            }
            self.turn(messages)?;
        }
    }

    fn show(&mut self) {
        self.view_stale = false;
        let view = Arc::new(self.node().engine().view(self.driver.now()));
        self.views.send_replace(view);
    }

    /// One turn: events of all messages, one append and sync, then effects, then answers.
    fn turn(&mut self, messages: Vec<Message>) -> Result<(), CoordinatorError> {
        let mut events = vec![];
        let mut answers: Vec<Answer> = vec![];
        for message in messages {
            self.take(message, &mut events, &mut answers)?;
        }
        events.push(CoordinatorEvent::Tick);
        let driver = &mut self.driver;
        let batch = driver.step(events, || CoordinatorEvent::Tick)?;
        for entry in &batch.facts {
            self.sequence = entry.head.sequence;
            self.tell(&entry.record, entry.head.wall_ms);
        }
        let wall_ms = sys::clock::wall_ms();
        for record in &batch.notes {
            self.tell(record, wall_ms);
        }
        self.view_stale |= !batch.facts.is_empty() || !batch.notes.is_empty();
        let mut sending = Sending::default();
        for (key, effect) in batch.changed {
            if let Some(effect) = effect {
                self.carry_out(key, effect, &mut sending);
            }
        }
        for (agent, outcomes) in sending.acknowledgements {
            self.word(&agent, ToAgent::Acknowledge(outcomes));
        }
        if answers.iter().any(Answer::changes_what_is_shown) {
            // Whoever asked may look at once and must see what came of it.
            self.show();
        }
        for answer in answers {
            self.answer(answer);
        }
        Ok(())
    }

    fn tell(&mut self, record: &CoordinatorRecord, wall_ms: u64) {
        match record {
            CoordinatorRecord::Engine { entry } => {
                if let Some(news) = engine::news(entry, self.node().engine()) {
                    let item = Arc::new(NewsItem { sequence: self.sequence, wall_ms, news });
                    if entry_is_fact(entry) {
                        self.backlog.push_back(item.clone());
                        if self.backlog.len() > BACKLOG_MAX {
                            self.backlog.pop_front();
                        }
                    }
                    let _ = self.news.send(item);
                }
            }
            CoordinatorRecord::Link { agent, entry } => match entry {
                crate::link::CoordinatorEndRecord::Up { .. } => tracing::info!(%agent, "session is up"),
                crate::link::CoordinatorEndRecord::Down { why } => {
                    tracing::warn!(%agent, %why, "session is lost");
                    // It may have dialled anew in the same moment.
                    let live = self.node().link(agent).and_then(|link| link.session());
                    if self.sessions.get(agent).is_some_and(|(session, _)| Some(*session) != live) {
                        self.sessions.remove(agent);
                        self.answers_nothing_more(agent);
                    }
                }
                _ => {}
            },
        }
    }

    /// Whoever asked this agent in a session that is over gets no answer, and may ask again.
    fn answers_nothing_more(&mut self, agent: &AgentId) {
        self.reports.retain(|_, (asked, _)| asked != agent);
        let asked = std::mem::take(&mut self.logs).into_iter();
        let (lost, kept): (BTreeMap<_, _>, _) = asked.partition(|(_, (asked, _))| asked == agent);
        self.logs = kept;
        for (_, answer) in lost.into_values() {
            let _ = answer.send(Err(format!("agent {agent} was lost before it answered; ask again")));
        }
    }

    fn take(
        &mut self,
        message: Message,
        events: &mut Vec<CoordinatorEvent>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CoordinatorError> {
        match message {
            Message::Attach { hello, words, answer } => {
                let judged = self.node().judge(&self.handle.fleet, &hello);
                match judged {
                    Ok(protocol) => {
                        let session = self.next_session;
                        self.next_session += 1;
                        let reply = HelloReply {
                            protocol: protocol.min(PROTOCOL_VERSION),
                            claim: self.claim.clone(),
                            heartbeat: self.heartbeat,
                        };
                        // The reply goes first; what is outstanding follows from the event.
                        let _ = words.try_send(ToAgent::Hello(reply));
                        self.turned_away.forget(&hello.agent);
                        self.answers_nothing_more(&hello.agent);
                        self.sessions.insert(hello.agent.clone(), (session, words));
                        events.push(CoordinatorEvent::Attached {
                            agent: hello.agent,
                            session,
                            inventory: Box::new(hello.inventory),
                        });
                        let _ = answer.send(Ok(session));
                    }
                    Err(refusal) => {
                        self.turned_away.add(hello.agent, refusal.clone());
                        let _ = answer.send(Err(refusal));
                    }
                }
            }
            Message::Word { agent, session, word } => {
                if self.sessions.get(&agent).is_some_and(|(live, _)| *live == session) {
                    events.push(CoordinatorEvent::Heard(agent.clone()));
                    self.hear(agent, word, events);
                }
            }
            Message::Detach { agent, session } => {
                events.push(CoordinatorEvent::Detached { agent, session });
            }
            Message::Report { agent, resolve, pull, answer } => {
                let number = self.next_number;
                self.next_number += 1;
                if self.sessions.contains_key(&agent) {
                    self.reports.insert(number, (agent.clone(), answer));
                    self.word(&agent, ToAgent::Report { number, resolve, pull });
                }
            }
            Message::Logs { slot, lines, answer } => self.ask_logs(slot, lines, answer),
            Message::Snapshot { answer } => {
                let node = self.node();
                let engine = node.engine();
                let unfinished = engine
                    .current()
                    .map(|current| (current.roll.clone(), current.number, Box::new(current.plan.clone())));
                let last = engine.rolls().rev().find_map(|(summary, plan)| {
                    let changes = matches!(plan.kind, PlanKind::Up | PlanKind::Restart | PlanKind::Rollback { .. });
                    (changes && summary.result.is_some())
                        .then(|| (summary.roll.clone(), summary.number, Box::new(plan.clone())))
                });
                let _ = answer.send(Snapshot {
                    last,
                    older: engine.older().map(str::to_owned),
                    history: crate::node::Knowledge::of(engine),
                    attached: node.attached().cloned().collect(),
                    turned_away: self.turned_away.notices(),
                    unfinished,
                    counts_on: engine.counts_on(),
                });
            }
            Message::Begin { plan, definitions, actor, reason, answer } => {
                if let Err(error) = self.node().engine().may_begin(&plan) {
                    let _ = answer.send(Err(Turned::Refused(error.to_string())));
                    return Ok(());
                }
                if let Err(turned) = self.keep(&definitions) {
                    let _ = answer.send(Err(turned));
                    return Ok(());
                }
                let roll = self.random_roll()?;
                events.push(CoordinatorEvent::Engine(Box::new(engine::Event::RollRequested {
                    roll: roll.clone(),
                    plan,
                    actor,
                    reason,
                })));
                answers.push(Answer::Begun(roll, answer));
            }
            Message::Operate { request, actor, reason, answer } => {
                if let Err(error) = self.node().engine().may(&request) {
                    let _ = answer.send(Err(Turned::Refused(error.to_string())));
                    return Ok(());
                }
                events.push(CoordinatorEvent::Engine(Box::new(engine::Event::Operator { request, actor, reason })));
                answers.push(Answer::Operated(answer));
            }
            Message::Rollback { parent, planned } => {
                let event = match planned {
                    Ok(planned) => match self.keep(&planned.definitions) {
                        Ok(()) => engine::Event::RollbackPlanned {
                            parent,
                            roll: self.random_roll()?,
                            plan: Box::new(planned.plan),
                        },
                        Err(turned) => engine::Event::RollbackImpossible { parent, why: turned.to_string() },
                    },
                    Err(why) => engine::Event::RollbackImpossible { parent, why },
                };
                events.push(CoordinatorEvent::Engine(Box::new(event)));
            }
            Message::View { answer } => answers.push(Answer::View(answer)),
            Message::Watch { roll, answer } => answers.push(Answer::Watch(roll, answer)),
            Message::Summaries { limit, answer } => answers.push(Answer::Summaries(limit, answer)),
        }
        Ok(())
    }

    /// Keeps definitions before a record names them.
    fn keep(&self, definitions: &BTreeMap<Digest, Definition>) -> Result<(), Turned> {
        definitions
            .iter()
            .try_for_each(|(digest, definition)| self.handle.specs.put(digest, definition))
            .map_err(|error| Turned::Refused(crate::cause::chain(&error)))
    }

    fn random_roll(&self) -> Result<RollId, CoordinatorError> {
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| CoordinatorError::Folder {
            path: "/dev/urandom".into(),
            source,
        };
        let text = sys::random::id().map_err(|error| wrong(Box::new(error)))?;
        RollId::new(text).map_err(|error| wrong(Box::new(error)))
    }

    fn hear(&mut self, agent: AgentId, word: ToCoordinator, events: &mut Vec<CoordinatorEvent>) {
        match word {
            ToCoordinator::Outcome(outcome) => events.push(CoordinatorEvent::Outcome { agent, outcome }),
            ToCoordinator::Progress(progress) => events.push(CoordinatorEvent::Progress { agent, progress }),
            ToCoordinator::Report { number, inventory } => {
                if inventory.agent != agent {
                    tracing::warn!(%agent, named = %inventory.agent, "an agent may report only itself");
                    return;
                }
                if let Some((_, answer)) = self.reports.remove(&number) {
                    let _ = answer.send((*inventory).clone());
                }
                events.push(CoordinatorEvent::Reported(inventory));
            }
            ToCoordinator::Logs { number, lines, problem } => {
                if let Some((_, answer)) = self.logs.remove(&number) {
                    let _ = answer.send(problem.map_or(Ok(lines), Err));
                }
            }
            ToCoordinator::CommandRefused { command, why } => {
                events.push(CoordinatorEvent::Engine(Box::new(engine::Event::CommandRefused { agent, command, why })));
            }
            ToCoordinator::Refused(refusal) => {
                tracing::warn!(%agent, %refusal, "the agent refused this coordinator");
                self.turned_away.add(agent, refusal);
            }
            ToCoordinator::Hello(_) | ToCoordinator::Heartbeat => {}
        }
    }

    fn ask_logs(&mut self, slot: SlotName, lines: u32, answer: LogAnswer) {
        let inventories = self.node().engine().inventories();
        let agent = inventories.iter().find(|(_, inventory)| inventory.slots.contains_key(&slot));
        let Some((agent, _)) = agent else {
            let _ = answer.send(Err(format!("no agent has reported a slot {slot}")));
            return;
        };
        let agent = agent.clone();
        if !self.sessions.contains_key(&agent) {
            let _ = answer.send(Err(format!("agent {agent}, which has {slot}, is not connected")));
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.logs.insert(number, (agent.clone(), answer));
        self.word(&agent, ToAgent::Logs { number, slot, lines });
    }

    fn word(&mut self, agent: &AgentId, word: ToAgent) {
        if let Some((session, words)) = self.sessions.get(agent)
            && words.try_send(word).is_err()
        {
            // Too slow: let go of the stream; the link notices, and what is outstanding is sent in the next session.
            tracing::warn!(%agent, "does not take what is sent; its session ends");
            let (agent, session) = (agent.clone(), *session);
            self.sessions.remove(&agent);
            let handle = self.handle.clone();
            tokio::spawn(async move { handle.send(Message::Detach { agent, session }).await });
        }
    }

    fn carry_out(&mut self, key: CoordinatorKey, effect: CoordinatorEffect, sending: &mut Sending) {
        match effect {
            CoordinatorEffect::Command { agent, mut command } => {
                command.term = self.claim.term;
                let mut definitions = BTreeMap::new();
                for digest in command.steps.iter().filter_map(|step| step.act.definition()) {
                    if let Some(definition) = sending.definition(&self.handle.specs, digest) {
                        definitions.insert(digest.clone(), definition);
                    }
                }
                self.word(&agent, ToAgent::Command { command: *command, definitions });
            }
            CoordinatorEffect::Recall { agent, command } => {
                let term = self.claim.term;
                self.word(&agent, ToAgent::Recall { command, term });
            }
            CoordinatorEffect::Refresh { agent } => {
                let word = ToAgent::Report { number: 0, resolve: BTreeMap::new(), pull: false };
                self.word(&agent, word);
            }
            CoordinatorEffect::Forget { agent, rolls } => self.word(&agent, ToAgent::Forget(rolls)),
            CoordinatorEffect::Heartbeat { agent } => self.word(&agent, ToAgent::Heartbeat),
            CoordinatorEffect::Acknowledge { agent, command, step } => {
                sending.acknowledgements.entry(agent).or_default().push((command, step));
            }
            CoordinatorEffect::PlanRollback { roll } => {
                let CoordinatorKey::Engine(_) = key else { return };
                tokio::spawn(planning::roll_back(self.handle.clone(), roll));
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        let engine = self.node().engine();
        match answer {
            Answer::Begun(roll, answer) => {
                let begun = engine.summary_of(&roll).map(|summary| summary.number);
                let _ = answer.send(match begun {
                    Some(number) => Ok((roll, number)),
                    None => Err(Turned::Refused("another roll has begun in the same moment".to_owned())),
                });
            }
            Answer::Operated(answer) => {
                let _ = answer.send(Ok(engine.current().map(|current| current.roll.clone())));
            }
            Answer::View(answer) => {
                let _ = answer.send((engine.view(self.driver.now()), self.turned_away.notices()));
            }
            Answer::Watch(roll, answer) => {
                let backlog = if roll.is_some() { self.backlog.iter().cloned().collect() } else { vec![] };
                let number = roll.as_ref().and_then(|roll| engine.summary_of(roll)).map(|summary| summary.number);
                let _ = answer.send(Watching {
                    number,
                    backlog,
                    news: self.news.subscribe(),
                    views: self.views.subscribe(),
                });
            }
            Answer::Summaries(limit, answer) => {
                let _ = answer.send(engine.newest_summaries(limit));
            }
        }
    }
}

/// What one turn sends, put together.
#[derive(Default)]
struct Sending {
    acknowledgements: BTreeMap<AgentId, Vec<(CommandId, StepId)>>,
    /// Read once a turn: a stage of a thousand slots names few definitions. Not kept longer, so that what was put right
    /// on disk is seen, and values do not lie in memory for no reason.
    definitions: BTreeMap<Digest, Option<Definition>>,
}

impl Sending {
    fn definition(&mut self, specs: &SpecStore, digest: &Digest) -> Option<Definition> {
        let read = || match specs.get(digest) {
            Ok(Some(definition)) => Some(definition),
            Ok(None) => {
                tracing::error!(%digest, "a definition is not in the spec store");
                None
            }
            Err(error) => {
                tracing::error!(why = crate::cause::chain(&error), "cannot read a definition");
                None
            }
        };
        self.definitions.entry(digest.clone()).or_insert_with(read).clone()
    }
}

fn entry_is_fact(entry: &engine::Record) -> bool {
    use crate::model::Recordable;
    entry.is_fact()
}

/// Answers that wait for the sync of what they tell.
enum Answer {
    Begun(RollId, oneshot::Sender<Result<(RollId, RollNumber), Turned>>),
    Operated(oneshot::Sender<Result<Option<RollId>, Turned>>),
    View(oneshot::Sender<(FleetView, Vec<String>)>),
    Watch(Option<RollId>, oneshot::Sender<Watching>),
    Summaries(usize, oneshot::Sender<Vec<RollSummary>>),
}

impl Answer {
    /// Whether the view that watchers have must be brought up to date before it goes out. A status has a view of its
    /// own, and history has none: either would cost the loop a second one.
    fn changes_what_is_shown(&self) -> bool {
        matches!(self, Answer::Begun(..) | Answer::Operated(..) | Answer::Watch(..))
    }
}
