//! The tables of known bindings and AoRs, and of the hints to them, as a file that carries them over a restart: what stands in it, written and read.
//! Forbidden here: which file and when (the host's), and believing a file whose check is wrong in any place.
//!
//! ```text
//! head     magic │ format │ the words of [`Head`] │ buckets of each table
//! then     table │ bucket │ its words             of every bucket that is not empty
//! end      number of tables │ 0 │ check of all words before
//! ```
//!
//! Format 2 has neither the hints (table 2) nor what the script is known to do to contacts; it is still read.
//!
//! All words are 64 bits, little-endian. An entry is a part of a keyed hash, so the key stands in the file, too: the
//! file is nobody's but the server's (mode 0600). `probe` is a number made of that key: a version that makes numbers
//! in another way notices it.

use std::io::{self, ErrorKind, Read, Write};

use crate::guard::terms::clock::{self, Saved};
use crate::shared::parts::sync::BUCKET_WORDS;
use crate::shared::phones::fingerprints::Fingerprints;

const MAGIC: u64 = u64::from_le_bytes(*b"mgbindgs");
/// Raised when the file, or the place of an entry in a table, changes.
const FORMAT: u64 = 3;
/// The format before that: two tables, a head of twelve words.
const WITHOUT_HINTS: u64 = 2;
/// Bindings, AoRs, hints.
pub const TABLES: usize = 3;

/// What the file says besides the entries. Times are seconds of the writer's server time (`guard::clock`), which the
/// next run does not share: `saved_s` and `clocks` are one moment on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// When it was written.
    pub saved_s: u64,
    /// The same moment on the clocks that outlive the run: wall, boot time, which boot.
    pub clocks: [u64; 3],
    /// What the tables count their ends from.
    pub base_s: u64,
    /// The secret of the fingerprints.
    pub key: [u64; 2],
    /// A fingerprint of something known with that key.
    pub probe: u64,
    /// Every binding that was granted since then is in the tables.
    pub knows_since_s: u64,
    /// 1: written when no process could learn any more.
    pub is_complete: u64,
    /// Longest Expires that was granted, seconds.
    pub longest_expires_s: u64,
    /// Until when something unknown may be something that was pushed out of a full table.
    pub forgotten_until_s: u64,
    /// The script was seen to store contacts under other AoRs than their REGISTERs name (1), or in other words (2).
    pub script_habits: u64,
    /// The file that was read has no hints: phones that only those tell of are missing. Written is always one that has.
    pub lacks_hints: bool,
}

/// [`Head::script_habits`]
pub const SAVES_ELSEWHERE: u64 = 1;
/// As above.
pub const REWRITES_CONTACTS: u64 = 2;

const HEAD_WORDS: usize = 13;
const HEAD_WORDS_WITHOUT_HINTS: usize = 12;

impl Head {
    /// The head on the clock of the run that reads it at `now` (`now_s` on its server time), and how long ago it was
    /// saved (seconds): a step of the wall clock between the two runs moves nothing.
    pub fn read_at(self, now: &Saved, now_s: u64) -> (Head, u64) {
        let [wall_s, boot_s, boot] = self.clocks;
        let then = Saved {
            wall_s,
            boot_s,
            boot,
        };
        let age_s = clock::between_s(&then, now);
        let saved_s = now_s.saturating_sub(age_s);
        let shift = i64::try_from(i128::from(saved_s) - i128::from(self.saved_s)).unwrap_or(0);
        let moved = |s: u64| clock::date_s(s, shift);
        let head = Head {
            saved_s,
            base_s: moved(self.base_s),
            knows_since_s: moved(self.knows_since_s),
            forgotten_until_s: moved(self.forgotten_until_s),
            ..self
        };
        (head, age_s)
    }

    fn to_words(self) -> [u64; HEAD_WORDS] {
        let [k0, k1] = self.key;
        let [wall_s, boot_s, boot] = self.clocks;
        [
            self.saved_s,
            wall_s,
            boot_s,
            boot,
            self.base_s,
            k0,
            k1,
            self.probe,
            self.knows_since_s,
            self.is_complete,
            self.longest_expires_s,
            self.forgotten_until_s,
            self.script_habits,
        ]
    }

    fn from_words(words: [u64; HEAD_WORDS]) -> Head {
        let [
            saved_s,
            wall_s,
            boot_s,
            boot,
            base_s,
            k0,
            k1,
            probe,
            knows_since_s,
            is_complete,
            longest_expires_s,
            forgotten_until_s,
            script_habits,
        ] = words;
        Head {
            saved_s,
            clocks: [wall_s, boot_s, boot],
            base_s,
            key: [k0, k1],
            probe,
            knows_since_s,
            is_complete,
            longest_expires_s,
            forgotten_until_s,
            script_habits,
            lacks_hints: false,
        }
    }
}

/// A check of words that come one after the other: each one under the check of those before as its name.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, word: u64) {
        self.0 = crate::guard::formats::check::check(self.0, &[word]);
    }
}

/// Writes head and tables (bindings, AoRs, hints).
///
/// # Errors
/// What the writer says.
pub fn save(head: &Head, tables: [&Fingerprints; TABLES], out: &mut impl Write) -> io::Result<()> {
    let mut sum = Sum(FORMAT);
    let mut put = |word: u64| {
        sum.add(word);
        out.write_all(&word.to_le_bytes())
    };
    put(MAGIC)?;
    put(FORMAT)?;
    head.to_words().into_iter().try_for_each(&mut put)?;
    tables
        .iter()
        .try_for_each(|table| put(table.buckets() as u64))?;
    for (number, table) in (0u64..).zip(tables) {
        for bucket in 0..table.buckets() {
            let words = table.save_bucket(bucket).unwrap_or_default();
            if words.iter().any(|word| *word != 0) {
                put(number)?;
                put(bucket as u64)?;
                words.into_iter().try_for_each(&mut put)?;
            }
        }
    }
    put(TABLES as u64)?;
    put(0)?;
    out.write_all(&sum.0.to_le_bytes())
}

/// Reads a whole file, giving each bucket that stands in it to `each` (table, bucket, words); what it gave counts only
/// if the answer is a head. `buckets` are those of the tables at hand.
///
/// # Errors
/// What is wrong with the file, as the end of a sentence.
pub fn load(
    from: &mut impl Read,
    buckets: [usize; TABLES],
    mut each: impl FnMut(usize, usize, [u64; BUCKET_WORDS]),
) -> Result<Head, String> {
    if word(from)? != MAGIC {
        return Err("it is no file of known bindings".into());
    }
    let format = word(from)?;
    let (head_words, tables) = match format {
        FORMAT => (HEAD_WORDS, TABLES),
        WITHOUT_HINTS => (HEAD_WORDS_WITHOUT_HINTS, TABLES - 1),
        _ => {
            return Err(format!(
                "it has format {format}, and this memguard reads format {FORMAT}"
            ));
        }
    };
    let mut sum = Sum(format);
    sum.add(MAGIC);
    sum.add(format);
    let mut next = || -> Result<u64, String> {
        let word = word(from)?;
        sum.add(word);
        Ok(word)
    };
    let mut words = [0; HEAD_WORDS];
    for word in words.iter_mut().take(head_words) {
        *word = next()?;
    }
    for buckets in buckets.iter().take(tables) {
        if next()? != *buckets as u64 {
            return Err(
                "it was written with another size of the table (parameter bindings)".into(),
            );
        }
    }
    loop {
        let (table, bucket) = (next()?, next()?);
        if table == tables as u64 {
            break;
        }
        let (Ok(table), Ok(bucket)) = (usize::try_from(table), usize::try_from(bucket)) else {
            return Err(DAMAGED.into());
        };
        let count = buckets.get(..tables).and_then(|all| all.get(table));
        if count.is_none_or(|count| bucket >= *count) {
            return Err(DAMAGED.into());
        }
        let mut words = [0; BUCKET_WORDS];
        for word in &mut words {
            *word = next()?;
        }
        each(table, bucket, words);
    }
    let expected = sum.0;
    match word(from)? == expected {
        true => Ok(Head {
            lacks_hints: format == WITHOUT_HINTS,
            ..Head::from_words(words)
        }),
        false => Err(DAMAGED.into()),
    }
}

const DAMAGED: &str = "it is damaged";

fn word(from: &mut impl Read) -> Result<u64, String> {
    let mut bytes = [0; 8];
    match from.read_exact(&mut bytes) {
        Ok(()) => Ok(u64::from_le_bytes(bytes)),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err("it is cut off".into()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u64 = 1_700_000_000;
    const HEAD: Head = Head {
        saved_s: BASE + 50,
        clocks: [BASE + 60, 4000, 7],
        base_s: BASE,
        key: [3, 4],
        probe: 77,
        knows_since_s: BASE - 9000,
        is_complete: 1,
        longest_expires_s: 7200,
        forgotten_until_s: BASE + 9,
        script_habits: REWRITES_CONTACTS,
        lacks_hints: false,
    };

    fn table() -> Fingerprints {
        Fingerprints::map(1000, BASE).expect("some memory")
    }

    fn filled() -> Vec<u8> {
        let (bindings, aors, hints) = (table(), table(), table());
        for fp in 0..300u64 {
            let fp = fp.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bindings.put(fp, BASE + 10 + fp % 100, BASE, 0);
            aors.put(fp ^ 1, BASE + 200, BASE, 0);
            hints.put(fp ^ 2, BASE + 300, BASE, 0);
        }
        let mut bytes = Vec::new();
        save(&HEAD, [&bindings, &aors, &hints], &mut bytes).expect("memory is written");
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Head, Vec<u64>), String> {
        let buckets = table().buckets();
        let mut seen = Vec::new();
        let head = load(&mut &*bytes, [buckets; TABLES], |table, bucket, words| {
            seen.extend([table as u64, bucket as u64]);
            seen.extend(words);
        })?;
        Ok((head, seen))
    }

    #[test]
    fn tables_come_back_from_a_file_without_what_has_ended() {
        let bytes = filled();
        let now = BASE + 60;
        let tables = [table(), table(), table()];
        let [bindings, ..] = tables;
        let mut back = [0; TABLES];
        let head = load(
            &mut &*bytes,
            [bindings.buckets(); TABLES],
            |table, bucket, words| {
                back[table] += tables[table].restore_bucket(bucket, words, BASE, now, 0);
            },
        );
        assert_eq!(head, Ok(HEAD));
        assert_eq!(back[1..], [300, 300]);
        assert_eq!(tables[2].get(2, now, 0), Some(BASE + 300));
        let alive = (0..300u64)
            .map(|fp| fp.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .filter(|fp| BASE + 10 + fp % 100 > now);
        assert_eq!(back[0], alive.clone().count());
        for fp in alive {
            assert_eq!(bindings.get(fp, now, 0), Some(BASE + 10 + fp % 100));
        }
    }

    #[test]
    fn another_size_another_format_and_other_files_are_told_apart() {
        let bytes = filled();
        let said = |bytes: &[u8], buckets| {
            load(&mut &*bytes, [buckets; TABLES], |_, _, _| ()).expect_err("refused")
        };
        let buckets = table().buckets();
        assert!(said(&bytes, buckets + 1).contains("another size"));
        assert!(said(b"", buckets).contains("cut off"));
        assert!(said(b"something else altogether", buckets).contains("no file of known bindings"));
        let mut other = bytes.clone();
        other[8] = 9;
        assert!(said(&other, buckets).contains("format 9"));
        assert!(said(&bytes[..bytes.len() - 8], buckets).contains("cut off"));
    }

    /// A file as the version before wrote it.
    fn without_hints() -> Vec<u8> {
        let whole = filled();
        let words: Vec<u64> = whole
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
            .collect();
        let mut old = vec![MAGIC, WITHOUT_HINTS];
        old.extend(&words[2..2 + HEAD_WORDS_WITHOUT_HINTS]);
        old.extend(&words[2 + HEAD_WORDS..2 + HEAD_WORDS + 2]);
        let entries = words[2 + HEAD_WORDS + TABLES..].chunks_exact(2 + BUCKET_WORDS);
        old.extend(entries.filter(|entry| entry[0] < 2).flatten());
        old.extend([2, 0]);
        let mut sum = Sum(WITHOUT_HINTS);
        old.iter().for_each(|word| sum.add(*word));
        old.push(sum.0);
        old.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn a_file_of_the_format_before_is_read_and_says_what_it_lacks() {
        let (new, old) = (filled(), without_hints());
        let ((head, entries), (of_old, old_entries)) = (
            read(&new).expect("a whole file"),
            read(&old).expect("a whole file, too"),
        );
        assert!(!head.lacks_hints && of_old.lacks_hints);
        let expected = Head {
            script_habits: 0,
            lacks_hints: true,
            ..HEAD
        };
        assert_eq!(of_old, expected);
        assert_eq!(old_entries, entries[..old_entries.len()]);
        assert!(old_entries.len() < entries.len());
        let mut damaged = old.clone();
        damaged[100] ^= 1;
        assert!(read(&damaged).is_err());
    }

    #[test]
    fn a_binding_has_as_long_to_live_after_a_restart_whatever_was_done_to_the_clocks() {
        let saved = Head {
            saved_s: BASE + 1000,
            clocks: [BASE + 1000 - 7200, 5000, 7], // the wall clock was set back since the start
            base_s: BASE,
            knows_since_s: BASE - 50,
            forgotten_until_s: BASE + 1300,
            ..HEAD
        };
        for wall_s in [BASE - 9000, BASE - 6170, BASE + 9000] {
            // a minute later, the new run's server time is what the wall clock shows then
            let now = Saved {
                wall_s,
                boot_s: 5060,
                boot: 7,
            };
            let (head, age_s) = saved.read_at(&now, wall_s);
            assert_eq!(age_s, 60);
            assert_eq!(head.saved_s, wall_s - 60);
            assert_eq!(head.base_s, wall_s - 60 - 1000);
            assert_eq!(head.knows_since_s, wall_s - 60 - 1050);
            assert_eq!(head.forgotten_until_s, wall_s - 60 + 300);
        }
    }

    proptest! {
        #[test]
        fn a_file_with_any_change_is_refused(at: prop::sample::Index, flip in 1..=255u8, cut: Option<prop::sample::Index>) {
            let whole = filled();
            let mut bytes = whole.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            prop_assert!(read(&bytes).is_err());
            prop_assert!(read(&whole).is_ok());
        }
    }
}
