//! What a host agent and the component agent inside a container say to each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Call, ComponentName, DrainInflight, Probe, millis};

/// Where a component agent listens in its container when its command does not say otherwise.
pub const COMPONENT_SOCKET: &str = "/run/baton/agent.sock";

/// Where an agent of Baton acts on a component's instances from, beside the host agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Inside each instance's own container: `baton agent --component NAME -- PROGRAM`.
    Component,
}

/// What a component agent is asked. Placeholders are filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToComponent {
    /// Who it is and how its program is.
    State,
    /// One probe.
    Probe {
        /// By http, tcp or exec.
        probe: Probe,
        /// For the answer.
        #[serde(with = "millis")]
        timeout: Duration,
    },
    /// One reading of work in flight.
    Inflight {
        /// Where.
        source: DrainInflight,
    },
    /// The call that begins the drain. One that is under way is joined; one that was done is not made again.
    Drain {
        /// What to call.
        call: Call,
        /// What is left of the drain's time.
        #[serde(with = "millis")]
        left: Duration,
    },
    /// The call that gives the drain back; likewise.
    Undrain {
        /// What to call.
        call: Call,
        /// How long it may take.
        #[serde(with = "millis")]
        left: Duration,
    },
}

/// What it says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromComponent {
    /// To [`ToComponent::State`].
    State(ProgramState),
    /// To [`ToComponent::Probe`].
    Probe {
        /// A good one.
        ready: bool,
        /// For people.
        text: String,
    },
    /// To [`ToComponent::Inflight`].
    Inflight {
        /// How much, or why nobody knows.
        count: Result<u64, String>,
    },
    /// To [`ToComponent::Drain`] and [`ToComponent::Undrain`].
    Called {
        /// `Err`: for people, why it was not done.
        result: Result<(), String>,
    },
}

/// How the program of a component agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramState {
    /// Whose agent it says it is.
    pub component: ComponentName,
    /// The program's process id in the container.
    pub pid: i32,
    /// The code it has ended with, 128 + n after signal n; `None`: it runs.
    pub exit: Option<i32>,
    /// Its drain has been begun by a call and not been given back.
    pub draining: bool,
}

/// A component agent, as a command line shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenComponentAgent {
    /// The program: Baton, by the name that the command line has for it.
    pub program: String,
    /// Its socket in the container.
    pub socket: String,
}

/// Finds the component agent in a command line, also behind an init that starts it (`tini -- baton agent ...`). What a
/// shell would have to read (`sh -c "..."`) is not looked into.
pub fn component_agent<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<SeenComponentAgent> {
    let words: Vec<&str> = words.into_iter().collect();
    let at = words.iter().position(|word| word.rsplit('/').next() == Some("baton"))?;
    let own: Vec<&str> = words[at + 1..].iter().copied().take_while(|word| *word != "--").collect();
    let says = |name: &str| {
        let joined = own.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let apart = own.iter().position(|word| *word == name).and_then(|at| own.get(at + 1).copied());
        joined.or(apart)
    };
    if !own.contains(&"agent") || says("--component").is_none() {
        return None;
    }
    let socket = says("--socket").unwrap_or(COMPONENT_SOCKET);
    Some(SeenComponentAgent { program: words[at].to_owned(), socket: socket.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_agent_is_seen_in_a_command_line_and_nothing_else_is_taken_for_one() {
        let seen = |line: &str| component_agent(line.split(' ')).map(|seen| (seen.program, seen.socket));
        let usual = |program: &str| Some((program.to_owned(), COMPONENT_SOCKET.to_owned()));
        assert_eq!(seen("/bin/baton agent --component worker -- /app/worker"), usual("/bin/baton"));
        assert_eq!(seen("baton agent --component=worker -- /app/worker gateway"), usual("baton"));
        assert_eq!(seen("/sbin/tini -g -- baton agent --component worker -- /app/worker"), usual("baton"));
        let elsewhere = Some(("baton".to_owned(), "/tmp/a.sock".to_owned()));
        assert_eq!(seen("baton agent --component w --socket /tmp/a.sock -- x"), elsewhere);
        assert_eq!(seen("baton agent --socket=/tmp/a.sock --component w -- x"), elsewhere);
        // What the program is given is the program's.
        assert_eq!(seen("baton agent --component w -- x --socket /y"), usual("baton"));
        for line in
            ["baton agent --policy p", "baton gateway", "/app/worker agent --component w", "baton agent -- x", ""]
        {
            assert_eq!(seen(line), None, "{line}");
        }
    }
}
