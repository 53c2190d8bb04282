//! The `luna` command, from outside.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

use luna::stats::{Board, BoardInfo, Counters, Reason, RowState, RunState, SocketRow};

/// The command without the caller's own settings.
fn luna(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luna"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LUNA_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(mut command: Command) -> (String, String, i32) {
    let Output {
        stdout,
        stderr,
        status,
    } = command.output().unwrap();
    (text(&stdout), text(&stderr), status.code().unwrap_or(-1))
}

/// A board of this test's process, with two sockets.
fn board() -> Board {
    let info = BoardInfo {
        pid: std::process::id(),
        started_s: 1,
        device: "xdp:eth7".into(),
        program: "cli-test".into(),
        shards: 2,
        state: RunState::Running,
        state_reason: Reason::Accelerated,
        ..BoardInfo::default()
    };
    let board = Board::create(&info, 100).unwrap();
    board.publish(
        1,
        &Counters {
            rx_frames: 4711,
            ..Counters::default()
        },
    );
    let local = "10.9.0.1:6379".parse().unwrap();
    let none = "0.0.0.0:0".parse().unwrap();
    let listener = SocketRow::new(RowState::Listen, Reason::ChildProcess, local, none);
    board.update(board.claim().unwrap(), &listener);
    let remote = "10.9.0.2:61440".parse().unwrap();
    let mut row = SocketRow::new(RowState::Established, Reason::Accelerated, local, remote);
    (row.fd, row.bytes_in, row.srtt_us, row.rttvar_us) = (9, 2048, 37, 5);
    board.update(board.claim().unwrap(), &row);
    board
}

#[test]
fn sockets_and_counters_of_this_process_are_shown() {
    let board = board();
    let process = format!("cli-test/{}", std::process::id());
    let lines = |arguments: &[&str]| -> Vec<String> {
        let (stdout, _, code) = run(luna(arguments));
        assert_eq!(code, 0);
        stdout
            .lines()
            .filter(|line| line.starts_with(&process))
            .map(str::to_owned)
            .collect()
    };
    let connected = lines(&["ss"]);
    let [line] = connected.as_slice() else {
        unreachable!("{connected:?}")
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let expected = [
        process.as_str(),
        "9",
        "ESTAB",
        "10.9.0.1:6379",
        "10.9.0.2:61440",
        "luna",
        "0",
        "0",
    ];
    assert_eq!(words.get(..8).unwrap(), expected);
    assert_eq!(words.get(8..).unwrap(), ["2.0K", "0", "0", "37/5us", "-"]);
    let all = lines(&["ss", "-a"]);
    assert_eq!(all.len(), 2);
    assert!(
        all.iter()
            .any(|line| line.contains("LISTEN") && line.contains("child_process"))
    );

    let own = |arguments: &[&str]| -> serde_json::Value {
        let (stdout, _, _) = run(luna(arguments));
        let all: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
        all.into_iter()
            .find(|process| process["pid"] == std::process::id())
            .unwrap()
    };
    let sockets = own(&["ss", "--json"]);
    assert_eq!(sockets["sockets"][0]["reason"], "child_process");
    assert_eq!(sockets["sockets"][1]["bytes_in"], 2048);
    let counters = own(&["stat", "--json"]);
    assert_eq!(counters["shards"][1]["rx_frames"], 4711);
    let (stdout, _, _) = run(luna(&["stat"]));
    assert!(
        stdout.contains("4711") && stdout.contains("Frames received"),
        "{stdout}"
    );

    drop(board);
    assert!(lines(&["ss", "-a"]).is_empty(), "what is gone is not shown");
}

#[test]
fn a_mistake_is_one_line_and_the_program_still_runs() {
    let echo = ["--", "sh", "-c", "echo ran $LUNA_DISABLE"];
    for (options, message) in [
        (vec![], "no link is named"),
        (vec!["--dev", "eth0"], "LUNA_DEV: `eth0` is not valid"),
        (
            vec!["--dev", "pci:3b:00.1,kernel=eth0"],
            "no driver for pci",
        ),
        (vec!["--dev", "xdp:nosuchif0"], "nosuchif0"),
        (
            vec!["--dev", "xdp:lo", "--listen", "80,x"],
            "LUNA_LISTEN: `x` is not valid",
        ),
        (vec!["--config", "/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        let mut arguments = vec!["run"];
        arguments.extend(&options);
        arguments.extend(echo);
        let (stdout, stderr, code) = run(luna(&arguments));
        assert_eq!(
            (stdout.as_str(), code),
            ("ran 1\n", 0),
            "{options:?}: {stderr}"
        );
        assert!(stderr.contains(message), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");

        arguments.insert(1, "--strict");
        let (stdout, _, code) = run(luna(&arguments));
        assert_eq!((stdout.as_str(), code), ("", 2), "{options:?}");
    }
}

#[test]
fn a_program_that_can_not_be_started_gives_the_shells_codes() {
    let disabled = |program: &str| {
        let mut command = luna(&["run", "--", program]);
        command.env("LUNA_DISABLE", "1");
        run(command)
    };
    assert_eq!(disabled("no-such-command-here").2, 127);
    assert_eq!(disabled("/etc/passwd").2, 126);
    let (stdout, stderr, code) = disabled("/bin/true");
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("", "", 0));
}

/// With the libraries beside the command: the environment that the program gets.
#[test]
fn the_program_gets_the_settings() {
    let directory = tempfile::tempdir().unwrap();
    let command = directory.path().join("luna");
    std::fs::copy(env!("CARGO_BIN_EXE_luna"), &command).unwrap();
    std::fs::write(directory.path().join("libluna_preload.so"), "").unwrap();
    let output = Command::new(&command)
        .args([
            "run",
            "--dev",
            "xdp:lo",
            "--listen",
            "7000",
            "--mode",
            "dedicated",
            "--shards",
        ])
        .args([
            "2",
            "--busy",
            "--",
            "sh",
            "-c",
            "echo $LUNA_DEV $LUNA_LISTEN $LUNA_MODE",
        ])
        .env("LUNA_DEV", "xdp:overridden")
        .env("LD_PRELOAD", "libother.so")
        .output()
        .unwrap();
    // The dynamic linker complains about the empty library, by its name, and goes on.
    let stderr = text(&output.stderr);
    let directory = directory.path().canonicalize().unwrap();
    assert!(stderr.contains(directory.to_str().unwrap()), "{stderr}");
    assert!(stderr.contains("libother.so"), "{stderr}");
    assert_eq!(text(&output.stdout), "xdp:lo 7000 dedicated\n");
}

#[test]
fn the_doctor_examines_and_does_not_crash() {
    let (stdout, _, _) = run(luna(&["doctor"]));
    for word in [
        "kernel:",
        "privileges:",
        "huge pages:",
        "client ports",
        "configuration:",
    ] {
        assert!(stdout.contains(word), "{word} in {stdout}");
    }
    let (stdout, _, code) = run(luna(&["doctor", "--dev", "xdp:nosuchif0"]));
    assert!(stdout.contains("FAIL  nosuchif0") && code == 1, "{stdout}");
    let (stdout, _, _) = run(luna(&[
        "doctor",
        "--dev",
        "memif:/a,role=server,ip=1.1.1.1/8",
    ]));
    assert!(stdout.contains("OK    /a: free"), "{stdout}");
    let (stdout, _, code) = run(luna(&[
        "doctor",
        "--dev",
        "memif:/no/such/place,role=server,ip=1.1.1.1/8",
    ]));
    assert!(
        stdout.contains("FAIL  /no/such/place") && code == 1,
        "{stdout}"
    );
    let (stdout, _, _) = run(luna(&[
        "doctor",
        "--dev",
        "memif:/a,role=client,ip=1.1.1.1/8",
    ]));
    assert!(stdout.contains("WARN  /a: no server"), "{stdout}");
}

#[test]
fn help_names_every_setting() {
    let (stdout, _, _) = run(luna(&["run", "--help"]));
    for setting in luna::config::SETTINGS {
        assert!(stdout.contains(setting.variable), "{stdout}");
    }
}
