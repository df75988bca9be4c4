//! One instance's life under its keeper: prepared, ended, started again, killed, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::files::{self, Durability};
use super::keeper::{Keeper, say};
use super::members::{self, Family};
use super::placeholders;
use super::ports;
use super::protocol::{Answer, Prepare, refused, retryable, unknown};
use super::record::{PassedPort, Place, Private, Run, State};
use super::release::words;
use crate::model::{ExitStatus, FailureKind, InstanceState, Port, Probe};
use crate::runtime::RuntimeError;
use crate::sys::process::{Identity, PidFd};

/// How long everything of an instance may take to be gone after SIGKILL. A process in an uninterruptible call of the
/// kernel (a dead network file system) takes longer, and then nobody can say.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what is left.
const KILL_LOOK: Duration = Duration::from_millis(10);

/// One instance.
pub(super) struct Instance {
    pub(super) state: State,
    /// A handle on its main process while it runs.
    pub(super) main: Option<PidFd>,
    /// Processes that were known to be its own before another instance began beside it.
    pub(super) known: Vec<Identity>,
    /// The main process is this keeper's child: its exit code will be known.
    pub(super) child: bool,
    pub(super) started: Option<Instant>,
    pub(super) back_off: Option<Duration>,
    pub(super) restart_at: Option<Instant>,
    pub(super) killing: Option<Killing>,
    /// Who waits for its end.
    pub(super) waiters: Vec<u64>,
    /// Keep its chosen ports free while it does not run.
    pub(super) reserved: Vec<OwnedFd>,
    /// Its state has yet to be written.
    pub(super) unsaved: bool,
    pub(super) log_size: u64,
}

/// A kill under way.
pub(super) struct Killing {
    since: Instant,
    next: Instant,
    clients: Vec<u64>,
    /// Remove it once everything is gone.
    then_remove: bool,
}

impl Instance {
    pub(super) fn new(state: State) -> Instance {
        Instance {
            state,
            main: None,
            known: Vec::new(),
            child: false,
            started: None,
            back_off: None,
            restart_at: None,
            killing: None,
            waiters: Vec::new(),
            reserved: Vec::new(),
            unsaved: false,
            log_size: 0,
        }
    }

    /// Its main process runs and is not this keeper's child.
    pub(super) fn adopted(&mut self, pidfd: PidFd, now: Instant) {
        self.main = Some(pidfd);
        self.child = false;
        self.started = Some(now);
    }

    /// What to poll for the end of a main process that is not a child; a child's end comes with its code by SIGCHLD.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        if self.child { None } else { self.main.as_ref().map(|pidfd| pidfd.fd().as_fd()) }
    }

    /// It was started again after a crash, and not long enough ago to say that it stays.
    fn runs_after_a_crash(&self, now: Instant, steady: Duration) -> bool {
        self.back_off.is_some() && self.started.is_none_or(|started| now.duration_since(started) < steady)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let kill = self.killing.as_ref().map(|killing| killing.next);
        [self.restart_at, kill].into_iter().flatten().min()
    }
}

impl Keeper {
    /// Whose processes an instance's are.
    pub(super) fn with_family<T>(&self, number: u64, ask: impl FnOnce(&Family<'_>) -> T) -> T {
        let instance = self.instances.get(&number);
        let name = instance.map(|instance| instance.state.instance.to_string()).unwrap_or_default();
        ask(&Family {
            instance: &name,
            slot_folder: &self.folder_text,
            main: instance.and_then(|instance| instance.state.last_main.as_ref()),
            known: instance.map(|instance| instance.known.as_slice()).unwrap_or_default(),
            keeper: self.pid,
            alone: self.instances.iter().all(|(&other, instance)| other == number || instance.main.is_none()),
        })
    }

    /// Remembers whose processes are whose while one instance still has the slot for itself.
    pub(super) fn remember_families(&mut self, newcomer: u64) {
        let numbers: Vec<u64> = self.instances.keys().copied().filter(|&number| number != newcomer).collect();
        for number in numbers {
            if self.instances[&number].main.is_none() {
                continue;
            }
            if let Ok(living) = self.with_family(number, |family| family.living())
                && let Some(instance) = self.instances.get_mut(&number)
            {
                instance.known = living;
            }
        }
    }

    /// All processes of all instances.
    pub(super) fn everybody(&self) -> io::Result<Vec<Identity>> {
        let mut all = Vec::new();
        for (&number, instance) in &self.instances {
            if instance.main.is_some() {
                all.extend(self.with_family(number, |family| family.living())?);
            }
        }
        Ok(all)
    }

    // === prepare ===

    /// Writes the instance down and binds what it needs. The state file comes last: with it, the instance exists.
    pub(super) fn prepare(&mut self, request: Prepare) -> Result<(), RuntimeError> {
        let number = request.instance.number;
        if let Some(existing) = self.instances.get(&number) {
            if existing.state.spec == request.spec {
                return Ok(());
            }
            let text = format!("instance {} exists with another spec; numbers are never used again", request.instance);
            return Err(refused(FailureKind::Refused, text));
        }
        let mut ports_by_name = BTreeMap::new();
        let (mut passed, mut chosen, mut reserved) = (Vec::new(), Vec::new(), Vec::new());
        let mut taken: BTreeSet<u16> =
            self.instances.values().flat_map(|instance| instance.state.chosen.iter().copied()).collect();
        for named in &request.definition.ports {
            let port = match named.port {
                Port::Auto => {
                    let seed = ports::seed_of(&format!("{}/{}", self.folder_text, request.instance));
                    let (port, socket) = ports::reserve_any(seed, &taken).map_err(|error| {
                        refused(FailureKind::Refused, format!("no port for {}: {}", named.name, words(&error)))
                    })?;
                    taken.insert(port);
                    chosen.push(port);
                    reserved.push(socket);
                    port
                }
                Port::Number(port) if named.passed => {
                    let host = named.host.clone().unwrap_or_else(|| ports::ANY_HOST.to_owned());
                    passed.push(PassedPort { name: named.name.clone(), at: Place { host, port } });
                    port
                }
                Port::Number(port) => {
                    self.refuse_if_taken_by_others(port)?;
                    port
                }
            };
            ports_by_name.insert(named.name.clone(), port);
        }
        let private = self.fill_in(&request, &ports_by_name)?;
        let result = self.bind_all(&passed).and_then(|()| {
            let state = State {
                instance: request.instance.clone(),
                definition: request.definition_digest,
                spec: request.spec,
                version: request.version,
                job: request.definition.is_job(),
                ready_by_notify: request.definition.ready.probe == Some(Probe::Notify),
                address: request.address,
                held: false,
                run: Run::Created,
                last_main: None,
                restarts: 0,
                exit: None,
                ports: ports_by_name,
                passed,
                chosen,
                notified: false,
                signals: BTreeSet::new(),
            };
            self.write_new(number, &state, &private).map_err(|error| cannot_write(&state, &error))?;
            Ok(state)
        });
        match result {
            Ok(state) => {
                let instance = Instance { reserved, ..Instance::new(state) };
                self.instances.insert(number, instance);
                self.save_sockets();
                self.changed(number);
                Ok(())
            }
            Err(error) => {
                self.drop_unused_sockets();
                Err(error)
            }
        }
    }

    fn write_new(&self, number: u64, state: &State, private: &Private) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.folder.instance(number))?;
        files::write_json(&self.folder.definition(number), private, Durability::Synced)?;
        files::write_json(&self.folder.state(number), state, Durability::Synced)
    }

    fn fill_in(&self, request: &Prepare, ports: &BTreeMap<String, u16>) -> Result<Private, RuntimeError> {
        let definition = &request.definition;
        let values = placeholders::values(definition, &request.instance, &request.address, ports);
        let fill = |what: &str, text: &str| {
            placeholders::fill(text, &values)
                .map_err(|error| refused(FailureKind::Refused, format!("{what} of {}: {error}", request.instance)))
        };
        let argv = definition.command.iter().map(|part| fill("command", part.expose())).collect::<Result<_, _>>()?;
        let mut env = request.env_file.clone();
        for (name, value) in &definition.env {
            env.insert(name.clone(), fill(&format!("env {name}"), value.expose())?);
        }
        let cwd = match (&definition.cwd, &definition.release) {
            (Some(cwd), _) => fill("cwd", cwd)?,
            (None, Some(release)) => release.path.clone(),
            (None, None) => "/".to_owned(),
        };
        Ok(Private { definition: definition.clone(), argv, env, cwd })
    }

    /// A number that the program binds itself must be free, or be held by an instance that this one replaces.
    fn refuse_if_taken_by_others(&self, port: u16) -> Result<(), RuntimeError> {
        let listeners = ports::listeners(port);
        if !listeners.any {
            return Ok(());
        }
        let ours = self.everybody().unwrap_or_default();
        let stranger = listeners.pids.iter().any(|pid| !ours.iter().any(|identity| identity.pid == *pid));
        let declared = self
            .instances
            .values()
            .any(|instance| instance.main.is_some() && instance.state.ports.values().any(|&number| number == port));
        if stranger || !declared {
            return Err(retryable(FailureKind::Refused, ports::end_it(port, &listeners)));
        }
        Ok(())
    }

    fn bind_all(&mut self, passed: &[PassedPort]) -> Result<(), RuntimeError> {
        passed.iter().try_for_each(|passed| self.sockets.bind(&passed.at))
    }

    /// After a keeper's end: what could not be taken back is bound again, where nobody holds it any more.
    pub(super) fn bind_again(&mut self) {
        let instances = self.instances.values().filter(|instance| instance.state.run != Run::Exited);
        let wanted: Vec<_> = instances.flat_map(|instance| instance.state.passed.clone()).collect();
        for passed in wanted {
            // What a process holds that the kernel did not let us at stays with it; the observation says so.
            let _ = self.sockets.bind(&passed.at);
        }
    }

    /// Keeps the chosen ports of an instance that does not run from being taken by others.
    pub(super) fn reserve_chosen(&mut self, number: u64) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        if matches!(instance.state.run, Run::Created | Run::Restarting) && instance.reserved.is_empty() {
            let kept = instance.state.chosen.iter().filter_map(|&port| ports::reserve(port).ok());
            instance.reserved = kept.collect();
        }
    }

    // === its end ===

    /// Reaps every child that has ended: main processes, exec'd commands, and orphans that came here.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
            let pid = pid.as_raw_pid();
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, Some(signal)) => ExitStatus::Signal(signal),
                (None, None) => ExitStatus::Unknown,
            };
            let main =
                |instance: &Instance| instance.child && instance.state.main().is_some_and(|main| main.pid == pid);
            if let Some(number) = self.instances.iter().find(|(_, instance)| main(instance)).map(|(&number, _)| number)
            {
                self.ended(number, status);
            } else {
                self.exec_ended(pid, status);
            }
        }
    }

    /// The main process of an adopted instance has ended; its code went to whoever was its parent.
    pub(super) fn main_ended_unseen(&mut self, number: u64) {
        if self.instances.get(&number).is_some_and(|instance| !instance.child && instance.main.is_some()) {
            self.ended(number, ExitStatus::Unknown);
        }
    }

    /// Writes down that and how a main process ended, and decides whether it is started again.
    pub(super) fn ended(&mut self, number: u64, status: ExitStatus) {
        let now = Instant::now();
        let options = self.options.clone();
        let Some(instance) = self.instances.get_mut(&number) else { return };
        instance.main = None;
        instance.child = false;
        instance.state.exit = Some(status);
        instance.state.notified = false;
        let name = instance.state.instance.clone();
        if instance.state.restarts_by_itself() && instance.killing.is_none() {
            if instance.started.is_some_and(|started| now.duration_since(started) >= options.steady) {
                instance.back_off = None;
            }
            let wait = instance.back_off.unwrap_or(options.back_off);
            instance.back_off = Some((wait * 2).min(options.back_off_max));
            instance.restart_at = Some(now + wait);
            instance.state.run = Run::Restarting;
            say(&format!("{name} ended with {status}; starts again in {} ms", wait.as_millis()));
        } else {
            instance.state.run = Run::Exited;
            instance.restart_at = None;
            say(&format!("{name} ended with {status}"));
        }
        instance.unsaved = true;
        self.reserve_chosen(number);
        self.save_unsaved();
        self.drop_unused_sockets();
    }

    /// Writes what has yet to be written, and only then tells.
    pub(super) fn save_unsaved(&mut self) {
        let numbers: Vec<u64> = self.instances.iter().filter(|(_, i)| i.unsaved).map(|(&number, _)| number).collect();
        for number in numbers {
            let Some(instance) = self.instances.get_mut(&number) else { continue };
            if let Err(error) = files::write_json(&self.folder.state(number), &instance.state, Durability::Synced) {
                say(&format!("cannot record the state of {}: {error}; will try again", instance.state.instance));
                self.try_saving_again();
                continue;
            }
            instance.unsaved = false;
            let status = instance.state.exit.unwrap_or(ExitStatus::Unknown);
            let waiters = if instance.main.is_none() { std::mem::take(&mut instance.waiters) } else { Vec::new() };
            for client in waiters {
                self.answer(client, &Answer::Exit(status));
            }
            self.changed(number);
        }
    }

    /// After a reboot, or where the keeper ended during a back-off: nothing speaks for waiting.
    pub(super) fn start_at_once(&mut self, number: u64) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        if instance.state.run == Run::Restarting {
            instance.restart_at = Some(Instant::now());
        }
    }

    // === the restart policy ===

    /// From here on its end is its end.
    pub(super) fn hold(&mut self, number: u64) -> Result<(), RuntimeError> {
        self.set_held(number, true)
    }

    /// Its restart policy is back. One that has ended meanwhile stays ended: starting is another request.
    pub(super) fn allow(&mut self, number: u64) -> Result<(), RuntimeError> {
        self.set_held(number, false)
    }

    fn set_held(&mut self, number: u64, held: bool) -> Result<(), RuntimeError> {
        let instance = self.instances.get(&number).ok_or_else(|| no_such(number))?;
        let mut state = instance.state.clone();
        state.held = held;
        if held && state.run == Run::Restarting {
            state.run = Run::Exited;
        }
        if state == instance.state {
            return Ok(());
        }
        self.replace_state(number, state, Durability::Synced)?;
        if let Some(instance) = self.instances.get_mut(&number)
            && instance.state.run == Run::Exited
        {
            instance.restart_at = None;
        }
        self.drop_unused_sockets();
        self.changed(number);
        Ok(())
    }

    /// Writes a state and takes it for the true one only then.
    pub(super) fn replace_state(
        &mut self,
        number: u64,
        state: State,
        durability: Durability,
    ) -> Result<(), RuntimeError> {
        files::write_json(&self.folder.state(number), &state, durability)
            .map_err(|error| cannot_write(&state, &error))?;
        if let Some(instance) = self.instances.get_mut(&number) {
            instance.state = state;
            // One that still had to be synced still has to be.
            instance.unsaved &= durability != Durability::Synced;
        }
        Ok(())
    }

    // === signals and kill ===

    /// A signal to the main process. One that has gone, or has had it: success.
    pub(super) fn signal(&mut self, number: u64, name: &str) -> Result<(), RuntimeError> {
        let instance = self.instances.get(&number).ok_or_else(|| no_such(number))?;
        let signal = crate::sys::signals::number(name)
            .ok_or_else(|| refused(FailureKind::Refused, format!("{name} is not a signal; use a name like SIGTERM")))?;
        if instance.main.is_none() || instance.state.signals.contains(name) {
            return Ok(());
        }
        let mut state = instance.state.clone();
        state.signals.insert(name.to_owned());
        // For the next keeper of this very process: with the host the process goes, and with it what it was sent.
        self.replace_state(number, state, Durability::Whole)?;
        let instance = self.instances.get(&number).ok_or_else(|| no_such(number))?;
        let Some(main) = &instance.main else { return Ok(()) };
        main.signal(signal).map_err(|error| {
            let text = format!("cannot send {name} to {}: {}", instance.state.instance, words(&error));
            refused(FailureKind::Refused, text)
        })
    }

    /// Begins to kill everything of it; the client is answered when all is gone.
    pub(super) fn kill(&mut self, number: u64, client: u64, then_remove: bool) -> Result<(), RuntimeError> {
        let now = Instant::now();
        self.hold(number)?;
        let instance = self.instances.get_mut(&number).ok_or_else(|| no_such(number))?;
        if then_remove && instance.main.is_some() && instance.killing.is_none() {
            let text = format!("instance {} still runs; stop it first", instance.state.instance);
            return Err(refused(FailureKind::Refused, text));
        }
        let killing =
            instance.killing.get_or_insert(Killing { since: now, next: now, clients: Vec::new(), then_remove });
        killing.then_remove |= then_remove;
        killing.clients.push(client);
        self.go_on_killing(number, now);
        Ok(())
    }

    /// Kills what is left, or says that nothing is.
    fn go_on_killing(&mut self, number: u64, now: Instant) {
        let living = self.with_family(number, |family| family.living());
        let Some(instance) = self.instances.get_mut(&number) else { return };
        let Some(killing) = &mut instance.killing else { return };
        let name = instance.state.instance.to_string();
        let left = match living {
            Ok(living) if living.is_empty() && instance.main.is_none() && !instance.unsaved => {
                return self.killed(number);
            }
            Ok(living) => {
                for (pid, error) in members::kill_all(&living) {
                    say(&format!("cannot kill process {pid} of {name}: {error}"));
                }
                living.iter().map(|identity| identity.pid.to_string()).collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("unknown ({})", words(&error)),
        };
        killing.next = now + KILL_LOOK;
        if now.duration_since(killing.since) >= KILL_PATIENCE {
            let patience = KILL_PATIENCE.as_secs();
            let error = unknown(format!("{name} is not gone {patience} s after SIGKILL; processes left: {left}"));
            let clients = std::mem::take(&mut killing.clients);
            instance.killing = None;
            say(&error.message);
            for client in clients {
                self.answer(client, &Answer::from(error.clone()));
            }
        }
    }

    fn killed(&mut self, number: u64) {
        let Some(instance) = self.instances.get_mut(&number) else { return };
        let Some(killing) = instance.killing.take() else { return };
        let answer = if killing.then_remove {
            self.forget(number).map_or_else(Answer::from, |()| Answer::Done)
        } else {
            Answer::Done
        };
        for client in killing.clients {
            self.answer(client, &answer);
        }
        self.changed(number);
    }

    /// Removes all files of an instance; the state first, for with it the instance goes.
    fn forget(&mut self, number: u64) -> Result<(), RuntimeError> {
        let Some(instance) = self.instances.get(&number) else { return Ok(()) };
        let name = instance.state.instance.clone();
        let removed = files::remove_durably(&self.folder.state(number)).and_then(|()| {
            super::logs::remove(&self.folder, &name)?;
            std::fs::remove_dir_all(self.folder.instance(number))
        });
        if let Err(error) = removed {
            return Err(retryable(FailureKind::Refused, format!("cannot remove {name}: {}", words(&error))));
        }
        self.instances.remove(&number);
        say(&format!("removed {name}"));
        self.drop_unused_sockets();
        Ok(())
    }

    // === time ===

    pub(super) fn instance_timers(&mut self, now: Instant) {
        let numbers: Vec<u64> = self.instances.keys().copied().collect();
        for number in numbers {
            let Some(instance) = self.instances.get(&number) else { continue };
            if instance.killing.as_ref().is_some_and(|killing| killing.next <= now) {
                self.go_on_killing(number, now);
            } else if instance.restart_at.is_some_and(|at| at <= now) {
                self.start_again(number, now);
            }
        }
    }

    fn start_again(&mut self, number: u64, now: Instant) {
        if let Some(instance) = self.instances.get_mut(&number) {
            instance.restart_at = None;
        }
        let Err(error) = self.start_process(number, true) else { return };
        let back_off_max = self.options.back_off_max;
        let Some(instance) = self.instances.get_mut(&number) else { return };
        let wait = instance.back_off.unwrap_or(self.options.back_off);
        instance.back_off = Some((wait * 2).min(back_off_max));
        instance.restart_at = Some(now + wait);
        say(&format!(
            "cannot start {} again: {}; tries in {} ms",
            instance.state.instance,
            error.message,
            wait.as_millis()
        ));
    }

    /// Rotates logs that have grown too large. Says whether one grows so fast that it should be looked at soon again.
    pub(super) fn check_logs(&mut self) -> bool {
        let limit = self.options.log_limit;
        let mut fast = false;
        for instance in self.instances.values_mut() {
            let name = &instance.state.instance;
            let size = std::fs::metadata(self.folder.log(name)).map_or(0, |about| about.len());
            let grown = size.saturating_sub(instance.log_size);
            instance.log_size = size;
            fast |= size.saturating_add(grown.saturating_mul(2)) > limit;
            if size > limit {
                instance.log_size = 0;
                if let Err(error) = super::logs::rotate(&self.folder, name, limit) {
                    say(&format!("cannot rotate the log of {name}: {error}"));
                }
            }
        }
        fast
    }

    // === what others see ===

    pub(super) fn observe(&self) -> Vec<crate::model::InstanceObservation> {
        let now = Instant::now();
        let seen = self.instances.values().map(|instance| {
            let state = match instance.state.run {
                Run::Created => InstanceState::Created,
                Run::Running { .. } => InstanceState::Running,
                Run::Restarting => InstanceState::Restarting,
                Run::Exited => InstanceState::Exited,
            };
            let held = instance.state.passed.iter().all(|passed| self.sockets.holds(&passed.at));
            // Of one that has ended there is nothing to share: its places are bound again when they are needed.
            let mut seen = instance.state.observe(state, held || state == InstanceState::Exited);
            seen.crashing |= state == InstanceState::Running && instance.runs_after_a_crash(now, self.options.steady);
            seen
        });
        seen.collect()
    }
}

/// Nobody of that number is here.
pub(super) fn no_such(number: u64) -> RuntimeError {
    refused(FailureKind::Missing, format!("there is no instance {number} in this slot; prepare it first"))
}

fn cannot_write(state: &State, error: &io::Error) -> RuntimeError {
    retryable(FailureKind::Refused, format!("cannot record the state of {}: {}", state.instance, words(error)))
}
