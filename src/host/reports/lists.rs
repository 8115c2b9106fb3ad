//! The reports that are lists: events, refusals, configuration, priorities.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use crate::guard::config::filters;
use crate::guard::config::params::INT_PARAMS;
use crate::guard::config::params::Int;
use crate::guard::config::params::Kind;
use crate::guard::config::params::TEXT_PARAMS;
use crate::guard::config::params::Text;
use crate::guard::config::priority::List;
use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::formats::report::word;
use crate::host::kamailio::state;
use crate::host::reports::no_arguments;
use crate::host::reports::region;
use crate::shared::region::Region;

/// Rows of `memguard.events` and `memguard.refusals` when no number is given.
const USUAL_ROWS: u32 = 20;

/// `memguard.events [N]`
pub fn events(words: &[&str]) -> Result<Answer, Fault> {
    let count = filters::events(words)
        .map_err(Fault::bad)?
        .unwrap_or(USUAL_ROWS) as usize;
    let region = region()?;
    let levels = region.events.last(count).map(|(_, event)| {
        let mut row = vec![
            ("time", Node::Count(state::date(event.time_ms / 1000))),
            ("from", word(event.from)),
            ("to", word(event.to)),
            ("pool", word(event.pool)),
        ];
        row.extend(
            event
                .worker
                .map(|worker| ("worker", int(u64::from(worker)))),
        );
        row.push(("percent", int(u64::from(event.percent))));
        row.push(("reason", word(event.reason)));
        (event.time_ms, row)
    });
    let changes = region.addresses.last(count).map(|change| {
        let mut row = vec![
            ("time", Node::Count(state::date(change.time_ms / 1000))),
            ("from", word(change.from.alarm())),
            ("to", word(change.to.alarm())),
            ("address", word(change.address)),
        ];
        if !change.interface.is_empty() {
            row.push(("interface", word(change.interface)));
        }
        row.extend(change.card.map(|card| ("card", word(card))));
        row.push(("reason", word(change.word())));
        (change.time_ms, row)
    });
    let mut rows: Vec<(u64, Fields)> = levels.chain(changes).collect();
    rows.sort_by_key(|(time_ms, _)| std::cmp::Reverse(*time_ms)); // each list was newest first, and stays so
    let rows = rows.into_iter().take(count).map(|(_, row)| row);
    Ok(Answer::Many(rows.collect()))
}

/// `memguard.refusals [N]`
pub fn refusals(words: &[&str]) -> Result<Answer, Fault> {
    let count = filters::refusals(words)
        .map_err(Fault::bad)?
        .unwrap_or(USUAL_ROWS) as usize;
    let rows = region()?.refusals.last(count).map(|(_, refusal)| {
        let address = refusal.source();
        let source = match address.ip().to_ipv4_mapped() {
            Some(v4) => format!("{v4}:{}", address.port()),
            None => address.to_string(),
        };
        vec![
            ("time", Node::Count(state::date(refusal.time_ms / 1000))),
            ("aor", word(String::from_utf8_lossy(refusal.aor.as_bytes()))),
            ("source", word(source)),
            ("class", word(refusal.class)),
            ("stage", word(refusal.stage)),
            ("code", int(u64::from(refusal.code))),
            ("retry_after", int(u64::from(refusal.retry_after))),
            ("position", int(u64::from(refusal.position))),
        ]
    });
    Ok(Answer::Many(rows.collect()))
}

/// `memguard.config`
pub fn config(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.config")?;
    Ok(Answer::Many(config_rows(region()?)))
}

fn config_rows(region: &Region) -> Vec<Fields> {
    let ints = Int::ALL.iter().zip(INT_PARAMS).map(|(param, line)| {
        let value = match line.kind {
            Kind::Mode => region.settings.mode().word().to_owned(),
            _ => region.settings.get(*param).to_string(),
        };
        (line, value)
    });
    let texts = state::tables().map(|tables| &tables.texts);
    let texts = Text::ALL.iter().zip(TEXT_PARAMS).map(|(text, line)| {
        let value = match (texts, line.kind) {
            (Some(texts), Kind::List { .. }) if !is_priority(*text) => shown(texts.list(*text)),
            (_, Kind::List { .. }) => in_force(region, *text),
            (Some(texts), _) => texts.get(*text).to_owned(),
            (None, _) => String::new(),
        };
        (line, value)
    });
    ints.chain(texts)
        .map(|(line, value)| {
            vec![
                ("name", word(line.name)),
                ("value", word(value)),
                ("unit", word(line.unit)),
                ("runtime", int(u64::from(line.runtime))),
                ("doc", word(line.doc)),
            ]
        })
        .collect()
}

/// How many values of a list `memguard.config` shows; `memguard.priority` shows all.
const SHOWN_VALUES: usize = 20;

/// Lists that can be changed while the server runs.
fn is_priority(text: Text) -> bool {
    matches!(
        text,
        Text::PriorityAor | Text::PriorityDomain | Text::PrioritySource
    )
}

/// A priority list in force, in one line.
fn in_force(region: &Region, text: Text) -> String {
    let list = match text {
        Text::PriorityAor => List::Aor,
        Text::PriorityDomain => List::Domain,
        _ => List::Source,
    };
    let entries = region.priorities.in_force();
    let of_list = entries.iter().filter(|e| e.entry.list() == Some(list));
    shown(&of_list.map(|e| e.entry.to_string()).collect::<Vec<_>>())
}

/// The first values of a list in one line.
fn shown(values: &[String]) -> String {
    match values.get(SHOWN_VALUES..) {
        Some(more @ [_, ..]) => format!(
            "{} and {} more",
            values[..SHOWN_VALUES].join(", "),
            more.len()
        ),
        _ => values.join(", "),
    }
}

/// The rows of `memguard.priority`: one list, or all.
pub fn priorities(region: &Region, list: Option<List>) -> Vec<Fields> {
    let entries = region.priorities.in_force();
    let rows = entries.iter().filter_map(|found| {
        let own = found.entry.list()?;
        let mut row = vec![("list", word(own.word())), ("value", word(found.entry))];
        match found.since_s {
            0 => row.push(("from", word("configuration"))),
            since => row.extend([
                ("from", word("run time")),
                ("since", Node::Count(state::date(since))),
            ]),
        }
        (list.is_none() || list == Some(own)).then_some(row)
    });
    rows.collect()
}
