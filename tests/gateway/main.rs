//! The gateway as its users see it: real sockets, real HTTP servers behind it, and its control socket.

mod backend;
mod client;
mod hold;
mod http;
mod lifetime;
mod stream;
mod support;
mod switch;
mod upgrade;
