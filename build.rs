//! Builds what cargo cannot: the XDP steering program. Names the shared library. Writes to
//! `OUT_DIR` only.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    name_the_library();
    if env::var_os("CARGO_FEATURE_XDP").is_some() {
        compile_steering_program();
    }
}

/// Gives `libluna.so` the name under which programs linked to it look for it. The number grows
/// when a function of `luna.h` changes or goes.
fn name_the_library() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libluna.so.0");
}

/// Compiles `port_redirect.bpf.c` to `OUT_DIR/port_redirect.bpf.o`.
fn compile_steering_program() {
    let root = directory("CARGO_MANIFEST_DIR");
    let source = root.join("src/traffic/xdp/port_redirect.bpf.c");
    let object = directory("OUT_DIR").join("port_redirect.bpf.o");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-env-changed=CLANG");

    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb",
        _ => "bpfel",
    };
    let outcome = Command::new(&clang)
        .args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", target, "-c",
        ])
        // Line information names the file as the repository does, wherever it was built.
        .arg(format!("-ffile-prefix-map={}/=", root.display()))
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .status();
    match outcome {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "clang could not compile {}: {status}",
            source.display()
        )),
        Err(error) => fail(&format!(
            "cannot run `{}`: {error}. The AF_XDP device needs clang to compile its steering \
             program: install the package `clang` (or name another with CLANG=…), or build with \
             --no-default-features to leave AF_XDP out",
            Path::new(&clang).display()
        )),
    }
}

fn directory(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => fail(&format!("{variable} is not set: run this through cargo")),
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1);
}
