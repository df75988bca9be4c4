//! An agent's workers, joined: who is asked, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{AgentEvent, AgentNode, AgentRecord};
use crate::link::AgentEndEvent;
use crate::model::{
    Act, AgentId, Attempt, Claim, Command, CommandId, CommandStep, ComponentName, CoordinatorId, HelloReply,
    InstanceId, Machine, PROTOCOL_VERSION, Precondition, RollId, SlotName, StepId, Term, Timestamp,
};
use crate::worker;

fn slot(index: u32) -> SlotName {
    SlotName::new(ComponentName::new("worker").unwrap(), index)
}

fn stop(index: u32) -> Command {
    Command {
        id: CommandId { roll: RollId::new("r1").unwrap(), step: StepId(index), attempt: Attempt(1) },
        term: Term(1),
        slot: slot(index),
        steps: vec![CommandStep {
            step: StepId(index),
            act: Act::Stop {
                instance: InstanceId::new(slot(index), 1),
                signal: "SIGTERM".to_owned(),
                timeout: Duration::from_secs(10),
            },
            precondition: Precondition::None,
            deadline: Duration::from_secs(60),
        }],
    }
}

/// An agent with a session and a list on each of so many slots, driven as the driver does; every state is checked.
struct Agent {
    node: AgentNode,
    now: Timestamp,
    recorded: Vec<AgentRecord>,
}

impl Agent {
    fn new(slots: u32) -> Self {
        let node = AgentNode::new(AgentId::new("host").unwrap(), 1);
        let mut agent = Self { node, now: Timestamp(1_000), recorded: vec![] };
        agent.feed(&AgentEvent::Tick);
        agent.feed(&AgentEvent::Link(AgentEndEvent::Connected));
        agent.feed(&AgentNode::greeted(HelloReply {
            protocol: PROTOCOL_VERSION,
            claim: Claim { coordinator: CoordinatorId::new("c1").unwrap(), term: Term(1), nonce: "n".to_owned() },
            heartbeat: Duration::from_secs(5),
        }));
        for index in 1..=slots {
            agent.feed(&AgentEvent::Command(Box::new(stop(index))));
        }
        agent
    }

    fn feed(&mut self, event: &AgentEvent) {
        let mut records = self.node.decide(self.now, event);
        for _ in 0..100 {
            for record in records.drain(..) {
                self.node.apply(self.now, &record).unwrap();
                self.recorded.push(record);
                self.check();
            }
            records = self.node.decide(self.now, &AgentEvent::Tick);
            if records.is_empty() {
                return;
            }
        }
        panic!("never quiet");
    }

    /// A tick says what asking every worker would have said, now and whenever something is due.
    fn check(&self) {
        let each = |worker: &worker::Worker, at| worker.decide(at, &worker::Event::Tick);
        for later in [0, 1, 300, 2_500, 70_000, 200_000] {
            let at = Timestamp(self.now.0 + later);
            let asked: Vec<_> = self.node.workers().values().flat_map(|worker| each(worker, at)).collect();
            let told = self.node.decide(at, &AgentEvent::Tick);
            let told: Vec<_> = told
                .into_iter()
                .filter_map(|record| match record {
                    AgentRecord::Slot { entry, .. } => Some(entry),
                    _ => None,
                })
                .collect();
            assert_eq!(told, asked, "at {at:?}");
        }
        let first = self.node.workers().values().filter_map(Machine::next_deadline);
        assert_eq!(self.node.next_deadline(), first.chain(self.node.link().next_deadline()).min());
    }
}

#[test]
fn a_tick_that_asks_only_who_is_due_misses_nobody() {
    let mut agent = Agent::new(5);
    for index in [3, 1, 5] {
        agent.feed(&AgentEvent::Slot(slot(index), Box::new(worker::Event::Inspected(vec![]))));
    }
    agent.feed(&AgentEvent::Slot(slot(2), Box::new(worker::Event::InspectFailed("no answer".to_owned()))));
    for _ in 0..20 {
        agent.now = Timestamp(agent.now.0 + 4_000);
        agent.feed(&AgentEvent::Link(AgentEndEvent::Heard));
    }
    agent.node.forget_notes();
    agent.check();
}

#[test]
fn an_acknowledgement_reaches_the_worker_that_told_and_nobody_else() {
    let mut agent = Agent::new(3);
    for index in 1..=3 {
        agent.feed(&AgentEvent::Slot(slot(index), Box::new(worker::Event::Inspected(vec![]))));
    }
    agent.recorded.clear();
    let told = |index| (stop(index).id, StepId(index));
    agent.feed(&AgentEvent::Acknowledged(vec![told(3), told(1), told(1), (stop(2).id, StepId(9))]));
    let acknowledged: BTreeSet<_> = agent
        .recorded
        .iter()
        .filter_map(|record| match record {
            AgentRecord::Slot { slot, entry: worker::Record::Acknowledged { .. } } => Some(slot.index),
            _ => None,
        })
        .collect();
    assert_eq!(acknowledged, BTreeSet::from([1, 3]));
    agent.recorded.clear();
    agent.feed(&AgentEvent::Acknowledged(vec![told(1)]));
    assert!(agent.recorded.is_empty(), "{:?}", agent.recorded);
}
