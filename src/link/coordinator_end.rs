//! The coordinator's end of one agent's session.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MISSED_HEARTBEATS, RESEND_EVERY};
use crate::model::{
    AgentHello, AgentId, Claim, CommandId, FleetName, PROTOCOL_VERSION, Recordable, Refusal, StepId, Timestamp,
};

/// What happened to the coordinator's end. All of it are notes: a session leaves nothing behind.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorEndEvent {
    /// Time passed.
    Tick,
    /// A stream said hello and was found good (see [`CoordinatorEnd::judge`]).
    Attached {
        /// The stream's number, so that the end of an older one is not taken for the end of this one.
        session: u64,
        /// Its host's boot id.
        boot_id: String,
    },
    /// A stream ended.
    Detached {
        /// Which.
        session: u64,
    },
    /// Anything came from the agent.
    Heard,
    /// An outcome came whose record is (or was) appended: acknowledge it.
    Acknowledge {
        /// The command.
        command: CommandId,
        /// The step.
        step: StepId,
    },
}

/// What the coordinator's end notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum CoordinatorEndRecord {
    /// The session is up.
    Up {
        /// The stream's number.
        session: u64,
        /// Its host's boot id.
        boot_id: String,
    },
    /// The session is over.
    Down {
        /// For people.
        why: String,
    },
    /// The agent spoke.
    Heard,
    /// A heartbeat is due.
    HeartbeatDue,
    /// Send everything outstanding again.
    ResendDue,
    /// An acknowledgement is due.
    AcknowledgeDue {
        /// The command.
        command: CommandId,
        /// The step.
        step: StepId,
    },
}

impl Recordable for CoordinatorEndRecord {
    fn kind(&self) -> &'static str {
        match self {
            CoordinatorEndRecord::Up { .. } => "up",
            CoordinatorEndRecord::Down { .. } => "down",
            CoordinatorEndRecord::Heard => "heard",
            CoordinatorEndRecord::HeartbeatDue => "heartbeat-due",
            CoordinatorEndRecord::ResendDue => "resend-due",
            CoordinatorEndRecord::AcknowledgeDue { .. } => "acknowledge-due",
        }
    }

    fn is_fact(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Live {
    session: u64,
    boot_id: String,
    heard: Timestamp,
    beat: Timestamp,
    sent: Timestamp,
}

/// The coordinator's end of one agent's session.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorEnd {
    heartbeat: Duration,
    live: Option<Live>,
    beats: u64,
    epoch: u64,
    /// How often each outcome was acknowledged; part of the key, so that a repeated outcome is answered again. Emptied
    /// with the session: what was not heard is re-sent and acknowledged then.
    acknowledged: BTreeMap<(CommandId, StepId), u32>,
}

impl CoordinatorEnd {
    /// No session yet.
    pub fn new(heartbeat: Duration) -> Self {
        Self { heartbeat, live: None, beats: 0, epoch: 0, acknowledged: BTreeMap::new() }
    }

    /// Judges a hello before anything of it is believed.
    ///
    /// # Errors
    /// The refusal that the agent is told.
    pub fn judge(&self, ours: &Claim, fleet: &FleetName, hello: &AgentHello) -> Result<u32, Refusal> {
        if hello.fleet != *fleet {
            return Err(Refusal::Fleet { ours: fleet.clone(), theirs: hello.fleet.clone() });
        }
        if hello.protocol == 0 || hello.protocol > PROTOCOL_VERSION {
            return Err(Refusal::Protocol { theirs: hello.protocol, ours: PROTOCOL_VERSION });
        }
        if self.live.as_ref().is_some_and(|live| live.boot_id != hello.inventory.boot_id) {
            return Err(Refusal::Duplicate { agent: hello.agent.clone() });
        }
        if let Some(known) = &hello.obeys
            && known.coordinator != ours.coordinator
        {
            return Err(self.foreign(&hello.agent, known, ours));
        }
        Ok(hello.protocol.min(PROTOCOL_VERSION))
    }

    fn foreign(&self, agent: &AgentId, obeys: &Claim, ours: &Claim) -> Refusal {
        Refusal::Foreign { agent: agent.clone(), obeys: obeys.coordinator.clone(), asked: ours.coordinator.clone() }
    }

    /// The stream's number while the session is up.
    pub fn session(&self) -> Option<u64> {
        self.live.as_ref().map(|live| live.session)
    }

    /// The number of the last heartbeat that should have gone out.
    pub fn beat(&self) -> Option<u64> {
        (self.live.is_some() && self.beats > 0).then_some(self.beats)
    }

    /// What must arrive goes out once in each epoch; none while the session is down.
    pub fn epoch(&self) -> Option<u64> {
        self.live.as_ref().map(|_| self.epoch)
    }

    /// Acknowledgements that should have gone out in this session, with how often.
    pub fn acknowledgements(&self) -> impl Iterator<Item = (&CommandId, StepId, u32)> {
        self.acknowledged.iter().map(|((command, step), times)| (command, *step, *times))
    }

    /// How often this outcome should have been acknowledged in this session.
    pub fn acknowledged(&self, command: &CommandId, step: StepId) -> Option<u32> {
        self.acknowledged.get(&(command.clone(), step)).copied()
    }

    /// What should be written down because of `event`.
    pub fn decide(&self, now: Timestamp, event: &CoordinatorEndEvent) -> Vec<CoordinatorEndRecord> {
        match event {
            CoordinatorEndEvent::Tick => self.due(now),
            CoordinatorEndEvent::Attached { session, boot_id } => {
                vec![CoordinatorEndRecord::Up { session: *session, boot_id: boot_id.clone() }]
            }
            CoordinatorEndEvent::Detached { session } if self.session() == Some(*session) => {
                vec![CoordinatorEndRecord::Down { why: "the connection ended".to_owned() }]
            }
            CoordinatorEndEvent::Heard if self.live.is_some() => vec![CoordinatorEndRecord::Heard],
            CoordinatorEndEvent::Acknowledge { command, step } if self.live.is_some() => {
                vec![CoordinatorEndRecord::AcknowledgeDue { command: command.clone(), step: *step }]
            }
            _ => vec![],
        }
    }

    fn due(&self, now: Timestamp) -> Vec<CoordinatorEndRecord> {
        let Some(live) = &self.live else { return vec![] };
        if now.since(live.heard) >= self.heartbeat * MISSED_HEARTBEATS {
            let silence = humantime::format_duration(self.heartbeat * MISSED_HEARTBEATS);
            vec![CoordinatorEndRecord::Down { why: format!("nothing heard for {silence}") }]
        } else if now.since(live.beat) >= self.heartbeat {
            vec![CoordinatorEndRecord::HeartbeatDue]
        } else if now.since(live.sent) >= RESEND_EVERY {
            vec![CoordinatorEndRecord::ResendDue]
        } else {
            vec![]
        }
    }

    /// Applies one record.
    pub fn apply(&mut self, at: Timestamp, record: &CoordinatorEndRecord) {
        match record {
            CoordinatorEndRecord::Up { session, boot_id } => {
                self.epoch += 1;
                self.acknowledged.clear();
                self.live = Some(Live { session: *session, boot_id: boot_id.clone(), heard: at, beat: at, sent: at });
            }
            CoordinatorEndRecord::Down { .. } => {
                self.live = None;
                self.acknowledged.clear();
            }
            CoordinatorEndRecord::Heard => {
                if let Some(live) = &mut self.live {
                    live.heard = at;
                }
            }
            CoordinatorEndRecord::HeartbeatDue => {
                self.beats += 1;
                if let Some(live) = &mut self.live {
                    live.beat = at;
                }
            }
            CoordinatorEndRecord::ResendDue => {
                self.epoch += 1;
                if let Some(live) = &mut self.live {
                    live.sent = at;
                }
            }
            CoordinatorEndRecord::AcknowledgeDue { command, step } => {
                *self.acknowledged.entry((command.clone(), *step)).or_default() += 1;
            }
        }
    }

    /// When it wants a tick.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.live.as_ref().map(|live| {
            (live.heard + self.heartbeat * MISSED_HEARTBEATS)
                .min(live.beat + self.heartbeat)
                .min(live.sent + RESEND_EVERY)
        })
    }

    /// Forgets what only notes told: all of it.
    pub fn forget_notes(&mut self) {
        *self = Self::new(self.heartbeat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CoordinatorId, Inventory, Term};

    fn claim() -> Claim {
        Claim { coordinator: CoordinatorId::new("one").unwrap(), term: Term(3), nonce: "n".into() }
    }

    fn hello() -> AgentHello {
        let agent = AgentId::new("host-a").unwrap();
        AgentHello {
            protocol: PROTOCOL_VERSION,
            fleet: FleetName::new("orders").unwrap(),
            agent: agent.clone(),
            obeys: None,
            inventory: Inventory {
                agent,
                boot_id: "boot-1".into(),
                runtimes: vec![],
                address: "127.0.0.1".into(),
                term: Term(0),
                nonce: String::new(),
                rolls: vec![],
                slots: BTreeMap::new(),
                resolutions: BTreeMap::new(),
            },
        }
    }

    fn feed(end: &mut CoordinatorEnd, now: u64, event: CoordinatorEndEvent) {
        for record in end.decide(Timestamp(now), &event) {
            end.apply(Timestamp(now), &record);
        }
    }

    #[test]
    fn a_hello_is_judged_before_it_is_believed() {
        let mut end = CoordinatorEnd::new(Duration::from_secs(5));
        let fleet = FleetName::new("orders").unwrap();
        assert!(end.judge(&claim(), &fleet, &hello()).is_ok());
        let newer = AgentHello { protocol: PROTOCOL_VERSION + 1, ..hello() };
        assert!(matches!(end.judge(&claim(), &fleet, &newer), Err(Refusal::Protocol { .. })));
        let other = AgentHello { fleet: FleetName::new("other").unwrap(), ..hello() };
        assert!(matches!(end.judge(&claim(), &fleet, &other), Err(Refusal::Fleet { .. })));
        let foreign = Claim { coordinator: CoordinatorId::new("two").unwrap(), ..claim() };
        let theirs = AgentHello { obeys: Some(foreign), ..hello() };
        assert!(matches!(end.judge(&claim(), &fleet, &theirs), Err(Refusal::Foreign { .. })));

        feed(&mut end, 0, CoordinatorEndEvent::Attached { session: 1, boot_id: "boot-1".into() });
        assert!(end.judge(&claim(), &fleet, &hello()).is_ok(), "the same host dials again");
        let mut twin = hello();
        twin.inventory.boot_id = "boot-2".into();
        assert!(matches!(end.judge(&claim(), &fleet, &twin), Err(Refusal::Duplicate { .. })));
    }

    #[test]
    fn the_end_of_an_older_stream_does_not_end_the_session() {
        let mut end = CoordinatorEnd::new(Duration::from_secs(5));
        feed(&mut end, 0, CoordinatorEndEvent::Attached { session: 1, boot_id: "b".into() });
        feed(&mut end, 10, CoordinatorEndEvent::Attached { session: 2, boot_id: "b".into() });
        feed(&mut end, 20, CoordinatorEndEvent::Detached { session: 1 });
        assert_eq!(end.session(), Some(2));
        feed(&mut end, 30, CoordinatorEndEvent::Detached { session: 2 });
        assert_eq!(end.session(), None);
    }

    #[test]
    fn a_repeated_outcome_is_acknowledged_again() {
        let mut end = CoordinatorEnd::new(Duration::from_secs(5));
        feed(&mut end, 0, CoordinatorEndEvent::Attached { session: 1, boot_id: "b".into() });
        let command: CommandId = "r/1/1".parse().unwrap();
        let again = CoordinatorEndEvent::Acknowledge { command: command.clone(), step: StepId(1) };
        feed(&mut end, 1, again.clone());
        assert_eq!(end.acknowledged(&command, StepId(1)), Some(1));
        feed(&mut end, 2, again);
        assert_eq!(end.acknowledged(&command, StepId(1)), Some(2));
    }

    #[test]
    fn a_silent_agent_is_lost_after_three_heartbeats() {
        let mut end = CoordinatorEnd::new(Duration::from_secs(5));
        feed(&mut end, 0, CoordinatorEndEvent::Attached { session: 1, boot_id: "b".into() });
        feed(&mut end, 14_999, CoordinatorEndEvent::Tick);
        assert!(end.session().is_some());
        feed(&mut end, 15_000, CoordinatorEndEvent::Tick);
        assert!(end.session().is_none());
    }
}
