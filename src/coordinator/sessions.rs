//! Sessions with agents, and the guard in front of every method.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::core::{CoreHandle, Message};
use crate::model::{FleetName, ToAgent, ToCoordinator};
use crate::proto::v1::session_server::Session;
use crate::proto::v1::{AgentFrame, CoordinatorFrame};
use crate::proto::{from_coordinator, to_coordinator};
use crate::transport::{Peer, Role};

/// Words that may wait for a slow agent; beyond it its session ends and everything outstanding is sent again in the
/// next one. Room for a command to each of a thousand slots of one host.
const OUTBOX: usize = 2_048;

/// Which role may call which method. A method that is not listed may be called by nobody.
fn role_for(path: &str) -> Option<Role> {
    Some(match path {
        "/baton.v1.Session/Attach" => Role::Agent,
        "/baton.v1.Control/Plan"
        | "/baton.v1.Control/Begin"
        | "/baton.v1.Control/Operate"
        | "/baton.v1.Control/Status"
        | "/baton.v1.Control/Watch"
        | "/baton.v1.Control/History"
        | "/baton.v1.Control/Logs" => Role::Operator,
        _ => return None,
    })
}

/// Decides by name, before a message is parsed.
#[derive(Clone)]
pub(super) struct Guard {
    fleet: FleetName,
}

impl Guard {
    pub(super) fn new(fleet: FleetName) -> Self {
        Self { fleet }
    }

    fn judge(&self, path: &str, peer: Option<&Peer>) -> Result<(), Status> {
        let role = role_for(path).ok_or_else(|| Status::unimplemented("there is no such method"))?;
        let peer = peer.ok_or_else(|| Status::unauthenticated("who are you?"))?;
        if peer.may(role, self.fleet.as_str()) {
            Ok(())
        } else {
            tracing::warn!(%peer, path, "refused a call");
            Err(Status::permission_denied(format!(
                "{peer} may not call this: it takes a certificate named spiffe://{}/{role}/NAME",
                self.fleet
            )))
        }
    }
}

/// Puts the guard in front of a service.
#[derive(Clone)]
pub(super) struct GuardLayer {
    guard: Guard,
}

impl GuardLayer {
    pub(super) fn new(guard: Guard) -> Self {
        Self { guard }
    }
}

impl<S> tower::Layer<S> for GuardLayer {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.guard.clone() }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B> tower::Service<http::Request<B>> for Guarded<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<tonic::body::Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match self.guard.judge(request.uri().path(), request.extensions().get::<Peer>()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

/// The agent's side of the coordinator.
pub(super) struct SessionService {
    core: CoreHandle,
}

impl SessionService {
    pub(super) fn new(core: CoreHandle) -> Self {
        Self { core }
    }
}

#[tonic::async_trait]
impl Session for SessionService {
    type AttachStream = ReceiverStream<Result<CoordinatorFrame, Status>>;

    async fn attach(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(OUTBOX);
        tokio::spawn(carry(self.core.clone(), peer, incoming, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn carry(
    core: CoreHandle,
    peer: Option<Peer>,
    mut incoming: Streaming<AgentFrame>,
    sender: mpsc::Sender<Result<CoordinatorFrame, Status>>,
) {
    let refuse = |status: Status| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(Err(status)).await;
        }
    };
    let hello = match first_word(&mut incoming).await {
        Ok(hello) => hello,
        Err(status) => return refuse(status).await,
    };
    // A certificate is good for one id: an agent cannot speak for another.
    if let Some(name) = peer.as_ref().and_then(Peer::name)
        && name != hello.agent.as_str()
    {
        let why = format!("the certificate of agent {name} is not good for agent {}", hello.agent);
        return refuse(Status::permission_denied(why)).await;
    }
    let agent = hello.agent.clone();
    let (words, mut outgoing) = mpsc::channel::<ToAgent>(OUTBOX);
    let (answer, answered) = oneshot::channel();
    if core.send(Message::Attach { hello, words, answer }).await.is_err() {
        return;
    }
    let session = match answered.await {
        Ok(Ok(session)) => session,
        Ok(Err(refusal)) => {
            tracing::warn!(%agent, %refusal, "refused an agent");
            let _ = sender.send(Ok(from_coordinator(&ToAgent::Refused(refusal)))).await;
            return;
        }
        Err(_) => return,
    };
    loop {
        tokio::select! {
            word = outgoing.recv() => match word {
                Some(word) => {
                    if sender.send(Ok(from_coordinator(&word))).await.is_err() {
                        break;
                    }
                }
                None => break, // The loop has let go of this session.
            },
            frame = incoming.message() => match frame {
                Ok(Some(frame)) => match to_coordinator(&frame) {
                    Ok(word) => {
                        if core.send(Message::Word { agent: agent.clone(), session, word }).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        let why = crate::cause::chain(&error);
                        tracing::warn!(%agent, %why, "refused a frame");
                        let _ = sender.send(Err(Status::invalid_argument(why))).await;
                        break;
                    }
                },
                Ok(None) | Err(_) => break,
            },
        }
    }
    let _ = core.send(Message::Detach { agent, session }).await;
}

async fn first_word(incoming: &mut Streaming<AgentFrame>) -> Result<Box<crate::model::AgentHello>, Status> {
    let frame = tokio::time::timeout(std::time::Duration::from_secs(15), incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello within 15s"))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before the hello"))?;
    match to_coordinator(&frame).map_err(|error| Status::invalid_argument(crate::cause::chain(&error)))? {
        ToCoordinator::Hello(hello) => Ok(hello),
        _ => Err(Status::invalid_argument("the first word must be a hello")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Identity;

    #[test]
    fn every_method_of_the_protos_has_a_role_and_the_wrong_one_is_refused() {
        let guard = Guard::new(FleetName::new("orders").unwrap());
        let agent = Peer::Certified(Identity::parse("spiffe://orders/agent/a").unwrap());
        let operator = Peer::Certified(Identity::parse("spiffe://orders/operator/o").unwrap());
        let stranger = Peer::Certified(Identity::parse("spiffe://other/operator/o").unwrap());
        for (service, text) in [
            ("Control", include_str!("../../proto/control.proto")),
            ("Session", include_str!("../../proto/agent.proto")),
        ] {
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("rpc ")) {
                let method = line.split('(').next().unwrap();
                let path = format!("/baton.v1.{service}/{method}");
                assert!(role_for(&path).is_some(), "{path} has no role");
                assert_eq!(guard.judge(&path, Some(&agent)).is_ok(), service == "Session", "{path}");
                assert_eq!(guard.judge(&path, Some(&operator)).is_ok(), service == "Control", "{path}");
                assert!(guard.judge(&path, Some(&stranger)).is_err(), "{path}");
                assert!(guard.judge(&path, None).is_err(), "{path}");
                assert!(guard.judge(&path, Some(&Peer::Local { uid: 0 })).is_ok(), "{path}");
            }
        }
        assert!(guard.judge("/baton.v1.Control/Shell", Some(&operator)).is_err());
    }
}
