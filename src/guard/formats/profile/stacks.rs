//! Steps of stacks, each written once: what stands around a place, and the calls that led to it.
//! Forbidden here: guessing names.

use std::collections::HashMap;

use crate::guard::formats::{
    paths,
    profile::{Frame, Line, Profile},
};

/// Which of a profile's frames are there already.
#[derive(Debug)]
pub struct Stacks<K>(HashMap<K, usize>);

impl<K> Default for Stacks<K> {
    fn default() -> Stacks<K> {
        Stacks(HashMap::new())
    }
}

impl<K: Eq + std::hash::Hash> Stacks<K> {
    /// Index of the frame that is known by a key, which is made once.
    pub fn index<'a>(
        &mut self,
        profile: &mut Profile<'a>,
        key: K,
        make: impl FnOnce() -> Frame<'a>,
    ) -> usize {
        *self.0.entry(key).or_insert_with(|| {
            profile.frames.push(make());
            profile.frames.len().wrapping_sub(1)
        })
    }
}

/// The frame of a call. The innermost is known better than by its exported symbol: Kamailio says function, file and
/// line of the place that allocates. Where another symbol covers the call, the place's function is a part of that.
pub fn call<'a>(
    address: u64,
    mapping: Option<usize>,
    known: &'a paths::Frame,
    place: Option<Line<'a>>,
) -> Frame<'a> {
    let symbol = known.function.as_str();
    let covers = !symbol.is_empty() && place.as_ref().is_none_or(|place| place.function != symbol);
    let symbol = covers.then_some(Line {
        function: symbol,
        file: "",
        line: 0,
    });
    let inner = place.as_ref().map(|place| {
        let module = plain(&known.module);
        format!("{module} {}", text(place)).trim_start().to_owned()
    });
    let outer = (covers || inner.is_none()).then(|| plain(&known.to_string()));
    Frame {
        address,
        mapping,
        lines: place.into_iter().chain(symbol).collect(),
        text: outer.into_iter().chain(inner).collect::<Vec<_>>().join(";"),
    }
}

/// A line as folded stacks write it, in which semicolons and ends of lines have their own meaning.
pub(super) fn text(line: &Line) -> String {
    let function = plain(line.function);
    match line.line {
        0 => function,
        number => format!("{function} ({}:{number})", plain(line.file)),
    }
}

fn plain(text: &str) -> String {
    text.replace([';', '\n'], ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(function: &str) -> paths::Frame {
        paths::Frame {
            module: "core".into(),
            function: function.into(),
            offset: 0x12,
            again: 0,
        }
    }

    const PLACE: Line = Line {
        function: "shm_str_dup",
        file: "shm.h",
        line: 9,
    };

    #[test]
    fn the_innermost_call_is_the_place_and_the_symbol_around_it() {
        let (exact, none, outer) = (known("shm_str_dup"), known(""), known("build"));
        let names = |frame: &Frame| -> Vec<(String, u32)> {
            let lines = frame.lines.iter();
            lines.map(|l| (l.function.to_owned(), l.line)).collect()
        };
        for known in [&exact, &none] {
            let frame = call(0x5012, Some(0), known, Some(PLACE));
            assert_eq!(names(&frame), [("shm_str_dup".to_owned(), 9)]);
            assert_eq!(frame.text, "core shm_str_dup (shm.h:9)");
        }
        let frame = call(0x5012, Some(0), &outer, Some(PLACE));
        assert_eq!(
            names(&frame),
            [("shm_str_dup".to_owned(), 9), ("build".to_owned(), 0)]
        );
        assert_eq!(frame.text, "core build;core shm_str_dup (shm.h:9)");
        // of what nothing is known nothing is said
        let frame = call(0x5012, Some(0), &none, None);
        assert_eq!((names(&frame), frame.text.as_str()), (vec![], "core+0x12"));
        let frame = call(0x5012, Some(0), &outer, None);
        assert_eq!(names(&frame), [("build".to_owned(), 0)]);
        assert_eq!((frame.text.as_str(), frame.address), ("core build", 0x5012));
    }

    #[test]
    fn a_frame_is_made_once_for_its_key() {
        let mut profile = Profile::default();
        let mut stacks = Stacks::default();
        let mut index = |key| stacks.index(&mut profile, key, || Frame::named(PLACE, None));
        assert_eq!([index(7), index(8), index(7)], [0, 1, 0]);
        assert_eq!(profile.frames.len(), 2);
    }
}
