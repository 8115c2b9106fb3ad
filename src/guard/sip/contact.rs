//! The Contacts of a REGISTER or of its reply, from any number of Contact headers.
//! Forbidden here: allocation, panics; a ninth contact is counted, not kept.

use crate::guard::sip::{
    Expires,
    swar::is_word,
    values::{Address, address, decimal, expires_param, has_uri_param, split_list},
};

/// Contacts kept of one message. Phones send one; Kamailio's reply lists all bindings of the AoR.
pub const MAX_CONTACTS: usize = 8;

/// One Contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact<'a> {
    /// The URI without angle brackets.
    pub uri: &'a [u8],
    /// Its own `expires` parameter (the last one, as Kamailio); see [`Contacts::expires_of`] for what counts.
    pub expires: Expires,
    /// `+sip.instance` without quotes, usually `<urn:uuid:…>` (RFC 5626 4.1); `None` when absent or empty.
    pub instance: Option<&'a [u8]>,
    /// `reg-id` (RFC 5626 4.2); `None` when absent, 0 or no number.
    pub reg_id: Option<u32>,
    /// URI parameter `sos`: an emergency registration (3GPP TS 24.229 5.1.6).
    pub sos: bool,
}

const NO_CONTACT: Contact<'static> = Contact {
    uri: &[],
    expires: Expires::Absent,
    instance: None,
    reg_id: None,
    sos: false,
};

impl<'a> Contact<'a> {
    /// A contact of which only the URI is known (as usrloc hands it over).
    pub const fn of_uri(uri: &'a [u8]) -> Contact<'a> {
        Contact { uri, ..NO_CONTACT }
    }
}

/// All Contacts of a message.
#[derive(Clone, Copy, Debug)]
pub struct Contacts<'a> {
    /// `*` was among them.
    pub star: bool,
    items: [Contact<'a>; MAX_CONTACTS],
    /// All contacts in the message without `*`; more than [`MAX_CONTACTS`] when some were not kept.
    pub total: u32,
    /// Of all: those whose own expires is 0.
    own_zero: u32,
    /// Of all: those without an expires of their own.
    own_absent: u32,
}

impl<'a> Contacts<'a> {
    pub(super) const fn new() -> Self {
        Contacts {
            star: false,
            items: [NO_CONTACT; MAX_CONTACTS],
            total: 0,
            own_zero: 0,
            own_absent: 0,
        }
    }

    /// The contacts that were kept, in the order of the message.
    pub fn kept(&self) -> &[Contact<'a>] {
        let count = usize::try_from(self.total).unwrap_or(MAX_CONTACTS);
        self.items
            .get(..count.min(MAX_CONTACTS))
            .unwrap_or_default()
    }

    /// No Contact header at all.
    pub fn is_empty(&self) -> bool {
        self.total == 0 && !self.star
    }

    /// No contact was dropped for want of room.
    pub fn are_all_kept(&self) -> bool {
        self.kept().len() == usize::try_from(self.total).unwrap_or(usize::MAX)
    }

    /// What counts for one contact: its own parameter, else the Expires header (RFC 3261 10.2.1.1).
    pub fn expires_of(contact: &Contact<'_>, header: Expires) -> Expires {
        match contact.expires {
            Expires::Absent => header,
            own => own,
        }
    }

    /// How many of all contacts (kept or not) ask for a binding, that is, not for expiry 0.
    pub fn adding(&self, header: Expires) -> u32 {
        let inherited_zero = if header.is_zero() { self.own_absent } else { 0 };
        self.total
            .saturating_sub(self.own_zero)
            .saturating_sub(inherited_zero)
    }

    /// The kept contacts that ask for a binding.
    pub fn kept_adding(&self, header: Expires) -> impl Iterator<Item = &Contact<'a>> {
        self.kept()
            .iter()
            .filter(move |contact| !Self::expires_of(contact, header).is_zero())
    }

    /// Adds the contacts of one header value. `None` when one cannot be read.
    ///
    /// A value that begins with `*` is `*` alone, whatever follows (core/parser/contact/parse_contact.c).
    #[inline]
    pub(super) fn add_header(&mut self, value: &'a [u8]) -> Option<()> {
        if value.first() == Some(&b'*') {
            self.star = true;
            return Some(());
        }
        let mut rest = value;
        loop {
            let (element, after) = split_list(rest)?;
            self.add_element(element)?;
            if after.is_empty() {
                return Some(());
            }
            rest = after;
        }
    }

    #[inline]
    fn add_element(&mut self, element: &'a [u8]) -> Option<()> {
        if element == b"*" {
            self.star = true;
            return Some(());
        }
        self.add(read(address(element)?)?);
        Some(())
    }

    /// Adds a contact as another parser found it; `*` alone stands for all.
    pub fn add_found(
        &mut self,
        uri: &'a [u8],
        expires: &'a [u8],
        instance: &'a [u8],
        reg_id: &'a [u8],
    ) {
        match uri {
            b"*" => self.star = true,
            _ => self.add(of_parts(uri, expires, instance, reg_id)),
        }
    }

    /// Adds one contact.
    fn add(&mut self, contact: Contact<'a>) {
        match contact.expires {
            Expires::Absent => self.own_absent += 1,
            own if own.is_zero() => self.own_zero += 1,
            _ => (),
        }
        let place = usize::try_from(self.total).ok();
        if let Some(item) = place.and_then(|at| self.items.get_mut(at)) {
            *item = contact;
        }
        self.total += 1;
    }
}

/// Cuts the first contact off a header value; `None` at its end, or where it cannot be read.
pub(super) fn cut_first(value: &[u8]) -> Option<(Contact<'_>, &[u8])> {
    let (element, after) = split_list(value)?;
    (!element.is_empty() && element != b"*").then_some(())?;
    Some((read(address(element)?)?, after))
}

/// A contact of which another parser found the parts.
fn of_parts<'a>(
    uri: &'a [u8],
    expires: &'a [u8],
    instance: &'a [u8],
    reg_id: &'a [u8],
) -> Contact<'a> {
    Contact {
        uri,
        expires: expires_param(expires),
        instance: Some(instance).filter(|text| !text.is_empty()),
        reg_id: decimal(reg_id).filter(|id| *id != 0),
        sos: has_uri_param(uri, b"sos"),
    }
}

/// `None`: Kamailio may read it otherwise.
#[inline]
fn read<'a>(address: Address<'a>) -> Option<Contact<'a>> {
    let mut contact = Contact {
        uri: address.uri,
        sos: has_uri_param(address.uri, b"sos"),
        ..NO_CONTACT
    };
    let mut params = address.params;
    for (name, value) in params.by_ref() {
        match name.len() {
            7 if is_word(name, b"expires") => contact.expires = expires_param(value),
            6 if is_word(name, b"reg-id") => {
                contact.reg_id = decimal(value).filter(|id| *id != 0);
            }
            13 if is_word(name, b"+sip.instance") => {
                contact.instance = Some(value).filter(|value| !value.is_empty());
            }
            _ => (),
        }
    }
    (!params.is_odd).then_some(contact)
}
