//! Compose projects on a real engine, with Compose itself as the judge. One program, so that tests which wait for
//! containers wait side by side.

#[path = "../support/docker.rs"]
mod docker;
#[path = "../support/second.rs"]
mod second;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/under_load.rs"]
mod under_load;

mod alone;
mod changes;
mod checked;
mod faults;
mod fidelity;
mod grace;
mod hosts;
mod images;
mod init;
mod kills;
mod roll;
mod sidecar;
mod update;
mod version;
