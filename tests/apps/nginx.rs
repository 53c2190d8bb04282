//! nginx: two workers of an unprivileged user, each with a receive queue of its own.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::bed::{Bed, LOAD, fetch, noise};
use super::common::measure::KernelTcp;
use super::common::netns::checked;
use super::common::proc::{Proc, wait_until};

const PROGRAMS: [&str; 3] = ["nginx", "curl", "openssl"];

/// Debian's defaults where they matter: `user` is left alone, so workers are www-data's.
const CONFIGURATION: &str = "daemon off; worker_processes 2; pid nginx.pid;
error_log stderr error;
events { worker_connections 256; }
http {
  access_log off; sendfile on; keepalive_requests 100000; root html;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
  uwsgi_temp_path t4; scgi_temp_path t5;
  server { listen 80; }
  server { listen 443 ssl http2; ssl_certificate cert.pem; ssl_certificate_key key.pem; }
}
";

fn words<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["nginx", "-p", folder, "-c", "nginx.conf"];
    words.extend(more);
    words
}

/// Starts nginx with a small and a large page, and waits for both workers to be on luna.
fn start(bed: &Bed) -> (Proc, Vec<u8>) {
    let large = noise(6 << 20);
    bed.write("html/large", &large);
    bed.write("html/small", "small\n");
    bed.certificate();
    bed.write("nginx.conf", CONFIGURATION);
    let folder = bed.path("");
    let nginx = bed.server(bed.serving("80,443"), &words(&folder, &[]));
    bed.wait_for_sockets(2, &["nginx/", "LISTEN", "0.0.0.0:80 ", " luna "]);
    (nginx, large)
}

/// Waits until all connections are luna's.
fn wait_for_both(bed: &Bed) {
    wait_until("both workers to take connections", || {
        let before = KernelTcp::of(&bed.pair.a);
        for _ in 0..16 {
            let _page = bed.pair.b.enter(|| fetch(bed.at(80), "/small"));
        }
        KernelTcp::of(&bed.pair.a).segments_since(&before) == 0
    });
}

#[test]
fn two_workers_serve_everything() {
    let Some(bed) = Bed::new(&PROGRAMS, 2) else {
        return;
    };
    let (mut nginx, large) = start(&bed);
    wait_for_both(&bed);
    let url = |scheme: &str, path: &str| format!("{scheme}://{}/{path}", bed.pair.a_end.v4);
    bed.quiet("pages", || {
        for _ in 0..50 {
            let page = bed.pair.b.enter(|| fetch(bed.at(80), "/small"));
            assert_eq!(page.as_deref(), Ok(&b"small\n"[..]));
        }
        for scheme in ["http", "https"] {
            let url = url(scheme, "large");
            // The same connection for all of them, then one connection for each.
            let twice = ["curl", "-sk", "--http1.1", &url, &url];
            for (stack, mut client) in bed.clients(&twice) {
                let output = client.output().expect("run curl");
                assert!(output.status.success(), "{stack} {scheme}: {output:?}");
                assert_eq!(output.stdout.len(), 2 * large.len(), "{stack} {scheme}");
                assert!(output.stdout.chunks(large.len()).all(|half| half == large));
            }
        }
        let url = url("https", "large");
        let format = "%{http_version} %{size_download}";
        for report in bed.both(&[
            "curl",
            "-sk",
            "--http2",
            "-o",
            "/dev/null",
            "-w",
            format,
            &url,
        ]) {
            assert_eq!(report, format!("2 {}", large.len()));
        }
    });
    assert!(nginx.terminate().success(), "{}", nginx.report());
}

/// `nginx -t` listens, but uses no listener: it must not touch the device.
#[test]
fn a_test_of_the_configuration_attaches_nothing() {
    let Some(bed) = Bed::new(&PROGRAMS, 1) else {
        return;
    };
    bed.certificate();
    bed.write("nginx.conf", CONFIGURATION);
    let folder = bed.path("");
    let tested = bed.server(bed.serving("80,443"), &words(&folder, &["-t"]));
    let mut seen = false;
    let mut tested = tested;
    while tested.ended().is_none() {
        let link = bed
            .pair
            .a
            .ip(&["-d", "link", "show", &bed.pair.a_end.interface]);
        seen |= link.contains("xdp");
    }
    assert!(tested.ended().unwrap().success(), "{}", tested.report());
    assert!(
        tested.stderr().contains("successful"),
        "{}",
        tested.report()
    );
    assert!(!seen, "a program was attached");
}

/// Reloads while clients ask, each request on a connection of its own: none may fail.
#[test]
fn a_reload_fails_no_request() {
    let Some(bed) = Bed::new(&PROGRAMS, 4) else {
        return;
    };
    let (mut nginx, _) = start(&bed);
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = std::thread::scope(|scope| {
        let stopping = Stopping(&stop);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    bed.pair.b.enter(|| {
                        while !stop.load(Ordering::Relaxed) {
                            match fetch(bed.at(80), "/small") {
                                Ok(page) if page == b"small\n" => {
                                    count.fetch_add(1, Ordering::Relaxed);
                                }
                                other => failures.push(format!("{other:?}")),
                            }
                        }
                    });
                    failures
                })
            })
            .collect();
        for _ in 0..3 {
            let until = Instant::now() + LOAD / 3;
            let before = workers(&bed);
            kill(nginx.pid(), "HUP");
            wait_for_others(&bed, &before);
            wait_until("some load", || Instant::now() > until);
        }
        drop(stopping);
        let failures = clients.into_iter().map(|client| client.join().unwrap());
        failures.flatten().collect::<Vec<_>>()
    });
    println!(
        "{} requests over three reloads",
        count.load(Ordering::Relaxed)
    );
    assert!(
        failures.is_empty(),
        "{} failed: {:?}",
        failures.len(),
        failures.first()
    );
    assert!(count.load(Ordering::Relaxed) > 500);
    bed.wait_for_sockets(2, &["nginx/", "LISTEN", "0.0.0.0:80 ", " luna "]);
    assert!(nginx.ended().is_none(), "{}", nginx.report());
}

/// A client whose handshake is half done, as the server sees it, is served by the worker that it
/// began with, though nginx allows its workers 100 ms to be relieved.
#[test]
fn a_reload_waits_for_handshakes_that_have_begun() {
    let Some(bed) = Bed::new(&PROGRAMS, 2) else {
        return;
    };
    let (mut nginx, _) = start(&bed);
    wait_for_both(&bed);
    let before = workers(&bed);
    // For the client the connection is there, but neither its acknowledgment nor its request
    // arrives, until the rule goes.
    let rules =
        "add table inet held; add chain inet held out { type filter hook output priority 0; };
        add rule inet held out tcp dport 80 tcp flags & syn == 0 counter drop";
    bed.pair.b.run("nft", &[rules]);
    let held = || {
        bed.pair
            .b
            .run("nft", &["list", "chain", "inet", "held", "out"])
    };
    let page = std::thread::scope(|scope| {
        let client = scope.spawn(|| bed.pair.b.enter(|| fetch(bed.at(80), "/small")));
        wait_until("the request to be held", || !held().contains("packets 0 "));
        kill(nginx.pid(), "HUP");
        wait_until("a new worker", || {
            workers(&bed).iter().any(|pid| !before.contains(pid))
        });
        // As long as nginx would wait, and longer: the old workers stay.
        let until = Instant::now() + LOAD / 8;
        while Instant::now() < until {
            let now = workers(&bed);
            assert!(before.iter().all(|pid| now.contains(pid)), "told to go");
        }
        bed.pair.b.run("nft", &["delete table inet held"]);
        client.join().unwrap()
    });
    assert_eq!(page.as_deref(), Ok(&b"small\n"[..]));
    wait_for_others(&bed, &before);
    wait_for_both(&bed);
    assert!(nginx.ended().is_none(), "{}", nginx.report());
}

/// One worker is killed: the other and the master go on, and the next worker is accelerated too.
#[test]
fn a_killed_worker_harms_nobody() {
    let Some(bed) = Bed::new(&PROGRAMS, 2) else {
        return;
    };
    let (_nginx, _) = start(&bed);
    let before = workers(&bed);
    kill(before[0], "KILL");
    wait_until("a new worker", || {
        let now = workers(&bed);
        now.len() == 2 && !now.contains(&before[0])
    });
    for _ in 0..50 {
        let page = bed.pair.b.enter(|| fetch(bed.at(80), "/small"));
        assert_eq!(page.as_deref(), Ok(&b"small\n"[..]));
    }
    bed.wait_for_sockets(2, &["nginx/", "LISTEN", "0.0.0.0:80 ", " luna "]);
}

fn wait_for_others(bed: &Bed, before: &[u32]) {
    wait_until("new workers to have replaced the old", || {
        let now = workers(bed);
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
}

/// Stops the clients, also when the test fails: it would wait for them for ever.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn kill(pid: u32, signal: &str) {
    checked(Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]));
}

/// The workers that are not on their way out.
fn workers(bed: &Bed) -> Vec<u32> {
    let pids = checked(Command::new("ip").args(["netns", "pids", bed.pair.a.name()]));
    let is_worker = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("worker process") && !line.contains("shutting down")
    };
    pids.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(is_worker)
        .collect()
}
