//! The page's tables: processes, sites, level changes; each cut to a bearable length.
//! Forbidden here: unescaped foreign text.

use std::fmt::{Result, Write};

use crate::guard::formats::page::{
    Page, alarm_sign,
    markup::{Clock, Count, Cut, Moment, Percent, Text},
    sign,
};
use crate::guard::terms::text::Bytes;

/// Most rows of a table; the page stays below 60 KB with any content.
const MAX_ROWS: usize = 24;
/// Most addresses that are named above the charts.
pub(super) const MOST_ALARMS: usize = 8;

impl Page<'_> {
    pub(super) fn worker_table(&self, out: &mut String) -> Result {
        writeln!(
            out,
            "<h2>Processes, fullest first</h2><div class=\"wide\"><table><tr><th>process</th><th>level</th><th class=\"n\">pkg used</th>\
             <th class=\"n\">bytes</th><th class=\"n\">outside the pools</th><th class=\"n\">messages</th><th>leak</th></tr>"
        )?;
        for row in self.workers.iter().take(MAX_ROWS) {
            writeln!(
                out,
                "<tr><td class=\"w\">{} <span class=\"soft\">{}</span></td><td>{} {}</td><td class=\"n\">{} %</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
                row.index,
                Text(&row.description),
                sign(row.level),
                row.level,
                Percent(row.pkg_permyriad),
                Bytes(row.pkg_used),
                Bytes(row.private),
                Count(row.messages),
                Text(&row.leak)
            )?;
        }
        out.push_str("</table></div>\n");
        more(self.workers.len(), "memguard.workers", out)
    }

    pub(super) fn site_table(&self, out: &mut String) -> Result {
        if self.sites.is_empty() {
            return Ok(());
        }
        out.push_str(
            "<h2>Who holds the memory</h2><div class=\"wide\"><table><tr><th>place</th><th>pool</th>\
             <th class=\"n\">holds</th><th class=\"n\">growth</th></tr>\n",
        );
        for row in self.sites.iter().take(MAX_ROWS) {
            let sign = if row.growth < 0 { "−" } else { "" };
            writeln!(
                out,
                "<tr><td class=\"w\">{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{sign}{}/s</td></tr>",
                Text(&row.place),
                row.pool,
                Bytes(row.live),
                Bytes(row.growth.unsigned_abs())
            )?;
        }
        out.push_str("</table></div>\n");
        out.push_str("<p class=\"soft\">How it was reached: <a href=\"/paths.svg\">a picture of the call paths</a>.</p>\n");
        more(self.sites.len(), "memguard.sites", out)
    }

    pub(super) fn address_table(&self, out: &mut String) -> Result {
        if self.addresses.is_empty() {
            return Ok(());
        }
        out.push_str(
            "<h2>Addresses</h2><div class=\"wide\"><table><tr><th>address</th><th>state</th><th>set by</th>\
             <th>since (UTC)</th><th>what is the matter</th></tr>\n",
        );
        for row in self.addresses.iter().take(MAX_ROWS) {
            writeln!(
                out,
                "<tr><td class=\"w\">{} <span class=\"soft\">{}</span></td><td>{} {}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                row.address,
                Text(&row.sockets),
                alarm_sign(row.alarm),
                row.state,
                row.origin,
                Moment(row.since_s),
                Cut(&row.said, 200)
            )?;
        }
        out.push_str("</table></div>\n");
        more(self.addresses.len(), "memguard.addresses", out)
    }

    pub(super) fn event_table(&self, out: &mut String) -> Result {
        if self.events.is_empty() {
            return Ok(());
        }
        out.push_str("<h2>Level changes, newest first</h2><div class=\"wide\"><table><tr><th>time (UTC)</th><th>change</th><th>because of</th></tr>\n");
        for event in self.events.iter().take(MAX_ROWS) {
            let day = if self.now_s.saturating_sub(event.time_s) < 86_400 {
                Clock(event.time_s).to_string()
            } else {
                Moment(event.time_s).to_string()
            };
            let (from, to, pool, percent) = (event.from, event.to, event.pool, event.percent);
            write!(
                out,
                "<tr><td>{day}</td><td>{from} → {} {to}</td><td>{pool}",
                sign(to)
            )?;
            if let Some(worker) = event.worker {
                write!(out, " of process {worker}")?;
            }
            writeln!(out, " at {percent} %</td></tr>")?;
        }
        out.push_str("</table></div>\n");
        more(self.events.len(), "memguard.events", out)
    }
}

fn more(count: usize, command: &str, out: &mut String) -> Result {
    match count.saturating_sub(MAX_ROWS) {
        0 => Ok(()),
        hidden => writeln!(
            out,
            "<p class=\"soft\">and {hidden} more: kamcmd {command}</p>"
        ),
    }
}
