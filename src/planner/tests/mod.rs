//! Rules of the planner as tables over small fleets.

mod adopt;
mod fleet;
mod follow;
mod hosts;
mod order;
mod place;
mod property;
mod up;
mod verbs;
