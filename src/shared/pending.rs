//! Registrations in flight, by Call-ID: what a request asked for, until its reply comes or its second leg.
//! Forbidden here: parsing, hashing, deciding, and promising to remember (a newer registration may take the place).
//!
//! ```text
//! set      0        64       128                    two ways, a Record<7> of one cache line each
//!          way 0 │ way 1 │
//!
//! record   0              8              16      24       32 … 48            56
//!          Call-ID's fp │ time │ cseq  │ bits │ AoR's fp │ bindings' fps 0…2 │ check
//! bits     0..2 state, 2..4 kind, 4..6 how many bindings, 6..9 which of them are removed
//! ```
//!
//! A note goes to its own record when there is one, else to an empty or torn one, else over the older of the two.
//! Whatever a killed, stopped or racing writer leaves is a record or absent (see `record`); what is lost with it is
//! one registration in flight, which then counts as if nothing had been noted.

use std::io;

use super::mapping::{self, SharedZeroable};
use super::record::Record;

/// Words of one record: with its check one cache line.
const WORDS: usize = 7;
/// How many bindings of one request are kept; the reply names the others.
pub const MAX_BINDINGS: usize = 3;
/// Records of a default table: 1 MiB, touched as it is used.
pub const DEFAULT_SLOTS: usize = 16_384;

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
    /// Fingerprint of the Call-ID: the key.
    pub call_id_fp: u64,
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

    fn pack(&self) -> [u64; WORDS] {
        let mut bits = self.state as u64
            | (self.kind as u64) << 2
            | u64::from(self.count.min(MAX_BINDINGS as u8)) << 4;
        for (place, binding) in self.bindings().iter().enumerate() {
            bits |= u64::from(binding.is_removed) << (6 + place);
        }
        let fp = |place: usize| self.bindings().get(place).map_or(0, |binding| binding.fp);
        let time = self.time_s.min(u64::from(u32::MAX)) << 32 | u64::from(self.cseq);
        [
            self.call_id_fp,
            time,
            bits,
            self.aor_fp,
            fp(0),
            fp(1),
            fp(2),
        ]
    }

    fn unpack(words: [u64; WORDS]) -> Option<Pending> {
        let [call_id_fp, time, bits, aor_fp, fps @ ..] = words;
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
            _ => return None,
        };
        let mut bindings = [Binding::default(); MAX_BINDINGS];
        for (place, (binding, fp)) in bindings.iter_mut().zip(fps).enumerate() {
            *binding = Binding {
                fp,
                is_removed: bits >> (6 + place) & 1 == 1,
            };
        }
        Some(Pending {
            call_id_fp,
            cseq: time as u32,
            time_s: time >> 32,
            state,
            kind,
            aor_fp,
            count: (bits >> 4 & 3) as u8,
            bindings,
        })
    }
}

/// The two records that a Call-ID may be in.
#[repr(C, align(128))]
pub struct Set([Record<WORDS>; 2]);

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

    /// Has the processor fetch what the next call about this Call-ID will read; changes and answers nothing.
    #[inline]
    pub fn prefetch(&self, call_id_fp: u64) {
        if let Some(Set([first, second])) = self.set(call_id_fp) {
            mapping::prefetch(first);
            mapping::prefetch(second);
        }
    }

    /// Notes a registration, over an earlier one of the same Call-ID or the older of two strangers.
    pub fn note(&self, pending: &Pending) {
        let Some(set) = self.set(pending.call_id_fp) else {
            return;
        };
        // The lowest rank goes: its own record, then one that cannot be read, then the older one.
        let rank = |record: &&Record<WORDS>| match record.load().and_then(Pending::unpack) {
            Some(other) if other.call_id_fp == pending.call_id_fp => (0, 0),
            None => (1, 0),
            Some(other) => (2, other.time_s),
        };
        if let Some(record) = set.0.iter().min_by_key(rank) {
            record.store(&pending.pack());
        }
    }

    /// The newest registration of a Call-ID that is at most `max_age_s` seconds old.
    pub fn find(&self, call_id_fp: u64, now: u64, max_age_s: u64) -> Option<Pending> {
        self.records(call_id_fp)
            .map(|(_, pending)| pending)
            .filter(|pending| now.saturating_sub(pending.time_s) <= max_age_s)
            .max_by_key(|pending| (pending.time_s, pending.cseq))
    }

    /// Marks the registration of a Call-ID as challenged if it was admitted and its CSeq is the one of the reply;
    /// answers whether it is challenged now. A `note` of the same Call-ID at the same moment may undo it.
    pub fn mark_challenged(&self, call_id_fp: u64, cseq: u32) -> bool {
        let admitted = |pending: &Pending| pending.cseq == cseq && pending.state != State::Seen;
        let Some((record, pending)) = self
            .records(call_id_fp)
            .find(|(_, pending)| admitted(pending))
        else {
            return false;
        };
        record.store(
            &Pending {
                state: State::Challenged,
                ..pending
            }
            .pack(),
        );
        true
    }

    /// Forgets the registrations of a Call-ID (its final reply came).
    pub fn forget(&self, call_id_fp: u64) {
        for (record, _) in self.records(call_id_fp) {
            record.clear();
        }
    }

    fn records(&self, call_id_fp: u64) -> impl Iterator<Item = (&'static Record<WORDS>, Pending)> {
        self.set(call_id_fp)
            .into_iter()
            .flat_map(|set| &set.0)
            .filter_map(|record| Some((record, Pending::unpack(record.load()?)?)))
            .filter(move |(_, pending)| pending.call_id_fp == call_id_fp)
    }

    fn set(&self, call_id_fp: u64) -> Option<&'static Set> {
        // Multiply and shift: spreads the upper half of the fingerprint over the sets without a division.
        self.sets
            .get((((call_id_fp >> 32) * self.sets.len() as u64) >> 32) as usize)
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pending(call_id_fp: u64, time_s: u64) -> Pending {
        Pending {
            call_id_fp,
            cseq: 1,
            time_s,
            state: State::Admitted,
            kind: Kind::Add,
            aor_fp: 7,
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
            fps in any::<[u64; 5]>(), cseq: u32, time: u32, state in 0..3u64, kind in 0..3u64, count in 0..=3u8, removed: [bool; 3],
        ) {
            let mut bindings = [Binding::default(); MAX_BINDINGS];
            for (place, binding) in bindings.iter_mut().enumerate().take(usize::from(count)) {
                *binding = Binding { fp: fps[2 + place], is_removed: removed[place] };
            }
            let mut noted = Pending { cseq, aor_fp: fps[1], count, bindings, ..pending(fps[0], u64::from(time)) };
            noted.state = [State::Seen, State::Admitted, State::Challenged][state as usize];
            noted.kind = [Kind::Add, Kind::Remove, Kind::RemoveAll][kind as usize];
            prop_assert_eq!(Pending::unpack(noted.pack()), Some(noted));
        }
    }

    #[test]
    fn a_registration_is_found_until_it_is_too_old_or_forgotten() {
        let flight = InFlight::map(64).unwrap();
        assert_eq!(
            flight.find(0, 100, 32),
            None,
            "an empty table knows not even the Call-ID 0"
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
        flight.forget(5);
        assert_eq!(flight.find(5, 100, 32), None);
    }

    #[test]
    fn of_three_registrations_in_one_set_the_oldest_goes() {
        let flight = InFlight::map(2).unwrap();
        for (call_id_fp, time_s) in [(1, 100), (2, 101), (1, 102), (3, 103)] {
            flight.note(&pending(call_id_fp, time_s));
        }
        assert_eq!(flight.find(1, 103, 32), Some(pending(1, 102)));
        assert_eq!(flight.find(2, 103, 32), None);
        assert_eq!(flight.find(3, 103, 32), Some(pending(3, 103)));
    }

    #[test]
    fn only_the_admitted_request_that_was_answered_is_challenged() {
        let flight = InFlight::map(64).unwrap();
        assert!(!flight.mark_challenged(5, 1));
        flight.note(&Pending {
            state: State::Seen,
            ..pending(5, 100)
        });
        assert!(!flight.mark_challenged(5, 1), "it was not admitted");
        flight.note(&pending(5, 100));
        assert!(
            !flight.mark_challenged(5, 2),
            "the challenge answers another request"
        );
        assert!(flight.mark_challenged(5, 1));
        assert_eq!(
            flight.find(5, 100, 32).map(|found| found.state),
            Some(State::Challenged)
        );
    }
}
