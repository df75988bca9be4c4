//! The host agent's end of its component agents: one connection for each container, opened again when it breaks.
//!
//! Lost contact is never an answer. Whoever asked is told that nothing is known, and since when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tonic::Code;
use tonic::transport::Channel;

use crate::model::{FromComponent, InstanceId, ToComponent};
use crate::proto;
use crate::proto::v1::component_agent_client::ComponentAgentClient;
use crate::runtime::{Inside, Runtime};

/// How long a component agent may take to say who it is. On a busy host it is milliseconds.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How much longer than what it is asked to wait for itself an answer may take.
const SLACK: Duration = Duration::from_secs(3);
/// Before contact is tried again: each try runs a relay in the container.
const AGAIN: Duration = Duration::from_millis(500);

/// What came of a question.
pub(super) enum Heard {
    /// There is no component agent: it is for the host agent to find out.
    Nobody,
    /// An answer.
    Answer(FromComponent),
    /// No contact: nothing is known. For people.
    Lost(String),
}

/// The contacts of all instances.
#[derive(Clone, Default)]
pub(super) struct Contacts(Arc<Mutex<BTreeMap<InstanceId, Arc<Contact>>>>);

type Client = ComponentAgentClient<Channel>;

/// One instance's.
#[derive(Default)]
struct Contact {
    line: tokio::sync::Mutex<Line>,
    /// Since when there is none, and why.
    lost: Mutex<Option<Lost>>,
}

#[derive(Default)]
struct Line {
    /// Whether there is a component agent: the command of a container never changes.
    is_there: Option<bool>,
    client: Option<Client>,
    /// Which connection this is: who finds an older one broken must not drop a newer one.
    number: u64,
}

#[derive(Clone)]
struct Lost {
    since: SystemTime,
    tried: Instant,
    why: String,
}

impl Contacts {
    /// Asks the component agent of an instance, if it has one; `said`: the manifest says so. `patience` is what the
    /// answer may take by itself.
    pub(super) async fn ask(
        &self,
        runtime: &dyn Runtime,
        instance: &InstanceId,
        said: bool,
        question: &ToComponent,
        patience: Duration,
    ) -> Heard {
        let contact = {
            let mut contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(contacts.entry(instance.clone()).or_default())
        };
        let (number, client) = match contact.line(runtime, instance, said).await {
            Ok(Some(found)) => found,
            Ok(None) => return Heard::Nobody,
            Err(text) => return Heard::Lost(text),
        };
        match ask(client, question, patience + SLACK).await {
            Ok(answer) => {
                *contact.lost() = None;
                Heard::Answer(answer)
            }
            Err(why) => {
                contact.broken(number).await;
                Heard::Lost(contact.note(instance, why))
            }
        }
    }

    /// What has been removed is asked nothing more.
    pub(super) fn forget(&self, instance: &InstanceId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
    }
}

impl Contact {
    fn lost(&self) -> std::sync::MutexGuard<'_, Option<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there is no contact, and says so.
    fn note(&self, instance: &InstanceId, why: String) -> String {
        let mut lost = self.lost();
        let since = lost.as_ref().map_or_else(SystemTime::now, |lost| lost.since);
        let text = in_words(instance, since, &why);
        *lost = Some(Lost { since, tried: Instant::now(), why });
        text
    }

    async fn broken(&self, number: u64) {
        let mut line = self.line.lock().await;
        if line.number == number {
            line.client = None;
        }
    }

    /// The connection, opened where there is none. `Ok(None)`: there is no component agent.
    async fn line(
        &self,
        runtime: &dyn Runtime,
        instance: &InstanceId,
        said: bool,
    ) -> Result<Option<(u64, Client)>, String> {
        let mut line = self.line.lock().await;
        if line.is_there == Some(false) {
            return Ok(None);
        }
        if let Some(client) = &line.client {
            return Ok(Some((line.number, client.clone())));
        }
        if let Some(lost) = self.lost().clone().filter(|lost| lost.tried.elapsed() < AGAIN) {
            return Err(in_words(instance, lost.since, &lost.why));
        }
        let door = match runtime.door(Inside::Component { instance, said }).await {
            Ok(Some(door)) => door,
            Ok(None) => {
                line.is_there = Some(false);
                return Ok(None);
            }
            // Whether there is one is not known: that is the engine's word, not ours.
            Err(error) if line.is_there.is_none() => return Err(error.message),
            Err(error) => return Err(self.note(instance, error.message)),
        };
        line.is_there = Some(true);
        let opened = async {
            let channel = tokio::time::timeout(GREETING_MAX, proto::over(door)).await;
            let channel = channel.map_err(|_| NO_ANSWER.to_owned())?.map_err(|error| crate::cause::chain(&error))?;
            let client = ComponentAgentClient::new(channel);
            match ask(client.clone(), &ToComponent::State, GREETING_MAX).await? {
                FromComponent::State(program) if program.component != instance.slot.component => {
                    let (says, component) = (program.component, &instance.slot.component);
                    tracing::warn!(%instance, %says, "its component agent says `--component {says}`, not {component}");
                }
                FromComponent::State(program) => tracing::debug!(%instance, ?program, "its component agent answers"),
                _ => return Err(ODD_ANSWER.to_owned()),
            }
            Ok(client)
        };
        match opened.await {
            Ok(client) => {
                if let Some(lost) = self.lost().take() {
                    let since = humantime::format_rfc3339_seconds(lost.since);
                    tracing::info!(%instance, %since, "contact with its component agent is back");
                }
                line.number += 1;
                line.client = Some(client.clone());
                Ok(Some((line.number, client)))
            }
            Err(why) => Err(self.note(instance, why)),
        }
    }
}

const NO_ANSWER: &str = "it does not answer";
/// An answer to another question.
pub(super) const ODD_ANSWER: &str = "it gave an answer that this version does not understand";

fn in_words(instance: &InstanceId, since: SystemTime, why: &str) -> String {
    let since = humantime::format_rfc3339_seconds(since);
    format!("no contact with the component agent of {instance} since {since} ({why})")
}

/// Asks once. Every error is one of contact: an agent that does not understand this version is none to talk to.
async fn ask(mut client: Client, question: &ToComponent, bound: Duration) -> Result<FromComponent, String> {
    match tokio::time::timeout(bound, client.ask(proto::question(question))).await {
        Ok(Ok(reply)) => proto::read_reply(reply.get_ref()).map_err(|error| crate::cause::chain(&error)),
        Ok(Err(status)) if status.code() == Code::InvalidArgument => Err(status.message().to_owned()),
        Ok(Err(_)) => Err("the connection broke".to_owned()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}
