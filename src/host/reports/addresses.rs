//! `memguard.addresses`, and what the other reports say of the watched addresses.
//! Forbidden here: changing anything; shm locks; deciding what is the matter (guard::net). Process: any.

use std::net::IpAddr;

use crate::guard::config::params::Int;
use crate::guard::formats::page::AddressRow;
use crate::guard::formats::report::{Answer, Fault, Fields, Node, int, word};
use crate::guard::net::row::{EXPECTED, FLOATS, LISTENS, Row, SOCKETS};
use crate::guard::net::said::Said;
use crate::guard::net::terms::Alarm;
use crate::host::kamailio::state;
use crate::host::reports::region;
use crate::shared::region::Region;

/// `memguard.addresses [ADDRESS]`
pub fn addresses(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let wanted = match words {
        [] => None,
        [text] => Some(text.parse::<IpAddr>().map_err(|_| bad())?),
        _ => return Err(bad()),
    };
    if region.settings.get(Int::AddressGuard) == 0 {
        return Err(Fault::cannot(
            "the addresses are not watched: parameter address_guard is 0",
        ));
    }
    if wanted.is_some() && region.addresses.watched.get() == 0 {
        return Err(Fault::cannot(
            "no address has been looked at yet: the server has just started, or Kamailio names none and address_expect is not given",
        ));
    }
    let now = state::now_ms();
    let rows = worst_first(region);
    let rows: Vec<Fields> = rows
        .iter()
        .filter(|row| wanted.is_none_or(|address| row.address == address))
        .map(|row| fields(row, now))
        .collect();
    match (wanted, rows.is_empty()) {
        (Some(address), true) => Err(Fault::unknown(format!(
            "{address} is not watched: Kamailio does not listen on it, and address_expect and address_floating do not name it"
        ))),
        _ => Ok(Answer::Many(rows)),
    }
}

fn bad() -> Fault {
    Fault::bad("memguard.addresses accepts nothing, or one IPv4 or IPv6 address")
}

/// All rows, those with the worst first.
fn worst_first(region: &Region) -> Vec<Row> {
    let mut rows: Vec<Row> = region.addresses.rows().collect();
    rows.sort_by_key(|row| std::cmp::Reverse((row.reason.alarm(), row.reason)));
    rows
}

/// The kinds of sockets on it, "udp tcp".
fn sockets(row: &Row) -> String {
    named(row.sockets, &SOCKETS)
}

fn named(bits: u8, names: &[(u8, &str)]) -> String {
    let names = names.iter().filter(|(bit, _)| bits & bit != 0);
    names.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

fn fields(row: &Row, now: u64) -> Fields {
    let date = |ms: u64| Node::Count(state::date(ms / 1000));
    let roles = [
        (LISTENS, "listen"),
        (EXPECTED, "expect"),
        (FLOATS, "floating"),
    ];
    let mut out = vec![
        ("address", word(row.address)),
        ("alarm", word(row.reason.alarm())),
        ("state", word(row.state)),
        ("reason", word(row.reason)),
        ("text", word(Said(row, now))),
        ("watched_as", word(named(row.roles, &roles))),
        ("sockets", word(sockets(row))),
    ];
    if !row.interface.is_empty() {
        out.push(("interface", word(row.interface)));
    }
    out.push(("origin", word(row.origin)));
    out.extend(row.lease_s(now).map(|s| ("lease_seconds", Node::Count(s))));
    out.push(("secondary", int(u64::from(row.is_secondary))));
    out.extend(row.primary.map(|primary| ("primary", word(primary))));
    out.extend([
        ("link", word(row.link)),
        ("since", date(row.since_ms)),
        ("changes", Node::Count(row.changes)),
    ]);
    if let Some(card) = row.claimed_by {
        out.extend([
            ("claimed_by", word(card)),
            ("claimed_first", date(row.claimed_first_ms)),
            ("claimed_last", date(row.claimed_last_ms)),
        ]);
    }
    out.extend([
        ("claims", Node::Count(row.claims)),
        ("probes", Node::Count(row.probes)),
    ]);
    out.extend(row.taken_over_by.map(|card| ("taken_over_by", word(card))));
    out
}

/// One word for `memguard.status`: the worst of all, or "off".
pub fn in_a_word(region: &Region) -> &'static str {
    match alarm(region) {
        None => "off",
        Some(alarm) => alarm.word(),
    }
}

/// How bad the worst is; `None` while nothing is watched.
pub fn alarm(region: &Region) -> Option<Alarm> {
    let addresses = &region.addresses;
    let is_watched = addresses.watched.get() > 0;
    is_watched.then(|| Alarm::from_index(addresses.alarm.get()).unwrap_or(Alarm::Ok))
}

/// The worst in one sentence, and how many more there are; `None` while all is well.
pub fn worst(region: &Region) -> Option<(Alarm, String)> {
    let found = alarm(region).filter(|alarm| *alarm > Alarm::Ok)?;
    let rows = worst_first(region);
    let alarmed = rows
        .iter()
        .filter(|row| row.reason.alarm() > Alarm::Ok)
        .count();
    let row = rows.first()?;
    let said = Said(row, state::now_ms());
    let more = match alarmed {
        ..=1 => String::new(),
        n => format!(" (and {} more addresses)", n - 1),
    };
    Some((found, format!("address {}: {said}{more}", row.address)))
}

/// Needed addresses that cannot be used, the first of them by name; `None` while there is none.
pub fn missing(region: &Region) -> Option<IpAddr> {
    if region.addresses.missing.get() == 0 {
        return None;
    }
    let mut rows = region.addresses.rows();
    rows.find(|row| row.reason.is_missing())
        .map(|row| row.address)
}

/// The rows of the page, the worst first.
pub fn page_rows(region: &Region) -> Vec<AddressRow> {
    let now = state::now_ms();
    let rows = worst_first(region);
    rows.iter()
        .map(|row| AddressRow {
            address: row.address,
            sockets: sockets(row),
            alarm: row.reason.alarm(),
            state: row.state,
            origin: row.origin,
            since_s: state::date(row.since_ms / 1000),
            said: Said(row, now).to_string(),
        })
        .collect()
}
