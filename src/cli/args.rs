//! The command line. `--help` teaches.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::model::{AgentId, COMPONENT_SOCKET, ComponentName, CoordinatorId, FleetName, IdError, Proxy, SlotName};
use crate::transport::{Address, Security, TlsFiles};

/// Takes a running multi-part system from one version to the next without dropping a request or losing a job.
#[derive(Parser, Debug)]
#[command(
    name = "baton",
    version,
    max_term_width = 110,
    after_help = "\
A first roll:
  baton check                 read baton.yaml; nothing is contacted
  baton plan --to v2          what would happen, and why
  baton up --to v2            do it, and show it
  baton status                what runs where; for everything that waits: why, since when, until what
  baton rollback              back to what was there before

Without a coordinator address, `up` runs coordinator and agent inside itself against this host. Killed at any instant,
the same command goes on where it was.

Exit codes: 0 done or nothing to do, 1 failed and needs a person, 2 bad usage or manifest, 3 failed and rolled back,
4 stopped by a person or a gate, 5 refused before anything was touched, 130 interrupted and resumable."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Where the fleet is.
#[derive(Args, Debug, Clone)]
pub(super) struct Global {
    /// The manifest, or a Compose file; of those several [default: baton.yaml here, else as Compose finds its own]
    #[arg(short = 'f', long = "file", global = true, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// Compose: the project's name
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    pub(super) project_name: Option<String>,
    /// Compose: also the services of this profile. May be given again
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) profile: Vec<String>,
    /// Compose: variables from this file instead of .env. May be given again
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// State folder, one folder in it for each fleet [default: /var/lib/baton for root, else $XDG_STATE_HOME/baton]
    #[arg(long, global = true, value_name = "DIR", env = "BATON_STATE")]
    pub(super) state: Option<PathBuf>,
    /// The fleet, where no manifest names it
    #[arg(long, global = true, value_name = "NAME", env = "BATON_FLEET")]
    pub(super) fleet: Option<FleetName>,
    /// Address of a coordinator: unix:/path/control.sock or host:port [default: embedded, on this host]
    #[arg(long, global = true, value_name = "ADDRESS", env = "BATON_COORDINATOR")]
    pub(super) coordinator: Option<Address>,
    /// Certificate authority for TCP (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "BATON_TLS_CA")]
    pub(super) tls_ca: Option<PathBuf>,
    /// This side's certificate for TCP (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "BATON_TLS_CERT")]
    pub(super) tls_cert: Option<PathBuf>,
    /// This side's key for TCP (PEM, readable by its owner only)
    #[arg(long, global = true, value_name = "FILE", env = "BATON_TLS_KEY")]
    pub(super) tls_key: Option<PathBuf>,
    /// TCP without TLS: anybody who reaches the port rules the fleet
    #[arg(long, global = true)]
    pub(super) insecure: bool,
    /// The Docker Engine's socket [default: unix:///var/run/docker.sock]
    #[arg(long, global = true, value_name = "ADDRESS", env = "DOCKER_HOST", hide_env_values = true)]
    pub(super) docker_host: Option<String>,
    /// One event a line, in the schema of docs/events.md
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Why, for the journal
    #[arg(long, global = true, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) reason: String,
}

impl Global {
    /// How TCP is kept safe; an error when half of the certificates are named.
    pub(super) fn security(&self) -> Result<Option<Security>, super::exit::Problem> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key, self.insecure) {
            (Some(ca), Some(cert), Some(key), false) => {
                Ok(Some(Security::Tls(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() })))
            }
            (None, None, None, true) => Ok(Some(Security::Insecure)),
            (None, None, None, false) => Ok(None),
            _ => Err(super::exit::Problem::new(
                super::Exit::Usage,
                "name all of --tls-ca, --tls-cert and --tls-key, or --insecure alone",
            )),
        }
    }
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Validate the manifest; nothing is contacted
    Check,
    /// Write what Baton would take for a running Compose project into its files, as `x-baton` comments to accept
    Init(InitArgs),
    /// What would happen and why: order, batches, effective grace, expected outage, way back
    Plan(PlanArgs),
    /// Plan, confirm (or --yes), carry it out, show it. The same `up` twice is harmless
    Up(UpArgs),
    /// The same roll at the same version: every instance replaced, in the same order, with the same care
    Restart(RestartArgs),
    /// Drain and stop everything in stop order, API and gateway last; `up` starts it again
    Down(RollArgs),
    /// What runs where, the roll, and for everything that waits: why, since when, until what
    Status(StatusArgs),
    /// The live view of whatever happens
    Watch(WatchArgs),
    /// Begin nothing more; what has begun is finished
    Pause(AskArgs),
    /// Go on after a pause or an interruption
    Resume(GoOnArgs),
    /// Open a gate
    Approve(StepArgs),
    /// End the roll where it is, at the next safe point
    Abort(GoOnArgs),
    /// Try failed and unknown steps again
    Retry(GoOnArgs),
    /// Say how a step ended that nobody could observe
    Settle(SettleArgs),
    /// Back to what was there before the last roll; no arguments needed
    Rollback(RollArgs),
    /// Rolls that were, and why they ended as they did
    History(HistoryArgs),
    /// The last lines of a slot's output
    Logs(LogsArgs),
    /// Take a slot out of rotation and wait until its work is done; it stays so until `undrain`
    Drain(SlotArgs),
    /// Give a drained slot back
    Undrain(SlotArgs),
    /// Run the coordinator as a daemon
    Coordinator(CoordinatorArgs),
    /// Run the sidecar beside components as a daemon; with --component, inside a component's own container
    Agent(AgentArgs),
    /// Run the API's front door (its keeper does this)
    Gateway(GatewayArgs),
    /// Connect standard input and output to a Unix socket
    #[command(hide = true)]
    Relay {
        /// The socket
        socket: PathBuf,
    },
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// The parent of one slot's processes
    #[command(hide = true)]
    Keeper {
        /// The slot's folder
        #[arg(long)]
        dir: PathBuf,
    },
}

/// Which roll is planned.
#[derive(Args, Debug, Clone, Default)]
pub(super) struct WhatArgs {
    /// The value of {version} [default: that of the last roll that succeeded]
    #[arg(long, value_name = "VERSION")]
    pub(super) to: Option<String>,
    /// Only these components
    #[arg(long, value_name = "COMPONENT")]
    pub(super) only: Vec<ComponentName>,
    /// Also drain and remove components that the manifest no longer has
    #[arg(long)]
    pub(super) remove_orphans: bool,
}

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// Print the files as they would be instead of writing them
    #[arg(long)]
    pub(super) stdout: bool,
}

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// 0: no change, 10: changes
    #[arg(long)]
    pub(super) detailed_exitcode: bool,
}

/// How a roll is carried out.
#[derive(Args, Debug, Clone)]
pub(super) struct HowArgs {
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
    /// If another roll is unfinished, wait so long for its end
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) wait_for_roll: Option<Duration>,
    /// Come to a safe point and end with 130 after so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(super) struct UpArgs {
    #[command(flatten)]
    pub(super) what: WhatArgs,
    #[command(flatten)]
    pub(super) how: HowArgs,
    /// End an unfinished roll and plan anew from what is there
    #[arg(long)]
    pub(super) supersede: bool,
}

#[derive(Args, Debug)]
pub(super) struct RestartArgs {
    /// Which [default: all]
    pub(super) components: Vec<ComponentName>,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

#[derive(Args, Debug)]
pub(super) struct RollArgs {
    #[command(flatten)]
    pub(super) how: HowArgs,
}

#[derive(Args, Debug)]
pub(super) struct SlotArgs {
    /// component-index, as `status` shows it
    pub(super) slot: SlotName,
    #[command(flatten)]
    pub(super) how: HowArgs,
}

#[derive(Args, Debug)]
pub(super) struct StatusArgs {}

#[derive(Args, Debug)]
pub(super) struct WatchArgs {}

#[derive(Args, Debug)]
pub(super) struct AskArgs {}

#[derive(Args, Debug)]
pub(super) struct GoOnArgs {
    /// Come to a safe point and end with 130 after so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(super) struct StepArgs {
    /// The step's number, as `status` shows it
    pub(super) step: u32,
    #[command(flatten)]
    pub(super) go_on: GoOnArgs,
}

#[derive(Args, Debug)]
pub(super) struct SettleArgs {
    /// The step's number, as `status` shows it
    pub(super) step: u32,
    /// It was done
    #[arg(long, conflicts_with = "not_done", required_unless_present = "not_done")]
    pub(super) done: bool,
    /// It was not done
    #[arg(long)]
    pub(super) not_done: bool,
    #[command(flatten)]
    pub(super) go_on: GoOnArgs,
}

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// How many
    #[arg(short = 'n', long, default_value_t = 10)]
    pub(super) limit: u32,
}

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// component-index, as `status` shows it
    pub(super) slot: SlotName,
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) lines: u32,
}

#[derive(Args, Debug)]
pub(super) struct CoordinatorArgs {
    /// Also listen here, beside control.sock; host:port needs certificates or --insecure. May be given again
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Vec<Address>,
    /// The state folder was restored from a copy: take a new id. Then run `baton agent adopt` on each host
    #[arg(long)]
    pub(super) new_id: bool,
    /// Between heartbeats; a session is lost after three
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5s")]
    pub(super) heartbeat: Duration,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AgentArgs {
    #[command(subcommand)]
    pub(super) adopt: Option<AgentVerb>,
    /// The agent's id [default: the host's name]
    #[arg(long, value_name = "ID")]
    pub(super) id: Option<AgentId>,
    /// What this host admits (YAML) [default: nothing]
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// By what address others reach its instances [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) address: Option<String>,
    /// The folder of this host's Compose project, whose services components with `compose` are
    #[arg(long, value_name = "DIR")]
    pub(super) compose: Option<PathBuf>,
    /// Run PROGRAM as its parent inside this component's container: pass signals on, end with its exit code, and drain,
    /// read and probe it for the host's agent
    #[arg(
        long,
        value_name = "NAME",
        requires = "program",
        conflicts_with_all = ["id", "policy", "address", "compose"]
    )]
    pub(super) component: Option<ComponentName>,
    /// With --component: where the host's agent asks
    #[arg(long, value_name = "PATH", default_value = COMPONENT_SOCKET, requires = "component")]
    pub(super) socket: PathBuf,
    /// With --component: the program and its arguments, which no shell reads
    #[arg(last = true, value_name = "PROGRAM", requires = "component")]
    pub(super) program: Vec<OsString>,
}

#[derive(Subcommand, Debug)]
pub(super) enum AgentVerb {
    /// Obey another coordinator from now on. The agent must not be running
    Adopt {
        /// The coordinator's id, as its `status` shows it
        coordinator_id: CoordinatorId,
        /// The agent's id [default: the host's name]
        #[arg(long, value_name = "ID")]
        id: Option<AgentId>,
    },
}

#[derive(Args, Debug)]
pub(super) struct GatewayArgs {
    /// Its folder: table and control socket
    #[arg(long, value_name = "DIR", default_value = "/var/lib/baton/gateway")]
    pub(super) dir: PathBuf,
    /// Listen here for a component (`api=:8080`), beside sockets that were passed. May be given again
    #[arg(long, value_name = "COMPONENT=[HOST]:PORT")]
    pub(super) listen: Vec<String>,
    /// Where a component's requests go before any roll has said it (`api=api:8080`). May be given again
    #[arg(long, value_name = "COMPONENT=HOST:PORT")]
    pub(super) backend: Vec<String>,
    /// Another proxy that is told a component's tables, as JSON (docs/manifest.md). May be given again
    #[arg(long, value_name = "COMPONENT=JSON", value_parser = front)]
    pub(super) front: Vec<(ComponentName, Proxy)>,
}

fn front(text: &str) -> Result<(ComponentName, Proxy), String> {
    let (component, proxy) = text.split_once('=').ok_or("write COMPONENT=JSON")?;
    let component = component.parse().map_err(|error: IdError| error.to_string())?;
    Ok((component, serde_json::from_str(proxy).map_err(|error| error.to_string())?))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 30s, 5m or 1h 30m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
