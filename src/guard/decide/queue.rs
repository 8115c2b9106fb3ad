//! The virtual queue: a refused registration gets the next free slot in time as its Retry-After, so that N phones come
//! back as a ramp. Forbidden here: clocks, atomics, memory of who holds which slot (the caller's table).
//!
//! The whole queue is one number, the time at which its last slot ends (`tail`). Taking a slot moves it on by one
//! service time (1 ÷ `retry_rate`); time passing drains it. Nothing is stored per phone here.
//!
//! Nobody owns it: what one source has in it at a time is at most [`SOURCE_BOUND_S`] seconds of it ([`charge`]), however
//! full the others make it. What comes from there beyond that (a flood, or the phones behind one NAT or one proxy) queues behind
//! itself, by the same rules on a tail of its own, so it comes back as a ramp as well.

/// What the queue is made of: the three parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `retry_after_min`, seconds.
    pub min_s: u64,
    /// `retry_after_max`, seconds; not below `min_s`.
    pub max_s: u64,
    /// `retry_rate`, registrations per second; at least 1.
    pub rate: u64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// How many are before it.
    pub position: u32,
    /// When its slot begins, milliseconds on the caller's clock.
    pub slot_ms: u64,
    /// What the reply says, seconds: never outside the rules' bounds.
    pub retry_after: u32,
}

/// Milliseconds after `now` from which slots are given: nobody is asked back sooner than `min_s`.
const fn earliest(rules: &Rules, now_ms: u64) -> u64 {
    now_ms.saturating_add(rules.min_s.saturating_mul(1000))
}

/// Seconds of the queue that one source may hold at a time: what it can add to everybody else's Retry-After.
pub const SOURCE_BOUND_S: u64 = 5;

/// What a source holds of the common queue: microseconds of it, and when the first of them was taken.
///
/// What it got goes on being held until the last slot that it got anywhere has passed. Time alone drains nothing: the
/// queue drains once for all, and where others fill it, what one puts in stays as long as what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holding {
    /// The first slot of those that are counted, milliseconds.
    since_ms: u64,
    us: u64,
}

/// Bits of a word for the microseconds.
const US_BITS: u32 = 24;
/// What a source may hold, microseconds: one slot at the lowest rate at least, and it has room in its word.
const BOUND_US: u64 = SOURCE_BOUND_S * 1_000_000;
const _: () = assert!(1_000_000 <= BOUND_US && BOUND_US < 1 << US_BITS);
/// The time in the other bits is in units of 2 to the power of this, milliseconds.
const SINCE_BITS: u32 = 4;
/// Who has just begun is not done yet, whatever its last slot says: other processes write that down a moment later.
const BEGINS_MS: u64 = 200;

impl Holding {
    fn of(word: u64) -> Holding {
        Holding {
            since_ms: word >> US_BITS << SINCE_BITS,
            us: word & ((1 << US_BITS) - 1),
        }
    }

    fn word(self) -> u64 {
        (self.since_ms >> SINCE_BITS) << US_BITS | self.us
    }
}

/// When the first slot begins of those that a source holds, milliseconds.
pub fn held_since_ms(held: u64) -> u64 {
    Holding::of(held).since_ms
}

/// Charges a source for one slot of the common queue: what it holds now (a word of its own kind), and whether it may have
/// the slot. `tail_us` is the end of the last slot that it got anywhere: while that has not passed it stays in its own
/// queue once it is there, in the order of arrival.
pub fn charge(held: u64, tail_us: u64, now_ms: u64, rules: &Rules) -> (u64, bool) {
    let first_ms = earliest(rules, now_ms);
    let slot_us = 1_000_000 / rules.rate.max(1);
    let mut holding = Holding::of(held);
    let is_over = tail_us <= first_ms.saturating_mul(1000);
    if is_over && holding.since_ms.saturating_add(BEGINS_MS) <= first_ms {
        holding = Holding {
            since_ms: first_ms,
            us: 0,
        };
    }
    let after = Holding {
        us: holding.us + slot_us,
        ..holding
    };
    match after.us <= BOUND_US {
        true => (after.word(), true),
        false => (held, false),
    }
}

/// Whether a source that holds this queues behind itself.
pub fn is_crowd(held: u64, tail_us: u64, now_ms: u64, rules: &Rules) -> bool {
    !charge(held, tail_us, now_ms, rules).1
}

/// The rules of a source's own queue while `crowds` of them queue behind themselves: together they come back at the
/// rate, as far as eight of them; more are slowed no further, or a flood from many sources would shut out a NAT.
pub fn own_rules(rules: &Rules, crowds: u64) -> Rules {
    Rules {
        rate: (rules.rate / crowds.clamp(1, 8)).max(1),
        ..*rules
    }
}

/// Takes the next slot: the new tail (microseconds) and the ticket. The caller stores the tail in one atomic step.
///
/// Where the queue is longer than `retry_after_max`, the tail stays and the phone is told a random time in the later
/// half of what is allowed: it comes without a slot and queues then. `random` also spreads replies over one second.
pub fn take(tail_us: u64, now_ms: u64, rules: &Rules, random: u64) -> (u64, Ticket) {
    let rate = rules.rate.max(1);
    let first_us = earliest(rules, now_ms).saturating_mul(1000);
    let last_us = now_ms
        .saturating_add(rules.max_s.saturating_mul(1000))
        .saturating_mul(1000);
    let slot_us = tail_us.max(first_us);
    let position = slot_us.saturating_sub(first_us).saturating_mul(rate) / 1_000_000;
    let position = u32::try_from(position).unwrap_or(u32::MAX);
    if slot_us > last_us {
        let half = rules.max_s.saturating_sub(rules.min_s) / 2;
        let retry_after = rules.max_s.saturating_sub(random % (half + 1));
        let slot_ms = now_ms.saturating_add(retry_after.saturating_mul(1000));
        return (
            tail_us,
            Ticket {
                position,
                slot_ms,
                retry_after: seconds(retry_after),
            },
        );
    }
    let slot_ms = slot_us / 1000;
    // Whole seconds, rounded up: nobody comes before its slot. Slots lie 1/rate apart, so the ramp stays a ramp.
    let wait_s = slot_ms.saturating_sub(now_ms).div_ceil(1000);
    let retry_after = seconds(wait_s.clamp(rules.min_s, rules.max_s.max(rules.min_s)));
    (
        slot_us.saturating_add(1_000_000 / rate),
        Ticket {
            position,
            slot_ms,
            retry_after,
        },
    )
}

/// The Retry-After of a phone that comes before its slot: what is left, within the bounds. Nothing moves.
pub fn early(slot_ms: u64, now_ms: u64, rules: &Rules) -> u32 {
    let left_s = slot_ms.saturating_sub(now_ms).div_ceil(1000);
    seconds(left_s.clamp(rules.min_s, rules.max_s.max(rules.min_s)))
}

/// How many slots lie ahead, for reports.
pub fn length(tail_us: u64, now_ms: u64, rules: &Rules) -> u64 {
    let ahead_us = tail_us.saturating_sub(earliest(rules, now_ms).saturating_mul(1000));
    ahead_us.saturating_mul(rules.rate.max(1)) / 1_000_000
}

/// How long until the last of them has had its slot, seconds; 0 when the queue is empty.
pub fn drained_in(tail_us: u64, now_ms: u64) -> u64 {
    tail_us
        .saturating_sub(now_ms.saturating_mul(1000))
        .div_ceil(1_000_000)
}

fn seconds(s: u64) -> u32 {
    u32::try_from(s).unwrap_or(u32::MAX)
}
