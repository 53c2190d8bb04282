/* Mistakes that other libraries of this kind make or made (shims that put sockets on a stack of
 * their own): one case for each, mostly on descriptors that are not ours at all. */
#include "diff.h"

#define FAMILY "seeds"

static char bytes[64];

/* Flags stripped before it is known whose descriptor it is: a kernel socket that then blocks. */
CASE(flags_reach_kernel_sockets)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        die("socketpair");
    CALL(recv(pair[0], bytes, 10, MSG_DONTWAIT));
    close(pair[1]);
    CALL(send(pair[0], "x", 1, MSG_NOSIGNAL));
    CALL(send(pair[0], "x", 1, 0));
}

/* recvmsg that says "end of stream" on an empty socket. */
CASE(empty_is_not_the_end)
{
    struct iovec part = {bytes, 10};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    int fd = accepted(0);
    CALL(recvmsg(fd, &message, MSG_DONTWAIT));
}

/* sendfile that moves the input's offset, or tells of more than it sent. */
CASE(sendfile_keeps_the_offset)
{
    int fd = accepted(0), file = memfd_create("f", 0);
    off_t offset = 3;
    if (write(file, "0123456789", 10) != 10 || lseek(file, 1, SEEK_SET) != 1)
        die("memfd");
    CALL(sendfile(fd, file, &offset, 100));
    say("offset %ld, position %ld", (long)offset, (long)lseek(file, 0, SEEK_CUR));
    CALL(sendfile(fd, file, NULL, 4));
    say("position %ld", (long)lseek(file, 0, SEEK_CUR));
    close(fd);
    SEES("e0");
}

CASE(sendfile_from_what_is_no_file)
{
    int fd = accepted(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(sendfile(fd, epoll_create1(0), NULL, 4));
    CALL(sendfile(fd, eventfd(1, 0), NULL, 4));
    off_t offset = 0;
    CALL(sendfile(fd, pipes[0], &offset, 4));
}

CASE(sendfile_without_waiting)
{
    static char bulk[100000];
    int fd = accepted_small(0), file = memfd_create("f", 0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    for (int i = 0; i < 10; i++)
        if (write(file, bulk, sizeof bulk) != sizeof bulk)
            die("memfd");
    set_nonblocking(fd, 1);
    off_t offset = 0;
    long total = 0, sent;
    while ((sent = sendfile(fd, file, &offset, 1000000)) > 0)
        total += sent;
    CALL(sent);
    HOLDS(offset == total);
}

/* TCP_INFO of zeros, or of an idle placeholder. */
CASE(information_is_the_connections)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    int fd = accepted(0);
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    say("state %d", info.tcpi_state);
    HOLDS(info.tcpi_snd_mss != 0 && info.tcpi_pmtu != 0);
}

/* Options that are accepted and ignored. */
CASE(close_on_exec_is_kept)
{
    int fd = accepted(0);
    CALL(fcntl(fd, F_SETFD, (long)FD_CLOEXEC));
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_SETFD, 0L));
    CALL(fcntl(fd, F_GETFD));
}

/* ppoll that is not there; epoll_wait on a set of kernel descriptors that fails. */
CASE(ppoll_on_kernel_descriptors)
{
    struct timespec none = {0, 0};
    struct pollfd entry = {eventfd(1, 0), POLLIN, 0};
    CALL(ppoll(&entry, 1, &none, NULL));
    say("%s", poll_text(entry.revents));
}

CASE(set_of_kernel_descriptors)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 9};
    int set = epoll_create1(0), event_fd = eventfd(1, 0);
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, event_fd, &event));
    CALL(epoll_wait(set, &event, 1, 0));
    say("data %d", (int)event.data.u64);
}

/* An event of the application's that looks like an internal one, and vanishes. */
CASE(data_that_looks_like_a_descriptor)
{
    struct epoll_event event = {.events = EPOLLIN}, out;
    int set = epoll_create1(0), seen = 0;
    for (int i = 0; i < 40; i++) {
        event.data.u64 = (uint64_t)i;
        int one = eventfd(1, 0);
        epoll_ctl(set, EPOLL_CTL_ADD, one, &event);
        seen += epoll_wait(set, &out, 1, 0) == 1 && out.data.u64 == event.data.u64;
        close(one);
    }
    say("seen %d", seen);
}

/* ioctl that refuses what it does not know before it looks whose descriptor it is. */
CASE(ioctl_reaches_terminals_and_files)
{
    int file = memfd_create("f", 0), value = 0, pipes[2];
    if (pipe(pipes) != 0 || write(pipes[1], "abc", 3) != 3)
        die("pipe");
    CALL(ioctl(file, TCGETS, bytes));
    CALL(ioctl(pipes[0], FIONREAD, &value));
    say("%d", value);
    CALL(ioctl(pipes[0], TIOCGWINSZ, bytes));
    int terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    if (terminal >= 0)
        CALL(isatty(terminal));
    CALL(ioctl(-1, FIONREAD, &value));
}

/* recvfrom of nothing that fails. */
CASE(receiving_nothing_from_a_datagram_socket)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0 || write(pair[1], "abc", 3) != 3)
        die("socketpair");
    CALL(recvfrom(pair[0], bytes, 0, MSG_DONTWAIT, NULL, NULL));
    CALL(recvfrom(pair[0], NULL, 0, MSG_DONTWAIT, NULL, NULL));
}

/* The write and the exceptional set of select mixed up. */
CASE(sets_of_select_keep_their_places)
{
    int fd = accepted(0), event = eventfd(0, 0);
    fd_set in, out, odd;
    struct timeval none = {0, 0};
    FD_ZERO(&in);
    FD_SET(fd, &in);
    FD_SET(event, &in);
    out = odd = in;
    CALL(select((fd > event ? fd : event) + 1, &in, &out, &odd, &none));
    say("in %d %d, out %d %d, odd %d %d", FD_ISSET(fd, &in), FD_ISSET(event, &in),
        FD_ISSET(fd, &out), FD_ISSET(event, &out), FD_ISSET(fd, &odd), FD_ISSET(event, &odd));
}

/* One event at a time refused. */
CASE(room_for_one_event)
{
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 5}, out;
    int fd = accepted(0), set = epoll_create1(0);
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CALL(epoll_wait(set, &out, 1, 0));
}

/* accept4 without an address that fails. */
CASE(accept4_without_an_address)
{
    int fd = made_listener(SPARE_PORT, 4);
    ask("c0 5");
    CALL(accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) >= 0);
}

/* The address of the peer that is all zero, or of another family. */
CASE(address_of_who_came)
{
    struct sockaddr_in from = {0}, name = {0}, peer = peer_at(0);
    socklen_t len = sizeof from;
    int fd = made_listener(SPARE_PORT, 4);
    ask("c0 5");
    int stream = accept(fd, (struct sockaddr *)&from, &len);
    HOLDS(from.sin_family == AF_INET && from.sin_addr.s_addr == peer.sin_addr.s_addr);
    HOLDS(from.sin_port != 0);
    CALL(getpeername(stream, (struct sockaddr *)&name, &len));
    HOLDS(memcmp(&from, &name, sizeof from) == 0);
    CALL(getsockname(stream, (struct sockaddr *)&name, &len));
    HOLDS(ntohs(name.sin_port) == SPARE_PORT);
    HOLDS(name.sin_addr.s_addr != 0);
}

/* getsockopt on a descriptor of the kernel's that sets instead. */
CASE(getsockopt_only_reads)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CALL(set_int(fd, SOL_SOCKET, SO_BROADCAST, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_BROADCAST));
    CALL(get_int(fd, SOL_SOCKET, SO_BROADCAST));
}

/* fcntl that does not know a command, on a kernel descriptor. */
CASE(fcntl_commands_reach_the_kernel)
{
    int file = memfd_create("f", MFD_ALLOW_SEALING), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(fcntl(file, F_GET_SEALS));
    CALL(fcntl(file, F_ADD_SEALS, (long)F_SEAL_GROW));
    CALL(fcntl(file, F_GET_SEALS));
    CALL(fcntl(pipes[0], F_GETPIPE_SZ) > 0);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CALL(fcntl(file, F_SETLK, &lock));
    CALL(fcntl(file, F_GETLK, &lock));
    CALL(fcntl(file, F_OFD_GETLK, &lock));
    CALL(fcntl(-1, F_GETFL));
}

/* dup2(fd, fd) of a bad number that succeeds. */
CASE(dup2_of_a_bad_number_onto_itself)
{
    CALL(dup2(398, 398));
    CALL(dup3(398, 398, 0));
}

/* F_DUPFD after which the original is of no use. */
CASE(original_survives_its_duplicate)
{
    int fd = accepted(0), copy = fcntl(fd, F_DUPFD, 100L);
    CALL(copy);
    CALL(close(copy));
    CALL(send(fd, "one", 3, 0));
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 100L);
    CALL(close(copy));
    CALL(send(fd, "two", 3, 0));
    SEES("r0 6");
}

/* A registration made before connect that is lost by it (boost::beast). */
CASE(registration_survives_connect)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    struct epoll_event event = {.events = EPOLLIN | EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLET};
    int fd = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    int on = 1;
    CALL(ioctl(fd, FIONBIO, &on));
    CALL(connect(fd, AT(at)));
    event.events |= EPOLLOUT;
    CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    await(fd, POLLOUT);
    CALL(epoll_wait(set, &event, 1, 1000));
    say("%s", epoll_text(event.events));
    ask("a0");
}

/* EPOLLIN, and then nothing to read. */
CASE(readable_means_readable)
{
    int fd = accepted(0);
    ask("l 10 s0 1");
    say("%s", poll_text(ready(fd, POLLIN, 3000)));
    CALL(recv(fd, bytes, 1, MSG_DONTWAIT));
    say("%s", poll_text(ready(fd, POLLIN, 5)));
    CALL(recv(fd, bytes, 1, MSG_DONTWAIT));
}

/* A vector read that crashes after a disconnect. */
CASE(vector_read_after_the_peer_is_gone)
{
    struct iovec parts[2] = {{bytes, 5}, {bytes + 5, 5}};
    int fd = accepted(0);
    ask("x0");
    await(fd, POLLHUP);
    CALL(readv(fd, parts, 2));
    CALL(readv(fd, parts, 2));
    CALL(writev(fd, parts, 2));
}

/* epoll_create(0). */
CASE(epoll_create_checks_its_size)
{
    CALL(epoll_create(0));
    CALL(epoll_create(-5));
    CALL(epoll_create(1) >= 0);
}

/* Java's way to close: a marker is put over the descriptor, then the number is closed. */
CASE(marker_put_over_a_listener)
{
    int fd = made_listener(SPARE_PORT, 4), pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        die("socketpair");
    close(pair[1]);
    CALL(dup2(pair[0], fd) == fd);
    SEES("c0 5");
    CALL(accept(fd, NULL, NULL));
    CALL(close(fd));
}
