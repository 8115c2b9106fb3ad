//! Reads what the gate needs of a SIP message, straight from the datagram. Every worker, every datagram, before parsing.
//! Forbidden here: allocation, panics, changing a byte of the message; what is not understood goes on untouched.
//!
//! It accepts what Kamailio accepts (core/parser) where the two could differ: anything that Kamailio would serve and
//! this would not understand is a way around the gate, and nothing worse.

mod contact;
mod lines;
mod values;

pub use crate::guard::sip::contact::{Contact, Contacts, MAX_CONTACTS};

use crate::guard::sip::{
    lines::{Headers, Kind, Start},
    swar::is_word,
    values::{address, cseq, expires_header, has_uri_param, split_list},
};

/// What a message is to the gate.
#[allow(clippy::large_enum_variant)] // it lives on the stack for one decision, and boxing would allocate
#[derive(Debug)]
pub enum Scanned<'a> {
    /// A REGISTER with everything that a decision and a reply need.
    Register(Register<'a>),
    /// A reply to a REGISTER.
    Reply(Reply<'a>),
    /// Another method, a reply to another method, a keep-alive, or no SIP: nothing to do with the gate.
    Other,
    /// Begins like a REGISTER or a reply but is not understood as a whole: goes on to Kamailio untouched.
    #[cfg_attr(not(feature = "surface"), allow(dead_code))] // tests ask why
    NotUnderstood(Why),
}

/// Why a message was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The first line is no request line or status line.
    StartLine,
    /// A header line without name or colon.
    HeaderLine,
    /// The message ends within a header line.
    CutOff,
    /// Via, From, To, Call-ID or CSeq is missing (RFC 3261 8.1.1).
    Missing,
    /// From, To, Call-ID or CSeq twice; Kamailio refuses those, too (core/parser/msg_parser.c).
    Duplicate,
    /// A Via header that holds no Via value.
    Via,
    /// No address in To.
    Address,
    /// CSeq without a 32-bit number, or of another method than the request's.
    CSeq,
    /// A Contact that is no address.
    Contact,
}

/// An expiry as a message gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// Not given.
    Absent,
    /// Seconds; clamped at 2^32-1 (RFC 3261 20.19).
    Seconds(u32),
    /// Given, but no number. Kamailio's registrar then uses its default, as RFC 3261 10.3 step 7 allows (3600 there), so
    /// it adds a binding; a Contact's garbage does so even where the Expires header says 0.
    Garbage,
}

impl Expires {
    /// Asks for removal.
    pub fn is_zero(self) -> bool {
        self == Expires::Seconds(0)
    }

    /// The seconds asked for, if any.
    pub fn seconds(self) -> Option<u32> {
        match self {
            Expires::Seconds(seconds) => Some(seconds),
            Expires::Absent | Expires::Garbage => None,
        }
    }
}

/// A REGISTER. All text borrows from the message; header values are trimmed and may contain folds.
#[derive(Debug)]
pub struct Register<'a> {
    /// Request-URI, as it stands.
    #[cfg_attr(not(feature = "surface"), allow(dead_code))]
    // tests hold it against the message
    pub ruri: &'a [u8],
    /// Via values, comma lists counted.
    pub via_count: u32,
    /// The first Via value.
    pub top_via: &'a [u8],
    /// From, whole value.
    pub from: &'a [u8],
    /// To, whole value.
    pub to: &'a [u8],
    /// The URI of To: the address of record (RFC 3261 10.2).
    pub to_uri: &'a [u8],
    /// To has a tag already: a reply copies it instead of adding one (RFC 3261 8.2.6.2).
    pub to_has_tag: bool,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// CSeq, whole value.
    pub cseq: &'a [u8],
    /// The number in CSeq.
    pub cseq_number: u32,
    /// The Expires header (the first one, as Kamailio).
    pub expires: Expires,
    /// The Contacts.
    pub contacts: Contacts<'a>,
    /// Carries Authorization or Proxy-Authorization.
    pub has_credentials: bool,
    vias: ViaHeaders<'a>,
    contact_headers: HeaderValues<'a>,
    path_headers: HeaderValues<'a>,
}

impl<'a> Register<'a> {
    /// The URI of From; no decision needs it, so it is read on demand.
    #[cfg(feature = "surface")]
    pub fn from_uri(&self) -> Option<&'a [u8]> {
        Some(address(self.from)?.uri)
    }

    /// Every Contact that is no `*`, kept or not, in order; less than `contacts.total` when some cannot be read again.
    pub fn every_contact(&self) -> EveryContact<'_, 'a> {
        let is_short = self.contacts.are_all_kept() || self.contact_headers.left == 0;
        EveryContact {
            kept: match is_short {
                true => self.contacts.kept().iter(),
                false => [].iter(),
            },
            headers: match is_short {
                true => HeaderValues::NONE,
                false => self.contact_headers,
            },
            value: &[],
        }
    }

    /// Every contact in the order in which Kamailio's registrar takes them: header by header, and of each header the last one
    /// first where its parser puts each one before those that it has (core/parser/contact/contact.c of 5.6; 6.0 does not).
    /// Of more than are kept: as they stand.
    pub fn contacts_in_turn(&self, is_last_first: bool) -> impl Iterator<Item = Contact<'a>> {
        let kept = match self.contacts.are_all_kept() {
            true => self.contacts.kept(),
            false => &[],
        };
        let more = kept.is_empty().then(|| self.every_contact());
        let order = match is_last_first {
            true => self.turns(kept),
            false => std::array::from_fn(|place| place),
        };
        let in_turn = order.into_iter().take(kept.len());
        in_turn
            .filter_map(|place| kept.get(place).copied())
            .chain(more.into_iter().flatten())
    }

    /// The places of these contacts, of each header the last one first.
    fn turns(&self, kept: &[Contact<'a>]) -> [usize; MAX_CONTACTS] {
        let mut order = std::array::from_fn(|place| place);
        if kept.len() < 2 {
            return order;
        }
        let mut done = 0;
        for header in self.contact_headers {
            let lies_within = |contact: &&Contact<'a>| {
                let (text, uri) = (header.as_ptr_range(), contact.uri.as_ptr_range());
                text.start <= uri.start && uri.end <= text.end
            };
            let rest = kept.get(done..).unwrap_or_default();
            let end = done + rest.iter().take_while(lies_within).count();
            if let Some(turns) = order.get_mut(done..end) {
                turns.reverse();
            }
            done = end;
        }
        order
    }

    /// Has a Path header (RFC 3327).
    pub fn has_path(&self) -> bool {
        self.path_headers.left > 0
    }

    /// The first edge proxy says `ob` in its Path: it keeps the flows of RFC 5626.
    pub fn edge_says_ob(&self) -> bool {
        let mut paths = self.path_headers;
        let first = paths.next().and_then(split_list);
        first
            .and_then(|(first, _)| address(first))
            .is_some_and(|edge| has_uri_param(edge.uri, b"ob"))
    }

    /// The values of all Path headers with commas between them, as Kamailio's registrar joins them.
    pub fn path_bytes(&self) -> impl Iterator<Item = u8> {
        let mut is_first = true;
        self.path_headers.flat_map(move |value| {
            let comma = (!std::mem::take(&mut is_first)).then_some(b',');
            comma.into_iter().chain(value.iter().copied())
        })
    }

    /// The whole value of every Via header, in order, for the reply (RFC 3261 8.2.6.2).
    pub fn via_headers(&self) -> ViaHeaders<'a> {
        self.vias
    }
}

/// A reply to a REGISTER.
#[derive(Debug)]
pub struct Reply<'a> {
    /// Status code, 0 to 999.
    pub status: u16,
    /// Via values, comma lists counted.
    #[cfg_attr(not(feature = "surface"), allow(dead_code))]
    // tests hold it against the message
    pub via_count: u32,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// The number in CSeq.
    pub cseq_number: u32,
    /// The second Via value, empty when there is none: the top one of the request that this server relayed.
    pub second_via: &'a [u8],
    /// The URI of To: the address of record.
    pub to_uri: &'a [u8],
    /// The Expires header.
    pub expires: Expires,
    /// The Contacts: after a 2xx, the bindings of the AoR with what was granted (RFC 3261 10.3 step 8).
    pub contacts: Contacts<'a>,
}

/// Walks over the headers of one kind once more.
#[derive(Clone, Copy)]
struct HeaderValues<'a> {
    kind: Kind,
    lines: Headers<'a>,
    left: u32,
}

impl<'a> HeaderValues<'a> {
    const NONE: HeaderValues<'static> = HeaderValues {
        kind: Kind::Other,
        lines: Headers::new(&[]),
        left: 0,
    };

    /// Counts one header; the first one says where to begin.
    #[inline]
    fn note(&mut self, kind: Kind, from_here: &'a [u8]) {
        if self.left == 0 {
            self.kind = kind;
            self.lines = Headers::new(from_here);
        }
        self.left += 1;
    }
}

impl std::fmt::Debug for HeaderValues<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} headers", self.left)
    }
}

impl<'a> Iterator for HeaderValues<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        loop {
            let line = self.lines.next().ok()??;
            if line.kind == self.kind {
                return Some(line.value);
            }
        }
    }
}

/// [`Register::every_contact`].
pub struct EveryContact<'r, 'a> {
    kept: std::slice::Iter<'r, Contact<'a>>,
    headers: HeaderValues<'a>,
    value: &'a [u8],
}

impl<'a> Iterator for EveryContact<'_, 'a> {
    type Item = Contact<'a>;

    fn next(&mut self) -> Option<Contact<'a>> {
        if let Some(contact) = self.kept.next() {
            return Some(*contact);
        }
        loop {
            if let Some((contact, rest)) = contact::cut_first(self.value) {
                self.value = rest;
                return Some(contact);
            }
            self.value = self.headers.next()?;
        }
    }
}

/// Walks over the Via headers of a REGISTER once more; a reply needs them rarely, so none is stored.
#[derive(Clone, Copy)]
pub struct ViaHeaders<'a> {
    lines: Headers<'a>,
    left: u32,
}

impl std::fmt::Debug for ViaHeaders<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} Via headers", self.left)
    }
}

impl<'a> Iterator for ViaHeaders<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        loop {
            let line = self.lines.next().ok()??;
            if line.kind == Kind::Via {
                return Some(line.value);
            }
        }
    }
}

/// What another parser found in a REGISTER that [`scan`] does not read. Empty where it found nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found<'a> {
    /// Request-URI.
    pub ruri: &'a [u8],
    /// From the name of the first Via header on.
    pub from_first_via: &'a [u8],
    /// Values of From, To, Call-ID, CSeq and Expires, whole.
    pub from: &'a [u8],
    /// As above.
    pub to: &'a [u8],
    /// The URI in To.
    pub to_uri: &'a [u8],
    /// To has a tag.
    pub to_has_tag: bool,
    /// As above.
    pub call_id: &'a [u8],
    /// As above.
    pub cseq: &'a [u8],
    /// As above; `None` without that header.
    pub expires: Option<&'a [u8]>,
    /// Carries Authorization or Proxy-Authorization.
    pub has_credentials: bool,
}

impl<'a> Register<'a> {
    /// A REGISTER as another parser found it, without its contacts: [`Contacts::add_found`] adds them.
    /// `None` without a Via that an answer could go to.
    pub fn found(found: &Found<'a>) -> Option<Register<'a>> {
        let contacts = Contacts::new();
        let mut vias = ViaHeaders {
            lines: Headers::new(found.from_first_via),
            left: u32::MAX,
        };
        let mut via_count = 0u32;
        let mut via_headers = 0u32;
        let mut top_via = None;
        for value in vias {
            via_headers += 1;
            let mut rest = value;
            while !rest.is_empty() {
                let (via, after) = split_list(rest)?;
                top_via = top_via.or(Some(via).filter(|via| !via.is_empty()));
                via_count += u32::from(!via.is_empty());
                rest = after;
            }
        }
        vias.left = via_headers;
        let mut path_headers = HeaderValues::NONE;
        let mut lines = Headers::new(found.from_first_via);
        while let Ok(Some(line)) = lines.next() {
            if line.kind == Kind::Path {
                path_headers.note(Kind::Path, line.from_here);
            }
        }
        Some(Register {
            ruri: found.ruri,
            via_count,
            top_via: top_via?,
            from: found.from,
            to: found.to,
            to_uri: found.to_uri,
            to_has_tag: found.to_has_tag,
            call_id: found.call_id,
            cseq: found.cseq,
            cseq_number: leading_number(found.cseq),
            expires: found.expires.map_or(Expires::Absent, expires_header),
            contacts,
            has_credentials: found.has_credentials,
            vias,
            contact_headers: HeaderValues::NONE,
            path_headers,
        })
    }
}

impl<'a> Reply<'a> {
    /// A reply to a REGISTER as another parser found it, without its contacts ([`Contacts::add_found`]). Its status, Vias
    /// and To are the caller's to know.
    pub fn found(found: &Found<'a>) -> Reply<'a> {
        Reply {
            status: 0,
            via_count: 0,
            second_via: &[],
            call_id: found.call_id,
            cseq_number: leading_number(found.cseq),
            to_uri: &[],
            expires: found.expires.map_or(Expires::Absent, expires_header),
            contacts: Contacts::new(),
        }
    }
}

/// The number at the beginning of a CSeq that another parser took; 0 where memguard does not read it.
fn leading_number(cseq: &[u8]) -> u32 {
    let digits = cseq.split(|b| !b.is_ascii_digit()).next();
    digits.and_then(values::decimal).unwrap_or(0)
}

/// Reads one message: a datagram, or the buffer of a message that came over a stream.
///
/// Linear in the length of the message up to the end of its headers; the body is not looked at.
#[inline]
pub fn scan(message: &[u8]) -> Scanned<'_> {
    let scanned = match lines::start(message) {
        Start::Other => return Scanned::Other,
        Start::Bad => Err(Why::StartLine),
        Start::Register { ruri, rest } => register(ruri, rest),
        Start::Reply { status, rest } => reply(status, rest),
    };
    scanned.unwrap_or_else(Scanned::NotUnderstood)
}

#[inline(always)]
fn register<'a>(ruri: &'a [u8], lines: &'a [u8]) -> Result<Scanned<'a>, Why> {
    let mut contacts = Contacts::new();
    let fields = Fields::collect(lines, &mut contacts, false)?.ok_or(Why::CSeq)?;
    let to = fields.to.ok_or(Why::Missing)?;
    let mut to_address = address(to).ok_or(Why::Address)?;
    let cseq = fields.cseq.ok_or(Why::Missing)?;
    Ok(Scanned::Register(Register {
        ruri,
        via_count: fields.via_count,
        top_via: fields.top_via.ok_or(Why::Missing)?,
        from: fields.from.ok_or(Why::Missing)?,
        to,
        to_uri: to_address.uri,
        to_has_tag: to_address
            .params
            .any(|(name, _)| name.eq_ignore_ascii_case(b"tag")),
        call_id: fields.call_id.ok_or(Why::Missing)?,
        cseq: cseq.value,
        cseq_number: cseq.number,
        expires: fields.expires,
        contacts,
        has_credentials: fields.has_credentials,
        vias: ViaHeaders {
            lines: Headers::new(fields.first_via_line),
            left: fields.via_headers,
        },
        contact_headers: fields.contact_headers,
        path_headers: fields.path_headers,
    }))
}

#[inline(always)]
fn reply(status: u16, lines: &[u8]) -> Result<Scanned<'_>, Why> {
    let mut contacts = Contacts::new();
    let Some(fields) = Fields::collect(lines, &mut contacts, true)? else {
        return Ok(Scanned::Other);
    };
    fields.top_via.ok_or(Why::Missing)?;
    Ok(Scanned::Reply(Reply {
        status,
        via_count: fields.via_count,
        second_via: fields.second_via,
        call_id: fields.call_id.ok_or(Why::Missing)?,
        cseq_number: fields.cseq.ok_or(Why::Missing)?.number,
        to_uri: address(fields.to.ok_or(Why::Missing)?)
            .ok_or(Why::Address)?
            .uri,
        expires: fields.expires,
        contacts,
    }))
}

/// A CSeq of method REGISTER.
struct CSeq<'a> {
    value: &'a [u8],
    number: u32,
}

/// The headers of one message that count.
struct Fields<'a> {
    via_count: u32,
    via_headers: u32,
    first_via_line: &'a [u8],
    top_via: Option<&'a [u8]>,
    second_via: &'a [u8],
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
    call_id: Option<&'a [u8]>,
    cseq: Option<CSeq<'a>>,
    expires: Expires,
    has_credentials: bool,
    contact_headers: HeaderValues<'a>,
    path_headers: HeaderValues<'a>,
}

impl<'a> Fields<'a> {
    /// One pass over the header lines. `Ok(None)` as soon as CSeq names another method than REGISTER: most replies of a
    /// busy server end here, so From and To are not looked into before.
    #[inline]
    fn collect(
        lines: &'a [u8],
        contacts: &mut Contacts<'a>,
        is_reply: bool,
    ) -> Result<Option<Fields<'a>>, Why> {
        let mut fields = Fields {
            via_count: 0,
            via_headers: 0,
            first_via_line: &[],
            top_via: None,
            second_via: &[],
            from: None,
            to: None,
            call_id: None,
            cseq: None,
            expires: Expires::Absent,
            has_credentials: false,
            contact_headers: HeaderValues::NONE,
            path_headers: HeaderValues::NONE,
        };
        let mut headers = Headers::new(lines);
        while let Some(header) = headers.next()? {
            let value = header.value;
            match header.kind {
                Kind::Other => (),
                Kind::Via => {
                    if fields.via_headers == 0 {
                        fields.first_via_line = header.from_here;
                    }
                    fields.add_via(value).ok_or(Why::Via)?;
                }
                Kind::From => set_once(&mut fields.from, value)?,
                Kind::To => set_once(&mut fields.to, value)?,
                Kind::CallId => set_once(&mut fields.call_id, value)?,
                Kind::CSeq => {
                    // A reply to another method is no business of ours, however odd its CSeq.
                    match cseq(value) {
                        Some((number, method)) if is_word(method, b"register") => {
                            set_once(&mut fields.cseq, CSeq { value, number })?;
                        }
                        _ if is_reply => return Ok(None),
                        _ => return Err(Why::CSeq),
                    }
                }
                Kind::Contact => {
                    contacts.add_header(value).ok_or(Why::Contact)?;
                    fields.contact_headers.note(Kind::Contact, header.from_here);
                }
                Kind::Path => fields.path_headers.note(Kind::Path, header.from_here),
                Kind::Expires if fields.expires == Expires::Absent => {
                    fields.expires = expires_header(value);
                }
                Kind::Expires => (),
                Kind::Credentials => fields.has_credentials = true,
            }
        }
        if fields.call_id.is_some_and(<[u8]>::is_empty) {
            return Err(Why::Missing);
        }
        Ok(Some(fields))
    }

    /// Counts the values of one Via header; the first of all is the top Via.
    #[inline]
    fn add_via(&mut self, value: &'a [u8]) -> Option<()> {
        self.via_headers += 1;
        let mut rest = value;
        while !rest.is_empty() {
            let (via, after) = split_list(rest)?;
            rest = after;
            if via.is_empty() {
                continue;
            }
            if self.top_via.is_none() {
                // sent-protocol begins with "SIP" (RFC 3261 25.1); a reply to anything else would go nowhere.
                via.get(..3).filter(|p| p.eq_ignore_ascii_case(b"SIP"))?;
                self.top_via = Some(via);
            } else if self.via_count == 1 {
                self.second_via = via;
            }
            self.via_count += 1;
        }
        Some(())
    }
}

/// Keeps the first value of a header that may be there once.
#[inline]
fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), Why> {
    if place.is_some() {
        return Err(Why::Duplicate);
    }
    *place = Some(value);
    Ok(())
}
pub mod aor;
pub mod reply;
pub mod swar;
