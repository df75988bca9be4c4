//! The limits: bare round trips over the same kind of stream, and bare syncs.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use baton::proto::v1::session_client::SessionClient;
use baton::proto::v1::session_server::{Session, SessionServer};
use baton::proto::v1::{AgentFrame, CoordinatorFrame};
use baton::transport::{Address, Listener, connect};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::rig::Outcome;

/// About as long as a stop command of one step in a frame.
const COMMAND_BYTES: usize = 400;

/// About as long as an outcome in a frame.
const OUTCOME_BYTES: usize = 200;

/// About as long as one record in a journal, hash and indexes included.
const RECORD_BYTES: usize = 700;

/// Sends a frame for each that comes, and nothing else.
struct Echo;

#[tonic::async_trait]
impl Session for Echo {
    type AttachStream = ReceiverStream<Result<CoordinatorFrame, Status>>;

    async fn attach(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(2_048);
        tokio::spawn(async move {
            while let Ok(Some(_)) = incoming.message().await {
                let frame =
                    CoordinatorFrame { format: 1, kind: "command".to_owned(), document: vec![b'x'; COMMAND_BYTES] };
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A server that echoes, on a Unix socket of its own.
pub struct Trips {
    address: Address,
    server: tokio::task::JoinHandle<()>,
}

impl Trips {
    pub async fn serve(folder: &Path) -> Outcome<Self> {
        let listener = Listener::bind(&Address::Unix(folder.join("echo.sock")), None).await?;
        let address = listener.address().clone();
        let server = tonic::transport::Server::builder().add_service(SessionServer::new(Echo));
        let server = tokio::spawn(async move {
            let _ = server.serve_with_incoming(listener.incoming()).await;
        });
        Ok(Self { address, server })
    }

    /// So many round trips, all asked for at once, as a stage is: one frame there, one back.
    pub async fn time(&self, count: u32) -> Outcome<Duration> {
        let mut client = SessionClient::new(connect(&self.address, None, "bench").await?);
        let (sender, receiver) = mpsc::channel(2_048);
        let mut incoming = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
        let frame = || AgentFrame { format: 1, kind: "outcome".to_owned(), document: vec![b'x'; OUTCOME_BYTES] };
        // The stream is up and warm before the clock starts, as a session is.
        sender.send(frame()).await?;
        incoming.message().await?.ok_or("the stream ended")?;
        let begun = Instant::now();
        let ask = tokio::spawn(async move {
            for _ in 0..count {
                if sender.send(frame()).await.is_err() {
                    return;
                }
            }
            // Kept open until all answers are there.
            std::future::pending::<()>().await;
        });
        for _ in 0..count {
            incoming.message().await?.ok_or("the stream ended")?;
        }
        let took = begun.elapsed();
        ask.abort();
        Ok(took)
    }
}

impl Drop for Trips {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// So many syncs, each after its share of so many records, one after the other.
pub fn syncs(folder: &Path, count: u64, records: u64) -> Outcome<Duration> {
    let path = folder.join("limit.bin");
    let mut file = std::fs::File::create(&path)?;
    let share = usize::try_from(records.div_ceil(count.max(1)))?;
    let bytes = vec![b'x'; share * RECORD_BYTES];
    let begun = Instant::now();
    for _ in 0..count {
        file.write_all(&bytes)?;
        file.sync_data()?;
    }
    let took = begun.elapsed();
    std::fs::remove_file(&path)?;
    Ok(took)
}
