//! What memguard costs, measured side by side in one run: `./dev bench` prepares Kamailio and ends with this table.
//! Forbidden here: absolute times where a ratio can be had; other tenants of the machine would decide them.

#[path = "../../tests/module/harness/mod.rs"]
mod harness;

mod allocator;
mod beside;
mod calls;
mod decision;
mod footprint;
mod large;
mod refused;
mod register;
mod report;
mod reports;
mod sampling;

use report::Table;

/// Measures one part and adds its lines.
type Measure = fn(&mut Table);

/// The parts, by the word that `./dev bench WORD` and `MEMGUARD_BENCH` choose them with (tools/bench reads these lines);
/// all without it.
const PARTS: [(&str, Measure); 9] = [
    ("decision", decision::measure),
    ("allocator", allocator::measure),
    ("register", register::measure),
    ("calls", calls::measure),
    ("reports", reports::measure),
    ("large", large::measure),
    ("refused", refused::measure),
    ("sampling", sampling::measure),
    ("footprint", footprint::measure),
];

fn main() {
    refused::be_the_floor_if_asked();
    let wanted = std::env::var("MEMGUARD_BENCH").unwrap_or_default();
    let wanted = wanted.trim();
    if !wanted.is_empty() && PARTS.iter().all(|(word, _)| *word != wanted) {
        let parts = PARTS.map(|(word, _)| word).join(", ");
        eprintln!("MEMGUARD_BENCH: there is no part {wanted:?}; the parts are {parts}");
        std::process::exit(2);
    }
    let mut table = Table::default();
    for (word, measure) in PARTS {
        if wanted.is_empty() || word == wanted {
            measure(&mut table);
        }
    }
    print!("{table}");
    std::process::exit(i32::from(table.has_missed()));
}
