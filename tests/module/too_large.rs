//! A limit of file sizes (ulimit -f, LimitFSIZE=): whatever memguard writes fails as on a full disk, is said, and ends
//! nothing.
//! Forbidden here: full disks (blackbox.rs, http.rs); the log of Kamailio itself, whose writer the kernel may end.

use std::fs;

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows};
use super::harness::builder::Folder;
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};

const PHONES: usize = 500;
/// Less than any of the files.
const SMALL: u64 = 2000;

fn limit(pid: i32, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a process of the server that this test started, a limit on the stack.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{pid}");
}

fn warns(server: &Server, what: &str) -> bool {
    let status = server.status();
    let mut texts = rows(&status["warnings"]).iter();
    texts.any(|w| w.as_str().is_some_and(|w| w.contains(what)))
}

#[test]
fn too_large_files_are_errors_of_every_writer_and_end_none() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "large");
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .param("blackbox", folder.file("box").display())
            .param("bindings_file", folder.file("known").display())
            .param("textfile", folder.file("metrics.prom").display())
            .param("profile_dir", folder.path().display())
            .start();
        let phones = (0..PHONES).map(|i| Request::register(&format!("p{i}")));
        assert_eq!(server.udp().flood(phones, 8, |_, _, _| ()).of(200), PHONES);
        let files = ["box", "bindings_file", "textfile"];
        let sentences = [
            "the black box",
            "parameter bindings_file",
            "parameter textfile",
        ];
        assert!(!sentences.iter().any(|what| warns(&server, what)));

        // The sampling process inherits the limit of the one that starts it; it saves the bindings when it begins.
        let processes = server.processes();
        let supervisor = processes
            .iter()
            .find(|(_, _, name)| name.contains("memguard"));
        let first = server.sampling_pid();
        limit(supervisor.expect("core.psx shows it").1, SMALL);
        server.kill(first);
        for (file, sentence) in files.iter().zip(sentences) {
            until(
                3 * SOON,
                &format!("{file} is said not to be written"),
                || warns(&server, sentence),
            );
        }
        let second = server.sampling_pid();
        assert_ne!(first, second);
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 1000
        });
        limit(second, libc::RLIM_INFINITY);
        for sentence in ["the black box", "parameter textfile"] {
            until(SOON, "and is written again", || !warns(&server, sentence));
        }
        assert_eq!(server.sampling_pid(), second, "no writer was ended");

        // Whoever answers an RPC command writes the profile.
        for (_, pid, name) in &processes {
            if name.starts_with("JSONRPCS") || name.starts_with("ctl") {
                limit(*pid, SMALL);
            }
        }
        let fault = server
            .try_rpc("memguard.profile", json!([]))
            .expect_err("too large");
        assert!(
            format!("{fault:?}").contains("cannot be written to"),
            "{fault:?}"
        );
        let fault = server.kamcmd(&["memguard.profile"]).expect_err("too large");
        assert!(
            format!("{fault:?}").contains("cannot be written to"),
            "{fault:?}"
        );
        let fault = server
            .kamcmd(&["memguard.evidence"])
            .expect_err("too large");
        assert!(
            format!("{fault:?}").contains("cannot be written to"),
            "{fault:?}"
        );
        let names = fs::read_dir(folder.path()).expect("it is there");
        let is_left = |name: &str| name.contains("evidence");
        let left = names.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            is_left(&name.to_string_lossy())
        });
        assert_eq!(left.count(), 0, "half a folder does not stay");
        assert_eq!(server.processes(), processes, "nobody was ended");

        // Main writes the bindings at the end; its log is shorter than they are.
        let log = server.log().len() as u64;
        let known = fs::metadata(folder.file("known")).map_or(0, |m| m.len());
        let most = log + 4096;
        println!("log {log}, known {known}");
        limit(server.pid(), most);
        assert!(
            (PHONES * 100) as u64 > most,
            "the table does not fit: {most}"
        );
        let path = server.places.folder.join("log");
        let log = fs::File::open(path).expect("the log");
        assert!(server.stop().success(), "main ended by itself");
        let log = std::io::read_to_string(log).expect("it is still ours");
        assert!(log.contains("cannot be written"), "{log}");
    });
}
