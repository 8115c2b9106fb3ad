//! What lives in memguard's own shared mapping: rows per process, tables, rings, published figures.
//! Forbidden here: anything of Kamailio, locks, and states that a killed process could leave unreadable.
//!
//! | module | holds | writers | after a kill at any instruction |
//! |---|---|---|---|
//! | [`counters::contexts`] | how sampled blocks were reached | any | one context counts a block too many, or is lost |
//! | [`files::bindings_file`] | known bindings over a restart | one | the file before stays (it is renamed into place) |
//! | [`files::blackbox`] | the file that outlives the server | one | one record is missing |
//! | [`parts::clock`] | what makes server time of the kernel's clocks | the sampler | time lacks the last suspend |
//! | [`parts::record`] | words and their check | any | the record reads as absent until the next store |
//! | [`parts::ring`] | the last events or refusals | any | one hole |
//! | [`phones::fingerprints`] | known bindings, known AoRs | any | nothing: an entry is one word |
//! | [`parts::kept`] | what the sampler remembers | one at a time | the value that was in hand begins anew |
//! | [`counters::marks`] | an operator's snapshots of all places | any | the mark is absent |
//! | [`counters::outside`] | memory outside the pools, as told and as judged | its process, the sampler | some figures are older |
//! | [`phones::pending`] | registrations in flight | any | one registration is unknown |
//! | [`parts::slots`] | the priority lists | any | one slot is unused |
//! | [`parts::published`] | the sampler's figures | one | the last published figures stay readable |
//! | [`counters::rows`] | counters per process | its process | one operation is half counted |
//! | [`parts::series`] | one total per second | one | the newest point is missing |
//! | [`phones::sources`] | what each refused source moved the queue by | any | a source is charged one slot less |
//! | [`counters::sites`] | counters per process and place | its process | one operation is half counted |
//!
//! All-zero bytes are the initial state of all of them ([`parts::mapping::SharedZeroable`]).

pub mod counters;
pub mod figures;
pub mod files;
pub mod parts;
pub mod phones;
pub mod region;
