//! Digests: what a manifest, a definition, a spec and a plan are known by.
//!
//! SHA-256 in lower-case hex over JSON. The bytes are the same for the same value: structs are written in the order of
//! their fields and every map is ordered, so nothing needs sorting.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::fill::fill_version;
use crate::model::{
    AgentId, ComponentName, Definition, Digest, Manifest, NamedPort, Plan, Proxy, Resolution, RuntimeKind, compose_spec,
};

fn digest_of(value: &impl Serialize) -> Digest {
    // The model's types have text keys and no floats, the only things that JSON could refuse.
    let bytes = serde_json::to_vec(value).expect("a value of the model can be written as JSON");
    Digest(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The digest of a manifest at a version, values included.
///
/// It tells whether a roll was planned from this manifest: compare with [`Plan::manifest`], giving the version of that
/// plan (so that an absent `--to` still compares alike).
pub fn manifest_digest(manifest: &Manifest, version: Option<&str>) -> Digest {
    let components: BTreeMap<&ComponentName, Definition> =
        manifest.components.iter().map(|(name, definition)| (name, asked(fill_version(definition, version)))).collect();
    digest_of(&(&manifest.fleet, manifest.strategy, &manifest.stages, manifest.api_at, components))
}

/// What was asked for: the containers that Compose would make name those that they replace, so they differ as soon as a
/// roll has begun. Compose's own digest of the service stands for them; where that one has another container's id in
/// it, the one that does not know of any.
fn asked(mut definition: Definition) -> Definition {
    if let Some(compose) = &mut definition.compose {
        compose.containers.clear();
        if let Some(asked) = compose.asked_hash.take() {
            compose.config_hash = asked;
        }
    }
    definition
}

/// The digest that stands for "no manifest was given" in a plan.
pub(super) fn no_manifest_digest() -> Digest {
    digest_of(&())
}

/// The digest of a definition, values and steering keys included: its name in the spec store.
pub fn definition_digest(definition: &Definition) -> Digest {
    digest_of(definition)
}

/// All that decides what an instance *is*. Borrowed: it exists for its digest only.
#[derive(Serialize)]
struct Spec<'a> {
    runtime: RuntimeKind,
    image: Option<Artefact<'a>>,
    release: Option<Artefact<'a>>,
    command: Vec<&'a str>,
    env: BTreeMap<&'a str, &'a str>,
    env_file: Option<Artefact<'a>>,
    cwd: Option<&'a str>,
    ports: &'a [NamedPort],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fronts: &'a BTreeMap<ComponentName, Proxy>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Artefact<'a> {
    /// An image by its id, a file by its content: the name does not matter.
    Content(&'a str),
    /// A release: its folder is part of what runs (`{release}`).
    At { path: &'a str, content: Option<&'a str> },
    /// Not on the agent: only its name is known.
    Named(&'a str),
}

/// The digest of a definition's spec on one agent: runtime, image id or release path and digest, command, environment,
/// content of the env_file, working folder and ports. Keys that only steer a roll (grace, ready, update, traffic,
/// drain,
/// replicas, on, role) are not in it. `{version}` is expected to be filled in; what only the agent knows is not.
///
/// Of a service of a Compose project, Compose's own digest and the image's id are all of it.
pub fn spec_digest(definition: &Definition, resolution: &Resolution) -> Digest {
    if let Some(compose) = &definition.compose {
        let image = resolution.image_id.as_deref().or(definition.image.as_deref());
        return compose_spec(&compose.config_hash, image.unwrap_or_default());
    }
    let spec = Spec {
        runtime: definition.runtime,
        image: definition.image.as_deref().map(|image| match &resolution.image_id {
            Some(id) => Artefact::Content(id),
            None => Artefact::Named(image),
        }),
        release: definition.release.as_ref().map(|release| Artefact::At {
            path: &release.path,
            content: resolution.release.as_ref().map(|digest| digest.0.as_str()),
        }),
        command: definition.command.iter().map(|word| word.expose()).collect(),
        env: definition.env.iter().map(|(name, value)| (name.as_str(), value.expose())).collect(),
        env_file: definition.env_file.as_deref().map(|path| match &resolution.env_file {
            Some(digest) => Artefact::Content(&digest.0),
            None => Artefact::Named(path),
        }),
        cwd: definition.cwd.as_deref(),
        ports: &definition.ports,
        fronts: &definition.fronts,
    };
    digest_of(&spec)
}

/// The same on an agent, which may have its own host's project: then what it has answered is what the definition is
/// there.
pub fn spec_on(definition: &Definition, agent: &AgentId, resolution: &Resolution) -> Digest {
    let Some(compose) = definition.compose.as_ref().filter(|compose| compose.remote.is_some()) else {
        return spec_digest(definition, resolution);
    };
    match compose.on(agent) {
        Some(host) => {
            let image = resolution.image_id.as_deref().unwrap_or(&host.image);
            compose_spec(&host.config_hash, image)
        }
        // Nothing has this one: whatever is there is not known to be what is wanted.
        None => digest_of(&("not known on", agent)),
    }
}

/// The digest of a plan: over everything in it but the digest itself.
pub fn plan_digest(plan: &Plan) -> Digest {
    digest_of(&Plan { digest: Digest(String::new()), ..plan.clone() })
}
