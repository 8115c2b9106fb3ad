//! The class of a REGISTER: what it would cost to admit, and so when it is refused.
//! Forbidden here: the share and the level; who is refused at what use is decided elsewhere.

use crate::guard::sip::Register;
use crate::guard::terms::words::Class;

/// What is known about a REGISTER's AoR and contacts. Nothing known is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Every contact that asks for a binding has a live one.
    pub all_bindings: bool,
    /// The AoR has a live binding, or had one within `aor_memory`.
    pub aor: bool,
    /// What is not known may only be forgotten: doubt moves one class up.
    pub unsure: bool,
}

/// What a REGISTER asks for, before anything is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing but removal, or something that no registrar grants.
    Remove,
    /// The list of bindings.
    List,
    /// At least one binding.
    Bind,
}

/// Reads what a REGISTER asks for.
///
/// A contact's own expires goes before the Expires header; neither, or garbage, asks for the registrar's default.
/// `*` always counts as removal: with Expires 0 it is; otherwise, or together with contacts, it is invalid, and adds no
/// binding either (RFC 3261 10.3 step 6; Kamailio answers 400).
pub fn request(register: &Register<'_>) -> Request {
    let contacts = &register.contacts;
    if contacts.is_empty() {
        Request::List
    } else if contacts.star || contacts.adding(register.expires) == 0 {
        Request::Remove
    } else {
        Request::Bind
    }
}

/// The class of a REGISTER (contract §4).
///
/// * `followup`: it carries credentials for a challenge that its admitted first leg got here moments ago, and asks for
///   nothing that the first leg did not ask for.
/// * `known` and `priority` (its AoR, domain or source is on the priority list) are asked only when they matter. While
///   `sos_counts` (parameter `priority_sos`), one contact with `sos` that asks for a binding does the same for the whole
///   message: an emergency is not held back by what is registered along with it.
///
/// Of several contacts the costliest counts: one unknown contact among known ones makes it returning.
pub fn classify(
    register: &Register<'_>,
    known: impl FnOnce() -> Known,
    followup: bool,
    sos_counts: bool,
    priority: impl FnOnce() -> bool,
) -> Class {
    match request(register) {
        Request::Remove => return Class::Unregister,
        Request::List => return Class::Query,
        Request::Bind => (),
    }
    if followup {
        return Class::Followup;
    }
    let known = known();
    let mut adding = register.contacts.kept_adding(register.expires);
    if known.all_bindings {
        Class::Refresh
    } else if sos_counts && adding.any(|contact| contact.sos) || priority() {
        Class::Priority
    } else if known.aor || known.unsure {
        Class::Returning
    } else {
        Class::New
    }
}
