//! Containers of a Docker Engine (API 1.41 and newer), over its Unix socket.
//!
//! A slot is a service's container number in the Compose project that the fleet is, or has a place in the project of
//! this host (`places`); an instance is one container.
//! Which container is which instance is on record here (`record`), never on the container: what is left behind is what
//! Compose would have made. A container that Baton did not make gets a number when it is first seen.
//!
//! A new container beside an old one has a temporary name. The old one keeps its name for as long as it exists; when it
//! is removed, the one that is left takes the final name. So whoever types `docker compose up -d` in between meets no
//! name that is taken twice.

mod beside;
mod body;
mod copied;
mod door;
mod endpoint;
mod ends;
mod engine;
mod found;
mod host;
mod image;
mod life;
mod look;
mod memo;
mod places;
mod prepare;
mod record;
mod retain;
mod runtime;
mod volumes;

pub use endpoint::engine_socket;
pub use engine::socket_of;
pub use places::HostService;
pub use runtime::{DockerConfig, DockerRuntime};
