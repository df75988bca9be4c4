//! HAProxy over its runtime API (management guide, section 9.3): servers that are added, drained and deleted while it
//! runs. HAProxy itself says that it reaches a new server (its own check) and what an old one still has in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::front::Found;
use crate::model::{Admission, ComponentName, InstanceId, TableTarget};

/// For one command and its answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// An answer is a few kilobytes; a backend of a thousand servers is half a megabyte.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// One backend of a HAProxy.
pub(super) struct Haproxy {
    component: ComponentName,
    socket: String,
    backend: String,
    /// What a server is added with.
    options: String,
    /// Servers whose own check was good since they were added, with their addresses: one that fails later is
    /// HAProxy's to leave out, and no reason to hold a switch.
    proven: BTreeSet<(String, String)>,
    /// The sessions that a drained server had had when it was first seen so: more than those come by persistence.
    drained: BTreeMap<String, u64>,
    /// Nothing was in flight at the last look, either. A request that was being assigned then has been counted by now.
    quiet: bool,
}

/// A server as HAProxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    name: String,
    address: String,
    /// `UP`, `no check`, `DOWN 1/2`, `DRAIN`, `MAINT`, ...
    status: String,
    /// What its last check said: `L7OK`, `L4CON`; empty before the first.
    check: String,
    /// In flight and waiting for it.
    inflight: u64,
    /// Sessions so far.
    total: u64,
}

impl Server {
    /// It gets no new requests, but for those that persistence sends.
    fn is_out(&self) -> bool {
        self.status.starts_with("DRAIN") || self.is_off()
    }

    /// It gets none at all.
    fn is_off(&self) -> bool {
        self.status.starts_with("MAINT")
    }
}

impl Haproxy {
    pub(super) fn new(component: ComponentName, socket: String, backend: String, options: String) -> Self {
        let (proven, drained) = (BTreeSet::new(), BTreeMap::new());
        Self { component, socket, backend, options, proven, drained, quiet: false }
    }

    /// Brings the backend in line with a table and says how far that is: what admits is added first and must have
    /// answered HAProxy, then all else is drained. Servers of the configuration are drained like those of Baton, as
    /// they lead to the same instances by other names.
    pub(super) async fn tell(&mut self, targets: &[TableTarget], close: bool) -> Result<Found, String> {
        let admitting: Vec<&TableTarget> =
            targets.iter().filter(|target| target.admission == Admission::Admitting).collect();
        // Where it went before what is behind it, as in `down`, nobody sends anything there.
        if admitting.is_empty() && self.is_gone().await {
            return Ok(Found { in_use: true, text: "HAProxy does not run".to_owned(), ..Found::default() });
        }
        let mut servers = self.servers().await?;
        let mut waiting = Vec::new();
        for target in &admitting {
            if let Some(why) = self.admit(target, servers.get(&target.instance.to_string())).await? {
                waiting.push(format!("{}: {why}", target.instance));
            }
        }
        if !waiting.is_empty() {
            self.quiet = false;
            let text = format!("waiting until HAProxy reaches {}", waiting.join("; "));
            return Ok(Found { text, ..Found::default() });
        }
        let wanted: BTreeSet<String> = admitting.iter().map(|target| target.instance.to_string()).collect();
        self.drained.retain(|name, _| !wanted.contains(name));
        let mut changed = false;
        for server in servers.values().filter(|server| !wanted.contains(&server.name)) {
            changed |= self.release(server, !wanted.is_empty()).await?;
        }
        if changed {
            // What was assigned before a server was drained is counted now.
            servers = self.servers().await?;
        }
        let mut found = Found { in_use: true, text: "in use".to_owned(), ..Found::default() };
        let leaving: Vec<Server> = servers.into_values().filter(|server| !wanted.contains(&server.name)).collect();
        for server in &leaving {
            found.inflight += server.inflight;
            if close && server.inflight > 0 {
                self.command(&format!("shutdown sessions server {}/{}", self.backend, server.name)).await?;
                found.closed += server.inflight;
            }
        }
        let quiet = found.inflight == 0;
        if quiet && !self.quiet {
            found.inflight = u64::from(!leaving.is_empty());
        }
        self.quiet = quiet;
        if quiet && found.inflight == 0 {
            self.forget(&leaving, targets).await?;
        }
        Ok(found)
    }

    /// Lets a server have requests. `Some`: why it does not count yet.
    async fn admit(&mut self, target: &TableTarget, server: Option<&Server>) -> Result<Option<String>, String> {
        let name = target.instance.to_string();
        let address = self.address(target).await?;
        let at = format!("{}/{name}", self.backend);
        let Some(server) = server else {
            self.proven.remove(&(name, address.to_string()));
            let added = self.command(&format!("add server {at} {address} {}", self.options)).await?;
            if !added.contains("registered") {
                return Err(self.refused("add server", &added));
            }
            self.quietly(&format!("enable health {at}")).await?;
            self.quietly(&format!("enable server {at}")).await?;
            return Ok(Some(format!("added as {address}")));
        };
        if server.address != address.to_string() {
            let (ip, port) = (address.ip(), address.port());
            // It answers with what has changed.
            let said = self.command(&format!("set server {at} addr {ip} port {port}")).await?;
            if !said.contains("changed from") && !said.contains("no need to change") {
                return Err(self.refused("set server addr", &said));
            }
            return Ok(Some(format!("moved to {address}")));
        }
        if server.is_out() {
            self.quietly(&format!("set server {at} state ready")).await?;
            return Ok(Some("made ready".to_owned()));
        }
        let key = (name, server.address.clone());
        if self.proven.contains(&key) {
            return Ok(None);
        }
        if server.status.starts_with("UP") && server.check.ends_with("OK") {
            self.proven.insert(key);
            return Ok(None);
        }
        let check = if server.check.is_empty() { "not checked yet" } else { server.check.as_str() };
        Ok(Some(format!("{} at {}, {check}", server.status, server.address)))
    }

    /// Takes requests from a server, and says whether there was anything to do. `others`: somebody else has them now.
    async fn release(&mut self, server: &Server, others: bool) -> Result<bool, String> {
        let at = format!("{}/{}", self.backend, server.name);
        if !server.is_out() {
            // One that is down does not show whether it is drained, too.
            let state = if server.status.starts_with("DOWN") { "maint" } else { "drain" };
            self.quietly(&format!("set server {at} state {state}")).await?;
            self.quiet = false;
            return Ok(true);
        }
        let before = *self.drained.entry(server.name.clone()).or_insert(server.total);
        if others && !server.is_off() && server.total > before {
            // Clients with its cookie still get there: now they are given to the others.
            self.quietly(&format!("set server {at} state maint")).await?;
            self.quiet = false;
            return Ok(true);
        }
        Ok(false)
    }

    /// Deletes servers that Baton has added and no table names any more. Those of the configuration cannot be
    /// deleted, and one with idle connections cannot yet: it stays drained until the next look.
    async fn forget(&mut self, leaving: &[Server], targets: &[TableTarget]) -> Result<(), String> {
        for server in leaving {
            let ours = server.name.parse::<InstanceId>().is_ok_and(|id| id.slot.component == self.component);
            if !ours || targets.iter().any(|target| target.instance.to_string() == server.name) {
                continue;
            }
            let at = format!("{}/{}", self.backend, server.name);
            self.quietly(&format!("set server {at} state maint")).await?;
            self.command(&format!("del server {at}")).await?;
            self.drained.remove(&server.name);
            self.proven.retain(|(name, _)| *name != server.name);
        }
        Ok(())
    }

    async fn address(&self, target: &TableTarget) -> Result<SocketAddr, String> {
        let (host, port) = (target.host.as_str(), target.port);
        let found = lookup_host((host, port)).await;
        found.ok().and_then(|mut all| all.next()).ok_or_else(|| format!("{}: {host} has no address", target.instance))
    }

    async fn servers(&self) -> Result<BTreeMap<String, Server>, String> {
        // 4: servers alone.
        let said = self.command("show stat -1 4 -1").await?;
        let servers = read(&said, &self.backend).ok_or_else(|| self.refused("show stat", &said))?;
        if servers.is_empty() {
            // An empty backend is as good as any, one that is not there is not.
            let said = self.command(&format!("show servers state {}", self.backend)).await?;
            if said.to_lowercase().contains("can't find backend") {
                return Err(self.refused("show servers state", &said));
            }
        }
        Ok(servers)
    }

    /// Nobody has its socket: it is not there, or nobody listens on it.
    async fn is_gone(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        self.socket.starts_with('/')
            && UnixStream::connect(&self.socket).await.is_err_and(|e| matches!(e.kind(), ConnectionRefused | NotFound))
    }

    /// A command that says nothing when it has done it.
    async fn quietly(&self, command: &str) -> Result<(), String> {
        let said = self.command(command).await?;
        if said.trim().is_empty() { Ok(()) } else { Err(self.refused(command, &said)) }
    }

    fn refused(&self, command: &str, said: &str) -> String {
        let said = said.lines().next().unwrap_or_default().trim();
        let hint = if said.starts_with("Unknown command") {
            " (HAProxy 2.5 or newer is needed)"
        } else if said.to_lowercase().contains("permission denied") {
            " (its stats socket needs `level admin`)"
        } else {
            ""
        };
        format!("HAProxy at {} refused `{command}`: {said}{hint}", self.socket)
    }

    /// One connection a command: HAProxy ends it after the answer.
    async fn command(&self, command: &str) -> Result<String, String> {
        let exchange = async {
            if self.socket.starts_with('/') {
                ask(UnixStream::connect(&self.socket).await?, command).await
            } else {
                ask(TcpStream::connect(&self.socket).await?, command).await
            }
        };
        match timeout(ANSWER_MAX, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("cannot reach HAProxy at {}: {error}; does it run?", self.socket)),
            Err(_) => Err(format!("HAProxy at {} did not answer within {} s", self.socket, ANSWER_MAX.as_secs())),
        }
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> std::io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The servers of a backend from `show stat`: CSV whose first line names the columns, in which no name and no number
/// holds a comma. `None`: it is something else.
fn read(text: &str, backend: &str) -> Option<BTreeMap<String, Server>> {
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next()?.strip_prefix("# ")?.split(',').collect();
    let at = |name: &str| columns.iter().position(|column| *column == name);
    let (backends, names, status, check) = (at("pxname")?, at("svname")?, at("status")?, at("check_status")?);
    let (address, queued, current, total) = (at("addr")?, at("qcur")?, at("scur")?, at("stot")?);
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row.get(backends) == Some(&backend));
    rows.map(|row| {
        let text = |column: usize| row.get(column).map(|text| (*text).to_owned());
        let number = |column: usize| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let server = Server {
            name: text(names)?,
            address: text(address)?,
            status: text(status)?,
            // A check that is under way has a star before the answer of the last one.
            check: text(check)?.trim_start_matches(['*', ' ']).to_owned(),
            inflight: number(queued) + number(current),
            total: number(total),
        };
        Some((server.name.clone(), server))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "# pxname,svname,qcur,scur,stot,status,check_status,addr,\n\
                        api,api-1.2,1,2,9,UP,* L4OK,10.0.0.2:80,\n\
                        api,old,0,0,4,DRAIN,,10.0.0.1:80,\n\
                        web,api-1.2,0,7,8,no check,,10.0.0.9:80,\n\n";

    #[test]
    fn servers_are_read_by_the_names_of_their_columns() {
        let servers = read(STAT, "api").expect("read");
        assert_eq!(servers.keys().collect::<Vec<_>>(), ["api-1.2", "old"]);
        let new = &servers["api-1.2"];
        assert_eq!((new.inflight, new.total, new.check.as_str()), (3, 9, "L4OK"));
        assert!(!new.is_out() && servers["old"].is_out() && !servers["old"].is_off());
        assert_eq!(read("Permission denied\n", "api"), None);
        assert!(read(STAT, "other").expect("read").is_empty());
    }
}
