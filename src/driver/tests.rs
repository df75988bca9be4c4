//! A toy machine, driven: nothing leaves before the sync, and a replay gives what was live.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::*;
use crate::journal::{AppendFault, ManualClock, MemoryJournal};
use crate::model::IllegalTransition;

/// Orders that are cooked and served: each begins, is tasted any number of times (notes), and is done at its deadline.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kitchen {
    cooking: BTreeMap<String, Timestamp>,
    tasted: BTreeMap<String, u64>,
    done: Vec<String>,
    outstanding: BTreeMap<String, Task>,
    restless: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Task {
    Cook { tasted: u64 },
    Serve,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
enum Line {
    Began { order: String, until: Timestamp },
    Tasted { order: String },
    Done { order: String },
    Served { order: String },
}

enum Event {
    Order(String, Duration),
    Taste(String),
    Serve(String),
    /// Makes a record that is not allowed.
    Wrong,
    Tick,
}

impl Recordable for Line {
    fn kind(&self) -> &'static str {
        match self {
            Line::Began { .. } => "began",
            Line::Tasted { .. } => "tasted",
            Line::Done { .. } => "done",
            Line::Served { .. } => "served",
        }
    }

    fn is_fact(&self) -> bool {
        !matches!(self, Line::Tasted { .. })
    }
}

impl Machine for Kitchen {
    type Event = Event;
    type Record = Line;
    type Key = String;
    type Effect = Task;

    fn decide(&self, now: Timestamp, event: &Event) -> Vec<Line> {
        match event {
            Event::Order(order, span) => vec![Line::Began { order: order.clone(), until: now + *span }],
            Event::Taste(order) if self.cooking.contains_key(order) => vec![Line::Tasted { order: order.clone() }],
            Event::Serve(order) if self.done.contains(order) => vec![Line::Served { order: order.clone() }],
            Event::Wrong => vec![Line::Served { order: "nobody's".to_owned() }],
            // One at a time: the driver has to ask again.
            Event::Tick if self.restless => vec![Line::Tasted { order: "soup".to_owned() }],
            Event::Tick => {
                let due = self.cooking.iter().find(|(_, until)| **until <= now);
                due.map(|(order, _)| Line::Done { order: order.clone() }).into_iter().collect()
            }
            Event::Taste(_) | Event::Serve(_) => Vec::new(),
        }
    }

    fn apply(&mut self, _at: Timestamp, record: &Line) -> Result<Vec<String>, IllegalTransition> {
        let illegal = |why: &str| Err(IllegalTransition { record: record.kind().to_owned(), why: why.to_owned() });
        match record {
            Line::Began { order, until } => {
                self.cooking.insert(order.clone(), *until);
                self.outstanding.insert(order.clone(), Task::Cook { tasted: 0 });
                Ok(vec![order.clone()])
            }
            Line::Tasted { order } => {
                let tasted = self.tasted.entry(order.clone()).or_default();
                *tasted += 1;
                self.outstanding.insert(order.clone(), Task::Cook { tasted: *tasted });
                Ok(vec![order.clone()])
            }
            Line::Done { order } => {
                if self.cooking.remove(order).is_none() {
                    return illegal("it was not cooking");
                }
                self.tasted.remove(order);
                self.done.push(order.clone());
                self.outstanding.insert(order.clone(), Task::Serve);
                Ok(vec![order.clone()])
            }
            Line::Served { order } => {
                if !self.done.contains(order) {
                    return illegal("it was not done");
                }
                self.done.retain(|done| done != order);
                self.outstanding.remove(order);
                Ok(vec![order.clone()])
            }
        }
    }

    fn effect(&self, key: &String) -> Option<Task> {
        self.outstanding.get(key).cloned()
    }

    fn outstanding(&self) -> BTreeMap<String, Task> {
        self.outstanding.clone()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.cooking.values().min().copied()
    }

    fn forget_notes(&mut self) {
        self.tasted.clear();
        for task in self.outstanding.values_mut() {
            if let Task::Cook { tasted } = task {
                *tasted = 0;
            }
        }
    }
}

fn tag(_: &Kitchen, record: &Line) -> Tag {
    Tag { roll: record.kind().to_owned(), term: 7, actor: "cook".to_owned() }
}

fn recover(journal: &MemoryJournal<Line>, clock: &ManualClock) -> Result<Driver<Kitchen>, JournalError> {
    Driver::recover(Kitchen::default(), Box::new(journal.reopen()), Box::new(clock.clone()), Box::new(tag))
}

fn order(name: &str, seconds: u64) -> Event {
    Event::Order(name.to_owned(), Duration::from_secs(seconds))
}

fn taste(name: &str) -> Event {
    Event::Taste(name.to_owned())
}

fn serve(name: &str) -> Event {
    Event::Serve(name.to_owned())
}

fn step(driver: &mut Driver<Kitchen>, events: Vec<Event>) -> Result<Batch<Kitchen>, DriverError> {
    driver.step(events, || Event::Tick)
}

fn kinds(batch: &Batch<Kitchen>) -> Vec<&'static str> {
    batch.facts.iter().map(|entry| entry.record.kind()).collect()
}

fn clock() -> ManualClock {
    ManualClock::new(50_000, 1_700_000_000_000)
}

#[test]
fn many_events_in_one_step_are_one_sync_and_none_without_a_fact() {
    let (journal, clock) = (MemoryJournal::new().checking_codec(), clock());
    let mut driver = recover(&journal, &clock).unwrap();
    let batch = step(&mut driver, (0..500).map(|number| order(&format!("order-{number}"), 0)).collect()).unwrap();
    assert_eq!(batch.facts.len(), 1000, "each order begins and is done at once");
    assert_eq!(journal.syncs(), 1);
    assert_eq!(driver.syncs(), 1);
    step(&mut driver, vec![order("soup", 60)]).unwrap();
    assert_eq!(journal.syncs(), 2);
    let batch = step(&mut driver, vec![taste("soup"), taste("soup"), serve("soup")]).unwrap();
    assert_eq!((batch.facts.len(), batch.notes.len()), (0, 2));
    assert!(step(&mut driver, vec![]).unwrap().is_empty());
    assert_eq!(journal.syncs(), 2, "a step without a fact was synced");
    assert_eq!(driver.position(), 1001);
}

#[test]
fn heads_carry_place_time_and_tag() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    let mut driver = recover(&journal, &clock).unwrap();
    clock.advance(Duration::from_secs(3));
    step(&mut driver, vec![order("soup", 0)]).unwrap();
    let entries = journal.read(0).unwrap();
    let head = |sequence, roll: &str| Head {
        sequence,
        at: Timestamp(3000),
        wall_ms: 1_700_000_003_000,
        boot_id: "boot-1".to_owned(),
        boottime_ms: 53_000,
        roll: roll.to_owned(),
        term: 7,
        actor: "cook".to_owned(),
    };
    let heads: Vec<Head> = entries.into_iter().map(|entry| entry.head).collect();
    assert_eq!(heads, [head(1, "began"), head(2, "done")]);
}

/// A journal that notes down when it was written to.
struct Watched {
    journal: MemoryJournal<Line>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Journal<Line> for Watched {
    fn append(&mut self, expected: u64, entries: &[Entry<Line>]) -> Result<(), JournalError> {
        self.journal.append(expected, entries)?;
        self.log.lock().unwrap().push(format!("synced {}", entries.len()));
        Ok(())
    }

    fn replay(
        &self,
        after: u64,
        each: &mut dyn FnMut(Entry<Line>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        self.journal.replay(after, each)
    }

    fn name(&self) -> String {
        self.journal.name()
    }

    fn syncs(&self) -> u64 {
        self.journal.syncs()
    }
}

#[test]
fn facts_are_synced_before_anything_is_returned_and_notes_never_are() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let watched = Watched { journal: MemoryJournal::new(), log: Arc::clone(&log) };
    let journal = watched.journal.clone();
    let mut driver = Driver::recover(Kitchen::default(), Box::new(watched), Box::new(clock()), Box::new(tag)).unwrap();
    let events = vec![order("soup", 60), taste("soup"), order("fish", 0), taste("soup"), serve("fish")];
    let batch = step(&mut driver, events).unwrap();
    log.lock().unwrap().push("returned".to_owned());
    assert_eq!(*log.lock().unwrap(), ["synced 4", "returned"]);
    assert_eq!(kinds(&batch), ["began", "began", "done", "served"]);
    assert_eq!(batch.notes, [Line::Tasted { order: "soup".into() }, Line::Tasted { order: "soup".into() }]);
    let changed = [("soup".to_owned(), Some(Task::Cook { tasted: 2 })), ("fish".to_owned(), None)];
    assert_eq!(batch.changed, changed, "each key once, in order, as it is now");
    assert_eq!(journal.read(0).unwrap(), batch.facts);
    assert!(journal.read(0).unwrap().iter().all(|entry| entry.record.is_fact()));
}

#[test]
fn a_replay_gives_the_live_state_with_its_notes_forgotten() {
    let (journal, clock) = (MemoryJournal::new().checking_codec(), clock());
    let mut driver = recover(&journal, &clock).unwrap();
    step(&mut driver, vec![order("soup", 60), taste("soup"), order("fish", 1), order("rice", 2)]).unwrap();
    clock.advance(Duration::from_secs(1));
    step(&mut driver, vec![taste("rice"), serve("fish"), taste("soup")]).unwrap();
    clock.advance(Duration::from_secs(30));
    let replayed = recover(&journal, &clock).unwrap();
    let mut live = driver.machine().unwrap().clone();
    assert_ne!(&live, replayed.machine().unwrap(), "the notes left no trace in the live machine");
    live.forget_notes();
    assert_eq!(&live, replayed.machine().unwrap());
    assert_eq!(live.outstanding(), replayed.outstanding().unwrap());
    assert_eq!(replayed.now(), driver.now());
    assert_eq!(replayed.position(), driver.position());
}

#[test]
fn deadlines_are_told_as_time_from_now_and_met_by_a_step_without_events() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    let mut driver = recover(&journal, &clock).unwrap();
    assert_eq!(driver.next_deadline().unwrap(), None);
    step(&mut driver, vec![order("soup", 60)]).unwrap();
    clock.advance(Duration::from_secs(20));
    assert_eq!(driver.next_deadline().unwrap(), Some(Duration::from_secs(40)));
    assert!(step(&mut driver, vec![]).unwrap().is_empty());
    clock.advance(Duration::from_secs(50));
    assert_eq!(driver.next_deadline().unwrap(), Some(Duration::ZERO));
    assert_eq!(kinds(&step(&mut driver, vec![]).unwrap()), ["done"]);
    assert_eq!(driver.next_deadline().unwrap(), None);
}

#[test]
fn a_deadline_goes_on_over_restarts_and_reboots() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    step(&mut recover(&journal, &clock).unwrap(), vec![order("soup", 7200)]).unwrap();
    clock.advance(Duration::from_secs(3600));
    let restarted = recover(&journal, &clock).unwrap();
    assert_eq!(restarted.next_deadline().unwrap(), Some(Duration::from_secs(3600)));
    assert!(!restarted.rebooted());
    clock.reboot(Duration::from_secs(600));
    let rebooted = recover(&journal, &clock).unwrap();
    assert_eq!(rebooted.next_deadline().unwrap(), Some(Duration::from_secs(3000)));
    assert!(rebooted.rebooted());
    clock.set_wall_ms(clock.wall_ms() + 365 * 24 * 3_600_000);
    let jumped = recover(&journal, &clock).unwrap();
    assert_eq!(jumped.now(), Timestamp(24 * 3_600_000), "a reboot took more than a day");
}

#[test]
fn after_a_failed_append_nothing_is_answered_and_nothing_of_it_was_returned() {
    for fault in [AppendFault::Before, AppendFault::After, AppendFault::Unsynced] {
        let (journal, clock) = (MemoryJournal::new(), clock());
        let mut driver = recover(&journal, &clock).unwrap();
        step(&mut driver, vec![order("soup", 60)]).unwrap();
        journal.fail_append(2, fault);
        let error = step(&mut driver, vec![order("fish", 60)]).unwrap_err();
        assert!(matches!(error, DriverError::Journal(JournalError::Append { .. })), "{fault:?}: {error}");
        // Also a step that would need no append.
        for events in [vec![order("rice", 60)], vec![taste("soup")], vec![]] {
            assert!(matches!(step(&mut driver, events), Err(DriverError::Poisoned { .. })), "{fault:?}");
        }
        assert!(matches!(driver.machine(), Err(DriverError::Poisoned { .. })), "{fault:?}");
        assert!(matches!(driver.outstanding(), Err(DriverError::Poisoned { .. })), "{fault:?}");
        assert!(matches!(driver.next_deadline(), Err(DriverError::Poisoned { .. })), "{fault:?}");
        // The next process goes on with what is there, whichever that is.
        journal.lose_unsynced();
        let mut next = recover(&journal, &clock).unwrap();
        let there = if fault == AppendFault::After { 2 } else { 1 };
        assert_eq!(next.machine().unwrap().cooking.len(), there, "{fault:?}");
        step(&mut next, vec![order("rice", 60)]).unwrap();
    }
}

#[test]
fn a_second_writer_poisons_the_first() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    let mut first = recover(&journal, &clock).unwrap();
    let mut second = recover(&journal, &clock).unwrap();
    step(&mut second, vec![order("soup", 60)]).unwrap();
    let error = step(&mut first, vec![order("fish", 60)]).unwrap_err();
    assert!(matches!(error, DriverError::Journal(JournalError::Moved { expected: 0, found: 1, .. })), "{error}");
    assert!(first.machine().is_err());
}

#[test]
fn a_record_that_the_machine_does_not_allow_is_never_appended_and_refused_in_replay() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    let mut driver = recover(&journal, &clock).unwrap();
    let error = step(&mut driver, vec![order("soup", 60), Event::Wrong]).unwrap_err();
    assert!(matches!(error, DriverError::Illegal(_)), "{error}");
    assert!(journal.is_empty(), "half a batch was appended");
    assert!(matches!(driver.machine(), Err(DriverError::Poisoned { .. })));

    step(&mut recover(&journal, &clock).unwrap(), vec![order("soup", 60)]).unwrap();
    let mut wrong = journal.read(0).unwrap().remove(0);
    wrong.head.sequence = 2;
    wrong.record = Line::Served { order: "soup".to_owned() };
    journal.reopen().append(1, &[wrong]).unwrap();
    let Err(error) = recover(&journal, &clock) else { panic!("it was replayed") };
    assert!(matches!(&error, JournalError::Damaged { sequence: 2, why, .. } if why.contains("not done")), "{error}");
}

#[test]
fn a_machine_that_never_rests_is_stopped() {
    let (journal, clock) = (MemoryJournal::new(), clock());
    let machine = Kitchen { restless: true, ..Kitchen::default() };
    let mut driver = Driver::recover(machine, Box::new(journal), Box::new(clock), Box::new(tag)).unwrap();
    let error = step(&mut driver, vec![]).unwrap_err();
    assert!(matches!(error, DriverError::Restless { ticks: TICKS_MAX, kind: "tasted" }), "{error}");

    // As many as are allowed are no fault.
    let left = Cell::new(TICKS_MAX);
    let clock = ManualClock::new(0, 0);
    let mut driver = recover(&MemoryJournal::new(), &clock).unwrap();
    let tick = || match left.get() {
        0 => Event::Tick,
        more => {
            left.set(more - 1);
            order("again", 3600)
        }
    };
    assert_eq!(driver.step(vec![], tick).unwrap().facts.len(), TICKS_MAX);
}

#[test]
fn the_context_sees_the_machine_as_it_was_before_the_record() {
    let seen = Arc::new(AtomicUsize::new(usize::MAX));
    let told = Arc::clone(&seen);
    let context = move |machine: &Kitchen, _: &Line| {
        told.store(machine.cooking.len(), Ordering::SeqCst);
        Tag::default()
    };
    let journal = Box::new(MemoryJournal::new());
    let mut driver = Driver::recover(Kitchen::default(), journal, Box::new(clock()), Box::new(context)).unwrap();
    step(&mut driver, vec![order("soup", 60)]).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}
