//! node: its HTTP server and client, over libuv.

use std::io::Read as _;
use std::net::TcpStream;

use super::bed::{Bed, noise};
use super::common::proc::{PATIENCE, wait_until};

const SERVER: &str = r"
const http = require('http');
http.createServer((request, response) => {
  const sum = require('crypto').createHash('sha256');
  request.on('data', (piece) => sum.update(piece));
  request.on('end', () => response.end(sum.digest('hex')));
}).listen(8003, '0.0.0.0', () => console.log('serving'));
";

/// Posts a file over 10 connections that are kept alive, 8 times each.
const CLIENT: &str = r"
const http = require('http');
const body = require('fs').readFileSync(process.argv[3]);
const want = require('crypto').createHash('sha256').update(body).digest('hex');
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });
let left = 80;
function post() {
  const request = http.request(
    { host: process.argv[2], port: 8003, method: 'POST', agent, timeout: 20000 },
    (response) => {
      let text = '';
      response.on('data', (piece) => { text += piece; });
      response.on('end', () => {
        if (text !== want) { console.log('wrong: ' + text); process.exit(1); }
        if (--left === 0) { console.log('done'); agent.destroy(); }
      });
    });
  request.on('error', (error) => { console.log(error); process.exit(1); });
  request.end(body);
}
for (let i = 0; i < 80; i++) post();
";

#[test]
fn http_server_and_client() {
    let Some(bed) = Bed::new(&["node"], 1) else {
        return;
    };
    let (script, client) = (
        bed.write("server.js", SERVER),
        bed.write("client.js", CLIENT),
    );
    let body = bed.write("body", noise(200_000));
    let mut server = bed.server(bed.serving("8003"), &["node", &script]);
    wait_until("the server", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("serving")
    });
    bed.wait_for_sockets(1, &["LISTEN", ":8003 ", " luna "]);
    let address = bed.pair.a_end.v4.to_string();
    bed.quiet("node", || {
        for report in bed.both(&["node", &client, &address, &body]) {
            assert_eq!(report.trim(), "done");
        }
    });
    assert!(server.ended().is_none(), "{}", server.report());
}

/// The master accepts and hands the connections to its worker.
const CLUSTER: &str = r"
const cluster = require('cluster');
if (cluster.isMaster) {
  cluster.fork();
} else {
  require('net').createServer((socket) => {
    socket.on('error', () => {});
    socket.end('from the worker');
  }).listen(8004, '0.0.0.0', () => console.log('serving'));
}
";

/// A connection of luna's cannot be handed to another process. When the program tries to, the
/// kernel serves it from then on, and one connection is lost.
#[test]
fn a_cluster_is_left_to_the_kernel() {
    let Some(bed) = Bed::new(&["node"], 1) else {
        return;
    };
    let script = bed.write("cluster.js", CLUSTER);
    let mut server = bed.server(bed.serving("8004"), &["node", &script]);
    wait_until("the worker", || {
        assert!(server.ended().is_none(), "{}", server.report());
        server.stdout().contains("serving")
    });
    let read = || {
        let target = bed.at(8004);
        let connect = || TcpStream::connect_timeout(&target, PATIENCE);
        let mut stream = bed.pair.b.enter(connect)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let _lost: std::io::Result<String> = read();
    bed.wait_for_sockets(1, &["LISTEN", ":8004 ", "kernel: passes_connections"]);
    for _ in 0..5 {
        assert_eq!(read().expect("an answer"), "from the worker");
    }
    assert!(server.stderr().contains("port 8004 stays on the kernel"));
    assert!(server.ended().is_none(), "{}", server.report());
}
