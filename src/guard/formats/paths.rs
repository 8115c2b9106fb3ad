//! How memory was reached, as reports show it: equal paths merged, filtered, ranked.
//! Forbidden here: addresses; frames come with their names.

use std::collections::HashMap;

use crate::guard::config::filters::Sites as Filter;
use crate::guard::terms::words::Pool;

/// One way to allocate, with what is held of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// shm or pkg.
    pub pool: Pool,
    /// The place that allocated: module, file, line, function.
    pub module: String,
    /// As above.
    pub file: String,
    /// As above.
    pub line: u32,
    /// As above.
    pub function: String,
    /// Names of the frames, outermost first.
    pub frames: Vec<Frame>,
    /// Line of the configuration, `~` before it when it is the enclosing action's; empty: none.
    pub cfg: String,
    /// SIP method; empty: no message was in hand.
    pub method: String,
    /// Sampled blocks that live.
    pub samples: u64,
    /// Bytes that they stand for.
    pub live_bytes: u64,
    /// Bytes per second, and the part of it that goes on all the time.
    pub growth: f64,
    /// As above.
    pub steady: f64,
}

/// A frame of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// "core", a Kamailio module's name, or a library's file name; empty: not known.
    pub module: String,
    /// An exported function; empty: not known.
    pub function: String,
    /// Where in the module's file.
    pub offset: u64,
    /// How often it came again at once (a recursion).
    pub again: u32,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match (self.module.as_str(), self.function.as_str()) {
            ("", _) => write!(f, "{:#x}", self.offset)?,
            (module, "") => write!(f, "{module}+{:#x}", self.offset)?,
            (module, function) => write!(f, "{module} {function}")?,
        }
        match self.again {
            0 => Ok(()),
            again => write!(f, " ({} times)", again.saturating_add(1)),
        }
    }
}

/// The same frame again and again, as recursions leave it, is one.
pub fn shortened(frames: impl IntoIterator<Item = Frame>) -> Vec<Frame> {
    let mut found: Vec<Frame> = Vec::new();
    for frame in frames {
        match found.last_mut() {
            Some(last) if (&last.module, last.offset) == (&frame.module, frame.offset) => {
                last.again = last.again.saturating_add(1);
            }
            _ => found.push(frame),
        }
    }
    found
}

/// The configuration's line as reports show it: `kamailio.cfg:123 route[AUTH]`.
pub fn cfg(file: &str, line: u32, route: &str, is_outer: bool) -> String {
    if line == 0 {
        return String::new();
    }
    let mark = if is_outer { "~" } else { "" };
    let file = file.rsplit('/').next().unwrap_or(file);
    format!("{mark}{file}:{line} route[{route}]")
}

/// Paths that look the same are one, whichever process they are of and however they were sampled.
pub fn merged(paths: impl IntoIterator<Item = Path>) -> Vec<Path> {
    let mut found: Vec<Path> = Vec::new();
    let mut index = HashMap::new();
    for path in paths {
        let key = (
            (path.pool.index(), path.file.clone(), path.line),
            path.frames.clone(),
            (path.cfg.clone(), path.method.clone()),
        );
        match index.get(&key).and_then(|at: &usize| found.get_mut(*at)) {
            Some(known) => {
                known.samples += path.samples;
                known.live_bytes += path.live_bytes;
                known.growth += path.growth;
                known.steady += path.steady;
            }
            None => {
                index.insert(key, found.len());
                found.push(path);
            }
        }
    }
    found
}

/// Whether a filter lets a path pass (the worker is the caller's to choose). A module passes where it allocated, and
/// where it is on the path: the culprit is often not the place.
pub fn passes(path: &Path, filter: &Filter) -> bool {
    let is_on = |module: &str| {
        path.module == module || path.frames.iter().any(|frame| frame.module == module)
    };
    filter.pool.is_none_or(|pool| pool == path.pool) && filter.module.is_none_or(is_on)
}

/// Growth that goes on, below which it does not decide the order: a byte per minute, as for places.
const LEAST_GROWTH: f64 = 1.0 / 60.0;

/// What rises all the time first, then what is large.
pub fn rank(paths: &mut [Path]) {
    let rising = |p: &Path| match p.steady.min(p.growth) {
        growth if growth >= LEAST_GROWTH => growth,
        _ => 0.0,
    };
    paths.sort_by(|a, b| {
        let by_size = b.live_bytes.cmp(&a.live_bytes);
        rising(b).total_cmp(&rising(a)).then(by_size)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(frames: &[(&str, &str)], live_bytes: u64, steady: f64) -> Path {
        let frame = |(module, function): &(&str, &str)| Frame {
            module: (*module).into(),
            function: (*function).into(),
            offset: function.len() as u64,
            again: 0,
        };
        Path {
            pool: Pool::Pkg,
            module: "core".into(),
            file: "core/parser/parse_param.c".into(),
            line: 7,
            function: "parse_params2".into(),
            frames: frames.iter().map(frame).collect(),
            cfg: String::new(),
            method: "REGISTER".into(),
            samples: 1,
            live_bytes,
            growth: steady,
            steady,
        }
    }

    #[test]
    fn equal_paths_are_one_and_another_caller_is_another_path() {
        let auth = [("core", "run_actions"), ("siputils", "")];
        let other = [("core", "run_actions"), ("auth", "")];
        let all = merged([
            path(&auth, 10, 1.0),
            path(&other, 20, 0.0),
            path(&auth, 5, 2.0),
        ]);
        let seen: Vec<_> = all
            .iter()
            .map(|p| (p.samples, p.live_bytes, p.growth, p.steady))
            .collect();
        assert_eq!(seen, [(2, 15, 3.0, 3.0), (1, 20, 0.0, 0.0)]);
    }

    #[test]
    fn a_module_is_found_where_it_allocates_and_on_the_path() {
        let on_path = path(&[("core", "run_actions"), ("siputils", "")], 1, 0.0);
        let filter = |module| Filter {
            module: Some(module),
            ..Filter::default()
        };
        assert!(passes(&on_path, &filter("siputils")) && passes(&on_path, &filter("core")));
        assert!(!passes(&on_path, &filter("auth")));
        let shm = Filter {
            pool: Some(Pool::Shm),
            ..Filter::default()
        };
        assert!(!passes(&on_path, &shm));
    }

    #[test]
    fn what_rises_comes_before_what_is_large() {
        let mut all = vec![
            path(&[], 1_000_000, 0.001),
            path(&[], 50, 3.0),
            path(&[], 60, -1.0),
        ];
        rank(&mut all);
        let order: Vec<_> = all.iter().map(|p| p.live_bytes).collect();
        assert_eq!(order, [50, 1_000_000, 60]);
    }

    #[test]
    fn less_than_a_byte_per_minute_does_not_come_before_what_is_large() {
        let mut all = vec![path(&[], 10, 0.01), path(&[], 1000, -1.0)];
        rank(&mut all);
        assert_eq!(all[0].live_bytes, 1000);
    }

    #[test]
    fn frames_and_lines_read_as_people_write_them() {
        let frame = |module: &str, function: &str| Frame {
            module: module.into(),
            function: function.into(),
            offset: 0x1a2b,
            again: 0,
        };
        assert_eq!(frame("tm", "t_newtran").to_string(), "tm t_newtran");
        assert_eq!(frame("tm", "").to_string(), "tm+0x1a2b");
        assert_eq!(frame("", "").to_string(), "0x1a2b");
        let recursion = [
            frame("core", "main"),
            frame("tm", ""),
            frame("tm", ""),
            frame("tm", ""),
        ];
        let short: Vec<_> = shortened(recursion).iter().map(Frame::to_string).collect();
        assert_eq!(short, ["core main", "tm+0x1a2b (3 times)"]);
        let file = "/etc/kamailio/kamailio.cfg";
        assert_eq!(
            cfg(file, 123, "AUTH", false),
            "kamailio.cfg:123 route[AUTH]"
        );
        assert_eq!(cfg(file, 7, "0", true), "~kamailio.cfg:7 route[0]");
        assert_eq!(cfg("", 0, "", true), "");
    }
}
