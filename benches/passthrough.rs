//! What a call costs that is not luna's: the kernel's refusal of `close(-1)`, called directly,
//! through the preload library without luna, and through it with luna active.
//!
//! `cargo bench --bench passthrough`. For the third figure `libluna.so` must have been built
//! (`make build`).

#![allow(missing_docs, reason = "criterion's macros make what they make")]
#![allow(
    clippy::expect_used,
    clippy::missing_safety_doc,
    reason = "a benchmark fails by panicking"
)]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{Criterion, criterion_group, criterion_main};

type Close = unsafe extern "C" fn(libc::c_int) -> libc::c_int;

/// The folder that cargo builds into; the preload library is made there, for cargo does not build
/// a package's own cdylib for its benchmarks.
fn built() -> PathBuf {
    let own = std::env::current_exe().expect("our own path");
    let profile = own.parent().and_then(Path::parent).expect("a folder");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "luna_preload"])
        .arg("--target-dir")
        .arg(profile.parent().expect("a folder"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.expect("run cargo").success());
    profile.to_owned()
}

/// The `close` of a copy of the preload library, which looks at the environment when it is loaded.
fn hooked(folder: &Path) -> Close {
    let path = folder.join("libluna_preload.so");
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: a library of this project, which stays loaded; `close` has the type it always has.
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!library.is_null(), "{path:?}");
        let found = libc::dlsym(library, c"close".as_ptr());
        assert!(!found.is_null(), "no close");
        core::mem::transmute::<*mut libc::c_void, Close>(found)
    }
}

/// A copy in a folder of its own: another library to the dynamic linker.
fn copy(built: &Path, names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        std::fs::copy(built.join(name), folder.path().join(name)).expect("copy a library");
    }
    folder
}

fn pass_through(c: &mut Criterion) {
    let built = built();
    let mut group = c.benchmark_group("close(-1)");
    // SAFETY: the kernel refuses the number.
    group.bench_function("direct", |b| b.iter(|| unsafe { libc::close(-1) }));

    let folder = copy(&built, &["libluna_preload.so"]);
    let inactive = hooked(folder.path());
    // SAFETY: as above.
    group.bench_function("luna inactive", |b| b.iter(|| unsafe { inactive(-1) }));

    if built.join("libluna.so").exists() {
        let folder = copy(&built, &["libluna_preload.so", "libluna.so"]);
        // SAFETY: no other thread reads the environment now.
        unsafe { std::env::set_var("LUNA_DEV", "xdp:lo") };
        let active = hooked(folder.path());
        // SAFETY: as above.
        group.bench_function("luna active", |b| b.iter(|| unsafe { active(-1) }));
    } else {
        eprintln!("no libluna.so in {}: `make build`", built.display());
    }
    group.finish();
}

criterion_group!(benches, pass_through);
criterion_main!(benches);
