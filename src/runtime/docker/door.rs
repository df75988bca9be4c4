//! Ways into a container: to a socket that only what runs in there can open, and to one instance over its networks.
//!
//! A socket in a container is reached by a small relay that is run beside it (`baton relay SOCKET`): the engine carries
//! its standard input and output. That needs no port, no shared folder and no right on this host but the engine's own.

use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerInspectResponse, ExecConfig};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::engine::{ASK, refused};
use super::look::network_mode;
use super::runtime::Inner;
use crate::model::{
    COMPONENT_SOCKET, FailureKind, InstanceId, InstanceState, SeenComponentAgent, SlotName, component_agent,
};
use crate::runtime::{Door, Inside, RuntimeError};

/// What may be under way in each direction.
const BUFFER: usize = 64 << 10;
/// Where a gateway keeps its table and its control socket when its command does not say otherwise.
const GATEWAY_DIR: &str = "/var/lib/baton/gateway";

impl Inner {
    /// A way to a socket of Baton's own in a container; `None`: there is nothing of the kind in it.
    pub(super) async fn door(&self, to: Inside<'_>) -> Result<Option<Door>, RuntimeError> {
        let found = match to {
            Inside::Gateway(slot) => {
                let seen = self.look(slot).await?.into_iter().rfind(|seen| gateway_of(&seen.about).is_some());
                let Some(seen) = seen else { return Ok(None) };
                let at = gateway_of(&seen.about);
                (
                    seen.id,
                    seen.about,
                    at.map(|(program, dir)| (program, format!("{}/control.sock", dir.trim_end_matches('/')))),
                )
            }
            Inside::Component { instance, said } => {
                let (_, _, about) = self.existing(instance).await?;
                let default = || ("baton".to_owned(), COMPONENT_SOCKET.to_owned());
                let at = component_of(&about).map(|seen| (seen.program, seen.socket));
                (instance.clone(), about, at.or_else(|| said.then(default)))
            }
        };
        let (instance, about, Some((program, socket))) = found else { return Ok(None) };
        if super::life::state(&about) != InstanceState::Running {
            let message = format!("{instance} does not run");
            return Err(RuntimeError { retryable: true, ..refused(FailureKind::Refused, message) });
        }
        let id = about.id.clone().unwrap_or_default();
        Ok(Some(self.relay(&id, &instance, &[program, "relay".to_owned(), socket]).await?))
    }

    /// Runs a relay in a container and hands out its ends.
    async fn relay(&self, container: &str, instance: &InstanceId, argv: &[String]) -> Result<Door, RuntimeError> {
        let client = self.engine.client().await?;
        let config = ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..ExecConfig::default()
        };
        let what = format!("opening a way into {instance}");
        let exec = self.engine.bounded(&what, ASK, client.create_exec(container, config)).await?.id;
        let started = self.engine.bounded(&what, ASK, client.start_exec(&exec, None)).await?;
        let StartExecResults::Attached { mut output, mut input } = started else {
            return Err(refused(FailureKind::Refused, format!("{what}: the engine kept its ends to itself")));
        };
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (mut from_us, mut to_us) = tokio::io::split(theirs);
        let instance = instance.clone();
        tokio::spawn(async move {
            let outward = async {
                let mut buffer = vec![0; BUFFER];
                while let Ok(read @ 1..) = from_us.read(&mut buffer).await {
                    if input.write_all(&buffer[..read]).await.is_err() || input.flush().await.is_err() {
                        break;
                    }
                }
                let _ = input.shutdown().await;
            };
            let inward = async {
                while let Some(Ok(part)) = output.next().await {
                    match part {
                        LogOutput::StdErr { message } => {
                            let text = String::from_utf8_lossy(&message).trim().to_owned();
                            tracing::warn!(%instance, text, "a way into a container");
                        }
                        part => {
                            if to_us.write_all(&part.into_bytes()).await.is_err() {
                                break;
                            }
                        }
                    }
                }
            };
            // Whichever end goes first: without the other it is no use.
            tokio::select! {
                () = outward => {}
                () = inward => {}
            }
            let _ = to_us.shutdown().await;
        });
        Ok(Box::new(ours))
    }

    /// The name by which a gateway in a container reaches an instance in another one: the short id, which the engine
    /// resolves on every network of people's own that both are on. Unlike an address it is never another container's.
    pub(super) async fn gateway_route(&self, gateway: &SlotName, to: &InstanceId) -> Option<String> {
        let (id, _, about) = self.existing(to).await.ok()?;
        let door = self.look(gateway).await.ok()?.into_iter().rfind(|seen| gateway_of(&seen.about).is_some())?;
        let (from, to) = (named_networks(&door.about), named_networks(&about));
        from.iter().any(|network| to.contains(network)).then(|| id.get(..12).map(str::to_owned)).flatten()
    }
}

/// The networks of a container on which names are resolved.
fn named_networks(about: &ContainerInspectResponse) -> Vec<String> {
    if network_mode(about) == "host" {
        return Vec::new();
    }
    let networks = about.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks.into_iter().flatten().map(|(name, _)| name.clone()).filter(|name| name != "bridge").collect()
}

/// The component agent of a container, where its command shows one.
fn component_of(about: &ContainerInspectResponse) -> Option<SeenComponentAgent> {
    component_agent(about.path.iter().chain(about.args.iter().flatten()).map(String::as_str))
}

/// The program and the folder of a gateway, where a container runs one.
fn gateway_of(about: &ContainerInspectResponse) -> Option<(String, String)> {
    if component_of(about).is_some() {
        return None; // Whatever words its program is given.
    }
    let program = about.path.clone()?;
    let args = about.args.as_deref().unwrap_or_default();
    if program.rsplit('/').next() != Some("baton") || !args.iter().any(|arg| arg == "gateway") {
        return None;
    }
    let after = args.iter().position(|arg| arg == "--dir").and_then(|at| args.get(at + 1));
    let joined = args.iter().find_map(|arg| arg.strip_prefix("--dir="));
    let dir = after.map(String::as_str).or(joined).unwrap_or(GATEWAY_DIR);
    Some((program, dir.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_known_by_what_its_container_runs() {
        let about = |path: &str, args: &[&str]| ContainerInspectResponse {
            path: Some(path.to_owned()),
            args: Some(args.iter().map(|arg| (*arg).to_owned()).collect()),
            ..ContainerInspectResponse::default()
        };
        let of = |path: &str, args: &[&str]| gateway_of(&about(path, args)).map(|(_, dir)| dir);
        assert_eq!(of("baton", &["gateway", "--listen", "api=:80"]).as_deref(), Some(GATEWAY_DIR));
        assert_eq!(of("/usr/bin/baton", &["gateway", "--dir", "/data"]).as_deref(), Some("/data"));
        assert_eq!(of("/baton", &["gateway", "--dir=/data"]).as_deref(), Some("/data"));
        assert_eq!(of("/baton", &["agent"]), None);
        assert_eq!(of("/bin/nginx", &["gateway"]), None);
        assert_eq!(of("/baton", &["agent", "--component", "door", "--", "/app", "gateway"]), None);
    }
}
