//! What a component agent answers its host agent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::calls::{Calls, Way};
use super::children::Children;
use crate::model::{Call, ComponentName, FromComponent, Probe, ProgramState, ToComponent};
use crate::probe;
use crate::proto::v1::component_agent_server::{ComponentAgent, ComponentAgentServer};
use crate::proto::v1::{ComponentQuestion, ComponentReply};
use crate::proto::{from_component, read_question};
use crate::transport::Listener;

/// A question is a few lines.
const QUESTION_BYTES_MAX: usize = 256 << 10;

/// The program, as others may know it.
pub(super) struct Program {
    component: ComponentName,
    pid: i32,
    exit: Mutex<Option<i32>>,
}

impl Program {
    pub(super) fn new(component: ComponentName, pid: i32) -> Self {
        Self { component, pid, exit: Mutex::new(None) }
    }

    /// It has ended.
    pub(super) fn end(&self, code: u8) {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(i32::from(code));
    }
}

/// The service.
pub(super) struct Service {
    program: Arc<Program>,
    children: Arc<Children>,
    calls: Calls,
}

impl Service {
    pub(super) fn new(program: Arc<Program>, children: Arc<Children>) -> Self {
        Self { program, children, calls: Calls::default() }
    }

    /// Answers for as long as the process lives. Without it the program runs on, and the host agent waits.
    pub(super) async fn serve(self, listener: Listener) {
        let service = ComponentAgentServer::new(self).max_decoding_message_size(QUESTION_BYTES_MAX);
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener.incoming());
        if let Err(error) = serving.await {
            tracing::error!(why = crate::cause::chain(&error), "the component agent answers no more");
        }
    }

    async fn answer(&self, question: ToComponent) -> FromComponent {
        match question {
            ToComponent::State => FromComponent::State(ProgramState {
                component: self.program.component.clone(),
                pid: self.program.pid,
                exit: *self.program.exit.lock().unwrap_or_else(PoisonError::into_inner),
                draining: self.calls.is_draining(),
            }),
            ToComponent::Probe { probe, timeout } => self.probe(probe, timeout).await,
            ToComponent::Inflight { source } => {
                let count = probe::read_inflight(&source.http, &source.pointer, source.timeout).await;
                FromComponent::Inflight { count: count.map_err(|error| crate::cause::chain(&error)) }
            }
            ToComponent::Drain { call, left } => self.call(Way::Drain, call, left).await,
            ToComponent::Undrain { call, left } => self.call(Way::Undrain, call, left).await,
        }
    }

    async fn probe(&self, wanted: Probe, timeout: Duration) -> FromComponent {
        let (ready, text) = match wanted {
            Probe::Http(url) => {
                let answer = probe::http_ready(&url, timeout).await;
                (answer.ready, answer.text)
            }
            Probe::Tcp(address) => {
                let answer = probe::tcp_ready(&address, timeout).await;
                (answer.ready, answer.text)
            }
            Probe::Exec(argv) => match self.children.run(&argv, timeout).await {
                Ok(Some(code)) => (code == 0, format!("exit code {code}")),
                Ok(None) => (false, format!("no end within {}", humantime::format_duration(timeout))),
                Err(error) => (false, crate::cause::chain(&error)),
            },
            Probe::Notify | Probe::Health => (false, "a component agent cannot ask that".to_owned()),
        };
        FromComponent::Probe { ready, text }
    }

    async fn call(&self, way: Way, call: Call, left: Duration) -> FromComponent {
        let children = self.children.clone();
        let made = self.calls.make(way, || async move {
            match call {
                Call::Http(url) => {
                    let answer = probe::http_post(&url, left).await;
                    if answer.ready { Ok(()) } else { Err(answer.text) }
                }
                Call::Exec(argv) => match children.run(&argv, left).await {
                    Ok(Some(0)) => Ok(()),
                    Ok(Some(code)) => Err(format!("it ended with exit code {code}")),
                    Ok(None) => Err(format!("it did not end within {}", humantime::format_duration(left))),
                    Err(error) => Err(crate::cause::chain(&error)),
                },
            }
        });
        FromComponent::Called { result: made.await }
    }
}

#[tonic::async_trait]
impl ComponentAgent for Service {
    async fn ask(&self, request: Request<ComponentQuestion>) -> Result<Response<ComponentReply>, Status> {
        let question =
            read_question(request.get_ref()).map_err(|error| Status::invalid_argument(crate::cause::chain(&error)))?;
        Ok(Response::new(from_component(&self.answer(question).await)))
    }
}
