//! Sharing within one process: for a server that is alone, and for tests of several nodes.

mod bus;
mod lease;
mod line;
mod recent;
mod shelf;
mod stream;

pub(crate) use bus::{MemoryBus, Wire};
pub(crate) use lease::MemoryLeases;
pub(crate) use line::Line;
pub(crate) use shelf::{MemoryShelf, Rack};
pub(crate) use stream::{MemoryStreams, check_length};
