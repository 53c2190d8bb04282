//! redis: BGSAVE under load, replication, publish and subscribe, pipelining, TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::bed::Bed;
use super::common::luna::Stack;
use super::common::proc::{PATIENCE, Proc, wait_until};

const PROGRAMS: [&str; 4] = ["redis-server", "redis-benchmark", "redis-cli", "openssl"];

fn server<'a>(port: &'a str, folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["redis-server", "--port", port, "--bind", "0.0.0.0"];
    words.extend(["--protected-mode", "no", "--save", "", "--dir", folder]);
    words.extend(more);
    words
}

fn ready(redis: &mut Proc) {
    wait_until("redis to be ready", || {
        assert!(redis.ended().is_none(), "{}", redis.report());
        redis.stdout().contains("Ready to accept connections")
    });
}

fn ask(bed: &Bed, words: &[&str]) -> String {
    let address = bed.pair.a_end.v4.to_string();
    let mut all = vec!["-h", &address];
    all.extend(words);
    bed.pair.b.run("redis-cli", &all)
}

/// Keys are set with pipelining while a child saves them; then each is there, in the server and in
/// a replica that runs on luna at the other end.
#[test]
fn saving_and_replicating_under_load() {
    let Some(bed) = Bed::new(&PROGRAMS, 1) else {
        return;
    };
    let (first, second) = (bed.path("first"), bed.path("second"));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("create a folder");
    }
    let mut main = bed.server(bed.serving("6379"), &server("6379", &first, &[]));
    ready(&mut main);
    let address = bed.pair.a_end.v4.to_string();
    let mut replica = {
        let mut command = Stack::Luna(bed.calling()).command(&bed.pair.b, "redis-server");
        let words = server("6380", &second, &["--replicaof", &address, "6379"]);
        command.args(&words[1..]);
        Proc::start(command)
    };
    ready(&mut replica);
    bed.quiet("load, BGSAVE, replication", || {
        let mut load = bed.pair.b.command("redis-benchmark");
        load.args(["-h", &address, "-q", "-t", "set,get,lpush", "-n", "40000"]);
        load.args(["-P", "16", "-r", "20000", "-d", "100", "-c", "20"]);
        let mut load = Proc::start(load);
        wait_until("keys to save", || ask(&bed, &["dbsize"]).trim() != "0");
        assert!(ask(&bed, &["bgsave"]).contains("started"));
        assert!(load.wait(PATIENCE * 3).success(), "{}", load.report());
        wait_until("the child to have saved", || {
            let state = ask(&bed, &["info", "persistence"]);
            state.contains("rdb_bgsave_in_progress:0") && state.contains("rdb_saves:1")
        });
        assert!(ask(&bed, &["info", "persistence"]).contains("rdb_last_bgsave_status:ok"));
        assert_eq!(ask(&bed, &["wait", "1", "20000"]).trim(), "1");
    });
    let digest = |port: &str, address: &str| {
        let words = [
            "-h",
            address,
            "-p",
            port,
            "--no-auth-warning",
            "debug",
            "digest",
        ];
        bed.pair.b.run("redis-cli", &words)
    };
    let size = ask(&bed, &["dbsize"]);
    let replicated = bed.pair.b.run("redis-cli", &["-p", "6380", "dbsize"]);
    assert_eq!(size, replicated);
    assert!(
        size.trim().parse::<u32>().expect("a number") > 10_000,
        "{size}"
    );
    // Where DEBUG is off, both give the same refusal.
    assert_eq!(digest("6379", &address), digest("6380", "127.0.0.1"));
    let saved = std::fs::metadata(bed.path("first/dump.rdb")).expect("a saved file");
    assert!(saved.len() > 10_000);
    assert!(replica.terminate().success(), "{}", replica.report());
    assert!(main.terminate().success(), "{}", main.report());
}

#[test]
fn publishing() {
    let Some(bed) = Bed::new(&PROGRAMS, 1) else {
        return;
    };
    let folder = bed.path("");
    let mut redis = bed.server(bed.serving("6379"), &server("6379", &folder, &[]));
    ready(&mut redis);
    bed.quiet("publish and subscribe", || {
        let socket = bed.pair.b.enter(|| TcpStream::connect(bed.at(6379)));
        let mut socket = socket.expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.write_all(b"SUBSCRIBE news\r\n").expect("subscribe");
        let mut lines = BufReader::new(&socket)
            .lines()
            .map(|line| line.expect("a line"));
        assert!(lines.any(|line| line == ":1"));
        let receivers = ask(&bed, &["publish", "news", "first"]);
        assert_eq!(receivers.trim(), "1");
        assert!(lines.any(|line| line == "first"));
        let words = [
            "redis-cli",
            "-h",
            &bed.pair.a_end.v4.to_string(),
            "publish",
            "news",
            "x",
        ];
        for (_, command) in bed.clients(&words) {
            assert_eq!(Proc::start(command).succeed(PATIENCE).trim(), "1");
            assert!(lines.any(|line| line == "x"));
        }
    });
}

#[test]
fn over_tls() {
    let Some(bed) = Bed::new(&PROGRAMS, 1) else {
        return;
    };
    bed.certificate();
    let folder = bed.path("");
    let (cert, key) = (bed.path("cert.pem"), bed.path("key.pem"));
    let more = [
        "--tls-port",
        "6390",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ];
    let mut words = server("0", &folder, &more);
    words.extend(["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"]);
    let mut redis = bed.server(bed.serving("6390"), &words);
    ready(&mut redis);
    let address = bed.pair.a_end.v4.to_string();
    bed.quiet("TLS", || {
        let mut words = vec!["redis-benchmark", "-h", &address, "-p", "6390", "--tls"];
        words.extend([
            "--cacert", &cert, "-q", "-t", "set,get", "-n", "3000", "-c", "8",
        ]);
        words.extend(["-d", "3000"]);
        for report in bed.both(&words) {
            assert!(
                report.matches("requests per second").count() >= 2,
                "{report}"
            );
        }
    });
}
