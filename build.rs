//! Builds the C shim and the bindings against one packaged Kamailio (feature `host`); else there is nothing to do.
//! Forbidden here: fetching anything (`./dev build` does that) and guessing: the installed module's flags decide.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "host")]
    host::build();
}

#[cfg(feature = "host")]
mod host {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Words of `module_flags` whose text is not the define itself, as core/ver_defs.h spells them.
    const RENAMED: &[(&str, &[&str])] = &[
        (
            "FAST_LOCK-ADAPTIVE_WAIT",
            &["FAST_LOCK", "ADAPTIVE_WAIT", "ADAPTIVE_WAIT_LOOPS=1024"],
        ),
        ("FAST_LOCK-BUSY_WAIT", &["FAST_LOCK", "BUSY_WAIT"]),
        ("TLS_PTHREAD_MUTEX_SHARED", &["KSR_PTHREAD_MUTEX_SHARED"]),
    ];

    /// Defines of every Linux build that leave no word in `module_flags` (Makefile.defs, cmake/defs.cmake).
    const SILENT: &[&str] = &[
        "USE_CORE_STATS",
        "STATISTICS",
        "MALLOC_STATS",
        "WITH_XAVP",
        "MEM_JOIN_FREE",
        "CC_GCC_LIKE_ASM",
        "HAVE_GETHOSTBYNAME2",
        "HAVE_UNION_SEMUN",
        "HAVE_SCHED_YIELD",
        "HAVE_MSG_NOSIGNAL",
        "HAVE_MSGHDR_MSG_CONTROL",
        "HAVE_ALLOCA_H",
        "HAVE_TIMEGM",
        "HAVE_SCHED_SETSCHEDULER",
        "HAVE_IP_MREQN",
        "HAVE_EPOLL",
        "HAVE_SIGIO_RT",
        "SIGINFO64_WORKARROUND",
        "HAVE_SELECT",
    ];

    pub fn build() {
        for name in ["MEMGUARD_KAMAILIO_SRC", "MEMGUARD_KAMAILIO_MODULES"] {
            println!("cargo:rerun-if-env-changed={name}");
        }
        let src = folder(
            "MEMGUARD_KAMAILIO_SRC",
            "the src folder of Kamailio's source package",
        );
        let modules = folder(
            "MEMGUARD_KAMAILIO_MODULES",
            "the folder that holds the installed pv.so",
        );
        let reference = modules.join("pv.so");
        println!("cargo:rerun-if-changed={}", reference.display());
        let (version, flags) = reference_strings(&reference);
        let defines = defines(&version, &flags);

        let mut shim = cc::Build::new();
        shim.flag("-isystem") // its headers' own warnings are not ours to mend
            .flag(&src)
            .include("c_shim")
            .warnings(false) // cc's own set; ours are below
            .flag("-fno-strict-aliasing")
            // A mistake that is only a warning of an older compiler must not wait for a newer one.
            .flag("-Wall")
            .flag("-Werror=implicit-function-declaration")
            .flag("-Werror=incompatible-pointer-types")
            .flag("-Werror=int-conversion")
            // Inline functions of Kamailio's headers log where they are: not where that was on this machine.
            .flag(format!("-ffile-prefix-map={}=kamailio", src.display()));
        let mut clang = vec![
            format!("-I{}", src.display()),
            "-Ic_shim".into(),
            "-w".into(),
        ];
        for define in &defines {
            let (name, value) = define.split_once('=').unwrap_or((define, ""));
            if value.is_empty() {
                shim.define(name, None);
                clang.push(format!("-D{name}"));
            } else {
                shim.define(name, value);
                clang.push(format!("-D{name}={value}"));
            }
        }
        for file in c_files() {
            println!("cargo:rerun-if-changed={}", file.display());
            if file.extension().is_some_and(|e| e == "c") {
                shim.file(file);
            }
        }
        shim.compile("memguard_shim");
        bindings(&clang);

        println!("cargo:rustc-env=MEMGUARD_KAMAILIO_VERSION={version}");
        // Failed loads must not leave the allocator tables pointing into unmapped code (sr_module.c dlcloses).
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }

    fn folder(variable: &str, what: &str) -> PathBuf {
        let value = env::var(variable).unwrap_or_else(|_| {
            panic!("{variable} is not set: it names {what}. Run ./dev build, which sets it.")
        });
        PathBuf::from(value)
    }

    fn c_files() -> Vec<PathBuf> {
        let entries = fs::read_dir("c_shim").expect("c_shim is part of the checkout");
        let mut files: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
        files.sort();
        files
    }

    /// The two strings that Kamailio compares at load time, as an installed module carries them
    /// (`kamailio -v` shows other flags from 6.1 on).
    fn reference_strings(module: &Path) -> (String, String) {
        let bytes = fs::read(module).unwrap_or_else(|e| {
            panic!(
                "cannot read {}: {e}; is Kamailio installed?",
                module.display()
            )
        });
        let find = |wanted: &dyn Fn(&str) -> bool| {
            bytes
                .split(|b| *b == 0)
                .filter_map(|s| std::str::from_utf8(s).ok())
                .find(|s| wanted(s))
                .map(str::to_owned)
        };
        let version = find(&|s| s.starts_with("kamailio ") && s.ends_with(')') && s.contains('/'));
        let flags = find(&|s| s.contains("USE_TCP, ") || s.starts_with("USE_TCP"));
        let missing = || -> String { panic!("{} carries no version strings", module.display()) };
        (
            version.unwrap_or_else(missing),
            flags.unwrap_or_else(missing),
        )
    }

    /// "kamailio 5.6.3 (x86_64/linux)" and the flag words, as `-D` options.
    fn defines(version: &str, flags: &str) -> Vec<String> {
        let inner = version
            .split_once('(')
            .map(|(_, r)| r.trim_end_matches(')'))
            .unwrap_or("");
        let (arch, os) = inner.split_once('/').unwrap_or(("x86_64", "linux"));
        let number = version.split(' ').nth(1).unwrap_or("");
        let mut part = number
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or(0));
        let mut next = || part.next().unwrap_or(0u32);
        let value = next() * 1_000_000 + next() * 1000 + next();
        let mut list = vec![
            "NAME=\"kamailio\"".to_owned(),
            format!("VERSION=\"{number}\""),
            format!("ARCH=\"{arch}\""),
            format!("OS_QUOTED=\"{os}\""),
            "OS=linux_".to_owned(),
            "COMPILER=\"cc\"".to_owned(),
            format!("__CPU_{arch}"),
            "__OS_linux".to_owned(),
            format!("VERSIONVAL={value}"),
            "CFG_DIR=\"/etc/kamailio/\"".to_owned(),
            "SHARE_DIR=\"/usr/share/kamailio/\"".to_owned(),
            "RUN_DIR=\"/run/kamailio/\"".to_owned(),
            "MOD_NAME=\"memguard\"".to_owned(),
            "MOD_NAMEID=memguard".to_owned(),
        ];
        for word in flags.split(", ").map(str::trim).filter(|w| !w.is_empty()) {
            match RENAMED.iter().find(|(text, _)| *text == word) {
                Some((_, defines)) => list.extend(defines.iter().map(|d| (*d).to_owned())),
                None => list.push(word.to_owned()),
            }
        }
        for word in SILENT {
            // 5.7 and later print MEM_JOIN_FREE; then the installed module decides.
            let known = list.iter().any(|d| d == word);
            if !(known || *word == "MEM_JOIN_FREE" && value >= 5_007_000) {
                list.push((*word).to_owned());
            }
        }
        list
    }

    fn bindings(clang_args: &[String]) {
        let shim = reader("c_shim/shim.h", clang_args)
            .allowlist_function("mg_.*|register_script_cb|sr_event_register_cb|fork_process|register_procs|run_actions")
            .allowlist_function("counter_register|cfg_declare|cfg_child_init|find_export|sr_wtimer_add")
            .allowlist_function("cfg_register_child|init_shm|sr_kemi_modules_add|sr_corecb_get")
            .allowlist_type("script_cb_flag|counter_handle_t|mg_.*|module_exports_t|cmd_export_t|param_export_t|rpc_export_t|pv_export_t")
            .allowlist_type("sr_pkg_api_t|sr_shm_api_t|cfg_def_t|sr_kemi_t|process_table|mem_info|mem_counter")
            .allowlist_var("mg_.*|_pkg_root|_shm_root|process_no|process_count|pt|pkg_mem_size|shm_mem_size|uid|gid|PROC_.*|SREV_NET_.*")
            .allowlist_var("SR_KEMIP_.*|REQUEST_ROUTE|PARAM_.*|CFG_VAR_.*|CFG_ATOMIC|CNT_F_NO_RESET|L_.*|PRE_SCRIPT_CB|POST_SCRIPT_CB")
            .opaque_type("sip_msg|receive_info|socket_info|dest_info|action|cell|_pv_.*|pv_spec|_IO_FILE")
            .blocklist_type("max_align_t")
            .derive_debug(false)
            .layout_tests(true);
        write(shim, "sys.rs");
        // One by one: the managers' headers define the same macros.
        for manager in ["fm", "qm"] {
            let header = format!("c_shim/layout_{manager}.h");
            let layout = reader(&header, clang_args)
                .allowlist_type("mg_layout_.*")
                .prepend_enum_name(false);
            write(layout, &format!("layout_{manager}.rs"));
        }
    }

    fn reader(header: &str, clang_args: &[String]) -> bindgen::Builder {
        bindgen::Builder::default()
            .header(header)
            .clang_args(clang_args)
    }

    fn write(bindings: bindgen::Builder, name: &str) {
        let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
        bindings
            .generate()
            .expect("bindgen reads the headers of c_shim")
            .write_to_file(out)
            .expect("cargo's OUT_DIR is writable");
    }
}
