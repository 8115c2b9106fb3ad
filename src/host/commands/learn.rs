//! `memguard.learn`: another server's bindings file is taken over while traffic runs.
//! Forbidden here: what stands in the file (`shared::bindings_file`), and half a file in force. Process: RPC processes.

use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::guard::config::{filters, params::Int};
use crate::guard::formats::report::{Answer, Fault, Node, word};
use crate::guard::sip::aor::Key;
use crate::host::kamailio::{
    log::{Severity, log},
    regular_file,
    state::{self, Tables},
};
use crate::host::reports::region;
use crate::shared::files::bindings_file::{self, Head, TABLES};
use crate::shared::phones::fingerprints::Fingerprints;
use crate::shared::region::Region;

/// What was taken over.
struct Taken {
    alive: [usize; TABLES],
    age_s: u64,
}

/// `memguard.learn FILE`: a REGISTER that the other server would have called a refresh is one here, too. What was
/// learned before is replaced.
pub fn learn(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let path = filters::learn(words).map_err(Fault::bad)?;
    let tables = state::tables().ok_or_else(|| Fault::cannot("memguard has no tables yet"))?;
    let refused = |reason: String| {
        Fault::cannot(format!(
            "{path} was not taken over: {reason}; what was known before is known still"
        ))
    };
    let taken = take_over(region, tables, Path::new(path)).map_err(refused)?;
    let [bindings, aors, _] = taken.alive;
    log!(
        Severity::Notice,
        "{bindings} bindings and {aors} AoRs of another server were taken over from {path}, saved {} s ago (memguard.learn)",
        taken.age_s
    );
    Ok(Answer::One(vec![
        ("file", word(path)),
        ("bindings", Node::Count(bindings as u64)),
        ("aors", Node::Count(aors as u64)),
        ("age_seconds", Node::Count(taken.age_s)),
    ]))
}

fn take_over(region: &Region, tables: &Tables, path: &Path) -> Result<Taken, String> {
    let said = |e: io::Error| e.to_string();
    let opened = regular_file::open(path).map_err(said)?;
    let mut file = opened.ok_or("it is not a regular file")?;
    let filling = tables
        .learned
        .fill()
        .ok_or("another memguard.learn is at work at this moment")?;
    let buckets = filling.tables().each_ref().map(Fingerprints::buckets);
    let written = check(&file, buckets)?;
    file.rewind().map_err(said)?;
    let now_s = state::now_ms() / 1000;
    let (head, age_s) = written.read_at(&state::saved(), now_s);
    let memory = u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
    let grace = [0, memory, 0];
    let mut alive = [0; TABLES];
    let put = |table: usize, bucket, words| {
        let to = filling.tables().get(table).zip(alive.get_mut(table));
        if let (Some((to, count)), Some(grace)) = (to, grace.get(table)) {
            *count += to.restore_bucket(bucket, words, head.base_s, now_s, *grace);
        }
    };
    if bindings_file::load(&mut BufReader::new(&file), buckets, put)? != written {
        return Err("it was changed while it was read".into());
    }
    filling.finish(written.key);
    Ok(Taken { alive, age_s })
}

/// All of the file, before anything of it is taken.
fn check(file: &File, buckets: [usize; TABLES]) -> Result<Head, String> {
    let data = file.metadata().map_err(|e| e.to_string())?;
    let mode = data.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "others can read or write it (mode {mode:o}), and it holds the key of the fingerprints"
        ));
    }
    let written = bindings_file::load(&mut BufReader::new(file), buckets, |_, _, _| ())?;
    let [k0, k1] = written.key;
    match Key::new(k0, k1).probe() == written.probe {
        true => Ok(written),
        false => Err("its fingerprints were made by another version of memguard".into()),
    }
}
