//! The page at `/`: what an operator wants to know in the first five seconds, then the last hour, processes and sites.
//! Forbidden here: scripts, anything loaded from elsewhere, unescaped foreign text, more than 60 KB.

pub mod chart;
mod content;
pub mod history;
pub mod markup;
mod tables;

use std::fmt::{Result, Write};

use crate::guard::foresee::pace::{AtThisRate, SOON_S};
pub use crate::guard::formats::page::content::{
    AddressRow, EventRow, Outlook, Page, PoolRow, Registrations, SiteRow, WorkerRow,
};
use crate::guard::formats::page::{
    chart::{Chart, Curve, Threshold},
    history::Point,
    markup::{Count, Cut, Moment, Percent, Rate, Text},
};
use crate::guard::net::terms::Alarm;
use crate::guard::terms::{
    text::{Bytes, NONE_FORESEEN_S, Span},
    words::{Level, Mode, Pool},
};

/// The page's media type.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// A sign for each level: colour is never the only difference.
fn sign(level: Level) -> &'static str {
    match level {
        Level::Normal => "●",
        Level::Warning => "▲",
        Level::Shedding => "■",
        Level::Emergency => "✖",
    }
}

/// The same for an address.
fn alarm_sign(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::Ok => "●",
        Alarm::Warning => "▲",
        Alarm::Critical => "✖",
    }
}

fn value_of(pool: Pool) -> fn(&Point) -> Option<u32> {
    match pool {
        Pool::Shm => |p| p.shm,
        Pool::Pkg => |p| p.pkg,
        Pool::Os => |p| p.os,
    }
}

impl Page<'_> {
    /// The page as HTML.
    pub fn html(&self) -> String {
        let mut out = String::with_capacity(32 * 1024);
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> Result {
        let (level, sign) = (self.level, sign(self.level));
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{sign} {level} – memguard</title>\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"refresh\" content=\"15\">\
             <style>{}</style></head><body>\n<header class=\"l{}\"><h1>{sign} {level}</h1><p>{}</p>\n",
            include_str!("style.css"),
            level.index(),
            self.headline()
        )?;
        self.glance(out)?;
        out.push_str("</header>\n");
        for note in &self.notes {
            writeln!(out, "<p>{}</p>", Cut(note, 300))?;
        }
        self.say_warnings(out)?;
        self.say_alarms(out)?;
        self.last_hour(out)?;
        self.worker_table(out)?;
        self.site_table(out)?;
        self.address_table(out)?;
        self.event_table(out)?;
        if let Some(said) = self.before {
            writeln!(
                out,
                "<p>Before: {}. <code>memguard-blackbox</code> tells more.</p>",
                Cut(said, 300)
            )?;
        }
        writeln!(
            out,
            "<p class=\"soft\">{}, up {}, mode {}. Kamailio {}, memguard {}. \
             Also here: <a href=\"/metrics\">/metrics</a>, <a href=\"/status.json\">/status.json</a>, <a href=\"/ready\">/ready</a>, \
             <a href=\"/paths.svg\">/paths.svg</a>. \
             The page renews itself every 15 seconds.</p>\n</body></html>",
            Moment(self.now_s),
            Span(self.uptime_s),
            self.mode,
            Text(self.kamailio),
            Text(self.version)
        )
    }

    /// The state in one sentence.
    pub fn headline(&self) -> String {
        let ends = self.outlook.exhaustion_s < NONE_FORESEEN_S;
        let pace = self.outlook.at_this_rate;
        let soon = pace.filter(|(_, s)| *s <= SOON_S && *s <= self.outlook.exhaustion_s);
        let end = match self.outlook.pool {
            _ if soon.is_some() => {
                let (pool, seconds) = soon.unwrap_or((self.tightest, 0));
                format!("{pool}: {}.", AtThisRate(seconds))
            }
            Some(pool) if ends => {
                format!(
                    "{pool} will be full in {}.",
                    Span(self.outlook.exhaustion_s)
                )
            }
            Some(pool) if self.level == Level::Normal && self.outlook.grows => {
                format!("{pool} grows; whether it runs out is not known yet.")
            }
            _ if self.level == Level::Normal => "Nothing is running out.".into(),
            _ => format!("{} is running out.", self.tightest),
        };
        let refusing = match (self.mode, self.shed_pct) {
            (_, 0) | (Mode::Off, _) => "Nobody is refused.".into(),
            (Mode::Enforce, pct) => format!("{pct} % of new registrations are refused."),
            (Mode::Observe, pct) => {
                format!("{pct} % of new registrations would be refused (mode observe).")
            }
        };
        let shed = if self.is_shed {
            " An operator's memguard.shed is running."
        } else {
            ""
        };
        format!("{end} {refusing}{shed}")
    }

    /// What, when, why, who; and the phones.
    fn glance(&self, out: &mut String) -> Result {
        out.push_str("<dl>");
        if let Some(row) = self.pools.iter().find(|p| p.pool == self.tightest) {
            writeln!(
                out,
                "<dt>What</dt> <dd>{} is tightest: {} % of {} used <small>{} left</small></dd>",
                row.pool,
                Percent(row.used_permyriad),
                Bytes(row.size),
                Bytes(row.size.saturating_sub(row.used))
            )?;
        }
        let Outlook {
            exhaustion_s,
            between_s,
            is_valid,
            may_end_s,
            at_this_rate,
            ..
        } = self.outlook;
        out.push_str("<dt>When</dt> <dd>");
        if exhaustion_s < NONE_FORESEEN_S {
            write!(
                out,
                "full in {} <small>about {}",
                Span(exhaustion_s),
                Moment(self.now_s.saturating_add(exhaustion_s))
            )?;
            if let Some((low, high)) = between_s {
                write!(out, ", at the earliest in {}", Span(low))?;
                match high {
                    NONE_FORESEEN_S.. => out.push_str(", perhaps never"),
                    high => write!(out, ", at the latest in {}", Span(high))?,
                }
            }
            out.push_str("</small>");
        } else if is_valid {
            out.push_str("no end foreseen");
        } else {
            out.push_str("not known yet <small>");
            match may_end_s {
                Some((low, NONE_FORESEEN_S..)) => {
                    write!(out, "not before {} have passed", Span(low))?;
                }
                Some((low, high)) => write!(
                    out,
                    "if it goes on as it does, in {} to {}",
                    Span(low),
                    Span(high)
                )?,
                None => out.push_str("too little was seen for a forecast"),
            }
            out.push_str("</small>");
        }
        if let Some((pool, seconds)) = at_this_rate.filter(|(_, s)| *s < NONE_FORESEEN_S) {
            write!(out, " <small>{pool}: {}</small>", AtThisRate(seconds))?;
        }
        let Outlook {
            cause,
            confidence,
            who,
            ..
        } = &self.outlook;
        write!(out, "</dd>\n<dt>Why</dt> <dd>{}", Cut(why(cause), 200))?;
        if !confidence.is_empty() {
            write!(out, " <small>confidence: {}</small>", Text(confidence))?;
        }
        let who = if who.is_empty() {
            "nobody stands out"
        } else {
            who
        };
        writeln!(out, "</dd>\n<dt>Who</dt> <dd>{}</dd>", Cut(who, 160))?;
        let r = &self.registrations;
        write!(
            out,
            "<dt>Phones</dt> <dd>{} bindings known{} <small>new {}, refresh {}, refused {} ({} since the start)",
            Count(r.known),
            if r.storm { ", a storm of new ones" } else { "" },
            Rate(r.new_rate),
            Rate(r.refresh_rate),
            Rate(r.rejected_rate),
            Count(r.rejected)
        )?;
        if let Some(left) = r.left {
            write!(out, "; room for {} more", Count(left))?;
        }
        out.push_str("</small></dd></dl>\n");
        Ok(())
    }

    fn say_warnings(&self, out: &mut String) -> Result {
        if self.warnings.is_empty() {
            return Ok(());
        }
        out.push_str("<h2>Warnings</h2><ul>");
        for sentence in &self.warnings {
            // Constant sentences, longer than Text lets through.
            let sentence = sentence.replace('&', "&amp;").replace('<', "&lt;");
            writeln!(out, "<li>{sentence}</li>")?;
        }
        out.push_str("</ul>\n");
        Ok(())
    }

    /// What is the matter with an address stands before everything else of the page.
    fn say_alarms(&self, out: &mut String) -> Result {
        let is_bad = |row: &&AddressRow| row.alarm > Alarm::Ok;
        if !self.addresses.iter().any(|row| is_bad(&row)) {
            return Ok(());
        }
        out.push_str("<h2>Addresses that need you</h2><ul>");
        for row in self
            .addresses
            .iter()
            .filter(is_bad)
            .take(tables::MOST_ALARMS)
        {
            writeln!(
                out,
                "<li>{} <b>{}</b> {}: {}</li>",
                alarm_sign(row.alarm),
                row.address,
                row.alarm,
                Cut(&row.said, 300)
            )?;
        }
        out.push_str("</ul>\n");
        Ok(())
    }

    fn last_hour(&self, out: &mut String) -> Result {
        out.push_str("<h2>The last hour</h2><div class=\"grid3\">\n");
        for row in &self.pools {
            let (style, curve): (_, fn(&Point) -> Option<f64>) = match row.pool {
                Pool::Shm => ("shm", |p| p.shm.map(|v| f64::from(v) / 100.0)),
                Pool::Pkg => ("pkg", |p| p.pkg.map(|v| f64::from(v) / 100.0)),
                Pool::Os => ("os", |p| p.os.map(|v| f64::from(v) / 100.0)),
            };
            let words = chart::in_words(self.history, self.now_s, value_of(row.pool));
            write!(
                out,
                "<figure><figcaption><b>{} {} %</b> of {} {} {}<br>{}</figcaption>",
                row.pool,
                Percent(row.used_permyriad),
                Bytes(row.size),
                sign(row.level),
                row.level,
                Text(&row.whose)
            )?;
            let t = &row.thresholds;
            Chart {
                summary: &format!("Use of {} in percent over the last hour: {words}", row.pool),
                points: self.history,
                now_s: self.now_s,
                top: 100.0,
                unit: "",
                curves: &[Curve {
                    style,
                    name: "",
                    value: curve,
                }],
                thresholds: &[
                    Threshold {
                        percent: t.warning,
                        name: "warning",
                    },
                    Threshold {
                        percent: t.shed,
                        name: "refusing starts",
                    },
                    Threshold {
                        percent: t.emergency,
                        name: "emergency",
                    },
                ],
                growth: row.growth.map(|g| g / 100.0),
                is_ahead: self.is_ahead(),
            }
            .draw(out);
            writeln!(out, "<figcaption>{words}</figcaption></figure>")?;
        }
        self.rates(out)?;
        out.push_str("</div>\n");
        Ok(())
    }

    /// Whether the charts show some of the future, all or none of them.
    fn is_ahead(&self) -> bool {
        self.pools.iter().any(|p| p.growth.is_some())
    }

    fn rates(&self, out: &mut String) -> Result {
        let top = self
            .history
            .iter()
            .map(|p| p.new_rate.max(p.refresh_rate).max(p.rejected_rate))
            .max()
            .unwrap_or(0);
        let r = &self.registrations;
        let words = format!(
            "now: new {}, refresh {}, refused {}",
            Rate(r.new_rate),
            Rate(r.refresh_rate),
            Rate(r.rejected_rate)
        );
        write!(
            out,
            "<figure><figcaption><b>REGISTERs per second</b><br>new, refresh, refused</figcaption>"
        )?;
        Chart {
            summary: &words,
            points: self.history,
            now_s: self.now_s,
            top: round_up(top as f64 / 1000.0 * 1.2),
            unit: "",
            curves: &[
                Curve {
                    style: "shm",
                    name: "new",
                    value: |p| Some(p.new_rate as f64 / 1000.0),
                },
                Curve {
                    style: "pkg",
                    name: "refresh",
                    value: |p| Some(p.refresh_rate as f64 / 1000.0),
                },
                Curve {
                    style: "os",
                    name: "refused",
                    value: |p| Some(p.rejected_rate as f64 / 1000.0),
                },
            ],
            thresholds: &[],
            growth: None,
            is_ahead: self.is_ahead(),
        }
        .draw(out);
        writeln!(out, "<figcaption>{words}</figcaption></figure>")
    }
}

/// A cause of the contract in words for people.
fn why(cause: &str) -> &str {
    match cause {
        "none" => "nothing grows",
        "registrations" => "registrations: more phones, not a leak",
        "leak" => "a leak: memory is held that no registration explains",
        "bookkeeping" => "bookkeeping: the manager's figure drifts, nobody holds the memory",
        "fragmentation" => "fragmentation: enough is free, but in small pieces",
        "outside" => "outside of Kamailio's pools: libc, Python, other programs",
        "unknown" | "" => "not known",
        other => other,
    }
}

/// The next number of 1, 2, 5, 10, 20, … that is not smaller; at least 1.
fn round_up(value: f64) -> f64 {
    let mut step = 1.0;
    for _ in 0..12 {
        for factor in [1.0, 2.0, 5.0] {
            if value <= step * factor {
                return step * factor;
            }
        }
        step *= 10.0;
    }
    step
}
