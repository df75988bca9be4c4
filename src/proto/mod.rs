//! Generated code and the only conversions between wire and model.

mod frame;

pub use frame::{FRAME_FORMAT, FrameError, from_agent, from_coordinator, to_agent, to_coordinator};

/// Generated from `proto/*.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("baton.v1");
}
