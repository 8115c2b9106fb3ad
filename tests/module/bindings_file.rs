//! A proxy without a location table knows its phones again after a restart; and what becomes of a file that cannot be
//! used.
//! Forbidden here: what stands in the file (src/shared/files/bindings_file.rs), usrloc in the proxy.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use memguard::shared::files::bindings_file::{Head, TABLES, load, save};
use memguard::shared::phones::fingerprints::Fingerprints;

use serde_json::json;

use super::guard::{Guarded, SOON, counts, number};
use super::harness::builder::{Builder, Folder};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

const PHONES: usize = 40;
/// The parameter `bindings`; the file belongs to a table of this size.
const SIZE: usize = 4096;

fn proxy(pair: &Pair, upstream: SocketAddr, file: &Path) -> Builder {
    Server::proxy(pair, upstream)
        .param("bindings", SIZE)
        .param("bindings_file", file.display())
}

/// Waits until a REGISTER of the class is written down, which is done after its reply.
#[track_caller]
fn await_one(server: &Server, class: &'static str) {
    until(SOON, class, || {
        server.by_class("received").get(class) >= Some(&1)
    });
}

/// Changes the head of a file; its entries stay.
fn change(file: &Path, change: impl FnOnce(&mut Head)) {
    let tables = [(); TABLES].map(|()| Fingerprints::map(SIZE, 0).expect("some memory"));
    let buckets = [tables[0].buckets(); TABLES];
    let mut from = File::open(file).expect("the file");
    let put = |table: usize, bucket, words| {
        tables[table].restore_bucket(bucket, words, 0, 0, 0);
    };
    let mut head = load(&mut from, buckets, put).expect("a file of this size");
    change(&mut head);
    let mut bytes = Vec::new();
    save(&head, tables.each_ref(), &mut bytes).expect("memory is written");
    fs::write(file, bytes).expect("ours");
}

#[test]
fn bindings_file_a_restarted_proxy_lets_its_phones_refresh_under_pressure() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "bindings");
        let file = folder.file("known");
        let registrar = Server::registrar(pair).without_memguard().start();
        let first = proxy(pair, registrar.sip(), &file).start();
        let at = first.sip();
        until(SOON, "the file is there from the beginning", || {
            file.exists()
        });
        let mode = fs::metadata(&file)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o600);
        let phones: Vec<Request> = (0..PHONES)
            .map(|i| Request::register(&format!("p{i}")))
            .collect();
        let register = |server: &Server, phones: Vec<Request>| {
            server.udp().flood(phones.into_iter(), 4, |_, _, _| ())
        };
        assert_eq!(register(&first, phones.clone()).of(200), PHONES);
        assert!(first.stop().success());

        // Known again; but the first run had itself begun just now, and so bindings from before may be missing.
        let restarted = || proxy(pair, registrar.sip(), &file).at(at).start();
        let second = restarted();
        assert!(
            second.log().contains(&format!(
                "{PHONES} bindings and {PHONES} AoRs are known again"
            )),
            "{}",
            second.log()
        );
        second.rpc("memguard.shed", json!([60]));
        let again: Vec<Request> = phones.iter().map(Request::next).collect();
        let refreshed = register(&second, again.clone());
        assert_eq!(refreshed.of(200), PHONES, "{refreshed:?}");
        assert_eq!(number(&second.registrations(), "table_unsure"), 1);
        until(SOON, "all bindings are counted", || {
            number(&second.registrations(), "known_bindings") == PHONES as i64
        });
        let resent = refreshed.resent as i64;
        let received = counts(&[("refresh", PHONES as i64 + resent)]);
        until(SOON, "all came as refreshes", || {
            second.by_class("received") == received
        });
        assert_eq!(
            second.udp().request(&Request::register("unknown")).code,
            503
        );
        await_one(&second, "returning");
        assert!(second.stop().success());

        // Of a run that had seen a whole longest Expires nothing is missing: the doubt has ended.
        change(&file, |head| {
            assert_eq!(head.is_complete, 1);
            head.knows_since_s -= head.longest_expires_s;
        });
        let third = restarted();
        assert_eq!(number(&third.registrations(), "table_unsure"), 0);
        third.rpc("memguard.shed", json!([60]));
        let again = register(&third, again.iter().map(Request::next).collect());
        assert_eq!(again.of(200), PHONES, "{again:?}");
        assert_eq!(third.udp().request(&Request::register("unknown")).code, 503);
        await_one(&third, "new");
        third.kill_all();

        // What a killed server left was written while others could still learn: known phones pass, doubt is back.
        let fourth = restarted();
        assert_eq!(number(&fourth.registrations(), "table_unsure"), 1);
        fourth.rpc("memguard.shed", json!([60]));
        let last = register(
            &fourth,
            phones.iter().map(|p| p.next().next().next()).collect(),
        );
        assert_eq!(last.of(200), PHONES, "{last:?}");
    });
}

#[test]
fn bindings_file_phones_that_only_hints_tell_of_are_known_after_a_restart() {
    const ELSEWHERE: &str =
        "if (!save(\"location\", \"0\", \"sip:alias-$tU@example.test\")) { sl_reply_error(); }";
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "hints");
        let upstream = Server::registrar(pair).without_memguard().start();
        // Stored under another AoR, and on a proxy in other words (RFC 3261 19.1.4: one parameter more).
        let registrar = Server::registrar(pair)
            .param("bindings", SIZE)
            .param("bindings_file", folder.file("registrar").display())
            .config(|c| c.register = ELSEWHERE.into());
        let proxy = proxy(pair, upstream.sip(), &folder.file("proxy"));
        let same: fn(&Request) -> Request = |phone| phone.next();
        let more: fn(&Request) -> Request =
            |phone| phone.next().contact("<sip:p@192.0.2.1:5060;ob>");
        for (builder, again) in [(registrar, same), (proxy, more)] {
            let first = builder.start();
            let phone = Request::register("p").contact("<sip:p@192.0.2.1:5060>");
            assert_eq!(first.udp().request(&phone).code, 200);
            assert!(first.stop().success());
            let second = builder.start();
            second.rpc("memguard.shed", json!([60]));
            let reply = second.udp().request(&again(&phone));
            assert_eq!(reply.code, 200, "{reply:?}");
            await_one(&second, "refresh");
            let stranger = again(&Request::register("q")).contact("<sip:p@192.0.2.2:5060>");
            assert_eq!(second.udp().request(&stranger).code, 503);
        }
    });
}

/// The file as the format before this one had it: without hints.
fn without_hints(file: &Path) {
    use memguard::guard::formats::check::check;
    let bytes = fs::read(file).expect("a file");
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight")))
        .collect();
    let mut old = vec![words[0], 2];
    old.extend(&words[2..14]); // the head, but its last word
    old.extend(&words[15..17]);
    let entries = words[18..].chunks_exact(10);
    old.extend(entries.filter(|entry| entry[0] < 2).flatten());
    old.extend([2, 0]);
    old.push(old.iter().fold(2, |sum, word| check(sum, &[*word])));
    let bytes: Vec<u8> = old.into_iter().flat_map(u64::to_le_bytes).collect();
    fs::write(file, bytes).expect("ours");
}

#[test]
fn bindings_file_of_the_version_before_is_read_and_not_trusted_to_be_whole() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "old");
        let file = folder.file("known");
        let registrar = Server::registrar(pair).without_memguard().start();
        let builder = proxy(pair, registrar.sip(), &file);
        let first = builder.start();
        let phone = Request::register("p");
        assert_eq!(first.udp().request(&phone).code, 200);
        assert!(first.stop().success());
        change(&file, |head| head.knows_since_s -= head.longest_expires_s);
        without_hints(&file);
        let second = builder.start();
        let log = second.log();
        assert!(
            log.contains("1 bindings and 1 AoRs are known again"),
            "{log}"
        );
        assert!(log.contains("by an earlier version"), "{log}");
        assert_eq!(number(&second.registrations(), "table_unsure"), 1);
        second.rpc("memguard.shed", json!([60]));
        assert_eq!(second.udp().request(&phone.next()).code, 200);
        assert_eq!(second.udp().request(&Request::register("q")).code, 503);
    });
}

#[test]
fn bindings_file_one_that_cannot_be_used_is_kept_aside_and_the_table_starts_empty() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "unusable");
        let file = folder.file("known");
        let registrar = Server::registrar(pair).without_memguard().start();
        let start = || proxy(pair, registrar.sip(), &file).start();
        let first = start();
        until(SOON, "the file is there", || file.exists());
        assert!(first.stop().success());
        let good = fs::read(&file).expect("a file");
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 1;
        let cases: [(&[u8], u32, &str); 4] = [
            (b"somebody's list", 0o600, "it is no file of known bindings"),
            (&damaged, 0o600, "it is damaged"),
            (&good[..good.len() - 1], 0o600, "it is cut off"),
            (&good, 0o640, "others can read or write it (mode 640)"),
        ];
        for (number, (content, mode, said)) in cases.into_iter().enumerate() {
            fs::write(&file, content).expect("ours");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("ours");
            let server = start();
            let log = server.log();
            assert!(
                log.contains("is not used: ") && log.contains(said),
                "{said}: {log}"
            );
            assert_eq!(server.udp().request(&Request::register("a")).code, 200);
            let names = fs::read_dir(folder.path()).expect("ours").flatten();
            let aside = names.filter(|e| e.file_name().to_string_lossy().contains(".aside-"));
            let kept: Vec<_> = aside.map(|e| fs::read(e.path()).expect("kept")).collect();
            assert_eq!(kept.len(), number + 1);
            assert!(kept.iter().any(|bytes| bytes == content), "{said}");
            until(SOON, "a new one is begun", || file.exists());
            server.stop();
        }
        let other_size = proxy(pair, registrar.sip(), &file)
            .param("bindings", 2 * SIZE)
            .start();
        assert!(
            other_size.log().contains("another size of the table"),
            "{}",
            other_size.log()
        );
        let log = proxy(pair, registrar.sip(), &folder.file("none/known"))
            .try_start()
            .err();
        let log = log.expect("it must not start");
        assert!(
            log.contains("parameter bindings_file: the directory of"),
            "{log}"
        );
    });
}

#[test]
fn bindings_file_that_is_a_link_or_a_pipe_is_neither_followed_nor_waited_for() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "link");
        let registrar = Server::registrar(pair).without_memguard().start();
        let target = folder.file("target");
        fs::write(&target, "somebody's").expect("ours");
        let link = folder.file("link");
        std::os::unix::fs::symlink(&target, &link).expect("ours");
        let pipe = folder.file("pipe");
        let name = std::ffi::CString::new(pipe.to_str().expect("a path")).expect("no NUL");
        // SAFETY: a C string that lives for the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [&link, &pipe] {
            let refused = proxy(pair, registrar.sip(), path).try_start();
            let log = refused.err().expect("it does not start");
            assert!(log.contains("is not a regular file"), "{log}");
        }
        assert_eq!(fs::read_to_string(&target).expect("ours"), "somebody's");
    });
}
