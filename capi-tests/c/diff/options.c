/* Socket options that do something, from either end of a connection's life. */
#include "diff.h"

#define FAMILY "options"

static char bytes[256];

static int fresh(void) { return socket(AF_INET, SOCK_STREAM, 0); }

/* ---- what accepted and connected sockets inherit ---- */

struct option {
    const char *name;
    int level, number, value;
};
#define OPTION(level, name, value) {#name, level, name, value}
static const struct option inherited[] = {
    OPTION(IPPROTO_TCP, TCP_NODELAY, 1),       OPTION(IPPROTO_TCP, TCP_CORK, 1),
    OPTION(SOL_SOCKET, SO_KEEPALIVE, 1),       OPTION(IPPROTO_TCP, TCP_KEEPIDLE, 77),
    OPTION(IPPROTO_TCP, TCP_KEEPINTVL, 9),     OPTION(IPPROTO_TCP, TCP_KEEPCNT, 4),
    OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT, 5000), OPTION(IPPROTO_TCP, TCP_LINGER2, 5),
    OPTION(SOL_SOCKET, SO_OOBINLINE, 1),       OPTION(SOL_SOCKET, SO_RCVLOWAT, 3),
    OPTION(SOL_SOCKET, SO_PRIORITY, 4),        OPTION(IPPROTO_IP, IP_TOS, 16),
    OPTION(IPPROTO_IP, IP_TTL, 33),            OPTION(SOL_SOCKET, SO_REUSEPORT, 1),
    OPTION(SOL_SOCKET, SO_SNDBUF, 30000),      OPTION(SOL_SOCKET, SO_RCVBUF, 30000),
    OPTION(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 5000), OPTION(SOL_SOCKET, SO_MARK, 5),
    OPTION(IPPROTO_TCP, TCP_SYNCNT, 4),        OPTION(IPPROTO_TCP, TCP_DEFER_ACCEPT, 0),
    OPTION(IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000), OPTION(SOL_SOCKET, SO_BUSY_POLL, 10),
    OPTION(IPPROTO_IP, IP_RECVTOS, 1),         OPTION(IPPROTO_IP, IP_FREEBIND, 1),
    OPTION(SOL_SOCKET, SO_DONTROUTE, 0),       OPTION(SOL_SOCKET, SO_TIMESTAMP, 1),
    OPTION(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO),
    OPTION(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1), OPTION(IPPROTO_TCP, TCP_SAVE_SYN, 1),
    OPTION(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1), OPTION(SOL_SOCKET, SO_PASSCRED, 1),
    OPTION(SOL_SOCKET, SO_DEBUG, 0),           OPTION(SOL_SOCKET, SO_BROADCAST, 1),
    OPTION(SOL_SOCKET, SO_NO_CHECK, 1),        OPTION(SOL_SOCKET, SO_LOCK_FILTER, 0),
    OPTION(SOL_SOCKET, SO_MAX_PACING_RATE, 1000000),
    OPTION(IPPROTO_TCP, TCP_QUICKACK, 0),      OPTION(IPPROTO_IP, IP_TRANSPARENT, 0),
    OPTION(IPPROTO_TCP, TCP_INQ, 0),
};
#define INHERITED (sizeof inherited / sizeof *inherited)

static void set_and_show(int fd, const struct option *option)
{
    CALL(set_int(fd, option->level, option->number, option->value));
    say("%s is %ld", option->name, get_int(fd, option->level, option->number));
}

enum { BEFORE_LISTEN, AFTER_LISTEN, BEFORE_CONNECT, CONNECTED, ACCEPTED, HOWS };
static const char *const hows[HOWS] = {"before_listen", "after_listen", "before_connect",
                                       "connected", "accepted"};

static void run_inherited(int how, int which)
{
    const struct option *option = &inherited[which];
    struct sockaddr_in at = any_at(SPARE_PORT), peer = peer_at(PEER_PORT);
    int fd = -1;
    if (how == CONNECTED || how == ACCEPTED) {
        fd = how == CONNECTED ? connected(0) : accepted(0);
        set_and_show(fd, option);
        return;
    }
    int own = fresh();
    if (how == BEFORE_CONNECT) {
        set_and_show(own, option);
        CALL(connect(own, AT(peer)));
        ask("a0");
        say("%s is %ld", option->name, get_int(own, option->level, option->number));
        return;
    }
    set_int(own, SOL_SOCKET, SO_REUSEADDR, 1);
    if (how == BEFORE_LISTEN)
        set_and_show(own, option);
    CALL(bind(own, AT(at)));
    CALL(listen(own, 4));
    if (how == AFTER_LISTEN)
        set_and_show(own, option);
    ask("c0 5");
    CALL((fd = accept(own, NULL, NULL)) >= 0);
    say("accepted: %s is %ld", option->name, get_int(fd, option->level, option->number));
    say("listener: %s is %ld", option->name, get_int(own, option->level, option->number));
}

__attribute__((constructor)) static void register_inherited(void)
{
    static struct test_case cases[HOWS * INHERITED];
    static char names[HOWS * INHERITED][64];
    for (size_t i = 0; i < HOWS * INHERITED; i++) {
        size_t which = i / HOWS, how = i % HOWS;
        snprintf(names[i], sizeof names[i], "%s:%s", hows[how], inherited[which].name);
        cases[i] = (struct test_case){.family = FAMILY,
                                      .name = names[i],
                                      .run_with = run_inherited,
                                      .state = (int)how,
                                      .op = (int)which};
        register_case(&cases[i]);
    }
}

/* ---- what they do ---- */

CASE(cork_holds_and_releases)
{
    int fd = accepted(0);
    CALL(set_int(fd, IPPROTO_TCP, TCP_CORK, 1));
    CALL(send(fd, "abc", 3, 0));
    CALL(set_int(fd, IPPROTO_TCP, TCP_CORK, 0));
    SEES("r0 3");
}

CASE(more_is_released_by_the_next)
{
    int fd = accepted(0);
    CALL(send(fd, "abc", 3, MSG_MORE));
    CALL(send(fd, "d", 1, 0));
    SEES("r0 4");
}

CASE(cork_ends_with_close)
{
    int fd = accepted(0);
    CALL(set_int(fd, IPPROTO_TCP, TCP_CORK, 1));
    CALL(send(fd, "abc", 3, 0));
    CALL(close(fd));
    SEES("e0");
}

CASE(error_is_told_once)
{
    int fd = accepted(0);
    ask("x0");
    await(fd, POLLHUP);
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(recv(fd, bytes, 1, 0));
}

CASE(error_of_a_refused_connect)
{
    struct sockaddr_in at = peer_at(REFUSED_PORT);
    int fd = fresh();
    set_nonblocking(fd, 1);
    CALL(connect(fd, AT(at)));
    await(fd, POLLHUP);
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    CALL(connect(fd, AT(at)) == -1 ? -1 : 0);
}

CASE(peer_name_option)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    int fd = accepted(0);
    CALL(getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &at, &len));
    say("length %u", len);
    len = 4;
    CALL(getsockopt(fd, SOL_SOCKET, SO_PEERNAME, &at, &len));
}

CASE(cookies_differ)
{
    uint64_t one = 0, two = 0;
    socklen_t len = sizeof one;
    int a = accepted(0), b = accepted(1);
    CALL(getsockopt(a, SOL_SOCKET, SO_COOKIE, &one, &len));
    CALL(getsockopt(b, SOL_SOCKET, SO_COOKIE, &two, &len));
    HOLDS(one != two && one != 0);
    len = 4;
    CALL(getsockopt(a, SOL_SOCKET, SO_COOKIE, &one, &len));
}

CASE(information)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    int fd = accepted(0);
    ask("s0 100");
    await_bytes(fd, 100);
    memset(&info, 0xff, sizeof info);
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    say("length %u, state %d, retransmits %d, ca state %d", len, info.tcpi_state,
        info.tcpi_retransmits, info.tcpi_ca_state);
    HOLDS(info.tcpi_snd_mss > 500 && info.tcpi_rcv_mss > 0);
    HOLDS(info.tcpi_rto > 0 && info.tcpi_snd_cwnd > 0);
    HOLDS(info.tcpi_options & TCPI_OPT_TIMESTAMPS);
    /* The C library's struct is older than this field. */
    char longer[256];
    uint64_t received = 0;
    len = sizeof longer;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, longer, &len));
    memcpy(&received, longer + 128, sizeof received);
    HOLDS(received == 100);
    len = 8;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    say("length %u", len);
}

CASE(queues)
{
    int value = -1, fd = accepted(0);
    ask("s0 100");
    await_bytes(fd, 100);
    CALL(ioctl(fd, SIOCINQ, &value));
    say("%d", value);
    CALL(recv(fd, bytes, 60, 0));
    CALL(ioctl(fd, SIOCINQ, &value));
    say("%d", value);
    CALL(send(fd, bytes, 50, 0));
    SEES("r0 50");
    long end = now_ms() + 2000;
    do
        if (ioctl(fd, SIOCOUTQ, &value) != 0)
            die("SIOCOUTQ");
    while (value != 0 && now_ms() < end);
    say("%d", value);
}

CASE(queues_of_a_full_socket)
{
    int all = -1, unsent = -1, fd = accepted_small(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    fill(fd);
    CALL(ioctl(fd, SIOCOUTQ, &all));
    CALL(ioctl(fd, SIOCOUTQNSD, &unsent));
    HOLDS(all > 0 && unsent > 0 && unsent <= all);
}

CASE(queue_after_fin)
{
    int value = -1, fd = accepted(0);
    ask("s0 10");
    ask("f0");
    await(fd, POLLRDHUP);
    CALL(ioctl(fd, FIONREAD, &value));
    say("%d", value);
    CALL(recv(fd, bytes, 10, 0));
    CALL(ioctl(fd, FIONREAD, &value));
    say("%d", value);
}

CASE(urgent_byte_arrives)
{
    int fd = accepted(0);
    ask("s0 3");
    await_bytes(fd, 3);
    CALL(set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1));
    ask("o0");
    await_bytes(fd, 4);
    CALL(recv(fd, bytes, 10, MSG_PEEK) >= 3);
}

CASE(urgent_bytes_without_any)
{
    int fd = accepted(0), mark = -1;
    set_nonblocking(fd, 1);
    CALL(recv(fd, bytes, 1, MSG_OOB));
    CALL(set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1));
    CALL(recv(fd, bytes, 1, MSG_OOB));
    CALL(ioctl(fd, SIOCATMARK, &mark));
    say("%d", mark);
    CALL(sockatmark(fd));
}

CASE(congestion_control_by_name)
{
    char name[16] = "";
    socklen_t len = sizeof name;
    int fd = accepted(0);
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    say("%s, length %u", name, len);
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5));
    len = sizeof name;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    say("%s", name);
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "absent", 6));
    len = 3;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len));
    say("length %u", len);
}

CASE(the_rate_in_either_size)
{
    uint64_t rate = 0x1122334455, shown_rate = 0;
    unsigned shorter = 0;
    int fd = accepted(0);
    socklen_t len = sizeof shown_rate;
    CALL(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &shown_rate, &len));
    say("%llx, length %u", (unsigned long long)shown_rate, len);
    CALL(setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate));
    CALL(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &shown_rate, &len));
    say("%llx, length %u", (unsigned long long)shown_rate, len);
    len = sizeof shorter;
    CALL(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &shorter, &len));
    say("%x, length %u", shorter, len);
    CALL(set_int(fd, SOL_SOCKET, SO_MAX_PACING_RATE, -1));
    len = sizeof shown_rate;
    CALL(getsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &shown_rate, &len));
    say("%llx, length %u", (unsigned long long)shown_rate, len);
    CALL(setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, 2));
}

CASE(the_rate_is_kept)
{
    static char many[40000];
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_MAX_PACING_RATE, 100000));
    long start = now_ms();
    CALL(send(fd, many, sizeof many, 0));
    ask("r0 %d", (int)sizeof many);
    long took = now_ms() - start;
    /* Ten segments go at once on Linux, two here. */
    HOLDS(took >= 150 && took < 2000);
}

CASE(bound_to_the_device)
{
    char name[IFNAMSIZ] = "";
    socklen_t len = sizeof name;
    int fd = fresh();
    struct sockaddr_in at = any_at(SPARE_PORT);
    CALL(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
    say("length %u", len);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, own_device(), (socklen_t)strlen(own_device())));
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    ask("c0 5");
    int stream = accept(fd, NULL, NULL);
    HOLDS(stream >= 0);
    len = sizeof name;
    CALL(getsockopt(stream, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
    HOLDS(strcmp(name, own_device()) == 0);
}

CASE(bound_to_loopback)
{
    int fd = fresh();
    struct sockaddr_in at = any_at(SPARE_PORT), local = loopback_at(SPARE_PORT);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    SEES("c0 5");
    int client = fresh();
    CALL(connect(client, AT(local)));
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(bound_to_the_device_and_connected)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = fresh();
    CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, own_device(), (socklen_t)strlen(own_device())));
    CALL(connect(fd, AT(at)));
    SEES("a0");
    fd = fresh();
    CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    set_nonblocking(fd, 1);
    CALL(connect(fd, AT(at)) == -1 ? -1 : 0);
}

CASE(free_bind)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int fd = fresh();
    at.sin_addr.s_addr = htonl(0x0a630909);
    CALL(bind(fd, AT(at)));
    CALL(set_int(fd, IPPROTO_IP, IP_FREEBIND, 1));
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    CALL(get_int(fd, SOL_SOCKET, SO_ACCEPTCONN));
}

/* ---- two families ---- */

static int listener6(int v6only)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)SPARE_PORT)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only));
    CALL(bind(fd, AT(at)));
    CALL(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6only));
    CALL(listen(fd, 4));
    return fd;
}

static void accept6(int fd, const char *command)
{
    struct sockaddr_in6 from;
    socklen_t len = sizeof from;
    SEES("%s", command);
    int stream = accept(fd, (struct sockaddr *)&from, &len);
    HOLDS(stream >= 0);
    say("length %u, family %d, mapped %d", len, from.sin6_family,
        IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
    len = sizeof from;
    CALL(getsockname(stream, (struct sockaddr *)&from, &len));
    say("length %u, family %d, mapped %d", len, from.sin6_family,
        IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
    CALL(get_int(stream, SOL_SOCKET, SO_DOMAIN));
    CALL(get_int(stream, IPPROTO_IPV6, IPV6_V6ONLY));
    CALL(set_int(stream, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    CALL(send(stream, "six", 3, 0));
    SEES("r%c 3", command[1]);
}

CASE(both_families)
{
    int fd = listener6(0);
    accept6(fd, "C0 5");
    accept6(fd, "c1 5");
}

CASE(only_version_six)
{
    int fd = listener6(1);
    accept6(fd, "C0 5");
    SEES("c1 5");
}

CASE(only_version_six_beside_four)
{
    int six = listener6(1), four = made_listener(SPARE_PORT, 4);
    SEES("C0 5");
    SEES("c1 5");
    CALL(accept(six, NULL, NULL) >= 0);
    CALL(accept(four, NULL, NULL) >= 0);
}

CASE(mapped_destination)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6, .sin6_port = at.sin_port}, name;
    socklen_t len = sizeof name;
    mapped.sin6_addr.s6_addr[10] = mapped.sin6_addr.s6_addr[11] = 0xff;
    memcpy(&mapped.sin6_addr.s6_addr[12], &at.sin_addr, 4);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    CALL(connect(fd, AT(mapped)));
    SEES("a0");
    CALL(getpeername(fd, (struct sockaddr *)&name, &len));
    say("length %u, mapped %d", len, IN6_IS_ADDR_V4MAPPED(&name.sin6_addr));
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    CALL(set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    CALL(connect(fd, AT(mapped)));
}

CASE(wrong_family_of_destination)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    struct sockaddr_in6 at6 = peer_at6(PEER_PORT);
    int four = fresh(), six = socket(AF_INET6, SOCK_STREAM, 0);
    CALL(connect(four, AT(at6)));
    CALL(connect(six, AT(at)));
    CALL(connect(six, (struct sockaddr *)&at6, 20));
}

/* ---- ports and addresses ---- */

CASE(port_in_use)
{
    struct sockaddr_in at = any_at(port);
    int fd = fresh();
    CALL(bind(fd, AT(at)));
    CALL(set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    CALL(bind(fd, AT(at)));
}

CASE(listen_in_use)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int one = fresh(), two = fresh();
    set_int(one, SOL_SOCKET, SO_REUSEADDR, 1);
    set_int(two, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(one, AT(at)));
    CALL(bind(two, AT(at)));
    CALL(listen(one, 4));
    CALL(listen(two, 4));
    close(one);
    CALL(listen(two, 4));
    SEES("c0 5");
}

CASE(shared_port)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int one = fresh(), two = fresh(), three = fresh();
    set_int(one, SOL_SOCKET, SO_REUSEADDR, 1);
    set_int(two, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(set_int(one, SOL_SOCKET, SO_REUSEPORT, 1));
    CALL(set_int(two, SOL_SOCKET, SO_REUSEPORT, 1));
    CALL(bind(one, AT(at)));
    CALL(bind(two, AT(at)));
    CALL(bind(three, AT(at)));
    CALL(listen(one, 16));
    CALL(listen(two, 16));
    for (int i = 0; i < 6; i++)
        ask("c%d 5", i);
    int accepted_here = 0;
    set_nonblocking(one, 1);
    set_nonblocking(two, 1);
    long end = now_ms() + 3000;
    while (accepted_here < 6 && now_ms() < end) {
        accepted_here += accept(one, NULL, NULL) >= 0;
        accepted_here += accept(two, NULL, NULL) >= 0;
    }
    say("accepted %d", accepted_here);
    close(one);
    SEES("c8 5");
    set_nonblocking(two, 0);
    CALL(accept(two, NULL, NULL) >= 0);
}

CASE(rebound_after_close)
{
    for (int i = 0; i < 3; i++) {
        int fd = made_listener(SPARE_PORT, 4);
        ask("c%d 5", i);
        CALL(accept(fd, NULL, NULL) >= 0);
        CALL(close(fd));
    }
    SEES("c5 5");
}

CASE(close_resets_what_was_not_accepted)
{
    int fd = made_listener(SPARE_PORT, 4);
    ask("c0 5");
    await(fd, POLLIN);
    CALL(close(fd));
    SEES("e0");
}

CASE(bound_client)
{
    struct sockaddr_in at = any_at(0), peer = peer_at(PEER_PORT), name;
    socklen_t len = sizeof name;
    int fd = fresh();
    CALL(bind(fd, AT(at)));
    CALL(getsockname(fd, (struct sockaddr *)&name, &len));
    int bound = name.sin_port;
    HOLDS(bound != 0);
    CALL(connect(fd, AT(peer)));
    SEES("a0");
    CALL(getsockname(fd, (struct sockaddr *)&name, &len));
    HOLDS(name.sin_port == bound);
    CALL(send(fd, "x", 1, 0));
    SEES("r0 1");
}

CASE(bound_client_of_an_address)
{
    struct sockaddr_in own = any_at(0), peer = peer_at(PEER_PORT), name;
    socklen_t len = sizeof name;
    int first = connected(0), fd = fresh();
    CALL(getsockname(first, (struct sockaddr *)&own, &len));
    own.sin_port = 0;
    CALL(set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1));
    CALL(bind(fd, AT(own)));
    CALL(connect(fd, AT(peer)));
    SEES("a1");
    len = sizeof name;
    CALL(getsockname(fd, (struct sockaddr *)&name, &len));
    HOLDS(name.sin_addr.s_addr == own.sin_addr.s_addr && name.sin_port != 0);
}

CASE(backlog_of_zero)
{
    int fd = made_listener(SPARE_PORT, 0);
    SEES("c0 5");
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(connect_to_a_kernel_port)
{
    struct sockaddr_in at = any_at(KERNEL_PORT);
    int fd = fresh();
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    SEES("c0 3");
    int stream = accept(fd, NULL, NULL);
    HOLDS(stream >= 0);
    CALL(send(stream, "kernel", 6, 0));
    SEES("r0 6");
}

CASE(deferred_accept)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int fd = fresh();
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(set_int(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5));
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    SEES("c0 5");
    set_nonblocking(fd, 1);
    pause_ms(10);
    int stream = accept(fd, NULL, NULL);
    say("at once: %s", stream < 0 ? "no" : "yes");
    ask("s0 4");
    if (stream < 0) {
        await(fd, POLLIN);
        stream = accept(fd, NULL, NULL);
    }
    await_bytes(stream, 4);
    CALL(recv(stream, bytes, 10, MSG_DONTWAIT));
}

CASE(fast_open)
{
    int fd = accepted(0), own = fresh();
    struct sockaddr_in at = any_at(SPARE_PORT);
    CALL(get_int(fd, IPPROTO_TCP, TCP_FASTOPEN));
    set_int(own, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(bind(own, AT(at)));
    CALL(set_int(own, IPPROTO_TCP, TCP_FASTOPEN, 5));
    CALL(listen(own, 5));
    CALL(get_int(own, IPPROTO_TCP, TCP_FASTOPEN));
    SEES("c1 5");
    CALL(accept(own, NULL, NULL) >= 0);
}

CASE(fast_open_connect)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = fresh();
    CALL(set_int(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1));
    CALL(get_int(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT));
    CALL(connect(fd, AT(at)));
    CALL(send(fd, "first", 5, 0));
    SEES("a0");
    SEES("r0 5");
}

CASE(fast_open_send)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = fresh();
    CALL(sendto(fd, "first", 5, MSG_FASTOPEN, AT(at)));
    SEES("a0");
    SEES("r0 5");
    CALL(sendto(fd, "second", 6, MSG_FASTOPEN, AT(at)));
    fd = accepted(1);
    CALL(sendto(fd, "second", 6, MSG_FASTOPEN, AT(at)));
}

CASE(upper_layer_protocol)
{
    int fd = accepted(0);
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "no-such", 7) == -1 ? -1 : 0);
    CALL(send(fd, "ok", 2, 0));
}

/* ---- MSG_ZEROCOPY ---- */

static void completions(int fd)
{
    char aside[128];
    struct msghdr message = {.msg_control = aside, .msg_controllen = sizeof aside};
    await(fd, POLLERR);
    long got;
    CALL(got = recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT));
    if (got < 0)
        return;
    HOLDS(message.msg_flags & MSG_ERRQUEUE);
    struct cmsghdr *one = CMSG_FIRSTHDR(&message);
    if (one == NULL) {
        say("no control message");
        return;
    }
    struct sock_extended_err *told = (struct sock_extended_err *)CMSG_DATA(one);
    say("level %d, type %d, errno %u, origin %u, %u to %u", one->cmsg_level, one->cmsg_type,
        told->ee_errno, told->ee_origin, told->ee_info, told->ee_data);
}

CASE(zero_copy_not_asked_for)
{
    int fd = accepted(0);
    CALL(get_int(fd, SOL_SOCKET, SO_ZEROCOPY));
    CALL(send(fd, "plain", 5, MSG_ZEROCOPY));
    SEES("r0 5");
    say("%s", poll_text(ready(fd, POLLIN, 0)));
}

CASE(zero_copy_completions)
{
    static char bulk[20000];
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_ZEROCOPY, 1));
    CALL(get_int(fd, SOL_SOCKET, SO_ZEROCOPY));
    CALL(send(fd, bulk, sizeof bulk, MSG_ZEROCOPY));
    SEES("r0 20000");
    completions(fd);
    CALL(recvmsg(fd, &(struct msghdr){0}, MSG_ERRQUEUE));
}

CASE(zero_copy_completions_join)
{
    static char bulk[3000];
    int fd = accepted(0);
    CALL(set_int(fd, SOL_SOCKET, SO_ZEROCOPY, 1));
    CALL(send(fd, bulk, sizeof bulk, MSG_ZEROCOPY));
    SEES("r0 3000");
    completions(fd);
    CALL(send(fd, bulk, sizeof bulk, MSG_ZEROCOPY));
    CALL(send(fd, "copied", 6, 0));
    SEES("r0 3006");
    completions(fd);
    say("%s", poll_text(ready(fd, POLLIN, 0)));
}
