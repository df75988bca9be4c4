//! Which engine is meant, decided as the `docker` command line decides it: then Compose and Baton mean the same one.

use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::engine::{DEFAULT_SOCKET, socket_of};

/// The Unix socket of the engine: the one that is `named` (`--docker-host`, `DOCKER_HOST`), else the one of the Docker
/// context in use (`DOCKER_CONTEXT`, else `docker context use`), else the usual one.
///
/// # Errors
/// For people, when the engine is behind anything but a Unix socket, or its context is not there.
pub fn engine_socket(named: Option<&str>) -> Result<String, String> {
    let context = std::env::var("DOCKER_CONTEXT").ok();
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    find(named, context.as_deref(), folder.as_deref())
}

fn find(named: Option<&str>, context: Option<&str>, folder: Option<&Path>) -> Result<String, String> {
    if named.is_some_and(|named| !named.is_empty()) {
        return socket_of(named);
    }
    let (name, from) = match context.filter(|name| !name.is_empty()) {
        Some(name) => (name.to_owned(), "DOCKER_CONTEXT".to_owned()),
        None => {
            let Some(config) = folder.map(|folder| folder.join("config.json")) else { return socket_of(None) };
            // Without a readable one the command line goes on with its defaults.
            let text = std::fs::read_to_string(&config).unwrap_or_default();
            let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
            (parsed["currentContext"].as_str().unwrap_or_default().to_owned(), config.display().to_string())
        }
    };
    if name.is_empty() || name == "default" {
        return Ok(DEFAULT_SOCKET.to_owned());
    }
    let other = "choose another one (`docker context use default`), or name the engine: --docker-host unix:///PATH";
    let missing = |why: String| format!("the Docker context {name} ({from}) {why}; {other}");
    let Some(folder) = folder else { return Err(missing("cannot be looked up without HOME".to_owned())) };
    let key: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = folder.join("contexts/meta").join(key).join("meta.json");
    let text =
        std::fs::read_to_string(&path).map_err(|error| missing(format!("is not at {}: {error}", path.display())))?;
    let meta: Value = serde_json::from_str(&text)
        .map_err(|_| missing(format!("has something in {} that is not understood", path.display())))?;
    let host = meta["Endpoints"]["docker"]["Host"].as_str();
    socket_of(host).map_err(|_| {
        // The address itself may carry a password.
        let scheme = host.and_then(|host| host.split_once("://")).map_or("something else", |(scheme, _)| scheme);
        missing(format!(
            "leads to an engine over {scheme}, and Baton reaches an engine over its Unix socket only (for one on \
             another host run `baton agent` there)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(folder: &Path, name: &str, host: &str) {
        let key: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let meta = folder.join("contexts/meta").join(key);
        std::fs::create_dir_all(&meta).unwrap();
        let text = serde_json::json!({ "Name": name, "Endpoints": { "docker": { "Host": host } } }).to_string();
        std::fs::write(meta.join("meta.json"), text).unwrap();
    }

    #[test]
    fn an_engine_is_named_then_of_the_environments_context_then_of_the_one_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let at = Some(folder.path());
        assert_eq!(find(None, None, at).unwrap(), DEFAULT_SOCKET);
        assert_eq!(find(None, None, None).unwrap(), DEFAULT_SOCKET);
        context(folder.path(), "mine", "unix:///run/mine.sock");
        context(folder.path(), "other", "unix:///run/other.sock");
        std::fs::write(folder.path().join("config.json"), r#"{ "currentContext": "mine" }"#).unwrap();
        assert_eq!(find(None, None, at).unwrap(), "/run/mine.sock");
        assert_eq!(find(None, Some("other"), at).unwrap(), "/run/other.sock");
        assert_eq!(find(None, Some("default"), at).unwrap(), DEFAULT_SOCKET);
        assert_eq!(find(Some("unix:///run/named.sock"), Some("other"), at).unwrap(), "/run/named.sock");
        assert_eq!(find(Some(""), None, at).unwrap(), "/run/mine.sock");
    }

    #[test]
    fn a_context_that_is_gone_or_leads_elsewhere_is_refused_by_name_and_its_address_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        context(folder.path(), "far", "ssh://me:hunter22@far");
        let far = find(None, Some("far"), Some(folder.path())).unwrap_err();
        assert!(far.contains("context far (DOCKER_CONTEXT)") && far.contains("over ssh"), "{far}");
        assert!(far.contains("docker context use default") && !far.contains("hunter22"), "{far}");
        let gone = find(None, Some("gone"), Some(folder.path())).unwrap_err();
        assert!(gone.contains("context gone") && gone.contains("meta.json"), "{gone}");
    }
}
