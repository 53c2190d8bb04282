//! node: its HTTP server and client, over libuv.

use super::bed::{Bed, noise};
use super::common::proc::wait_until;

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
