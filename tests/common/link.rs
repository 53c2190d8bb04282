//! A link that the kernel has no part in, with luna at both ends, in one namespace.

use std::net::IpAddr;

use super::luna::{self, Run, Stack};
use super::netns::Netns;
use super::proc::{PATIENCE, Proc, wait_until};
use super::stream::{Io, Outcome, Server, client};

/// Where the test programs meet.
pub const PORT: u16 = 7000;

/// The two ends of a link, in a namespace that has no other network.
pub struct Link {
    pub netns: Netns,
    /// LUNA_DEV of the server's end, and of the client's.
    pub server: String,
    pub client: String,
    /// The server's.
    pub address: IpAddr,
    /// Where the ends' socket is.
    pub folder: tempfile::TempDir,
}

impl Link {
    pub fn serving(&self, port: u16) -> Stack {
        Stack::Luna(Run::listen(&self.server, port))
    }

    pub fn calling(&self) -> Stack {
        let rule = match self.address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Stack::Luna(Run::connect(&self.client, rule))
    }

    pub fn stream_server(&self, connections: u32, io: Io) -> Proc {
        Server {
            netns: &self.netns,
            stack: self.serving(PORT),
            io,
            // The link's own, of which the kernel knows nothing.
            address: self.address,
            port: PORT,
            connections,
        }
        .start()
    }

    /// 64 MiB each way, and all of it right; Mbit/s.
    pub fn exchange_every_byte(&self, io: Io) -> f64 {
        let mut server = self.stream_server(1, io);
        let bytes = (64_u64 << 20).to_string();
        let mut command = client(&self.netns, &self.calling(), "bulk", (self.address, PORT));
        command.args(["--up", &bytes, "--down", &bytes, "--seed", "7"]);
        command.args(["--io", io.word()]);
        let mut sending = Proc::start(command);
        let at_client = Outcome::of_both(&mut sending, &mut server, &bytes);
        at_client.number("mbit")
    }

    /// Starts a client that exchanges messages until `end`.
    fn rpc(&self, end: [&str; 2]) -> Proc {
        let mut command = client(&self.netns, &self.calling(), "rpc", (self.address, PORT));
        command.args(end);
        command.args(["--request", "4096", "--response", "4096"]);
        Proc::start(command)
    }

    /// Kills a busy client `rounds` times, and every third time the server too: each time the
    /// next client is served.
    pub fn kill_either_end(&self, rounds: u32) {
        let mut server = self.stream_server(0, Io::Epoll);
        for round in 0..rounds {
            let mut busy = self.rpc(["--seconds", "600"]);
            // Not before it is in the middle of things: its socket is there and established.
            let pid = busy.pid().to_string();
            wait_until("the client to be connected", || {
                assert!(busy.ended().is_none(), "{}", busy.report());
                let shown = luna::luna_in(&self.netns, &["ss", "-a"]);
                shown
                    .lines()
                    .any(|line| line.contains("ESTAB") && line.contains(&pid))
            });
            if round % 3 == 2 {
                server.kill();
                busy.kill();
                server = self.stream_server(0, Io::Epoll);
            } else {
                busy.kill();
            }
            assert!(server.ended().is_none(), "{}", server.report());
            self.rpc(["--count", "100"]).succeed(PATIENCE);
        }
    }
}
