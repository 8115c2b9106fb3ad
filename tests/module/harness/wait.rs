//! Waiting for a condition with a deadline.
//! Forbidden here: waiting for time alone.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics with `what` when it does not within `limit`.
#[track_caller]
pub fn until(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(
        holds_within(limit, condition),
        "not within {limit:?}: {what}"
    );
}

/// Whether `condition` comes to hold within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `look` finds something, and gives it back; panics with `what` when it does not within `limit`.
#[track_caller]
pub fn found<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut thing = None;
    until(limit, what, || {
        thing = look();
        thing.is_some()
    });
    thing.expect("until returned, so there is one")
}
