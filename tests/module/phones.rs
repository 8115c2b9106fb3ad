//! Phones' REGISTERs, one row each, held against usrloc: the class that is counted, before parsing and after, is what the
//! registrar then did (its contacts before and after), in every matching mode.
//! Forbidden here: an expected class written down by hand, but where the registrar refuses and usrloc so has nothing to say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{CLASSES, Counts, Guarded, SOON, number, rows, word};
use super::harness::sip::{Reply, Request, Udp};
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair};

/// A phone's REGISTERs: parts between ` | ` are Contact headers (`@` becomes the row's user), or one of
/// `id+` a new Call-ID (all else goes on with the first one), `x=N` Expires (`x=` none), `to=URI`, `compact` header names,
/// `last` the Contact headers before To, `seq=N` a CSeq (that of the next one goes on as if there were none), `=N CLASS` that
/// the registrar refuses it with N (0: whatever it says), and the class that it has all the same, `noid` an empty Call-ID, `v=2.00` that version, or any other header line in `{}`.
struct Row(&'static str, &'static [&'static str]);

const I1: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000a95a0e128>\"";
const I2: &str = ";+sip.instance=\"<urn:uuid:11111111-0000-1000-8000-000a95a0e128>\"";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row("plain, and again", &["<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>"]),
    Row("plain, new Call-ID", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("another address", &["<sip:@192.0.2.1:5060>", "<sip:@192.0.2.7:5060>", "<sip:@192.0.2.1:5060>"]),
    Row("another address, new Call-ID", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.7:5060>"]),
    Row("another port", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5062>"]),
    Row("a port where there was none", &["<sip:@192.0.2.1>", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("another user", &["<sip:@192.0.2.1:5060>", "id+ | <sip:other@192.0.2.1:5060>"]),
    Row("without a user", &["<sip:192.0.2.1:5060>", "id+ | <sip:192.0.2.1:5060>"]),
    Row("other spelling around the URI", &["<sip:@192.0.2.1:5060>", "id+ | \"A B\" <sip:@192.0.2.1:5060>;q=0.5", "x= | sip:@192.0.2.1:5060;expires=60"]),
    Row("headers in other order, other names", &["<sip:@192.0.2.1:5060>", "last | <sip:@192.0.2.1:5060>", "compact | <sip:@192.0.2.1:5060>"]),
    Row("the host's case", &["<sip:@Phone.test:5060>", "id+ | <sip:@phone.test:5060>"]),
    Row("the scheme's case", &["<sip:@192.0.2.1:5060>", "id+ | <SIP:@192.0.2.1:5060>"]),
    Row("sips", &["<sip:@192.0.2.1:5060>", "id+ | <sips:@192.0.2.1:5060>"]),
    Row("rinstance changed", &["<sip:@192.0.2.1:5060;rinstance=1>", "<sip:@192.0.2.1:5060;rinstance=2>"]),
    Row("rinstance changed, new Call-ID", &["<sip:@192.0.2.1:5060;rinstance=1>", "id+ | <sip:@192.0.2.1:5060;rinstance=2>"]),
    Row("rinstance as it was", &["<sip:@192.0.2.1:5060;rinstance=1>", "id+ | <sip:@192.0.2.1:5060;rinstance=1>"]),
    Row("rinstance added", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060;rinstance=1>"]),
    Row("rinstance gone", &["<sip:@192.0.2.1:5060;rinstance=1>", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("line changed", &["<sip:@192.0.2.1:5060;line=a1b2>", "id+ | <sip:@192.0.2.1:5060;line=c3d4>"]),
    Row("uniq changed", &["<sip:@192.0.2.1:5060;uniq=A1>", "id+ | <sip:@192.0.2.1:5060;uniq=A2>"]),
    Row("parameters in another order", &["<sip:@192.0.2.1:5060;a=1;b=2>", "id+ | <sip:@192.0.2.1:5060;b=2;a=1>"]),
    Row("a parameter's case", &["<sip:@192.0.2.1:5060;transport=UDP>", "id+ | <sip:@192.0.2.1:5060;transport=udp>"]),
    Row("transport added", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060;transport=udp>"]),
    Row("transport changed", &["<sip:@192.0.2.1:5060;transport=udp>", "id+ | <sip:@192.0.2.1:5060;transport=tcp>"]),
    Row("ob added", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060;ob>", "id+ | <sip:@192.0.2.1:5060;ob>"]),
    Row("push token kept", &["<sip:@192.0.2.1:5060;pn-provider=apns;pn-prid=t1;pn-param=x.y>", "id+ | <sip:@192.0.2.1:5060;pn-provider=apns;pn-prid=t1;pn-param=x.y>"]),
    Row("push token changed", &["<sip:@192.0.2.1:5060;pn-provider=apns;pn-prid=t1>", "id+ | <sip:@192.0.2.1:5060;pn-provider=apns;pn-prid=t2>"]),
    Row("old push parameters", &["<sip:@192.0.2.1:5060;app-id=a;pn-tok=1;pn-type=apple>", "id+ | <sip:@192.0.2.1:5060;app-id=a;pn-tok=2;pn-type=apple>"]),
    Row("header parameters change nothing", &["<sip:@192.0.2.1:5060>;q=0.1;methods=\"INVITE\"", "id+ | <sip:@192.0.2.1:5060>;q=0.9;x=y"]),
    Row("URI headers", &["<sip:@192.0.2.1:5060?a=b>", "id+ | <sip:@192.0.2.1:5060?a=c>"]),
    Row("instance, same address", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.1:5060>I1"]),
    Row("instance, moved", &["<sip:@192.0.2.1:5060>I1", "<sip:@192.0.2.9:5999>I1", "id+ | <sip:@192.0.2.10:5999;x=y>I1"]),
    Row("another instance at the address", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.1:5060>I2"]),
    Row("instance first seen at a known address", &["<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>I1"]),
    Row("instance no longer said", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("instance in other case", &["<sip:@192.0.2.1:5060>;+sip.instance=\"<urn:uuid:ABC>\"", "id+ | <sip:@192.0.2.1:5060>;+sip.instance=\"<urn:uuid:abc>\""]),
    Row("instance without brackets", &["<sip:@192.0.2.1:5060>;+sip.instance=\"<urn:uuid:7>\"", "id+ | <sip:@192.0.2.9:5060>;+sip.instance=\"urn:uuid:7\""]),
    Row("reg-id 1, again", &["<sip:@192.0.2.1:5060>I1;reg-id=1", "id+ | <sip:@192.0.2.9:5060>I1;reg-id=1"]),
    Row("reg-id 2 as a second flow", &["<sip:@192.0.2.1:5060>I1;reg-id=1", "<sip:@192.0.2.2:5060>I1;reg-id=2", "<sip:@192.0.2.1:5060>I1;reg-id=1"]),
    Row("reg-id added later", &["<sip:@192.0.2.1:5060>I1", "<sip:@192.0.2.1:5060>I1;reg-id=1"]),
    Row("reg-id gone", &["<sip:@192.0.2.1:5060>I1;reg-id=1", "id+ | <sip:@192.0.2.1:5060>I1"]),
    Row("reg-id without instance", &["<sip:@192.0.2.1:5060>;reg-id=1", "id+ | <sip:@192.0.2.1:5060>;reg-id=2"]),
    Row("GRUU", &["{Supported: gruu} | <sip:@192.0.2.1:5060>I1;pub-gruu=\"sip:x@y;gr=1\"", "id+ | {Supported: gruu} | <sip:@192.0.2.4:5060>I1", "id+ | {Supported: gruu} | <sip:@192.0.2.4:5060>I2"]),
    Row("GRUU parameter in the URI", &["<sip:@192.0.2.1:5060;gr=a>", "id+ | <sip:@192.0.2.1:5060;gr=b>"]),
    Row("Path, the same", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("Path, another edge", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("Path gone", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("Path added", &["<sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("two Path headers", &["{Path: <sip:p1.test;lr>} | {Path:   <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p1.test;lr>} | {Path: <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("instance and Path", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>I1", "id+ | {Path: <sip:p2.test;lr>} | <sip:@192.0.2.3:5060>I1"]),
    Row("two contacts", &["<sip:@192.0.2.1:5060> | <sip:@192.0.2.2:5060>", "id+ | <sip:@192.0.2.2:5060>, <sip:@192.0.2.1:5060>"]),
    Row("a second one beside a known one", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060>, <sip:@192.0.2.2:5060>"]),
    Row("one of two removed", &["<sip:@192.0.2.1:5060>, <sip:@192.0.2.2:5060>", "<sip:@192.0.2.1:5060>;expires=0", "<sip:@192.0.2.2:5060>"]),
    Row("old one removed, new one added", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.2:5060>, <sip:@192.0.2.1:5060>;expires=0"]),
    Row("twelve contacts", &[
        "<sip:@192.0.2.1>,<sip:@192.0.2.2>,<sip:@192.0.2.3>,<sip:@192.0.2.4>,<sip:@192.0.2.5>,<sip:@192.0.2.6> | <sip:@192.0.2.7>,<sip:@192.0.2.8>,<sip:@192.0.2.9>,<sip:@192.0.2.10>,<sip:@192.0.2.11>,<sip:@192.0.2.12>",
        "id+ | <sip:@192.0.2.12>,<sip:@192.0.2.2>,<sip:@192.0.2.3>,<sip:@192.0.2.4>,<sip:@192.0.2.5>,<sip:@192.0.2.6>,<sip:@192.0.2.7>,<sip:@192.0.2.8>,<sip:@192.0.2.9>,<sip:@192.0.2.10>,<sip:@192.0.2.11>,<sip:@192.0.2.1>",
        "id+ | <sip:@192.0.2.12>,<sip:@192.0.2.2>,<sip:@192.0.2.3>,<sip:@192.0.2.4>,<sip:@192.0.2.5>,<sip:@192.0.2.6>,<sip:@192.0.2.7>,<sip:@192.0.2.8>,<sip:@192.0.2.9>,<sip:@192.0.2.10>,<sip:@192.0.2.11>,<sip:@192.0.2.77>"]),
    Row("IPv6", &["<sip:@[2001:db8::1]:5060>", "id+ | <sip:@[2001:db8::1]:5060>"]),
    Row("IPv6 in another form", &["<sip:@[2001:db8::1]:5060>", "id+ | <sip:@[2001:DB8:0:0::1]:5060>"]),
    Row("IPv6 with rinstance", &["<sip:@[2001:db8::1]:5060;rinstance=1>", "id+ | <sip:@[2001:db8::1]:5060;rinstance=2>"]),
    Row("escapes in the contact", &["<sip:%61@192.0.2.1:5060>", "id+ | <sip:a@192.0.2.1:5060>"]),
    Row("escapes in the AoR", &["to=sip:%75NAME@example.test | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME@example.test | <sip:@192.0.2.1:5060>"]),
    Row("the AoR's host in other case", &["to=sip:uNAME@Example.TEST | <sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("the AoR's user in other case", &["to=sip:uNAMEx@example.test | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAMEX@example.test | <sip:@192.0.2.1:5060>"]),
    Row("the AoR in another domain", &["to=sip:uNAME@one.test | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME@two.test | <sip:@192.0.2.1:5060>"]),
    Row("the AoR with parameters and port", &["to=sip:uNAME@example.test;user=phone | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME@example.test:5070 | <sip:@192.0.2.1:5060>"]),
    Row("tel", &["to=tel:+4930NAME | <sip:@192.0.2.1:5060>", "id+ | to=tel:+4930NAME | <sip:@192.0.2.1:5060>"]),
    Row("tel with separators", &["to=tel:+49-30-NAME | <sip:@192.0.2.1:5060>", "id+ | to=tel:+4930NAME | <sip:@192.0.2.1:5060>"]),
    Row("tel in another context", &["to=tel:70NAME;phone-context=a.test | <sip:@192.0.2.1:5060>", "id+ | to=tel:70NAME;phone-context=b.test | <sip:@192.0.2.1:5060>"]),
    Row("tel as a contact", &["<tel:+4930NAME>", "id+ | <tel:+49-30NAME>"]),
    Row("removed and back", &["<sip:@192.0.2.1:5060>", "x=0 | <sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>"]),
    Row("removed as *, and back", &["<sip:@192.0.2.1:5060>", "x=0 | *", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("never there, removed", &["x=0 | <sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>"]),
    Row("asked for the list", &["", "<sip:@192.0.2.1:5060>", ""]),
    Row("Expires garbage", &["x=soon | <sip:@192.0.2.1:5060>", "x=soon | <sip:@192.0.2.1:5060>"]),
    Row("expires garbage beside Expires 0", &["x=0 | <sip:@192.0.2.1:5060>;expires=abc", "x=0 | <sip:@192.0.2.1:5060>;expires=xyz"]),
    Row("expires 0 beside Expires 60", &["x=60 | <sip:@192.0.2.1:5060>", "x=60 | <sip:@192.0.2.1:5060>;expires=0"]),
    Row("no expires anywhere", &["x= | <sip:@192.0.2.1:5060>", "x= | <sip:@192.0.2.1:5060>"]),
    Row("endless expires", &["x=4294967295 | <sip:@192.0.2.1:5060>", "x=99999999999 | <sip:@192.0.2.1:5060>"]),
    Row("the same once more, and an older one", &["<sip:@192.0.2.1:5060>", "seq=1 | <sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>", "=400 refresh | seq=1 | <sip:@192.0.2.1:5060>", "=400 unregister | seq=1 | x=0 | <sip:@192.0.2.1:5060>"]),
    Row("removed once more", &["<sip:@192.0.2.1:5060>", "x=0 | <sip:@192.0.2.1:5060>", "x=0 | <sip:@192.0.2.1:5060>", "x=0 | *"]),
    Row("another one removed", &["<sip:@192.0.2.1:5060>", "id+ | x=0 | <sip:@192.0.2.9:5060>", "<sip:@192.0.2.1:5060>"]),
    Row("a stranger's *", &["x=0 | *", "<sip:@192.0.2.1:5060>"]),
    Row("* that is to stay", &["<sip:@192.0.2.1:5060>", "=400 unregister | *", "=400 unregister | x=0 | * | <sip:@192.0.2.7:5060>", "=400 unregister | x=0 | <sip:@192.0.2.7:5060> | *"]),
    Row("a contact that is too long", &["<sip:@192.0.2.1:5060>", "=400 returning | id+ | <sip:@192.0.2.1:5060;x=XXL>"]),
    Row("a Call-ID that is too long", &["=400 new | id=XXL | <sip:@192.0.2.1:5060>"]),
    Row("a q that is none", &["<sip:@192.0.2.1:5060>;q=0.7", "=400 refresh | <sip:@192.0.2.1:5060>;q=7.x", "<sip:@192.0.2.1:5060>;q=0.1"]),
    Row("two with q", &["<sip:@192.0.2.1:5060>;q=0.7,<sip:@192.0.2.2:5060>;q=0.3", "<sip:@192.0.2.2:5060>;q=0.9,<sip:@192.0.2.1:5060>;q=0.1"]),
    Row("Expires 0, but the contact's own is 60", &["x=0 | <sip:@192.0.2.1:5060>;expires=60", "x=0 | <sip:@192.0.2.1:5060>;expires=60"]),
    Row("expires without a value", &["<sip:@192.0.2.1:5060>;expires", "x=0 | <sip:@192.0.2.1:5060>;expires=", "<sip:@192.0.2.1:5060>;expires=\"\""]),
    Row("expires in quotes and other cases", &["<sip:@192.0.2.1:5060>;expires=\"60\"", "<sip:@192.0.2.1:5060>;EXPIRES = 0", "<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>;expires=60;expires=0"]),
    Row("expires 0 in other words", &["<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>;expires=00", "<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>;expires=+0", "<sip:@192.0.2.1:5060>;expires=-0", "<sip:@192.0.2.1:5060>;expires=0x0"]),
    Row("two Expires headers", &["{Expires: 0} | <sip:@192.0.2.1:5060>", "x= | {Expires: 0} | {Expires: 60} | <sip:@192.0.2.1:5060>"]),
    Row("moved, and back, with one removed that is not there", &["<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.2:5060>,<sip:@192.0.2.3:5060>;expires=0", "id+ | <sip:@192.0.2.1:5060>,<sip:@192.0.2.2:5060>;expires=0"]),
    Row("known ones, one of them removed", &["<sip:@192.0.2.1:5060>,<sip:@192.0.2.2:5060>", "id+ | <sip:@192.0.2.1:5060>,<sip:@192.0.2.2:5060>;expires=0", "id+ | x=0 | <sip:@192.0.2.1:5060>;expires=60,<sip:@192.0.2.2:5060>"]),
    Row("the same contact twice", &["<sip:@192.0.2.1:5060>,<sip:@192.0.2.1:5060>", "id+ | <sip:@192.0.2.1:5060>,<sip:@192.0.2.1:5060>"]),
    Row("moved with its instance, the old one removed", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.2:5060>I1,<sip:@192.0.2.1:5060>;expires=0"]),
    Row("moved with its instance, the old one removed by it", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.2:5060>I1,<sip:@192.0.2.1:5060>I1;expires=0", "<sip:@192.0.2.2:5060>I1"]),
    Row("an instance with a new Call-ID, and others behind it", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.1:5060>I1,<sip:@192.0.2.2:5060>", "<sip:@192.0.2.1:5060>I1,<sip:@192.0.2.2:5060>"]),
    Row("others before an instance with a new Call-ID", &["<sip:@192.0.2.1:5060>I1", "id+ | <sip:@192.0.2.2:5060>,<sip:@192.0.2.1:5060>I1"]),
    Row("two instances, and again with a new Call-ID", &["<sip:@192.0.2.1:5060>I1,<sip:@192.0.2.2:5060>I2", "id+ | <sip:@192.0.2.1:5060>I1,<sip:@192.0.2.2:5060>I2", "id+ | <sip:@192.0.2.2:5060>I2,<sip:@192.0.2.7:5060>"]),
    Row("two flows, and again with a new Call-ID", &["<sip:@192.0.2.1:5060>I1;reg-id=1,<sip:@192.0.2.2:5060>I1;reg-id=2", "id+ | <sip:@192.0.2.1:5060>I1;reg-id=1,<sip:@192.0.2.2:5060>I1;reg-id=2", "<sip:@192.0.2.2:5060>I1;reg-id=2"]),
    Row("reg-id taken from the contact before", &["<sip:@192.0.2.1:5060>I1;reg-id=1,<sip:@192.0.2.2:5060>I2", "<sip:@192.0.2.1:5060>I1;reg-id=1,<sip:@192.0.2.2:5060>I2", "<sip:@192.0.2.2:5060>I2"]),
    Row("instance no longer said, and said again", &["<sip:@192.0.2.1:5060>I1", "<sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>I1", "<sip:@192.0.2.5:5060>I1"]),
    Row("Path gone, and back", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>", "{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("two edges, one phone", &["{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "{Path: <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>", "<sip:@192.0.2.1:5060>", "{Path: <sip:p1.test;lr>} | <sip:@192.0.2.1:5060>", "{Path: <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("a list of Paths", &["{Path: <sip:p1.test;lr>, <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p1.test;lr>,<sip:p2.test;lr>} | <sip:@192.0.2.1:5060>", "id+ | {Path: <sip:p1.test;lr>, <sip:p2.test;lr>} | <sip:@192.0.2.1:5060>"]),
    Row("a new port on a new connection", &["<sip:@192.0.2.1:40001;transport=tcp>", "id+ | <sip:@192.0.2.1:40002;transport=tcp>", "<sip:@192.0.2.1:40001;transport=tcp>"]),
    Row("a new port on a new connection, with an instance", &["<sip:@192.0.2.1:40001;transport=tcp>I1;reg-id=1", "id+ | <sip:@192.0.2.1:40002;transport=tcp>I1;reg-id=1", "<sip:@x.invalid;transport=ws>I1;reg-id=1"]),
    Row("a password in the contact and the AoR", &["to=sip:uNAME:secret@example.test | <sip:uNAME:pw@192.0.2.1:5060>", "id+ | <sip:uNAME:pw@192.0.2.1:5060>", "id+ | <sip:uNAME@192.0.2.1:5060>"]),
    Row("an escape in other case", &["<sip:a%2Fb@192.0.2.1:5060>", "id+ | <sip:a%2fb@192.0.2.1:5060>", "id+ | <sip:a%2Fb@192.0.2.1:5060>"]),
    Row("an escape in the AoR that cannot be undone", &["=0 new | to=sip:uNAME%00@example.test | <sip:@192.0.2.1:5060>"]),
    Row("IPv6 with a zone and IPv4 within", &["<sip:@[::ffff:192.0.2.1]:5060>", "id+ | <sip:@[::FFFF:192.0.2.1]:5060>", "id+ | <sip:@[::ffff:192.0.2.1]:5060>"]),
    Row("a folded line", &["<sip:@192.0.2.1:5060>\r\n ;q=0.5", "<sip:@192.0.2.1:5060>;q=0.5\r\n\t;expires=60"]),
    Row("names in brackets and commas", &["\"Doe, <J>\" <sip:@192.0.2.1:5060>, <sip:@192.0.2.2:5060>", "<sip:@192.0.2.2:5060>, \"a\\\"b\" <sip:@192.0.2.1:5060>"]),
    Row("instance and GRUU of a temporary kind", &["{Supported: gruu} | <sip:@192.0.2.1:5060>I1", "{Supported: gruu} | <sip:@192.0.2.1:5060>I1;temp-gruu=\"sip:t@y;gr\"", "to=sip:uNAME@example.test;gr=urn:x | <sip:@192.0.2.1:5060>I1"]),
    Row("user parameters in the AoR", &["to=sip:uNAME;day=tue@example.test | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME;day=tue@example.test | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME@example.test | <sip:@192.0.2.1:5060>"]),
    Row("an AoR at an IPv6 address", &["to=sip:uNAME@[2001:db8::1] | <sip:@192.0.2.1:5060>", "id+ | to=sip:uNAME@[2001:DB8::1] | <sip:@192.0.2.1:5060>"]),
    Row("blanks within the brackets", &["< sip:@192.0.2.1:5060 >", "id+ | <sip:@192.0.2.1:5060>"]),
    Row("no brackets", &["sip:@192.0.2.1,sip:@192.0.2.2;rinstance=1", "id+ | <sip:@192.0.2.1>,<sip:@192.0.2.2>", "id+ | sip:@192.0.2.2"]),
    Row("a name with a colon", &["<sip:@192.0.2.1>", "a:b <sip:@192.0.2.1>", "a:c <sip:@192.0.2.1>"]),
    Row("a name that ends otherwise in Kamailio", &["<sip:@192.0.2.1>", "\"a\\\\\" <sip:@192.0.2.1>;expires=0;y=\"<sip:@192.0.2.2>;v=\";z=\";w=a\"", "=400 returning | id+ | \"a\\\\\" <sip:@192.0.2.1>"]),
    Row("a value in single quotes", &["<sip:@192.0.2.1>", "<sip:@192.0.2.2>;x='a;expires=0;b'", "<sip:@192.0.2.1>;expires='0'"]),
    Row("a bracket in a parameter", &["<sip:@192.0.2.1>", "<sip:@192.0.2.1>;x=<a,sip:@192.0.2.2;y=>sip:@192.0.2.3"]),
    Row("a quote within a value", &["<sip:@192.0.2.1>;x=a\"b;q=0.5", "<sip:@192.0.2.1>;x=a\";expires=0"]),
    Row("an escape in a quoted value", &["<sip:@192.0.2.1>", "<sip:@192.0.2.1>;x=\"a\\\";expires=0;y=\"b\"", "<sip:@192.0.2.1>;x=\"a\\\\\";expires=60"]),
    Row("SIP/2.00", &["v=2.00 | <sip:@192.0.2.1:5060>", "v=2.00 | <sip:@192.0.2.1:5060>", "v=2.00 | <sip:@192.0.2.2:5060>"]),
    Row("an empty Call-ID", &["noid | <sip:@192.0.2.1:5060>", "noid | <sip:@192.0.2.1:5060>", "noid | x=0 | <sip:@192.0.2.1:5060>"]),
    Row("outbound required of a registrar that has none", &["=420 new | {Require: outbound} | <sip:@192.0.2.1:5060>I1;reg-id=1"]),
    Row("a blank within the contact's URI", &["<sip:uNAME @192.0.2.1>", "id+ | <sip:uNAME @192.0.2.1>"]),
    Row("a comma too many", &["<sip:@192.0.2.1>,,<sip:@192.0.2.2>", "id+ | <sip:@192.0.2.1>,,<sip:@192.0.2.2>"]),
    Row("a comma first", &[",<sip:@192.0.2.1>", "id+ | ,<sip:@192.0.2.1>"]),
    Row("something after the brackets", &["<sip:@192.0.2.1> expires=60", "id+ | <sip:@192.0.2.1> expires=60", "id+ | <sip:@192.0.2.5> foo"]),
    Row("a name half quoted", &["Bob \"x\" <sip:@192.0.2.1>", "id+ | Bob \"x\" <sip:@192.0.2.1>"]),
];

/// One REGISTER of a row.
struct Message {
    text: String,
    call_id: String,
    branch: String,
    /// The registrar's refusal, and the class.
    refused: Option<(u16, String)>,
    wants: Wants,
}

/// What a REGISTER asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    List,
    Removal,
    Bindings,
}

struct Phone<'a> {
    name: String,
    call_id: String,
    cseq: u32,
    sent: u32,
    local: SocketAddr,
    tag: &'a str,
}

impl Phone<'_> {
    fn message(&mut self, step: &str) -> Message {
        let step = step
            .replace(
                "EDGE",
                "{Via: SIP/2.0/UDP 192.0.2.44:5060;branch=z9hG4bKedge}",
            )
            .replace("I1", I1)
            .replace("I2", I2)
            .replace("NAME", &self.name)
            .replace("XXL", &"x".repeat(600));
        let user = format!("u{}", self.name);
        let (mut to, mut expires) = (format!("sip:{user}@example.test"), "3600".to_owned());
        let (mut contacts, mut others) = (Vec::new(), String::new());
        let (mut is_compact, mut is_last) = (false, false);
        let (mut refused, mut version) = (None, "2.0".to_owned());
        self.cseq += 1;
        self.sent += 1;
        let mut number = self.cseq;
        for part in step.split(" | ").filter(|part| !part.is_empty()) {
            match part {
                "id+" => self.call_id = format!("{}-{}", self.call_id, self.cseq),
                "compact" => is_compact = true,
                "last" => is_last = true,
                "noid" => self.call_id.clear(),
                _ if part.starts_with("v=") => version = part[2..].to_owned(),
                _ if part.starts_with("id=") => self.call_id += &part[3..],
                _ if part.starts_with("seq=") => {
                    number = part[4..].parse().expect("a number");
                    self.cseq -= 1;
                }
                _ if part.starts_with('=') => {
                    let (code, class) = part[1..].split_once(' ').expect("a code and a class");
                    refused = Some((code.parse().expect("a code"), class.to_owned()));
                }
                _ if part.starts_with("x=") => expires = part[2..].to_owned(),
                _ if part.starts_with("to=") => to = part[3..].to_owned(),
                _ if part.starts_with('{') => {
                    others += &format!("{}\r\n", part.trim_matches(['{', '}']));
                    others += "Supported: path\r\n";
                }
                _ => contacts.push(part.replace(":@", &format!(":{user}@"))),
            }
        }
        let names = match is_compact {
            true => ["v", "f", "t", "i", "m"],
            false => ["Via", "From", "To", "Call-ID", "Contact"],
        };
        let [via, from, to_name, id, contact] = names;
        let is_removal =
            expires == "0" && !contacts.iter().any(|c: &String| c.contains("expires="));
        let wants = match contacts.is_empty() {
            true => Wants::List,
            false if is_removal => Wants::Removal,
            false => Wants::Bindings,
        };
        let contacts: String = contacts
            .iter()
            .map(|c| format!("{contact}: {c}\r\n"))
            .collect();
        let expires = match expires.as_str() {
            "" => String::new(),
            seconds => format!("Expires: {seconds}\r\n"),
        };
        let (before, after) = match is_last {
            true => (format!("{expires}{contacts}"), String::new()),
            false => (String::new(), format!("{contacts}{expires}")),
        };
        let (local, call_id, cseq, tag) = (self.local, &self.call_id, number, self.tag);
        let branch = format!("z9hG4bK{tag}{}x{}", self.name, self.sent);
        let text = format!(
            "REGISTER sip:example.test SIP/{version}\r\n{via}: SIP/2.0/UDP {local};branch={branch};rport\r\n{before}{from}: <{to}>;tag={cseq}\r\n\
             {to_name}: <{to}>\r\n{id}: {call_id}\r\nCSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\n{after}{others}Content-Length: 0\r\n\r\n"
        );
        Message {
            text,
            call_id: self.call_id.clone(),
            branch,
            refused,
            wants,
        }
    }
}

/// One contact that usrloc has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contact {
    aor: String,
    address: String,
    call_id: String,
    /// Instance and reg-id; empty without an instance.
    flow: String,
    /// What changes when it is updated.
    state: String,
}

/// By AoR and ruid; those with an instance by AoR, instance and reg-id.
type Held = BTreeMap<String, Contact>;

/// usrloc's contacts of one user.
fn held(server: &Server, name: &str) -> Held {
    let dump = server.rpc("ul.dump", json!([]));
    let mut found = Held::new();
    collect(&dump, "", name, &mut found);
    found
}

fn collect(value: &Value, aor: &str, name: &str, found: &mut Held) {
    let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let aor = value["AoR"].as_str().unwrap_or(aor);
    if value.get("Ruid").is_some() {
        if !aor.to_lowercase().contains(&name.to_lowercase()) {
            return;
        }
        let (instance, reg_id) = (text(&value["Instance"]), text(&value["Reg-Id"]));
        let is_plain = ["", "[not set]", "null"].contains(&instance.as_str());
        let flow = match is_plain {
            true => String::new(),
            false => format!("{instance} {reg_id}"),
        };
        let which = match is_plain {
            true => text(&value["Ruid"]),
            false => flow.clone(),
        };
        let [call_id, cseq, modified, path] =
            ["Call-ID", "CSeq", "Last-Modified", "Path"].map(|field| text(&value[field]));
        let contact = Contact {
            aor: aor.to_owned(),
            address: text(&value["Address"]),
            state: format!("{call_id} {cseq} {modified} {path}"),
            call_id,
            flow,
        };
        found.insert(format!("{aor} {which}"), contact);
        return;
    }
    match value {
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect(item, aor, name, found)),
        Value::Object(fields) => fields
            .values()
            .for_each(|item| collect(item, aor, name, found)),
        _ => (),
    }
}

/// How many bindings usrloc's matching tells apart among these: as many as memguard is to know.
fn told_apart(held: &Held, mode: u32) -> i64 {
    let which = |contact: &Contact| match (contact.flow.as_str(), mode) {
        ("", 3) => contact.call_id.clone(),
        ("", 1) => format!("{} {}", contact.address, contact.call_id),
        ("", _) => contact.address.clone(),
        (flow, _) => format!("{flow} by instance"),
    };
    let numbers: BTreeSet<(&str, String)> =
        held.values().map(|c| (c.aor.as_str(), which(c))).collect();
    numbers.len() as i64
}

/// The final reply to this message; Kamailio says the request's version, whatever that was, and the script may answer
/// what the registrar has refused once more.
fn answer(client: &Udp, message: &Message) -> Reply {
    client.send_raw(message.text.as_bytes());
    found(SOON, &message.text, || {
        let text =
            String::from_utf8_lossy(&client.receive_raw(SOON)?).replace("SIP/2.00", "SIP/2.0");
        Reply::parse(text.as_bytes()).filter(|reply| {
            text.contains(&message.call_id)
                && text.contains(&format!("{};", message.branch))
                && reply.is_final()
        })
    })
}

/// memguard's books at one moment: what came, by class, and what became of it.
#[derive(Debug)]
struct Books {
    received: Counts,
    accepted: i64,
    failed: i64,
    known: i64,
}

fn books(server: &Server) -> Books {
    let all = server.registrations();
    let of = |class: &&'static str| (*class, number(&all, &format!("{class}_received")));
    Books {
        received: CLASSES.iter().map(of).collect(),
        accepted: number(&all, "accepted"),
        failed: number(&all, "failed"),
        known: number(&all, "known_bindings"),
    }
}

/// The classes that REGISTERs were counted in since, once some were.
fn classes_since(server: &Server, before: &Books) -> (Vec<&'static str>, Books) {
    let mut now = books(server);
    let gained = |now: &Books| -> Vec<&'static str> {
        let gained = |class: &&str| now.received[*class] > before.received[*class];
        CLASSES.into_iter().filter(gained).collect()
    };
    super::harness::wait::holds_within(Duration::from_secs(2), || {
        now = books(server);
        !gained(&now).is_empty()
    });
    (gained(&now), now)
}

/// What the registrar did, as a class.
fn did(before: &Held, after: &Held, was_here: bool, message: &Message) -> String {
    let gone = before.keys().any(|which| !after.contains_key(which));
    let is_changed = |(which, was): (&String, &Contact)| {
        after.get(which).is_some_and(|now| now.state != was.state)
    };
    let class = if after.keys().any(|which| !before.contains_key(which)) {
        if was_here { "returning" } else { "new" }
    } else if before.iter().any(is_changed) {
        "refresh"
    } else if gone {
        "unregister"
    } else {
        // Nothing: what was to go is not there, or what was to stay stands there from the very same request.
        match (message.wants, &message.refused) {
            (_, Some((_, class))) => class,
            (Wants::List, None) => "query",
            (Wants::Removal, None) => "unregister",
            (Wants::Bindings, None) => "refresh",
        }
    };
    class.to_owned()
}

/// Runs the rows against one server; what is wrong, one line each, and how many were refused before parsing.
fn wrong_rows(server: &Server, mode: u32, rows_of: &[Row]) -> (Vec<String>, usize) {
    let client = server.udp();
    let mut wrong = Vec::new();
    let mut unparsed = 0;
    for (place, Row(name, steps)) in rows_of.iter().enumerate() {
        let user = format!("{}", 7000 + place);
        let mut phone = Phone {
            call_id: format!("id{user}m{mode}"),
            name: user,
            cseq: 0,
            sent: 0,
            local: client.local(),
            tag: "p",
        };
        let mut here = BTreeSet::new();
        for (step, text) in steps.iter().enumerate() {
            let message = phone.message(text);
            let before = held(server, &phone.name);
            // First while everything that adds a binding is refused, and before it is parsed.
            server.rpc("memguard.shed", json!([60]));
            let mut since = books(server);
            let mut reply = answer(&client, &message);
            let (first, mut now) = classes_since(server, &since);
            let mut classes = vec![first];
            let mut stage = "request".to_owned();
            if reply.retry_after().is_some() {
                let last = server.rpc("memguard.refusals", json!([1]));
                stage = word(&rows(&last)[0], "stage").to_owned();
                unparsed += usize::from(stage == "datagram");
                server.rpc("memguard.resume", json!([]));
                since = now;
                reply = answer(&client, &message);
                let (again, then) = classes_since(server, &since);
                classes.push(again);
                now = then;
            }
            server.rpc("memguard.resume", json!([]));
            let after = held(server, &phone.name);
            // By AoR: rows that change it.
            let new = after
                .iter()
                .filter(|(which, _)| !before.contains_key(*which));
            let was_here = new
                .map(|(_, contact)| &contact.aor)
                .all(|aor| here.contains(aor));
            here.extend(after.values().map(|contact| contact.aor.clone()));
            let expected = did(&before, &after, was_here, &message);
            let mut faults = Vec::new();
            if !classes.iter().all(|class| *class == [expected.as_str()]) {
                faults.push(format!(
                    "{classes:?} ({stage}), but the registrar did {expected}"
                ));
            }
            let code = message.refused.as_ref().map_or(200, |(code, _)| *code);
            if reply.code != code && (code != 0 || reply.code < 400) {
                faults.push(format!("the registrar answered {}", reply.code));
            }
            if message.refused.is_some() && after != before {
                faults.push("it was refused, but something changed".into());
            }
            let gained = (now.accepted - since.accepted, now.failed - since.failed);
            if gained != (i64::from(code == 200), i64::from(code != 200)) {
                faults.push(format!("accepted and failed grew by {gained:?}"));
            }
            let known = told_apart(&after, mode);
            if now.known != known {
                faults.push(format!(
                    "{} bindings are known, but {known} are there",
                    now.known
                ));
            }
            if !faults.is_empty() {
                wrong.push(format!(
                    "mode {mode}, {name}, step {step}: {}: {text}: {before:?} -> {after:?}",
                    faults.join("; ")
                ));
            }
        }
        // The answer of ul.dump has an end.
        for aor in here {
            let _ = server.try_rpc("ul.rm", json!(["location", aor]));
        }
    }
    (wrong, unparsed)
}

fn assert_right(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn phones_class_is_what_the_registrar_then_does() {
    assert!(ROWS.len() >= 100);
    for_each_pair(|pair| {
        let mut wrong = Vec::new();
        for (mode, use_domain) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            let server = Server::registrar(pair)
                .config(|c| {
                    c.param("usrloc", "matching_mode", mode);
                    c.param("usrloc", "use_domain", use_domain);
                    c.param("registrar", "use_path", 1);
                    c.param("registrar", "case_sensitive", mode % 2);
                })
                .start();
            let (more, unparsed) = wrong_rows(&server, mode, ROWS);
            wrong.extend(more);
            assert!(
                unparsed > 50,
                "only {unparsed} were refused before they were parsed"
            );
        }
        assert_right(&wrong);
    });
}

#[rustfmt::skip]
const AT_MOST_TWO: &[Row] = &[
    Row("a third one", &["<sip:@192.0.2.1>", "<sip:@192.0.2.2>", "=503 returning | <sip:@192.0.2.3>", "<sip:@192.0.2.1>,<sip:@192.0.2.2>"]),
    Row("a third one beside those that are there", &["<sip:@192.0.2.1>,<sip:@192.0.2.2>", "=503 returning | <sip:@192.0.2.1>,<sip:@192.0.2.3>", "<sip:@192.0.2.2>"]),
    Row("a third one for one of them", &["<sip:@192.0.2.1>,<sip:@192.0.2.2>", "<sip:@192.0.2.3>,<sip:@192.0.2.1>;expires=0", "<sip:@192.0.2.3>,<sip:@192.0.2.2>"]),
    Row("three at once", &["=503 new | <sip:@192.0.2.1>,<sip:@192.0.2.2>,<sip:@192.0.2.3>"]),
    Row("one instance at many places", &["<sip:@192.0.2.1>I1", "id+ | <sip:@192.0.2.2>I1", "id+ | <sip:@192.0.2.3>I1", "<sip:@192.0.2.4>I2", "=503 returning | <sip:@192.0.2.5>"]),
];

#[rustfmt::skip]
const ONE_FOR_ANOTHER: &[Row] = &[
    Row("the new one takes the old one's place", &["<sip:@192.0.2.1>", "<sip:@192.0.2.2>", "<sip:@192.0.2.2>", "id+ | <sip:@192.0.2.1>", "x=0 | <sip:@192.0.2.2>", "x=0 | <sip:@192.0.2.1>"]),
    Row("with an instance", &["<sip:@192.0.2.1>I1", "<sip:@192.0.2.2>I1", "<sip:@192.0.2.2>I2", "<sip:@192.0.2.2>I1"]),
];

#[rustfmt::skip]
const BEHIND_EDGES: &[Row] = &[
    Row("reg-id of a phone that is not behind an edge", &["<sip:@192.0.2.1>I1;reg-id=1", "<sip:@192.0.2.1>I1;reg-id=2", "<sip:@192.0.2.1>I1;reg-id=1"]),
    Row("an edge that says ob", &["EDGE | {Path: <sip:e.test;lr;ob>} | <sip:@192.0.2.1>I1;reg-id=1", "EDGE | {Path: <sip:e.test;lr;ob>, <sip:f.test;lr>} | <sip:@192.0.2.1>I1;reg-id=2", "EDGE | {Path: <sip:e.test;ob;lr>} | <sip:@192.0.2.9>I1;reg-id=2"]),
    Row("an edge that does not", &["EDGE | {Path: <sip:e.test;lr>} | <sip:@192.0.2.1>I1;reg-id=1", "EDGE | {Path: <sip:e.test;lr>} | <sip:@192.0.2.1>I1;reg-id=2", "EDGE | {Path: <sip:e.test;lr>, <sip:f.test;lr;ob>} | <sip:@192.0.2.1>I1;reg-id=3"]),
    Row("an edge without a Path", &["EDGE | <sip:@192.0.2.1>I1;reg-id=1", "EDGE | <sip:@192.0.2.1>I1", "<sip:@192.0.2.1>I1"]),
    Row("an edge that learns to say ob", &["EDGE | {Path: <sip:e.test;lr>} | <sip:@192.0.2.1>I1;reg-id=1", "EDGE | {Path: <sip:e.test;lr;ob>} | <sip:@192.0.2.1>I1;reg-id=1", "EDGE | {Path: <sip:e.test;lr;ob>} | <sip:@192.0.2.1>I1;reg-id=1", "<sip:@192.0.2.1>I1;reg-id=1"]),
    Row("outbound that the edge does not know", &["EDGE | <sip:@192.0.2.1>I1;reg-id=1", "=439 refresh | EDGE | {Supported: outbound} | <sip:@192.0.2.1>I1;reg-id=1"]),
];

#[rustfmt::skip]
const OUTBOUND_ONLY: &[Row] = &[
    Row("without outbound", &["=421 new | {Supported: path} | <sip:@192.0.2.1>I1;reg-id=1", "{Supported: outbound} | <sip:@192.0.2.1>I1;reg-id=1", "=421 refresh | {Supported: path} | <sip:@192.0.2.1>I1;reg-id=1", "{Supported: outbound} | <sip:@192.0.2.2>I1;reg-id=1"]),
];

#[test]
fn phones_class_is_what_a_registrar_with_limits_and_edges_then_does() {
    const REPLACING: &str = "if (!save(\"location\", \"0x04\")) { sl_reply_error(); }";
    type Params = &'static [(&'static str, u32)];
    let cases: [(&[Row], Params, Option<&str>); 4] = [
        (AT_MOST_TWO, &[("max_contacts", 2)], None),
        (ONE_FOR_ANOTHER, &[("max_contacts", 1)], Some(REPLACING)),
        (BEHIND_EDGES, &[("outbound_mode", 1)], None),
        (OUTBOUND_ONLY, &[("outbound_mode", 2)], None),
    ];
    for_each_pair(|pair| {
        let mut wrong = Vec::new();
        for (rows_of, params, script) in cases {
            let server = Server::registrar(pair)
                .config(|c| {
                    c.param("registrar", "use_path", 1);
                    for (name, value) in params {
                        c.param("registrar", name, value);
                    }
                    c.register = script.map_or(c.register.clone(), str::to_owned);
                })
                .start();
            wrong.extend(wrong_rows(&server, 0, rows_of).0);
        }
        assert_right(&wrong);
    });
}

/// What Contact headers are thrown together from.
#[rustfmt::skip]
const PIECES: [&str; 24] = [
    "<sip:@192.0.2.1>", "<sip:@192.0.2.2>", "sip:@192.0.2.1", "sip:@192.0.2.3", ";expires=0", ";expires=60", ";x=", ";y=\"a\"", "\"", "'", "\\", ",",
    ";", " ", "<", ">", "=", "a", "b:", ", ", "\t", ";+sip.instance=\"<urn:1>\"", ";expires=\"0\"", ";z=\"",
];

#[test]
fn phones_whatever_a_contact_header_looks_like_its_class_is_what_the_registrar_does() {
    const HEADERS: usize = 400;
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let client = server.udp();
        let mut random = 0x2545_f491_4f6c_dd1du64;
        let mut draw = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).expect("small")
        };
        let (mut wrong, mut stored) = (Vec::new(), 0);
        for place in 0..HEADERS {
            let mut phone = Phone {
                call_id: format!("any{place}"),
                name: format!("{}", 20_000 + place),
                cseq: 0,
                sent: 0,
                local: client.local(),
                tag: "w",
            };
            assert_eq!(
                answer(&client, &phone.message("<sip:@192.0.2.1>")).code,
                200
            );
            let begin = draw(4); // often with what is a contact
            let pieces = [begin].into_iter().chain((0..draw(7)).map(|_| 0));
            let header: String = pieces
                .enumerate()
                .map(|(at, first)| PIECES[if at == 0 { first } else { draw(PIECES.len()) }])
                .collect();
            let mut message = phone.message("<sip:@192.0.2.1>");
            let user = format!(":u{}@", phone.name);
            let written = header.replace(":@", &user);
            message.text = message
                .text
                .replace(&format!("<sip{user}192.0.2.1>"), &written);
            let (before, since) = (held(&server, &phone.name), books(&server));
            let reply = answer(&client, &message);
            let (classes, _) = classes_since(&server, &since);
            let after = held(&server, &phone.name);
            let has_added = after.keys().any(|which| !before.contains_key(which));
            stored += usize::from(reply.code == 200);
            // What the registrar refuses adds nothing, whatever it asked for.
            if (reply.code == 200 || has_added) && (classes == ["returning"]) != has_added {
                wrong.push(format!(
                    "{written:?}: {classes:?}, {}: {before:?} -> {after:?}",
                    reply.code
                ));
            }
            let _ = server.try_rpc("ul.rm", json!(["location", format!("u{}", phone.name)]));
        }
        assert!(stored > HEADERS / 4, "only {stored} were taken at all");
        assert_right(&wrong);
    });
}

/// Share of the pool that the phones of a storm hold before it, percent; as many again do not fit.
const FILLED: f64 = 66.0;
/// Phones of each of a storm's parts.
const PART: usize = 500;

/// Answers one INVITE that comes to `callee` with 200.
fn pick_up(callee: &Udp) {
    let bytes = callee.receive_raw(SOON).expect("the call arrives");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.starts_with("INVITE "), "{text}");
    let named = |names: [&str; 2]| -> String {
        let lines = text.split("\r\n").take_while(|line| !line.is_empty());
        let same = lines.filter(|line| names.iter().any(|name| line.starts_with(name)));
        same.map(|line| format!("{line}\r\n")).collect()
    };
    let to = named(["To:", "t:"]).replace("\r\n", ";tag=callee\r\n");
    let rest = [
        ["Via:", "v:"],
        ["From:", "f:"],
        ["Call-ID:", "i:"],
        ["CSeq:", "Record-Route:"],
    ];
    let rest: String = rest.into_iter().map(named).collect();
    callee.send_raw(format!("SIP/2.0 200 OK\r\n{rest}{to}Content-Length: 0\r\n\r\n").as_bytes());
}

/// All phones are registered; then each comes back as `again` says. Answers how many they are, and how many got 200 and 503.
fn storm(pair: &Pair, again: impl Fn(usize, Request) -> Request) -> (usize, usize, usize) {
    let server = Server::registrar(pair).shm_mb(16).workers(2).start();
    let (client, callee) = (server.udp(), server.udp());
    let phones = |part: usize| {
        (part * PART..(part + 1) * PART).map(|i| {
            let user = format!("p{i}");
            let contact = format!("<sip:{user}@192.0.2.1:5060;rinstance=1>");
            (i, Request::register(&user).contact(&contact))
        })
    };
    let callees = Request::register("callee").contact(&format!("<sip:callee@{}>", callee.local()));
    assert_eq!(client.request(&callees).code, 200);
    let mut parts = 0;
    while server.shm_pct() < FILLED {
        let first = phones(parts).map(|(_, phone)| phone);
        assert_eq!(client.flood(first, 16, |_, _, _| ()).of(200), PART);
        parts += 1;
    }
    let mut fullest: f64 = 0.0;
    let (mut passed, mut refused, mut calls) = (0, 0, 0);
    for part in 0..parts {
        let requests = phones(part).map(|(i, phone)| again(i, phone));
        let tally = client.flood(requests, 16, |_, _, _| ());
        assert_eq!((tally.of(500), tally.unanswered), (0, 0), "{tally:?}");
        passed += tally.of(200);
        refused += tally.of(503);
        fullest = fullest.max(server.shm_pct());
        let call = Request::invite("callee");
        let caller = server.udp();
        let reply = std::thread::scope(|scope| {
            let ringing = scope.spawn(|| pick_up(&callee));
            let reply = caller.request(&call);
            ringing.join().expect("the callee");
            reply
        });
        calls += usize::from(reply.code == 200);
    }
    assert_eq!(calls, parts, "no call is lost");
    // Where everything is refused, and what each worker had in hand then.
    assert!(fullest < 97.05, "shm was at {fullest} %");
    (parts * PART, passed, refused)
}

#[test]
fn phones_that_come_back_with_another_parameter_or_port_do_not_fill_the_pool() {
    for_each_pair(|pair| {
        let changes: [fn(usize, Request) -> Request; 2] = [
            |i, phone| phone.contact(&format!("<sip:p{i}@192.0.2.1:5060;rinstance=2>")),
            |i, phone| phone.contact(&format!("<sip:p{i}@192.0.2.1:6060;rinstance=1>")),
        ];
        for change in changes {
            let (phones, passed, refused) = storm(pair, change);
            assert_eq!(passed + refused, phones);
            assert!(refused > 100, "only {refused} of {phones} were held back");
        }
    });
}

#[test]
fn phones_that_really_refresh_in_a_storm_are_never_refused() {
    for_each_pair(|pair| {
        let (phones, passed, refused) = storm(pair, |_, phone| phone.next());
        assert_eq!((passed, refused), (phones, 0));
    });
}
