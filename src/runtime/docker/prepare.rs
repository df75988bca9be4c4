//! Making a container: created, proved, connected and filled, not started.
//!
//! The name and number are on record before the engine is asked, and the container's id after all is done. What a crash
//! leaves in between has a temporary name that says whose it is, has never run, and is made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use bollard::models::{ContainerCreateBody, NetworkConnectRequest, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectNetworkOptions, RemoveContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bollard::{Docker, body_full};
use bytes::Bytes;
use serde_json::Value;

use super::body;
use super::engine::{ACT, ASK, Trouble, refused};
use super::look::{CONFIG_HASH, mounts_of, name_of, spec_of, state_of};
use super::record::{Entry, temporary_name};
use super::runtime::Inner;
use super::volumes::carry;
use crate::model::{
    ComposeArchive, ComposeDigest, ComposeService, Digest, FailureKind, InstanceId, InstanceState, Secret,
    compose_spec_with,
};
use crate::runtime::redact::Redactor;
use crate::runtime::{Blueprint, RuntimeError};

/// Compose's label for the id of the container whose place another one takes.
const REPLACE: &str = "com.docker.compose.replace";

/// What is to be made.
pub(super) struct Draft {
    /// The final name.
    pub(super) name: String,
    /// The name to create it under.
    pub(super) made_as: String,
    /// The body of the create call, as JSON.
    pub(super) body: Secret,
    /// Further networks: name or id, and the body of the connect call.
    pub(super) networks: Vec<(String, String)>,
    pub(super) archives: Vec<ComposeArchive>,
    pub(super) ports: BTreeMap<String, u16>,
}

impl Inner {
    pub(super) async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let draft = draft(&self.fleet, instance, blueprint)?;
        // Adopts what has no number yet, so that a predecessor is one that is known.
        let seen = self.look(&instance.slot).await?;
        if let Some(existing) = seen.iter().find(|seen| seen.id == *instance) {
            let same = existing.entry.spec.as_ref() == Some(&blueprint.spec);
            let message = format!("instance {instance} exists with another spec; numbers are never used again");
            return if same { Ok(()) } else { Err(refused(FailureKind::Refused, message)) };
        }
        self.clear_unfinished(instance).await?;
        let old = seen.iter().rfind(|seen| seen.id.number < instance.number);
        let mut wanted: Value = serde_json::from_str(draft.body.expose())
            .map_err(|_| refused(FailureKind::Refused, format!("{instance}: the body of its container is no JSON")))?;
        let mut spec = blueprint.spec.clone();
        if let Some(compose) = &blueprint.definition.compose {
            self.provide(instance, compose).await?;
            self.live_in(&mut wanted)?;
            if let Some(digest) = &compose.digest
                && let Some(hash) = digest.with(&self.ids(digest).await?)
            {
                spec = compose_spec_with(&spec, &hash);
                wanted["Labels"][CONFIG_HASH] = Value::from(hash);
            }
            // Its name may stand for another image by now.
            let now = self.image_lately(wanted["Image"].as_str().unwrap_or_default()).await?;
            let now = now.map(|about| about.id).unwrap_or_default();
            let former = self.former_image(&blueprint.definition, &now).await;
            if let Some(id) = former.map_err(|why| refused(FailureKind::Missing, format!("{instance}: {why}")))? {
                wanted["Image"] = Value::from(id);
            }
        }
        if let Some(old) = old {
            if blueprint.definition.compose.is_some()
                && let Some(labels) = wanted["Labels"].as_object_mut()
            {
                // As Compose does it for a container that takes another one's place.
                labels.insert(REPLACE.to_owned(), Value::from(old.about.id.as_deref().unwrap_or_default()));
            }
            let image = wanted["Image"].as_str().unwrap_or_default();
            // One that is not there is told by the engine when the container is made.
            let volumes = self.image_lately(image).await?.map(|about| about.volumes).unwrap_or_default();
            carry(&mut wanted, &volumes, &mounts_of(&old.about));
        }
        let entry = Entry {
            name: draft.name.clone(),
            made_as: draft.made_as.clone(),
            spec: Some(blueprint.spec.clone()),
            definition: Some(blueprint.definition_digest.clone()),
            version: blueprint.version.clone(),
            first_port: blueprint.definition.ports.first().and_then(|port| draft.ports.get(&port.name).copied()),
            ports: draft.ports.clone(),
            retain: Some(blueprint.definition.retain),
            ..Entry::default()
        };
        self.records
            .update(&instance.slot, |record| {
                record.highest = record.highest.max(instance.number);
                record.instances.insert(instance.number, entry);
            })
            .await?;
        let redactor = redactor(&wanted);
        let made = self.create(instance, blueprint, &draft, &wanted, &spec).await.map_err(|mut error| {
            error.message = redactor.redact(error.message);
            error
        });
        let id = made?;
        self.records
            .update(&instance.slot, |record| {
                if let Some(entry) = record.instances.get_mut(&instance.number) {
                    entry.container = Some(id);
                }
            })
            .await?;
        if old.is_none() {
            // Alone in its slot, it has its final name at once: a look sees to that.
            self.look(&instance.slot).await?;
        }
        Ok(())
    }

    /// A container that lives in another one's is made with that one's id, and the engine would take the name for the
    /// one that has it now. Meant is the newest: it takes the name when its predecessor has gone.
    fn live_in(&self, body: &mut Value) -> Result<(), RuntimeError> {
        let host = &mut body["HostConfig"];
        for mode in ["NetworkMode", "PidMode", "IpcMode"] {
            let Some(name) = host[mode].as_str().and_then(|mode| mode.strip_prefix("container:")) else { continue };
            if let Some(id) = self.newest(name)? {
                host[mode] = Value::from(format!("container:{id}"));
            }
        }
        for from in host["VolumesFrom"].as_array_mut().into_iter().flatten() {
            let text = from.as_str().unwrap_or_default().to_owned();
            let (name, how) = text.split_at(text.find(':').unwrap_or(text.len()));
            if let Some(id) = self.newest(name)? {
                *from = Value::from(format!("{id}{how}"));
            }
        }
        Ok(())
    }

    /// The ids of the containers that Compose's digest of this one has in it, by their names. What is no slot of ours
    /// is what has the name.
    async fn ids(&self, digest: &ComposeDigest) -> Result<BTreeMap<String, String>, RuntimeError> {
        let mut ids = BTreeMap::new();
        for name in digest.names() {
            let id = match self.newest(name)? {
                Some(id) => Some(id),
                None => self.container(name).await?.and_then(|about| about.id),
            };
            ids.extend(id.map(|id| (name.to_owned(), id)));
        }
        Ok(ids)
    }

    /// The id of the newest container of the slot whose containers have a name in the end. `None`: no slot of ours.
    fn newest(&self, name: &str) -> Result<Option<String>, RuntimeError> {
        for slot in self.records.slots()? {
            let entries = self.records.read(&slot)?.instances.into_values().rev();
            if let Some(id) = entries.filter(|entry| entry.name == name).find_map(|entry| entry.container) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Networks and volumes that a container needs and that are not there, as Compose would create them. One that is
    /// there is left as it is: a volume holds data, and a network has others on it.
    async fn provide(&self, instance: &InstanceId, compose: &ComposeService) -> Result<(), RuntimeError> {
        let _turn = self.providing.lock().await;
        let client = self.engine.client().await?;
        for need in &compose.networks {
            let known = format!("network {}", need.name);
            if self.provided.found(&known).is_some() {
                continue;
            }
            let look = client.inspect_network(&need.name, None::<InspectNetworkOptions>);
            let there = self.engine.bounded(&format!("inspecting network {}", need.name), ASK, look).await;
            if !absent(there)? {
                self.provided.keep(&known, ());
                continue;
            }
            let call = verbatim(client, Bytes::from(need.body.expose().to_owned()));
            let create = call.create_network(NetworkCreateRequest::default());
            let made = self.engine.bounded(&format!("creating network {}", need.name), ACT, create).await;
            provided(instance, &need.name, made)?;
        }
        for need in &compose.volumes {
            let known = format!("volume {}", need.name);
            if self.provided.found(&known).is_some() {
                continue;
            }
            let look = client.inspect_volume(&need.name);
            let there = self.engine.bounded(&format!("inspecting volume {}", need.name), ASK, look).await;
            if !absent(there)? {
                self.provided.keep(&known, ());
                continue;
            }
            let call = verbatim(client, Bytes::from(need.body.expose().to_owned()));
            let create = call.create_volume(VolumeCreateRequest::default());
            let made = self.engine.bounded(&format!("creating volume {}", need.name), ACT, create).await;
            provided(instance, &need.name, made)?;
        }
        Ok(())
    }

    /// Creates, proves, connects and fills. What fails is taken away again.
    async fn create(
        &self,
        instance: &InstanceId,
        blueprint: &Blueprint,
        draft: &Draft,
        wanted: &Value,
        spec: &Digest,
    ) -> Result<String, RuntimeError> {
        let client = self.engine.client().await?;
        let call = verbatim(client, Bytes::from(wanted.to_string()));
        let create = || {
            let options = CreateContainerOptionsBuilder::new().name(&draft.made_as).build();
            call.create_container(Some(options), ContainerCreateBody::default())
        };
        let what = format!("creating {instance}");
        let mut made = self.engine.bounded(&what, ACT, create()).await;
        if made.as_ref().is_err_and(Trouble::is_conflict) {
            // Something has its name: what is ours and has never run goes, of anything else is told.
            self.delete_unstarted(&draft.made_as).await?;
            made = self.engine.bounded(&what, ACT, create()).await;
        }
        let id = match made {
            Ok(created) => {
                for warning in created.warnings {
                    tracing::warn!(%instance, warning, "the engine warns");
                }
                created.id
            }
            Err(trouble) => return Err(trouble.into()),
        };
        match self.finish(&id, instance, blueprint, draft, spec).await {
            Ok(()) => Ok(id),
            Err(error) => {
                // Its volumes stay: those that were carried are another container's too.
                if let Err(left) = self.delete(&id).await {
                    tracing::warn!(container = draft.made_as, why = left.message, "a half-made container is left");
                }
                Err(error)
            }
        }
    }

    async fn finish(
        &self,
        id: &str,
        instance: &InstanceId,
        blueprint: &Blueprint,
        draft: &Draft,
        spec: &Digest,
    ) -> Result<(), RuntimeError> {
        let missing = || refused(FailureKind::Missing, format!("{instance}: its container went away again"));
        let about = self.container(id).await?.ok_or_else(missing)?;
        if spec_of(&about).as_ref() != Some(spec) {
            let image = blueprint.definition.image.as_deref().unwrap_or_default();
            let has = about.image.as_deref().unwrap_or("unknown");
            return Err(refused(
                FailureKind::Missing,
                format!(
                    "{instance}: what image {image} names here now ({has}) is not what the plan was made for; plan anew"
                ),
            ));
        }
        let client = self.engine.client().await?;
        for (network, body) in &draft.networks {
            let mut body: Value = serde_json::from_str(body).map_err(|_| {
                refused(FailureKind::Refused, format!("{instance}: its connection to {network} is no JSON"))
            })?;
            // Whoever wrote it knew another container's id, or none.
            body["Container"] = Value::from(id);
            let call = verbatim(client, Bytes::from(body.to_string()));
            let connect = call.connect_network(network, NetworkConnectRequest::default());
            self.engine.bounded(&format!("connecting {instance} to network {network}"), ACT, connect).await?;
        }
        for archive in &draft.archives {
            let tar = base64::engine::general_purpose::STANDARD.decode(archive.tar.expose()).map_err(|_| {
                refused(FailureKind::Refused, format!("{instance}: the files for {} are no base64", archive.path))
            })?;
            let options = UploadToContainerOptionsBuilder::new().path(&archive.path).build();
            let upload = client.upload_to_container(id, Some(options), body_full(Bytes::from(tar)));
            self.engine.bounded(&format!("putting files into {} of {instance}", archive.path), ACT, upload).await?;
        }
        if !draft.networks.is_empty() || !draft.archives.is_empty() {
            self.memo.forget(id);
        }
        Ok(())
    }

    /// Takes away what was left of this slot by making it and never finished. None of it has ever run.
    async fn clear_unfinished(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let record = self.records.read(&instance.slot)?;
        let begun: Vec<(u64, String)> = record
            .instances
            .iter()
            .filter(|(_, entry)| entry.container.is_none())
            .map(|(number, entry)| (*number, entry.made_as.clone()))
            .collect();
        let mut gone = Vec::new();
        for (number, entry) in &record.instances {
            if let Some(id) = &entry.container
                && self.container(id).await?.is_none()
            {
                gone.push(*number);
            }
        }
        for (number, name) in &begun {
            self.delete_unstarted(name).await?;
            gone.push(*number);
        }
        self.records
            .update(&instance.slot, |record| {
                for number in gone {
                    record.instances.remove(&number);
                }
            })
            .await
    }

    async fn delete_unstarted(&self, name: &str) -> Result<(), RuntimeError> {
        let Some(about) = self.container(name).await? else { return Ok(()) };
        let created = about.state.as_ref().is_some_and(|state| state_of(state) == InstanceState::Created);
        // An inspect takes a part of an id for a name.
        if name_of(&about) != name {
            return Ok(());
        }
        let labels = about.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let why = if !created {
            "and has run"
        } else if self.places.slot_of(&labels).is_none() {
            "and is none of this project's"
        } else {
            return self.delete(about.id.as_deref().unwrap_or(name)).await;
        };
        let message = format!("a container named {name} is there {why}; remove it (`docker rm`) and try again");
        Err(refused(FailureKind::Refused, message))
    }

    /// Deletes a container that does not run, its volumes never. One that is not there: success.
    pub(super) async fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        let client = self.engine.client().await?;
        let options = RemoveContainerOptionsBuilder::new().v(false).force(false).build();
        match self.act(id, "removing a container", client.remove_container(id, Some(options))).await {
            Ok(()) => {}
            Err(trouble) if trouble.is_absent() => {}
            Err(trouble) => return Err(trouble.into()),
        }
        if let Some((_, listed)) = &mut *self.listed.lock().await {
            Arc::make_mut(listed).retain(|found| found.id != id);
        }
        Ok(())
    }
}

/// Whether what was looked for is not there.
fn absent<T>(answer: Result<T, Trouble>) -> Result<bool, RuntimeError> {
    match answer {
        Ok(_) => Ok(false),
        Err(trouble) if trouble.is_absent() => Ok(true),
        Err(trouble) => Err(trouble.into()),
    }
}

/// Another slot of the same project may have been quicker.
fn provided<T>(instance: &InstanceId, name: &str, answer: Result<T, Trouble>) -> Result<(), RuntimeError> {
    match answer {
        Ok(_) => {
            tracing::info!(%instance, name, "created what it needs");
            Ok(())
        }
        Err(trouble) if trouble.is_conflict() => Ok(()),
        // The options of a driver, which an engine may quote, can hold a password.
        Err(Trouble { status: Some(status), error }) => {
            let message = format!("{instance} needs {name}, which the engine would not create (status {status})");
            Err(RuntimeError { message, ..error })
        }
        Err(trouble) => Err(trouble.into()),
    }
}

/// A client that sends this body, whatever bollard's types would make of it: what Compose says is sent as it is.
fn verbatim(client: &Docker, body: Bytes) -> Docker {
    client.clone().with_request_modifier(move |request| request.map(|_| body_full(body.clone())))
}

/// An engine may quote in its error what it did not like.
fn redactor(body: &Value) -> Redactor {
    let env = body["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words = ["Cmd", "Entrypoint"].into_iter().flat_map(|name| body[name].as_array().into_iter().flatten());
    let values = env.filter_map(|pair| Some(pair.split_once('=')?.1)).chain(words.filter_map(Value::as_str));
    Redactor::hiding(values, &[])
}

fn draft(fleet: &str, instance: &InstanceId, blueprint: &Blueprint) -> Result<Draft, RuntimeError> {
    let definition = &blueprint.definition;
    let ports = body::ports(definition).map_err(|why| refused(FailureKind::Refused, format!("{instance}: {why}")))?;
    let Some(compose) = &definition.compose else {
        let name = format!("{fleet}-{instance}");
        let body = body::of_definition(fleet, instance, blueprint, &ports)
            .map_err(|why| refused(FailureKind::Refused, format!("{instance}: {why}")))?;
        let (networks, archives) = (Vec::new(), Vec::new());
        return Ok(Draft { made_as: name.clone(), name, body, networks, archives, ports });
    };
    let container = compose.containers.get(&instance.slot.index).ok_or_else(|| {
        refused(
            FailureKind::Missing,
            format!(
                "{instance}: the plan does not say what container {} of service {} would be; plan anew",
                instance.slot.index, compose.service
            ),
        )
    })?;
    Ok(Draft {
        made_as: temporary_name(&container.name, instance.number),
        name: container.name.clone(),
        body: container.body.clone(),
        networks: container.networks.clone(),
        archives: container.archives.clone(),
        ports,
    })
}
