//! What the sampling process foresees for each pool, for every process to read.
//! Forbidden here: foreseeing; a second writer.

use crate::guard::foresee::{
    cause::{Cause, Confidence, Evidence},
    forecast::{Method, Outlook},
    growth::Leak,
    told::Forecast,
};
use crate::guard::machine::{fragments::Pieces, outside::Part};
use crate::guard::terms::words::Pool;
use crate::shared::parts::{mapping::SharedZeroable, published::DoubleBuffer};

/// How many words a forecast takes.
pub const WORDS: usize = 24;

fn some(worker: Option<u16>) -> u64 {
    worker.map_or(0, |w| u64::from(w) + 1)
}

fn worker(word: u64) -> Option<u16> {
    word.checked_sub(1).and_then(|w| u16::try_from(w).ok())
}

impl Forecast {
    /// As words.
    pub fn to_words(&self) -> [u64; WORDS] {
        let (o, e) = (&self.outlook, &self.evidence);
        let flags = [
            o.valid,
            o.is_load,
            e.is_foreseen,
            e.is_unsure,
            e.cost_known,
            e.python,
            e.is_os,
            e.site.is_some(),
            e.largest_free.is_some(),
            e.is_brief,
            e.is_rising,
            e.is_table_full,
        ];
        let flags = flags
            .iter()
            .rev()
            .fold(0, |bits, flag| bits << 1 | u64::from(*flag));
        [
            o.method.index() as u64,
            o.growth.to_bits(),
            o.exhaustion_s,
            o.low_s,
            o.high_s,
            u64::from(o.samples),
            o.fit.to_bits(),
            flags,
            self.cause.index() as u64,
            self.confidence.index() as u64,
            some(self.worker),
            e.growth.to_bits(),
            e.registrations.to_bits(),
            e.drift.to_bits(),
            e.site.unwrap_or(0.0).to_bits(),
            e.size,
            e.free,
            e.largest_free.unwrap_or(0),
            e.private.to_bits(),
            some(e.worker),
            e.part.index() as u64,
            e.leak as u64,
            e.pieces.index() as u64,
            e.step,
        ]
    }

    /// Back from [`Forecast::to_words`].
    pub fn from_words(w: [u64; WORDS]) -> Forecast {
        let real = |i: usize| f64::from_bits(w[i]);
        let flag = |i: u32| w[7] >> i & 1 == 1;
        Forecast {
            outlook: Outlook {
                method: Method::from_index(w[0]).unwrap_or(Method::None),
                growth: real(1),
                exhaustion_s: w[2],
                low_s: w[3],
                high_s: w[4],
                samples: w[5] as u32,
                fit: real(6),
                valid: flag(0),
                is_load: flag(1),
            },
            cause: Cause::from_index(w[8]).unwrap_or(Cause::Unknown),
            confidence: Confidence::from_index(w[9]).unwrap_or(Confidence::None),
            worker: worker(w[10]),
            evidence: Evidence {
                growth: real(11),
                is_foreseen: flag(2),
                is_unsure: flag(3),
                is_brief: flag(9),
                is_rising: flag(10),
                step: w[23],
                registrations: real(12),
                cost_known: flag(4),
                is_table_full: flag(11),
                drift: real(13),
                site: flag(7).then(|| real(14)),
                size: w[15],
                free: w[16],
                largest_free: flag(8).then_some(w[17]),
                private: real(18),
                worker: worker(w[19]),
                part: Part::from_index(w[20]).unwrap_or(Part::Other),
                leak: Leak::from_index(w[21]),
                pieces: Pieces::from_index(w[22]).unwrap_or(Pieces::Whole),
                python: flag(5),
                is_os: flag(6),
            },
        }
    }
}

/// One forecast per pool, by the number of [`Pool`]. Writer: the sampling process.
#[repr(C)]
pub struct Forecasts([DoubleBuffer<WORDS>; Pool::COUNT]);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Forecasts {}

impl Forecasts {
    /// Publishes one pool's.
    pub fn publish(&self, pool: Pool, forecast: &Forecast) {
        if let Some(buffer) = self.0.get(pool.index()) {
            buffer.publish(&forecast.to_words());
        }
    }

    /// All, by [`Pool::index`].
    pub fn all(&self) -> [Forecast; Pool::COUNT] {
        let of = |index: usize| Pool::from_index(index as u64).map(|pool| self.read(pool));
        std::array::from_fn(|index| of(index).unwrap_or_default())
    }

    /// One pool's; nothing is known before the first.
    pub fn read(&self, pool: Pool) -> Forecast {
        let words = self.0.get(pool.index()).and_then(DoubleBuffer::read);
        words.map(Forecast::from_words).unwrap_or_default()
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping::map_one;

    #[test]
    fn a_forecast_survives_the_way_through_words() {
        let forecast = Forecast {
            outlook: Outlook {
                growth: 12.5,
                valid: true,
                ..Outlook::default()
            },
            cause: Cause::Leak,
            confidence: Confidence::High,
            evidence: Evidence {
                is_brief: true,
                is_rising: true,
                step: 77,
                site: Some(3.0),
                largest_free: None,
                is_os: true,
                worker: Some(0),
                part: Part::Python,
                leak: Leak::Confirmed,
                pieces: Pieces::Fallen,
                ..Evidence::default()
            },
            worker: Some(7),
        };
        assert_eq!(Forecast::from_words(forecast.to_words()), forecast);
        let plain = Forecast::default();
        assert_eq!(Forecast::from_words(plain.to_words()), plain);
    }

    #[test]
    fn each_pool_has_its_own_forecast() {
        let forecasts: &Forecasts = map_one().expect("some pages");
        assert_eq!(forecasts.all(), [Forecast::default(); Pool::COUNT]);
        let forecast = Forecast {
            cause: Cause::Leak,
            ..Forecast::default()
        };
        forecasts.publish(Pool::Pkg, &forecast);
        assert_eq!(forecasts.read(Pool::Pkg), forecast);
        assert_eq!(forecasts.read(Pool::Shm), Forecast::default());
        assert_eq!(forecasts.all()[Pool::Pkg.index()], forecast);
    }
}
