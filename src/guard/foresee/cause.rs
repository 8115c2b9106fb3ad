//! Why memory grows, with how much confidence, in plain words.
//! Forbidden here: measuring; the growths come as arguments.

use crate::guard::foresee::growth::Leak;
use crate::guard::machine::{fragments::Pieces, outside::Part};
use crate::guard::terms::{text::Bytes, words::words};

words! {
    /// Why memory runs out.
    Cause {
        /// It does not.
        None = "none",
        /// More registrations than before.
        Registrations = "registrations",
        /// Something allocates and does not free.
        Leak = "leak",
        /// The manager books shrinking blocks wrong (qm up to 5.8.7 and 6.0.5); nothing leaks.
        Bookkeeping = "bookkeeping",
        /// Free memory is there, but in small pieces.
        Fragmentation = "fragmentation",
        /// Memory outside Kamailio's pools.
        Outside = "outside",
        /// It grows, and nothing known explains it.
        Unknown = "unknown",
    }
}

words! {
    /// How sure that is.
    Confidence {
        /// Nothing is known.
        None = "none",
        /// A guess.
        Low = "low",
        /// Likely.
        Medium = "medium",
        /// As good as certain.
        High = "high",
    }
}

/// What is known of one pool's growth. Growths are bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Of the pool's low-water mark.
    pub growth: f64,
    /// A forecast stands on it (see `forecast::Outlook`): it is no passing rise.
    pub is_foreseen: bool,
    /// Too little has been seen, or it grows in a way that may be anything.
    pub is_unsure: bool,
    /// It ends within minutes if it goes on: a guess from seconds.
    pub is_brief: bool,
    /// It rises steadily and unexplained, too slowly or too short for a forecast.
    pub is_rising: bool,
    /// Bytes by which it rose in one step, or that have ended: no growth.
    pub step: u64,
    /// Growth of the known bindings times the learned cost of one.
    pub registrations: f64,
    /// That cost is known.
    pub cost_known: bool,
    /// The table of bindings pushes out live ones, so how many there are is not known ([`PushedOut`]).
    pub is_table_full: bool,
    /// Growth of what the manager's books hold and memguard's own count does not.
    pub drift: f64,
    /// Growth of what one place in the code holds, where that is counted.
    pub site: Option<f64>,
    /// Size of the pool in bytes; 0 when unknown.
    pub size: u64,
    /// Free bytes of it.
    pub free: u64,
    /// Its largest free block (a lower bound); `None` when unknown.
    pub largest_free: Option<u64>,
    /// How broken up the free memory is.
    pub pieces: Pieces,
    /// Growth of the private memory of the process that grows most. For `os` only.
    pub private: f64,
    /// That process.
    pub worker: Option<u16>,
    /// Who holds what grows there.
    pub part: Part,
    /// Whether that is called a leak.
    pub leak: Leak,
    /// A Python interpreter is in the processes.
    pub python: bool,
    /// The pool is the machine's memory.
    pub is_os: bool,
}

impl Default for Evidence {
    fn default() -> Evidence {
        Evidence {
            growth: 0.0,
            is_foreseen: false,
            is_unsure: false,
            is_brief: false,
            is_rising: false,
            step: 0,
            registrations: 0.0,
            cost_known: false,
            is_table_full: false,
            drift: 0.0,
            site: None,
            size: 0,
            free: 0,
            largest_free: None,
            pieces: Pieces::Whole,
            private: 0.0,
            worker: None,
            part: Part::Other,
            leak: Leak::None,
            python: false,
            is_os: false,
        }
    }
}

/// How long after a live binding was pushed out of the table their number counts as unknown.
const UNKNOWN_FOR_MS: u64 = 15 * 60 * 1000;

/// Whether the table of bindings pushed out live ones lately: then its number of entries stays where it is, however many
/// phones come.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushedOut {
    count: u64,
    last_ms: u64,
}

impl PushedOut {
    /// Takes how many were pushed out since the start.
    pub fn look(&mut self, now_ms: u64, count: u64) -> bool {
        if count != self.count {
            (self.count, self.last_ms) = (count, now_ms);
        }
        count > 0 && now_ms.saturating_sub(self.last_ms) < UNKNOWN_FOR_MS
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Why.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
}

/// A part that explains this much of the growth is its cause.
const MOST: f64 = 0.6;
/// Growth below this share of the pool per day is none.
const LEAST_PER_DAY: f64 = 0.01;

/// Why the pool grows. What is concluded from seconds is a guess, however well it fits.
pub fn judge(e: &Evidence) -> Judgement {
    let said = by_parts(e);
    match e.is_brief && e.is_foreseen {
        true => Judgement {
            confidence: said.confidence.min(Confidence::Low),
            ..said
        },
        false => said,
    }
}

fn by_parts(e: &Evidence) -> Judgement {
    use Confidence::{High, Low, Medium};
    let say = |cause, confidence| Judgement { cause, confidence };
    let part = |of: f64| if e.growth > 0.0 { of / e.growth } else { 0.0 };
    let grows = e.is_foreseen || e.is_rising || e.growth * 86_400.0 > LEAST_PER_DAY * e.size as f64;
    if e.is_os && e.leak != Leak::None {
        // However little of the machine that is yet: what leaks in one process is known before its end is.
        let is_sure = e.leak == Leak::Confirmed || (e.is_foreseen && part(e.private) >= MOST);
        return say(Cause::Outside, if is_sure { High } else { Medium });
    }
    let broken = match e.pieces {
        Pieces::Whole => None,
        Pieces::Small => Some(say(Cause::Fragmentation, Low)),
        Pieces::Fallen => Some(say(Cause::Fragmentation, Medium)),
    };
    if let Some(broken) =
        broken.filter(|_| !grows || (!e.is_foreseen && e.pieces == Pieces::Fallen))
    {
        return broken;
    }
    if !grows {
        return match e.is_unsure {
            true => say(Cause::None, Low),
            false => say(Cause::None, High),
        };
    }
    if !e.is_foreseen && e.is_unsure {
        // It may pass: name the part that is measured, never a leak.
        return if part(e.drift) >= MOST {
            say(Cause::Bookkeeping, Medium)
        } else if e.cost_known && part(e.registrations) >= MOST {
            say(Cause::Registrations, Medium)
        } else {
            say(Cause::Unknown, Low)
        };
    }
    if !e.is_foreseen {
        return say(Cause::None, Medium);
    }
    if e.is_os {
        return match part(e.private) >= MOST {
            true => say(Cause::Outside, High),
            false => say(Cause::Outside, Low),
        };
    }
    if part(e.drift) >= MOST {
        return say(Cause::Bookkeeping, High);
    }
    if e.cost_known && part(e.registrations) >= MOST {
        let sure = (0.8..1.25).contains(&part(e.registrations));
        return say(Cause::Registrations, if sure { High } else { Medium });
    }
    if e.is_table_full {
        return say(Cause::Unknown, Low); // new bindings may be all of it
    }
    if e.is_brief {
        return say(Cause::Unknown, Low); // a burst of calls looks like a leak for a minute
    }
    match e.site {
        Some(site) if part(site) >= MOST => say(Cause::Leak, High),
        _ if part(e.registrations.max(0.0) + e.drift.max(0.0)) < 1.0 - MOST => {
            say(Cause::Leak, Medium)
        }
        _ => say(Cause::Unknown, Low),
    }
}

/// A step of fewer bytes is not spoken of.
const LEAST_STEP: u64 = 256 << 10;

/// One sentence for status and log.
pub fn sentence(judgement: &Judgement, e: &Evidence) -> String {
    let rate = format!("{} per hour", Bytes((e.growth.max(0.0) * 3_600.0) as u64));
    let share = |of: f64| (100.0 * of / e.growth.max(f64::MIN_POSITIVE)).clamp(0.0, 100.0) as u32;
    match judgement.cause {
        Cause::None if e.step > LEAST_STEP => format!(
            "memory rose by {} at once and has not grown since: a step, no growth",
            Bytes(e.step)
        ),
        Cause::None => "memory does not run out as far as can be seen".into(),
        Cause::Registrations => format!(
            "registrations: {} % of the growth of {rate} is what new bindings cost",
            share(e.registrations)
        ),
        Cause::Leak => format!(
            "a leak: {rate} are allocated and not freed, and neither registrations nor load explain it"
        ),
        Cause::Bookkeeping => format!(
            "the memory manager's books: {} % of the growth of {rate} is in no block (qm does not book blocks that shrink)",
            share(e.drift)
        ),
        Cause::Fragmentation => format!(
            "fragmentation: {} are free, but the largest piece has {}",
            Bytes(e.free),
            Bytes(e.largest_free.unwrap_or(0))
        ),
        Cause::Outside => outside(e, &rate),
        Cause::Unknown if e.is_table_full => format!(
            "memory grows by {rate}; whether new bindings explain it cannot be told, as there are more than memguard's table of \
             bindings has room for: raise modparam bindings"
        ),
        Cause::Unknown => {
            format!("memory grows by {rate}; whether that lasts, and why, is not known yet")
        }
    }
}

fn outside(e: &Evidence, rate: &str) -> String {
    let own = format!("{} per hour", Bytes((e.private.max(0.0) * 3_600.0) as u64));
    let Some(worker) = e.worker else {
        return format!("memory outside Kamailio: {rate}");
    };
    match e.part {
        Part::Python => format!(
            "outside / python: the Python script in worker {worker} keeps references; its memory grows by {own}"
        ),
        Part::Libc => format!(
            "outside / libc: the heap of libc in worker {worker} grows by {own} (a library or a module calls malloc and does not free)"
        ),
        Part::Other if e.python => format!(
            "memory outside the pools, most of it in worker {worker} (Python is loaded): {own}"
        ),
        Part::Other => {
            format!("memory outside the pools, most of it in worker {worker}: {own}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn growing() -> Evidence {
        Evidence {
            growth: 10_000.0,
            is_foreseen: true,
            size: SIZE,
            free: SIZE / 2,
            ..Evidence::default()
        }
    }

    #[test]
    fn a_full_table_of_bindings_calls_nothing_a_leak_and_says_what_helps() {
        let leaks = Evidence {
            site: Some(9_000.0),
            cost_known: true,
            ..growing()
        };
        assert_eq!(judge(&leaks).cause, Cause::Leak);
        let full = Evidence {
            is_table_full: true,
            ..leaks
        };
        let said = judge(&full);
        assert_eq!(
            (said.cause, said.confidence),
            (Cause::Unknown, Confidence::Low)
        );
        assert!(sentence(&said, &full).contains("raise modparam bindings"));
        // What is measured is said all the same.
        let booked = Evidence {
            drift: 9_000.0,
            ..full
        };
        assert_eq!(judge(&booked).cause, Cause::Bookkeeping);
    }

    #[test]
    fn a_table_counts_as_full_for_a_quarter_of_an_hour_after_it_pushed_one_out() {
        let mut pushed = PushedOut::default();
        assert!(!pushed.look(1_000, 0));
        assert!(pushed.look(2_000, 3));
        assert!(pushed.look(2_000 + UNKNOWN_FOR_MS - 1, 3));
        assert!(!pushed.look(2_000 + UNKNOWN_FOR_MS, 3));
        assert!(pushed.look(3_000 + UNKNOWN_FOR_MS, 4));
    }

    #[test]
    fn the_part_that_explains_most_of_the_growth_is_the_cause() {
        let cases = [
            (
                Evidence {
                    registrations: 9_500.0,
                    cost_known: true,
                    ..growing()
                },
                Cause::Registrations,
                Confidence::High,
            ),
            (
                Evidence {
                    registrations: 9_500.0,
                    ..growing()
                },
                Cause::Unknown,
                Confidence::Low,
            ),
            (
                Evidence {
                    drift: 9_000.0,
                    ..growing()
                },
                Cause::Bookkeeping,
                Confidence::High,
            ),
            (
                Evidence {
                    site: Some(9_900.0),
                    ..growing()
                },
                Cause::Leak,
                Confidence::High,
            ),
            (growing(), Cause::Leak, Confidence::Medium),
            (
                Evidence {
                    private: 9_000.0,
                    is_os: true,
                    ..growing()
                },
                Cause::Outside,
                Confidence::High,
            ),
            (
                Evidence {
                    growth: 0.0,
                    is_foreseen: false,
                    is_os: true,
                    leak: Leak::Suspected,
                    part: Part::Python,
                    worker: Some(7),
                    ..growing()
                },
                Cause::Outside,
                Confidence::Medium,
            ),
            (
                Evidence {
                    is_foreseen: false,
                    is_unsure: true,
                    ..growing()
                },
                Cause::Unknown,
                Confidence::Low,
            ),
            (
                Evidence {
                    growth: 0.0,
                    is_foreseen: false,
                    ..growing()
                },
                Cause::None,
                Confidence::High,
            ),
            (
                Evidence {
                    growth: 0.0,
                    is_foreseen: false,
                    largest_free: Some(4096),
                    pieces: Pieces::Small,
                    ..growing()
                },
                Cause::Fragmentation,
                Confidence::Low,
            ),
            (
                Evidence {
                    is_foreseen: false,
                    is_unsure: true,
                    largest_free: Some(4096),
                    pieces: Pieces::Fallen,
                    ..growing()
                },
                Cause::Fragmentation,
                Confidence::Medium,
            ),
            (
                Evidence {
                    site: Some(9_900.0),
                    pieces: Pieces::Fallen,
                    ..growing()
                },
                Cause::Leak,
                Confidence::High,
            ),
        ];
        for (evidence, cause, confidence) in cases {
            let said = judge(&evidence);
            assert_eq!(
                (said.cause, said.confidence),
                (cause, confidence),
                "{evidence:?}"
            );
            assert!(!sentence(&said, &evidence).is_empty());
        }
    }

    #[test]
    fn a_step_is_told_as_a_step_and_what_rises_is_never_none() {
        let step = Evidence {
            growth: 0.0,
            is_foreseen: false,
            is_unsure: true,
            step: 10 << 20,
            ..growing()
        };
        let said = judge(&step);
        assert_eq!(
            (said.cause, said.confidence),
            (Cause::None, Confidence::Low)
        );
        assert!(
            sentence(&said, &step).contains("rose by 10.0 MiB at once"),
            "{}",
            sentence(&said, &step)
        );
        let broken = judge(&Evidence {
            pieces: Pieces::Fallen,
            ..step
        });
        assert_eq!(broken.cause, Cause::Fragmentation, "a step hides nothing");
        let slow = judge(&Evidence {
            growth: 1.0,
            is_foreseen: false,
            is_unsure: true,
            is_rising: true,
            ..growing()
        });
        assert_eq!(
            (slow.cause, slow.confidence),
            (Cause::Unknown, Confidence::Low)
        );
        let brief = judge(&Evidence {
            is_brief: true,
            site: Some(9_900.0),
            ..growing()
        });
        assert_eq!(
            (brief.cause, brief.confidence),
            (Cause::Unknown, Confidence::Low)
        );
    }

    #[test]
    fn the_sentence_about_outside_names_the_worker_and_what_holds_it() {
        let e = Evidence {
            is_os: true,
            leak: Leak::Confirmed,
            worker: Some(7),
            private: 1_048_576.0 / 3_600.0,
            ..growing()
        };
        for (part, word) in [
            (Part::Python, "python"),
            (Part::Libc, "libc"),
            (Part::Other, "outside"),
        ] {
            let e = Evidence { part, ..e };
            let said = sentence(&judge(&e), &e);
            assert!(
                said.contains("worker 7")
                    && said.contains(word)
                    && said.contains("1.0 MiB per hour"),
                "{said}"
            );
        }
    }

    #[test]
    fn half_and_half_is_not_called_a_leak() {
        let said = judge(&Evidence {
            registrations: 5_000.0,
            cost_known: true,
            ..growing()
        });
        assert_eq!(said.cause, Cause::Unknown);
    }
}
