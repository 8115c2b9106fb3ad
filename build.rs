//! Builds the C shim and the bindings against one packaged Kamailio (feature `host`); else there is nothing to do.
//! Forbidden here: fetching anything (`./dev build` does that) and guessing: the installed module's flags decide.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "host")]
    host::build();
}

/// The same that memguard-check and the tools use.
#[cfg(feature = "host")]
#[allow(dead_code)] // they use more of it
#[path = "src/fit/mod.rs"]
mod fit;

#[cfg(feature = "host")]
mod host {
    use std::env;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::fit::{Strings, flags};

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
        println!("cargo:rerun-if-changed=src/fit");
        let strings = strings_of(&reference);
        let identity = strings
            .identity()
            .unwrap_or_else(|sentence| panic!("{sentence}"));
        let mut defines = flags::defines(&identity, &strings.flags);
        defines.push("MOD_NAME=\"memguard\"".to_owned());
        defines.push("MOD_NAMEID=memguard".to_owned());

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

        println!(
            "cargo:rustc-env=MEMGUARD_KAMAILIO_VERSION={}",
            strings.version
        );
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

    fn strings_of(module: &Path) -> Strings {
        let bytes = fs::read(module).unwrap_or_else(|e| {
            panic!(
                "cannot read {}: {e}; is Kamailio installed?",
                module.display()
            )
        });
        Strings::of(&bytes).unwrap_or_else(|what| panic!("{} {what}", module.display()))
    }

    fn bindings(clang_args: &[String]) {
        let shim = reader("c_shim/shim.h", clang_args)
            .allowlist_function("mg_.*|register_script_cb|sr_event_register_cb|fork_process|register_procs|run_actions")
            .allowlist_function("counter_register|cfg_declare|cfg_child_init|find_export|sr_wtimer_add|sr_instance_ready")
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
