//! pprof's profile.proto, uncompressed, which every pprof accepts: written by hand, as the format is a dozen fields.
//! Forbidden here: anything that is not in the profile given.
//!
//! Field numbers: github.com/google/pprof/proto/profile.proto. Texts are numbers into one table whose first entry is
//! empty; functions are written once and referred to by number, from 1, and so are locations, which are the frames.

use std::collections::HashMap;
use std::hash::Hash;

use crate::guard::formats::profile::{Frame, Line, Mapping, Profile};

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number; 0 is what an absent field means.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// Repeated numbers, packed; zeros are kept.
    fn numbers(&mut self, field: u64, values: impl IntoIterator<Item = u64>) {
        self.message(field, |packed| {
            values.into_iter().for_each(|value| packed.varint(value));
        });
    }
}

/// Things that are written once and referred to by number, in the order of their numbers.
struct Numbered<T> {
    numbers: HashMap<T, u64>,
    first: u64,
}

impl<T: Eq + Hash> Numbered<T> {
    fn from(first: u64) -> Numbered<T> {
        Numbered {
            numbers: HashMap::new(),
            first,
        }
    }

    /// The thing's number, and whether it is new.
    fn of(&mut self, thing: T) -> (u64, bool) {
        let next = self.first + self.numbers.len() as u64;
        let number = *self.numbers.entry(thing).or_insert(next);
        (number, number == next)
    }
}

struct Encoder<'a> {
    profile: Message,
    texts: Numbered<&'a str>,
    functions: Numbered<(&'a str, &'a str)>,
}

/// The profile as `pprof` reads it.
pub fn encode(profile: &Profile) -> Vec<u8> {
    let mut encoder = Encoder {
        profile: Message::default(),
        texts: Numbered::from(0),
        functions: Numbered::from(1),
    };
    encoder.text(""); // number 0
    for &(what, unit) in profile.kinds {
        encoder.value_type(1, what, unit);
    }
    for sample in &profile.samples {
        let labels: Vec<(u64, u64)> = sample
            .labels
            .iter()
            .map(|&(name, word)| (encoder.text(name), encoder.text(word)))
            .collect();
        encoder.profile.message(2, |m| {
            m.numbers(1, sample.stack.iter().map(|at| *at as u64 + 1));
            m.numbers(2, sample.values.iter().copied());
            for (name, word) in labels {
                m.message(3, |label| {
                    label.number(1, name);
                    label.number(2, word);
                });
            }
        });
    }
    for (index, mapping) in profile.mappings.iter().enumerate() {
        encoder.mapping(index as u64 + 1, mapping, profile.is_named);
    }
    for (index, frame) in profile.frames.iter().enumerate() {
        encoder.location(index as u64 + 1, frame);
    }
    encoder.profile.number(9, profile.time_ms * 1_000_000);
    encoder.profile.number(10, profile.uptime_ms * 1_000_000);
    encoder.value_type(11, "space", "bytes");
    encoder.profile.number(12, profile.period);
    let comments: Vec<u64> = profile.comments.iter().map(|c| encoder.text(c)).collect();
    encoder.profile.numbers(13, comments);
    let last = profile.kinds.last().map(|(kind, _)| *kind);
    if let Some(usual) = Some(profile.shown).filter(|kind| !kind.is_empty()).or(last) {
        let usual = encoder.text(usual);
        encoder.profile.number(14, usual);
    }
    encoder.profile.0
}

impl<'a> Encoder<'a> {
    fn text(&mut self, text: &'a str) -> u64 {
        let (number, is_new) = self.texts.of(text);
        if is_new {
            self.profile.bytes(6, text.as_bytes());
        }
        number
    }

    fn value_type(&mut self, field: u64, what: &'a str, unit: &'a str) {
        let (what, unit) = (self.text(what), self.text(unit));
        self.profile.message(field, |m| {
            m.number(1, what);
            m.number(2, unit);
        });
    }

    fn mapping(&mut self, id: u64, mapping: &'a Mapping, is_named: bool) {
        let (file, build_id) = (self.text(&mapping.file), self.text(&mapping.build_id));
        self.profile.message(3, |m| {
            m.number(1, id);
            m.number(2, mapping.start);
            m.number(3, mapping.limit);
            m.number(4, mapping.offset);
            m.number(5, file);
            m.number(6, build_id);
            // Functions, file names and line numbers are known: nothing is to be looked up in the binary.
            (7..=9).for_each(|known| m.number(known, u64::from(is_named)));
        });
    }

    fn location(&mut self, id: u64, frame: &Frame<'a>) {
        let lines: Vec<(u64, u64)> = frame
            .lines
            .iter()
            .map(|line| (self.function(line), u64::from(line.line)))
            .collect();
        self.profile.message(4, |m| {
            m.number(1, id);
            m.number(2, frame.mapping.map_or(0, |index| index as u64 + 1));
            m.number(3, frame.address);
            for (function, number) in lines {
                m.message(4, |line| {
                    line.number(1, function);
                    line.number(2, number);
                });
            }
        });
    }

    fn function(&mut self, line: &Line<'a>) -> u64 {
        let (id, is_new) = self.functions.of((line.function, line.file));
        if is_new {
            let (name, file) = (self.text(line.function), self.text(line.file));
            self.profile.message(5, |m| {
                m.number(1, id);
                m.number(2, name);
                m.number(3, name);
                m.number(4, file);
            });
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sample;
    use super::*;

    /// Fields of a message: number and either a number or bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = varint(&mut bytes);
            match key & 7 {
                0 => found.push((key >> 3, value, &bytes[..0])),
                2 => {
                    let (text, rest) = bytes.split_at(value as usize);
                    bytes = rest;
                    found.push((key >> 3, 0, text));
                }
                other => panic!("wire type {other}"),
            }
        }
        found
    }

    fn number(message: &[u8], field: u64) -> u64 {
        let all = fields(message);
        all.iter().find(|f| f.0 == field).map_or(0, |f| f.1)
    }

    #[test]
    fn numbers_are_written_in_sevens_of_bits() {
        let mut message = Message::default();
        message.number(1, 300);
        message.number(2, 0);
        message.bytes(16, b"ab");
        assert_eq!(message.0, [0x08, 0xac, 0x02, 0x82, 0x01, 0x02, b'a', b'b']);
    }

    #[test]
    fn every_number_refers_to_something_that_is_written() {
        let line = |function, line| Line {
            function,
            file: "a.c",
            line,
        };
        let frame = |address, lines: &[Line<'static>]| Frame {
            address,
            mapping: Some(0),
            lines: lines.to_vec(),
            text: String::new(),
        };
        let sample = |innermost, bytes| Sample {
            root: "",
            stack: vec![innermost, 2, 3],
            values: vec![3, bytes],
            labels: vec![("worker", "2")],
        };
        let mapping = Mapping {
            start: 0x5000,
            limit: 0x9000,
            offset: 0x1000,
            file: "/usr/sbin/kamailio".into(),
            build_id: "abcd".into(),
        };
        let profile = Profile {
            time_ms: 1,
            uptime_ms: 0,
            kinds: &[("samples", "count"), ("inuse_space", "bytes")],
            shown: "",
            period: 512,
            is_named: false,
            mappings: &[mapping],
            frames: vec![
                frame(0x5001, &[line("new", 7)]),
                frame(0x5002, &[line("dup", 9), line("new", 0)]),
                frame(0x5003, &[]),
                frame(0, &[line("shm", 0)]),
            ],
            samples: vec![sample(0, 100), sample(1, 1 << 40)],
            comments: vec!["of a test".into()],
        };
        let bytes = encode(&profile);
        let all = fields(&bytes);
        let of = |field| all.iter().filter(move |f| f.0 == field).map(|f| f.2);
        let texts: Vec<&[u8]> = of(6).collect();
        assert_eq!(texts[0], b"");
        let mut sorted = texts.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), texts.len(), "each text is written once");
        let functions: Vec<&[u8]> = of(5).map(|f| texts[number(f, 2) as usize]).collect();
        assert_eq!(functions, [&b"new"[..], b"dup", b"shm"]);
        let named: Vec<(u64, Vec<u64>)> = of(4)
            .map(|location| {
                let lines = fields(location).into_iter().filter(|f| f.0 == 4);
                (
                    number(location, 3),
                    lines.map(|line| number(line.2, 1)).collect(),
                )
            })
            .collect();
        assert_eq!(
            named,
            [
                (0x5001, vec![1]),
                (0x5002, vec![2, 1]),
                (0x5003, vec![]),
                (0, vec![3])
            ],
            "address, and the functions there from the innermost on"
        );
        for (at, location) in of(4).enumerate() {
            assert_eq!(
                (number(location, 1), number(location, 2)),
                (at as u64 + 1, 1)
            );
        }
        let held: Vec<&[u8]> = of(2).map(|s| fields(s)[0].2).collect();
        assert_eq!(
            held,
            [[1, 3, 4], [2, 3, 4]],
            "the innermost frame comes first"
        );
        let mapping = of(3).next().unwrap();
        assert_eq!(texts[number(mapping, 6) as usize], b"abcd");
        assert_eq!((number(mapping, 2), number(mapping, 3)), (0x5000, 0x9000));
        assert_eq!(number(mapping, 7), 0, "symbols may say more");
        assert_eq!(number(&bytes, 12), 512);
        assert_eq!(texts[number(&bytes, 14) as usize], b"inuse_space");
    }

    /// 32,768 contexts live at most, so this bounds the file of their paths: 6 MB, and the frames that they share.
    #[test]
    fn a_sample_of_the_deepest_stack_takes_fewer_than_180_bytes() {
        let sample = |_| Sample {
            root: "",
            stack: vec![1 << 20; 32],
            values: vec![1 << 16, 1 << 40],
            labels: vec![("pool", "shm"); 5],
        };
        let profile = |count| Profile {
            kinds: &[("samples", "count"), ("inuse_space", "bytes")],
            samples: (0..count).map(sample).collect(),
            ..Profile::default()
        };
        let each = (encode(&profile(1001)).len() - encode(&profile(1)).len()) / 1000;
        assert!(each < 180, "{each}");
    }

    #[test]
    fn times_are_nanoseconds_and_the_period_is_of_bytes() {
        let profile = Profile {
            time_ms: 3,
            uptime_ms: 7,
            ..Profile::default()
        };
        let bytes = encode(&profile);
        assert_eq!(
            (number(&bytes, 9), number(&bytes, 10)),
            (3_000_000, 7_000_000)
        );
        let all = fields(&bytes);
        let texts: Vec<&[u8]> = all.iter().filter(|f| f.0 == 6).map(|f| f.2).collect();
        let period = all.iter().find(|f| f.0 == 11).expect("a type").2;
        let words = [1, 2].map(|field| texts[number(period, field) as usize]);
        assert_eq!(words, [&b"space"[..], b"bytes"]);
    }

    #[test]
    fn mappings_are_numbered_from_one_on() {
        let mappings = [Mapping::default(), Mapping::default()];
        let bytes = encode(&Profile {
            mappings: &mappings,
            ..Profile::default()
        });
        let all = fields(&bytes);
        let ids: Vec<u64> = all
            .iter()
            .filter(|f| f.0 == 3)
            .map(|f| number(f.2, 1))
            .collect();
        assert_eq!(ids, [1, 2]);
    }
}
