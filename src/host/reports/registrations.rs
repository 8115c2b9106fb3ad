//! `memguard.registrations`: counters and rates by class, the tables, the queue.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use crate::guard::config::params::Int;
use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::terms::words::Class;
use crate::host::reports::milli;
use crate::host::reports::no_arguments;
use crate::host::reports::now::{Now, known};
use crate::host::reports::region;
use crate::host::reports::total;

/// Field names of the classes: received, admitted, rejected, rejected_observed.
macro_rules! class_names {
    ($($class:ident $received:literal $admitted:literal $rejected:literal $observed:literal;)+) => {
        const CLASS_NAMES: [(Class, [&str; 4]); Class::COUNT] =
            [$((Class::$class, [$received, $admitted, $rejected, $observed])),+];
    };
}
class_names! {
    Unregister "unregister_received" "unregister_admitted" "unregister_rejected" "unregister_rejected_observed";
    Query "query_received" "query_admitted" "query_rejected" "query_rejected_observed";
    Followup "followup_received" "followup_admitted" "followup_rejected" "followup_rejected_observed";
    Refresh "refresh_received" "refresh_admitted" "refresh_rejected" "refresh_rejected_observed";
    Priority "priority_received" "priority_admitted" "priority_rejected" "priority_rejected_observed";
    Returning "returning_received" "returning_admitted" "returning_rejected" "returning_rejected_observed";
    New "new_received" "new_admitted" "new_rejected" "new_rejected_observed";
}

/// `memguard.registrations`
pub fn registrations(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.registrations")?;
    Ok(Answer::One(registration_fields(&Now::of(region()?))))
}

fn registration_fields(now: &Now) -> Fields {
    let (region, f) = (now.region, &now.figures);
    let not_understood = total(region, |r| r.sip.not_understood.get());
    let received = total(region, |r| r.sip.received.sum());
    let mut fields = vec![(
        "received",
        Node::Count(received.wrapping_add(not_understood)),
    )];
    for (class, [received, admitted, rejected, observed]) in CLASS_NAMES {
        // Rejected first: a REGISTER that is counted meanwhile then shows as admitted, never as less than none.
        let refused = total(region, |r| r.sip.rejected.get(class));
        let came = total(region, |r| r.sip.received.get(class));
        fields.extend([
            (received, Node::Count(came)),
            (admitted, Node::Count(came.saturating_sub(refused))),
            (rejected, Node::Count(refused)),
            (
                observed,
                Node::Count(total(region, |r| r.sip.observed.get(class))),
            ),
        ]);
    }
    fields.extend([
        ("not_understood", Node::Count(not_understood)),
        (
            "stale_decisions",
            Node::Count(region.control.stale_decisions.get()),
        ),
        (
            "challenged",
            Node::Count(total(region, |r| r.sip.challenged.get())),
        ),
        (
            "accepted",
            Node::Count(total(region, |r| r.sip.accepted.get())),
        ),
        ("failed", Node::Count(total(region, |r| r.sip.failed.get()))),
        ("new_rate_1s", milli(f.new_rate_1s)),
        ("new_rate_10s", milli(f.new_rate_10s)),
        ("new_rate_1m", milli(f.new_rate_1m)),
        ("new_rate_5m", milli(f.new_rate_5m)),
        ("new_rate_15m", milli(f.new_rate_15m)),
        ("refresh_rate_1s", milli(f.refresh_rate_1s)),
        ("refresh_rate_10s", milli(f.refresh_rate_10s)),
        ("refresh_rate_1m", milli(f.refresh_rate_1m)),
        ("refresh_rate_5m", milli(f.refresh_rate_5m)),
        ("refresh_rate_15m", milli(f.refresh_rate_15m)),
        ("rejected_rate_1s", milli(f.rejected_rate_1s)),
        ("rejected_rate_10s", milli(f.rejected_rate_10s)),
        ("rejected_rate_1m", milli(f.rejected_rate_1m)),
        ("rejected_rate_5m", milli(f.rejected_rate_5m)),
        ("rejected_rate_15m", milli(f.rejected_rate_15m)),
        ("known_bindings", Node::Count(known().0)),
        ("known_aors", Node::Count(known().1)),
        (
            "table_size",
            Node::Count(region.settings.get_u64(Int::Bindings)),
        ),
        ("table_unsure", int(u64::from(now.is_unsure()))),
        (
            "replicated",
            Node::Count(total(region, |r| r.sip.replicated.get())),
        ),
        ("baseline", milli(f.baseline)),
        ("storm", int(f.storm)),
        ("queue_length", Node::Count(now.queue_length())),
        ("queue_seconds", Node::Count(now.queue_seconds())),
    ]);
    fields
}
