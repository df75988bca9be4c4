//! `baton.yaml` as it is written: every key, its type and its meaning. The JSON Schema is generated from here.
//!
//! Everything is optional to serde; what must be there is said where the whole is known, with a better message. The
//! first lines of the doc comments are what an editor shows, so they speak to the operator.

use schemars::JsonSchema;
use serde::Deserialize;

use super::forms::{Form, List, Ordered};
use super::scalar::{Argv, BackAction, Choice, Count, EnvValue, NoTraffic, PortName, PortWord, Share, Span, Text};
use crate::model::{ApiAt, Condition, FailureAction, Order, Placement, RuntimeKind, Strategy};

/// What the operator wants to run, and how it is taken from one version to the next.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
#[schemars(title = "baton.yaml")]
pub(crate) struct Fleet {
    /// The name of the fleet: everything that this manifest describes.
    #[schemars(required)]
    pub fleet: Option<Text>,
    /// staged: stop stages, quiet point, start stages. rolling: batch by batch, no quiet point.
    pub strategy: Option<Choice<Strategy>>,
    /// Who stops with whom, and who starts with whom.
    pub stages: Option<Stages>,
    /// When the API is rolled. last: start-first, after all start stages. first: before the stop stages. quiet: at the
    /// quiet point, for versions that cannot meet.
    pub api_at: Option<Choice<ApiAt>>,
    /// The components, by name.
    #[schemars(required)]
    pub components: Option<Ordered<Component>>,
}

/// Who stops with whom, and who starts with whom. Entries are components or roles.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Stages {
    /// Stop stages in order: a list of lists. Never the API.
    pub stop: Option<List<List<Text>>>,
    /// Start stages in order. Default: the reverse of the stop stages.
    pub start: Option<List<List<Text>>>,
}

/// A group of like slots.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Component {
    /// api, scheduler, executor, worker, indexer, job, gateway, or your own. Default: the component's name where that
    /// is a known role.
    pub role: Option<Text>,
    /// Through what it runs. Default: docker with `image`, process with `release`.
    pub runtime: Option<Choice<RuntimeKind>>,
    /// A service of the Compose project that each of its hosts has: the agent there reads it. Instead of `image` and
    /// everything else that says what runs.
    pub compose: Option<OfHosts>,
    /// The image (docker). May hold {version}.
    pub image: Option<Text>,
    /// The folder with the program (process).
    pub release: Option<Release>,
    /// The program and its arguments. Placeholders are filled in.
    pub command: Option<Argv>,
    /// Environment variables; they win over env_file. Placeholders are filled in.
    pub env: Option<Ordered<EnvValue>>,
    /// A file of NAME=value lines on the agent's host.
    pub env_file: Option<Text>,
    /// The working folder. Default: the release.
    pub cwd: Option<Text>,
    /// Where an instance listens, by name. {port} is the first, {port.NAME} any.
    pub ports: Option<Ordered<Form<PortWord, LongPort>>>,
    /// Agents that may run it. Default: all that offer the runtime.
    pub on: Option<List<Text>>,
    /// Slots in total, spread evenly over the agents. Default: 1.
    pub replicas: Option<Count>,
    /// Never two at once: always stop-first. Default: true for the scheduler.
    pub singleton: Option<bool>,
    /// Who must be there before it: a list of components, or a mapping from component to condition.
    pub depends_on: Option<Form<List<Text>, Ordered<Dependency>>>,
    /// How its slots are rolled.
    pub update: Option<Update>,
    /// How they are rolled where a roll is taken back. Default: as update says.
    pub rollback: Option<Rollback>,
    /// When a new instance counts as ready.
    pub ready: Option<Ready>,
    /// How requests reach it. Default: none.
    pub traffic: Option<Form<NoTraffic, Traffic>>,
    /// Serving instances that must remain at every instant. Default: 1 for an api that can keep it, else 0.
    pub min_available: Option<Count>,
    /// How an instance is drained and stopped.
    pub drain: Option<Drain>,
    /// component: an agent of Baton is the parent of the program inside the container (docker). Needed only where the
    /// command does not show it. Default: as the command shows.
    pub agent: Option<Choice<Placement>>,
    /// Former images that are kept for a way back, so that no prune takes them (docker). Default: 1.
    pub retain: Option<Count>,
}

/// A service of the Compose project that each host has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct OfHosts {
    /// The service's name. Default: the component's.
    pub service: Option<Text>,
}

/// A folder with one version of a program.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Release {
    /// The folder on the agent's host. May hold {version}.
    #[schemars(required)]
    pub path: Option<Text>,
    /// The file in it, as sha256sum writes it, that lists every file of a complete release.
    pub sha256_file: Option<Text>,
}

/// A port in its long form.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct LongPort {
    /// auto: free and new for each instance. A number: this one.
    #[schemars(required)]
    pub port: Option<PortWord>,
    /// The address to listen on.
    pub host: Option<Text>,
    /// Whether the listening socket is held by Baton and passed to the program (LISTEN_FDS). Default: true for a
    /// number.
    pub pass: Option<bool>,
}

/// What is waited for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Dependency {
    /// started, ready, or completed. Default: completed for a job, else ready.
    pub condition: Option<Choice<Condition>>,
}

/// How a component's slots are rolled.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Update {
    /// Which comes first. Default: start-first for an api where possible, else stop-first.
    pub order: Option<Choice<Order>>,
    /// Slots at a time; 0 means all. Default: 1.
    pub parallelism: Option<Count>,
    /// Pause after a slot. Default: 0s.
    pub delay: Option<Span>,
    /// How long a new instance must stay ready before it counts. Default: 5s.
    pub monitor: Option<Span>,
    /// What a failure does to the roll. Default: rollback.
    pub failure_action: Option<Choice<FailureAction>>,
    /// The share of changed slots that may fail before that is done. Default: 0.
    pub max_failure_ratio: Option<Share>,
}

/// How a component's slots are rolled where a roll is taken back. What is not set here has its own default.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Rollback {
    /// Which comes first. Default: start-first for an api where possible, else stop-first.
    pub order: Option<Choice<Order>>,
    /// Slots at a time; 0 means all. Default: 1.
    pub parallelism: Option<Count>,
    /// Pause after a slot. Default: 0s.
    pub delay: Option<Span>,
    /// How long an instance must stay ready before it counts. Default: 5s.
    pub monitor: Option<Span>,
    /// What a failure does to the rollback. Default: pause.
    pub failure_action: Option<Choice<BackAction>>,
    /// The share of changed slots that may fail before that is done. Default: 0.
    pub max_failure_ratio: Option<Share>,
}

impl From<Rollback> for Update {
    fn from(written: Rollback) -> Self {
        let action = written.failure_action.map_or(FailureAction::Pause, |action| action.0.0);
        Self {
            order: written.order,
            parallelism: written.parallelism,
            delay: written.delay,
            monitor: written.monitor,
            failure_action: Some(Choice(action)),
            max_failure_ratio: written.max_failure_ratio,
        }
    }
}

/// When a new instance counts as ready: one of http, tcp, exec, notify, health.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Ready {
    /// A GET that answers 2xx. Placeholders are filled in.
    pub http: Option<Text>,
    /// A connection to host:port. Placeholders are filled in.
    pub tcp: Option<Text>,
    /// A program that exits 0, run beside the instance with its environment.
    pub exec: Option<Argv>,
    /// READY=1 over NOTIFY_SOCKET, as sd_notify(3) sends it.
    pub notify: Option<bool>,
    /// What the engine says of the container's own healthcheck (docker).
    pub health: Option<bool>,
    /// Between two probes. Default: 250ms.
    pub every: Option<Span>,
    /// For one probe. Default: 2s.
    pub timeout: Option<Span>,
    /// Good answers in a row that count as ready. Default: 1.
    pub successes: Option<Count>,
    /// From the start to ready. Default: 2m.
    pub deadline: Option<Span>,
}

/// How requests reach a component.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Traffic {
    /// Through Baton's gateway.
    pub gateway: Option<GatewayTraffic>,
    /// Through a HAProxy that runs already: Baton steers its servers over its runtime API.
    pub haproxy: Option<HaproxyTraffic>,
    /// Through any other proxy, which a command of yours tells.
    pub exec: Option<ExecTraffic>,
}

/// Through a HAProxy (2.5 or newer) that runs already.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct HaproxyTraffic {
    /// Its stats socket (`stats socket ... level admin`): a path on the host, or host:port.
    #[schemars(required)]
    pub socket: Option<Text>,
    /// The backend whose servers are the instances. Default: the component's name.
    pub backend: Option<Text>,
    /// The instance's port: a number, or a name from ports.
    #[schemars(required)]
    pub port: Option<PortName>,
    /// Options of the servers that Baton adds. Default: "check inter 500ms".
    pub server: Option<Text>,
}

/// Through a proxy that a command tells.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct ExecTraffic {
    /// The argv, run on the host beside the proxy. It gets the table (docs/manifest.md) and exits 0 when it is in use.
    #[schemars(required)]
    pub switch: Option<Argv>,
    /// The instance's port: a number, or a name from ports.
    #[schemars(required)]
    pub port: Option<PortName>,
    /// How long requests on what was taken out may take to finish, as the proxy does not say it. Default: 5s.
    pub settle: Option<Span>,
}

/// Through Baton's gateway.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct GatewayTraffic {
    /// Where clients connect: ":8080" or "host:8080".
    #[schemars(required)]
    pub listen: Option<Text>,
    /// The instance's port: a number, or a name from ports.
    #[schemars(required)]
    pub port: Option<PortName>,
    /// How long a request may be held while nobody serves. Default: 30s.
    pub hold_max: Option<Span>,
}

/// How an instance is drained and stopped.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct Drain {
    /// What begins it: one of signal, http, exec. Default: traffic is taken away, else the stop signal.
    pub begin: Option<DrainBegin>,
    /// What undrain calls: one of http, exec.
    pub undo: Option<DrainUndo>,
    /// Where the count of work in flight is read. Default: the process itself; gone is zero.
    pub inflight: Option<DrainInflight>,
    /// From the begin of the drain to SIGKILL. Default: 30s.
    pub grace: Option<Span>,
    /// The last part of the grace, from signal to SIGKILL. Default: the smaller of 10s and the grace.
    pub stop_timeout: Option<Span>,
    /// Asks the main process to end. Default: SIGTERM.
    pub stop_signal: Option<Text>,
}

/// What begins a drain: one of signal, http, exec.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct DrainBegin {
    /// A signal to the main process. Cannot be undone.
    pub signal: Option<Text>,
    /// A POST that answers 2xx. Placeholders are filled in.
    pub http: Option<Text>,
    /// A program that exits 0.
    pub exec: Option<Argv>,
}

/// What undrain calls: one of http, exec.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct DrainUndo {
    /// A POST that answers 2xx. Placeholders are filled in.
    pub http: Option<Text>,
    /// A program that exits 0.
    pub exec: Option<Argv>,
}

/// Where the count of work in flight is read.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a mapping")]
pub(crate) struct DrainInflight {
    /// A GET that answers JSON. Placeholders are filled in.
    #[schemars(required)]
    pub http: Option<Text>,
    /// A JSON pointer (RFC 6901) to a number, or to a list whose length counts. Default: the whole answer.
    pub pointer: Option<Text>,
    /// Between two readings. Default: 250ms.
    pub every: Option<Span>,
    /// For one reading. Default: 2s.
    pub timeout: Option<Span>,
}
