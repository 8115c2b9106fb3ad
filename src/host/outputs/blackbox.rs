//! What goes into the black box (parameter `blackbox`) and when; the file itself is `shared::blackbox`'s.
//! Forbidden here: any process but main (begin, and the end if the sampling process died) and the sampling process;
//! Kamailio's pools and locks. Dates in it are the wall clock's when they are written, as those in the log.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use once_cell::sync::OnceCell;
use serde_json::{Map, Value, json};

use crate::guard::config::params::{Int, Text};
use crate::guard::decide::track::Kept;
use crate::guard::decide::track::Values;
use crate::guard::foresee::week::{self, Hour};
use crate::guard::formats::{
    blackbox::{
        format::{Ring, text_room},
        reading::{self, Fate, Run},
        sentence::sentence,
    },
    report::to_json,
};
use crate::guard::terms::warnings::Warning;
use crate::host::commands::COMMANDS;
use crate::host::kamailio::processes;
use crate::host::kamailio::{
    file_limit,
    log::{Severity, log},
    own_memory, state, sys,
};
use crate::host::outputs::ending;
use crate::host::reports::{Now, measures};
use crate::shared::figures::events::{self, Event};
use crate::shared::files::blackbox::{self, Opened, Trouble, Writer};
use crate::shared::region::Region;

/// The newest view is renewed this often: what is known of the last moments is not older.
const LATEST_MS: u64 = 5_000;
/// A view is kept this often, besides those at level changes: 64 of them are ten hours.
const VIEW_MS: u64 = 600_000;

/// More than reading the file takes.
const ROOM: usize = 16 << 20;

/// What a view holds: commands, their arguments, and how many rows are kept. Commands that are not there are left out.
const PARTS: [(&str, &[&str], usize); 8] = [
    ("memguard.status", &[], 0),
    ("memguard.pools", &[], 3),
    ("memguard.forecast", &[], 3),
    ("memguard.sites", &["top", "8"], 8),
    ("memguard.paths", &["top", "3"], 3),
    ("memguard.failures", &[], 5),
    ("memguard.workers", &["top", "4"], 4),
    ("memguard.registrations", &[], 0),
];

/// The box from `mod_init` until the sampling process takes it; every other process drops it.
static BOX: Mutex<Option<Writer>> = Mutex::new(None);
/// Where this run is recorded, for main if the sampling process dies.
static PLACE: OnceCell<(PathBuf, (usize, u64))> = OnceCell::new();

/// Begins this run's section. In `mod_init`.
///
/// # Errors
/// A whole sentence, if the path can never work; what does not work now becomes a warning.
pub fn open(region: &Region) -> Result<(), String> {
    let path = state::tables().map_or("", |tables| tables.texts.get(Text::BlackBox));
    if path.is_empty() {
        return Ok(());
    }
    let path = PathBuf::from(path);
    let now_s = state::wall_ms() / 1000;
    let opened = own_memory::scope(|| {
        own_memory::need(ROOM);
        let identity = identity(region).to_string();
        file_limit::as_an_error(|| blackbox::open(&path, &identity, now_s, owner()))
    });
    let opened = opened.unwrap_or_else(|own_memory::Short| {
        Err(Trouble::Now(format!(
            "blackbox {}: there is not enough memory to read it",
            path.display()
        )))
    });
    let opened = match opened {
        Ok(opened) => opened,
        Err(Trouble::Path(sentence)) => return Err(sentence),
        Err(Trouble::Now(sentence)) => {
            log!(Severity::Warn, "{sentence}; this run is not recorded");
            region.warn(Warning::BlackBox, true);
            return Ok(());
        }
    };
    let Opened {
        mut writer,
        before,
        aside,
    } = opened;
    carry_over(region, &before, &mut writer);
    if let Some((to, reason)) = aside {
        let (path, to) = (path.display(), to.display());
        log!(
            Severity::Warn,
            "blackbox {path} was no black box of this version: {reason}. It is {to} now, and a new one was begun"
        );
    }
    if let Some(said) = before
        .last()
        .and_then(|run| sentence(run, boot().as_deref()))
    {
        let path = path.display();
        log!(
            Severity::Notice,
            "{said}; memguard-blackbox {path} tells more"
        );
        state::set_before(said);
    }
    let _ = PLACE.set((path, writer.place()));
    if let Ok(mut slot) = BOX.lock() {
        *slot = Some(writer);
    }
    Ok(())
}

/// What earlier runs knew of the week and of restarts. An hour that cannot be written is missed by the run after this one.
fn carry_over(region: &Region, before: &[Run], writer: &mut Writer) {
    let start_s = region.control.start_ms.get() / 1000;
    if let Some(took_s) = reading::longest_restart_s(before, start_s) {
        region.restart.takes_ms.set(took_s * 1000);
    }
    let last = before.last().map(|run| week::counting(&run.hours));
    for hour in last.unwrap_or_default() {
        region.hours.put(*hour);
    }
    for hour in region.hours.all() {
        let _ =
            file_limit::as_an_error(|| writer.put(Ring::Hours, &[hour.number, hour.rate_milli]));
    }
    for (kept, next) in region.sampling.boxed.iter().zip(writer.next()) {
        kept.set(next);
    }
}

/// Takes the box out of its place; dropping it closes the file in this process only.
pub fn take() -> Option<Writer> {
    BOX.lock().ok()?.take()
}

/// Whom the file shall belong to: the user that Kamailio's processes will run as.
pub fn owner() -> Option<(u32, u32)> {
    // SAFETY: plain integers of the core, final before mod_init (main.c); a plain call.
    let (user, group, is_root) = unsafe { (sys::uid, sys::gid, libc::geteuid() == 0) };
    let id = |id: i32| u32::try_from(id).ok().filter(|id| *id > 0);
    is_root.then_some(())?;
    Some((id(user)?, id(group).unwrap_or(u32::MAX))) // -1: the group stays (chown(2))
}

fn line_of(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

/// Which start of the machine this is.
fn boot() -> Option<String> {
    line_of("/proc/sys/kernel/random/boot_id")
}

fn identity(region: &Region) -> Value {
    let settings: Map<String, Value> = Int::ALL
        .iter()
        .map(|param| {
            (
                param.param().name.to_owned(),
                region.settings.get(*param).into(),
            )
        })
        .collect();
    json!({
        "start_ms": region.control.start_ms.get(),
        "boot": boot(),
        "host": line_of("/proc/sys/kernel/hostname"),
        "pid": std::process::id(),
        "version": measures::BUILD.version,
        "kamailio": measures::BUILD.kamailio,
        "shm_size": region.control.shm_size.get(),
        "pkg_size": region.control.pkg_size.get(),
        "settings": settings,
    })
}

/// One look at everything, that fits into a slot.
fn view(time_s: u64, why: &str) -> String {
    let mut view = Map::new();
    view.insert("time".into(), time_s.into());
    view.insert("why".into(), why.into());
    for (name, words, rows) in PARTS {
        let command = COMMANDS.iter().find(|command| command.name == name);
        let Some(Ok(answer)) = command.map(|command| (command.run)(words)) else {
            continue;
        };
        let mut part = to_json(&answer);
        match &mut part {
            Value::Array(list) => list.truncate(rows),
            Value::Object(fields) => fields.retain(|_, value| *value != 0), // classes without a REGISTER
            _ => (),
        }
        view.insert(name.trim_start_matches("memguard.").into(), part);
    }
    fitting(view)
}

/// The text of a view: the last rows of its longest list go until it fits.
fn fitting(mut view: Map<String, Value>) -> String {
    loop {
        let text = Value::Object(view.clone()).to_string();
        if text.len() <= text_room(Ring::Views) {
            return text;
        }
        let lists = view.values_mut().filter_map(Value::as_array_mut);
        match lists.max_by_key(|list| list.len()) {
            Some(list) if !list.is_empty() => drop(list.pop()),
            _ => return String::from("{}"),
        }
    }
}

/// Fills the box, tick by tick. Process: sampling.
pub struct Recorder {
    writer: Option<Writer>,
    pace: Pace,
    has_failed: bool,
}

/// What is written already.
#[derive(Default)]
struct Pace {
    /// Level changes.
    events: u64,
    /// Level and time of the last view that was kept, and time of the newest one.
    level: u64,
    view_ms: u64,
    latest_ms: u64,
}

impl Recorder {
    /// Goes on with the box that `open` opened, if it did.
    pub fn new(region: &Region) -> Recorder {
        let mut writer = take();
        // Where an earlier sampling process stopped; zeros for the first one.
        if let Some(writer) = &mut writer {
            let boxed = &region.sampling.boxed;
            writer.go_on(std::array::from_fn(|i| {
                boxed.get(i).map_or(0, |next| next.get())
            }));
        }
        Recorder {
            writer,
            pace: Pace {
                events: region.sampling.boxed_events.get(),
                ..Pace::default()
            },
            has_failed: false,
        }
    }

    /// What this tick adds. `kept` is what the history took of it.
    /// `hour`: one that is over.
    pub fn tick(&mut self, region: &Region, kept: &Kept, hour: Option<Hour>, now_ms: u64) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let hour = hour.map(|hour| writer.put(Ring::Hours, &[hour.number, hour.rate_milli]));
        let result = match hour
            .unwrap_or(Ok(()))
            .and_then(|()| put_sample(writer, kept))
        {
            Ok(()) => self.pace.put_news(writer, region, now_ms),
            failed => failed,
        };
        for (kept, next) in region.sampling.boxed.iter().zip(writer.next()) {
            kept.set(next);
        }
        region.sampling.boxed_events.set(self.pace.events);
        if result.is_err() != self.has_failed {
            self.has_failed = result.is_err();
            region.warn(Warning::BlackBox, self.has_failed);
            match result {
                Err(e) => log!(Severity::Warn, "the black box cannot be written: {e}"),
                Ok(()) => log!(Severity::Notice, "the black box is written again"),
            }
        }
    }

    /// The last words: what was not written yet, a last view, and how the server ends.
    pub fn end(&mut self, region: &Region, how: Fate, died: Option<usize>) {
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        let now_ms = state::now_ms();
        let _ = self.pace.put_news(&mut writer, region, now_ms); // the end itself matters more
        let time_s = state::date(now_ms / 1000);
        let last = view(time_s, "end");
        let _ = writer.put_text(Ring::Latest, time_s, &last);
        if write_end(&mut writer, how, died).is_ok() {
            region.control.end_written.set(1);
        }
    }
}

impl Pace {
    /// Level changes, and views where they are due.
    fn put_news(&mut self, writer: &mut Writer, region: &Region, now_ms: u64) -> io::Result<()> {
        if region.events.pushed() > self.events {
            let mut news: Vec<(u64, Event)> = region.events.last(events::KEPT).collect();
            news.reverse();
            for (ticket, event) in news {
                if ticket >= self.events {
                    let dated = Event {
                        time_ms: state::date(event.time_ms / 1000) * 1000 + event.time_ms % 1000,
                        ..event
                    };
                    writer.put(Ring::Events, &dated.pack())?;
                    self.events = ticket + 1;
                }
            }
        }
        let level = Now::of(region).level().index() as u64;
        let is_due = |last_ms: u64, every_ms: u64| now_ms.abs_diff(last_ms) >= every_ms;
        let why = match (level != self.level, is_due(self.view_ms, VIEW_MS)) {
            (true, _) => Some("level"),
            (_, true) => Some("time"),
            _ => None,
        };
        if why.is_some() || is_due(self.latest_ms, LATEST_MS) {
            let time_s = state::date(now_ms / 1000);
            let text = view(time_s, why.unwrap_or("latest"));
            writer.put_text(Ring::Latest, time_s, &text)?;
            self.latest_ms = now_ms;
            if why.is_some() {
                writer.put_text(Ring::Views, time_s, &text)?;
                (self.level, self.view_ms) = (level, now_ms);
            }
        }
        Ok(())
    }
}

/// The second, and the minute if one is over.
fn put_sample(writer: &mut Writer, kept: &Kept) -> io::Result<()> {
    let second = sample(kept.time_s, &kept.values);
    match kept.is_new {
        true => writer.put(Ring::Seconds, &second)?,
        false => writer.replace(Ring::Seconds, &second)?,
    }
    match &kept.minute {
        Some((time_s, values)) => writer.put(Ring::Minutes, &sample(*time_s, values)),
        None => Ok(()),
    }
}

fn sample(time_s: u64, values: &Values) -> Vec<u64> {
    let mut payload = vec![state::date(time_s)];
    payload.extend(values);
    payload
}

fn write_end(writer: &mut Writer, how: Fate, died: Option<usize>) -> io::Result<()> {
    let time_s = state::wall_ms() / 1000;
    let mut end = json!({ "time": time_s, "how": how.word() });
    let process = died.and_then(|index| Some((index, processes::process_table().nth(index)?)));
    if let (Some((index, process)), Some(fields)) = (process, end.as_object_mut()) {
        let who = format!(
            "process {index} (pid {}, {})",
            process.pid, process.description
        );
        fields.insert("who".into(), who.into());
    }
    writer.put_text(Ring::End, time_s, &end.to_string())
}

/// Writes the end if the sampling process could not. Process: main, at the end of all others.
pub fn close() {
    let is_written = state::region().is_none_or(|region| region.control.end_written.get() != 0);
    let (Some((path, place)), false) = (PLACE.get(), is_written) else {
        return;
    };
    if let Ok(mut writer) = Writer::again(path, *place) {
        let (how, died) = ending::said(Fate::Stopped);
        // Nobody is left to be told.
        let _ = file_limit::as_an_error(|| write_end(&mut writer, how, died));
    }
}
