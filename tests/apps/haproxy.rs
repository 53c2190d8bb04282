//! haproxy: four threads, in TCP and in HTTP mode, between luna on both of its sides and a kernel
//! back end, and with a luna back end.

use super::bed::{Bed, PYTHON, noise};
use super::common::luna::Stack;
use super::common::measure::KernelTcp;
use super::common::proc::{Proc, wait_until};

fn configuration(backend: &str) -> String {
    format!(
        "global\n  nbthread 4\n  maxconn 200\n\
         defaults\n  timeout client 20s\n  timeout server 20s\n  timeout connect 10s\n\
         listen tcp\n  mode tcp\n  bind 0.0.0.0:8081\n  server s {backend}:9000\n\
         listen http\n  mode http\n  bind 0.0.0.0:8082\n  server s {backend}:9000\n"
    )
}

/// The back end is in the client's namespace, on one of the stacks; the client is the kernel's.
fn proxies(backend_on_luna: bool) {
    let Some(bed) = Bed::new(&["haproxy", "curl", "python3"], 1) else {
        return;
    };
    let page = noise(1 << 20);
    bed.write("page", &page);
    let backend = bed.pair.b_end.v4;
    let configured = bed.write("haproxy.cfg", configuration(&backend.to_string()));
    let stack = if backend_on_luna {
        Stack::Luna(super::common::luna::Run::listen(
            &bed.pair.b_end.interface,
            9000,
        ))
    } else {
        Stack::Kernel
    };
    let mut command = stack.command(&bed.pair.b, PYTHON);
    command.args(["-m", "http.server", "--protocol", "HTTP/1.1", "9000"]);
    command.current_dir(bed.folder.path());
    let mut pages = Proc::start(command);
    wait_until("the back end to listen", || {
        assert!(pages.ended().is_none(), "{}", pages.report());
        bed.pair.b.run("ss", &["-Hltn"]).contains(":9000")
    });

    let mut run = bed.serving("8081,8082");
    run.connect = format!("{backend}:9000");
    let mut haproxy = bed.server(run, &["haproxy", "-f", &configured]);
    bed.wait_for_sockets(1, &["haproxy/", "LISTEN", ":8082 ", " luna "]);
    let before = KernelTcp::of(&bed.pair.b);
    bed.quiet("proxied pages", || {
        for port in [8081, 8082] {
            let url = format!("http://{}/page", bed.at(port));
            for _ in 0..4 {
                let mut client = bed.pair.b.command("curl");
                client.args(["-s", "--max-time", "30", &url, &url]);
                let output = client.output().expect("run curl");
                assert!(output.status.success(), "{port}: {output:?}");
                assert_eq!(output.stdout.len(), 2 * page.len(), "port {port}");
                assert!(output.stdout.chunks(page.len()).all(|half| half == page));
            }
        }
    });
    let at_client = KernelTcp::of(&bed.pair.b).segments_since(&before);
    println!("luna back end: {backend_on_luna}: {at_client} segments at the kernel client");
    assert!(haproxy.ended().is_none(), "{}", haproxy.report());
    haproxy.terminate();
    pages.kill();
}

#[test]
fn to_a_kernel_back_end() {
    proxies(false);
}

#[test]
fn to_a_luna_back_end() {
    proxies(true);
}
