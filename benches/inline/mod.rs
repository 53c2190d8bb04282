//! 4 KB request and response by reference, both applications called inline (LUNA §5.1).

use luna::device::Pieces;
use luna::stack::testutil::Two;
use luna::stack::{Accepted, App, ConnError, ConnId, Inline, Shard};
use luna::time::{Duration, Instant};
use luna::zbuf::{Area, Pool, PoolConfig, Slice};

use super::{MESSAGE, config, frames, wire};

/// Sends a message whenever one has come, the same bytes each time.
struct Echo {
    message: Slice,
    got: usize,
    messages: usize,
}

impl App for Echo {
    fn accepted(&mut self, _: Instant, _: &mut Shard, _: u64, _: Accepted) -> u64 {
        1
    }

    fn connected(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        conn: ConnId,
        _: u64,
        result: Result<(), ConnError>,
    ) {
        result.expect("a connection");
        self.answer(shard, conn);
    }

    fn readable(
        &mut self,
        _: Instant,
        shard: &mut Shard,
        conn: ConnId,
        _: u64,
        pieces: &mut Pieces,
    ) {
        self.got += pieces.iter().map(|p| p.len()).sum::<usize>();
        if self.got >= MESSAGE {
            self.got -= MESSAGE;
            self.messages += 1;
            self.answer(shard, conn);
        }
    }

    fn closed(&mut self, _: Instant, _: &mut Shard, _: ConnId, _: u64, _: Option<ConnError>) {
        panic!("nobody closes");
    }
}

impl Echo {
    fn new(pool: &mut Pool) -> Inline<Self> {
        let message = pool.copy_in(&[0x5a; MESSAGE]).expect("memory");
        Inline(Self {
            message,
            got: 0,
            messages: 0,
        })
    }

    fn answer(&mut self, shard: &mut Shard, conn: ConnId) {
        let sent = shard.send_slice(conn, self.message.clone(), 0, false);
        assert_eq!(sent, Ok(MESSAGE));
    }
}

pub(super) struct Both {
    two: Two,
    apps: [Inline<Echo>; 2],
}

impl Both {
    pub(super) fn new(checksum_offload: bool) -> Self {
        let area = Area::new(2 << 21).expect("memory");
        let config_of_pool = PoolConfig {
            zones: 2,
            ..PoolConfig::default()
        };
        let mut pool = Pool::new(&area, config_of_pool).expect("pool");
        let mut two = Two::joined_by(wire(checksum_offload));
        let (here, there) = (Two::at(1, 61440), Two::at(0, 80));
        let listen = two.ends[0]
            .listen(there, false, 16, &config(), 1)
            .expect("listen");
        two.ends[0].adopt_listener(listen, 1);
        let client = two.ends[1]
            .connect(two.now, here, there, &config(), 2)
            .expect("connect");
        two.ends[1].adopt(client, 2, false);
        let apps = [Echo::new(&mut pool), Echo::new(&mut pool)];
        Self { two, apps }
    }

    /// Opens the connection and lets every list grow.
    pub(super) fn warm_up(&mut self) {
        self.run(2_000);
    }

    /// Until the client has `messages` answers more. A function of its own, so that callgrind
    /// can be told to count only this.
    #[inline(never)]
    pub(super) fn measured_inline(&mut self, messages: usize) {
        self.run(messages);
    }

    fn run(&mut self, messages: usize) {
        let until = self.apps[1].0.messages + messages;
        while self.apps[1].0.messages < until {
            self.two.now += Duration::from_micros(5);
            let [server, client] = &mut self.apps;
            self.two.turn_with(1, client);
            self.two.turn_with(0, server);
        }
    }

    pub(super) fn frames(&self) -> u64 {
        frames(&self.two)
    }

    pub(super) fn bytes_copied(&self) -> u64 {
        let ends = &self.two.ends;
        let stack = |e: &Shard| e.counters().bytes_copied_in + e.counters().bytes_copied_out;
        ends.iter()
            .map(|e| stack(e) + e.device_stats().bytes_copied)
            .sum()
    }
}
