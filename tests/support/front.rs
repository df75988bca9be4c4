//! An API behind Baton's gateway, as a component of a [`Fleet`], and somebody who uses it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::fleet::Fleet;
use super::procs::{free_port, quickstart};

/// Where the API of a fleet is reached.
#[derive(Clone, Copy)]
pub struct Front {
    /// Of the gateway.
    pub port: u16,
}

impl Front {
    /// Picks a port for the gateway.
    pub fn new() -> Self {
        quickstart();
        Self { port: free_port() }
    }

    /// The component: two API servers. `more` is YAML, indented by four.
    pub fn component(self, fleet: &Fleet, more: &str) -> String {
        let dir = fleet.stage.dir().display();
        format!(
            r#"  api:
    release: {{ path: "{dir}/releases/{{version}}", sha256_file: SHA256SUMS }}
    command: ["{{release}}/run", "api", "--instance", "{{instance}}", "--version", "{{version}}", "--port", "{{port}}",
              "--work", "{dir}/work"]
    ports: {{ http: auto }}
    replicas: 2
    traffic: {{ gateway: {{ listen: "127.0.0.1:{}", port: http }} }}
{more}"#,
            self.port
        )
    }

    /// The script of a release whose API runs with these flags of the toy; any other component only lives.
    pub fn script(flags: &str) -> String {
        format!(
            "#!/bin/sh\n[ \"$1\" = api ] || while :; do sleep 0.05; done\necho \"a release with flags: {flags}\" >&2\n\
             exec '{}' toy \"$@\" --boot-ms 50 {flags}\n",
            quickstart().display()
        )
    }

    /// One request on a connection of its own: status and body.
    pub fn get(self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((answer.get(9..12)?.parse().ok()?, body.to_owned()))
    }

    /// Who answers so many requests in turn, without repetition and in order.
    pub fn who(self, requests: usize) -> Vec<String> {
        let mut found: Vec<String> = (0..requests)
            .map(|_| {
                let (status, body) = self.get("/").expect("an answer");
                assert_eq!(status, 200, "{body}");
                let about: Value = serde_json::from_str(body.trim()).expect("json");
                about["instance"].as_str().expect("an instance").to_owned()
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

impl Default for Front {
    fn default() -> Self {
        Self::new()
    }
}

/// A load on the front door until it is stopped.
pub struct Load {
    child: Child,
}

impl Load {
    /// Begins.
    ///
    /// # Panics
    /// When the generator cannot be started.
    pub fn start(front: Front) -> Self {
        Self::at(front, 50)
    }

    /// Begins, so many requests a second.
    ///
    /// # Panics
    /// When the generator cannot be started.
    pub fn at(front: Front, a_second: u32) -> Self {
        let mut command = Command::new(quickstart());
        command.args(["load", "--to", &format!("127.0.0.1:{}", front.port)]);
        command.args(["--requests-per-second", &a_second.to_string()]);
        command.args(["--one-job-in", "0", "--one-slow-in", "25"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the load generator");
        Self { child }
    }

    /// Stops: its report.
    ///
    /// # Panics
    /// When there is none.
    pub fn stop(mut self) -> Value {
        let mut words = self.child.stdin.take().expect("its input");
        writeln!(words, "stop").expect("a word to it");
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().expect("its output")).read_line(&mut line).expect("its report");
        self.child.wait().expect("its end");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Errors mean that it has gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
