//! The one room where `unsafe` may stand, and small facts about this host: clocks, boot id, processes, sockets.

pub mod abstract_socket;
pub mod clock;
pub mod files;
pub mod listen_fds;
pub mod lock;
pub mod pidfd_end;
pub mod process;
pub mod random;
pub mod signals;
pub mod spawn;
pub mod state_dir;
pub mod unix_socket;
