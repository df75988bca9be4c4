//! The control socket, from both ends: the gateway's service, and the calls that the agent beside it makes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use super::limits::{CONTROL_BYTES_MAX, CONTROL_MAX};
use super::shutdown::{Phase, Stop};
use super::store::SavedTable;
use super::switch::{SetTableError, Switch};
use super::unix;
use crate::model::{Admission, TableTarget};
use crate::proto::v1;
use crate::proto::v1::gateway_control_client::GatewayControlClient;
use crate::proto::v1::gateway_control_server::{GatewayControl, GatewayControlServer};

/// What a gateway says of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// The table asked for last is in use. Until then the one before it is.
    pub in_use: bool,
    /// Requests and upgraded connections in flight on targets that do not admit, those no longer in the table included.
    /// Once zero was told of a table in use, nothing more reaches these targets.
    pub draining_inflight: u64,
    /// Requests that wait for a target.
    pub held: u64,
    /// Upgraded connections that were closed on request since the table in use came in.
    pub closed_upgraded: u64,
    /// For people: `in use`, or `waiting for api-1.2: connection refused`.
    pub text: String,
    /// The table in use.
    pub targets: Vec<TableTarget>,
}

/// Why a gateway could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers at its socket.
    #[error("failed to reach the gateway at {gateway}: is it running?")]
    Unreachable {
        /// The gateway.
        gateway: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the gateway at {gateway} did not answer within {} s", CONTROL_MAX.as_secs())]
    TimedOut {
        /// The gateway.
        gateway: String,
    },
    /// It said no, and will say so again.
    #[error("the gateway at {gateway} refused: {text}")]
    Refused {
        /// The gateway.
        gateway: String,
        /// Why.
        text: String,
    },
    /// It tried and could not, or went away over it. Asking again is harmless.
    #[error("the gateway at {gateway} failed: {text}")]
    Failed {
        /// The gateway.
        gateway: String,
        /// What went wrong.
        text: String,
    },
    /// Its answer makes no sense to this version.
    #[error("the gateway at {gateway} gave an answer that this version does not understand: {text}")]
    Answer {
        /// The gateway.
        gateway: String,
        /// What is wrong with it.
        text: String,
    },
}

impl ControlError {
    /// May the same call succeed later?
    pub fn retryable(&self) -> bool {
        !matches!(self, ControlError::Refused { .. } | ControlError::Answer { .. })
    }
}

type Client = GatewayControlClient<tonic::transport::Channel>;

/// A connection to a gateway's control socket.
pub struct Control {
    gateway: String,
    client: Client,
}

impl Control {
    /// Connects to the socket at a path.
    ///
    /// # Errors
    /// When nobody answers there within 5 s.
    pub async fn at(socket: &Path) -> Result<Self, ControlError> {
        let gateway = socket.display().to_string();
        let unreachable = |source: std::io::Error| ControlError::Unreachable { gateway, source: source.into() };
        let stream = unix::connect(socket).await.map_err(unreachable)?;
        Self::over(socket.display().to_string(), stream).await
    }

    /// Takes a stream that leads to the socket of the gateway which people know by this name.
    ///
    /// # Errors
    /// When nobody answers there within 5 s.
    pub async fn over(
        gateway: String,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self, ControlError> {
        match tokio::time::timeout(CONTROL_MAX, crate::proto::over(stream)).await {
            Ok(Ok(channel)) => {
                let client = GatewayControlClient::new(channel).max_decoding_message_size(CONTROL_BYTES_MAX);
                Ok(Self { gateway, client })
            }
            Ok(Err(source)) => Err(ControlError::Unreachable { gateway, source: source.into() }),
            Err(_) => Err(ControlError::TimedOut { gateway }),
        }
    }

    /// Asks the gateway to bring the table of `listener` in line: `targets` that admit take new requests, the others
    /// only finish what they have. While none admits, requests are held for up to `hold_max` from their arrival.
    /// Returns when the gateway has it on its disk; [`Self::table`] tells when it is in use. `close`: upgraded
    /// connections on targets that do not admit are closed properly. The same call twice is harmless.
    ///
    /// # Errors
    /// When the gateway does not answer within 5 s, refuses the table, or cannot write it.
    pub async fn set_table(
        &self,
        listener: &str,
        targets: &[TableTarget],
        hold_max: Duration,
        close: bool,
    ) -> Result<(), ControlError> {
        let request = v1::SetTableRequest {
            listener: listener.to_owned(),
            targets: targets.iter().map(to_wire).collect(),
            hold_max_ms: u64::try_from(hold_max.as_millis()).unwrap_or(u64::MAX),
            close_upgraded: close,
        };
        self.call(async |mut client| client.set_table(request).await).await.map(|_| ())
    }

    /// Asks the gateway how `listener` is.
    ///
    /// # Errors
    /// When the gateway does not answer within 5 s, has no such listener, or its answer is not understood.
    pub async fn table(&self, listener: &str) -> Result<TableState, ControlError> {
        let request = v1::TableRequest { listener: listener.to_owned() };
        let reply = self.call(async |mut client| client.table(request).await).await?;
        let targets = reply
            .targets
            .into_iter()
            .map(from_wire)
            .collect::<Result<_, _>>()
            .map_err(|text| ControlError::Answer { gateway: self.gateway.clone(), text })?;
        Ok(TableState {
            in_use: reply.in_use,
            draining_inflight: reply.draining_inflight,
            held: reply.held,
            closed_upgraded: reply.closed_upgraded,
            text: reply.text,
            targets,
        })
    }

    async fn call<T>(&self, ask: impl AsyncFnOnce(Client) -> Result<Response<T>, Status>) -> Result<T, ControlError> {
        let gateway = || self.gateway.clone();
        match tokio::time::timeout(CONTROL_MAX, ask(self.client.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused(gateway(), &status)),
            Err(_) => Err(ControlError::TimedOut { gateway: gateway() }),
        }
    }
}

/// [`Control::set_table`] of the gateway at `socket`, over a connection of its own.
///
/// # Errors
/// As there.
pub async fn set_table(
    socket: &Path,
    listener: &str,
    targets: &[TableTarget],
    hold_max: Duration,
    close: bool,
) -> Result<(), ControlError> {
    Control::at(socket).await?.set_table(listener, targets, hold_max, close).await
}

/// [`Control::table`] of the gateway at `socket`, over a connection of its own.
///
/// # Errors
/// As there.
pub async fn table(socket: &Path, listener: &str) -> Result<TableState, ControlError> {
    Control::at(socket).await?.table(listener).await
}

fn refused(gateway: String, status: &Status) -> ControlError {
    let text = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::OutOfRange => {
            ControlError::Refused { gateway, text }
        }
        _ => ControlError::Failed { gateway, text },
    }
}

fn to_wire(target: &TableTarget) -> v1::Target {
    v1::Target {
        instance: target.instance.to_string(),
        host: target.host.clone(),
        port: u32::from(target.port),
        // To a table, drained and draining are the same: no new requests.
        admission: if target.admission == Admission::Admitting { "admitting" } else { "draining" }.to_owned(),
    }
}

fn from_wire(target: v1::Target) -> Result<TableTarget, String> {
    let instance = target.instance.parse().map_err(|error: crate::model::IdError| error.to_string())?;
    if target.host.is_empty() {
        return Err(format!("target {instance} has no host"));
    }
    let port = u16::try_from(target.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{} is not the port of target {instance}: 1 to 65535", target.port))?;
    let admission = match target.admission.as_str() {
        "admitting" => Admission::Admitting,
        "draining" => Admission::Draining,
        other => return Err(format!("{other:?} is not an admission of target {instance}: admitting or draining")),
    };
    Ok(TableTarget { instance, host: target.host, port, admission })
}

/// Serves the control socket until the gateway ends.
pub(super) async fn serve(
    listener: UnixListener,
    switch: Arc<Switch>,
    mut stop: Stop,
) -> Result<(), tonic::transport::Error> {
    let service = GatewayControlServer::new(Service { switch }).max_decoding_message_size(CONTROL_BYTES_MAX);
    let mut leave = stop.clone();
    // To the last: an agent follows the drain of a gateway that is ending, too.
    let serving =
        Server::builder()
            .timeout(CONTROL_MAX)
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                stop.reached(Phase::Leave).await
            });
    tokio::select! {
        served = serving => served,
        // A client that keeps its connection open must not keep the process.
        () = leave.reached(Phase::Leave) => Ok(()),
    }
}

struct Service {
    switch: Arc<Switch>,
}

#[tonic::async_trait]
impl GatewayControl for Service {
    async fn set_table(&self, request: Request<v1::SetTableRequest>) -> Result<Response<v1::SetTableReply>, Status> {
        let request = request.into_inner();
        let targets =
            request.targets.into_iter().map(from_wire).collect::<Result<_, _>>().map_err(Status::invalid_argument)?;
        let table = SavedTable { targets, hold_max: Duration::from_millis(request.hold_max_ms) };
        self.switch.set(&request.listener, table, request.close_upgraded).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::SetTableReply {}))
    }

    async fn table(&self, request: Request<v1::TableRequest>) -> Result<Response<v1::TableReply>, Status> {
        let state = self.switch.state(&request.into_inner().listener).map_err(|error| status(&error))?;
        Ok(Response::new(v1::TableReply {
            in_use: state.in_use,
            targets: state.targets.iter().map(to_wire).collect(),
            draining_inflight: state.draining_inflight,
            held: state.held,
            closed_upgraded: state.closed_upgraded,
            text: state.text,
        }))
    }
}

/// The only place where a refusal becomes a gRPC status. The chain goes along: the other end has no other way to it.
fn status(error: &SetTableError) -> Status {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match error {
        SetTableError::NoListener { .. } => Status::not_found(text),
        SetTableError::Twice { .. } | SetTableError::TooMany { .. } => Status::invalid_argument(text),
        SetTableError::Store { .. } => Status::unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(instance: &str, host: &str, port: u32, admission: &str) -> v1::Target {
        let (instance, host, admission) = (instance.to_owned(), host.to_owned(), admission.to_owned());
        v1::Target { instance, host, port, admission }
    }

    #[test]
    fn a_target_that_makes_no_sense_is_refused_and_never_guessed_at() {
        for (target, named) in [
            (wire("api", "localhost", 80, "admitting"), "api"),
            (wire("api-1.2", "", 80, "admitting"), "host"),
            (wire("api-1.2", "localhost", 0, "admitting"), "port"),
            (wire("api-1.2", "localhost", 65_536, "admitting"), "65536"),
            (wire("api-1.2", "localhost", 80, ""), "admission"),
            (wire("api-1.2", "localhost", 80, "drained"), "drained"),
        ] {
            let error = from_wire(target).expect_err("refused");
            assert!(error.contains(named), "{error}");
        }
        let target = wire("api-1.2", "localhost", 65_535, "draining");
        assert_eq!(from_wire(target.clone()).map(|found| to_wire(&found)), Ok(target));
    }
}
