//! Calls through a proxy with tm, rr and dialog: its configuration, and the caller and the callee, two sockets of one thread.
//! Forbidden here: addresses beyond loopback; going on when a call does not go as it should.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::builder::Builder;
use super::config::Config;
use super::pairs::Pair;
use super::sip::{LIMIT, unique};
use super::upstream::Received;

/// What reaches the proxy of one call: INVITE, 180, 200, ACK, BYE, 200.
pub const MESSAGES: usize = 6;

/// The proxy's script: everything through tm, each call a dialog, what follows its INVITE by its route.
const SCRIPT: &str = r#"
    if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
    if (has_totag()) {
        if (!loose_route()) { sl_send_reply("404", "No Such Call"); exit; }
        if (!t_relay()) { sl_reply_error(); }
        exit;
    }
    if (!is_method("INVITE")) { sl_send_reply("405", "Calls Only"); exit; }
    record_route();
    dlg_manage();
    if (!t_relay()) { sl_reply_error(); }
"#;

/// A proxy with memguard that relays calls to where their request URI says.
pub fn proxy(pair: &Pair) -> Builder {
    let modules = "kex corex pv tm sl rr maxfwd textops siputils xlog dialog ctl xhttp jsonrpcs";
    let config = Config {
        modules: modules.split(' ').map(str::to_owned).collect(),
        script: Some(SCRIPT.into()),
        routes: "event_route[xhttp:request] { jsonrpc_dispatch(); }\n".into(),
        ..Config::registrar()
    };
    Builder::new(pair, config)
}

/// An offer as phones make it.
const OFFER: &str = "v=0\r\no=- 20518 1 IN IP4 192.0.2.17\r\ns=-\r\nc=IN IP4 192.0.2.17\r\nt=0 0\r\n\
    m=audio 49170 RTP/AVP 9 8 0 101\r\na=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n";

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Invite,
    Ringing,
    Answer,
    Ack,
    Bye,
    End,
    Nothing,
}

/// A call on its way, and the message that is sent once what is awaited has come.
struct Call {
    awaited: Awaited,
    next: String,
}

/// Caller and callee of one proxy.
pub struct Calls {
    caller: UdpSocket,
    callee: UdpSocket,
    /// Part of each Call-ID: another run's messages are none of ours.
    own: u64,
    /// All calls, by number.
    calls: Vec<Call>,
    ended: usize,
    /// Messages that came once more, as they were sent again.
    repeated: usize,
}

impl Calls {
    pub fn through(proxy: SocketAddr) -> Calls {
        assert!(proxy.ip().is_loopback(), "tests talk to loopback only");
        let [caller, callee] = [0, 1].map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
            socket.connect(proxy).expect("the proxy listens");
            socket.set_nonblocking(true).expect("it is a socket");
            socket
        });
        Calls {
            caller,
            callee,
            own: unique(),
            calls: Vec::new(),
            ended: 0,
            repeated: 0,
        }
    }

    /// Calls that went from INVITE to the 200 of their BYE.
    pub fn ended(&self) -> usize {
        self.ended
    }

    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// Makes so many calls, always `window` of them on their way until the last has begun. Each must go through: INVITE, 180,
    /// 200, ACK, BYE, 200, each by the proxy.
    #[track_caller]
    pub fn make(&mut self, count: usize, window: usize) {
        let last = self.calls.len() + count;
        let mut buffer = [0; 65_535];
        for _ in 0..window.min(count) {
            self.begin();
        }
        while self.ended < last {
            let before = self.ended;
            if let Ok(length) = self.callee.recv(&mut buffer) {
                self.at_callee(received(&buffer[..length], &self.callee));
            } else if let Ok(length) = self.caller.recv(&mut buffer) {
                self.at_caller(received(&buffer[..length], &self.caller));
            } else {
                self.wait();
            }
            if self.ended > before && self.calls.len() < last {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let number = self.calls.len();
        let [caller, callee] = [&self.caller, &self.callee].map(local);
        let invite = format!(
            "INVITE sip:callee@{callee} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {caller};branch=z9hG4bK{own}i{number};rport\r\n\
             Max-Forwards: 70\r\n\
             From: \"Extension 4711\" <sip:caller@calls.test>;tag=c{own}-{number}\r\n\
             To: <sip:callee@calls.test>\r\n\
             Call-ID: {number}@{own}.calls.test\r\n\
             CSeq: 1 INVITE\r\n\
             Contact: <sip:caller@{caller}>\r\n\
             User-Agent: deskphone/10.1.2.3\r\n\
             Supported: replaces, timer\r\n\
             Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {length}\r\n\r\n{OFFER}",
            own = self.own,
            length = OFFER.len(),
        );
        send(&self.caller, &invite);
        self.calls.push(Call {
            awaited: Awaited::Invite,
            next: String::new(),
        });
    }

    /// The call that a message belongs to has got what it awaited, or this message once more (then nothing is to be
    /// sent); it waits for `then` now. What was to be sent at this point.
    fn step(&mut self, message: &Received, came: Awaited, then: Awaited) -> Option<String> {
        let number = message
            .header("Call-ID")
            .strip_suffix(&format!("@{}.calls.test", self.own));
        let number = number.and_then(|number| number.parse::<usize>().ok());
        let call = number.and_then(|number| self.calls.get_mut(number));
        let call = call.unwrap_or_else(|| panic!("none of our calls: {}", message.text));
        if call.awaited != came {
            let is_late = (call.awaited as u8) > came as u8;
            assert!(
                is_late,
                "{:?} is awaited, not {}",
                call.awaited, message.text
            );
            self.repeated += 1;
            return None;
        }
        call.awaited = then;
        Some(std::mem::take(&mut call.next))
    }

    fn keep(&mut self, message: &Received, next: String) {
        let number = message
            .header("Call-ID")
            .split('@')
            .next()
            .and_then(|n| n.parse::<usize>().ok());
        self.calls[number.expect("step() found it")].next = next;
    }

    fn at_callee(&mut self, message: Received) {
        match message.text.split(' ').next() {
            Some("INVITE") => {
                if self
                    .step(&message, Awaited::Invite, Awaited::Ringing)
                    .is_some()
                {
                    let routes = message.all("Record-Route").into_iter();
                    let mut headers: Vec<String> = routes
                        .map(|route| format!("Record-Route: {route}"))
                        .collect();
                    assert!(
                        !headers.is_empty(),
                        "the proxy stays in the call: {}",
                        message.text
                    );
                    headers.push(format!("Contact: <sip:callee@{}>", local(&self.callee)));
                    let ringing = message.reply(180, &headers);
                    send(&self.callee, &ringing);
                    // The same To tag.
                    self.keep(&message, ringing.replacen(" 180 ", " 200 ", 1));
                }
            }
            Some("ACK") => {
                if let Some(bye) = self.step(&message, Awaited::Ack, Awaited::Bye) {
                    send(&self.caller, &bye);
                }
            }
            Some("BYE") => {
                if self.step(&message, Awaited::Bye, Awaited::End).is_some() {
                    send(&self.callee, &message.reply(200, &[]));
                }
            }
            _ => panic!("no callee awaits this: {}", message.text),
        }
    }

    fn at_caller(&mut self, message: Received) {
        let code = message
            .text
            .strip_prefix("SIP/2.0 ")
            .and_then(|rest| rest.get(..3));
        match (code.unwrap_or_default(), message.header("CSeq")) {
            ("100", _) => {}
            ("180", "1 INVITE") => {
                if let Some(answer) = self.step(&message, Awaited::Ringing, Awaited::Answer) {
                    send(&self.callee, &answer);
                }
            }
            ("200", "1 INVITE") => {
                if self.step(&message, Awaited::Answer, Awaited::Ack).is_some() {
                    send(&self.caller, &self.within(&message, "ACK", 1));
                    let bye = self.within(&message, "BYE", 2);
                    self.keep(&message, bye);
                }
            }
            ("200", "2 BYE") => {
                let step = self.step(&message, Awaited::End, Awaited::Nothing);
                self.ended += usize::from(step.is_some());
            }
            _ => panic!("a call does not go through: {}", message.text),
        }
    }

    /// A request within the call that a 200 has made (RFC 3261 12.2.1.1).
    fn within(&self, ok: &Received, method: &str, cseq: u32) -> String {
        let contact = ok.header("Contact");
        let target = contact.trim_start_matches('<').trim_end_matches('>');
        let routes = ok.all("Record-Route").into_iter().rev();
        let routes: String = routes.map(|route| format!("Route: {route}\r\n")).collect();
        let [from, to, call_id] = ["From", "To", "Call-ID"].map(|name| ok.header(name));
        let number = call_id.split('@').next().unwrap_or_default();
        format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {caller};branch=z9hG4bK{own}{method}{number};rport\r\n\
             {routes}Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\nUser-Agent: deskphone/10.1.2.3\r\nContent-Length: 0\r\n\r\n",
            caller = local(&self.caller),
            own = self.own,
        )
    }

    /// Until something comes.
    fn wait(&self) {
        let mut sockets = [&self.callee, &self.caller].map(|socket| libc::pollfd {
            fd: socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        });
        let limit = LIMIT.as_millis() as libc::c_int;
        // SAFETY: two descriptors of ours, and their number.
        let ready = unsafe { libc::poll(sockets.as_mut_ptr(), 2, limit) };
        if ready == 0 {
            let open = self.calls.iter().enumerate();
            let open = open.filter(|(_, call)| call.awaited != Awaited::Nothing);
            let open: Vec<_> = open.map(|(number, call)| (number, call.awaited)).collect();
            panic!(
                "nothing came for {LIMIT:?}; {} calls ended, these did not: {open:?}",
                self.ended
            );
        }
    }
}

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

fn send(socket: &UdpSocket, text: &str) {
    socket
        .send(text.as_bytes())
        .expect("loopback takes a datagram");
}

fn received(bytes: &[u8], by: &UdpSocket) -> Received {
    Received {
        text: String::from_utf8_lossy(bytes).into_owned(),
        from: by.peer_addr().expect("it is connected"),
    }
}
