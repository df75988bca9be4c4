//! The vocabulary of the house: ids, definitions, observations, plans, commands, outcomes, time.
//!
//! This room imports nothing of ours and does nothing: no clock, no IO, no randomness, no tokio. Every other room
//! speaks in these types, so a word here has one meaning (see ARCHITECTURE.md, "Words").

mod command;
mod compose;
mod compose_digest;
mod definition;
mod ids;
mod inside;
mod machine;
mod manifest;
mod observation;
pub mod placeholder;
mod plan;
mod secret;
mod session;
mod time;

pub use command::{
    Act, Command, CommandStep, DrainReport, DrainStart, FailureKind, How, Outcome, Precondition, Progress, ReadyWait,
    SkipReason, StepResult, TableTarget,
};
pub use compose::{
    ComposeAnswer, ComposeArchive, ComposeAsk, ComposeContainer, ComposeFound, ComposeHost, ComposeNeed, ComposeRemote,
    ComposeService, published_ports, runs_baton, runs_gateway,
};
pub use compose_digest::{ComposeDigest, compose_spec, compose_spec_with};
pub use definition::{
    Call, Definition, Drain, DrainBegin, DrainInflight, FailureAction, NamedPort, Order, Port, PortRef, Probe, Proxy,
    RETAIN, Ratio, Ready, Release, Role, RuntimeKind, Traffic, Update,
};
pub use ids::{
    AgentId, Attempt, CommandId, ComponentName, CoordinatorId, Digest, FleetName, IdError, InstanceId, RollId,
    RollNumber, SlotName, StepId, Term,
};
pub use inside::{
    COMPONENT_SOCKET, FromComponent, Placement, ProgramState, SeenComponentAgent, ToComponent, component_agent,
};
pub use machine::{IllegalTransition, Machine, Recordable};
pub use manifest::{ApiAt, Condition, Manifest, Stages, Strategy};
pub use observation::{
    Admission, Endpoint, ExitStatus, Health, InstanceObservation, InstanceState, Inventory, Resolution, SlotInventory,
};
pub use plan::{Change, ChangeKind, ComponentLimits, Plan, PlanKind, Step, StepKind};
pub use secret::Secret;
pub use session::{AgentHello, Claim, HelloReply, PROTOCOL_VERSION, Refusal, ToAgent, ToCoordinator};
pub use time::{Timestamp, millis, option_millis};
