//! Builds the C driver against the installed DPDK, and the Rust side of its header. Writes to
//! `OUT_DIR` only.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The first and the first unsupported version: what the driver's calls were the same in.
const VERSIONS: [&str; 2] = ["22.11", "24"];

/// All that Rust sees of the header, sorted.
const ITEMS: [&str; 25] = [
    "luna_dpdk_burst_max",
    "luna_dpdk_copy_bytes_max",
    "luna_dpdk_limits",
    "luna_dpdk_piece",
    "luna_dpdk_piece_checksum_v4",
    "luna_dpdk_piece_checksum_v6",
    "luna_dpdk_piece_copy",
    "luna_dpdk_piece_last",
    "luna_dpdk_private_bytes_max",
    "luna_dpdk_queue",
    "luna_dpdk_queue_setup",
    "luna_dpdk_rx_scatter",
    "luna_dpdk_rx_tcp_checksum",
    "luna_dpdk_segment",
    "luna_dpdk_segment_checksum_good",
    "luna_dpdk_segment_foreign",
    "luna_dpdk_segment_last",
    "luna_dpdk_segments_max",
    "luna_dpdk_setup",
    "luna_dpdk_stats",
    "luna_dpdk_table",
    "luna_dpdk_table_version",
    "luna_dpdk_tx_multi_segment",
    "luna_dpdk_tx_tcp_checksum",
    "luna_dpdk_tx_tso",
];

fn main() {
    for file in ["build.rs", "shim.c", "shim.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    check_version();
    let cflags = pkg_config("--cflags");
    build_driver(&cflags);
    bind(&cflags);
}

fn check_version() {
    let supported = format!("libdpdk >= {}", VERSIONS[0]);
    let too_new = format!("libdpdk < {}", VERSIONS[1]);
    let fits = |condition: &str| {
        let status = Command::new("pkg-config")
            .args(["--exists", condition])
            .status();
        match status {
            Ok(status) => status.success(),
            Err(error) => fail(&format!(
                "cannot run `pkg-config`: {error}. The DPDK device needs it and libdpdk: install \
                 the packages `pkg-config` and `libdpdk-dev`, or build with \
                 --no-default-features --features xdp,cli to leave DPDK out"
            )),
        }
    };
    if !fits(&supported) || !fits(&too_new) {
        let found = Command::new("pkg-config")
            .args(["--modversion", "libdpdk"])
            .output();
        let found = found.map_or_else(|_| String::new(), |output| text(&output.stdout));
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found
        };
        fail(&format!(
            "the DPDK device needs libdpdk from {} to below {} (found: {found}): install the \
             package `libdpdk-dev`, or build with --no-default-features --features xdp,cli to \
             leave DPDK out",
            VERSIONS[0], VERSIONS[1]
        ));
    }
}

/// All of what it says: DPDK's headers depend on its `-include` and `-march`.
fn pkg_config(what: &str) -> Vec<String> {
    match Command::new("pkg-config").args([what, "libdpdk"]).output() {
        Ok(output) if output.status.success() => text(&output.stdout)
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        Ok(output) => fail(&format!(
            "pkg-config {what} libdpdk: {}",
            text(&output.stderr)
        )),
        Err(error) => fail(&format!("pkg-config {what} libdpdk: {error}")),
    }
}

/// `libluna_dpdk.so`, linked to the parts of DPDK that it uses.
fn build_driver(cflags: &[String]) {
    let compiler = cc::Build::new().opt_level(2).get_compiler();
    let root = directory("CARGO_MANIFEST_DIR");
    let mut command = compiler.to_command();
    command
        .args([
            "-std=gnu11",
            "-O2",
            "-g1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
        ])
        .args(["-Wall", "-Wextra", "-Wshadow"])
        .arg(format!("-ffile-prefix-map={}/=", root.display()))
        .args(cflags)
        .arg(root.join("shim.c"))
        .arg("-o")
        .arg(out().join("libluna_dpdk.so"))
        .args([
            "-Wl,-soname,libluna_dpdk.so",
            "-Wl,-z,defs",
            "-Wl,-z,now",
            "-Wl,-z,relro",
        ])
        .arg("-Wl,--as-needed")
        .args(pkg_config("--libs"));
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the C compiler could not build shim.c: {status}")),
        Err(error) => fail(&format!("cannot run the C compiler: {error}")),
    }
}

fn bind(cflags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(cflags)
        .layout_tests(true)
        .derive_default(true)
        .generate_comments(false)
        .use_core()
        .formatter(bindgen::Formatter::None);
    for item in ITEMS {
        builder = builder.allowlist_item(item);
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!(
            "bindgen: {error} (it needs libclang: install the package `libclang-dev`)"
        )),
    };
    if let Err(error) = bindings.write_to_file(out().join("bindings.rs")) {
        fail(&format!("cannot write the bindings: {error}"));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

fn out() -> PathBuf {
    directory("OUT_DIR")
}

fn directory(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => Path::new(&path).to_path_buf(),
        None => fail(&format!("{variable} is not set: run this through cargo")),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1);
}
