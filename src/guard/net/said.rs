//! What is the matter with an address, as a sentence: for the log, the page, `memguard.addresses` and the checks.
//! Forbidden here: deciding it; allocation (these are `Display`s).

use std::fmt::{Display, Formatter, Result};

use crate::guard::net::row::{NEVER, Row};
use crate::guard::net::terms::{Mac, Reason, State};
use crate::guard::terms::text::Span;

/// The sentence of a row at a moment (milliseconds of server time), without the address in front of it.
pub struct Said<'a>(pub &'a Row, pub u64);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Said(row, now) = *self;
        let on = row.interface;
        match row.reason {
            Reason::Here => here(f, row),
            Reason::Standby => standby(f, row, now),
            Reason::Secondary => {
                write!(f, "a secondary address on {on}: it goes when its primary")?;
                primary(f, row)?;
                f.write_str(" goes, as promote_secondaries is 0 there")?;
                lease(f, row.primary_until_ms, now)
            }
            Reason::Leased => {
                write!(f, "leased on {on}")?;
                left(f, row.until_ms, now)?;
                f.write_str(
                    ": DHCP may give it to another machine; make it permanent, or reserve it there",
                )
            }
            Reason::Probed => write!(
                f,
                "another machine asks whether it is free, as a DHCP client does that is about to take it; it is on {on} here"
            ),
            Reason::NoCarrier => write!(f, "{on} has no carrier: nothing reaches it"),
            Reason::LinkDown => write!(f, "{on} is switched off: nothing reaches it"),
            Reason::Claimed => {
                f.write_str("another machine uses it too")?;
                by(f, row.claimed_by)?;
                write!(
                    f,
                    ", while it is on {on} here: phones reach the one or the other"
                )
            }
            Reason::Duplicate => write!(
                f,
                "another machine had it first, so the kernel does not use it on {on} (duplicate address detection failed)"
            ),
            Reason::Gone => {
                f.write_str("not on this machine")?;
                was_on(f, row)?;
                f.write_str(": no phone reaches it here")?;
                taken(f, row)
            }
            Reason::GoneWithPrimary => {
                write!(f, "gone from {on} together with its primary address")?;
                primary(f, row)?;
                if row.primary_until_ms != NEVER {
                    f.write_str(", whose lease ended")?;
                }
                f.write_str(" (promote_secondaries is 0): no phone reaches it here")?;
                taken(f, row)
            }
            Reason::LeaseEnded => {
                write!(
                    f,
                    "gone from {on}: its lease ended and was not renewed; no phone reaches it here"
                )?;
                taken(f, row)
            }
        }
    }
}

fn here(f: &mut Formatter<'_>, row: &Row) -> Result {
    match row.state {
        State::Absent => f.write_str("not here for a moment"),
        State::Tentative => write!(f, "on {}, not ready yet", row.interface),
        _ => write!(f, "here on {}", row.interface),
    }
}

fn standby(f: &mut Formatter<'_>, row: &Row, _now: u64) -> Result {
    f.write_str("standby: it floats, and is not here")?;
    taken(f, row)
}

fn was_on(f: &mut Formatter<'_>, row: &Row) -> Result {
    match row.interface.is_empty() {
        true => Ok(()),
        false => write!(f, ", where it was on {}", row.interface),
    }
}

/// The machine that has it now.
fn taken(f: &mut Formatter<'_>, row: &Row) -> Result {
    match row.taken_over_by {
        Some(card) => write!(f, "; the machine with the card {card} uses it now"),
        None => Ok(()),
    }
}

fn by(f: &mut Formatter<'_>, card: Option<Mac>) -> Result {
    match card {
        Some(card) => write!(f, " (its card is {card})"),
        None => Ok(()),
    }
}

fn primary(f: &mut Formatter<'_>, row: &Row) -> Result {
    match row.primary {
        Some(primary) => write!(f, " {primary}"),
        None => Ok(()),
    }
}

fn left(f: &mut Formatter<'_>, until_ms: u64, now: u64) -> Result {
    match until_ms {
        NEVER => Ok(()),
        until => write!(f, " for {} more", Span(until.saturating_sub(now) / 1000)),
    }
}

fn lease(f: &mut Formatter<'_>, until_ms: u64, now: u64) -> Result {
    match until_ms {
        NEVER => Ok(()),
        until => {
            f.write_str(", and that is leased")?;
            left(f, until, now)
        }
    }
}
