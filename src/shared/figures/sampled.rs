//! What the sampling process publishes once per tick, as one consistent set that every process can read.
//! Forbidden here: taking the samples, and fields that more than one process writes.

use crate::shared::parts::published::DoubleBuffer;

/// Declares the published figures: a struct of u64 and its way into and out of words.
macro_rules! figures {
    ($($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        /// One tick's figures. Rates are in thousandths per second; sizes in bytes; times in milliseconds.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Figures { $($(#[$doc])+ pub $name: u64),+ }

        impl Figures {
            /// How many words they take.
            pub const WORDS: usize = [$(stringify!($name)),+].len();

            /// In the order of declaration.
            pub fn to_words(&self) -> [u64; Self::WORDS] {
                [$(self.$name),+]
            }

            /// Back from [`Figures::to_words`].
            pub fn from_words(words: [u64; Self::WORDS]) -> Figures {
                let [$($name),+] = words;
                Figures { $($name),+ }
            }
        }
    };
}

figures! {
    /// When the sample was taken, server time.
    time_ms,
    /// How many samples were taken.
    samples,
    /// Samples in which a source could not be read.
    sample_errors,
    /// The server's level (number of `Level`).
    level,
    /// Level of shm.
    shm_level,
    /// Worst level among the processes that receive SIP.
    pkg_level,
    /// Level of the machine's or container's memory.
    os_level,
    /// Number of `Pool` that is tightest.
    tightest,
    /// Bytes left before the tightest is full.
    headroom,
    /// The same in 1/100 percent of its size.
    headroom_permyriad,
    /// Level changes since the start.
    level_changes,
    /// Processes in the table.
    workers,
    /// Index of the process with the fullest private pool.
    fullest_worker,
    /// Its `real_used`.
    fullest_real_used,
    /// Largest `real_used` of a process that receives SIP: what makes refuse.
    fullest_sip_used,
    /// Largest `real_used` of shm since the start or `reset peaks`.
    shm_peak,
    /// Largest use of the machine's memory since the start or `reset peaks`.
    os_peak,
    /// Limit that decides for `os`; 0 when unknown.
    os_limit,
    /// Use against it.
    os_used,
    /// Seconds until shm is full at the pace of the last seconds; 2592000: it does not grow.
    shm_full_in,
    /// The same of the process whose private pool is full first.
    pkg_full_in,
    /// The same of the machine's memory.
    os_full_in,
    /// Where the limit comes from (number of `osmem::Source`).
    os_source,
    /// Bindings known and alive.
    known_bindings,
    /// AoRs known (alive, or ended less than `aor_memory` ago).
    known_aors,
    /// New registrations, 1 s.
    new_rate_1s,
    /// New registrations, 10 s.
    new_rate_10s,
    /// New registrations, 1 min.
    new_rate_1m,
    /// New registrations, 5 min.
    new_rate_5m,
    /// New registrations, 15 min.
    new_rate_15m,
    /// Refreshes, 1 s.
    refresh_rate_1s,
    /// Refreshes, 10 s.
    refresh_rate_10s,
    /// Refreshes, 1 min.
    refresh_rate_1m,
    /// Refreshes, 5 min.
    refresh_rate_5m,
    /// Refreshes, 15 min.
    refresh_rate_15m,
    /// Refusals, 1 s.
    rejected_rate_1s,
    /// Refusals, 10 s.
    rejected_rate_10s,
    /// Refusals, 1 min.
    rejected_rate_1m,
    /// Refusals, 5 min.
    rejected_rate_5m,
    /// Refusals, 15 min.
    rejected_rate_15m,
    /// SIP messages of any kind, 10 s.
    message_rate,
    /// Usual rate of new registrations.
    baseline,
    /// 1 while new registrations come far above their usual rate.
    storm,
}

/// Where they are published: the sampling process writes, everybody reads.
pub type Published = DoubleBuffer<{ Figures::WORDS }>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_survive_the_way_through_words() {
        let words = std::array::from_fn(|i| i as u64 * 3 + 1);
        assert_eq!(Figures::from_words(words).to_words(), words);
        assert_eq!(Figures::from_words(words).time_ms, 1);
    }
}
