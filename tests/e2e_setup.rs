//! A set-up that luna can't work with never hurts the program: one clear line on standard error,
//! and the program runs on the kernel. With `LUNA_STRICT=1` the program ends with that line.

#![cfg(feature = "cli")]
#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

mod common;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::luna::{self, Ends, Run, Stack};
use common::measure::KernelTcp;
use common::netns::{Netns, NetnsPair, checked};
use common::proc::{PATIENCE, Proc, wait_until};
use common::redis;
use common::require::turn;
use common::stream::{self, client, run_client};

const PORT: u16 = 7000;

/// What is wrong with a set-up, and what its line must mention for its reader to know.
struct Fault<'a> {
    name: &'a str,
    /// What replaces the sound options.
    run: Run,
    /// What comes between `ip netns exec NAME` and `luna`: limits, other users.
    wrapper: &'a [&'a str],
    /// Words of which the line must hold at least one, in any case.
    mentions: &'a [&'a str],
}

impl Fault<'_> {
    fn server(&self, pair: &NetnsPair, place: &Path, strict: bool) -> Proc {
        let words = self.run.words();
        let luna = place.join("luna");
        let program = place.join("stream");
        let mut inside: Vec<&str> = self.wrapper.to_vec();
        let (luna, program) = (luna.to_string_lossy(), program.to_string_lossy());
        inside.push(&luna);
        inside.extend(words[1..].iter().map(String::as_str));
        let address = pair.a_end.v4.to_string();
        inside.extend([&*program, "server", "--bind", &address, "--port", "7000"]);
        inside.extend(["--io", "epoll", "--timeout", "120"]);
        let mut command = pair.a.command(inside[0]);
        command.args(&inside[1..]);
        command.env("LUNA_STRICT", if strict { "1" } else { "0" });
        Proc::start(command)
    }

    /// The one line, checked. Giving up may take another.
    fn line(&self, stderr: &str, strict: bool) -> String {
        let mut lines: Vec<&str> = stderr.lines().collect();
        if strict && lines.len() == 2 && lines[1].contains("LUNA_STRICT") {
            lines.pop();
        }
        assert_eq!(
            lines.len(),
            1,
            "{}: one line on standard error, not: {stderr}",
            self.name
        );
        let line = lines[0].to_owned();
        assert!(line.starts_with("luna: "), "{}: {line}", self.name);
        let lower = line.to_lowercase();
        let told = self
            .mentions
            .iter()
            .any(|word| lower.contains(&word.to_lowercase()));
        assert!(
            told,
            "{}: none of {:?} in: {line}",
            self.name, self.mentions
        );
        line
    }

    /// Runs the faulty set-up both ways.
    fn check(&self, pair: &NetnsPair, place: &Path) {
        let mut server = self.server(pair, place, false);
        wait_until("the server to listen on the kernel", || {
            assert!(
                server.ended().is_none(),
                "{}: {}",
                self.name,
                server.report()
            );
            server.stdout().contains("listening")
        });
        let before = KernelTcp::of(&pair.a);
        let target: (IpAddr, u16) = (pair.a_end.v4.into(), PORT);
        let mut command = client(&pair.b, &Stack::Kernel, "rpc", target);
        command.args(["--count", "100", "--timeout", "30"]);
        assert_eq!(run_client(command).number("requests"), 100.0);
        let segments = KernelTcp::of(&pair.a).segments_since(&before);
        assert!(
            segments > 150,
            "{}: on the kernel, yet {segments} segments",
            self.name
        );
        println!("{}: {}", self.name, self.line(&server.stderr(), false));
        server.kill();

        let mut strict = self.server(pair, place, true);
        let status = strict.wait(PATIENCE);
        assert!(
            !status.success(),
            "{}: LUNA_STRICT=1 went on: {}",
            self.name,
            strict.report()
        );
        assert!(
            status.code().is_some(),
            "{}: ended by a signal: {}",
            self.name,
            strict.report()
        );
        self.line(&strict.stderr(), true);
    }
}

/// A folder that everybody can read with `luna`, its libraries and the peer.
fn public_copy() -> tempfile::TempDir {
    let permissions = std::fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new()
        .prefix("luna-e2e-")
        .permissions(permissions)
        .tempdir();
    let folder = folder.expect("create a folder");
    let built = luna::luna().parent().expect("a folder that holds luna");
    let files = ["luna", "libluna.so", "libluna_preload.so"].map(|name| built.join(name));
    for file in files.iter().chain([&PathBuf::from(stream::program())]) {
        let name = file.file_name().expect("a file name");
        std::fs::copy(file, folder.path().join(name)).expect("copy a program");
    }
    folder
}

fn sound(pair: &NetnsPair) -> Run {
    Run {
        environment: Vec::new(),
        ..Run::listen(&pair.a_end.interface, PORT)
    }
}

fn check(fault: impl Fn(&NetnsPair) -> Fault<'_>) {
    if !luna::available() {
        return;
    }
    let Some(_turn) = turn(&["setpriv", "prlimit"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let place = public_copy();
    fault(&pair).check(&pair, place.path());
}

/// The control: without a fault there is nothing on standard error, and nothing on the kernel.
#[test]
fn a_sound_set_up_says_nothing() {
    if !luna::available() {
        return;
    }
    let Some(_turn) = turn(&[]) else { return };
    let pair = NetnsPair::new(1500);
    let place = public_copy();
    let fault = Fault {
        name: "sound",
        run: sound(&pair),
        wrapper: &[],
        mentions: &[],
    };
    for strict in [false, true] {
        let server = fault.server(&pair, place.path(), strict);
        wait_until("the server to listen", || {
            server.stdout().contains("listening")
        });
        let before = KernelTcp::of(&pair.a);
        let target: (IpAddr, u16) = (pair.a_end.v4.into(), PORT);
        let mut command = client(&pair.b, &Stack::Kernel, "rpc", target);
        command.args(["--count", "100", "--timeout", "30"]);
        assert_eq!(run_client(command).number("requests"), 100.0);
        assert_eq!(KernelTcp::of(&pair.a).segments_since(&before), 0);
        assert_eq!(server.stderr(), "");
    }
}

#[test]
fn no_such_interface() {
    check(|pair| Fault {
        name: "no such interface",
        run: Run {
            interface: "nosuch0".to_owned(),
            ..sound(pair)
        },
        wrapper: &[],
        mentions: &["nosuch0"],
    });
}

#[test]
fn interface_without_address() {
    check(|pair| {
        // A second link that nobody has given an address.
        pair.a.ip(&[
            "link", "add", "bare0", "type", "veth", "peer", "name", "bare1",
        ]);
        pair.a.ip(&["link", "set", "bare0", "up"]);
        Fault {
            name: "interface without address",
            run: Run {
                interface: "bare0".to_owned(),
                ..sound(pair)
            },
            wrapper: &[],
            mentions: &["bare0"],
        }
    });
}

#[test]
fn not_root() {
    check(|pair| Fault {
        name: "not root",
        run: sound(pair),
        wrapper: &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ],
        mentions: &["permi", "privilege", "root", "CAP_"],
    });
}

#[test]
fn nonsense_for_ports() {
    for nonsense in ["eighty", "70000", "80-", "7000,,7001", "9-1"] {
        check(|pair| Fault {
            name: "port nonsense",
            run: Run {
                listen: nonsense.to_owned(),
                ..sound(pair)
            },
            wrapper: &[],
            mentions: &["port", "listen"],
        });
    }
}

#[test]
fn another_xdp_program() {
    check(|pair| {
        attach_foreign_program(&pair.a, &pair.a_end.interface);
        Fault {
            name: "another XDP program",
            run: sound(pair),
            wrapper: &[],
            mentions: &["XDP program"],
        }
    });
}

/// Attaches a program that lets everything pass, as somebody else's firewall might be.
fn attach_foreign_program(netns: &Netns, interface: &str) {
    let folder = tempfile::tempdir().expect("create a folder");
    let (source, object) = (folder.path().join("pass.c"), folder.path().join("pass.o"));
    std::fs::write(
        &source,
        "__attribute__((section(\"xdp\"), used)) int pass(void *packet)\n\
         { (void)packet; return 2; }\n\
         char terms[] __attribute__((section(\"license\"), used)) = \"GPL\";\n",
    )
    .expect("write a program");
    let mut clang = Command::new("clang");
    clang
        .args(["-O2", "-g", "-target", "bpf", "-c", "-o"])
        .arg(&object)
        .arg(&source);
    checked(&mut clang);
    netns.ip(&[
        "link",
        "set",
        "dev",
        interface,
        "xdpdrv",
        "obj",
        &object.to_string_lossy(),
        "sec",
        "xdp",
    ]);
}

#[test]
fn queue_taken() {
    if !luna::available() {
        return;
    }
    let Some(_turn) = turn(&["redis-server"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let (stack, _) = Ends::SERVER.stacks(&pair.a_end, &pair.b_end, redis::PORT);
    let _first = redis::start(&pair.a, &stack, redis::PORT);
    let place = public_copy();
    Fault {
        name: "queue taken",
        run: sound(&pair),
        wrapper: &[],
        mentions: &["queue", "in use", "XDP program", "another"],
    }
    .check(&pair, place.path());
    let mut connection = redis::Client::connect(&pair.b, pair.a_end.v4.into(), redis::PORT)
        .expect("connect to the first program");
    connection.ping().expect("the first program is unharmed");
}

#[test]
fn out_of_locked_memory() {
    check(|pair| Fault {
        name: "out of locked memory",
        run: sound(pair),
        // With CAP_IPC_LOCK the limit would not apply.
        wrapper: &[
            "prlimit",
            "--memlock=65536:65536",
            "setpriv",
            "--inh-caps=-ipc_lock",
            "--bounding-set=-ipc_lock",
        ],
        mentions: &["memlock", "locked memory", "memory"],
    });
}

/// The wrappers do what they are for, checked without luna.
#[test]
fn the_wrappers_take_privileges_away() {
    let Some(_turn) = turn(&["setpriv", "prlimit"]) else {
        return;
    };
    let netns = Netns::new("wrap");
    let status = netns.run(
        "setpriv",
        &[
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            "cat",
            "/proc/self/status",
        ],
    );
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let limits = netns.run(
        "prlimit",
        &[
            "--memlock=65536:65536",
            "setpriv",
            "--inh-caps=-ipc_lock",
            "--bounding-set=-ipc_lock",
            "cat",
            "/proc/self/limits",
            "/proc/self/status",
        ],
    );
    let effective = limits
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let effective = u64::from_str_radix(effective.expect("capabilities"), 16).expect("hex");
    assert_eq!(effective >> 14 & 1, 0, "CAP_IPC_LOCK is gone");
    assert_eq!(effective >> 12 & 1, 1, "CAP_NET_ADMIN is not");
    assert!(limits.contains("65536"), "{limits}");
    if common::require::find_program("clang").is_some() {
        let pair = NetnsPair::new(1500);
        attach_foreign_program(&pair.a, &pair.a_end.interface);
        let link = pair
            .a
            .ip(&["-d", "link", "show", "dev", &pair.a_end.interface]);
        assert!(link.contains("prog/xdp"), "{link}");
    }
}
