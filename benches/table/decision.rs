//! One admission decision at growing numbers of known bindings: the same calls as the gate's, without Kamailio.
//! Forbidden here: knowing bindings that the table does not hold.

use std::hint::black_box;
use std::time::Instant;

use memguard::guard::config::params::int_defaults;
use memguard::guard::decide::{
    admission::{self, Curves, Pressure},
    class::{self, Known},
};
use memguard::guard::sip::{
    Register, Scanned,
    aor::{self, Aor, Key},
    scan,
};
use memguard::guard::terms::words::{Class, Mode};
use memguard::shared::phones::{fingerprints::Fingerprints, pending::InFlight};

use crate::register::register;
use crate::report::{Table, progress, undisturbed};

/// Decisions that are timed together, so that reading the clock does not count; the messages fit the first cache.
const BATCH: usize = 32;
const BATCHES: usize = 3000;
const NOW: u64 = 1_800_000_000;
const MEMORY: u32 = 3600;

struct World {
    bindings: Fingerprints,
    aors: Fingerprints,
    in_flight: InFlight,
    key: Key,
    curves: Curves,
    pressure: Pressure,
}

impl World {
    fn with(known: usize) -> World {
        let capacity = known.max(250_000);
        let map = || Fingerprints::map(capacity, NOW - 10_000).expect("memory for a table");
        let world = World {
            bindings: map(),
            aors: map(),
            in_flight: InFlight::map(16384).expect("memory for a table"),
            key: Key::new(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210),
            curves: Curves::of(&int_defaults()),
            pressure: Pressure {
                shm_permyriad: 5000,
                shm_free_bytes: 1 << 30,
                ..Pressure::default()
            },
        };
        for user in 0..known {
            let message = register(user, 1);
            let register = parsed(&message);
            let aor = Aor::parse(register.to_uri)
                .expect("an AoR")
                .fingerprint(&world.key);
            let fp = aor::binding_fingerprint(&world.key, aor, &register.contacts.kept()[0]);
            world.bindings.put(fp.primary, NOW + 3600, NOW, 0);
            world.aors.put(aor, NOW + 3600, NOW, MEMORY);
        }
        world
    }

    /// What host::gate and host::visit do with a scanned REGISTER.
    fn decide(&self, register: &Register<'_>) -> Option<(Class, admission::Decision)> {
        let aor = Aor::parse(register.to_uri)?;
        let aor_fp = aor.fingerprint(&self.key);
        self.aors.prefetch(aor_fp);
        let call_id_fp = aor::call_id_fingerprint(&self.key, register.call_id);
        self.in_flight.prefetch(call_id_fp);
        let is_followup =
            register.has_credentials && self.in_flight.find(call_id_fp, NOW, 32).is_some();
        let primary = |contact| {
            aor::binding_by_instance(&self.key, aor_fp, contact)
                .unwrap_or_else(|| aor::binding_by_uri(&self.key, aor_fp, contact))
        };
        let known = || {
            let first = register.contacts.kept().first().map(primary);
            first.into_iter().for_each(|fp| self.bindings.prefetch(fp));
            let ended = self.aors.get(aor_fp, NOW, MEMORY);
            let mut adding = register.contacts.kept_adding(register.expires);
            let all_bindings = ended.is_some_and(|end| end > NOW)
                && adding.all(|contact| {
                    let fp = first.unwrap_or_else(|| primary(contact)); // one contact each
                    self.bindings.get(fp, NOW, 0).is_some()
                });
            Known {
                all_bindings,
                aor: ended.is_some(),
                unsure: false,
            }
        };
        let class = class::classify(register, known, is_followup, true, || false);
        if admission::is_never_refused(class) {
            return Some((class, admission::Decision::Admit));
        }
        let point = aor::aor_point(&self.key, 7, aor_fp);
        let decision = admission::decide(
            class,
            point,
            black_box(&self.pressure),
            &self.curves,
            Mode::Enforce,
        );
        black_box(call_id_fp);
        Some((class, decision))
    }
}

fn parsed(message: &[u8]) -> Register<'_> {
    match scan(message) {
        Scanned::Register(register) => register,
        other => panic!("{other:?}"),
    }
}

/// Random users, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((u128::from(self.0) * bound as u128) >> 64) as usize
    }
}

pub fn measure(table: &mut Table) {
    pieces(table);
    for (known, bound) in [
        (1, 200.0),
        (1_000, 200.0),
        (10_000, 200.0),
        (1_000_000, 400.0),
    ] {
        progress(&format!("decision: {known} known bindings"));
        let world = World::with(known);
        table.note(
            format!("floor: one of {known} cache lines, spread over a table of that size"),
            one_line(world.bindings.buckets(), known),
            "ns",
        );
        for (name, first, class) in [
            ("refresh", 0, Class::Refresh),
            ("new", 2_000_000, Class::New),
        ] {
            let (decide, with_scan) = time(&world, first, known, class);
            table.add(
                format!("decision, {known} known bindings, {name}"),
                decide,
                "ns",
                bound,
            );
            table.note(
                format!("decision, {known} known bindings, {name}, with its scan"),
                with_scan,
                "ns",
            );
        }
    }
}

/// Nanoseconds until one of `used` cache lines among so many is read: a decision about somebody known reads two, of two
/// tables, and two of the registrations in flight.
fn one_line(lines: usize, used: usize) -> f64 {
    let table: Vec<[u64; 8]> = (0..lines as u64).map(|n| [n | 1; 8]).collect();
    let mut random = Random(1);
    let place = |user: usize| Random(user as u64).below(lines);
    let mut next = 0usize;
    let each = (0..BATCHES).map(|_| {
        let start = Instant::now();
        for _ in 0..BATCH {
            // What is read decides, by its lowest bit that is always set, where to go on: no read begins before.
            let step = random.below(used) | 1;
            next = next.wrapping_add(step) % used;
            next = next.wrapping_add((table[place(next)][0] & 1) as usize);
        }
        black_box(next);
        start.elapsed().as_nanos() as f64 / BATCH as f64
    });
    undisturbed(each.collect())
}

/// The pieces that a decision is made of, for whoever wants to make it quicker.
fn pieces(table: &mut Table) {
    progress("decision: its pieces");
    let key = Key::new(1, 2);
    let messages: Vec<_> = (0..BATCH).map(|user| register(user, 2)).collect();
    let registers: Vec<_> = messages.iter().map(|m| parsed(m)).collect();
    let mut note = |what: &str, piece: &dyn Fn(usize)| {
        let each = (0..BATCHES).map(|_| {
            let start = Instant::now();
            (0..BATCH).for_each(piece);
            start.elapsed().as_nanos() as f64 / BATCH as f64
        });
        table.note(what, undisturbed(each.collect()), "ns");
    };
    note(
        &format!("scan of a REGISTER of {} bytes", messages[0].len()),
        &|at| {
            black_box(scan(black_box(&messages[at])));
        },
    );
    note("fingerprint of an AoR", &|at| {
        black_box(aor::aor_fingerprint(&key, black_box(registers[at].to_uri)));
    });
    note("fingerprint of a binding", &|at| {
        black_box(aor::binding_fingerprint(
            &key,
            7,
            black_box(&registers[at].contacts.kept()[0]),
        ));
    });
    note("fingerprint of a Call-ID", &|at| {
        black_box(aor::call_id_fingerprint(
            &key,
            black_box(registers[at].call_id),
        ));
    });
}

/// Nanoseconds per decision, and per scan and decision, about users `first .. first + count`.
fn time(world: &World, first: usize, count: usize, expected: Class) -> (f64, f64) {
    let mut random = Random(1);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        let messages: Vec<_> = (0..BATCH)
            .map(|_| register(first + random.below(count), 2))
            .collect();
        let others: Vec<_> = (0..BATCH)
            .map(|_| register(first + random.below(count), 2))
            .collect();
        let registers: Vec<_> = messages.iter().map(|m| parsed(m)).collect();
        let each = |start: Instant| start.elapsed().as_nanos() as f64 / BATCH as f64;
        let start = Instant::now();
        for register in &registers {
            black_box(world.decide(black_box(register)));
        }
        without.push(each(start));
        let start = Instant::now();
        for message in &others {
            black_box(world.decide(&parsed(black_box(message))));
        }
        with.push(each(start));
        assert_eq!(
            world.decide(&registers[0]).map(|(class, _)| class),
            Some(expected)
        );
    }
    (undisturbed(without), undisturbed(with))
}
