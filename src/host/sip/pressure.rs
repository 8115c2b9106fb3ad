//! Memory as it presses on one decision: read live, without a lock, at the moment of the decision.
//! Forbidden here: waiting for a sample; only the machine's memory comes from one, and not from a stale one.

use crate::guard::config::params::Int;
use crate::guard::decide::{
    admission::{self, Curves, Pressure},
    level::{headroom_bytes, permyriad},
};
use crate::guard::terms::words::Class;
use crate::host::memory::hooks;
use crate::host::sip::ballast;
use crate::shared::region::Region;

/// What a registration takes of shm at least, bytes, while the real cost is not learned yet: one in usrloc takes 919 to
/// 1143 by manager (`./dev size`), a relayed one several times that.
const LEAST_COST: u64 = 1024;

/// Memory as it stands for this worker at this moment.
pub fn now(region: &Region, now_ms: u64) -> Pressure {
    let control = &region.control;
    let shm = hooks::shm_now(control.shm_size.get()).unwrap_or_default();
    let pkg = hooks::pkg_now(control.pkg_size.get()).unwrap_or_default();
    let sampled = control.os_time_ms.get();
    let is_used = sampled != 0 && !region.is_stale(sampled, now_ms);
    Pressure {
        shm_permyriad: permyriad(shm.real_used, shm.size),
        pkg_permyriad: permyriad(pkg.real_used, pkg.size),
        os_permyriad: is_used.then(|| control.os_permyriad.get() as u32),
        shm_free_bytes: headroom_bytes(shm.size, shm.real_used),
        registration_cost_bytes: match control.registration_cost.get() {
            0 => LEAST_COST,
            learned => learned,
        },
        operator_shed: control.shed_until_ms.get() > now_ms,
        ballast_released: ballast::is_released(),
    }
}

/// Whether nothing can be refused at this moment, by multiplications alone: the answer of nearly every message's first
/// look. False says nothing: then [`now`] is asked. Holds no pool against the curves that its use lies below the
/// beginning of.
#[inline]
pub fn is_far(region: &Region, now_ms: u64) -> bool {
    let (control, settings) = (&region.control, &region.settings);
    let is_below = |used: u64, size: u64, shed: Int| {
        used.saturating_mul(100) <= size.saturating_mul(settings.get_u64(shed))
    };
    let (shm, pkg) = hooks::booked_now();
    let size = control.shm_size.get();
    is_below(shm, size, Int::ShmShed)
        && is_below(pkg, control.pkg_size.get(), Int::PkgShed)
        && control.os_permyriad.get() <= settings.get_u64(Int::OsShed).saturating_mul(100)
        && size.saturating_sub(shm) >= control.registration_cost.get().max(LEAST_COST)
        && control.shed_until_ms.get() <= now_ms
        && !ballast::is_released()
}

/// Whether class `new` or `returning` could be refused at this moment; the datagram stage is idle while not.
pub fn is_felt(region: &Region, now_ms: u64) -> bool {
    let curves = Curves::by(|param| region.settings.get(param));
    admission::share_of(Class::New, &now(region, now_ms), &curves) > 0
}
