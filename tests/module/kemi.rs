//! `KSR.memguard.*`: the script decides, and is told of a level change, in Python, Lua and JavaScript; `auto` 0.
//! Forbidden here: what native scripts do (script.rs).

use std::path::Path;

use serde_json::json;

use super::guard::{Guarded, SOON};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};
use super::script::sheds_by_script;

/// A registrar whose route is the script of tests/module/kemi with this ending.
fn kemi(pair: &Pair, module: &str, engine: &str, ending: &str) -> Server {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/module/kemi");
    let script = folder.join(format!("route.{ending}"));
    Server::registrar(pair)
        .param("auto", 0)
        .param("event_callback", "ksr_memguard_event")
        .environment("PYTHONDONTWRITEBYTECODE", "1")
        .config(|c| {
            c.module(module);
            c.param(module, "load", script.display());
            c.engine = Some(engine.into());
            c.param("usrloc", "preload", "location"); // no native save() names the table
        })
        .start()
}

fn decides(pair: &Pair, module: &str, engine: &str, ending: &str) {
    let server = kemi(pair, module, engine, ending);
    let calm = server.udp().request(&Request::register("calm"));
    assert_eq!((calm.code, calm.header("X-Guard")), (200, Some("normal 1")));
    server.rpc("memguard.shed", json!([60]));
    until(SOON, "event_callback's function is told the change", || {
        const TOLD: &str = "told: memguard:level-changed normal shedding end";
        server.log().matches(TOLD).count() == 1
    });
    // The script says what class a phone is in; a word that is no class leaves memguard's own.
    let client = server.udp();
    let named = |class: &str| {
        let request = Request::register(&format!("by-{class}"));
        client.request(&request.header(&format!("X-Class: {class}")))
    };
    let (refresh, nonsense) = (named("refresh"), named("nonsense"));
    assert_eq!(
        (refresh.code, refresh.header("X-Guard")),
        (200, Some("shedding 1"))
    );
    assert_eq!(
        (nonsense.code, nonsense.retry_after().is_some()),
        (503, true)
    );
    until(SOON, "the refusal is counted", || {
        server.by_class("rejected").get("new") == Some(&1)
    });
    let log = server.log();
    assert!(
        log.contains("there is no such class"),
        "{engine} was told so"
    );
    server.stop();
    sheds_by_script(&kemi(pair, module, engine, ending));
}

#[test]
fn kemi_python_admits_and_rejects() {
    for_each_pair(|pair| decides(pair, "app_python3", "python", "py"));
}

#[test]
fn kemi_lua_admits_and_rejects() {
    for_each_pair(|pair| decides(pair, "app_lua", "lua", "lua"));
}

#[test]
fn kemi_javascript_admits_and_rejects() {
    for_each_pair(|pair| decides(pair, "app_jsdt", "jsdt", "js"));
}
