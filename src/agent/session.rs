//! One dial: a stream to the coordinator, and the words on it.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::model::{FleetName, ToAgent, ToCoordinator};
use crate::proto::v1::session_client::SessionClient;
use crate::proto::{from_agent, to_agent};
use crate::transport::{Address, MESSAGE_MAX, Security, connect};

/// Words that may wait to be sent. A slow coordinator must not make an agent grow: what does not fit ends the session,
/// and everything that must arrive is sent again in the next one. Room for an outcome and a word of progress from each
/// of a thousand slots at the same moment, twice.
const OUTBOX: usize = 4_096;

/// What a session tells the shell.
#[derive(Debug)]
pub(super) enum News {
    /// The stream is open; words may be sent.
    Connected(u64, mpsc::Sender<ToCoordinator>),
    /// A word came.
    Word(u64, Box<ToAgent>),
    /// It is over.
    Ended(u64, String),
}

/// Opens a stream and carries words until it ends.
pub(super) async fn attach(
    number: u64,
    address: Address,
    security: Option<Security>,
    fleet: FleetName,
    local: Option<mpsc::Sender<News>>,
) {
    let Some(news) = local else { return };
    let why = match carry(number, &address, security.as_ref(), &fleet, &news).await {
        Ok(()) => "the coordinator ended the session".to_owned(),
        Err(why) => why,
    };
    let _ = news.send(News::Ended(number, why)).await;
}

async fn carry(
    number: u64,
    address: &Address,
    security: Option<&Security>,
    fleet: &FleetName,
    news: &mpsc::Sender<News>,
) -> Result<(), String> {
    let channel = connect(address, security, fleet.as_str()).await.map_err(|error| crate::cause::chain(&error))?;
    let mut client =
        SessionClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
    let (sender, receiver) = mpsc::channel::<ToCoordinator>(OUTBOX);
    if news.send(News::Connected(number, sender)).await.is_err() {
        return Ok(());
    }
    let outgoing = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |word| from_agent(&word));
    let mut incoming = client.attach(outgoing).await.map_err(status)?.into_inner();
    while let Some(frame) = incoming.message().await.map_err(status)? {
        let word = to_agent(&frame).map_err(|error| crate::cause::chain(&error))?;
        if news.send(News::Word(number, Box::new(word))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn status(status: tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}
