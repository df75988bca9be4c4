//! What an agent's ledger holds of a slot.

use serde::{Deserialize, Serialize};

use super::{EffectKey, Phase, Verdict};
use crate::model::{
    Admission, Command, CommandId, ComponentName, Endpoint, ExitStatus, InstanceId, InstanceObservation, Recordable,
    RollId, StepId, StepResult, TableTarget, Timestamp,
};

/// One line of the ledger about one slot, or a note that never gets there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum Record {
    // === facts ===
    /// The intent of a whole list, synced before its first effect.
    Accepted {
        /// The list.
        command: Command,
    },
    /// A drain began: the grace is measured once, from here.
    DrainBegan {
        /// Whose.
        instance: InstanceId,
        /// When SIGKILL is due.
        kill_at: Timestamp,
    },
    /// A signal is about to be sent; never sent twice.
    Signalled {
        /// To whom.
        instance: InstanceId,
        /// By its name.
        signal: String,
    },
    /// A drain was given back.
    Undrained {
        /// Whose.
        instance: InstanceId,
    },
    /// May requests reach it.
    AdmissionSet {
        /// Whose.
        instance: InstanceId,
        /// What now.
        admission: Admission,
    },
    /// The slot was drained by hand, or undrained.
    HeldDrained {
        /// Whether.
        held: bool,
    },
    /// A gateway's slot: this table was asked for.
    TableSet {
        /// Whose targets.
        component: ComponentName,
        /// The whole list.
        targets: Vec<TableTarget>,
        /// The instance that was asked, where one was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<InstanceId>,
    },
    /// A step ended.
    Ended {
        /// The list.
        command: CommandId,
        /// Which step.
        step: StepId,
        /// How.
        result: StepResult,
        /// Where the instance is reached.
        endpoint: Option<Endpoint>,
    },
    /// The rest of a list was recalled.
    Recalled {
        /// The list.
        command: CommandId,
    },
    /// The coordinator has these outcomes.
    Acknowledged {
        /// Which.
        outcomes: Vec<(CommandId, StepId)>,
    },
    /// These rolls are over.
    Forgotten {
        /// Which.
        rolls: Vec<RollId>,
    },
    // === notes ===
    /// The worker knows again nothing of the runtime (after a start).
    Restarted,
    /// A look at the slot.
    Seen {
        /// What was there.
        instances: Vec<InstanceObservation>,
    },
    /// A look failed.
    Unseen {
        /// For people.
        why: String,
    },
    /// An act ended.
    Acted {
        /// Which.
        key: EffectKey,
        /// How.
        result: Result<Option<Endpoint>, super::ActError>,
    },
    /// A probe answered.
    Probed {
        /// Which instance.
        instance: InstanceId,
        /// What it said.
        verdict: Verdict,
    },
    /// A reading of work in flight.
    Inflight {
        /// Which instance.
        instance: InstanceId,
        /// How much, or why nobody knows.
        count: Result<u64, String>,
    },
    /// A main process ended.
    Exited {
        /// Which instance.
        instance: InstanceId,
        /// How.
        status: ExitStatus,
        /// Its last log lines.
        log: Vec<String>,
    },
    /// A gateway told how far a switch is.
    Gateway {
        /// Whose targets.
        component: ComponentName,
        /// In use.
        in_use: bool,
        /// In flight on draining targets.
        inflight: u64,
        /// Closed.
        closed: u64,
        /// For people.
        text: String,
    },
    /// A look at the slot is asked for.
    Looking,
    /// A list was accepted in this life of the agent, so nothing of it can have been done by a former one.
    Taken {
        /// The list.
        command: CommandId,
    },
    /// A list that was delivered again: its recorded outcomes are told again.
    Retold {
        /// The list.
        command: CommandId,
    },
    /// People are told how the step at work is getting on.
    Reported {
        /// Which step.
        step: StepId,
    },
    /// A phase of the step at work ended (precheck, act, verify); internal to the worker.
    Advanced {
        /// Of which step.
        step: StepId,
        /// What comes now.
        phase: Phase,
    },
}

impl Recordable for Record {
    fn kind(&self) -> &'static str {
        match self {
            Record::Accepted { .. } => "accepted",
            Record::DrainBegan { .. } => "drain-began",
            Record::Signalled { .. } => "signalled",
            Record::Undrained { .. } => "undrained",
            Record::AdmissionSet { .. } => "admission-set",
            Record::HeldDrained { .. } => "held-drained",
            Record::TableSet { .. } => "table-set",
            Record::Ended { .. } => "ended",
            Record::Recalled { .. } => "recalled",
            Record::Acknowledged { .. } => "acknowledged",
            Record::Forgotten { .. } => "forgotten",
            Record::Restarted => "restarted",
            Record::Seen { .. } => "seen",
            Record::Unseen { .. } => "unseen",
            Record::Acted { .. } => "acted",
            Record::Probed { .. } => "probed",
            Record::Inflight { .. } => "inflight",
            Record::Exited { .. } => "exited",
            Record::Gateway { .. } => "gateway",
            Record::Taken { .. } => "taken",
            Record::Looking => "looking",
            Record::Retold { .. } => "retold",
            Record::Reported { .. } => "reported",
            Record::Advanced { .. } => "advanced",
        }
    }

    fn is_fact(&self) -> bool {
        matches!(
            self,
            Record::Accepted { .. }
                | Record::DrainBegan { .. }
                | Record::Signalled { .. }
                | Record::Undrained { .. }
                | Record::AdmissionSet { .. }
                | Record::HeldDrained { .. }
                | Record::TableSet { .. }
                | Record::Ended { .. }
                | Record::Recalled { .. }
                | Record::Acknowledged { .. }
                | Record::Forgotten { .. }
        )
    }
}
