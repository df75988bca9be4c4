//! Tests that measure what users get, with no other on the machine (`gate::alone`) or one of their kind
//! (`gate::measuring`). Programs of tests take them in the order of their names: these come before all that only wait,
//! so nobody waits for a place while others could work.

mod foreign;
mod gateway;
mod house;
mod proxy;
