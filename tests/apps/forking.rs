//! Servers that fork for each connection: postgres and OpenSSH stay on the kernel, and `luna ss -a`
//! says why. postgres's client is accelerated.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::bed::Bed;
use super::common::luna::{Run, Stack};
use super::common::measure::KernelTcp;
use super::common::netns::checked;
use super::common::proc::{PATIENCE, Proc, wait_until};

/// Where Debian's postgresql-common finds the programs of the newest version.
fn postgres_folder() -> Option<String> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut folders: Vec<_> = versions
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    folders.sort();
    Some(folders.pop()?.to_string_lossy().into_owned())
}

/// Not an error in this test: the server is meant to stay on the kernel.
fn lenient(mut run: Run) -> Run {
    run.environment.clear();
    run
}

#[test]
fn postgres() {
    let Some(bed) = Bed::new(&["psql", "setpriv"], 1) else {
        return;
    };
    let programs = postgres_folder().expect("psql comes with the server's programs");
    let user = checked(Command::new("id").args(["-u", "postgres"]));
    let owner = format!("--reuid={}", user.trim());
    std::fs::set_permissions(bed.folder.path(), std::fs::Permissions::from_mode(0o777))
        .expect("let postgres write");
    let data = bed.path("data");
    let initdb = format!("{programs}/initdb");
    let mut command = Command::new("setpriv");
    command
        .current_dir("/")
        .args([&owner, "--clear-groups", &initdb, "-D", &data]);
    checked(command.args(["-A", "trust", "-N", "-U", "postgres"]));
    let rule = format!("host all all {}/32 trust\n", bed.pair.b_end.v4);
    let access = std::fs::read_to_string(bed.path("data/pg_hba.conf")).expect("read");
    bed.write("data/pg_hba.conf", access + &rule);

    let server = format!("{programs}/postgres");
    let words = [
        "setpriv",
        &owner,
        "--clear-groups",
        &server,
        "-D",
        &data,
        "-h",
        "0.0.0.0",
        "-k",
        "",
    ];
    let mut postgres = bed.server(lenient(bed.serving("5432")), &words);
    wait_until("postgres to be ready", || {
        assert!(postgres.ended().is_none(), "{}", postgres.report());
        postgres.stderr().contains("ready to accept connections")
    });
    bed.wait_for_sockets(
        1,
        &[
            "postgres/",
            "LISTEN",
            ":5432 ",
            "kernel: fork_per_connection",
        ],
    );
    assert!(
        postgres.stderr().contains("LUNA_FORKING"),
        "{}",
        postgres.report()
    );

    let query = "create table t as select n, md5(n::text) as m from generate_series(1, 20000) n; \
                 select count(*), sum(length(m)) from t; drop table t;";
    let address = bed.pair.a_end.v4.to_string();
    let words = ["psql", "-h", &address, "-U", "postgres", "-tAqc", query];
    for (stack, command) in bed.clients(&words) {
        let before = KernelTcp::of(&bed.pair.b);
        assert_eq!(
            Proc::start(command).succeed(PATIENCE).trim(),
            "20000|640000",
            "{stack}"
        );
        let segments = KernelTcp::of(&bed.pair.b).segments_since(&before);
        println!("psql on {stack}: {segments} segments at its kernel");
        assert_eq!(
            segments < 5,
            stack == "luna",
            "{stack}: {segments} segments"
        );
    }
    postgres.terminate();
}

#[test]
fn openssh() {
    let Some(bed) = Bed::new(&["sshd", "ssh", "ssh-keygen"], 1) else {
        return;
    };
    for name in ["host", "user"] {
        let path = bed.path(name);
        checked(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path]));
    }
    let allowed = std::fs::read(bed.path("user.pub")).expect("a public key");
    let allowed = bed.write("allowed", allowed);
    let configuration = format!(
        "Port 2222\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {allowed}\n\
         PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n",
        bed.path("host")
    );
    let configured = bed.write("sshd_config", configuration);
    std::fs::create_dir_all("/run/sshd").expect("sshd's folder");
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &configured];
    let sshd = bed.server(lenient(bed.serving("2222")), &words);
    bed.wait_for_sockets(
        1,
        &["sshd/", "LISTEN", ":2222 ", "kernel: fork_per_connection"],
    );
    let mut command = Stack::Kernel.command(&bed.pair.b, "ssh");
    command.args([
        "-p",
        "2222",
        "-i",
        &bed.path("user"),
        "-o",
        "StrictHostKeyChecking=no",
    ]);
    command.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]);
    command.args([&format!("root@{}", bed.pair.a_end.v4), "echo", "hello"]);
    // root's shell may have much to do before it says anything.
    let output = Proc::start(command).succeed(PATIENCE * 3);
    assert_eq!(output.trim(), "hello", "{}", sshd.report());
}
