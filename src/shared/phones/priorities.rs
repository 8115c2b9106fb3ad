//! The priority lists in force, for every gate: the configuration's, and what `memguard.priority` changed.
//! Forbidden here: reading and matching values (`guard::priority`), and how places are shared (`places`).

use std::net::IpAddr;

use crate::guard::config::priority::{ENTRY_WORDS, Entry};
use crate::shared::parts::{mapping::SharedZeroable, slots::Places};

/// Entries of all lists together: those of a configuration (3 × 256) and as many again as one may need in a night.
pub const MAX_ENTRIES: usize = 1024;

/// Words of a place: the entry, and when it was added.
const WORDS: usize = ENTRY_WORDS + 1;

/// An entry in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// What is let in.
    pub entry: Entry,
    /// When it was added at run time, seconds of server time; 0: by the configuration.
    pub since_s: u64,
}

/// All three lists.
#[repr(transparent)]
pub struct Priorities(Places<MAX_ENTRIES, WORDS>);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Priorities {}

/// What became of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is in force now.
    New,
    /// It was in force already.
    Known,
    /// There is no place left.
    Full,
}

impl Priorities {
    /// Puts an entry in force; `since_s` is 0 for the configuration's. Two processes that add the same one at the
    /// same moment may list it twice; [`Priorities::remove`] takes out both.
    pub fn add(&self, entry: &Entry, since_s: u64) -> Added {
        if self
            .0
            .entries()
            .any(|(_, words)| unpack(&words).entry == *entry)
        {
            return Added::Known;
        }
        match self.0.add(&pack(entry, since_s)) {
            true => Added::New,
            false => Added::Full,
        }
    }

    /// Takes an entry out of force; false when it was not in force.
    pub fn remove(&self, entry: &Entry) -> bool {
        self.0.remove(|words| unpack(words).entry == *entry) > 0
    }

    /// Whether any entry fits; see [`Entry::matches`]. For the gate: no lock, no allocation.
    pub fn is_priority(&self, user: &[u8], host: &[u8], source: Option<IpAddr>) -> bool {
        self.0.any(
            |first| Entry::may_match(first, user, host, source),
            |words| unpack(words).entry.matches(user, host, source),
        )
    }

    /// What is in force, list by list, each in the order in which it was added. For reports.
    pub fn in_force(&self) -> Vec<InForce> {
        let mut all: Vec<(u64, InForce)> = self
            .0
            .entries()
            .map(|(number, words)| (number, unpack(&words)))
            .collect();
        all.sort_by_key(|(number, found)| (found.entry.list(), *number));
        all.into_iter().map(|(_, found)| found).collect()
    }
}

fn pack(entry: &Entry, since_s: u64) -> [u64; WORDS] {
    let mut words = [since_s; WORDS];
    if let Some(front) = words.first_chunk_mut() {
        *front = entry.to_words(); // the first words, so that a place's first word is the entry's
    }
    words
}

fn unpack(words: &[u64; WORDS]) -> InForce {
    let [.., since_s] = *words;
    InForce {
        entry: words.first_chunk().map_or(Entry::EMPTY, Entry::from_words),
        since_s,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::guard::config::priority::{parse_aor, parse_domain, parse_source};

    fn lists() -> Box<Priorities> {
        Box::new(Priorities(Places::new()))
    }

    #[test]
    fn what_is_added_is_in_force_until_it_is_removed() {
        let lists = lists();
        let chief = parse_aor("sip:chief@example.org").unwrap();
        assert_eq!(lists.add(&chief, 0), Added::New);
        assert_eq!(lists.add(&chief, 9), Added::Known);
        assert!(lists.is_priority(b"chief", b"EXAMPLE.org", None));
        assert!(!lists.is_priority(b"thief", b"example.org", None));
        assert!(lists.remove(&chief) && !lists.remove(&chief));
        assert!(!lists.is_priority(b"chief", b"example.org", None));
    }

    #[test]
    fn lists_are_shown_one_after_the_other_with_where_entries_came_from() {
        let lists = lists();
        let net = parse_source("192.0.2.0/24").unwrap();
        let domain = parse_domain("example.net").unwrap();
        let aor = parse_aor("chief").unwrap();
        lists.add(&net, 0);
        lists.add(&domain, 7);
        lists.add(&aor, 8);
        let shown: Vec<_> = lists
            .in_force()
            .iter()
            .map(|e| (e.entry, e.since_s))
            .collect();
        assert_eq!(shown, [(aor, 8), (domain, 7), (net, 0)]);
        assert!(lists.is_priority(b"x", b"y", Some("192.0.2.7".parse().unwrap())));
    }

    #[test]
    fn a_full_list_says_so_and_takes_again_after_a_removal() {
        let lists = lists();
        let user = |n: usize| parse_aor(&format!("user{n}")).unwrap();
        for n in 0..MAX_ENTRIES {
            assert_eq!(lists.add(&user(n), 0), Added::New);
        }
        assert_eq!(lists.add(&user(MAX_ENTRIES), 0), Added::Full);
        assert!(lists.is_priority(format!("user{}", MAX_ENTRIES - 1).as_bytes(), b"h", None));
        assert!(lists.remove(&user(5)));
        assert_eq!(lists.add(&user(MAX_ENTRIES), 0), Added::New);
        assert_eq!(lists.in_force().len(), MAX_ENTRIES);
    }
}
