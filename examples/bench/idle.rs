//! What standing by costs: memory of an idle session at the coordinator and of a keeper, and how soon a status of a large
//! fleet is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use baton::model::{AgentHello, AgentId, FleetName, Inventory, PROTOCOL_VERSION, RuntimeKind, Term, ToCoordinator};
use baton::proto::from_agent;
use baton::proto::v1::session_client::SessionClient;
use baton::transport::{Address, connect};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::relay::{Fleet, processes_of};
use crate::rig::{Outcome, Rig, median};
use crate::roll::Asking;

const AGENTS: usize = 1_000;
const SLOTS: u32 = 1_000;
const QUESTIONS: usize = 50;

/// `bench idle`
pub fn run() -> Outcome<()> {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        sessions().await?;
        status().await
    })?;
    keepers()
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of its own (no pages of the program file) and all that is resident, in KiB.
fn memory(pid: u32) -> Outcome<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |key: &str| -> Outcome<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line")?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
    };
    Ok((of("RssAnon")?, of("VmRSS")?))
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What it starts has the same limit. Where it cannot be raised, the benchmark says what it could not open.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

async fn sessions() -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let state = folder.path().join("state");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["coordinator", "--fleet", "bench", "--state"]).arg(&state);
    let coordinator = Ended(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let address = Address::Unix(state.join("bench").join("control.sock"));
    let mut asking = loop {
        match Asking::connect(&address, "bench").await {
            Ok(asking) => break asking,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    asking.view().await?;
    let before = memory(coordinator.0.id())?;
    let mut kept = vec![];
    for place in 0..AGENTS {
        kept.push(attach(&address, place).await?);
    }
    asking.attached(AGENTS).await?;
    // Buffers of the beginning are given back, heartbeats come and go.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = memory(coordinator.0.id())?;
    let each = |before: f64, after: f64| (after - before) / AGENTS as f64;
    println!(
        "{AGENTS} idle agents, a connection each: coordinator {:.1} MiB before, {:.1} MiB after",
        before.1 / 1024.0,
        after.1 / 1024.0
    );
    println!(
        "  {:.1} KiB an agent (its own memory {:.1} KiB); mark 32 KiB",
        each(before.1, after.1),
        each(before.0, after.0)
    );
    drop(kept);
    Ok(())
}

/// A session that says hello and then only that it is still here.
async fn attach(address: &Address, place: usize) -> Outcome<tokio::task::JoinHandle<()>> {
    let (sender, receiver) = mpsc::channel(4);
    let agent = AgentId::new(format!("agent-{place}"))?;
    let hello = AgentHello {
        protocol: PROTOCOL_VERSION,
        fleet: FleetName::new("bench")?,
        agent: agent.clone(),
        obeys: None,
        inventory: Inventory {
            agent,
            boot_id: "bench".to_owned(),
            runtimes: vec![RuntimeKind::Process],
            address: "127.0.0.1".to_owned(),
            term: Term(0),
            nonce: String::new(),
            rolls: vec![],
            slots: BTreeMap::new(),
            resolutions: BTreeMap::new(),
        },
    };
    sender.send(from_agent(&ToCoordinator::Hello(Box::new(hello)))).await?;
    let mut client = SessionClient::new(connect(address, None, "bench").await?);
    let mut incoming = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(tokio::spawn(async move {
        let mut beat = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                word = incoming.message() => if !matches!(word, Ok(Some(_))) { return },
                _ = beat.tick() => if sender.send(from_agent(&ToCoordinator::Heartbeat)).await.is_err() { return },
            }
        }
    }))
}

async fn status() -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let rig = Rig::start(folder.path(), SLOTS).await?;
    let mut asking = Asking::connect(&rig.coordinator.addresses()[0], rig.fleet.as_str()).await?;
    asking.attached(1).await?;
    let (mut times, mut bytes) = (vec![], 0);
    for _ in 0..QUESTIONS {
        let (time, size) = asking.status_time().await?;
        times.push(time.as_secs_f64() * 1e3);
        bytes = size;
    }
    let most = times.iter().copied().fold(0.0, f64::max);
    println!(
        "status of {SLOTS} slots: {:.1} ms in the middle, {most:.1} ms at most, {} KiB; mark 50 ms",
        median(times),
        bytes / 1024
    );
    rig.stop().await
}

fn keepers() -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let fleet = Fleet { exe: std::env::current_exe()?, folder: folder.path().to_owned() };
    fleet.write()?;
    fleet.baton(&["up", "--to", "v1", "--yes"])?;
    let (own, resident) = keeper_memory(folder.path())?;
    println!(
        "a keeper with one instance: {own:.0} KiB of its own, {resident:.0} KiB resident with the program's pages"
    );
    drop(fleet);
    Ok(())
}

fn keeper_memory(folder: &Path) -> Outcome<(f64, f64)> {
    let (mut own, mut resident) = (vec![], vec![]);
    for (pid, arguments) in processes_of(folder) {
        if arguments.split('\0').nth(1) == Some("keeper") {
            let (anonymous, all) = memory(pid.cast_unsigned())?;
            own.push(anonymous);
            resident.push(all);
        }
    }
    if own.is_empty() { Err("there is no keeper".into()) } else { Ok((median(own), median(resident))) }
}
