//! Images: found, or pulled when that is asked for.

use std::time::Duration;

use base64::Engine as _;
use bollard::auth::DockerCredentials;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use serde_json::Value;

use super::body;
use super::engine::{ASK, Trouble};
use super::runtime::Inner;
use crate::model::{Definition, Resolution};
use crate::runtime::process::read_env_file;

/// For a whole pull. A slow line moves a gigabyte in that.
const PULL: Duration = Duration::from_secs(30 * 60);
/// The key of Docker Hub in `config.json`.
const HUB: &str = "https://index.docker.io/v1/";

/// What a container gets from its image.
#[derive(Clone)]
pub(super) struct ImageAbout {
    pub(super) id: String,
    /// Where it has volumes of its own.
    pub(super) volumes: Vec<String>,
}

impl Inner {
    pub(super) async fn resolve(&self, definition: &Definition, pull: bool) -> Resolution {
        let problem = |text: String| Resolution { problem: Some(text), ..Resolution::default() };
        let Some(image) = definition.image.as_deref() else { return problem("it names no image".to_owned()) };
        if let Err(why) = body::ports(definition) {
            return problem(why);
        }
        let env_file = match definition.env_file.as_deref().map(read_env_file).transpose() {
            Ok(read) => read.map(|(_, digest)| digest),
            Err(error) => return problem(error.to_string()),
        };
        let found = |image_id: Option<String>| Resolution { image_id, env_file, ..Resolution::default() };
        match self.image_id(image).await {
            Ok(Some(id)) => match self.former_image(definition, &id).await {
                Ok(former) => found(Some(former.unwrap_or(id))),
                Err(why) => problem(why),
            },
            Ok(None) => match self.former_image(definition, "").await {
                Ok(Some(former)) => found(Some(former)),
                // It may come back under its name.
                _ if !pull => found(None),
                _ => match self.pull(image).await {
                    Ok(()) => match self.image_id(image).await {
                        Ok(Some(id)) => found(Some(id)),
                        Ok(None) => {
                            problem(format!("image {image} was pulled and is not there; pull it by hand and look"))
                        }
                        Err(trouble) => problem(trouble.error.message),
                    },
                    Err(why) => problem(why),
                },
            },
            Err(trouble) => problem(trouble.error.message),
        }
    }

    pub(super) async fn image_id(&self, image: &str) -> Result<Option<String>, Trouble> {
        Ok(self.image(image).await?.map(|about| about.id))
    }

    /// An image, as the engine has it now.
    async fn image(&self, image: &str) -> Result<Option<ImageAbout>, Trouble> {
        let client = self.engine.client().await?;
        let what = format!("looking for image {image}");
        match self.engine.bounded(&what, ASK, client.inspect_image(image)).await {
            Ok(about) => {
                let volumes = about.config.and_then(|config| config.volumes).unwrap_or_default();
                let found = about.id.map(|id| ImageAbout { id, volumes });
                if let Some(found) = &found {
                    self.images.keep(image, found.clone());
                }
                Ok(found)
            }
            Err(trouble) if trouble.is_absent() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// The same as of a moment ago.
    pub(super) async fn image_lately(&self, image: &str) -> Result<Option<ImageAbout>, Trouble> {
        match self.images.found(image) {
            Some(found) => Ok(Some(found)),
            None => self.image(image).await,
        }
    }

    async fn pull(&self, image: &str) -> Result<(), String> {
        let client = self.engine.client().await.map_err(|trouble| trouble.error.message)?;
        // Without a tag an engine would pull every one there is.
        let options = CreateImageOptionsBuilder::new().from_image(&with_tag(image)).build();
        let pulled = async {
            let mut steps = client.create_image(Some(options), None, credentials(image));
            while let Some(step) = steps.next().await {
                if let Some(error) = step?.error_detail {
                    return Err(bollard::errors::Error::DockerStreamError { error: error.message.unwrap_or_default() });
                }
            }
            Ok(())
        };
        let what = format!("pulling image {image}");
        match self.engine.bounded(&what, PULL, pulled).await {
            Ok(()) => Ok(()),
            Err(trouble) => Err(format!(
                "{}; image {image} is not on this host: correct its name, log in (`docker login`) or build it (`docker \
                 compose build`)",
                trouble.error.message
            )),
        }
    }
}

fn with_tag(image: &str) -> String {
    let tagged = image.rsplit('/').next().is_some_and(|name| name.contains(':') || name.contains('@'));
    if tagged { image.to_owned() } else { format!("{image}:latest") }
}

/// The registry of an image, as `config.json` knows it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => HUB,
    }
}

/// What `docker login` has left, where it lies in the file itself. Credential helpers are not asked: what needs one is
/// pulled by hand first.
fn credentials(image: &str) -> Option<DockerCredentials> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(std::path::PathBuf::from);
    let folder = folder.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    read_credentials(&std::fs::read_to_string(folder.join("config.json")).ok()?, registry(image))
}

fn read_credentials(text: &str, registry: &str) -> Option<DockerCredentials> {
    let config: Value = serde_json::from_str(text).ok()?;
    let auth = config["auths"][registry]["auth"].as_str()?;
    let plain = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (username, password) = plain.split_once(':')?;
    Some(DockerCredentials {
        username: Some(username.to_owned()),
        password: Some(password.to_owned()),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (image, full) in [
            ("shop", "shop:latest"),
            ("r:5000/shop", "r:5000/shop:latest"),
            ("r:5000/shop:2", "r:5000/shop:2"),
            ("shop@sha256:aa", "shop@sha256:aa"),
        ] {
            assert_eq!(with_tag(image), full);
        }
    }

    #[test]
    fn a_login_is_found_by_registry() {
        assert_eq!(registry("busybox"), HUB);
        assert_eq!(registry("library/busybox"), HUB);
        assert_eq!(registry("r.example/a/b:1"), "r.example");
        assert_eq!(registry("localhost/a"), "localhost");
        // user:pass
        let text = r#"{ "auths": { "r.example": { "auth": "dXNlcjpwYXNz" } }, "credsStore": "x" }"#;
        let found = read_credentials(text, "r.example").unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("user"), Some("pass")));
        assert!(read_credentials(text, HUB).is_none());
        assert!(read_credentials("{", HUB).is_none());
    }
}
