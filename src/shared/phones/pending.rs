//! Registrations in flight, by Call-ID and AoR: what a request asked for, until its reply comes or its second leg.
//! Forbidden here: parsing, hashing, deciding, and promising to remember (a newer registration may take the place).
//!
//! ```text
//! set      0        64       128                    two ways, a Record<7> of one cache line each
//!          way 0 │ way 1 │
//!
//! record   0     8              16      24       32 … 48            56
//!          key │ time │ cseq  │ bits │ AoR's fp │ bindings' fps 0…2 │ check
//! bits     0..2 state, 2..4 kind, 4..6 how many bindings, 6..9 which of them are removed, 9 by tm, 10 there are more
//!          bindings, 11..16 log2 of the seconds asked for, 16..40 transaction, 40..64 contents
//! ```
//!
//! A note goes to its own record when there is one, else to an empty or torn one, else over the older of the two.
//! Whatever a killed, stopped or racing writer leaves is a record or absent (see `record`); what is lost with it is
//! one registration in flight, which then counts as if nothing had been noted.

use std::io;

use crossbeam_utils::CachePadded;

use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    record::Record,
};

/// Words of one record: with its check one cache line.
const WORDS: usize = 7;
/// How many bindings of one request are kept by name; `contents` stands for all of them.
pub const MAX_BINDINGS: usize = 3;
/// Bits of [`Pending::transaction`] and [`Pending::contents`] that are kept.
const SHORT: u64 = 0x00ff_ffff;
/// How far a registration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It arrived; nothing was decided.
    Seen,
    /// It was admitted, and no reply was seen.
    Admitted,
    /// It was admitted and answered with a challenge (401 or 407): a second leg is expected.
    Challenged,
}

/// What a registration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Adds or refreshes at least one binding.
    Add,
    /// Removes the bindings it names.
    Remove,
    /// Removes all bindings of its AoR (`*`).
    RemoveAll,
    /// Names none.
    Query,
}

/// One binding that a registration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// Fingerprint of AoR and contact (or instance).
    pub fp: u64,
    /// The request gives it Expires 0.
    pub is_removed: bool,
}

/// One registration in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Fingerprint of Call-ID and AoR, under which it is found.
    pub key: u64,
    /// CSeq number of the request.
    pub cseq: u32,
    /// When it arrived, seconds of server time (kept in 32 bits: until 2106).
    pub time_s: u64,
    /// How far it has come.
    pub state: State,
    /// What it asks for.
    pub kind: Kind,
    /// Fingerprint of the AoR.
    pub aor_fp: u64,
    /// Fingerprint of its transaction, 24 bits: a retransmission has the same, and a reply carries it.
    pub transaction: u32,
    /// Fingerprint of all that it names, 24 bits.
    pub contents: u32,
    /// tm keeps a transaction of it, so its replies are told by tm and by nobody else.
    pub is_by_tm: bool,
    /// It names more bindings than are kept.
    pub has_more: bool,
    /// The longest Expires that it asks for, seconds; kept as the power of two that is not below, at most 2³⁰.
    pub asked_s: u32,
    /// How many of `bindings` are given (the rest is ignored).
    pub count: u8,
    /// The first bindings that it names.
    pub bindings: [Binding; MAX_BINDINGS],
}

impl Pending {
    /// The bindings that are given.
    pub fn bindings(&self) -> &[Binding] {
        self.bindings
            .get(..usize::from(self.count))
            .unwrap_or(&self.bindings)
    }

    /// The power of two, as an exponent, that is not below the seconds asked for.
    fn log2_asked(&self) -> u32 {
        self.asked_s.clamp(1, 1 << 30).next_power_of_two().ilog2()
    }

    /// The same request again: its retransmission.
    pub fn is_again(&self, aor_fp: u64, transaction: u32, contents: u32) -> bool {
        (self.aor_fp, self.transaction, self.contents) == (aor_fp, transaction, contents)
            && self.state != State::Seen
    }

    /// Whether a request of this kind with these bindings asks for nothing that this one does not. `contents` stands
    /// for all of them; `all` says that `bindings` are all.
    pub fn covers(&self, kind: Kind, contents: u32, bindings: &[Binding], all: bool) -> bool {
        let is_named = |binding: &Binding| self.bindings().contains(binding);
        self.kind == kind && (self.contents == contents || all && bindings.iter().all(is_named))
    }

    fn pack(&self) -> [u64; WORDS] {
        let mut bits = self.state as u64
            | (self.kind as u64) << 2
            | u64::from(self.count.min(MAX_BINDINGS as u8)) << 4;
        for (place, binding) in self.bindings().iter().enumerate() {
            bits |= u64::from(binding.is_removed) << (6 + place);
        }
        bits |= u64::from(self.is_by_tm) << 9 | u64::from(self.has_more) << 10;
        bits |= u64::from(self.log2_asked()) << 11;
        bits |= (u64::from(self.transaction) & SHORT) << 16;
        bits |= (u64::from(self.contents) & SHORT) << 40;
        let fp = |place: usize| self.bindings().get(place).map_or(0, |binding| binding.fp);
        let time = self.time_s.min(u64::from(u32::MAX)) << 32 | u64::from(self.cseq);
        [self.key, time, bits, self.aor_fp, fp(0), fp(1), fp(2)]
    }

    fn unpack(words: [u64; WORDS]) -> Option<Pending> {
        let [key, time, bits, aor_fp, fps @ ..] = words;
        let state = match bits & 3 {
            0 => State::Seen,
            1 => State::Admitted,
            2 => State::Challenged,
            _ => return None,
        };
        let kind = match bits >> 2 & 3 {
            0 => Kind::Add,
            1 => Kind::Remove,
            2 => Kind::RemoveAll,
            _ => Kind::Query,
        };
        let mut bindings = [Binding::default(); MAX_BINDINGS];
        for (place, (binding, fp)) in bindings.iter_mut().zip(fps).enumerate() {
            *binding = Binding {
                fp,
                is_removed: bits >> (6 + place) & 1 == 1,
            };
        }
        Some(Pending {
            key,
            cseq: time as u32,
            time_s: time >> 32,
            state,
            kind,
            aor_fp,
            transaction: (bits >> 16 & SHORT) as u32,
            contents: (bits >> 40) as u32,
            is_by_tm: bits >> 9 & 1 == 1,
            has_more: bits >> 10 & 1 == 1,
            asked_s: 1 << (bits >> 11 & 0x1f).min(30),
            count: (bits >> 4 & 3) as u8,
            bindings,
        })
    }
}

/// The two records that a registration may be in.
#[repr(C)]
pub struct Set(CachePadded<[Record<WORDS>; 2]>);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Set>() == 128);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Set {}

/// A handle to the table of registrations in flight; copies of it are the same table.
#[derive(Clone, Copy)]
pub struct InFlight {
    sets: &'static [Set],
}

impl InFlight {
    /// Maps a table of `slots` records (rounded up to an even number, at least 2).
    ///
    /// # Errors
    /// As [`mapping::map_shared`]; `InvalidInput` above 2³¹ slots.
    pub fn map(slots: usize) -> io::Result<InFlight> {
        if slots > 1 << 31 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(InFlight {
            sets: mapping::map_slice(slots.div_ceil(2).max(1))?,
        })
    }

    /// Has the processor fetch what the next call about this key will read; changes and answers nothing.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        if let Some([first, second]) = self.set(key).map(|set| &*set.0) {
            mapping::prefetch(first);
            mapping::prefetch(second);
        }
    }

    /// Notes a registration, over an earlier one of the same key or the older of two strangers.
    pub fn note(&self, pending: &Pending) {
        let Some(set) = self.set(pending.key) else {
            return;
        };
        // The lowest rank goes: its own record, then one that cannot be read, then the older one.
        let rank = |record: &&Record<WORDS>| match record.load().and_then(Pending::unpack) {
            Some(other) if other.key == pending.key => (0, 0),
            None => (1, 0),
            Some(other) => (2, other.time_s),
        };
        if let Some(record) = set.0.iter().min_by_key(rank) {
            record.store(&pending.pack());
        }
    }

    /// The newest registration of a key that is at most `max_age_s` seconds old.
    pub fn find(&self, key: u64, now: u64, max_age_s: u64) -> Option<Pending> {
        self.records(key)
            .map(|(_, pending)| pending)
            .filter(|pending| now.saturating_sub(pending.time_s) <= max_age_s)
            .max_by_key(|pending| (pending.time_s, pending.cseq))
    }

    /// Marks a registration as challenged if it was admitted and is of this transaction; answers whether it is
    /// challenged now. A `note` of the same key at the same moment may undo it.
    pub fn mark_challenged(&self, key: u64, transaction: u32) -> bool {
        self.change(key, transaction, |pending| Pending {
            state: State::Challenged,
            ..pending
        })
    }

    /// Marks a registration as kept by tm, if it was admitted and is of this transaction.
    pub fn mark_by_tm(&self, key: u64, transaction: u32) -> bool {
        self.change(key, transaction, |pending| Pending {
            is_by_tm: true,
            ..pending
        })
    }

    fn change(&self, key: u64, transaction: u32, to: impl Fn(Pending) -> Pending) -> bool {
        let found = self.records(key).find(|(_, pending)| {
            pending.transaction == transaction && pending.state != State::Seen
        });
        if let Some((record, pending)) = found {
            record.store(&to(pending).pack());
        }
        found.is_some()
    }

    /// Forgets the registrations of a key up to a CSeq (its final reply came); a newer one stays.
    pub fn forget(&self, key: u64, cseq: u32) {
        for (record, pending) in self.records(key) {
            if pending.cseq <= cseq {
                record.clear();
            }
        }
    }

    fn records(&self, key: u64) -> impl Iterator<Item = (&'static Record<WORDS>, Pending)> {
        self.set(key)
            .into_iter()
            .flat_map(|set| set.0.iter())
            .filter_map(|record| Some((record, Pending::unpack(record.load()?)?)))
            .filter(move |(_, pending)| pending.key == key)
    }

    fn set(&self, key: u64) -> Option<&'static Set> {
        // Multiply and shift: spreads the upper half of the key over the sets without a division.
        self.sets
            .get((((key >> 32) * self.sets.len() as u64) >> 32) as usize)
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pending(key: u64, time_s: u64) -> Pending {
        Pending {
            key,
            cseq: 1,
            time_s,
            state: State::Admitted,
            kind: Kind::Add,
            aor_fp: 7,
            transaction: 11,
            contents: 12,
            is_by_tm: false,
            has_more: false,
            asked_s: 4096,
            count: 1,
            bindings: [
                Binding {
                    fp: 8,
                    is_removed: false,
                },
                Binding::default(),
                Binding::default(),
            ],
        }
    }

    proptest! {
        #[test]
        fn a_registration_survives_packing(
            fps in any::<[u64; 5]>(), cseq: u32, time: u32, state in 0..3u64, kind in 0..4u64, count in 0..=3u8, removed: [bool; 3],
            numbers in any::<[u32; 2]>(), flags: [bool; 2], asked_s: u32,
        ) {
            let mut bindings = [Binding::default(); MAX_BINDINGS];
            for (place, binding) in bindings.iter_mut().enumerate().take(usize::from(count)) {
                *binding = Binding { fp: fps[2 + place], is_removed: removed[place] };
            }
            let mut noted = Pending { cseq, aor_fp: fps[1], count, bindings, ..pending(fps[0], u64::from(time)) };
            noted.state = [State::Seen, State::Admitted, State::Challenged][state as usize];
            noted.kind = [Kind::Add, Kind::Remove, Kind::RemoveAll, Kind::Query][kind as usize];
            [noted.transaction, noted.contents] = numbers.map(|number| number & 0xff_ffff);
            [noted.is_by_tm, noted.has_more] = flags;
            noted.asked_s = asked_s;
            let unpacked = Pending::unpack(noted.pack()).unwrap();
            let kept = unpacked.asked_s;
            prop_assert!(kept >= asked_s.min(1 << 30) && u64::from(kept) < 2 * u64::from(asked_s.max(1)), "{}", kept);
            prop_assert_eq!(unpacked, Pending { asked_s: kept, ..noted });
        }
    }

    #[test]
    fn a_registration_is_found_until_it_is_too_old_or_forgotten() {
        let flight = InFlight::map(64).unwrap();
        assert_eq!(
            flight.find(0, 100, 32),
            None,
            "an empty table knows not even the key 0"
        );
        flight.note(&pending(5, 100));
        assert_eq!(flight.find(5, 132, 32), Some(pending(5, 100)));
        assert_eq!(flight.find(5, 133, 32), None);
        assert_eq!(
            flight.find(5, 90, 32),
            Some(pending(5, 100)),
            "the clock was set back"
        );
        assert_eq!(flight.find(6, 100, 32), None);
        flight.forget(5, 0);
        assert_eq!(
            flight.find(5, 100, 32),
            Some(pending(5, 100)),
            "a newer one"
        );
        flight.forget(5, 1);
        assert_eq!(flight.find(5, 100, 32), None);
    }

    #[test]
    fn of_three_registrations_in_one_set_the_oldest_goes() {
        let flight = InFlight::map(2).unwrap();
        for (key, time_s) in [(1, 100), (2, 101), (1, 102), (3, 103)] {
            flight.note(&pending(key, time_s));
        }
        assert_eq!(flight.find(1, 103, 32), Some(pending(1, 102)));
        assert_eq!(flight.find(2, 103, 32), None);
        assert_eq!(flight.find(3, 103, 32), Some(pending(3, 103)));
    }

    #[test]
    fn a_registration_replaces_its_own_note_and_not_an_older_one_of_a_stranger() {
        let flight = InFlight::map(2).unwrap();
        for (key, time_s) in [(1, 100), (2, 90), (1, 101)] {
            flight.note(&pending(key, time_s));
        }
        assert_eq!(flight.find(1, 101, 32), Some(pending(1, 101)));
        assert_eq!(flight.find(2, 101, 32), Some(pending(2, 90)));
    }

    #[test]
    fn keys_that_are_spread_evenly_fill_the_table_to_its_last_place() {
        let flight = InFlight::map(64).unwrap();
        let keys = || (0..64u64).map(|n| n << 58);
        keys().for_each(|key| flight.note(&pending(key, 100)));
        assert!(keys().all(|key| flight.find(key, 100, 32) == Some(pending(key, 100))));
    }

    #[test]
    fn only_the_admitted_request_that_was_answered_is_challenged() {
        let flight = InFlight::map(64).unwrap();
        assert!(!flight.mark_challenged(5, 11));
        flight.note(&Pending {
            state: State::Seen,
            ..pending(5, 100)
        });
        assert!(!flight.mark_challenged(5, 11), "it was not admitted");
        flight.note(&pending(5, 100));
        assert!(
            !flight.mark_challenged(5, 12),
            "the challenge answers another request"
        );
        assert!(flight.mark_challenged(5, 11));
        assert_eq!(
            flight.find(5, 100, 32).map(|found| found.state),
            Some(State::Challenged)
        );
    }

    #[test]
    fn what_tm_keeps_is_marked_once_it_was_admitted_and_stays_what_it_was() {
        let flight = InFlight::map(64).unwrap();
        flight.note(&pending(5, 100));
        assert!(!flight.mark_by_tm(5, 12), "another transaction");
        assert!(flight.mark_by_tm(5, 11));
        let kept = Pending {
            is_by_tm: true,
            ..pending(5, 100)
        };
        assert_eq!(flight.find(5, 100, 32), Some(kept));
    }

    #[test]
    fn a_table_of_more_slots_than_keys_can_tell_apart_is_refused() {
        let error = InFlight::map((1 << 31) + 1).err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::InvalidInput));
        let least = InFlight::map(0).unwrap();
        least.note(&pending(5, 100));
        assert_eq!(least.find(5, 100, 32), Some(pending(5, 100)));
    }

    #[test]
    fn a_second_leg_asks_for_what_the_first_one_asked_or_for_less() {
        let of = |fp| Binding {
            fp,
            is_removed: false,
        };
        let first = Pending {
            count: 2,
            bindings: [of(8), of(9), Binding::default()],
            ..pending(5, 100)
        };
        let removal = Binding {
            is_removed: true,
            ..of(8)
        };
        assert!(first.covers(Kind::Add, 12, &[], false), "the same contents");
        assert!(first.covers(Kind::Add, 1, &[of(9)], true), "one of two");
        assert!(!first.covers(Kind::Add, 1, &[of(9)], false), "and others");
        assert!(!first.covers(Kind::Add, 1, &[of(8), of(10)], true));
        assert!(!first.covers(Kind::Add, 1, &[removal], true));
        assert!(!first.covers(Kind::Remove, 12, &[of(8)], true));
        assert!(!first.covers(Kind::Add, 1, &[Binding::default()], true));
    }

    #[test]
    fn only_the_same_request_of_the_same_transaction_is_a_retransmission() {
        let first = pending(5, 100);
        assert!(first.is_again(7, 11, 12));
        for other in [(8, 11, 12), (7, 12, 12), (7, 11, 11)] {
            assert!(!first.is_again(other.0, other.1, other.2), "{other:?}");
        }
        let seen = Pending {
            state: State::Seen,
            ..first
        };
        assert!(!seen.is_again(7, 11, 12), "it was not admitted");
    }
}
