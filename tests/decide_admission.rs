//! Facts about admission.
//!
//! * What keeps a registration alive or frees memory is never refused here.
//! * The share is linear between two thresholds, complete from the second on, and follows the largest of the pools.
//! * Higher use, a dearer class, an operator's shed: none of them ever admits what was refused without it.
//! * One AoR's answer changes only when the share passes its point.

use memguard::guard::config::params::{Int, int_defaults};
use memguard::guard::decide::admission::{
    Curves, Decision, POINTS, Pressure, decide, reply_code, share, share_of, shed_pct,
};
use memguard::guard::terms::words::{Class, Mode};
use proptest::prelude::*;

const ROOM: Pressure = Pressure {
    shm_permyriad: 0,
    pkg_permyriad: 0,
    os_permyriad: Some(0),
    shm_free_bytes: 1 << 30,
    registration_cost_bytes: 4_000,
    operator_shed: false,
    ballast_released: false,
};

fn curves() -> Curves {
    Curves::of(&int_defaults())
}

fn share_at(class: Class, pressure: &Pressure) -> u32 {
    share_of(class, pressure, &curves())
}

#[test]
fn the_share_is_linear_and_complete_at_the_upper_threshold() {
    assert_eq!(share(8_000, 8_000, 9_200), 0);
    assert_eq!(share(8_600, 8_000, 9_200), 5_000);
    assert_eq!(share(9_199, 8_000, 9_200), 9_991);
    assert_eq!(share(9_200, 8_000, 9_200), POINTS);
    assert_eq!(share(u32::MAX, 8_000, 9_200), POINTS);
    assert_eq!(
        share(8_000, 8_000, 8_000),
        POINTS,
        "an empty span is a step"
    );
}

#[test]
fn new_is_scaled_from_shed_to_full_and_returning_from_full_to_emergency() {
    let at = |used| Pressure {
        shm_permyriad: used,
        ..ROOM
    };
    let seen = [7_999, 8_000, 8_600, 9_200, 9_450, 9_700].map(|used| {
        (
            share_at(Class::New, &at(used)),
            share_at(Class::Returning, &at(used)),
        )
    });
    let all = POINTS;
    assert_eq!(
        seen,
        [
            (0, 0),
            (0, 0),
            (5_000, 0),
            (all, 0),
            (all, 5_000),
            (all, all)
        ]
    );
}

#[test]
fn the_fullest_of_the_pools_decides_each_by_its_own_thresholds() {
    let pressure = Pressure {
        shm_permyriad: 8_120,
        pkg_permyriad: 8_600,
        os_permyriad: Some(9_100),
        ..ROOM
    };
    assert_eq!(share_at(Class::New, &pressure), 5_000, "pkg's");
    let os_full = Pressure {
        os_permyriad: Some(9_500),
        ..ROOM
    };
    assert_eq!(share_at(Class::New, &os_full), POINTS);
    let stale = Pressure {
        os_permyriad: None,
        ..os_full
    };
    assert_eq!(share_at(Class::New, &stale), 0);
}

#[test]
fn an_operators_shed_refuses_new_and_returning_whatever_the_memory() {
    let pressure = Pressure {
        operator_shed: true,
        ..ROOM
    };
    let refused: Vec<_> = Class::ALL
        .iter()
        .filter(|class| share_at(**class, &pressure) == POINTS)
        .collect();
    assert_eq!(refused, [&Class::Returning, &Class::New]);
    assert_eq!(
        Class::ALL
            .iter()
            .map(|c| share_at(*c, &pressure))
            .sum::<u32>(),
        2 * POINTS
    );
}

#[test]
fn a_worker_without_ballast_refuses_new_and_returning() {
    let pressure = Pressure {
        ballast_released: true,
        ..ROOM
    };
    assert_eq!(share_at(Class::Returning, &pressure), POINTS);
    assert_eq!(share_at(Class::Priority, &pressure), 0);
}

#[test]
fn priority_is_refused_only_when_not_one_more_registration_fits() {
    let full = Pressure {
        shm_permyriad: 9_999,
        pkg_permyriad: 9_999,
        os_permyriad: Some(10_000),
        shm_free_bytes: 4_000,
        operator_shed: true,
        ..ROOM
    };
    assert_eq!(share_at(Class::Priority, &full), 0);
    let exhausted = Pressure {
        shm_free_bytes: 3_999,
        ..full
    };
    assert_eq!(share_at(Class::Priority, &exhausted), POINTS);
    assert_eq!(share_at(Class::Refresh, &exhausted), 0);
}

#[test]
fn thresholds_out_of_order_are_raised_to_the_one_before() {
    let mut values = int_defaults();
    values[Int::ShmFull as usize] = 50; // below shed, 80
    let at = |used| Pressure {
        shm_permyriad: used,
        ..ROOM
    };
    let shares = [7_999, 8_000].map(|used| share_of(Class::New, &at(used), &Curves::of(&values)));
    assert_eq!(shares, [0, POINTS]);
}

#[test]
fn modes_turn_a_refusal_into_a_count_or_into_nothing() {
    let pressure = Pressure {
        shm_permyriad: 9_300,
        ..ROOM
    };
    let answer = |mode| decide(Class::New, 9_999, &pressure, &curves(), mode);
    assert_eq!(answer(Mode::Enforce), Decision::Refuse);
    assert_eq!(answer(Mode::Observe), Decision::Observe);
    assert_eq!(answer(Mode::Off), Decision::Admit);
    assert_eq!(
        decide(Class::New, 9_999, &ROOM, &curves(), Mode::Observe),
        Decision::Admit
    );
}

#[test]
fn a_point_beyond_the_last_is_refused_by_a_complete_share() {
    let pressure = Pressure {
        operator_shed: true,
        ..ROOM
    };
    let answer = decide(Class::New, u32::MAX, &pressure, &curves(), Mode::Enforce);
    assert_eq!(answer, Decision::Refuse);
}

#[test]
fn reports_round_neither_to_nothing_nor_to_everything() {
    assert_eq!(
        [0, 1, 99, 199, 200, 9_999, 10_000, u32::MAX].map(shed_pct),
        [0, 1, 1, 1, 2, 99, 100, 100]
    );
}

#[test]
fn a_request_that_came_through_a_proxy_gets_the_proxied_code() {
    assert_eq!(
        [0, 1, 2, 9].map(|vias| reply_code(vias, 503, 500)),
        [503, 503, 500, 500]
    );
}

fn pressures() -> impl Strategy<Value = Pressure> {
    let permyriad = || 0u32..=10_000;
    (
        (permyriad(), permyriad(), prop::option::of(permyriad())),
        3_000u64..30_000,
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
    )
        .prop_map(|((shm, pkg, os), shm_free, (operator, ballast))| Pressure {
            shm_permyriad: shm,
            pkg_permyriad: pkg,
            os_permyriad: os,
            shm_free_bytes: shm_free,
            operator_shed: operator,
            ballast_released: ballast,
            ..ROOM
        })
}

proptest! {
    #[test]
    fn worse_memory_never_admits_what_was_refused(
        pressure in pressures(), class in prop::sample::select(Class::ALL), point in 0..POINTS,
        more in (0u32..3_000, 0u32..3_000, 0u32..3_000), less_free in 0u64..9_000,
    ) {
        let worse = Pressure {
            shm_permyriad: pressure.shm_permyriad + more.0,
            pkg_permyriad: pressure.pkg_permyriad + more.1,
            os_permyriad: pressure.os_permyriad.map(|os| os + more.2),
            shm_free_bytes: pressure.shm_free_bytes.saturating_sub(less_free),
            ..pressure
        };
        let answer = |p| decide(class, point, p, &curves(), Mode::Enforce);
        prop_assert!(answer(&pressure) <= answer(&worse));
    }

    #[test]
    fn a_dearer_class_is_never_admitted_where_a_cheaper_one_is_refused(
        pressure in pressures(), values in prop::collection::vec(1i64..=100, 12),
    ) {
        // any thresholds at all, even out of order
        let mut ints = int_defaults();
        let first = Int::ShmWarning as usize;
        ints[first..=Int::OsEmergency as usize].copy_from_slice(&values);
        prop_assert_eq!(first + 11, Int::OsEmergency as usize);
        let curves = Curves::of(&ints);
        let shares: Vec<u32> = Class::ALL.iter().map(|class| share_of(*class, &pressure, &curves)).collect();
        prop_assert!(shares.is_sorted(), "{shares:?}");
        prop_assert_eq!(&shares[..4], &[0, 0, 0, 0]);
    }

    #[test]
    fn an_answer_changes_only_when_the_share_passes_the_point(pressure in pressures(), point in 0..POINTS) {
        for class in [Class::Returning, Class::New] {
            let is_refused = decide(class, point, &pressure, &curves(), Mode::Enforce) == Decision::Refuse;
            prop_assert_eq!(is_refused, point < share_at(class, &pressure));
        }
    }

    #[test]
    fn the_refused_part_of_all_points_is_the_share(used in 7_900u32..9_800) {
        let pressure = Pressure { shm_permyriad: used, ..ROOM };
        let refused = (0..POINTS)
            .filter(|point| decide(Class::New, *point, &pressure, &curves(), Mode::Enforce) == Decision::Refuse)
            .count();
        prop_assert_eq!(refused as u32, share_at(Class::New, &pressure));
    }
}
