//! Generated code and the only conversions between wire and model.

mod frame;
mod line;

pub use frame::{
    FRAME_FORMAT, FrameError, from_agent, from_component, from_coordinator, question, read_question, read_reply,
    to_agent, to_coordinator,
};
pub use line::over;

/// Generated from `proto/*.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("baton.v1");
}
