//! The configurations that the tests start Kamailio with: a registrar, and a proxy in front of one.
//! Forbidden here: processes; this is text only.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::tls::Certificate;

/// What a configuration consists of; a test changes what it needs before the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// SIP workers per UDP socket, and TCP workers.
    pub workers: u32,
    /// Kamailio's log level: 2 notice, 3 debug.
    pub debug: i32,
    /// Core settings, one line each.
    pub globals: Vec<String>,
    /// Modules to load after memguard, in this order, by name.
    pub modules: Vec<String>,
    /// `modparam` lines: module, parameter, value; a value that is no integer is quoted.
    pub params: Vec<(String, String, String)>,
    /// Script that every request runs first.
    pub before: String,
    /// Script that a REGISTER runs instead of the default of its kind.
    pub register: String,
    /// Script for every request that is not REGISTER, OPTIONS or ACK.
    pub other: String,
    /// What an HTTP request to Kamailio's own xhttp runs.
    pub http: String,
    /// A whole `request_route` in place of all the script above; the empty one: none, for a KEMI script.
    pub script: Option<String>,
    /// Listen for TLS.
    pub tls: bool,
    /// The KEMI engine (`python`, `lua`, `jsdt`) in place of all script above; its module and script are to be loaded.
    pub engine: Option<String>,
    /// Whole routes, appended (`event_route[…] {…}`, `route[X] {…}`).
    pub routes: String,
}

/// Where one server listens and keeps its files.
#[derive(Clone, Debug)]
pub struct Places {
    pub folder: PathBuf,
    pub sip: SocketAddr,
    pub http: SocketAddr,
    /// Used where the configuration asks for TLS.
    pub tls: SocketAddr,
}

impl Places {
    pub fn ctl(&self) -> PathBuf {
        self.folder.join("ctl")
    }
    pub fn jsonrpc(&self) -> PathBuf {
        self.folder.join("rpc")
    }
    pub fn fifo(&self) -> PathBuf {
        self.folder.join("fifo")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Config {
    /// Saves registrations in memory, relays calls to them, answers OPTIONS.
    pub fn registrar() -> Config {
        Config {
            workers: 2,
            debug: 2,
            globals: Vec::new(),
            modules: words("kex corex pv tm sl rr maxfwd textops siputils xlog htable ctl xhttp jsonrpcs usrloc registrar"),
            params: Vec::new(),
            before: String::new(),
            register: "if (!save(\"location\")) { sl_reply_error(); }".into(),
            other: "if (!lookup(\"location\")) { sl_send_reply(\"404\", \"Not Found\"); exit; }\n    t_relay();".into(),
            http: "jsonrpc_dispatch();".into(),
            script: None,
            tls: false,
            engine: None,
            routes: String::new(),
        }
    }

    /// Relays REGISTER to `upstream`; knows no bindings.
    pub fn proxy(upstream: SocketAddr) -> Config {
        let relay = format!("$du = \"sip:{upstream}\";\n    t_relay();");
        Config {
            modules: words(
                "kex corex pv tm sl rr maxfwd textops siputils xlog htable path ctl xhttp jsonrpcs",
            ),
            register: relay.clone(),
            other: relay,
            ..Config::registrar()
        }
    }

    pub fn param(&mut self, module: &str, name: &str, value: impl ToString) -> &mut Config {
        self.params
            .push((module.into(), name.into(), value.to_string()));
        self
    }

    /// A core setting, `mem_join=1` say.
    pub fn global(&mut self, line: &str) -> &mut Config {
        self.globals.push(line.into());
        self
    }

    pub fn module(&mut self, name: &str) -> &mut Config {
        self.modules.push(name.into());
        self
    }

    /// Takes WebSockets, which open on xhttp's port.
    pub fn websocket(&mut self) -> &mut Config {
        self.module("websocket");
        self.http = format!(
            "if ($hdr(Upgrade) =~ \"websocket\") {{ ws_handle_handshake(); exit; }}\n    {}",
            self.http
        );
        self
    }

    /// Listens for TLS too.
    pub fn tls(&mut self, certificate: &Certificate) -> &mut Config {
        let files = [certificate.key(), certificate.file()];
        for (name, file) in ["private_key", "certificate"].iter().zip(&files) {
            self.param("tls", name, file.display());
        }
        // The default of both versions offers what today's OpenSSL refuses.
        self.param("tls", "tls_method", "TLSv1.2+");
        self.tls = true;
        self.module("tls")
    }

    /// The text of kamailio.cfg; `first` are whole paths of modules that are loaded before all others.
    pub fn render(&self, places: &Places, module_folder: &Path, first: &[PathBuf]) -> String {
        let mut text = String::from("#!KAMAILIO\n");
        let mut line = |l: String| writeln!(text, "{l}").expect("writing to a string");
        line(format!(
            "debug={}\nlog_stderror=yes\nchildren={}\ntcp_children={}",
            self.debug, self.workers, self.workers
        ));
        line(
            "disable_core_dump=yes\nexit_timeout=5\nauto_aliases=no\ndns=no\nrev_dns=no\ntcp_accept_no_cl=yes"
                .into(),
        );
        line(format!(
            "listen=udp:{0}\nlisten=tcp:{0}\nlisten=tcp:{1}",
            places.sip, places.http
        ));
        if self.tls {
            line(format!("enable_tls=yes\nlisten=tls:{}", places.tls));
        }
        self.globals.iter().for_each(|g| line(g.clone()));
        first
            .iter()
            .for_each(|path| line(format!("loadmodule \"{}\"", path.display())));
        line(format!("mpath=\"{}/\"", module_folder.display()));
        self.modules
            .iter()
            .for_each(|module| line(format!("loadmodule \"{module}.so\"")));
        line(format!(
            "modparam(\"ctl\", \"binrpc\", \"unix:{}\")",
            places.ctl().display()
        ));
        line(format!(
            "modparam(\"jsonrpcs\", \"dgram_socket\", \"{}\")",
            places.jsonrpc().display()
        ));
        line(format!(
            "modparam(\"jsonrpcs\", \"fifo_name\", \"{}\")",
            places.fifo().display()
        ));
        line(format!(
            "modparam(\"jsonrpcs\", \"fifo_reply_dir\", \"{}/\")",
            places.folder.display()
        ));
        for (module, name, value) in &self.params {
            let value = if value.parse::<i64>().is_ok() {
                value.clone()
            } else {
                format!("\"{value}\"")
            };
            line(format!("modparam(\"{module}\", \"{name}\", {value})"));
        }
        text + &self.routing()
    }

    fn routing(&self) -> String {
        if let Some(engine) = &self.engine {
            let http = "event_route[xhttp:request] { jsonrpc_dispatch(); }";
            return format!("\ncfgengine \"{engine}\"\n{http}\n{}", self.routes);
        }
        if self.script.as_deref() == Some("") {
            return self.routes.clone();
        }
        if let Some(script) = &self.script {
            return format!("\nrequest_route {{\n{script}\n}}\n{}", self.routes);
        }
        format!(
            "
request_route {{
    {before}
    if (!mf_process_maxfwd_header(\"10\")) {{ sl_send_reply(\"483\", \"Too Many Hops\"); exit; }}
    if (is_method(\"REGISTER\")) {{
        {register}
        exit;
    }}
    if (is_method(\"OPTIONS\")) {{ sl_send_reply(\"200\", \"OK\"); exit; }}
    if (is_method(\"ACK\") && !t_check_trans()) {{ exit; }}
    {other}
}}
event_route[xhttp:request] {{
    {http}
}}
{routes}
",
            before = self.before,
            register = self.register,
            other = self.other,
            http = self.http,
            routes = self.routes
        )
    }
}
