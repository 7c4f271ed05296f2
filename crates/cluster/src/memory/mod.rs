//! Sharing within one process: for a server that is alone, and for tests of several nodes.

mod bus;
mod lease;

pub(crate) use bus::{MemoryBus, Wire};
pub(crate) use lease::MemoryLeases;
