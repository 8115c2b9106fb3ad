//! Facts about the machine's memory, on the texts that real systems show.
//!
//! * The limit that decides is the one with the highest use relative to it: host, own cgroup, or any ancestor.
//! * Page cache that the kernel gives back at once (inactive_file) is not use.
//! * What cannot be read becomes a sentence and never an error; no text makes a parser panic.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use memguard::guard::machine::{
    cgroup::{Version, find_cgroup, limit_bytes, stat_field},
    osmem::{
        Missing, OsMemory, OsSample, Plan, Source, host_memory, kib_field, private_bytes,
        rss_anon_bytes,
    },
};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// 16 GiB, of which 4 GiB are in use.
const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:         1058876 kB\nMemAvailable:   12582912 kB\n\
                       Buffers:          288740 kB\nCached:         10982176 kB\nSwapTotal:             0 kB\n";

const V2_MOUNTS: &str = "\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
23 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";
const V2_SERVICE: &str = "0::/system.slice/kamailio.service\n";

const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const HYBRID_CGROUP: &str =
    "9:name=systemd:/\n8:pids:/\n4:memory:/system.slice/kamailio.service\n1:cpu:/\n0::/\n";

const DOCKER_ID: &str = "/docker/2d5f0e5d9c1b4c0f8e4c9a4f7a5f0a1c";

fn said(sample: &OsSample) -> Vec<String> {
    sample.missing.iter().map(Missing::to_string).collect()
}

/// A file system out of memory.
struct Files(HashMap<PathBuf, String>);

impl Files {
    fn new(files: &[(&str, &str)]) -> Files {
        let owned = |(path, text): &(&str, &str)| (PathBuf::from(path), text.to_string());
        Files(files.iter().map(owned).collect())
    }

    fn with(mut self, dir: &str, files: &[(&str, u64)]) -> Files {
        for (name, number) in files {
            self.0
                .insert(Path::new(dir).join(name), format!("{number}\n"));
        }
        self
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, "No such file or directory");
        self.0.get(path).cloned().ok_or_else(absent)
    }

    fn sample(&self, configured_mib: u64) -> OsSample {
        let read = |path: &Path| self.read(path);
        Plan::discover(configured_mib, &read).sample(&read)
    }
}

fn v2(own: &[(&str, &str)]) -> Files {
    let mut files = Files::new(&[
        ("/proc/self/cgroup", V2_SERVICE),
        ("/proc/self/mountinfo", V2_MOUNTS),
        ("/proc/meminfo", MEMINFO),
        (
            "/sys/fs/cgroup/cgroup.controllers",
            "cpuset cpu io memory hugetlb pids rdma misc\n",
        ),
    ]);
    for (name, text) in own {
        let dir = Path::new("/sys/fs/cgroup/system.slice/kamailio.service");
        files.0.insert(dir.join(name), text.to_string());
    }
    files
}

fn memory(limit_mib: u64, used_mib: u64, source: Source) -> OsSample {
    OsSample {
        memory: Some(OsMemory {
            limit_bytes: limit_mib * MIB,
            used_bytes: used_mib * MIB,
            source,
        }),
        missing: Vec::new(),
    }
}

#[test]
fn the_host_is_memtotal_and_what_is_not_available_of_it() {
    let host = host_memory(MEMINFO).unwrap();
    assert_eq!(
        OsSample {
            memory: Some(host),
            missing: vec![]
        },
        memory(16_384, 4_096, Source::Host)
    );
    assert_eq!(host_memory("MemTotal: 5 kB\n"), None, "kernels before 3.14");
    assert_eq!(host_memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
}

#[test]
fn v2_counts_current_without_inactive_file_against_max() {
    let files = v2(&[
        ("memory.current", "943718400\n"), // 900 MiB
        ("memory.max", "1073741824\n"),
        ("memory.high", "max\n"),
        (
            "memory.stat",
            "anon 5\nfile 209715300\ninactive_anon 7\nactive_file 100\ninactive_file 104857600\n",
        ),
    ]);
    assert_eq!(files.sample(0), memory(1024, 800, Source::CgroupMax));
}

#[test]
fn v2_memory_high_decides_when_it_is_lower() {
    let files = v2(&[
        ("memory.current", "524288000\n"),
        ("memory.max", "1073741824\n"),
        ("memory.high", "629145600\n"),
    ]);
    assert_eq!(files.sample(0), memory(600, 500, Source::CgroupHigh));
}

#[test]
fn v2_without_limits_leaves_the_host_to_decide() {
    let files = v2(&[
        ("memory.current", "524288000\n"),
        ("memory.max", "max\n"),
        ("memory.high", "max\n"),
    ]);
    assert_eq!(files.sample(0), memory(16_384, 4_096, Source::Host));
}

#[test]
fn a_cgroup_limit_with_room_leaves_a_fuller_host_to_decide() {
    let files = v2(&[
        ("memory.current", "104857600\n"),
        ("memory.max", "1073741824\n"),
    ]);
    assert_eq!(files.sample(0).memory.unwrap().source, Source::Host); // 10 % against 25 %
}

#[test]
fn a_fuller_ancestor_decides_with_its_own_use() {
    let files = v2(&[
        ("memory.current", "314572800\n"),
        ("memory.max", "1073741824\n"),
    ])
    .with(
        "/sys/fs/cgroup/system.slice",
        &[("memory.current", 1900 * MIB), ("memory.max", 2000 * MIB)],
    );
    assert_eq!(files.sample(0), memory(2000, 1900, Source::CgroupMax));
}

#[test]
fn a_container_with_a_namespace_of_its_own_reads_the_root_of_its_mount() {
    let files = Files::new(&[
        ("/proc/self/cgroup", "0::/\n"),
        (
            "/proc/self/mountinfo",
            "1045 1040 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n",
        ),
        ("/proc/meminfo", MEMINFO),
        ("/sys/fs/cgroup/memory.max", "268435456\n"),
        ("/sys/fs/cgroup/memory.current", "209715200\n"),
    ]);
    assert_eq!(files.sample(0), memory(256, 200, Source::CgroupMax));
}

#[test]
fn a_v1_container_sees_its_own_part_of_the_hierarchy() {
    let cgroup =
        format!("11:memory:{DOCKER_ID}\n10:cpu,cpuacct:{DOCKER_ID}\n1:name=systemd:{DOCKER_ID}\n");
    let mounts = format!(
        "1183 1180 0:29 {DOCKER_ID} /sys/fs/cgroup/cpu,cpuacct ro,relatime master:11 - cgroup cgroup rw,cpu,cpuacct\n\
         1187 1180 0:33 {DOCKER_ID} /sys/fs/cgroup/memory ro,nosuid,relatime master:15 - cgroup cgroup rw,memory\n"
    );
    let files = Files::new(&[
        ("/proc/self/cgroup", &cgroup),
        ("/proc/self/mountinfo", &mounts),
        ("/proc/meminfo", MEMINFO),
        (
            "/sys/fs/cgroup/memory/memory.stat",
            "inactive_file 1\ntotal_inactive_file 104857600\n",
        ),
    ])
    .with(
        "/sys/fs/cgroup/memory",
        &[
            ("memory.limit_in_bytes", 512 * MIB),
            ("memory.usage_in_bytes", 500 * MIB),
        ],
    );
    assert_eq!(files.sample(0), memory(512, 400, Source::CgroupV1));
}

#[test]
fn v1_without_a_limit_shows_an_ancestors_limit_in_its_stat() {
    let dir = "/sys/fs/cgroup/memory/system.slice/kamailio.service";
    let stat = format!("{dir}/memory.stat");
    let files = Files::new(&[
        ("/proc/self/cgroup", HYBRID_CGROUP),
        ("/proc/self/mountinfo", HYBRID_MOUNTS),
        ("/proc/meminfo", MEMINFO),
        (
            &stat,
            "cache 0\nhierarchical_memory_limit 209715200\ntotal_inactive_file 0\n",
        ),
    ])
    .with(
        dir,
        &[
            ("memory.limit_in_bytes", 9_223_372_036_854_771_712),
            ("memory.usage_in_bytes", 100 * MIB),
        ],
    );
    assert_eq!(files.sample(0), memory(200, 100, Source::CgroupV1));
}

#[test]
fn in_a_hybrid_set_up_the_v1_hierarchy_that_carries_memory_counts() {
    let found = find_cgroup(HYBRID_CGROUP, HYBRID_MOUNTS).unwrap().unwrap();
    assert_eq!(found.version, Version::V1);
    let dirs = ["/system.slice/kamailio.service", "/system.slice", ""];
    assert_eq!(
        found.dirs,
        dirs.map(|dir| PathBuf::from(format!("/sys/fs/cgroup/memory{dir}")))
    );
}

#[test]
fn in_a_hybrid_set_up_without_v1_memory_the_unified_hierarchy_counts() {
    let cgroup = HYBRID_CGROUP.replace("4:memory:/system.slice/kamailio.service\n", "");
    let found = find_cgroup(&cgroup, HYBRID_MOUNTS).unwrap().unwrap();
    assert_eq!(found.dirs, [PathBuf::from("/sys/fs/cgroup/unified")]);
    assert!(found.is_root);
}

#[test]
fn a_host_path_that_the_container_does_not_show_falls_back_to_the_nearest_ancestor() {
    // the host's path, but the mount shows only another part of the tree
    let mounts =
        format!("36 31 0:33 {DOCKER_ID} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    let found = find_cgroup("4:memory:/kubepods/burstable/pod7\n", &mounts)
        .unwrap()
        .unwrap();
    assert_eq!(found.dirs, [PathBuf::from("/sys/fs/cgroup/memory")]);
    // and the whole tree is named, but the lowest directories are hidden
    let files = v2(&[]).with(
        "/sys/fs/cgroup/system.slice",
        &[("memory.current", 90 * MIB), ("memory.max", 100 * MIB)],
    );
    assert_eq!(files.sample(0), memory(100, 90, Source::CgroupMax));
}

#[test]
fn a_cgroup_outside_of_the_namespace_reads_the_mount_point() {
    let found = find_cgroup("0::/../../other.slice\n", V2_MOUNTS)
        .unwrap()
        .unwrap();
    assert_eq!(found.dirs, [PathBuf::from("/sys/fs/cgroup")]);
    assert_eq!(
        found.dirs[0].as_os_str(),
        "/sys/fs/cgroup",
        "as it is shown"
    );
    let numbered = "4::/other.slice\n0::/../../other.slice\n";
    assert_eq!(find_cgroup(numbered, V2_MOUNTS).unwrap(), Some(found));
}

#[test]
fn a_cgroup_is_not_taken_for_a_neighbour_with_the_same_beginning() {
    let mounts = "30 22 0:26 /a /one rw - cgroup2 c rw\n31 22 0:26 /ab /two rw - cgroup2 c rw\n";
    let found = find_cgroup("0::/ab/c\n", mounts).unwrap().unwrap();
    assert_eq!(found.dirs, ["/two/c", "/two"].map(PathBuf::from));
    let neighbour = find_cgroup("0::/ab/c\n", "30 22 0:26 /a /one rw - cgroup2 c rw\n")
        .unwrap()
        .unwrap();
    assert_eq!(neighbour.dirs, [PathBuf::from("/one")]);
}

#[test]
fn blanks_in_mount_points_and_removed_cgroups_are_understood() {
    let mounts = "30 22 0:26 / /sys/my\\040groups rw shared:9 master:2 - cgroup2 cgroup2 rw\n";
    let found = find_cgroup("0::/gone (deleted)\n", mounts)
        .unwrap()
        .unwrap();
    assert_eq!(
        found.dirs,
        ["/sys/my groups/gone", "/sys/my groups"].map(PathBuf::from)
    );
}

#[test]
fn an_unreadable_limit_is_said_and_the_host_decides() {
    let sample = v2(&[]).sample(0);
    assert_eq!(sample.memory.unwrap().source, Source::Host);
    assert_eq!(
        said(&sample),
        [
            "cgroup limit not readable: /sys/fs/cgroup/system.slice/kamailio.service/memory.current: \
          No such file or directory"
        ]
    );
}

#[test]
fn a_forbidden_limit_is_said_although_its_ancestor_can_be_read() {
    let files = v2(&[("memory.current", "104857600\n")]).with(
        "/sys/fs/cgroup/system.slice",
        &[("memory.current", 90 * MIB), ("memory.max", 100 * MIB)],
    );
    let read = |path: &Path| match path.ends_with("kamailio.service/memory.max") {
        true => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "Permission denied",
        )),
        false => files.read(path),
    };
    let sample = Plan::discover(0, &read).sample(&read);
    assert_eq!(sample.memory, memory(100, 90, Source::CgroupMax).memory);
    assert_eq!(said(&sample).len(), 1, "{sample:?}");
    assert!(said(&sample)[0].contains("kamailio.service/memory.max: Permission denied"));
}

#[test]
fn a_forbidden_ancestor_is_said_although_the_own_directory_accounts_nothing() {
    let files = v2(&[]).with(
        "/sys/fs/cgroup",
        &[("memory.current", 90 * MIB), ("memory.max", 100 * MIB)],
    );
    let read = |path: &Path| match path.ends_with("system.slice/memory.current") {
        true => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "Permission denied",
        )),
        false => files.read(path),
    };
    let sample = Plan::discover(0, &read).sample(&read);
    let wanted =
        "cgroup limit not readable: /sys/fs/cgroup/system.slice/memory.current: Permission denied";
    assert_eq!(said(&sample), [wanted]);
}

#[test]
fn nothing_is_missed_where_the_kernel_accounts_no_memory() {
    let mut files = v2(&[]);
    let controllers = PathBuf::from("/sys/fs/cgroup/cgroup.controllers");
    files.0.insert(controllers, "cpuset cpu io pids\n".into());
    assert_eq!(files.sample(0).missing, []);
    files.0.insert(
        "/proc/self/cgroup".into(),
        "1:name=systemd:/init.scope\n".into(),
    );
    assert_eq!(files.sample(0), memory(16_384, 4_096, Source::Host));
    files.0.insert("/proc/self/cgroup".into(), "0::/\n".into());
    assert_eq!(
        files.sample(0).missing,
        [],
        "the root of the hierarchy has no limit"
    );
}

#[test]
fn a_hidden_meminfo_leaves_the_cgroup_to_decide() {
    let mut files = v2(&[
        ("memory.current", "104857600\n"),
        ("memory.max", "1073741824\n"),
    ]);
    files.0.remove(Path::new("/proc/meminfo")); // ProcSubset=pid
    let sample = files.sample(0);
    assert_eq!(sample.memory, memory(1024, 100, Source::CgroupMax).memory);
    let wanted = "host memory not readable: /proc/meminfo: No such file or directory";
    assert_eq!(said(&sample), [wanted]);
}

#[test]
fn with_nothing_readable_the_machine_is_not_watched_and_that_is_said() {
    let sample = Files::new(&[]).sample(0);
    assert_eq!(sample.memory, None);
    assert_eq!(said(&sample).len(), 2);
}

#[test]
fn a_cgroup_without_its_file_system_is_said() {
    let found = find_cgroup(V2_SERVICE, "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
    assert!(matches!(found, Err(Missing::Cgroup(_))), "{found:?}");
}

#[test]
fn a_configured_limit_alone_decides_against_the_nearest_use() {
    let files = v2(&[
        ("memory.current", "104857600\n"),
        ("memory.max", "125829120\n"),
    ]);
    assert_eq!(files.sample(512), memory(512, 100, Source::Configured));
    let mut bare = v2(&[]);
    bare.0.insert("/proc/self/cgroup".into(), "0::/\n".into());
    assert_eq!(bare.sample(8192), memory(8192, 4096, Source::Configured));
}

#[test]
fn no_limit_is_spelled_in_more_than_one_way() {
    assert_eq!(limit_bytes("max\n"), None);
    assert_eq!(limit_bytes("9223372036854771712\n"), None);
    assert_eq!(limit_bytes("18446744073709551616\n"), None);
    assert_eq!(limit_bytes("0\n"), None);
    assert_eq!(limit_bytes("4096\n"), Some(4096));
}

#[test]
fn private_memory_is_rss_anon_less_the_resident_pkg() {
    assert_eq!(
        rss_anon_bytes(b"94071 9800 7649 4 0 2400 0\n"),
        Some((9800 - 7649) * 4096)
    );
    for unreadable in [&b""[..], b"1 2", b"1 x 3 4", b"1 2 -3 4", b"\xff \xff \xff"] {
        assert_eq!(rss_anon_bytes(unreadable), None);
    }
    let own = std::fs::read("/proc/self/statm").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let status = kib_field(&status, "RssAnon").unwrap();
    let statm = rss_anon_bytes(&own).unwrap();
    assert!(
        statm.abs_diff(status) < MIB,
        "statm {statm}, status {status}"
    );
    assert_eq!(private_bytes(10, 4), 6);
    assert_eq!(private_bytes(4, 10), 0);
}

#[test]
fn fields_are_found_by_their_whole_name() {
    assert_eq!(
        stat_field("total_inactive_file 9\ninactive_file 7\n", "inactive_file"),
        Some(7)
    );
    assert_eq!(stat_field("inactive_file_x 7\n", "inactive_file"), None);
    assert_eq!(kib_field("MemTotal: 7 MB\n", "MemTotal"), None);
    assert_eq!(
        kib_field(&format!("MemTotal: {} kB", u64::MAX), "MemTotal"),
        Some(u64::MAX)
    );
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(a in "\\PC*", b in "\\PC*", mounts in mountinfo_like()) {
        let _ = (host_memory(&a), limit_bytes(&a), stat_field(&a, &b), kib_field(&a, &b));
        for cgroup in [a, format!("0::/{b}"), format!("3:memory:{b}")] {
            if let Ok(Some(found)) = find_cgroup(&cgroup, &mounts) {
                prop_assert!(!found.dirs.is_empty());
            }
        }
    }

    #[test]
    fn no_contents_of_files_make_a_sample_panic(texts in prop::collection::vec("[0-9a-z \n]{0,30}|[0-9]{1,21}", 6)) {
        let names = ["memory.current", "memory.max", "memory.high", "memory.stat"];
        let own: Vec<(&str, &str)> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
        let mut files = v2(&own);
        files.0.insert("/proc/meminfo".into(), texts[4].clone());
        let sample = files.sample(0);
        prop_assert!(said(&sample).iter().all(|text| text.contains(" not readable: ")));
    }
}

fn mountinfo_like() -> impl Strategy<Value = String> {
    let line = "[0-9]{1,2} 1 0:2 (/|/a|/a/b|\\\\04|\\\\777|é) (/m|/m\\\\040x|) rw( shared:1)? - (cgroup2?|x) s (rw,memory|rw)";
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}
