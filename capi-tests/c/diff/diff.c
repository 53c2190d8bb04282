/* The differential cases' harness.
 *
 *   diff peer PATH SERVER4 SERVER6 PORT        the other end, always on the kernel: obeys what comes
 *                                              over the Unix socket PATH
 *   diff test PATH PEER4 PEER6 PORT [FILTER]   runs the cases whose name contains FILTER, or
 *                                              with after:NAME those behind the case NAME
 *   diff list                                  names them
 *
 * A case that takes too long is named, and ends the program.
 */
#include "diff.h"

#define SLOTS 16
#define CASE_SECONDS 10
/* The descriptors of the harness itself are below. */
#define FIRST_FD 16

/* ---- registry ---- */

static struct test_case *first_case, **last_case = &first_case;
static const struct test_case *current;

void register_case(struct test_case *one)
{
    *last_case = one;
    last_case = &one->next;
}

/* ---- printing ---- */

volatile sig_atomic_t pipe_signals;

static void on_sigpipe(int number)
{
    (void)number;
    pipe_signals++;
}

static void on_alarm(int number)
{
    static const char text[] = "\nTIMEOUT in the last case\n";
    (void)number;
    if (write(1, text, sizeof text - 1) < 0)
        _exit(4);
    _exit(3);
}

_Noreturn void die(const char *what)
{
    int number = errno;
    printf("FATAL: %s: %s\n", what, strerrorname_np(number));
    fflush(stdout);
    fprintf(stderr, "%s/%s: %s: %s\n", current ? current->family : "?",
            current ? current->name : "?", what, strerror(number));
    exit(1);
}

void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("  ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

void say_result(const char *text, long result, int number)
{
    const char *signalled = pipe_signals ? ", SIGPIPE" : "";
    if (result < 0)
        say("%s: %ld %s%s", text, result, strerrorname_np(number), signalled);
    else
        say("%s: %ld%s", text, result, signalled);
    pipe_signals = 0;
}

struct bit {
    unsigned bit;
    const char *name;
};

static const char *bits_text(unsigned events, const struct bit *bits)
{
    static char text[4][160];
    static int turn;
    char *out = text[turn++ % 4];
    size_t used = 0;
    out[0] = 0;
    for (; bits->name != NULL; bits++)
        if (events & bits->bit) {
            used += (size_t)snprintf(out + used, 160 - used, "%s%s", used ? "|" : "", bits->name);
            events &= ~bits->bit;
        }
    if (events)
        snprintf(out + used, 160 - used, "%s%#x", used ? "|" : "", events);
    return out[0] ? out : "nothing";
}

const char *poll_text(int events)
{
    static const struct bit bits[] = {
        {POLLIN, "IN"},         {POLLPRI, "PRI"},       {POLLOUT, "OUT"},
        {POLLERR, "ERR"},       {POLLHUP, "HUP"},       {POLLRDHUP, "RDHUP"},
        {POLLNVAL, "NVAL"},     {POLLRDNORM, "RDNORM"}, {POLLWRNORM, "WRNORM"},
        {POLLRDBAND, "RDBAND"}, {POLLWRBAND, "WRBAND"}, {0, NULL}};
    return events < 0 ? strerrorname_np(errno) : bits_text((unsigned)events, bits);
}

const char *epoll_text(unsigned events)
{
    return poll_text((int)(events & 0xffff));
}

const char *shown(const void *bytes, long count)
{
    static char text[4][80];
    static int turn;
    char *out = text[turn++ % 4];
    int used = 0;
    for (long i = 0; i < count && used < 70; i++) {
        unsigned char byte = ((const unsigned char *)bytes)[i];
        used += sprintf(out + used, byte > ' ' && byte < 127 ? "%c" : "\\%02x", byte);
    }
    out[used] = 0;
    return out;
}

/* ---- addresses ---- */

int listener, port;
static char peer4[64], peer6[64];

static struct sockaddr_in address4(const char *ip, int number)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    if (inet_pton(AF_INET, ip, &at.sin_addr) != 1)
        die(ip);
    return at;
}

static struct sockaddr_in6 address6(const char *ip, int number)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)number)};
    if (inet_pton(AF_INET6, ip, &at.sin6_addr) != 1)
        die(ip);
    return at;
}

struct sockaddr_in peer_at(int number) { return address4(peer4, number); }
struct sockaddr_in6 peer_at6(int number) { return address6(peer6, number); }
struct sockaddr_in any_at(int number) { return address4("0.0.0.0", number); }
struct sockaddr_in loopback_at(int number) { return address4("127.0.0.1", number); }

const char *own_device(void)
{
    static char name[IFNAMSIZ];
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *one = all; one != NULL && one->if_index != 0; one++)
        if (strcmp(one->if_name, "lo") != 0)
            snprintf(name, sizeof name, "%s", one->if_name);
    if_freenameindex(all);
    return name;
}

static struct sockaddr_un path_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    return at;
}

/* ---- the peer: plain kernel calls ---- */

struct slot {
    int fd;
    long sent; /* where in the alphabet it is */
};
static struct slot slots[SLOTS];
static struct sockaddr_in server4;
static struct sockaddr_in6 server6;
static int peer_listener;

static void answer_with(char *out, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out, sizeof answer, format, arguments);
    va_end(arguments);
}

static void peer_connect(struct slot *slot, int family, int offset, int small, char *out)
{
    int on = 1, bytes = 5000;
    struct sockaddr_in at = server4;
    struct sockaddr_in6 at6 = server6;
    at.sin_port = htons((uint16_t)(port + offset));
    at6.sin6_port = at.sin_port;
    slot->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (small) {
        setsockopt(slot->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        setsockopt(slot->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    }
    int failed = family == AF_INET ? connect(slot->fd, AT(at)) : connect(slot->fd, AT(at6));
    if (small)
        setsockopt(slot->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    slot->sent = 0;
    answer_with(out, failed ? strerrorname_np(errno) : "ok");
}

static void peer_send(struct slot *slot, long count, char *out)
{
    char bytes[4096];
    while (count > 0) {
        long part = count < (long)sizeof bytes ? count : (long)sizeof bytes;
        for (long i = 0; i < part; i++)
            bytes[i] = (char)('a' + (slot->sent + i) % 26);
        long moved = send(slot->fd, bytes, (size_t)part, MSG_NOSIGNAL);
        if (moved <= 0) {
            answer_with(out, strerrorname_np(errno));
            return;
        }
        slot->sent += moved;
        count -= moved;
    }
}

/* `count` < 0: until the end. */
static void peer_receive(struct slot *slot, long count, char *out)
{
    static char bytes[1 << 16];
    char head[40];
    long total = 0, kept = 0, got = 0;
    struct timeval limit = {5, 0};
    setsockopt(slot->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    while (count < 0 || total < count) {
        size_t room = sizeof bytes;
        if (count >= 0 && count - total < (long)room)
            room = (size_t)(count - total);
        got = recv(slot->fd, bytes, room, 0);
        if (got <= 0)
            break;
        if (kept < (long)sizeof head) {
            long more = got < (long)sizeof head - kept ? got : (long)sizeof head - kept;
            memcpy(head + kept, bytes, (size_t)more);
            kept += more;
        }
        total += got;
    }
    const char *end = got > 0 || (count >= 0 && total == count) ? ""
                      : got == 0                                ? ", end"
                      : errno == EAGAIN                         ? ", nothing more"
                                                                : strerrorname_np(errno);
    const char *comma = *end == 'E' ? ", " : "";
    if (total > (long)sizeof head)
        answer_with(out, "%ld bytes%s%s", total, comma, end);
    else
        answer_with(out, "%ld bytes %s%s%s", total, shown(head, kept), comma, end);
}

static void peer_close(struct slot *slot, int abruptly)
{
    struct linger now = {1, 0};
    if (slot->fd < 0)
        return;
    if (abruptly)
        setsockopt(slot->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(slot->fd);
    slot->fd = -1;
}

static void peer_accept(struct slot *slot, char *out)
{
    struct pollfd entry = {peer_listener, POLLIN, 0};
    poll(&entry, 1, 5000);
    slot->fd = accept4(peer_listener, NULL, NULL, SOCK_CLOEXEC);
    slot->sent = 0;
    if (slot->fd < 0)
        answer_with(out, strerrorname_np(errno));
}

/* Forgets everything: RST to who is still there. */
static void peer_reset(void)
{
    struct slot one;
    char text[sizeof answer];
    for (int i = 0; i < SLOTS; i++)
        peer_close(&slots[i], 1);
    for (;;) {
        struct pollfd entry = {peer_listener, POLLIN, 0};
        if (poll(&entry, 1, 0) != 1)
            return;
        peer_accept(&one, text);
        peer_close(&one, 1);
    }
}

static void obey(const char *command, char *out)
{
    struct slot *slot = &slots[(unsigned)(command[1] - '0') % SLOTS];
    long number = strlen(command) > 2 ? atol(command + 2) : 0;
    answer_with(out, "ok");
    switch (command[0]) {
    case 'c': peer_connect(slot, AF_INET, (int)number, 0, out); break;
    case 'C': peer_connect(slot, AF_INET6, (int)number, 0, out); break;
    case 'k': peer_connect(slot, AF_INET, (int)number, 1, out); break;
    case 'a': peer_accept(slot, out); break;
    case 's': peer_send(slot, number, out); break;
    case 'r': peer_receive(slot, number, out); break;
    case 'e': peer_receive(slot, -1, out); break;
    case 'f': shutdown(slot->fd, SHUT_WR); break;
    case 'x': peer_close(slot, 1); break;
    case 'q': peer_close(slot, 0); break;
    case 'o': send(slot->fd, "!", 1, MSG_OOB | MSG_NOSIGNAL); break;
    case 'R': peer_reset(); break;
    default: answer_with(out, "unknown command"); break;
    }
}

static int peer(const char *path, const char *ip4, const char *ip6)
{
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)PEER_PORT)};
    struct sockaddr_un at = path_at(path);
    int on = 1;
    server4 = address4(ip4, port);
    server6 = address6(ip6, port);
    for (int i = 0; i < SLOTS; i++)
        slots[i].fd = -1;
    peer_listener = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(peer_listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(peer_listener, AT(own)) != 0 || listen(peer_listener, 64) != 0)
        die("the peer's listener");
    int door = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(path);
    if (bind(door, AT(at)) != 0 || listen(door, 1) != 0)
        die(path);
    int control = accept(door, NULL, NULL);
    char command[64], out[sizeof answer];
    while (recv(control, command, sizeof command, MSG_WAITALL) == sizeof command) {
        memset(out, 0, sizeof out);
        int wait_ms = 0, skip = 0;
        if (sscanf(command, "l %d %n", &wait_ms, &skip) == 1) {
            answer_with(out, "ok");
            if (send(control, out, sizeof out, 0) != sizeof out)
                return 1;
            pause_ms(wait_ms);
            obey(command + skip, out);
        } else {
            obey(command, out);
            if (send(control, out, sizeof out, 0) != sizeof out)
                return 1;
        }
    }
    return 0;
}

/* ---- asking it ---- */

static int control;
char answer[128];

void ask(const char *format, ...)
{
    char command[64] = {0};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (send(control, command, sizeof command, 0) != sizeof command
        || recv(control, answer, sizeof answer, MSG_WAITALL) != sizeof answer)
        die("the control connection");
}

/* ---- our end ---- */

static int streams_on_stack;

int is_on_stack(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;
    long result;
#if defined(__x86_64__)
    register long number __asm__("rax") = SYS_getpeername;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "r"(number), "D"((long)fd), "S"(&at), "d"(&len)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_getpeername;
    register long x0 __asm__("x0") = fd;
    register void *x1 __asm__("x1") = &at;
    register void *x2 __asm__("x2") = &len;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    result = x0;
#endif
    return result < 0;
}

int connected(int slot)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, AT(at)) != 0)
        die("connect");
    ask("a%c", '0' + slot);
    if (strcmp(answer, "ok") != 0)
        die(answer);
    streams_on_stack += is_on_stack(fd);
    return fd;
}

static int accepted_by(char command, int slot)
{
    ask("%c%c", command, '0' + slot);
    if (strcmp(answer, "ok") != 0)
        die(answer);
    set_timeout(listener, SO_RCVTIMEO, 3000);
    int fd = accept4(listener, NULL, NULL, 0);
    if (fd < 0)
        die("accept4");
    set_timeout(listener, SO_RCVTIMEO, 0);
    set_timeout(fd, SO_RCVTIMEO, 0);
    streams_on_stack += is_on_stack(fd);
    return fd;
}

int accepted(int slot) { return accepted_by('c', slot); }
int accepted_small(int slot) { return accepted_by('k', slot); }

int made_listener(int number, int backlog)
{
    struct sockaddr_in at = any_at(number);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, AT(at)) != 0 || listen(fd, backlog) != 0)
        die("a listener");
    return fd;
}

void set_nonblocking(int fd, int on)
{
    int flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, (long)(on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK)) != 0)
        die("F_SETFL");
}

int set_int(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof value);
}

long get_int(int fd, int level, int name)
{
    int value = -77;
    socklen_t len = sizeof value;
    return getsockopt(fd, level, name, &value, &len) != 0 ? -1 : value;
}

void set_timeout(int fd, int name, int ms)
{
    struct timeval limit = {ms / 1000, ms % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, name, &limit, sizeof limit) != 0)
        die("SO_RCVTIMEO");
}

int ready(int fd, int events, int ms)
{
    struct pollfd entry = {fd, (short)events, 0};
    int count = poll(&entry, 1, ms);
    return count <= 0 ? count : entry.revents;
}

void await(int fd, int events)
{
    long end = now_ms() + 5000;
    while ((ready(fd, events, 20) & events) != events)
        if (now_ms() > end)
            die("await");
}

void await_bytes(int fd, int count)
{
    long end = now_ms() + 5000;
    for (;;) {
        int there = 0;
        if (ioctl(fd, FIONREAD, &there) == 0 && there >= count)
            return;
        if (now_ms() > end)
            die("await_bytes");
        ready(fd, POLLIN, 1);
    }
}

long fill(int fd)
{
    static char bulk[100000];
    long total = 0, sent;
    for (int quiet = 0; quiet < 3;) {
        sent = send(fd, bulk, sizeof bulk, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            total += sent;
            quiet = 0;
        } else {
            /* Until the peer's window is full as well. */
            ready(fd, POLLOUT, 20);
            quiet++;
        }
    }
    return total;
}

long now_ms(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

void pause_ms(int ms)
{
    struct timespec span = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&span, &span) != 0 && errno == EINTR)
        ;
}

static void *run_later(void *argument)
{
    struct later *later = argument;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pause_ms(later->ms);
    later->body(later->argument);
    return NULL;
}

void start_later(struct later *later, int ms, void (*body)(void *), void *argument)
{
    later->ms = ms;
    later->body = body;
    later->argument = argument;
    if (pthread_create(&later->thread, NULL, run_later, later) != 0)
        die("pthread_create");
}

void join(struct later *later) { pthread_join(later->thread, NULL); }

/* ---- running ---- */

/* Moves a descriptor to where no case closes it. */
static int keep(int fd, int at)
{
    if (dup2(fd, at) != at)
        die("dup2");
    close(fd);
    return at;
}

static void tidy(void)
{
    for (int fd = FIRST_FD; fd < 400; fd++)
        close(fd);
    ask("R0");
    /* What nobody accepted. */
    set_nonblocking(listener, 1);
    for (int fd; (fd = accept4(listener, NULL, NULL, 0)) >= 0;)
        close(fd);
    set_nonblocking(listener, 0);
    pipe_signals = 0;
}

/* Which of the lowest 64 descriptors are open, a bit each. */
static unsigned long long open_ones(void)
{
    unsigned long long open = 0;
    for (int fd = 0; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            open |= 1ULL << fd;
    return open;
}

static int test(const char *path, const char *filter)
{
    struct sockaddr_un at = path_at(path);
    int door = socket(AF_UNIX, SOCK_STREAM, 0), run = 0;
    for (int tries = 0; connect(door, AT(at)) != 0; tries++) {
        if (tries == 500)
            die(path);
        pause_ms(10);
    }
    control = keep(door, 6);
    unsigned long long before = open_ones();
    listener = keep(made_listener(port, 64), 7);
    /* Whatever has been opened for the listener besides it is out of the program's way. */
    if (open_ones() != (before | 1ULL << 7))
        die("the listener took more numbers than its own");
    /* Numbers below FIRST_FD are taken, so that what a case opens is closed after it. */
    for (int fd = 3; fd < FIRST_FD; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            dup2(0, fd);
    const char *after = filter != NULL && strncmp(filter, "after:", 6) == 0 ? filter + 6 : NULL;
    if (after != NULL)
        filter = NULL;
    for (const struct test_case *one = first_case; one != NULL; one = one->next) {
        char name[160];
        snprintf(name, sizeof name, "%s/%s", one->family, one->name);
        if (after != NULL) {
            if (strcmp(name, after) == 0)
                after = NULL;
            continue;
        }
        if (filter != NULL && strstr(name, filter) == NULL)
            continue;
#ifdef DIFF_LUNA
        if (one->hooked_only)
            continue;
#endif
        printf("== %s\n", name);
        fflush(stdout);
        current = one;
        alarm(CASE_SECONDS);
        long started = now_ms();
        if (one->run != NULL)
            one->run();
        else
            one->run_with(one->state, one->op);
        fflush(stdout);
        if (getenv("DIFF_TIMES") != NULL)
            fprintf(stderr, "%s: %ld ms\n", name, now_ms() - started);
        tidy();
        run++;
    }
    alarm(0);
    fprintf(stderr, "cases %d, streams on the stack %d\n", run, streams_on_stack);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    struct sigaction pipes = {.sa_handler = on_sigpipe}, alarms = {.sa_handler = on_alarm};
    /* On luna, all handlers together decide whether calls are restarted. */
    pipes.sa_flags = alarms.sa_flags = SA_RESTART;
    sigaction(SIGPIPE, &pipes, NULL);
    sigaction(SIGALRM, &alarms, NULL);
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (const struct test_case *one = first_case; one != NULL; one = one->next)
            printf("%s/%s\n", one->family, one->name);
        return 0;
    }
    if (argc < 6) {
        fprintf(stderr, "usage: diff peer|test PATH ADDRESS4 ADDRESS6 PORT [FILTER]\n");
        return 2;
    }
    snprintf(peer4, sizeof peer4, "%s", argv[3]);
    snprintf(peer6, sizeof peer6, "%s", argv[4]);
    port = atoi(argv[5]);
    if (strcmp(argv[1], "peer") == 0)
        return peer(argv[2], argv[3], argv[4]);
    return test(argv[2], argc > 6 ? argv[6] : NULL);
}
