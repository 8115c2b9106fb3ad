//! The HTTP reader: what is a request, what is refused and how, that no input panics, and that how the bytes arrive does not matter.
//! Forbidden here: sockets.

use memguard::guard::formats::http::{
    self, Hosts, MAX_REQUEST, Method, Parsed, Status, Target, parse_listen,
};
use proptest::prelude::*;

/// A server that is reached by any name.
fn parse(bytes: &[u8]) -> Parsed {
    http::parse(bytes, Hosts::Any)
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

#[test]
fn the_four_paths_are_found_with_and_without_a_query_and_in_absolute_form() {
    for (path, target) in [
        ("/", Target::Page),
        ("/metrics", Target::Metrics),
        ("/status.json?pretty=1", Target::Status),
        ("/ready", Target::Ready),
        ("http://server:9494/metrics", Target::Metrics),
        ("http://server:9494", Target::Page),
    ] {
        assert_eq!(
            parse(&get(path)),
            Parsed::Request(Method::Get, target),
            "{path}"
        );
    }
    assert_eq!(
        parse(b"HEAD /metrics HTTP/1.0\n\n"),
        Parsed::Request(Method::Head, Target::Metrics)
    );
}

#[test]
fn flame_graph_and_profiles_each_have_their_path() {
    for (path, target) in [
        ("/paths.svg", Target::Paths),
        ("/debug/pprof/heap", Target::Heap),
        ("/debug/pprof/allocs", Target::Allocs),
        ("/debug/pprof/paths", Target::HeapPaths),
    ] {
        let answered = Parsed::Request(Method::Get, target);
        assert_eq!(parse(&get(path)), answered, "{path}");
    }
}

#[test]
fn fields_other_than_host_say_nothing_about_the_host() {
    let asked = |fields: &str| {
        let text = format!("GET /ready HTTP/1.1\r\n{fields}\r\n");
        http::parse(text.as_bytes(), Hosts::Local)
    };
    let answered = Parsed::Request(Method::Get, Target::Ready);
    assert_eq!(asked("Accept: */*\r\nhOST: localhost\r\n"), answered);
    assert_eq!(
        asked("X-Host: localhost\r\n"),
        Parsed::Refused(Status::BadRequest)
    );
}

#[test]
fn a_method_a_target_or_a_name_with_other_characters_is_no_request() {
    for request in [
        " / HTTP/1.0\r\n\r\n",
        "G(T / HTTP/1.0\r\n\r\n",
        "G\u{e9}T / HTTP/1.0\r\n\r\n",
        "GET /\u{e9} HTTP/1.0\r\n\r\n",
        "GET /\t HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nA b: c\r\n\r\n",
        "GET / HTTP/1.0\r\nA(b): c\r\n\r\n",
        "GET / HTTP/1.0\r\n: c\r\n\r\n",
    ] {
        assert_eq!(
            parse(request.as_bytes()),
            Parsed::Refused(Status::BadRequest),
            "{request:?}"
        );
    }
}

#[test]
fn everything_else_gets_its_own_status() {
    for (request, status) in [
        ("GET /secret HTTP/1.1\r\nHost: a\r\n\r\n", Status::NotFound),
        (
            "GET /metrics/../etc/passwd HTTP/1.0\r\n\r\n",
            Status::NotFound,
        ),
        ("GET /%6Detrics HTTP/1.0\r\n\r\n", Status::NotFound),
        (
            "POST /metrics HTTP/1.0\r\nContent-Length: 9\r\n\r\n",
            Status::MethodNotAllowed,
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            Status::MethodNotAllowed,
        ),
        ("GET /metrics HTTP/1.1\r\n\r\n", Status::BadRequest),
        (
            "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            Status::BadRequest,
        ),
        ("GET /metrics HTTP/2.0\r\n\r\n", Status::VersionNotSupported),
        ("GET /metrics\r\n\r\n", Status::BadRequest),
        ("GET  /metrics HTTP/1.1\r\n\r\n", Status::BadRequest),
        (
            "GET /metrics HTTP/1.0\r\nNo colon\r\n\r\n",
            Status::BadRequest,
        ),
        (
            "GET /metrics HTTP/1.0\r\nA: b\r\n folded\r\n\r\n",
            Status::BadRequest,
        ),
        (
            "GET /metrics HTTP/1.0\r\nA: b\0c\r\n\r\n",
            Status::BadRequest,
        ),
        ("\x16\x03\x01\x02", Status::BadRequest),
        (
            "REGISTER sip:a SIP/2.0\r\nVia: x\r\n\r\n",
            Status::BadRequest,
        ),
    ] {
        assert_eq!(
            parse(request.as_bytes()),
            Parsed::Refused(status),
            "{request:?}"
        );
    }
}

#[test]
fn on_loopback_only_addresses_and_localhost_are_names_of_this_server() {
    let loopback = |address: &str| Hosts::of(address.parse().unwrap());
    for listen in [
        "127.0.0.1:9494",
        "127.8.8.8:1",
        "[::1]:9494",
        "[::ffff:127.0.0.1]:1",
    ] {
        assert_eq!(loopback(listen), Hosts::Local, "{listen}");
    }
    for listen in [
        "0.0.0.0:9494",
        "192.0.2.1:9494",
        "[::]:1",
        "[2001:db8::1]:1",
    ] {
        assert_eq!(loopback(listen), Hosts::Any, "{listen}");
    }
    let asked = |host: &str| {
        let text = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n");
        http::parse(text.as_bytes(), Hosts::Local)
    };
    let answered = Parsed::Request(Method::Get, Target::Status);
    for host in [
        "127.0.0.1",
        "127.0.0.1:9494",
        "10.0.0.7",
        "localhost",
        "LocalHost:9494",
        "localhost:",
        "[::1]",
        "[::1]:9494",
        "[2001:db8::7]:80",
    ] {
        assert_eq!(asked(host), answered, "{host}");
    }
    for host in [
        "",
        "evil.example",
        "evil.example:9494",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1:x",
        "127.1",
        "0x7f.1",
        "2130706433",
        "::1",
        "[::1",
        "[evil.example]",
        "user@127.0.0.1",
        "127.0.0.1 evil",
    ] {
        assert_eq!(
            asked(host),
            Parsed::Refused(Status::MisdirectedRequest),
            "{host}"
        );
    }
    // The target's own host counts as well, and HTTP/1.0 needs none.
    let absolute = |host| {
        let text = format!("GET http://{host}/status.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
        http::parse(text.as_bytes(), Hosts::Local)
    };
    assert_eq!(absolute("127.0.0.1:9494"), answered);
    assert_eq!(
        absolute("evil.example"),
        Parsed::Refused(Status::MisdirectedRequest)
    );
    assert_eq!(
        http::parse(b"GET /status.json HTTP/1.0\r\n\r\n", Hosts::Local),
        answered
    );
    // What is no request stays so, and elsewhere any name does.
    assert_eq!(asked("a\r\nHost: b"), Parsed::Refused(Status::BadRequest));
    assert_eq!(
        parse(&get("/metrics")),
        Parsed::Request(Method::Get, Target::Metrics)
    );
}

#[test]
fn a_head_that_does_not_end_within_its_bound_is_refused() {
    let mut request = b"GET / HTTP/1.0\r\nA: ".to_vec();
    request.resize(MAX_REQUEST - 1, b'a');
    assert_eq!(parse(&request), Parsed::Incomplete);
    request.push(b'a');
    assert_eq!(
        parse(&request),
        Parsed::Refused(Status::HeaderFieldsTooLarge)
    );
    request.extend(b"\r\n\r\n");
    assert_eq!(
        parse(&request),
        Parsed::Refused(Status::HeaderFieldsTooLarge)
    );
    let line = vec![b'A'; MAX_REQUEST];
    assert_eq!(parse(&line), Parsed::Refused(Status::HeaderFieldsTooLarge));
}

#[test]
fn a_pipelined_request_or_a_body_changes_nothing_for_the_first() {
    let mut bytes = get("/ready");
    bytes.extend(b"GET /secret HTTP/9.9\r\n\0\0");
    assert_eq!(parse(&bytes), Parsed::Request(Method::Get, Target::Ready));
}

#[test]
fn an_answers_head_ends_says_its_length_and_closes() {
    for (status, kind) in [
        (Status::Ok, "text/html; charset=utf-8"),
        (Status::MethodNotAllowed, "text/plain"),
    ] {
        let head = http::head(status, kind, 1234);
        assert!(head.starts_with(&format!(
            "HTTP/1.1 {} {}\r\n",
            status as u16,
            status.reason()
        )));
        assert!(head.ends_with("\r\n\r\n") && head.matches("\r\n\r\n").count() == 1);
        assert!(
            head.contains("\r\nContent-Length: 1234\r\n")
                && head.contains("\r\nConnection: close\r\n")
        );
        assert_eq!(head.matches('\n').count(), head.matches("\r\n").count());
        assert_eq!(
            head.contains("Allow: GET, HEAD"),
            status == Status::MethodNotAllowed
        );
    }
}

#[test]
fn only_what_a_browser_draws_gets_a_content_policy() {
    let is_bound = |kind| http::head(Status::Ok, kind, 1).contains("Content-Security-Policy: ");
    assert!(is_bound("text/html; charset=utf-8") && is_bound("image/svg+xml"));
    assert!(!is_bound("text/plain; version=0.0.4") && !is_bound("application/json"));
}

#[test]
fn who_comes_while_the_server_is_not_ready_is_told_to_come_again() {
    let asks_again =
        |status| http::head(status, "text/plain", 1).contains("\r\nRetry-After: 10\r\n");
    assert!(asks_again(Status::ServiceUnavailable) && !asks_again(Status::Ok));
}

#[test]
fn listen_takes_addresses_with_ports_and_says_what_it_takes() {
    assert_eq!(parse_listen(""), Ok(None));
    assert_eq!(
        parse_listen("127.0.0.1:9494"),
        Ok("127.0.0.1:9494".parse().ok())
    );
    assert_eq!(parse_listen("[::1]:9494"), Ok("[::1]:9494".parse().ok()));
    for bad in [
        "9494",
        "127.0.0.1",
        "127.0.0.1:0",
        "localhost:9494",
        "::1:9494",
        "127.0.0.1:99999",
        " 127.0.0.1:1",
    ] {
        let sentence = parse_listen(bad).expect_err(bad);
        assert!(
            sentence.contains(bad) && sentence.contains("[::1]:9494"),
            "{sentence}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_a_verdict_stands_whatever_follows(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        more in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let verdict = parse(&bytes);
        let longer = [bytes, more].concat();
        if verdict != Parsed::Incomplete {
            prop_assert_eq!(parse(&longer), verdict);
        }
    }

    #[test]
    fn something_like_a_request_does_not_depend_on_where_it_was_cut(
        method in "(GET|HEAD|PUT|G T|get)", path in "(/|/metrics|/ready|/x|\\*)(\\?[a-z]{0,3})?",
        version in "HTTP/(1\\.0|1\\.1|3)", fields in proptest::collection::vec("(Host|X-[a-z]{1,4}|B d)(: ?|)[ -~]{0,8}", 0..4),
        end in "(\r\n|\n)", cut in any::<prop::sample::Index>(),
    ) {
        let text = format!("{method} {path} {version}{end}{}{end}", fields.iter().map(|f| f.clone() + &end).collect::<String>());
        let whole = parse(text.as_bytes());
        prop_assert!(whole != Parsed::Incomplete, "{text:?}");
        let part = parse(&text.as_bytes()[..cut.index(text.len())]);
        prop_assert!(part == Parsed::Incomplete || part == whole, "{part:?} and then {whole:?}: {text:?}");
        if let Parsed::Request(..) = whole {
            prop_assert!(method == "GET" || method == "HEAD");
        }
    }
}
