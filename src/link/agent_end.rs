//! The agent's end: whom it obeys, and whether it can talk to them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MISSED_HEARTBEATS, RESEND_EVERY, backoff};
use crate::model::{AgentId, Claim, CoordinatorId, HelloReply, PROTOCOL_VERSION, Recordable, Refusal, Term, Timestamp};

/// What happened to the agent's end of the session.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEndEvent {
    /// Time passed.
    Tick,
    /// The agent has started.
    Started,
    /// A stream to a coordinator is open; say hello.
    Connected,
    /// Dialling failed or the stream ended.
    Disconnected {
        /// For people.
        why: String,
    },
    /// The coordinator answered the hello.
    Greeted(HelloReply),
    /// Anything came from the coordinator.
    Heard,
    /// A person on this host says whom to obey from now on (`baton agent adopt`).
    Adopt(CoordinatorId),
}

/// What the agent's end writes down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum AgentEndRecord {
    /// Fact: from here on nothing older than this claim is obeyed.
    Obeyed {
        /// It.
        claim: Claim,
    },
    /// Fact: a person handed this agent over. The next claim of that coordinator is taken, whatever its term.
    Adopted {
        /// To whom.
        coordinator: CoordinatorId,
    },
    /// Note: dial now.
    Dialled,
    /// Note: the stream is open.
    Connected,
    /// Note: the session is up.
    Up {
        /// As agreed.
        #[serde(with = "crate::model::millis")]
        heartbeat: Duration,
    },
    /// Note: the session is over.
    Down {
        /// For people.
        why: String,
    },
    /// Note: the other end spoke.
    Heard,
    /// Note: a heartbeat is due.
    HeartbeatDue,
    /// Note: send everything unacknowledged again.
    ResendDue,
    /// Note: the coordinator was refused.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

impl Recordable for AgentEndRecord {
    fn kind(&self) -> &'static str {
        match self {
            AgentEndRecord::Obeyed { .. } => "obeyed",
            AgentEndRecord::Adopted { .. } => "adopted",
            AgentEndRecord::Dialled => "dialled",
            AgentEndRecord::Connected => "connected",
            AgentEndRecord::Up { .. } => "up",
            AgentEndRecord::Down { .. } => "down",
            AgentEndRecord::Heard => "heard",
            AgentEndRecord::HeartbeatDue => "heartbeat-due",
            AgentEndRecord::ResendDue => "resend-due",
            AgentEndRecord::Refused { .. } => "refused",
        }
    }

    fn is_fact(&self) -> bool {
        matches!(self, AgentEndRecord::Obeyed { .. } | AgentEndRecord::Adopted { .. })
    }
}

/// Where the session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting to dial again.
    Waiting {
        /// When.
        until: Timestamp,
    },
    /// Dialling.
    Dialling,
    /// The stream is open, the hello is out.
    Greeting {
        /// Since when.
        since: Timestamp,
    },
    /// Up.
    Up {
        /// As agreed.
        heartbeat: Duration,
        /// When the coordinator spoke last.
        heard: Timestamp,
        /// When the last heartbeat went out.
        beat: Timestamp,
        /// When everything unacknowledged went out last.
        sent: Timestamp,
    },
}

/// How long an answer to the hello may take. An inventory is read by then; this covers a coordinator's sync and a slow
/// network.
const GREETING_MAX: Duration = Duration::from_secs(15);

/// The agent's end of its session.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentEnd {
    agent: AgentId,
    seed: u64,
    // from facts
    obeys: Option<Claim>,
    adopted: Option<CoordinatorId>,
    // from notes
    phase: Phase,
    attempt: u32,
    dials: u64,
    beats: u64,
    epoch: u64,
    why_down: Option<String>,
}

impl AgentEnd {
    /// An agent that has never obeyed anybody. `seed` spreads its attempts to dial.
    pub fn new(agent: AgentId, seed: u64) -> Self {
        Self {
            agent,
            seed,
            obeys: None,
            adopted: None,
            phase: Phase::Waiting { until: Timestamp::ZERO },
            attempt: 0,
            dials: 0,
            beats: 0,
            epoch: 0,
            why_down: None,
        }
    }

    /// Whom it obeys.
    pub fn obeys(&self) -> Option<&Claim> {
        self.obeys.as_ref()
    }

    /// Whom the hello names: nobody, once a person has handed this agent over.
    pub fn hello_obeys(&self) -> Option<&Claim> {
        self.obeys.as_ref().filter(|_| self.adopted.is_none())
    }

    /// Where the session stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Why it is down, for people.
    pub fn why_down(&self) -> Option<&str> {
        self.why_down.as_deref()
    }

    /// Whether the session is up.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// The number of the dial that should be going on, if one should.
    pub fn dial(&self) -> Option<u64> {
        (self.phase == Phase::Dialling).then_some(self.dials)
    }

    /// The number of the last heartbeat that should have gone out.
    pub fn beat(&self) -> Option<u64> {
        (self.is_up() && self.beats > 0).then_some(self.beats)
    }

    /// What must arrive goes out once in each epoch; none while the session is down.
    pub fn epoch(&self) -> Option<u64> {
        self.is_up().then_some(self.epoch)
    }

    /// Whether a word under this term comes from the coordinator that this session is with.
    pub fn admits(&self, term: Term) -> bool {
        self.is_up() && self.obeys.as_ref().is_some_and(|claim| claim.term == term)
    }

    /// Judges a claim against everything that was accepted durably.
    ///
    /// # Errors
    /// The refusal that both sides log.
    pub fn judge(&self, reply: &HelloReply) -> Result<(), Refusal> {
        if reply.protocol == 0 || reply.protocol > PROTOCOL_VERSION {
            return Err(Refusal::Protocol { theirs: reply.protocol, ours: PROTOCOL_VERSION });
        }
        let asked = &reply.claim;
        if let Some(heir) = &self.adopted {
            return if *heir == asked.coordinator { Ok(()) } else { Err(self.foreign(heir, asked)) };
        }
        match &self.obeys {
            Some(known) if known.coordinator != asked.coordinator => Err(self.foreign(&known.coordinator, asked)),
            Some(known) if asked.term < known.term || (asked.term == known.term && asked.nonce != known.nonce) => {
                Err(Refusal::Stale { agent: self.agent.clone(), known: known.term, asked: asked.term })
            }
            _ => Ok(()),
        }
    }

    fn foreign(&self, obeys: &CoordinatorId, asked: &Claim) -> Refusal {
        Refusal::Foreign { agent: self.agent.clone(), obeys: obeys.clone(), asked: asked.coordinator.clone() }
    }

    /// What should be written down because of `event`.
    pub fn decide(&self, now: Timestamp, event: &AgentEndEvent) -> Vec<AgentEndRecord> {
        match event {
            AgentEndEvent::Started => vec![],
            AgentEndEvent::Tick => self.due(now),
            AgentEndEvent::Connected => vec![AgentEndRecord::Connected],
            AgentEndEvent::Disconnected { why } => vec![AgentEndRecord::Down { why: why.clone() }],
            AgentEndEvent::Greeted(reply) if matches!(self.phase, Phase::Greeting { .. }) => match self.judge(reply) {
                Ok(()) => {
                    let mut records = vec![];
                    if self.obeys.as_ref() != Some(&reply.claim) {
                        records.push(AgentEndRecord::Obeyed { claim: reply.claim.clone() });
                    }
                    records.push(AgentEndRecord::Up { heartbeat: reply.heartbeat });
                    records
                }
                Err(refusal) => vec![
                    AgentEndRecord::Refused { refusal: refusal.clone() },
                    AgentEndRecord::Down { why: refusal.to_string() },
                ],
            },
            AgentEndEvent::Greeted(_) => vec![],
            AgentEndEvent::Heard if self.is_up() => vec![AgentEndRecord::Heard],
            AgentEndEvent::Heard => vec![],
            AgentEndEvent::Adopt(coordinator) => vec![
                AgentEndRecord::Adopted { coordinator: coordinator.clone() },
                AgentEndRecord::Down { why: format!("handed over to coordinator {coordinator}") },
            ],
        }
    }

    fn due(&self, now: Timestamp) -> Vec<AgentEndRecord> {
        match &self.phase {
            Phase::Waiting { until } if now >= *until => vec![AgentEndRecord::Dialled],
            Phase::Greeting { since } if now.since(*since) >= GREETING_MAX => {
                vec![AgentEndRecord::Down { why: "the coordinator did not answer the hello".to_owned() }]
            }
            Phase::Up { heartbeat, heard, .. } if now.since(*heard) >= *heartbeat * MISSED_HEARTBEATS => {
                let silence = humantime::format_duration(*heartbeat * MISSED_HEARTBEATS);
                vec![AgentEndRecord::Down { why: format!("nothing heard from the coordinator for {silence}") }]
            }
            Phase::Up { heartbeat, beat, .. } if now.since(*beat) >= *heartbeat => vec![AgentEndRecord::HeartbeatDue],
            Phase::Up { sent, .. } if now.since(*sent) >= RESEND_EVERY => vec![AgentEndRecord::ResendDue],
            _ => vec![],
        }
    }

    /// Applies one record.
    pub fn apply(&mut self, at: Timestamp, record: &AgentEndRecord) {
        match record {
            AgentEndRecord::Obeyed { claim } => {
                self.obeys = Some(claim.clone());
                self.adopted = None;
            }
            AgentEndRecord::Adopted { coordinator } => self.adopted = Some(coordinator.clone()),
            AgentEndRecord::Dialled => {
                self.dials += 1;
                self.phase = Phase::Dialling;
            }
            AgentEndRecord::Connected => self.phase = Phase::Greeting { since: at },
            AgentEndRecord::Up { heartbeat } => {
                self.attempt = 0;
                self.epoch += 1;
                self.why_down = None;
                self.phase = Phase::Up { heartbeat: *heartbeat, heard: at, beat: at, sent: at };
            }
            AgentEndRecord::Down { why } => {
                let until = at + backoff(self.attempt, self.seed);
                self.attempt = self.attempt.saturating_add(1);
                self.why_down = Some(why.clone());
                self.phase = Phase::Waiting { until };
            }
            AgentEndRecord::Heard => {
                if let Phase::Up { heard, .. } = &mut self.phase {
                    *heard = at;
                }
            }
            AgentEndRecord::HeartbeatDue => {
                self.beats += 1;
                if let Phase::Up { beat, .. } = &mut self.phase {
                    *beat = at;
                }
            }
            AgentEndRecord::ResendDue => {
                self.epoch += 1;
                if let Phase::Up { sent, .. } = &mut self.phase {
                    *sent = at;
                }
            }
            AgentEndRecord::Refused { .. } => {}
        }
    }

    /// When it wants a tick.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Dialling => None,
            Phase::Greeting { since } => Some(*since + GREETING_MAX),
            Phase::Up { heartbeat, heard, beat, sent } => {
                Some((*heard + *heartbeat * MISSED_HEARTBEATS).min(*beat + *heartbeat).min(*sent + RESEND_EVERY))
            }
        }
    }

    /// Forgets what only notes told.
    pub fn forget_notes(&mut self) {
        let fresh = AgentEnd::new(self.agent.clone(), self.seed);
        *self = AgentEnd { obeys: self.obeys.take(), adopted: self.adopted.take(), ..fresh };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(coordinator: &str, term: u64, nonce: &str) -> Claim {
        Claim { coordinator: CoordinatorId::new(coordinator).unwrap(), term: Term(term), nonce: nonce.into() }
    }

    fn reply(claim: Claim) -> HelloReply {
        HelloReply { protocol: PROTOCOL_VERSION, claim, heartbeat: Duration::from_secs(5) }
    }

    /// Feeds an event and applies what comes of it.
    fn feed(end: &mut AgentEnd, now: u64, event: AgentEndEvent) -> Vec<AgentEndRecord> {
        let records = end.decide(Timestamp(now), &event);
        for record in &records {
            end.apply(Timestamp(now), record);
        }
        records
    }

    fn up(end: &mut AgentEnd, now: u64, claim: Claim) {
        while end.dial().is_none() {
            let at = end.next_deadline().unwrap().0.max(now);
            feed(end, at, AgentEndEvent::Tick);
        }
        feed(end, now, AgentEndEvent::Connected);
        feed(end, now, AgentEndEvent::Greeted(reply(claim)));
    }

    #[test]
    fn a_claim_is_obeyed_durably_and_an_older_or_foreign_one_is_refused() {
        let mut end = AgentEnd::new(AgentId::new("a").unwrap(), 1);
        up(&mut end, 1000, claim("one", 5, "x"));
        assert!(end.is_up() && end.admits(Term(5)) && !end.admits(Term(4)));
        end.forget_notes();
        assert_eq!(end.obeys(), Some(&claim("one", 5, "x")));
        let cases = [
            (claim("one", 4, "y"), false),
            (claim("one", 5, "y"), false),
            (claim("one", 5, "x"), true),
            (claim("one", 6, "z"), true),
            (claim("two", 9, "x"), false),
        ];
        for (asked, good) in cases {
            assert_eq!(end.judge(&reply(asked.clone())).is_ok(), good, "{asked:?}");
        }
        let text = end.judge(&reply(claim("two", 9, "x"))).unwrap_err().to_string();
        assert!(text.contains("baton agent adopt two"), "{text}");
    }

    #[test]
    fn a_newer_protocol_is_refused_by_number() {
        let end = AgentEnd::new(AgentId::new("a").unwrap(), 1);
        let newer = HelloReply { protocol: PROTOCOL_VERSION + 1, ..reply(claim("one", 1, "x")) };
        assert!(matches!(end.judge(&newer), Err(Refusal::Protocol { .. })));
    }

    #[test]
    fn adopting_hands_over_whatever_the_term_and_to_nobody_else() {
        let mut end = AgentEnd::new(AgentId::new("a").unwrap(), 1);
        up(&mut end, 1000, claim("one", 50, "x"));
        feed(&mut end, 2000, AgentEndEvent::Adopt(CoordinatorId::new("two").unwrap()));
        assert!(!end.is_up());
        assert!(end.judge(&reply(claim("one", 51, "x"))).is_err());
        assert!(end.judge(&reply(claim("three", 51, "x"))).is_err());
        up(&mut end, 9000, claim("two", 1, "q"));
        assert!(end.admits(Term(1)));
    }

    #[test]
    fn silence_ends_a_session_after_three_heartbeats_and_speech_keeps_it() {
        let mut end = AgentEnd::new(AgentId::new("a").unwrap(), 1);
        up(&mut end, 1000, claim("one", 1, "x"));
        for second in 1..10 {
            feed(&mut end, 1000 + second * 1000, AgentEndEvent::Heard);
        }
        for now in [14_000, 19_000, 24_999] {
            feed(&mut end, now, AgentEndEvent::Tick);
            assert!(end.is_up(), "down at {now}");
        }
        feed(&mut end, 25_000, AgentEndEvent::Tick);
        assert!(!end.is_up() && end.why_down().unwrap().contains("15s"));
    }

    #[test]
    fn everything_unacknowledged_goes_out_again_in_a_new_session_and_now_and_then() {
        let mut end = AgentEnd::new(AgentId::new("a").unwrap(), 1);
        assert_eq!(end.epoch(), None);
        up(&mut end, 1000, claim("one", 1, "x"));
        let first = end.epoch().unwrap();
        for now in (2000..17_000).step_by(1000) {
            feed(&mut end, now, AgentEndEvent::Heard);
            feed(&mut end, now, AgentEndEvent::Tick);
            feed(&mut end, now, AgentEndEvent::Tick);
        }
        assert_eq!(end.epoch(), Some(first + 1));
        feed(&mut end, 17_000, AgentEndEvent::Disconnected { why: "reset".into() });
        assert_eq!(end.epoch(), None);
        up(&mut end, 18_000, claim("one", 1, "x"));
        assert_eq!(end.epoch(), Some(first + 2));
    }
}
