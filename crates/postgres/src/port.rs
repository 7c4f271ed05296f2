//! Which TCP port to listen on.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ranges from which operating systems draw the local ports of outgoing connections (from 32768 or 49152),
/// so that a port which is free now is not lost to one of those between two starts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Whether a listener can have the port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port nobody listens on. Somebody else can still take it before it is used.
pub(crate) fn any_free() -> Option<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that start together begin at different places, so they rarely want the same port.
    let start = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    (0..COUNT).find_map(|_| {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((start + step) % u32::from(COUNT)).unwrap_or_default();
        let port = FIRST + offset;
        is_free(port).then_some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_a_listener_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        drop(listener);
        assert!(is_free(port));
    }

    #[test]
    fn free_ports_differ_from_call_to_call() {
        assert_ne!(any_free().unwrap(), any_free().unwrap());
    }
}
