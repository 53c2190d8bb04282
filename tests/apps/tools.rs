//! Clients that everybody has: curl, wget, socat; and Python's servers.

use super::bed::{Bed, PYTHON, noise};
use super::common::proc::{PATIENCE, Proc, wait_until};

#[test]
fn http_server_curl_and_wget() {
    let Some(bed) = Bed::new(&["python3", "curl", "wget"], 1) else {
        return;
    };
    let page = noise(3 << 20);
    bed.write("page", &page);
    let words = [PYTHON, "-m", "http.server", "8000"];
    let mut server = bed.server(bed.serving("8000"), &words);
    bed.wait_for_sockets(1, &["python3/", "LISTEN", ":8000 ", " luna "]);
    let url = format!("http://{}/page", bed.at(8000));
    bed.quiet("pages", || {
        for words in [&["curl", "-s", &url][..], &["wget", "-q", "-O", "-", &url]] {
            for (stack, mut client) in bed.clients(words) {
                let output = client.output().expect("run a client");
                assert!(output.status.success(), "{words:?} on {stack}: {output:?}");
                assert_eq!(output.stdout, page, "{words:?} on {stack}");
            }
        }
    });
    assert!(server.ended().is_none(), "{}", server.report());
}

#[test]
fn socat_both_ways() {
    let Some(bed) = Bed::new(&["socat"], 1) else {
        return;
    };
    let data = noise(2 << 20);
    let input = bed.write("input", &data);
    let target = format!("TCP4:{}", bed.at(7001));
    bed.quiet("socat", || {
        for number in 0..2 {
            let output = format!("OPEN:{},creat,trunc", bed.path("output"));
            let words = ["socat", "-u", "TCP4-LISTEN:7001,reuseaddr", &output];
            let mut server = bed.server(bed.serving("7001"), &words);
            bed.wait_for_sockets(1, &["socat/", "LISTEN", ":7001 ", " luna "]);
            let words = ["socat", "-u", &format!("OPEN:{input}"), &target];
            let (_, client) = bed
                .clients(&words)
                .into_iter()
                .nth(number)
                .expect("a client");
            Proc::start(client).succeed(PATIENCE);
            assert!(server.wait(PATIENCE).success(), "{}", server.report());
            assert!(std::fs::read(bed.path("output")).expect("an output") == data);
        }
    });
}

/// An asyncio server that answers each line with its length, and a client with 40 connections.
const ASYNCIO: &str = r"
import asyncio, sys
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(b'%d\n' % len(line))
        await writer.drain()
    writer.close()
async def server():
    s = await asyncio.start_server(serve, '0.0.0.0', 8001, limit=1 << 20)
    print('serving', flush=True)
    await s.serve_forever()
async def one(address, n):
    reader, writer = await asyncio.open_connection(address, 8001)
    for k in range(20):
        line = b'x' * (n * 700 + k) + b'\n'
        writer.write(line)
        assert int(await asyncio.wait_for(reader.readline(), 20)) == len(line)
    writer.close()
    await writer.wait_closed()
async def client(address):
    await asyncio.gather(*(one(address, n) for n in range(40)))
    print('done')
asyncio.run(server() if len(sys.argv) < 2 else client(sys.argv[1]))
";

#[test]
fn asyncio() {
    let Some(bed) = Bed::new(&["python3"], 1) else {
        return;
    };
    let script = bed.write("echo.py", ASYNCIO);
    let mut server = bed.server(bed.serving("8001"), &[PYTHON, &script]);
    wait_until("the server", || server.stdout().contains("serving"));
    bed.wait_for_sockets(1, &["python3/", "LISTEN", ":8001 ", " luna "]);
    bed.quiet("asyncio", || {
        for report in bed.both(&[PYTHON, &script, &bed.pair.a_end.v4.to_string()]) {
            assert_eq!(report.trim(), "done");
        }
    });
    assert!(server.ended().is_none(), "{}", server.report());
}
