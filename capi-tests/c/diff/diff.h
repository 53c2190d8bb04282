/* The harness of the differential cases: what a case may use. */
#ifndef DIFF_H
#define DIFF_H

#include "names.h"

/* A case: a function that prints what calls answer. It runs on the kernel, on libluna and under
 * the preload library; what it prints must be the same. So it prints nothing that Linux does not
 * promise: no times, no descriptor numbers, no ports, no buffer sizes. */
struct test_case {
    const char *family, *name;
    void (*run)(void);
    void (*run_with)(int state, int op);
    int state, op;
    /* Only where the C library's own names are called: libluna has no such function. */
    int hooked_only;
    struct test_case *next;
};
void register_case(struct test_case *one);

#define CASE_OF(title, hooked)                                                                     \
    static void run_##title(void);                                                                 \
    __attribute__((constructor)) static void register_##title(void)                               \
    {                                                                                              \
        static struct test_case one = {                                                            \
            .family = FAMILY, .name = #title, .run = run_##title, .hooked_only = hooked};          \
        register_case(&one);                                                                       \
    }                                                                                              \
    static void run_##title(void)
#define CASE(title) CASE_OF(title, 0)
#define HOOKED_CASE(title) CASE_OF(title, 1)

/* ---- printing ---- */

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A call's result, its errno, and whether it raised SIGPIPE. */
void say_result(const char *text, long result, int number);
#define CALL(...)                                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result_ = (long)(__VA_ARGS__);                                                        \
        say_result(#__VA_ARGS__, result_, errno);                                                  \
    } while (0)
/* Something that must be so on either side; only whether it is, is printed. */
#define HOLDS(...) say("%s: %s", #__VA_ARGS__, (__VA_ARGS__) ? "yes" : "no")
_Noreturn void die(const char *what);
extern volatile sig_atomic_t pipe_signals;
const char *poll_text(int events);
const char *epoll_text(unsigned events);
/* Bytes as text. */
const char *shown(const void *bytes, long count);

/* ---- the other end ---- */

/* Has the peer do something, and waits until it is done. The first letter says what, the digit
 * behind it which of its sockets:
 *   c0        connect to our listener     C0 the same over IPv6
 *   c0 N      to our port + N
 *   k0        connect, with a small receive buffer and without delayed acknowledgments
 *   a0        accept from its listener
 *   s0 N      send N bytes: a, b, c … in turn
 *   r0 N      receive N bytes
 *   e0        receive until the end, and say what came
 *   f0        send FIN     x0 send RST (and close)     q0 close      o0 send one urgent byte
 *   l N …     do the rest N ms after having answered
 * The answer, "ok" or what it received, is kept in `answer`. */
void ask(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern char answer[128];
/* Asks and prints the answer. */
#define SEES(...)                                                                                  \
    do {                                                                                           \
        ask(__VA_ARGS__);                                                                          \
        say("peer: %s", answer);                                                                   \
    } while (0)

/* ---- our end ---- */

extern int listener; /* on `port`, for all cases */
extern int port;     /* ours; + 5 is luna's too; + 3 is not */
#define PEER_PORT (port + 1)
#define REFUSED_PORT (port + 2)
#define KERNEL_PORT (port + 3)
#define SILENT_PORT (port + 4) /* at the peer: SYNs vanish */
#define SPARE_PORT (port + 5)
const char *own_device(void); /* the link to the peer */
struct sockaddr_in peer_at(int number);
struct sockaddr_in6 peer_at6(int number);
struct sockaddr_in any_at(int number);
struct sockaddr_in loopback_at(int number);
#define AT(address) ((struct sockaddr *)&(address)), sizeof(address)

int connected(int slot); /* by us to the peer's `slot` */
int accepted(int slot);  /* from the peer's `slot`, by our listener */
int accepted_small(int slot); /* the same; the peer takes little, and acknowledges at once */
int made_listener(int number, int backlog);
void set_nonblocking(int fd, int on);
int set_int(int fd, int level, int name, int value);
long get_int(int fd, int level, int name);
void set_timeout(int fd, int name, int ms);
/* What poll says without waiting, or after at most `ms`. */
int ready(int fd, int events, int ms);
/* Waits until poll shows all of `events`; the harness fails if that takes seconds. */
void await(int fd, int events);
void await_bytes(int fd, int count);
/* Sends until it would block; how much. */
long fill(int fd);
long now_ms(void);
void pause_ms(int ms);
/* Runs `body(argument)` on a thread after a pause. */
struct later {
    pthread_t thread;
    int ms;
    void (*body)(void *);
    void *argument;
};
void start_later(struct later *later, int ms, void (*body)(void *), void *argument);
void join(struct later *later);
/* Whether the kernel knows nothing of a connection: asked by the instruction itself. */
int is_on_stack(int fd);

#endif
