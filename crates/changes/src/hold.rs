//! Live frames of a channel that wait while it is told what it missed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use walcast_protocol::Frame;

/// Bounds of what waits.
const MAX_FRAMES: usize = 10_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Hold {
    /// Whether there is anything to look at under the lock.
    is_held: AtomicBool,
    waiting: Mutex<Option<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    frames: Vec<Frame>,
    bytes: usize,
    is_over: bool,
}

impl Hold {
    /// Keeps frames back from now on.
    pub(crate) fn begin(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting = Some(Waiting::default());
        self.is_held.store(true, Ordering::Release);
    }

    /// Gives the frame back if it may pass.
    pub(crate) fn pass(&self, frame: Frame) -> Option<Frame> {
        if !self.is_held.load(Ordering::Acquire) {
            return Some(frame);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = &mut *waiting else {
            return Some(frame);
        };
        waiting.bytes += frame.len();
        if waiting.is_over || waiting.frames.len() >= MAX_FRAMES || waiting.bytes > MAX_BYTES {
            waiting.is_over = true;
        } else {
            waiting.frames.push(frame);
        }
        None
    }

    /// Hands out what waits, and keeps nothing back any more. Whether all that came is among it.
    pub(crate) fn end(&self, deliver: impl FnMut(Frame)) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Waiting { frames, is_over, .. }) = waiting.take() else {
            return true;
        };
        // Under the lock, so that nothing overtakes.
        frames.into_iter().for_each(deliver);
        self.is_held.store(false, Ordering::Release);
        !is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &str) -> Frame {
        Frame::from(text.to_owned())
    }

    #[test]
    fn what_comes_meanwhile_waits_and_passes_in_order() {
        let hold = Hold::default();
        assert_eq!(hold.pass(frame("a")), Some(frame("a")));
        hold.begin();
        assert_eq!(hold.pass(frame("b")), None);
        assert_eq!(hold.pass(frame("c")), None);
        let mut out = Vec::new();
        assert!(hold.end(|frame| out.push(frame)));
        assert_eq!(out, [frame("b"), frame("c")]);
        assert_eq!(hold.pass(frame("d")), Some(frame("d")));
        assert!(hold.end(|_| unreachable!()));
    }

    #[test]
    fn beyond_its_bound_it_takes_no_more_and_says_so() {
        let hold = Hold::default();
        hold.begin();
        (0..=MAX_FRAMES).for_each(|_| assert_eq!(hold.pass(frame("x")), None));
        let mut count = 0;
        assert!(!hold.end(|_| count += 1));
        assert_eq!(count, MAX_FRAMES);
    }
}
