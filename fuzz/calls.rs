//! A sequence of C calls, on descriptors that the input made.

use std::ffi::{c_int, c_void};

use luna::capi;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> i32 {
        i32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// One of what `from` has, or -1.
    fn pick(&mut self, from: &[c_int]) -> c_int {
        let n = usize::from(self.byte());
        if n == 255 || from.is_empty() {
            -1
        } else {
            from[n % from.len()]
        }
    }
}

#[derive(Default)]
struct Process {
    fds: Vec<c_int>,
    buffers: Vec<*mut c_void>,
}

/// Most descriptors of one input.
const FDS_MAX: usize = 24;
const ROOM: usize = 2048;

impl Process {
    fn add(&mut self, fd: c_int) {
        if fd >= 0 {
            self.fds.push(fd);
        }
    }

    fn open(&mut self, input: &mut Input<'_>) {
        if self.fds.len() >= FDS_MAX {
            return;
        }
        let domain = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX][usize::from(input.byte() % 3)];
        let kind =
            [libc::SOCK_STREAM, libc::SOCK_STREAM, libc::SOCK_DGRAM][usize::from(input.byte() % 3)];
        // SAFETY: integers only.
        let fd = unsafe {
            match input.byte() % 4 {
                0 => capi::luna_epoll_create1(libc::EPOLL_CLOEXEC),
                _ => capi::luna_socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0),
            }
        };
        self.add(fd);
    }

    fn address(input: &mut Input<'_>) -> (libc::sockaddr_in, u32) {
        // SAFETY: zeros are a sockaddr_in.
        let mut addr: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        addr.sin_family = if input.byte() > 250 {
            u16::from(input.byte())
        } else {
            libc::AF_INET as u16
        };
        addr.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let len = if input.byte() > 250 {
            u32::from(input.byte()) % 17
        } else {
            16
        };
        (addr, len)
    }

    fn name(&mut self, fd: c_int, input: &mut Input<'_>) {
        let (mut addr, mut len) = Self::address(input);
        let other = input.pick(&self.fds);
        let pointer = (&raw mut addr).cast::<libc::sockaddr>();
        // SAFETY: the address is 16 bytes and `len` says no more.
        unsafe {
            match input.byte() % 8 {
                0 | 1 => {
                    capi::luna_bind(fd, pointer, len);
                }
                2 => {
                    capi::luna_listen(fd, input.word());
                }
                3 | 4 => {
                    // To where another of ours listens, if it does.
                    let mut full = 16;
                    capi::luna_getsockname(other, pointer, &raw mut full);
                    capi::luna_connect(fd, pointer, len);
                }
                5 if self.fds.len() < FDS_MAX => {
                    let flags =
                        libc::SOCK_NONBLOCK | if input.byte() > 250 { input.word() } else { 0 };
                    self.add(capi::luna_accept4(
                        fd,
                        pointer,
                        &raw mut len,
                        flags | libc::SOCK_NONBLOCK,
                    ));
                }
                6 => {
                    capi::luna_getpeername(fd, pointer, &raw mut len);
                }
                _ => {
                    capi::luna_shutdown(fd, input.word() % 4);
                }
            }
        }
    }

    fn data(&mut self, fd: c_int, input: &mut Input<'_>) {
        let mut bytes = [0x11u8; ROOM];
        let n = usize::from(input.byte()) * 8;
        let flags = libc::MSG_DONTWAIT
            | libc::MSG_NOSIGNAL
            | if input.byte() > 200 {
                input.word() & 0xff
            } else {
                0
            };
        let mut iov = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: n / 2,
        }; 3];
        iov[1].iov_len = 0;
        // SAFETY: pointers to that many bytes; every descriptor is non-blocking or asked to be.
        unsafe {
            match input.byte() % 6 {
                0 => capi::luna_send(fd, bytes.as_ptr().cast(), n, flags),
                1 => capi::luna_recv(fd, bytes.as_mut_ptr().cast(), n, flags),
                2 => capi::luna_write(fd, bytes.as_ptr().cast(), n),
                3 => capi::luna_read(fd, bytes.as_mut_ptr().cast(), n),
                4 => capi::luna_readv(fd, iov.as_ptr(), i32::from(input.byte() % 4)),
                _ => capi::luna_writev(fd, iov.as_ptr(), i32::from(input.byte() % 4)),
            };
        }
    }

    fn options(&mut self, fd: c_int, input: &mut Input<'_>) {
        let level = [
            libc::SOL_SOCKET,
            libc::IPPROTO_TCP,
            libc::IPPROTO_IP,
            0x7fff,
        ][usize::from(input.byte() % 4)];
        let name = i32::from(input.byte() % 70);
        let mut value = [input.word(), input.word(), 0, 0];
        let mut len = u32::from(input.byte() % 17);
        // Lingering would block the close.
        if (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER) {
            value[1] = 0;
        }
        let pointer = value.as_mut_ptr().cast();
        // SAFETY: 16 bytes, and `len` says no more.
        unsafe {
            if input.byte() & 1 == 0 {
                capi::luna_setsockopt(fd, level, name, pointer, len);
            } else {
                capi::luna_getsockopt(fd, level, name, pointer, &raw mut len);
                assert!(len <= 16);
            }
        }
    }

    fn files(&mut self, fd: c_int, input: &mut Input<'_>) {
        let other = input.pick(&self.fds);
        // SAFETY: integers only; what is closed or replaced is ours.
        unsafe {
            match input.byte() % 8 {
                0 | 1 => {
                    let open = self.fds.contains(&fd);
                    assert_eq!(capi::luna_close(fd) == 0, open, "close({fd})");
                    self.fds.retain(|f| *f != fd);
                }
                2 if self.fds.len() < FDS_MAX => self.add(capi::luna_dup(fd)),
                3 if other >= 0 => {
                    capi::luna_dup2(fd, other);
                }
                4 if self.fds.len() < FDS_MAX => {
                    self.add(capi::luna_fcntl(fd, libc::F_DUPFD_CLOEXEC, 3));
                }
                5 => {
                    capi::luna_fcntl(fd, libc::F_GETFL, 0);
                    capi::luna_fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK as _);
                }
                6 => {
                    let mut n: c_int = 0;
                    capi::luna_ioctl(fd, libc::FIONREAD, (&raw mut n) as _);
                }
                _ => {
                    capi::luna_fd_owned(fd);
                }
            }
        }
    }

    fn events(&mut self, fd: c_int, input: &mut Input<'_>) {
        let other = input.pick(&self.fds);
        let mut event = libc::epoll_event {
            events: input.word() as u32,
            u64: 7,
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let mut polled = [libc::pollfd {
            fd,
            events: input.word() as i16,
            revents: 0,
        }; 2];
        polled[1].fd = other;
        // SAFETY: arrays of the lengths given; no waiting.
        unsafe {
            match input.byte() % 3 {
                0 => capi::luna_epoll_ctl(fd, input.word() % 5, other, (&raw mut event).cast()),
                1 => capi::luna_epoll_wait(fd, events.as_mut_ptr().cast(), 4, 0),
                _ => capi::luna_poll(polled.as_mut_ptr().cast(), 2, 0),
            };
        }
    }

    fn memory(&mut self, input: &mut Input<'_>) {
        let held = self.buffers.len();
        let which = usize::from(input.byte()) % held.max(1);
        // SAFETY: any address is fine for these.
        unsafe {
            match input.byte() % 4 {
                0 if held < 16 => {
                    let size = usize::from(input.byte()) * 17;
                    let buffer = capi::luna_zbuf_alloc(size);
                    if !buffer.is_null() {
                        assert!(capi::luna_zbuf_size(buffer) >= size as isize);
                        self.buffers.push(buffer);
                    }
                }
                1 if held > 0 => {
                    assert_eq!(capi::luna_zbuf_free(self.buffers.swap_remove(which)), 0);
                }
                2 if held > 0 && held < 16 => {
                    assert_eq!(capi::luna_zbuf_ref(self.buffers[which]), 0);
                    self.buffers.push(self.buffers[which]);
                }
                _ => {
                    let wild = input.word() as usize as *const c_void;
                    assert!(wild.is_null() || capi::luna_zbuf_free(wild) == -1);
                    assert_eq!(capi::luna_zbuf_ref(wild), -1);
                }
            }
        }
    }
}

/// A sequence of calls; in the end everything that it opened is closed.
pub(crate) fn calls(data: &[u8]) {
    // As on the kernel, a write to a socket that is not connected raises it.
    // SAFETY: integers only.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let mut input = Input(data);
    let mut process = Process::default();
    let mut steps = 0;
    while !input.0.is_empty() && steps < 300 {
        steps += 1;
        let fd = input.pick(&process.fds);
        match input.byte() % 12 {
            0 | 1 => process.open(&mut input),
            2..=4 => process.name(fd, &mut input),
            5 | 6 => process.data(fd, &mut input),
            7 => process.options(fd, &mut input),
            8 | 9 => process.files(fd, &mut input),
            10 => process.events(fd, &mut input),
            _ => process.memory(&mut input),
        }
    }
    for fd in process.fds {
        // SAFETY: ours.
        assert_eq!(unsafe { capi::luna_close(fd) }, 0, "close({fd}) at the end");
    }
    for buffer in process.buffers {
        // SAFETY: any address is fine.
        assert_eq!(unsafe { capi::luna_zbuf_free(buffer) }, 0);
    }
}
