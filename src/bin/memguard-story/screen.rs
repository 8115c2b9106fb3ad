//! What people see: a line per second with a bar of memory, the level changes, the table and the verdict.
//! Forbidden here: counting.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::tally::{Fate, Look, Tally};
use crate::{Failure, pause};

/// Cells of a bar; each is 2.5 %.
const BAR: usize = 40;
/// Cells of the bar of the server without memguard.
const SHORT_BAR: usize = 10;
/// The default thresholds of shm, percent: warning, shed, full, emergency (src/guard/config/params.rs).
const THRESHOLDS: [f64; 4] = [70.0, 80.0, 92.0, 97.0];

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// The terminal, or a file without colours.
pub struct Screen {
    began: Instant,
    next: Instant,
    has_colours: bool,
}

impl Screen {
    /// Time starts now.
    pub fn new() -> Screen {
        let has_colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Screen {
            began: Instant::now(),
            next: Instant::now(),
            has_colours,
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.has_colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn say(&self, line: &str) {
        println!("{line}");
        let _ = std::io::stdout().flush();
    }

    /// Waits for the next full second.
    ///
    /// # Errors
    /// The interrupt.
    pub fn until_next_second(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        while self.next <= now {
            self.next += Duration::from_secs(1);
        }
        pause(self.next - now)
    }

    /// What there is to see.
    pub fn opening(&self, shm_mb: u32) {
        self.say(&self.paint(
            BOLD,
            "Two Kamailios on loopback, the same phones, the same leak; one of them has memguard.",
        ));
        self.say(&format!(
            "Shared memory: {shm_mb} MiB each. In the bar: w warning ({} %), s shedding starts ({} %), f all new phones are refused ({} %), e emergency ({} %).\n\
             Per second: new phones let in, new phones told 503, registered phones refreshed, calls ended well.",
            THRESHOLDS[0], THRESHOLDS[1], THRESHOLDS[2], THRESHOLDS[3]
        ));
    }

    /// A part of the story begins.
    pub fn chapter(&self, text: &str) {
        self.say(&format!("\n{}", self.paint(BOLD, text)));
        let head = format!(
            "{:>5} {:<9} {:<width$} {:>6} {:>6} {:>7} {:>7} {:>5}   {:<12} {:>7} {:>6} {:>5}",
            "",
            "",
            "",
            "",
            "new",
            "new",
            "re-",
            "",
            "WITHOUT",
            "",
            "",
            "",
            width = BAR + 2
        );
        self.say(&self.paint(DIM, &head));
        let head = format!(
            "{:>5} {:<9} {:<width$} {:>6} {:>6} {:>7} {:>7} {:>5}   {:<12} {:>7} {:>6} {:>5}",
            "time",
            "level",
            "shared memory",
            "use",
            "in/s",
            "503/s",
            "fresh/s",
            "calls",
            "memguard",
            "use",
            "500/s",
            "calls",
            width = BAR + 2
        );
        self.say(&self.paint(DIM, &head));
    }

    /// One second.
    pub fn line(&self, with: &Tally, without: &Tally) {
        for change in with.changes.iter().skip(with.shown) {
            let text = format!(
                "      memguard: {} -> {}: {} at {} %. {}",
                change.from,
                change.to,
                change.pool,
                change.percent,
                meaning(&change.to)
            );
            self.say(&self.paint(colour_of(&change.to), &text));
        }
        let per_second = |tally: &Tally, part: fn(&Look) -> u64| {
            part(&tally.now).saturating_sub(part(&tally.before))
        };
        let elapsed = self.began.elapsed().as_secs();
        let refused = per_second(with, |l| l.refused);
        let failed = per_second(without, |l| l.failed);
        self.say(&format!(
            "{:>2}:{:02} {} [{}] {:>4.1} % {:>6} {} {:>7} {:>5}   [{}] {:>5.1} % {} {:>5}",
            elapsed / 60,
            elapsed % 60,
            self.paint(
                colour_of(&with.now.level),
                &format!("{:<9}", with.now.level)
            ),
            self.paint(
                colour_of(&with.now.level),
                &bar(with.now.shm_pct, BAR, &THRESHOLDS)
            ),
            with.now.shm_pct,
            per_second(with, |l| l.accepted),
            self.paint(
                if refused > 0 { YELLOW } else { DIM },
                &format!("{refused:>7}")
            ),
            per_second(with, |l| l.refreshed),
            per_second(with, |l| l.calls),
            bar(without.now.shm_pct, SHORT_BAR, &[]),
            without.now.shm_pct,
            self.paint(if failed > 0 { RED } else { DIM }, &format!("{failed:>6}")),
            per_second(without, |l| l.calls),
        ));
    }

    /// All counts of both servers.
    pub fn table(&self, with: &Tally, without: &Tally) {
        self.say(&format!(
            "\n{}",
            self.paint(BOLD, "What became of them (counted by sipp)")
        ));
        self.say(&format!(
            "{:<30} {:>7} {:>8} {:>6} {:>12} {:>6} {:>6}",
            "", "sent", "200", "503", "Retry-After", "500", "lost"
        ));
        for (name, tally) in [("with memguard", with), ("without memguard", without)] {
            self.say(&self.paint(BOLD, name));
            let rows: [(&str, Fate); 5] = [
                ("  phones of the evening", tally.first),
                ("  their refreshes", tally.refreshes),
                ("  new phones during the leak", tally.arrivals),
                ("  new phones of the storm", tally.storm),
                ("  calls", tally.calls),
            ];
            for (row, fate) in rows {
                let counts = [
                    fate.refused_503,
                    fate.with_retry_after,
                    fate.failed_500,
                    fate.lost(),
                ];
                let [refused, marked, failed, lost] =
                    counts.map(|n| if n == 0 { "-".into() } else { n.to_string() });
                self.say(&format!(
                    "{row:<30} {:>7} {:>8} {refused:>6} {marked:>12} {failed:>6} {lost:>6}",
                    fate.sent, fate.ok
                ));
            }
            self.say(&format!(
                "{:<30} {:>7}",
                "  ERROR lines in the log", tally.error_lines
            ));
        }
        self.say(&format!(
            "\n{}",
            self.paint(BOLD, "Held against memguard's own counters")
        ));
        self.say(&format!("{:<44} {:>8} {:>10}", "", "sipp", "memguard"));
        for (what, sipp, memguard) in with.held() {
            self.say(&format!("  {what:<42} {sipp:>8} {memguard:>10}"));
        }
    }

    /// Each claim with its outcome; whether all held.
    pub fn verdict(&self, claims: &[(bool, String)]) -> bool {
        self.say(&format!("\n{}", self.paint(BOLD, "The story")));
        for (held, claim) in claims {
            let mark = if *held {
                self.paint(GREEN, "  yes ")
            } else {
                self.paint(RED, "  NO  ")
            };
            self.say(&format!("{mark}{claim}"));
        }
        let held = claims.iter().all(|(held, _)| *held);
        self.say(&self.paint(
            BOLD,
            &format!(
                "{} ({} s)",
                if held { "It held." } else { "It did NOT hold." },
                self.began.elapsed().as_secs()
            ),
        ));
        held
    }
}

/// What a level means to the one on call.
fn meaning(level: &str) -> &'static str {
    match level {
        "warning" => "Nothing is refused yet: time to look.",
        "shedding" => {
            "A growing share of NEW phones gets 503 with Retry-After; who is registered stays."
        }
        "emergency" => "Only registered and priority phones get in.",
        _ => "All is well again.",
    }
}

fn colour_of(level: &str) -> &'static str {
    match level {
        "warning" => YELLOW,
        "shedding" | "emergency" => RED,
        _ => GREEN,
    }
}

/// A bar of `cells`, used ones filled, with the thresholds' first letters where they lie and are not reached.
fn bar(percent: f64, cells: usize, thresholds: &[f64]) -> String {
    let cell_of = |percent: f64| (percent / 100.0 * cells as f64) as usize;
    let mark = |cell: usize| {
        thresholds
            .iter()
            .zip("wsfe".chars())
            .find(|(t, _)| cell_of(**t) == cell)
            .map(|(_, c)| c)
    };
    let cell = |index: usize| {
        if index < cell_of(percent) {
            '#'
        } else {
            mark(index).unwrap_or('.')
        }
    };
    (0..cells).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_use_and_the_thresholds_that_lie_ahead() {
        assert_eq!(bar(50.0, 10, &THRESHOLDS), "#####..wsf"); // 92 and 97 share a cell of ten
        assert_eq!(bar(0.0, 4, &[]), "....");
        assert_eq!(bar(100.0, 4, &[70.0]), "####");
    }
}
