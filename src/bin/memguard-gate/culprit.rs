//! Who took the memory that a place keeps: the way through the code, the line of the configuration, the method.
//! Forbidden here: judging.

use std::collections::HashMap;

use serde_json::Value;

use crate::failure::Failure;
use crate::server::Server;
use crate::snapshot::Place;

/// A way to a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Way {
    /// The place.
    pub place: Place,
    /// Calls, outermost first.
    pub path: Vec<String>,
    /// "kamailio.cfg:123 route[X]"; empty: none.
    pub cfg: String,
    /// Method of the request in hand; empty: none.
    pub method: String,
}

/// What every way holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct Ways(HashMap<Way, i64>);

impl Ways {
    /// Reads them.
    ///
    /// # Errors
    /// The server died or does not answer.
    pub fn take(server: &mut Server) -> Result<Ways, Failure> {
        let mut all = HashMap::new();
        for row in server.rows("memguard.paths", &[])? {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let frames = row["path"].as_array().into_iter().flatten();
            let way = Way {
                place: Place {
                    pool: text("pool"),
                    module: text("module"),
                    file: text("file"),
                    line: row["line"].as_u64().unwrap_or(0),
                    function: text("function"),
                },
                path: frames
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
                cfg: text("cfg"),
                method: text("method"),
            };
            *all.entry(way).or_insert(0) += row["live_bytes"].as_i64().unwrap_or(0);
        }
        Ok(Ways(all))
    }

    /// The ways to a place that gained since `before`, the most first, with their bytes.
    pub fn gained(&self, before: &Ways, place: &Place) -> Vec<(Way, i64)> {
        let mut all: Vec<(Way, i64)> = self
            .0
            .iter()
            .filter(|(way, _)| way.place == *place)
            .map(|(way, bytes)| (way.clone(), bytes - before.0.get(way).copied().unwrap_or(0)))
            .filter(|(_, gained)| *gained > 0)
            .collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cfg.cmp(&b.0.cfg)));
        all
    }
}

/// File and line of "~kamailio.cfg:123 route[X]"; `None` where there is none.
pub fn line_of(cfg: &str) -> Option<(&str, u64)> {
    let (place, _) = cfg.split_once(' ').unwrap_or((cfg, ""));
    let (file, line) = place.trim_start_matches('~').rsplit_once(':')?;
    Some((file, line.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_configuration_is_read_with_and_without_a_mark() {
        assert_eq!(
            line_of("kamailio.cfg:12 route[A]"),
            Some(("kamailio.cfg", 12))
        );
        assert_eq!(line_of("~a b.cfg:7 route[]"), None);
        assert_eq!(line_of("~x.cfg:7 route[A B]"), Some(("x.cfg", 7)));
        assert_eq!(line_of(""), None);
    }

    #[test]
    fn what_gained_most_is_first() {
        let way = |method: &str| Way {
            method: method.into(),
            ..Way::default()
        };
        let before = Ways(HashMap::from([(way("A"), 100), (way("B"), 0)]));
        let after = Ways(HashMap::from([
            (way("A"), 150),
            (way("B"), 90),
            (way("C"), 60),
        ]));
        let gained = after.gained(&before, &Place::default());
        let methods: Vec<_> = gained
            .iter()
            .map(|(w, n)| (w.method.as_str(), *n))
            .collect();
        assert_eq!(methods, [("B", 90), ("C", 60), ("A", 50)]);
    }
}
