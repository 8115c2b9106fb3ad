use crate::shared::counters::contexts::*;
use crate::shared::parts::sync::Ordering::Relaxed;

fn context(line: u32) -> Context {
    Context {
        site: 7,
        line,
        depth: 3,
        frames: std::array::from_fn(|i| if i < 3 { u64::from(line) + i as u64 } else { 0 }),
        ..Context::NONE
    }
}

const SHM: Owner = Owner {
    process: 5,
    is_pkg: false,
    rate: 1,
    thinned: 0,
};

fn name_of(contexts: &Contexts, carried: Carried) -> Vec<u8> {
    let name = &contexts.slots[carried.0].name;
    let bytes = name.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes());
    bytes.take_while(|b| *b != 0).collect()
}

#[test]
fn blocks_of_one_kind_share_a_context_and_it_ends_with_the_last_of_them() {
    let contexts = Contexts::map().unwrap();
    let a = contexts.take(SHM, &context(1), b"tm", 100).unwrap();
    let b = contexts.take(SHM, &context(1), b"tm", 50).unwrap();
    let other = contexts.take(SHM, &context(2), b"usrloc", 8).unwrap();
    assert_eq!(a, b);
    assert_ne!(a, other);
    let held = contexts.held(a.0).unwrap();
    assert_eq!((held.samples, held.live_bytes, held.owner), (2, 150, SHM));
    assert_eq!(held.context, context(1));
    assert_eq!(name_of(contexts, other), b"usrloc");
    contexts.give(a, 100);
    contexts.resized(b, 50, 70);
    assert_eq!(contexts.held(a.0).map(|h| h.live_bytes), Some(70));
    contexts.give(b, 70);
    assert_eq!(contexts.held(a.0), None);
    contexts.give(b, 70); // a double free changes nothing
    assert_eq!(contexts.held(a.0), None);
    assert_eq!(contexts.held(other.0).map(|h| h.samples), Some(1));
}

#[test]
fn an_address_leads_back_to_its_slot_and_no_other_does() {
    let contexts = Contexts::map().unwrap();
    let carried: Vec<_> = (0..100)
        .map(|line| contexts.take(SHM, &context(line), b"core", 8).unwrap())
        .collect();
    let start = ptr_of(contexts);
    for c in carried {
        let address = contexts.address(c);
        assert_eq!(contexts.carried(address), Some(c));
        assert!(address.wrapping_sub(start) < Contexts::RANGE);
        for wrong in [
            address + 1,
            address - 8,
            start,
            start + Contexts::RANGE + 64,
            0,
        ] {
            assert_eq!(contexts.carried(wrong), None);
        }
    }
}

fn ptr_of(contexts: &Contexts) -> usize {
    std::ptr::from_ref(contexts) as usize
}

#[test]
fn a_long_module_name_is_cut_and_ends_with_a_zero() {
    let contexts = Contexts::map().unwrap();
    let carried = contexts.take(SHM, &context(1), &[b'x'; 100], 8).unwrap();
    assert_eq!(name_of(contexts, carried), [b'x'; NAME_BYTES - 1]);
}

#[test]
fn a_full_table_says_so_and_takes_again_what_was_given_back() {
    let contexts = Contexts::map().unwrap();
    let carried: Vec<_> = (0..CONTEXTS as u32)
        .map(|line| contexts.take(SHM, &context(line), b"core", 8).unwrap())
        .collect();
    let mut slots: Vec<_> = carried.iter().map(|c| c.0).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), CONTEXTS, "each is given once");
    let more = CONTEXTS as u32;
    assert_eq!(contexts.take(SHM, &context(more), b"core", 8), None);
    assert_eq!(contexts.missed(), 1);
    // the known ones are still found, nearly all: the index is a hint
    let again = (0..1000).filter(|line| contexts.take(SHM, &context(*line), b"core", 8).is_some());
    assert!(again.count() > 950);
    contexts.give(carried[20_000], 8);
    let last = contexts.take(SHM, &context(more), b"sl", 8).unwrap();
    assert_eq!(last, carried[20_000]);
    assert_eq!(
        contexts.held(last.0).map(|h| h.context),
        Some(context(more))
    );
    assert_eq!(name_of(contexts, last), b"sl");
}

#[test]
fn a_context_that_came_to_nothing_comes_back_until_its_slot_is_claimed() {
    let contexts = Contexts::map().unwrap();
    let first = contexts.take(SHM, &context(1), b"core", 8).unwrap();
    contexts.give(first, 8);
    assert_eq!(contexts.take(SHM, &context(1), b"core", 8), Some(first));
    let second = contexts.take(SHM, &context(2), b"core", 8).unwrap();
    assert_ne!(first, second, "its bit says free, its state does not");
    contexts.give(first, 8);
    assert_eq!(contexts.take(SHM, &context(3), b"core", 8), Some(first));
    let one = contexts.take(SHM, &context(1), b"core", 8).unwrap();
    assert_ne!(one, first, "the old key does not lead to the new context");
    assert_eq!(contexts.used(), 3);
}

#[test]
fn a_slot_whose_writer_was_killed_is_never_shown_or_used() {
    let contexts = Contexts::map().unwrap();
    let first = contexts.take(SHM, &context(1), b"core", 8).unwrap();
    contexts.give(first, 8);
    contexts.own(first.0).unwrap(); // and the process is killed here
    assert_eq!(contexts.held(first.0), None);
    assert_eq!(contexts.live(first.0), None);
    for line in 0..50 {
        let carried = contexts.take(SHM, &context(line), b"core", 8).unwrap();
        assert_ne!(carried, first);
        contexts.give(carried, 8);
    }
}

#[test]
fn threads_that_take_and_give_the_same_contexts_count_every_block_once() {
    let contexts = Contexts::map().unwrap();
    const ROUNDS: u32 = 20_000;
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            scope.spawn(move || {
                let mut kept = Vec::new();
                for round in 0..ROUNDS {
                    let line = round.wrapping_mul(2_654_435_761 + thread) % 60;
                    let carried = contexts.take(SHM, &context(line), b"core", 16).unwrap();
                    kept.push((carried, line));
                    if kept.len() > 20 {
                        let (old, line) = kept.swap_remove(round as usize % 20);
                        let held = contexts.held(old.0).expect("it is held by us");
                        assert_eq!(held.context, context(line), "nobody else got it");
                        contexts.give(old, 16);
                    }
                }
                for (old, _) in kept {
                    contexts.give(old, 16);
                }
            });
        }
    });
    let left = (0..contexts.used()).filter_map(|slot| contexts.held(slot));
    assert_eq!(left.count(), 0);
    for slot in 0..contexts.used() {
        let at = &contexts.slots[slot];
        assert_eq!(at.taken.load(Relaxed), at.given.load(Relaxed));
    }
}
