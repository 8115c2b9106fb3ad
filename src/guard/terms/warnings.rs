//! What memguard has to warn of: a closed set, one sentence each that says what follows and what to do.
//! Forbidden here: finding out; the host sets the bits.

/// Declares the warnings, numbered from bit 0.
macro_rules! warnings {
    ($($(#[$doc:meta])+ $name:ident = $sentence:literal),+ $(,)?) => {
        /// One thing that does not work as it could.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Warning { $($(#[$doc])+ $name),+ }

        impl Warning {
            /// Every warning in the order of its bit.
            pub const ALL: &'static [Warning] = &[$(Warning::$name),+];

            /// The sentence for the operator.
            pub const fn sentence(self) -> &'static str {
                match self { $(Warning::$name => $sentence),+ }
            }
        }
    };
}

warnings! {
    /// Loaded after other modules.
    LoadedLate = "memguard was not the first module loaded: what was allocated before counts for process 0; put loadmodule \"memguard.so\" first",
    /// pkg is not counted.
    PkgNotCounted = "the pkg memory manager is unknown, laid out differently or had no room for a trial: pkg is not counted and pkg levels stay normal",
    /// shm is not counted.
    ShmNotCounted = "the shm memory manager is unknown, laid out differently or had no room for a trial: shm is not counted and refusing by shm is off",
    /// Places are not counted.
    NoPlaces = "the memory manager's block headers are laid out differently: memory is counted by process, not by the place that allocated it (memguard.sites is empty)",
    /// No usrloc.
    NoUsrloc = "usrloc is not loaded: bindings are learned from the REGISTERs and replies that pass; right after a start an unknown phone counts as returning",
    /// usrloc keeps bindings in the database only.
    UsrlocDbOnly = "usrloc keeps its bindings in the database only (db_mode 3): they are learned from the REGISTERs that pass, not asked for",
    /// No sl.
    NoSl = "sl is not loaded: replies of this server are not seen, so bindings are learned from usrloc or from the replies that are relayed; refusing works",
    /// The cgroup could not be read.
    NoCgroup = "no cgroup memory limit could be read: the machine's memory is held against /proc/meminfo only",
    /// /proc/meminfo could not be read.
    NoMeminfo = "/proc/meminfo could not be read: the machine's memory does not count",
    /// No memory figures of the machine at all.
    NoOs = "neither a cgroup limit nor /proc/meminfo can be read: the os pool is left out of levels and decisions",
    /// /proc of the workers could not be read.
    NoProcStatus = "/proc/PID/statm of the workers could not be read: bytes outside the pools are unknown",
    /// Impossible figures of a manager.
    ImpossibleShm = "the shm manager's figures are impossible (more used than there is): memguard goes on with its own count",
    /// Impossible figures of a pkg manager.
    ImpossiblePkg = "a pkg manager's figures are impossible (more used than there is): memguard goes on with its own count",
    /// tls refuses first.
    TlsThreshold = "tls refuses new connections below its low_mem_threshold1, before memguard starts to refuse registrations: lower shm_shed_pct or low_mem_threshold1",
    /// tm rewrites 503.
    Remap503 = "tm turns a relayed 503 into a 500 without Retry-After: phones that a server behind this one refuses with 503 are not told when to come back; set modparam(\"tm\", \"remap_503_500\", 0)",
    /// Too many processes.
    TooManyProcesses = "more than 512 processes run: those from index 512 on refuse like the others and are counted together, in one common row of memguard.workers",
    /// A process has panicked.
    InternalError = "memguard met an internal error and went on (see the log): please report it",
    /// The datagram slot is taken.
    DatagramSlotTaken = "another module (sipcapture?) holds the datagram hook: UDP registrations are refused after parsing instead of before",
    /// The table of contexts is full.
    PathsFull = "more ways to allocate live at once than memguard can tell apart: memguard.paths shows less than there is; raise sample_bytes",
    /// No sample for a while; not kept as a bit, but found when the warnings are read.
    StaleSample = "no sample for several intervals (is the sampling process stopped, or starved?): levels, history and forecasts stand still; refusing goes on by live shm and pkg, without the machine's memory",
    /// The text file cannot be written.
    TextFile = "the metrics cannot be written to the file of the parameter textfile: see that its directory exists and Kamailio's user may write there",
    /// The folder of profiles cannot be written to.
    ProfileDir = "memguard.profile cannot write into the directory of the parameter profile_dir: give Kamailio's user the right to",
    /// The table of known bindings cannot be saved.
    BindingsFile = "the known bindings cannot be written to the file of the parameter bindings_file, the log says why: after a restart they have to be learned again",
    /// libc refused memory.
    MemoryRefused = "libc refused memory within the last hour (ulimit -v, LimitAS, the machine's overcommit limit): memguard goes on from a reserve of its own and leaves out samples and answers where that is not enough (memory_refused and memory_skipped of memguard.status); raise the limit",
    /// The sampling process has died.
    SamplerDied = "the sampling process died within the last hour and was started again (the log says how it ended, memguard.status how often): samples of some seconds are missing, forecasts go on with what was known; no call was touched",
    /// All places of the event before parsing are taken.
    DataSlotTaken = "other modules hold all eight places of the event that comes before a message is parsed (NET_DATA_IN): the ballast of pkg is not released there, so a worker whose pkg is full drops what comes over TCP and TLS; load one of those modules less, or give pkg more room (-M)",
    /// No socket for ARP frames.
    NoArp = "ARP frames cannot be read (that takes CAP_NET_RAW at the start): whether another machine uses an IPv4 address of this one is not seen; start as root or with that capability, or set arp_watch 0",
    /// No rtnetlink socket.
    NoAddresses = "the kernel does not tell this machine's addresses (no rtnetlink socket): memguard.addresses stands still; address_guard 0 switches the watch off",
    /// More addresses than rows.
    TooManyAddresses = "Kamailio listens on more than 256 addresses: those beyond are not watched (memguard.addresses)",
    /// The hint.
    ForeignSender = "within the last five minutes packets came in whose sender has an address of this machine (in_martian_src): another machine may use one of its addresses; with CAP_NET_RAW at the start memguard would know which",
    /// The black box is not written.
    BlackBox = "the black box (parameter blackbox) is not written, the log says why: an end of this run will leave no trace in it",
}

/// The warnings of a mask, as sentences.
pub fn sentences(mask: u64) -> Vec<&'static str> {
    Warning::ALL
        .iter()
        .filter(|w| mask >> (**w as u8) & 1 == 1)
        .map(|w| w.sentence())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_gives_its_sentences() {
        assert!(Warning::ALL.len() <= 64);
        let mask = 1 << Warning::NoSl as u8 | 1 << Warning::NoOs as u8;
        let said = sentences(mask);
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("sl is not loaded"));
        assert!(sentences(0).is_empty());
    }
}
