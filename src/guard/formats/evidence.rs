//! `report.md` of `memguard.evidence`: what a module's maintainer wants to read in a bug report; and addresses left out.
//! Forbidden here: phones (names, numbers, addresses), reading counters, files and clocks.

use std::fmt::{Display, Result, Write};
use std::net::Ipv6Addr;

use crate::guard::formats::{
    page::markup::{Count, Moment, Percent},
    paths::Path,
    sites::Site,
};
use crate::guard::terms::text::{Bytes, Span};
use crate::guard::terms::words::{Level, Pool};

/// A place that rises.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The place.
    pub site: Site,
    /// Bytes kept for each message and each REGISTER; `None` without traffic.
    pub per_message: Option<f64>,
    /// As above.
    pub per_register: Option<f64>,
    /// When it held nothing, if it has always grown as it grows now: Unix seconds, never before the start.
    pub since_s: u64,
    /// The way to it that grows most.
    pub path: Option<Path>,
    /// Other ways to it that grow.
    pub others: Vec<Path>,
}

/// How full a pool is.
#[derive(Clone, Debug)]
pub struct PoolUse {
    /// Which.
    pub pool: Pool,
    /// Bytes.
    pub size: u64,
    /// As above; the manager's own figure.
    pub used: u64,
    /// 1/100 percent of the size.
    pub permyriad: u32,
}

/// What the report is made of.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Of Kamailio (as `kamailio -v` begins) and of memguard.
    pub kamailio: &'a str,
    /// As above.
    pub version: &'a str,
    /// The system, as /etc/os-release calls it; empty: not known.
    pub system: &'a str,
    /// The managers of shm and pkg, as Kamailio calls them.
    pub managers: [&'a str; 2],
    /// Unix seconds.
    pub now_s: u64,
    /// Seconds that the server has run.
    pub uptime_s: u64,
    /// Processes, and messages handled by all of them.
    pub processes: u64,
    /// As above.
    pub messages: u64,
    /// The level.
    pub level: Level,
    /// Why memory grows, in a sentence, and when it ends.
    pub explanation: &'a str,
    /// As above.
    pub exhaustion: &'a str,
    /// The pools.
    pub pools: &'a [PoolUse],
    /// What rises, the fastest first.
    pub suspects: &'a [Suspect],
    /// Places in focus have one in so many allocations noted; others one in so many bytes.
    pub sample_bytes: u64,
    /// How the run before ended, where it did not end well.
    pub before: Option<&'a str>,
    /// The files beside the report, each with what it is.
    pub files: &'a [(String, &'static str)],
}

/// A text without addresses: every IPv4 and IPv6 address, with its port, becomes "(address)".
pub fn without_addresses(text: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '[' | ']');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let end = match is_of_word(c) {
            true => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            false => c.len_utf8(),
        };
        let (word, later) = rest.split_at(end);
        write_word(word, &mut out);
        rest = later;
    }
    out
}

/// A word, or what stands for the address in it: Kamailio writes `udp:10.0.0.1:5060` and `sock=[::1]:5060`.
fn write_word(word: &str, out: &mut String) {
    let is_v4 = |text: &str| {
        let mut parts = text.split('.');
        let numbers = parts
            .by_ref()
            .take(4)
            .filter(|p| p.parse::<u8>().is_ok())
            .count();
        numbers == 4 && parts.next().is_none()
    };
    if let Some(at) = word.split(':').position(is_v4) {
        let before: usize = word.split(':').take(at).map(|part| part.len() + 1).sum();
        out.push_str(word.get(..before).unwrap_or_default());
        out.push_str("(address)");
        return;
    }
    let inside = |text: &str| {
        let inner = text.split_once('[').map_or(text, |(_, inner)| inner);
        let inner = inner.split_once(']').map_or(inner, |(inner, _)| inner);
        inner.contains(':') && inner.parse::<Ipv6Addr>().is_ok()
    };
    // What ends a sentence is not of the address; two colons may be.
    let bare = word.trim_matches('.');
    match inside(bare) || inside(bare.trim_matches(':')) {
        true => out.push_str("(address)"),
        false => out.push_str(word),
    }
}

/// Text within a table or a line of Markdown.
struct Cell<T>(T);

impl<T: Display> Display for Cell<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> Result {
        let text = self.0.to_string();
        text.chars().try_for_each(|c| match c {
            '|' => f.write_str("\\|"),
            c if c.is_control() => f.write_char(' '),
            c => f.write_char(c),
        })
    }
}

impl Report<'_> {
    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::with_capacity(8192);
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        without_addresses(&out)
    }

    fn write(&self, out: &mut String) -> Result {
        match self.suspects.first() {
            Some(first) => self.leak(first, out)?,
            None => writeln!(
                out,
                "# Kamailio {}: memory at level {}, and no place rises all the time\n\n{}\n",
                self.release(),
                self.level,
                sentence(self.explanation)
            )?,
        }
        self.server(out)?;
        self.others(out)?;
        writeln!(out, "## Files beside this report\n")?;
        for (name, what) in self.files {
            writeln!(out, "* `{name}`: {what}")?;
        }
        writeln!(
            out,
            "\nNo phone's name, number or address is in them, and no address of the server."
        )
    }

    /// The bare version.
    fn release(&self) -> &str {
        let mut words = self.kamailio.split_whitespace();
        let version = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        version.unwrap_or(self.kamailio)
    }

    fn leak(&self, suspect: &Suspect, out: &mut String) -> Result {
        let Suspect { site, path, .. } = suspect;
        let growth = site.growth.map_or(0.0, |growth| growth.now);
        let kept = match suspect.per_message {
            Some(bytes) if bytes >= 0.05 => format!("{} for each message", number(bytes)),
            _ => format!("{} per second", number(growth)),
        };
        writeln!(
            out,
            "# Kamailio {}: module {} keeps {kept} ({}, {}:{})\n",
            self.release(),
            site.module,
            site.function,
            site.file,
            site.line
        )?;
        writeln!(out, "| | |\n|---|---|")?;
        let mut row = |name: &str, text: &dyn Display| writeln!(out, "| {name} | {} |", Cell(text));
        row("version", &format!("{}{}", self.kamailio, on(self.system)))?;
        let [shm, pkg] = self.managers;
        row("memory manager", &format!("shm {shm}, pkg {pkg}"))?;
        row("pool", &site.pool)?;
        row(
            "place",
            &format!(
                "`{}` {}:{} `{}`",
                site.module, site.file, site.line, site.function
            ),
        )?;
        match path {
            Some(path) if !path.cfg.is_empty() => row("configuration line", &explained(&path.cfg))?,
            Some(_) => row(
                "configuration line",
                &"none: no line of the native script was being run (a KEMI script, a timer)",
            )?,
            None => row(
                "configuration line",
                &"not known: the way to no block of this place was noted",
            )?,
        }
        if let Some(path) = path.as_ref().filter(|path| !path.method.is_empty()) {
            row("SIP message in hand", &path.method)?;
        }
        if let Some(bytes) = suspect.per_message {
            row("bytes per message", &format!("{bytes:.1}"))?;
        }
        if let Some(bytes) = suspect.per_register.filter(|bytes| *bytes > 0.0) {
            row("bytes per REGISTER", &format!("{bytes:.1}"))?;
        }
        row(
            "growth",
            &format!(
                "{} per second, {} per day",
                number(growth),
                Bytes((growth.max(0.0) * 86_400.0) as u64)
            ),
        )?;
        row(
            "holds now",
            &format!(
                "{} bytes in {} blocks; {} allocations since the start",
                Count(u64::try_from(site.live_bytes).unwrap_or(0)),
                Count(u64::try_from(site.live_blocks).unwrap_or(0)),
                Count(site.allocations)
            ),
        )?;
        row(
            "since",
            &format!(
                "{} (what it holds, divided by how fast it grows); the server started {}",
                Moment(suspect.since_s),
                Moment(self.now_s.saturating_sub(self.uptime_s))
            ),
        )?;
        writeln!(out, "\n## How it is reached\n")?;
        match path {
            Some(path) => {
                writeln!(out, "Outermost call first; the last one allocates.\n\n```")?;
                for (depth, frame) in path.frames.iter().enumerate() {
                    writeln!(out, "{:>2}  {frame}", depth + 1)?;
                }
                writeln!(
                    out,
                    "```\n\n{} of the blocks that this way has left behind were noted; they stand for {} bytes.\n",
                    Count(path.samples),
                    Count(path.live_bytes)
                )?;
            }
            None => writeln!(
                out,
                "Not known: the way to no block of this place was noted. `cfg.set_now_int memguard sample_bytes 16384` notes more.\n"
            )?,
        }
        self.other_ways(&suspect.others, out)?;
        self.found(suspect, out)
    }

    fn other_ways(&self, others: &[Path], out: &mut String) -> Result {
        if others.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "Other ways to the same place that leave blocks behind:\n\n| growth per second | configuration line | last calls |\n|---|---|---|"
        )?;
        for path in others {
            let from = path.frames.len().saturating_sub(LAST_CALLS);
            let last = path.frames.get(from..).unwrap_or_default();
            let last: Vec<String> = last.iter().map(ToString::to_string).collect();
            writeln!(
                out,
                "| {} | {} | {} |",
                number(path.growth),
                Cell(&path.cfg),
                Cell(last.join(", "))
            )?;
        }
        out.push('\n');
        Ok(())
    }

    fn found(&self, suspect: &Suspect, out: &mut String) -> Result {
        let site = &suspect.site;
        let (module, pool) = (&site.module, site.pool);
        let noted = match site.focus {
            Some(1) => "It is in focus: the way to each of its allocations is noted.".to_owned(),
            Some(every) => {
                format!("It is in focus: the way to one in {every} of its allocations is noted.")
            }
            None => format!(
                "The way to one allocation in about {} bytes is noted.",
                Count(self.sample_bytes)
            ),
        };
        writeln!(
            out,
            "## How it was found\n\n\
             memguard {} counts every allocation and every free in every process, at the place (file and line) that the \
             memory manager keeps in the block's header. What a place holds is looked at once per second; its growth is that of \
             its low-water marks: load raises and lowers what is held, a leak raises the smallest amounts too. {noted}\n\n\
             Kamailio's own list of blocks is made of the same headers: `kamcmd mod.stats {module} {pool}` shows{}\n\n\
             ```\n{}({}): {}\n```\n",
            self.version,
            match pool {
                Pool::Pkg => ", summed over all processes,",
                _ => "",
            },
            site.function,
            site.line,
            site.live_bytes.max(0),
        )
    }

    fn server(&self, out: &mut String) -> Result {
        writeln!(
            out,
            "## The server at {}\n\nLevel {}; up {}; {} processes; {} messages handled. {}",
            Moment(self.now_s),
            self.level,
            Span(self.uptime_s),
            self.processes,
            Count(self.messages),
            sentence(self.explanation)
        )?;
        writeln!(
            out,
            "Time until it is full: {}.\n\n| pool | used | of | |\n|---|---|---|---|",
            self.exhaustion
        )?;
        for row in self.pools {
            writeln!(
                out,
                "| {} | {} | {} | {} % |",
                row.pool,
                Bytes(row.used),
                Bytes(row.size),
                Percent(row.permyriad)
            )?;
        }
        if let Some(before) = self.before {
            writeln!(out, "\nThe run before: {before}.")?;
        }
        out.push('\n');
        Ok(())
    }

    fn others(&self, out: &mut String) -> Result {
        let Some((_, others @ [_, ..])) = self.suspects.split_first() else {
            return Ok(());
        };
        writeln!(
            out,
            "## Other places that rise\n\n| pool | place | growth per second | holds | configuration line |\n|---|---|---|---|---|"
        )?;
        for Suspect { site, path, .. } in others {
            let cfg = path.as_ref().map_or("", |path| path.cfg.as_str());
            writeln!(
                out,
                "| {} | {} {}:{} {} | {} | {} | {} |",
                site.pool,
                site.module,
                Cell(&site.file),
                site.line,
                site.function,
                number(site.growth.map_or(0.0, |growth| growth.now)),
                Bytes(u64::try_from(site.live_bytes).unwrap_or(0)),
                Cell(cfg)
            )?;
        }
        out.push('\n');
        Ok(())
    }
}

/// Calls of another way that are shown.
const LAST_CALLS: usize = 4;

/// With its capital and its full stop.
fn sentence(text: &str) -> String {
    let mut rest = text.trim_end_matches('.').chars();
    let first: String = rest
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    format!("{first}{}.", rest.as_str())
}

/// Bytes that may be less than one.
fn number(bytes: f64) -> String {
    match bytes {
        small if small.abs() < 100.0 => format!("{small:.1} bytes"),
        large => format!("{} bytes", Count(large.max(0.0) as u64)),
    }
}

fn on(system: &str) -> String {
    match system {
        "" => String::new(),
        system => format!(" on {system}"),
    }
}

/// The configuration's line; what `~` means is said.
fn explained(cfg: &str) -> String {
    match cfg.strip_prefix('~') {
        Some(line) => {
            format!("`{line}` (the enclosing action: Kamailio does not say the inner one)")
        }
        None => format!("`{cfg}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::foresee::growth::Growth;
    use crate::guard::formats::paths::Frame;

    #[test]
    fn addresses_are_left_out_and_nothing_else_is() {
        for (text, plain) in [
            (
                "udp receiver child=0 sock=127.0.0.1:5060",
                "udp receiver child=0 sock=(address)",
            ),
            (
                "sock=udp:10.1.2.3:5060 (0.0.0.0)",
                "sock=udp:(address) ((address))",
            ),
            (
                "tcp [2001:db8::1]:5061, ::1 and fe80::1:2.",
                "tcp (address), (address) and (address)",
            ),
            ("\"source\":\"192.0.2.7:4711\"", "\"source\":\"(address)\""),
            (
                "Kamailio 5.6.3, libc.so.6, libpython3.11.so.1.0",
                "Kamailio 5.6.3, libc.so.6, libpython3.11.so.1.0",
            ),
            (
                "ht_api.c:186 at 18:00:02, 1.2.3.4.5, 300.1.1.1",
                "ht_api.c:186 at 18:00:02, 1.2.3.4.5, 300.1.1.1",
            ),
            ("{\"a\":1,\"b\":[1.5,2]}", "{\"a\":1,\"b\":[1.5,2]}"),
        ] {
            assert_eq!(without_addresses(text), plain);
        }
    }

    fn suspect() -> Suspect {
        let growth = Growth {
            now: 9612.2,
            steady: 9600.0,
            ..Growth::default()
        };
        let frame = |module: &str, function: &str| Frame {
            module: module.into(),
            function: function.into(),
            ..Frame::default()
        };
        Suspect {
            site: Site {
                pool: Pool::Shm,
                module: "htable".into(),
                file: "ht_api.c".into(),
                line: 186,
                function: "ht_cell_new".into(),
                live_bytes: 623_040,
                live_blocks: 6490,
                allocated_bytes: 623_040,
                allocations: 6490,
                growth: Some(growth),
                failures: 0,
                unbooked: 0,
                focus: Some(1),
            },
            per_message: Some(96.0),
            per_register: Some(96.0),
            since_s: 1_795_226_700,
            others: Vec::new(),
            path: Some(Path {
                pool: Pool::Shm,
                module: "htable".into(),
                file: "ht_api.c".into(),
                line: 186,
                function: "ht_cell_new".into(),
                frames: vec![frame("core", "run_actions"), frame("htable", "ht_set_cell")],
                cfg: "~kamailio.cfg:42 route[A]".into(),
                method: "REGISTER".into(),
                samples: 5000,
                live_bytes: 480_000,
                growth: 9612.2,
                steady: 9600.0,
            }),
        }
    }

    fn report<'a>(suspects: &'a [Suspect]) -> Report<'a> {
        Report {
            kamailio: "kamailio 5.6.3 (x86_64/linux)",
            version: "0.1.0",
            system: "Debian GNU/Linux 12 (bookworm)",
            managers: ["q_malloc", "q_malloc"],
            now_s: 1_795_226_800,
            uptime_s: 3600,
            processes: 14,
            messages: 12_345,
            level: Level::Warning,
            explanation: "a leak",
            exhaustion: "5h 33m",
            pools: &[],
            suspects,
            sample_bytes: 524_288,
            before: None,
            files: &[],
        }
    }

    #[test]
    fn a_report_says_what_a_maintainer_asks_for() {
        let mut suspects = [suspect(), suspect()];
        let way = suspects[0].path.clone().map(|path| Path {
            growth: 1.5,
            cfg: "b.cfg:7 route[B]".into(),
            ..path
        });
        suspects[0].others.extend(way);
        let text = report(&suspects).markdown();
        for said in [
            "# Kamailio 5.6.3: module htable keeps 96.0 bytes for each message (ht_cell_new, ht_api.c:186)\n",
            "| version | kamailio 5.6.3 (x86_64/linux) on Debian GNU/Linux 12 (bookworm) |",
            "| memory manager | shm q_malloc, pkg q_malloc |",
            "| place | `htable` ht_api.c:186 `ht_cell_new` |",
            "| configuration line | `kamailio.cfg:42 route[A]` (the enclosing action",
            "| bytes per message | 96.0 |",
            "| since | 2026-11-21 02:05 UTC (",
            " 2  htable ht_set_cell\n",
            "the way to each of its allocations is noted",
            "`kamcmd mod.stats htable shm` shows\n\n```\nht_cell_new(186): 623040\n```",
            "## Other places that rise",
            "messages handled. A leak.\n",
            "| 1.5 bytes | b.cfg:7 route[B] | core run_actions, htable ht_set_cell |",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
    }

    #[test]
    fn what_a_suspect_has_not_is_not_said() {
        let mut rare = suspect();
        (rare.per_message, rare.per_register) = (Some(0.04), Some(0.0));
        let path = rare.path.as_mut().expect("it has one");
        (path.cfg, path.method) = (String::new(), String::new());
        let text = report(&[rare]).markdown();
        assert!(text.contains("keeps 9,612 bytes per second"), "{text}");
        assert!(text.contains("| configuration line | none: no line of the native script"));
        for row in ["| SIP message in hand |", "| bytes per REGISTER |"] {
            assert!(!text.contains(row), "{row}");
            assert!(report(&[suspect()]).markdown().contains(row), "{row}");
        }
    }

    #[test]
    fn a_cell_is_one_line_of_one_column() {
        assert_eq!(Cell("a|b\nc\td").to_string(), "a\\|b c d");
    }

    #[test]
    fn without_a_suspect_the_report_says_so() {
        let text = report(&[]).markdown();
        assert!(
            text.starts_with(
                "# Kamailio 5.6.3: memory at level warning, and no place rises all the time\n"
            ),
            "{text}"
        );
        let mut unknown = suspect();
        (unknown.path, unknown.site.focus, unknown.per_message) = (None, None, None);
        let text = report(&[unknown]).markdown();
        assert!(text.contains("keeps 9,612 bytes per second"), "{text}");
        assert!(
            text.contains("not known: the way to no block")
                && text.contains("one allocation in about 524,288 bytes"),
            "{text}"
        );
    }
}
