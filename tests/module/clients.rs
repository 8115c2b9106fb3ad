//! Known clients against a server that refuses: does each come again, when, and is it registered in the end?
//! `./dev clients` fetches them, runs this and prints the table of docs/clients.md.
//! Forbidden here: knowing one client from another; what they are and how they start is the command's (tests/clients).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::{rows, word};
use super::harness::builder::Folder;
use super::harness::{Pair, Server, for_each_pair, pairs};

/// What the servers say: code and Retry-After.
const ANSWERS: [(u16, u32); 6] = [(503, 7), (503, 40), (500, 7), (500, 40), (480, 7), (408, 7)];
/// Of the whole time, how much is spent refusing.
const REFUSING: f64 = 0.6;
/// Between two looks at the server.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// From its start to a client's first REGISTER.
const COMES_WITHIN: Duration = Duration::from_secs(30);
/// Refusals that one look reads: more than come between two.
const LAST: usize = 200;

/// A line of the command's list.
struct Client {
    name: String,
    program: PathBuf,
    words: Vec<String>,
}

/// What one client did; seconds since its first REGISTER was refused.
#[derive(Clone, Debug, Default)]
struct Seen {
    first: Option<Instant>,
    again: Vec<f64>,
    /// From the moment there was room.
    registered: Option<f64>,
}

/// A running client; it and what it started go with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: the child has not been waited for, so the group that start() made is still its own.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

fn clients(folder: &Path) -> Vec<Client> {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let list = fs::read_to_string(folder.join("list")).expect("the command wrote a list");
    let client = |line: &str| {
        let (name, start) = line.split_once('\t').expect("a name, a tab, a program");
        let mut words = start.split(' ').map(str::to_owned);
        Client {
            name: name.to_owned(),
            program: programs.join(words.next().expect("a program")),
            words: words.collect(),
        }
    };
    list.lines().map(client).collect()
}

/// The user that client number `index` registers.
fn user(index: usize) -> String {
    format!("client{index}")
}

fn start(client: &Client, installed: &Path, folder: &Path, user: &str, server: &Server) -> Running {
    fs::create_dir(folder).expect("the folder is writable");
    let output = File::create(folder.join("output")).expect("the folder is writable");
    let mut command = Command::new(&client.program);
    command
        .arg(installed)
        .args([user, &server.sip().to_string(), &server.http().to_string()])
        .args(&client.words)
        .current_dir(folder)
        .stdin(Stdio::piped()) // never written to; its end would end some of them
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(output);
    // SAFETY: setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    Running(command.spawn().expect("the client can be started"))
}

/// How often each AoR was refused, of the last refusals.
fn refusals(server: &Server) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for row in rows(&server.rpc("memguard.refusals", json!([LAST]))) {
        let user = word(row, "aor").split('@').next().unwrap_or_default();
        *times.entry(user.to_owned()).or_default() += 1;
    }
    times
}

/// All clients at once against one server that gives this answer, and later has room.
fn watch(
    pair: &Pair,
    answer: (u16, u32),
    clients: &[Client],
    installed: &Path,
    time: Duration,
) -> Vec<Seen> {
    let (code, seconds) = answer;
    let server = Server::registrar(pair)
        .param("reply_code", code)
        .param("retry_after_min", seconds)
        .param("retry_after_max", seconds)
        .config(|c| {
            c.websocket();
        })
        .start();
    server.rpc("memguard.shed", json!([time.as_secs()]));
    let folder = Folder::of(pair, &format!("clients{code}-{seconds}"));
    let running: Vec<Running> = clients
        .iter()
        .enumerate()
        .map(|(i, client)| start(client, installed, &folder.file(&user(i)), &user(i), &server))
        .collect();
    let mut seen = vec![Seen::default(); clients.len()];
    let begin = Instant::now();
    let mut room = None;
    while begin.elapsed() < time && seen.iter().any(|s| s.registered.is_none()) {
        if room.is_none() && begin.elapsed() >= time.mul_f64(REFUSING) {
            server.rpc("memguard.resume", json!([]));
            room = Some(Instant::now());
        }
        let refused = refusals(&server);
        for (i, client) in seen.iter_mut().enumerate() {
            let times = refused.get(&user(i)).copied().unwrap_or(0);
            if times > 0 {
                let first = *client.first.get_or_insert_with(Instant::now);
                client
                    .again
                    .resize(times - 1, first.elapsed().as_secs_f64());
            }
            if let Some(room) = room.filter(|_| client.registered.is_none()) {
                let is_registered = server
                    .try_rpc("ul.lookup", json!(["location", user(i)]))
                    .is_ok();
                client.registered = is_registered.then(|| room.elapsed().as_secs_f64());
            }
        }
        let silent = seen.iter().position(|s| s.first.is_none());
        if let Some(i) = silent.filter(|_| begin.elapsed() > COMES_WITHIN) {
            let output = fs::read_to_string(folder.file(&user(i)).join("output"));
            panic!(
                "{} never came: {}",
                clients[i].name,
                output.unwrap_or_default()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
    drop(running);
    seen
}

impl Seen {
    /// The first pauses between its attempts and the end of the story, in whole seconds.
    fn story(&self) -> String {
        const SHOWN: usize = 3;
        let before = [0.0].iter().chain(&self.again);
        let pauses = self.again.iter().zip(before).map(|(now, then)| now - then);
        let mut words: Vec<String> = pauses.map(|s| format!("{s:.0}")).collect();
        if words.len() > SHOWN {
            words.truncate(SHOWN);
            words.push("…".into());
        }
        let came = match words.is_empty() {
            true => "never".into(),
            false => words.join(", "),
        };
        match self.registered {
            Some(after) => format!("{came}; in after {after:.0}"),
            None => format!("{came}; not in"),
        }
    }
}

#[test]
#[ignore = "minutes long, and needs the clients: ./dev clients"]
fn clients_known_ones_against_a_refusing_server() {
    let installed = match std::env::var_os("MEMGUARD_CLIENTS") {
        Some(folder) => PathBuf::from(folder),
        None => return pairs::skip("the clients are not here: run ./dev clients"),
    };
    let seconds = std::env::var("MEMGUARD_CLIENTS_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(420));
    let clients = clients(&installed);
    for_each_pair(|pair| {
        let all: Vec<Vec<Seen>> = std::thread::scope(|scope| {
            let one = |answer| {
                scope.spawn({
                    let (clients, installed) = (&clients, &installed);
                    move || watch(pair, answer, clients, installed, time)
                })
            };
            let threads: Vec<_> = ANSWERS.map(one).into_iter().collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("every server was watched"))
                .collect()
        });
        let (refusing, all_s) = (time.mul_f64(REFUSING).as_secs(), time.as_secs());
        println!(
            "\nRefused for {refusing} s, then {} s of room",
            all_s - refusing
        );
        let line = |cells: Vec<String>| println!("| {} |", cells.join(" | "));
        let answers = ANSWERS.map(|(code, seconds)| format!("{code}, {seconds} s"));
        line([vec!["client".into()], answers.to_vec()].concat());
        line(vec!["---".into(); 1 + ANSWERS.len()]);
        for (i, client) in clients.iter().enumerate() {
            let stories = all.iter().map(|seen| seen[i].story());
            line([client.name.clone()].into_iter().chain(stories).collect());
        }
        println!();
    });
}
