//! One listener: the table in use, the one asked for, and who waits for either.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::control::TableState;
use super::limits::PROBE_EVERY;
use super::pool;
use super::store::SavedTable;
use super::target::{Permit, Target};
use crate::model::Admission;

/// The table in use: what a request sees.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) targets: Vec<Arc<Target>>,
    /// How long a request may wait from its arrival while no target admits.
    pub(super) hold_max: Duration,
    /// Where the next choice begins, so that equal targets take turns.
    next: AtomicUsize,
}

impl Table {
    fn new(targets: Vec<Arc<Target>>, hold_max: Duration) -> Arc<Self> {
        Arc::new(Self { targets, hold_max, next: AtomicUsize::new(0) })
    }

    /// A place on the admitting target that has the least in flight, of those that answer.
    pub(super) fn admit(&self) -> Option<Permit> {
        loop {
            let count = self.targets.len();
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            let best = (0..count)
                .map(|step| &self.targets[first.wrapping_add(step) % count])
                .filter(|target| target.admits() && target.is_up())
                .min_by_key(|target| target.in_flight())?;
            if let Some(permit) = best.admit() {
                return Some(permit);
            }
            // It began to drain between the look and the claim: the next look leaves it out.
        }
    }
}

/// What only control touches.
#[derive(Debug, Default)]
struct Desk {
    /// The table in use, as it was asked for.
    in_use: SavedTable,
    /// The one that takes its place when its new targets have answered.
    asked: Option<SavedTable>,
    /// Upgraded connections are to be closed once the asked one is in use.
    asked_close: bool,
    /// Why `asked` is not in use yet.
    waiting: String,
    /// No longer in the table; kept until nothing is in flight on them.
    gone: Vec<Arc<Target>>,
    /// Brings `asked` into use.
    prober: Option<AbortHandle>,
}

/// One listener of the gateway.
#[derive(Debug)]
pub(super) struct Listener {
    name: String,
    table: watch::Sender<Arc<Table>>,
    desk: Mutex<Desk>,
    held: AtomicU64,
    /// Upgraded connections that were closed properly since the table in use came in.
    closed_upgraded: AtomicU64,
}

impl Listener {
    /// A listener with the table it had before, in use from now on.
    pub(super) fn new(name: String, saved: SavedTable) -> Arc<Self> {
        let listener = Self {
            name,
            table: watch::Sender::new(Table::new(Vec::new(), Duration::ZERO)),
            desk: Mutex::default(),
            held: AtomicU64::new(0),
            closed_upgraded: AtomicU64::new(0),
        };
        listener.swap(saved);
        Arc::new(listener)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The table in use.
    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// Reports every change of the table, and of who answers.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something new for whoever waits: a target answers again.
    fn wake(&self) {
        self.table.send_modify(|_| {});
    }

    /// The table in use and the one asked for, as they were asked for.
    pub(super) fn saved(&self) -> (SavedTable, Option<SavedTable>) {
        let desk = self.desk();
        (desk.in_use.clone(), desk.asked.clone())
    }

    /// The targets of `table` that must answer before it can be used.
    pub(super) fn unproven(&self, table: &SavedTable) -> Vec<Arc<Target>> {
        let desk = self.desk();
        let known = self.known(&desk);
        table
            .targets
            .iter()
            .filter(|asked| asked.admission == Admission::Admitting && !known.iter().any(|target| target.is(asked)))
            .map(Target::new)
            .collect()
    }

    fn known(&self, desk: &Desk) -> Vec<Arc<Target>> {
        let gone = desk.gone.iter().filter(|target| target.in_flight() > 0);
        self.table.borrow().targets.iter().chain(gone).cloned().collect()
    }

    /// Notes the table that waits for its targets; `prober` brings it into use. The one before it is given up.
    pub(super) fn ask(&self, table: SavedTable, close: bool, waiting: String, prober: AbortHandle) {
        let mut desk = self.desk();
        if let Some(before) = desk.prober.replace(prober) {
            before.abort();
        }
        desk.asked = Some(table);
        desk.asked_close = close;
        desk.waiting = waiting;
    }

    /// Is exactly this table being waited for? Then only the wish to close is taken over.
    pub(super) fn is_asked(&self, table: &SavedTable, close: bool) -> bool {
        let mut desk = self.desk();
        let same = desk.asked.as_ref() == Some(table);
        if same {
            desk.asked_close |= close;
        }
        same
    }

    /// Why the table asked for is not in use yet.
    pub(super) fn set_waiting(&self, text: String) {
        self.desk().waiting = text;
    }

    /// Takes `table` into use, in one step for every request, and gives up what was asked for before.
    pub(super) fn swap(&self, table: SavedTable) {
        let mut desk = self.desk();
        let known = self.known(&desk);
        let targets: Vec<Arc<Target>> = table
            .targets
            .iter()
            .map(|asked| known.iter().find(|target| target.is(asked)).map_or_else(|| Target::new(asked), Arc::clone))
            .collect();
        let admitting = |target: &Arc<Target>| {
            table.targets.iter().any(|asked| asked.admission == Admission::Admitting && target.is(asked))
        };
        // New ones admit before anybody can see them, old ones stop when nobody can find them any more: at no instant
        // is
        // there a request that finds neither.
        targets.iter().filter(|target| admitting(target)).for_each(|target| target.open());
        if desk.in_use != table {
            self.closed_upgraded.store(0, Ordering::Relaxed);
        }
        self.table.send_replace(Table::new(targets.clone(), table.hold_max));
        known.iter().chain(&targets).filter(|target| !admitting(target)).for_each(|target| target.drain());
        desk.gone = known
            .into_iter()
            .filter(|target| target.in_flight() > 0 && !targets.iter().any(|kept| Arc::ptr_eq(kept, target)))
            .collect();
        desk.in_use = table;
        desk.asked = None;
        desk.waiting.clear();
        if std::mem::take(&mut desk.asked_close) {
            self.close(&desk);
        }
        // Last, for the prober may be the caller: it has nothing left to wait for, so this does not stop it half way.
        if let Some(prober) = desk.prober.take() {
            prober.abort();
        }
    }

    /// Stops waiting for the table asked for.
    pub(super) fn give_up(&self) {
        if let Some(prober) = self.desk().prober.take() {
            prober.abort();
        }
    }

    /// Closes the upgraded connections on every target that does not admit.
    pub(super) fn close_upgraded(&self) {
        self.close(&self.desk());
    }

    fn close(&self, desk: &Desk) {
        self.known(desk).iter().filter(|target| !target.admits()).for_each(|target| target.close_upgraded());
    }

    /// One more upgraded connection was closed properly.
    pub(super) fn count_closed(&self) {
        self.closed_upgraded.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request as held while the answer lives.
    pub(super) fn hold(&self) -> impl Drop + '_ {
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// How things are.
    pub(super) fn state(&self) -> TableState {
        let mut desk = self.desk();
        desk.gone.retain(|target| target.in_flight() > 0);
        let known = self.known(&desk);
        TableState {
            in_use: desk.asked.is_none(),
            targets: self.table.borrow().targets.iter().map(|target| target.describe()).collect(),
            draining_inflight: known.iter().filter(|target| !target.admits()).map(|target| target.in_flight()).sum(),
            held: self.held.load(Ordering::Relaxed),
            closed_upgraded: self.closed_upgraded.load(Ordering::Relaxed),
            text: if desk.asked.is_some() { desk.waiting.clone() } else { "in use".to_owned() },
        }
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self, age_max: Duration) {
        self.table.borrow().targets.iter().for_each(|target| target.pool().sweep(age_max));
    }

    /// A connect to `target` failed with `reason`: leaves it out of the choice until it answers. One task a target
    /// looks
    /// after that, so that a full hold does not storm a target that is just coming up.
    pub(super) fn leave_out(self: &Arc<Self>, target: &Arc<Target>, reason: &str) {
        if !target.mark_down() {
            return;
        }
        tracing::warn!(listener = %self.name, instance = %target.instance(), reason, "target does not answer");
        let (listener, target) = (Arc::downgrade(self), Arc::clone(target));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROBE_EVERY).await;
                let Some(listener) = listener.upgrade() else { return };
                let kept = target.admits() && listener.table().targets.iter().any(|kept| Arc::ptr_eq(kept, &target));
                if !kept || pool::probe(&target).await.is_ok() {
                    target.mark_up();
                    listener.wake();
                    tracing::info!(listener = %listener.name, instance = %target.instance(), kept, "tried again");
                    return;
                }
            }
        });
    }
}

struct Held<'a>(&'a Listener);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}
