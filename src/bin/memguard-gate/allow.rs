//! Known places that may keep memory, each with its reason.
//! Forbidden here: a place without a reason; a pattern that allows everything.

use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::report::Row;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub line: usize,
    words: [String; 3],
    /// The reason.
    pub reason: String,
    /// Whether it allowed anything.
    pub used: bool,
}

/// Reads the file: "module file function # reason"; '*' stands for any, empty lines and those with '#' first do not count.
///
/// # Errors
/// Usage: it cannot be read, or a line says too little.
pub fn read(path: &Path) -> Result<Vec<Known>, Failure> {
    let said = |text: String| Failure::Usage(format!("{}: {text}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| said(e.to_string()))?;
    parse(&text).map_err(said)
}

fn parse(text: &str) -> Result<Vec<Known>, String> {
    let mut all = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| {
            format!(
                "line {}: {why}: \"module file function # reason\", '*' for any",
                index + 1
            )
        };
        let (words, reason) = line
            .split_once('#')
            .ok_or_else(|| wrong("there is no reason"))?;
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let words: [String; 3] = words
            .try_into()
            .map_err(|_| wrong("three words are needed"))?;
        if reason.trim().is_empty() {
            return Err(wrong("there is no reason"));
        }
        if words.iter().all(|w| w == "*") {
            return Err(wrong("this would allow every place"));
        }
        all.push(Known {
            line: index + 1,
            words,
            reason: reason.trim().to_owned(),
            used: false,
        });
    }
    Ok(all)
}

/// Takes the rows that are known out of `rows`, each with its reason.
pub fn sort_out(rows: Vec<Row>, known: &mut [Known]) -> (Vec<Row>, Vec<(Row, String)>) {
    let (mut leaks, mut allowed) = (Vec::new(), Vec::new());
    for row in rows {
        let place = [
            row.module.as_str(),
            row.file.as_str(),
            row.function.as_str(),
        ];
        let fits = |k: &&mut Known| {
            k.words
                .iter()
                .zip(place)
                .all(|(word, is)| word == "*" || word == is)
        };
        match known.iter_mut().find(fits) {
            Some(line) => {
                line.used = true;
                allowed.push((row, line.reason.clone()));
            }
            None => leaks.push(row),
        }
    }
    (leaks, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(module: &str, function: &str) -> Row {
        Row {
            module: module.into(),
            file: "a.c".into(),
            function: function.into(),
            ..Row::default()
        }
    }

    #[test]
    fn known_places_are_taken_out_and_unused_lines_are_told() {
        let mut known =
            parse("# known\n\nhtable a.c * # ticket 12\ntm * f # never\n").expect("well-formed");
        let (leaks, allowed) = sort_out(
            vec![row("htable", "ht_cell_new"), row("usrloc", "f")],
            &mut known,
        );
        assert_eq!(leaks, [row("usrloc", "f")]);
        assert_eq!(
            allowed,
            [(row("htable", "ht_cell_new"), "ticket 12".to_owned())]
        );
        assert_eq!(
            known.iter().map(|k| (k.line, k.used)).collect::<Vec<_>>(),
            [(3, true), (4, false)]
        );
    }

    #[test]
    fn a_line_without_a_reason_or_that_allows_everything_is_refused() {
        for text in [
            "htable a.c f",
            "htable a.c f #  ",
            "htable # r",
            "* * * # all",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
