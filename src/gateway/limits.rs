//! Every limit of the front door, with its reason.

use std::time::Duration;

/// Requests that one process may hold at a time. A held request costs a connection and its buffers, about 12 KiB:
/// 10,000
/// of them are 120 MB, which a host that runs an API has. More would only wait for a target that such a rush knocks
/// over.
pub(super) const HELD_MAX: u64 = 10_000;

/// Client connections of one process. Twice [`HELD_MAX`]: a full hold must leave room for those who ask how it is
/// going.
/// Beyond it connections wait in the kernel's queue and are not refused.
pub(super) const CONNECTIONS_MAX: usize = 20_000;

/// Bytes of a request's or a response's head. The usual front doors take 8 to 32 KiB; session cookies and tokens of
/// single sign-on come near that. A larger request is answered with 431.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// From the first byte of a request's head to its last. Slow mobile networks need seconds, never half a minute; a
/// client
/// that takes longer keeps a connection without asking anything.
pub(super) const HEAD_READ_MAX: Duration = Duration::from_secs(30);

/// How long a client's connection may lie idle. The pools of common clients give up after 90 s: whoever closes first
/// should be the client, for a request that meets a closing connection is a failed one.
pub(super) const CLIENT_IDLE_MAX: Duration = Duration::from_secs(120);

/// How often a connection looks at the two limits above. They are exact to this span; a timer a request would cost more
/// than it is worth.
pub(super) const CLIENT_CHECK_EVERY: Duration = Duration::from_secs(5);

/// To open a connection to a target. It is on this host or in this room: a lost SYN is sent again after 1 s, and a
/// second loss is a fault to go around.
pub(super) const CONNECT_MAX: Duration = Duration::from_millis(2500);

/// Connections that may be opened to one target at the same time. After a hold thousands of requests go at once; the
/// usual accept queue is 128, and what does not fit into it waits a whole second.
pub(super) const CONNECTING_MAX: usize = 64;

/// Between two attempts to reach a target that does not answer.
pub(super) const PROBE_EVERY: Duration = Duration::from_millis(50);

/// Idle connections kept to one target by one thread: as many as a busy API has requests at a time; more only occupy
/// its descriptors.
pub(super) const IDLE_PER_TARGET_MAX: usize = 512;

/// How long an idle connection to a target is worth keeping.
pub(super) const TARGET_IDLE_MAX: Duration = Duration::from_secs(60);

/// A request that must not be sent twice only reuses a connection younger than this. The shortest idle limit of a
/// common
/// server is 2 s (gunicorn): half of it leaves no moment at which the server closes while the request is under way.
pub(super) const REUSE_UNSAFE_MAX: Duration = Duration::from_secs(1);

/// How often old idle connections are looked for.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// How often a request goes out again after it provably reached nobody. Each time another connection broke between its
/// handshake and the first byte; a third is no coincidence.
pub(super) const SEND_ATTEMPTS_MAX: u32 = 3;

/// For the closing handshake of an upgraded connection. Peers answer within a round trip; one that does not is gone.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(5);

/// For what is in flight when the gateway itself is told to end.
pub(super) const SHUTDOWN_MAX: Duration = Duration::from_secs(30);

/// After an accept that failed for want of descriptors or memory: long enough for some to come free.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One call on the control socket. Its longest part is a sync of a small file.
pub(super) const CONTROL_MAX: Duration = Duration::from_secs(5);

/// Bytes of one control message. A target is about 100 bytes: this is a table of 10,000.
pub(super) const CONTROL_BYTES_MAX: usize = 1024 * 1024;

/// Targets of one listener. A choice looks at each of them.
pub(super) const TARGETS_MAX: usize = 256;

/// Bytes of the table file. [`TARGETS_MAX`] targets of 256 listeners at their longest names.
pub(super) const TABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;
