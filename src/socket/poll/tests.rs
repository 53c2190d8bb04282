use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::socket::description::{self, release};
use crate::socket::runtime::crew::Manner;
use crate::socket::runtime::fake::{self, FakeShard, Link, SOON, attach, socket};
use crate::socket::table;
use crate::stack::Ready;
use crate::sys::EpollEvent;

const IN: i16 = libc::POLLIN;
const OUT: i16 = libc::POLLOUT;

fn bench() -> (Arc<Crew<FakeShard>>, Link) {
    let manner = Manner {
        spin: Duration::from_micros(5),
        ..Manner::default()
    };
    let (crew, mut links) = fake::crew(1, manner);
    (crew, links.remove(0))
}

fn entry(fd: i32, events: i16) -> PollFd {
    PollFd {
        fd,
        events,
        revents: 0x55,
    }
}

fn revents(fds: &[PollFd]) -> Vec<i16> {
    fds.iter().map(|entry| entry.revents).collect()
}

#[test]
fn poll_looks_at_both_sides() {
    let (crew, link) = bench();
    let pin = socket();
    let fd = attach(&pin);
    let (mut peer, kernel) = UnixStream::pair().unwrap();
    let mut fds = [
        entry(kernel.as_raw_fd(), IN),
        entry(fd, IN | OUT),
        entry(-1, IN),
        entry(fd, OUT),
        entry(987_654_321, IN),
    ];
    let poll = |fds: &mut [PollFd], span| poll_with(&crew, fds, Some(span), None, ALWAYS);
    assert_eq!(poll(&mut fds[..4], Duration::from_millis(2)), Ok(0));
    assert_eq!(revents(&fds[..4]), [0; 4]);
    link.send(pin.id(), Ready::IN);
    assert_eq!(poll(&mut fds[..4], SOON), Ok(1));
    peer.write_all(b"x").unwrap();
    fake::set_level(pin.id().to_bits(), Ready::OUT | Ready::HUP);
    assert_eq!(poll(&mut fds, Duration::ZERO), Ok(4));
    let hup = libc::POLLHUP;
    assert_eq!(revents(&fds), [IN, OUT | hup, 0, OUT | hup, libc::POLLNVAL]);
    release(table::remove(fd).unwrap());
}

#[test]
fn poll_sleeps_until_either_side_has_something() {
    let (crew, link) = bench();
    let pin = socket();
    let fd = attach(&pin);
    let (mut peer, kernel) = UnixStream::pair().unwrap();
    let sleep_and = |act: &mut dyn FnMut()| {
        let mut fds = [entry(kernel.as_raw_fd(), IN), entry(fd, IN)];
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let count = poll_with(&crew, &mut fds, None, None, ALWAYS).unwrap();
                (count, revents(&fds))
            });
            link.until("sleep", |_| crew.lanes()[0].is_slept_on());
            act();
            waiter.join().unwrap()
        })
    };
    assert_eq!(
        sleep_and(&mut || link.send(pin.id(), Ready::IN)),
        (1, vec![0, IN])
    );
    fake::set_level(pin.id().to_bits(), Ready::empty());
    assert_eq!(
        sleep_and(&mut || peer.write_all(b"x").unwrap()),
        (1, vec![IN, 0])
    );
    release(table::remove(fd).unwrap());
}

#[test]
fn an_epoll_descriptor_is_readable_when_its_queue_is() {
    let (crew, link) = bench();
    let pin = socket();
    let fd = attach(&pin);
    let (epfd, set) = epoll::create(libc::EPOLL_CLOEXEC).unwrap();
    let epoll = description::create(Kind::Epoll).unwrap();
    epoll.put_set(Arc::clone(&set));
    epoll.attach(epfd).unwrap();
    let wanted = EpollEvent {
        events: libc::EPOLLIN as u32,
        data: 1,
    };
    epoll::change(&set, libc::EPOLL_CTL_ADD, fd, Some(&pin), Some(wanted)).unwrap();
    let mut fds = [entry(epfd, IN)];
    let now = Some(Duration::ZERO);
    assert_eq!(poll_with(&crew, &mut fds, now, None, ALWAYS), Ok(0));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| poll_with(&crew, &mut fds, Some(SOON), None, ALWAYS));
        link.until("sleep", |_| crew.lanes()[0].is_slept_on());
        link.send(pin.id(), Ready::IN);
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
    assert_eq!(fds[0].revents, IN);
    fake::set_level(pin.id().to_bits(), Ready::empty());
    assert_eq!(poll_with(&crew, &mut fds, now, None, ALWAYS), Ok(0));
    release(table::remove(epfd).unwrap());
    release(table::remove(fd).unwrap());
    sys::close(epfd).unwrap();
}

#[test]
fn select_fills_words_and_counts_bits() {
    let (crew, link) = bench();
    let pin = description::create(Kind::Stream).unwrap();
    fake::set_level(pin.id().to_bits(), Ready::empty());
    let placeholder = UnixStream::pair().unwrap();
    let fd = placeholder.0.as_raw_fd();
    pin.attach(fd).unwrap();
    let (kernel, mut peer) = UnixStream::pair().unwrap();
    let other = kernel.as_raw_fd();
    let nfds = fd.max(other) as usize + 1;
    let words = fd_set_words(nfds);
    let with = |fds: &[i32]| {
        let mut set = vec![0_usize; words + 1];
        for fd in fds {
            set[*fd as usize / WORD_BITS] |= 1 << (*fd as usize % WORD_BITS);
        }
        // Beyond what the call may touch.
        set[words] = 0xabcd;
        set
    };
    let run = |read: &mut Vec<usize>, write: &mut Vec<usize>, span: Duration| {
        let mut fds: Vec<PollFd> = Vec::new();
        for fd in [fd, other] {
            let mut events = 0;
            if bit(Some(read), fd as usize) {
                events |= SELECT_IN & !ALWAYS;
            }
            if bit(Some(write), fd as usize) {
                events |= SELECT_OUT & !ALWAYS;
            }
            fds.push(PollFd {
                fd,
                events,
                revents: 0,
            });
        }
        let mut timeout = Some(span);
        let sets = FdSets {
            read: Some(&mut read[..words]),
            write: Some(&mut write[..words]),
            except: None,
        };
        let count = select_with(&crew, fds, sets, &mut timeout, None);
        (count, timeout.unwrap())
    };
    let (mut read, mut write) = (with(&[fd, other]), with(&[fd]));
    let span = Duration::from_millis(3);
    assert_eq!(run(&mut read, &mut write, span), (Ok(0), Duration::ZERO));
    assert_eq!((read, write), (with(&[]), with(&[])));
    link.send(pin.id(), Ready::IN | Ready::OUT);
    peer.write_all(b"x").unwrap();
    let (mut read, mut write) = (with(&[fd, other]), with(&[fd]));
    let (count, left) = run(&mut read, &mut write, SOON);
    assert_eq!(count, Ok(3));
    assert!(left > Duration::ZERO && left < SOON);
    assert_eq!((read, write), (with(&[fd, other]), with(&[fd])));
    release(table::remove(fd).unwrap());
}

#[test]
fn calls_without_anything_of_ours_are_the_kernels() {
    let (kernel, mut peer) = UnixStream::pair().unwrap();
    let fd = kernel.as_raw_fd();
    let mut fds = [entry(fd, IN)];
    assert_eq!(poll(&mut fds, Some(Duration::ZERO), None), Ok(0));
    peer.write_all(b"x").unwrap();
    assert_eq!(poll(&mut fds, None, None), Ok(1));
    let mut read = vec![0; fd_set_words(fd as usize + 1)];
    read[fd as usize / WORD_BITS] = 1 << (fd as usize % WORD_BITS);
    let before = read.clone();
    let sets = FdSets {
        read: Some(&mut read),
        ..FdSets::default()
    };
    let mut timeout = Some(SOON);
    assert_eq!(select(fd + 1, sets, &mut timeout, None), Ok(1));
    assert_eq!(read, before);
    assert!(timeout.unwrap() < SOON);
    assert_eq!(
        select(-1, FdSets::default(), &mut timeout, None),
        Err(Errno::INVAL)
    );
}
