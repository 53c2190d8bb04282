//! The loop on kernel sockets over loopback: what needs no shard.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;

use super::*;
use crate::zbuf::OBJECT_BYTES_MAX;

/// What each loop's application was told.
static TOLD: Mutex<Option<HashMap<usize, Vec<String>>>> = Mutex::new(None);

fn tell(from: &Loop<Echo>, what: String) {
    let mut told = TOLD.lock().unwrap();
    let all = told.get_or_insert_default();
    all.entry(from.context()).or_default().push(what);
}

fn told(from: &Loop<Echo>) -> Vec<String> {
    let mut told = TOLD.lock().unwrap();
    told.get_or_insert_default()
        .get(&from.context())
        .cloned()
        .unwrap_or_default()
}

#[derive(Clone, Copy, Debug)]
struct Echo;

#[derive(Clone, Copy, Debug)]
enum Do {
    Say(u32),
    Stop,
    Wait,
    CancelTimer(&'static Mutex<u64>),
}

impl Callbacks for Echo {
    type Task = Do;
    fn accepted(self, from: &Loop<Self>, _: u64, user: usize, _: u64) -> usize {
        tell(from, format!("accepted {user}"));
        user + 1
    }
    fn connected(self, from: &Loop<Self>, _: u64, _: usize, error: i32) {
        tell(from, format!("connected {error}"));
    }
    fn readable(self, from: &Loop<Self>, conn: u64, user: usize, pieces: &[Received]) {
        let bytes: usize = pieces.iter().map(|piece| piece.loan.len()).sum();
        tell(from, format!("readable {user} {bytes}"));
        if pieces.is_empty() {
            from.shutdown(conn).unwrap();
        }
        for piece in pieces {
            assert!(piece.copied, "it is the kernel's");
            assert_eq!(
                crate::socket::buffers::is_writable(piece.loan.as_ptr()),
                Ok(true)
            );
            let out = vec![b'.'; piece.loan.len()];
            let pieces = [Piece {
                bytes: &out,
                token: 5,
            }];
            assert_eq!(from.send(conn, &pieces, 0), Ok(out.len()));
        }
        assert_eq!(from.run(), Err(Errno::BUSY));
    }
    fn writable(self, from: &Loop<Self>, _: u64, _: usize) {
        tell(from, "writable".to_owned());
    }
    fn completed(self, from: &Loop<Self>, _: u64, _: usize, done: &[Completion]) {
        assert!(done.iter().all(|one| one.copied && one.error.is_none()));
        tell(from, format!("completed {}", done.len()));
    }
    fn closed(self, from: &Loop<Self>, _: u64, user: usize, error: i32) {
        tell(from, format!("closed {user} {error}"));
    }
    fn run(task: Do, from: &Loop<Self>) {
        match task {
            Do::Say(number) => tell(from, format!("task {number}")),
            Do::Stop => from.stop(),
            Do::Wait => assert_eq!(from.turn(None), Err(Errno::BUSY)),
            Do::CancelTimer(timer) => {
                tell(from, "tick".to_owned());
                from.cancel_timer(*timer.lock().unwrap()).unwrap();
            }
        }
    }
    fn ready(_: Do, from: &Loop<Self>, fd: RawFd, _: u32) {
        tell(from, "ready".to_owned());
        from.unwatch(fd).unwrap();
    }
}

fn new(context: usize) -> Loop<Echo> {
    let made = Loop::new(Options::default()).unwrap();
    made.set_context(context);
    made
}

fn encoded(address: SocketAddr) -> Encoded {
    addr::encode(address, libc::AF_INET)
}

fn until(from: &Loop<Echo>, done: impl Fn(&[String]) -> bool) {
    let deadline = SystemClock.now() + Duration::from_secs(20);
    while !done(&told(from)) {
        assert!(SystemClock.now() < deadline, "{:?}", told(from));
        from.turn(Some(Duration::from_millis(10))).unwrap();
    }
}

#[test]
fn it_serves_kernel_sockets_by_copying() {
    let from = new(1);
    let any = encoded((Ipv4Addr::LOCALHOST, 0).into());
    let listener = from.listen(&any, 16, Echo, 40).unwrap();
    let name = from.name(listener, false).unwrap();
    let at = addr::decode(&name).unwrap();
    let mut client = TcpStream::connect(at).unwrap();
    client.write_all(b"hello").unwrap();
    until(&from, |told| {
        told.iter().any(|line| line.starts_with("completed"))
    });
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b".....");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    until(&from, |told| {
        told.last().is_some_and(|line| line.starts_with("closed"))
    });
    assert_eq!(
        told(&from),
        [
            "accepted 40",
            "readable 41 5",
            "completed 1",
            "readable 41 0",
            "closed 41 0"
        ]
    );
    assert_eq!(client.read(&mut answer).unwrap(), 0);
    from.close(listener, false).unwrap();
    assert_eq!(from.close(listener, false), Err(Errno::BADF));
    assert!(TcpStream::connect(at).is_err());
}

#[test]
fn a_connect_is_told_how_it_ended() {
    let from = new(2);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    let conn = from.connect(&encoded(at), Echo, 0).unwrap();
    until(&from, |told| told == ["connected 0"]);
    assert_eq!(from.is_accelerated(conn), Ok(false));
    assert_eq!(addr::decode(&from.name(conn, true).unwrap()), Some(at));
    drop(listener);
    let refused = from.connect(&encoded(at), Echo, 0).unwrap();
    until(&from, |told| {
        told.len() >= 2 && told.contains(&"connected 111".to_owned())
    });
    assert_eq!(from.set_user(refused, 1), Err(Errno::BADF));
    from.close(conn, true).unwrap_or(());
    from.shut().unwrap();
}

#[test]
fn timers_posts_and_descriptors_run_on_its_thread() {
    static TIMER: Mutex<u64> = Mutex::new(0);
    let from = new(3);
    let event = sys::OwnFd::eventfd().unwrap();
    from.watch(event.fd(), libc::EPOLLIN as u32, Do::Say(0))
        .unwrap();
    let every = Some(Duration::from_millis(1));
    *TIMER.lock().unwrap() = from
        .add_timer(Duration::from_millis(2), every, Do::CancelTimer(&TIMER))
        .unwrap();
    from.add_timer(Duration::from_millis(1), None, Do::Say(1))
        .unwrap();
    from.add_timer(Duration::from_millis(1), None, Do::Wait)
        .unwrap();
    let cancelled = from.add_timer(Duration::ZERO, None, Do::Say(9)).unwrap();
    from.cancel_timer(cancelled).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.post(Do::Say(2));
            sys::eventfd_raise(event.fd());
            from.post(Do::Say(3));
        });
        until(&from, |told| told.len() == 5);
    });
    let mut all = told(&from);
    let posts: Vec<_> = all
        .iter()
        .filter(|line| line.starts_with("task"))
        .cloned()
        .collect();
    let order = |number| {
        posts
            .iter()
            .position(|line| *line == format!("task {number}"))
    };
    assert!(order(2) < order(3));
    all.sort();
    assert_eq!(all, ["ready", "task 1", "task 2", "task 3", "tick"]);
    assert_eq!(from.unwatch(event.fd()), Err(Errno::NOENT));
}

#[test]
fn another_thread_stops_a_sleeping_loop_and_may_not_use_a_running_one() {
    let from = new(4);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| from.run());
        // Until it has begun, it is nobody's.
        let deadline = SystemClock.now() + Duration::from_secs(20);
        while from.set_user(1, 1) != Err(Errno::BUSY) {
            assert!(SystemClock.now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(from.run(), Err(Errno::BUSY));
        from.post(Do::Say(7));
        from.post(Do::Stop);
        assert_eq!(running.join().unwrap(), Ok(()));
    });
    assert_eq!(told(&from), ["task 7"]);
    assert_eq!(from.set_user(1, 1), Err(Errno::BADF));
}

#[test]
fn buffers_work_without_a_stack() {
    let loan = crate::socket::buffers::alloc(1000).unwrap();
    let pointer = loan.as_ptr();
    assert!(crate::socket::buffers::room(pointer).unwrap() >= 1000);
    assert_eq!(crate::socket::buffers::is_writable(pointer), Ok(true));
    crate::socket::buffers::keep(pointer.wrapping_add(500)).unwrap();
    assert_eq!(crate::socket::buffers::is_writable(pointer), Ok(false));
    let address = pointer.addr();
    std::thread::spawn(move || {
        let pointer = core::ptr::without_provenance::<u8>(address + 999);
        crate::socket::buffers::free(pointer).unwrap();
    })
    .join()
    .unwrap();
    let before = crate::socket::buffers::misuse();
    assert_eq!(crate::socket::buffers::free(pointer), Ok(()));
    assert_eq!(crate::socket::buffers::free(pointer), Err(Errno::INVAL));
    let on_stack = 0u8;
    assert_eq!(
        crate::socket::buffers::free(&raw const on_stack),
        Err(Errno::FAULT)
    );
    let after = crate::socket::buffers::misuse();
    assert!(after.already_free > before.already_free && after.foreign > before.foreign);
    assert_eq!(
        crate::socket::buffers::alloc(OBJECT_BYTES_MAX + 1).map(drop),
        Err(Errno::MSGSIZE)
    );
}
