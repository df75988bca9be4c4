//! The validated manifest: what the operator asked for, with every default named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ComponentName, Definition, FleetName};

/// How a roll goes through the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Stop stages, quiet point, start stages.
    Staged,
    /// Batch by batch, no quiet point.
    Rolling,
}

/// When the API is rolled in a staged roll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiAt {
    /// Start-first, after all start stages are ready.
    #[default]
    Last,
    /// Before the stop stages.
    First,
    /// At the quiet point: for versions that cannot meet. An outage, which the plan prints.
    Quiet,
}

/// Stop and start stages. Each entry is the name of a component or of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Stop stages in order; empty means the default.
    pub stop: Vec<Vec<String>>,
    /// Start stages in order; empty means the reverse of the stop stages.
    pub start: Vec<Vec<String>>,
}

/// What a dependent waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It was started.
    Started,
    /// It is ready.
    #[default]
    Ready,
    /// It ended with 0.
    Completed,
}

/// A manifest after reading and validation. `{version}` is not filled in yet: `--to` may still decide it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The fleet.
    pub fleet: FleetName,
    /// As written; `None` lets the planner choose and say why.
    pub strategy: Option<Strategy>,
    /// As written; `None` means the default.
    pub stages: Option<Stages>,
    /// As written.
    pub api_at: ApiAt,
    /// By name.
    pub components: BTreeMap<ComponentName, Definition>,
    /// What whoever reads a plan of it should know and no change says. In no digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
