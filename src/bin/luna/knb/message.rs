//! What both ends of knb agree on: the hello, the bytes that every stream consists of, and how
//! far each end of a connection is.
//!
//! Knows no socket and no clock, so that every stack, luna's and others', runs the same workload.

use std::collections::VecDeque;

/// A connection's first bytes, from the client.
pub(crate) const HELLO_BYTES: usize = 16;
/// The most that is written or verified at once.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// The longest message.
pub(crate) const MESSAGE_BYTES_MAX: u32 = 16 << 20;

const MAGIC: [u8; 4] = *b"KNB1";
/// A stream repeats after so many bytes. Prime, so that what is lost, repeated or swapped, of
/// whatever usual size, does not fit; and short, so that the pattern stays in the first cache.
const PERIOD: usize = 8191;
const FLAG_SHORT: u32 = 1;

/// What one end received is not what the other sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The first bytes are not knb's.
    Hello,
    /// The stream differs in the bytes before this position.
    Bytes(u64),
    /// More arrived than was asked for.
    TooMuch,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hello => write!(out, "the peer is not knb, or of another version"),
            Self::Bytes(position) => write!(out, "wrong payload before byte {position}"),
            Self::TooMuch => write!(out, "more bytes than were asked for"),
        }
    }
}

/// The bytes that a stream repeats. knb's of connection `id` starts at a place of its own.
pub(crate) struct Pattern {
    period: u64,
    bytes: Vec<u8>,
}

impl Pattern {
    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        Self::repeating(&period)
    }

    fn repeating(period: &[u8]) -> Self {
        let bytes = period
            .iter()
            .copied()
            .cycle()
            .take(period.len() + CHUNK_BYTES)
            .collect();
        Self {
            period: period.len() as u64,
            bytes,
        }
    }

    /// At most `len` bytes of a stream from `position`, fewer where a chunk ends.
    #[inline]
    pub(crate) fn at(&self, position: u64, len: u64) -> &[u8] {
        let from = (position % self.period) as usize;
        let len = len.min(CHUNK_BYTES as u64) as usize;
        self.bytes.get(from..from + len).unwrap_or_default()
    }

    #[inline]
    fn matches(&self, mut position: u64, bytes: &[u8]) -> bool {
        bytes.chunks(CHUNK_BYTES).all(|chunk| {
            let expected = self.at(position, chunk.len() as u64);
            position += chunk.len() as u64;
            chunk == expected
        })
    }
}

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Bytes of a request, and of its response.
    pub(crate) size: u32,
    /// The connection's number: where in the pattern its streams start.
    pub(crate) id: u32,
    /// The server closes after one exchange.
    pub(crate) short: bool,
}

impl Hello {
    fn encode(self) -> [u8; HELLO_BYTES] {
        let flags = if self.short { FLAG_SHORT } else { 0 };
        let mut bytes = [0; HELLO_BYTES];
        for (to, word) in bytes.chunks_exact_mut(4).zip([
            MAGIC,
            self.size.to_le_bytes(),
            self.id.to_le_bytes(),
            flags.to_le_bytes(),
        ]) {
            to.copy_from_slice(&word);
        }
        bytes
    }

    fn decode(bytes: [u8; HELLO_BYTES]) -> Result<Self, Wrong> {
        let mut words = bytes
            .chunks_exact(4)
            .map(|word| word.try_into().unwrap_or([0; 4]));
        let mut next = || words.next().unwrap_or_default();
        let (magic, size) = (next(), u32::from_le_bytes(next()));
        let (id, flags) = (u32::from_le_bytes(next()), u32::from_le_bytes(next()));
        if magic != MAGIC || size == 0 || size > MESSAGE_BYTES_MAX || flags > FLAG_SHORT {
            return Err(Wrong::Hello);
        }
        Ok(Self {
            size,
            id,
            short: flags == FLAG_SHORT,
        })
    }

    fn phase(self) -> u64 {
        u64::from(self.id) * 1237 % PERIOD as u64
    }
}

/// The server's end of a connection.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    greeting: Vec<u8>,
    hello: Option<Hello>,
    phase: u64,
    received: u64,
    sent: u64,
    owed: u64,
}

impl Serving {
    /// Takes what arrived, and returns the part of it that is payload.
    #[inline]
    pub(crate) fn received<'b>(
        &mut self,
        pattern: &Pattern,
        bytes: &'b [u8],
        verify: bool,
    ) -> Result<&'b [u8], Wrong> {
        let mut bytes = bytes;
        let hello = match self.hello {
            Some(hello) => hello,
            None => match self.greet(&mut bytes)? {
                Some(hello) => hello,
                None => return Ok(bytes),
            },
        };
        if verify && !pattern.matches(self.phase + self.received, bytes) {
            return Err(Wrong::Bytes(self.received + bytes.len() as u64));
        }
        self.received += bytes.len() as u64;
        let size = u64::from(hello.size);
        // A division costs more than the look: usually one message arrived.
        if self.received >= self.owed + size {
            self.owed = self.received / size * size;
        }
        Ok(bytes)
    }

    #[cold]
    fn greet(&mut self, bytes: &mut &[u8]) -> Result<Option<Hello>, Wrong> {
        let (head, rest) = bytes.split_at(bytes.len().min(HELLO_BYTES - self.greeting.len()));
        self.greeting.extend_from_slice(head);
        *bytes = rest;
        let Ok(whole) = <[u8; HELLO_BYTES]>::try_from(self.greeting.as_slice()) else {
            return Ok(None);
        };
        let hello = Hello::decode(whole)?;
        self.hello = Some(hello);
        self.phase = hello.phase();
        Ok(Some(hello))
    }

    /// What may be sent now, in pieces of a chunk.
    #[inline]
    pub(crate) fn pending<'p>(&self, pattern: &'p Pattern) -> &'p [u8] {
        pattern.at(self.phase + self.sent, self.owed - self.sent)
    }

    #[inline]
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent += count as u64;
    }

    /// Bytes of responses that are complete requests' and not yet sent.
    #[inline]
    pub(crate) fn owed(&self) -> u64 {
        self.owed - self.sent
    }

    /// The one exchange of a short connection is over.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.owed > 0 && self.owed == self.sent && self.hello.is_some_and(|hello| hello.short)
    }

    /// Requests answered.
    pub(crate) fn answered(&self) -> u64 {
        self.hello
            .map_or(0, |hello| self.sent / u64::from(hello.size))
    }
}

/// What a client's connections say and expect.
pub(crate) struct Script {
    requests: Pattern,
    responses: Pattern,
    request_bytes: u64,
    response_bytes: u64,
}

impl Script {
    /// knb's own: requests and responses of one size.
    pub(crate) fn knb(size: u32) -> Self {
        Self {
            requests: Pattern::new(),
            responses: Pattern::new(),
            request_bytes: u64::from(size),
            response_bytes: u64::from(size),
        }
    }

    /// memcached: one key, asked for again and again.
    pub(crate) fn memcached(size: u32) -> Self {
        let (request, value) = ("get knb\r\n", value(size));
        let response = format!("VALUE knb 0 {size}\r\n{value}\r\nEND\r\n");
        Self {
            requests: Pattern::repeating(request.as_bytes()),
            responses: Pattern::repeating(response.as_bytes()),
            request_bytes: request.len() as u64,
            response_bytes: response.len() as u64,
        }
    }
}

/// The largest packet buffer.
const BUFFER_BYTES: usize = 64 << 10;

impl Script {
    /// What the requests repeat, as far as one packet buffer goes.
    pub(crate) fn buffer(&self) -> &[u8] {
        self.requests
            .bytes
            .get(..BUFFER_BYTES)
            .unwrap_or(&self.requests.bytes)
    }
}

fn value(size: u32) -> String {
    "knb ".chars().cycle().take(size as usize).collect()
}

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Asking {
    greeting: Vec<u8>,
    phase: u64,
    /// Of the greeting.
    greeted: usize,
    asked: u64,
    sent: u64,
    received: u64,
    complete: u64,
    /// When the requests under way were made, or should have been.
    starts: VecDeque<u64>,
}

impl Asking {
    pub(crate) fn new(hello: Hello) -> Self {
        Self::after(hello.encode().to_vec(), hello.phase())
    }

    /// To a memcached: the value is stored first, and no answer asked for.
    pub(crate) fn memcached(size: u32) -> Self {
        let store = format!("set knb 0 0 {size} noreply\r\n{}\r\n", value(size));
        Self::after(store.into_bytes(), 0)
    }

    fn after(greeting: Vec<u8>, phase: u64) -> Self {
        Self {
            greeting,
            phase,
            greeted: 0,
            asked: 0,
            sent: 0,
            received: 0,
            complete: 0,
            starts: VecDeque::with_capacity(64),
        }
    }

    /// Queues a request whose time counts from `start`.
    #[inline]
    pub(crate) fn ask(&mut self, script: &Script, start: u64) {
        self.starts.push_back(start);
        self.asked += script.request_bytes;
    }

    /// Requests made and not answered.
    #[inline]
    pub(crate) fn under_way(&self) -> usize {
        self.starts.len()
    }

    /// What is to be sent now, nothing if all that was asked is sent. The first time that is the
    /// greeting with the first request.
    #[inline]
    pub(crate) fn pending<'p>(&self, script: &'p Script, scratch: &'p mut Vec<u8>) -> &'p [u8] {
        let payload = script
            .requests
            .at(self.phase + self.sent, self.asked - self.sent);
        if self.greeted == self.greeting.len() || payload.is_empty() {
            return payload;
        }
        scratch.clear();
        scratch.extend(self.greeting.iter().skip(self.greeted));
        scratch.extend_from_slice(payload);
        scratch
    }

    /// Where in [`Script::buffer`] that which is to be sent now stands, and how much of it;
    /// `None` while there is a greeting to send.
    #[inline]
    pub(crate) fn place(&self, script: &Script) -> Option<(usize, usize)> {
        let from = ((self.phase + self.sent) % script.requests.period) as usize;
        let left = (self.asked - self.sent).min((BUFFER_BYTES - from) as u64) as usize;
        (self.greeted == self.greeting.len()).then_some((from, left))
    }

    #[inline]
    pub(crate) fn sent(&mut self, count: usize) {
        let greeting = count.min(self.greeting.len() - self.greeted);
        self.greeted += greeting;
        self.sent += (count - greeting) as u64;
    }

    /// Takes what arrived; `done` hears when each request that is complete by it was made.
    #[inline]
    pub(crate) fn received(
        &mut self,
        script: &Script,
        bytes: &[u8],
        verify: bool,
        mut done: impl FnMut(u64),
    ) -> Result<(), Wrong> {
        if verify && !script.responses.matches(self.phase + self.received, bytes) {
            return Err(Wrong::Bytes(self.received + bytes.len() as u64));
        }
        self.received += bytes.len() as u64;
        while self.received - self.complete >= script.response_bytes {
            self.complete += script.response_bytes;
            let Some(start) = self.starts.pop_front() else {
                return Err(Wrong::TooMuch);
            };
            done(start);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(hello: Hello, count: u64) -> (Asking, Serving) {
        let (pattern, script) = (Pattern::new(), Script::knb(hello.size));
        let mut scratch = Vec::new();
        let (mut client, mut server) = (Asking::new(hello), Serving::default());
        for start in 0..count {
            client.ask(&script, start);
        }
        let mut finished = Vec::new();
        // Odd pieces, so that every boundary falls everywhere.
        let mut piece = 1;
        while finished.len() < count as usize {
            piece = piece * 7 % 4099 + 1;
            let pending = client.pending(&script, &mut scratch);
            let part = &pending[..pending.len().min(piece)];
            server.received(&pattern, part, true).expect("request");
            let count = part.len();
            client.sent(count);
            let pending = server.pending(&pattern);
            let part = &pending[..pending.len().min(piece)];
            client
                .received(&script, part, true, |start| finished.push(start))
                .expect("response");
            server.sent(part.len());
        }
        assert_eq!(finished, (0..count).collect::<Vec<_>>());
        (client, server)
    }

    #[test]
    fn every_request_is_answered_once_and_in_order() {
        for size in [1, 15, 64, 4096, 65_536, 100_000] {
            let (client, server) = exchange(
                Hello {
                    size,
                    id: 3,
                    short: false,
                },
                5,
            );
            assert_eq!(
                (client.under_way(), server.answered(), server.owed()),
                (0, 5, 0)
            );
        }
    }

    #[test]
    fn a_short_connection_is_over_after_one_exchange() {
        let (_, server) = exchange(
            Hello {
                size: 64,
                id: 1,
                short: true,
            },
            1,
        );
        assert!(server.is_over());
        let (_, server) = exchange(
            Hello {
                size: 64,
                id: 1,
                short: false,
            },
            1,
        );
        assert!(!server.is_over());
    }

    #[test]
    fn a_changed_a_lost_and_a_repeated_byte_are_seen() {
        let pattern = Pattern::new();
        let hello = Hello {
            size: 4096,
            id: 9,
            short: false,
        };
        let good = pattern.at(hello.phase(), 4096).to_vec();
        let mut changed = good.clone();
        changed[4000] ^= 1;
        let lost = [&good[..100], &good[101..]].concat();
        let repeated = [&good[..1448], &good[..1448]].concat();
        for (bad, what) in [(changed, "changed"), (lost, "lost"), (repeated, "repeated")] {
            let mut server = Serving::default();
            server
                .received(&pattern, &hello.encode(), true)
                .expect("hello");
            let seen = server.received(&pattern, &bad, true);
            assert!(matches!(seen, Err(Wrong::Bytes(_))), "{what}: {seen:?}");
        }
    }

    #[test]
    fn memcached_is_asked_in_its_own_words() {
        let (script, mut scratch) = (Script::memcached(6), Vec::new());
        let mut client = Asking::memcached(6);
        client.ask(&script, 7);
        client.ask(&script, 8);
        let said = client.pending(&script, &mut scratch);
        let expected = b"set knb 0 0 6 noreply\r\nknb kn\r\nget knb\r\nget knb\r\n";
        assert_eq!(said, expected);
        client.sent(expected.len());
        let (mut answer, mut done) = (b"VALUE knb 0 6\r\nknb kn\r\nEND\r\n".repeat(2), Vec::new());
        client
            .received(&script, &answer, true, |start| done.push(start))
            .expect("answers");
        assert_eq!(done, [7, 8]);
        answer[3] = b'X';
        assert!(client.received(&script, &answer, true, |_| ()).is_err());
    }

    #[test]
    fn a_stranger_is_refused() {
        let mut server = Serving::default();
        let seen = server.received(&Pattern::new(), b"GET / HTTP/1.1\r\n", true);
        assert_eq!(seen, Err(Wrong::Hello));
    }
}
