//! Session frames: one word of the model in each.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::v1::{AgentFrame, ComponentQuestion, ComponentReply, CoordinatorFrame};
use crate::model::{FromComponent, ToAgent, ToComponent, ToCoordinator};

/// The frame format of this Baton.
pub const FRAME_FORMAT: u32 = 1;

/// Why a frame was refused. Unknown is refused, never defaulted.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Another format.
    #[error(
        "frame format {found} is not spoken here (this side speaks {FRAME_FORMAT}); install the same Baton on both"
    )]
    Format {
        /// In the frame.
        found: u32,
    },
    /// A document that this side does not understand.
    #[error("frame {kind:?} cannot be read")]
    Document {
        /// As named in the frame.
        kind: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

fn write<T: Serialize>(word: &T) -> (String, Vec<u8>) {
    // The words are enums written as {"kind": {...}} or "kind"; neither can fail to be written.
    let document = serde_json::to_vec(word).unwrap_or_default();
    (kind_of(&document).to_owned(), document)
}

/// The first name in a document, which is its kind: names of variants hold nothing that would be escaped.
fn kind_of(document: &[u8]) -> &str {
    let mut parts = document.splitn(3, |byte| *byte == b'"').skip(1);
    parts.next().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
}

fn read<T: DeserializeOwned>(format: u32, kind: &str, document: &[u8]) -> Result<T, FrameError> {
    if format != FRAME_FORMAT {
        return Err(FrameError::Format { found: format });
    }
    serde_json::from_slice(document).map_err(|source| FrameError::Document { kind: kind.to_owned(), source })
}

/// Writes an agent's word.
pub fn from_agent(word: &ToCoordinator) -> AgentFrame {
    let (kind, document) = write(word);
    AgentFrame { format: FRAME_FORMAT, kind, document }
}

/// Reads an agent's word.
///
/// # Errors
/// When the format or the document is not understood.
pub fn to_coordinator(frame: &AgentFrame) -> Result<ToCoordinator, FrameError> {
    read(frame.format, &frame.kind, &frame.document)
}

/// Writes a coordinator's word.
pub fn from_coordinator(word: &ToAgent) -> CoordinatorFrame {
    let (kind, document) = write(word);
    CoordinatorFrame { format: FRAME_FORMAT, kind, document }
}

/// Reads a coordinator's word.
///
/// # Errors
/// When the format or the document is not understood.
pub fn to_agent(frame: &CoordinatorFrame) -> Result<ToAgent, FrameError> {
    read(frame.format, &frame.kind, &frame.document)
}

/// Writes a question to a component agent.
pub fn question(word: &ToComponent) -> ComponentQuestion {
    let (kind, document) = write(word);
    ComponentQuestion { format: FRAME_FORMAT, kind, document }
}

/// Reads it.
///
/// # Errors
/// When the format or the document is not understood.
pub fn read_question(frame: &ComponentQuestion) -> Result<ToComponent, FrameError> {
    read(frame.format, &frame.kind, &frame.document)
}

/// Writes a component agent's reply.
pub fn from_component(word: &FromComponent) -> ComponentReply {
    let (kind, document) = write(word);
    ComponentReply { format: FRAME_FORMAT, kind, document }
}

/// Reads it.
///
/// # Errors
/// When the format or the document is not understood.
pub fn read_reply(frame: &ComponentReply) -> Result<FromComponent, FrameError> {
    read(frame.format, &frame.kind, &frame.document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_back_and_an_unknown_one_is_refused() {
        for word in
            [ToCoordinator::Heartbeat, ToCoordinator::Logs { number: 3, lines: vec!["x".into()], problem: None }]
        {
            let frame = from_agent(&word);
            let kind = if word == ToCoordinator::Heartbeat { "heartbeat" } else { "logs" };
            assert_eq!(frame.kind, kind);
            assert_eq!(to_coordinator(&frame).unwrap(), word);
        }
        let unknown = AgentFrame { format: 1, kind: "dance".into(), document: br#"{"dance":{}}"#.to_vec() };
        assert!(matches!(to_coordinator(&unknown), Err(FrameError::Document { .. })));
        let newer = AgentFrame { format: 2, ..from_agent(&ToCoordinator::Heartbeat) };
        assert!(matches!(to_coordinator(&newer), Err(FrameError::Format { found: 2 })));
    }
}
