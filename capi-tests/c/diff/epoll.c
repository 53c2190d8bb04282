/* epoll as it is used: levels, edges, one shot, exclusive waiters, nested and duplicated sets,
 * kernel descriptors beside sockets, threads, signals, times. */
#include "diff.h"

#define FAMILY "epoll"
#define IO (EPOLLIN | EPOLLOUT | EPOLLRDHUP)

static int change(int set, int op, int fd, unsigned events, char tag)
{
    struct epoll_event event = {.events = events, .data.u64 = (unsigned char)tag};
    return epoll_ctl(set, op, fd, &event);
}

static int add(int set, int fd, unsigned events, char tag)
{
    return change(set, EPOLL_CTL_ADD, fd, events, tag);
}

static int modify(int set, int fd, unsigned events, char tag)
{
    return change(set, EPOLL_CTL_MOD, fd, events, tag);
}

static int by_tag(const void *left, const void *right)
{
    const struct epoll_event *a = left, *b = right;
    return a->data.u64 < b->data.u64 ? -1 : a->data.u64 > b->data.u64;
}

/* What a wait gives, in the order of the tags. */
static int see(int set, int max, int ms)
{
    struct epoll_event events[32];
    char text[512] = "";
    int used = 0, count = epoll_wait(set, events, max, ms);
    if (count < 0) {
        say("wait: %s", strerrorname_np(errno));
        return count;
    }
    qsort(events, (size_t)count, sizeof *events, by_tag);
    for (int i = 0; i < count; i++)
        used += sprintf(text + used, " %c:%s", (char)events[i].data.u64,
                        epoll_text(events[i].events));
    say("wait: %d%s", count, text);
    return count;
}

/* Waits until the set has something, then looks. */
static void see_soon(int set, int max)
{
    see(set, max, 3000);
}

static void take(int fd)
{
    char bytes[4096];
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
}

/* ---- level ---- */

CASE(level_repeats_while_data_is_there)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    see(set, 4, 0);
    ask("s0 5");
    see_soon(set, 4);
    see(set, 4, 0);
    take(fd);
    see(set, 4, 0);
    ask("s0 1");
    see_soon(set, 4);
}

CASE(level_output_repeats)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLOUT, 'a');
    see(set, 4, 0);
    see(set, 4, 0);
    modify(set, fd, EPOLLIN, 'b');
    see(set, 4, 0);
    modify(set, fd, EPOLLIN | EPOLLOUT, 'c');
    see(set, 4, 0);
}

CASE(level_partial_read_keeps_it)
{
    char bytes[3];
    int fd = connected(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    ask("s0 9");
    await_bytes(fd, 9);
    for (int i = 0; i < 4; i++) {
        see(set, 4, 0);
        CALL(recv(fd, bytes, 3, MSG_DONTWAIT));
    }
}

CASE(level_fin)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, IO, 'a');
    ask("f0");
    await(fd, POLLRDHUP);
    see(set, 4, 0);
    see(set, 4, 0);
    shutdown(fd, SHUT_WR);
    see(set, 4, 0);
}

CASE(level_fin_without_rdhup)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    ask("f0");
    await(fd, POLLRDHUP);
    see(set, 4, 0);
    modify(set, fd, EPOLLOUT, 'a');
    see(set, 4, 0);
    modify(set, fd, EPOLLRDHUP, 'a');
    see(set, 4, 0);
    modify(set, fd, 0, 'a');
    see(set, 4, 0);
}

CASE(level_reset)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, IO, 'a');
    ask("x0");
    await(fd, POLLHUP);
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    see(set, 4, 0);
}

CASE(no_interest_still_reports_hang_up)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, 0, 'a');
    see(set, 4, 0);
    ask("x0");
    await(fd, POLLHUP);
    see(set, 4, 0);
}

CASE(level_full_then_drained)
{
    int fd = accepted_small(0), set = epoll_create1(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    add(set, fd, EPOLLOUT, 'a');
    long total = fill(fd);
    see(set, 4, 0);
    ask("r0 %ld", total);
    see_soon(set, 4);
}

CASE(read_normal_bits)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLRDNORM | EPOLLWRNORM, 'a');
    see(set, 4, 0);
    ask("s0 1");
    await_bytes(fd, 1);
    see(set, 4, 0);
    modify(set, fd, EPOLLIN | EPOLLRDNORM | EPOLLRDBAND | EPOLLMSG, 'a');
    see(set, 4, 0);
}

CASE(fair_to_many)
{
    int set = epoll_create1(0), fds[6];
    for (int i = 0; i < 6; i++) {
        fds[i] = accepted(i);
        add(set, fds[i], EPOLLIN, (char)('a' + i));
        ask("s%d 1", i);
        await_bytes(fds[i], 1);
    }
    /* Two at a time: nobody is told of twice before all have been. */
    unsigned seen = 0;
    for (int round = 0; round < 3; round++) {
        struct epoll_event events[2];
        int count = epoll_wait(set, events, 2, 0);
        for (int i = 0; i < count; i++)
            seen |= 1u << (events[i].data.u64 - 'a');
    }
    say("seen %#x", seen);
}

/* ---- edge ---- */

CASE(edge_once_per_arrival)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN | EPOLLET, 'a');
    see(set, 4, 0);
    ask("s0 5");
    see_soon(set, 4);
    see(set, 4, 0);
    ask("s0 5");
    await_bytes(fd, 10);
    see_soon(set, 4);
    see(set, 4, 0);
    take(fd);
    see(set, 4, 0);
}

CASE(edge_added_while_ready)
{
    int fd = accepted(0), set = epoll_create1(0);
    ask("s0 5");
    await_bytes(fd, 5);
    add(set, fd, IO | EPOLLET, 'a');
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(edge_modify_rearms)
{
    int fd = connected(0), set = epoll_create1(0);
    ask("s0 5");
    await_bytes(fd, 5);
    add(set, fd, EPOLLIN | EPOLLET, 'a');
    see(set, 4, 0);
    see(set, 4, 0);
    modify(set, fd, EPOLLIN | EPOLLET, 'b');
    see(set, 4, 0);
    see(set, 4, 0);
    modify(set, fd, EPOLLOUT | EPOLLET, 'c');
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(edge_partial_read_does_not_rearm)
{
    char bytes[2];
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN | EPOLLET, 'a');
    ask("s0 5");
    await_bytes(fd, 5);
    see(set, 4, 0);
    CALL(recv(fd, bytes, 2, MSG_DONTWAIT));
    see(set, 4, 0);
}

CASE(edge_arrival_tells_all_of_the_level)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, IO | EPOLLET, 'a');
    see(set, 4, 0);
    ask("s0 5");
    await_bytes(fd, 5);
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(edge_output_after_full)
{
    int fd = accepted_small(0), set = epoll_create1(0);
    set_int(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    add(set, fd, EPOLLOUT | EPOLLET, 'a');
    see(set, 4, 0);
    long total = fill(fd);
    take(fd);
    while (see(set, 4, 0) > 0)
        ;
    ask("r0 %ld", total);
    see_soon(set, 4);
}

CASE(edge_fin_and_shutdown)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, IO | EPOLLET, 'a');
    see(set, 4, 0);
    ask("f0");
    await(fd, POLLRDHUP);
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(shutdown(fd, SHUT_RD));
    see(set, 4, 0);
}

CASE(edge_reset)
{
    int fd = connected(0), set = epoll_create1(0);
    add(set, fd, IO | EPOLLET, 'a');
    see(set, 4, 0);
    ask("x0");
    await(fd, POLLHUP);
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    see(set, 4, 0);
}

CASE(edge_own_shutdown)
{
    int fd = connected(0), set = epoll_create1(0);
    add(set, fd, IO | EPOLLET, 'a');
    see(set, 4, 0);
    CALL(shutdown(fd, SHUT_RDWR));
    await(fd, POLLRDHUP);
    see(set, 4, 0);
}

CASE(edge_listener)
{
    int set = epoll_create1(0), fd = made_listener(SPARE_PORT, 8);
    add(set, fd, EPOLLIN | EPOLLET, 'l');
    see(set, 4, 0);
    ask("c0 5");
    see_soon(set, 4);
    see(set, 4, 0);
    ask("c1 5");
    await(fd, POLLIN);
    see_soon(set, 4);
    set_nonblocking(fd, 1);
    CALL(accept(fd, NULL, NULL) >= 0);
    CALL(accept(fd, NULL, NULL) >= 0);
    CALL(accept(fd, NULL, NULL));
    see(set, 4, 0);
}

/* ---- one shot ---- */

CASE(one_shot_disarms)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN | EPOLLONESHOT, 'a');
    ask("s0 5");
    see_soon(set, 4);
    see(set, 4, 0);
    ask("s0 5");
    await_bytes(fd, 10);
    see(set, 4, 0);
    modify(set, fd, EPOLLIN | EPOLLONESHOT, 'b');
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(one_shot_disarms_hang_up_too)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN | EPOLLONESHOT, 'a');
    ask("s0 5");
    see_soon(set, 4);
    ask("x0");
    await(fd, POLLHUP);
    see(set, 4, 0);
    modify(set, fd, EPOLLONESHOT, 'b');
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(one_shot_edge)
{
    int fd = connected(0), set = epoll_create1(0);
    add(set, fd, IO | EPOLLET | EPOLLONESHOT, 'a');
    see(set, 4, 0);
    ask("s0 5");
    await_bytes(fd, 5);
    see(set, 4, 0);
    modify(set, fd, IO | EPOLLET | EPOLLONESHOT, 'a');
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(one_shot_listener)
{
    int set = epoll_create1(0), fd = made_listener(SPARE_PORT, 8);
    add(set, fd, EPOLLIN | EPOLLONESHOT, 'l');
    ask("c0 5");
    see_soon(set, 4);
    see(set, 4, 0);
    modify(set, fd, EPOLLIN | EPOLLONESHOT, 'm');
    see(set, 4, 0);
}

/* ---- the interest list ---- */

CASE(errors_of_control)
{
    int fd = accepted(0), set = epoll_create1(0), pipes[2], file = memfd_create("f", 0);
    if (pipe(pipes) != 0)
        die("pipe");
    CALL(add(set, fd, EPOLLIN, 'a'));
    CALL(add(set, fd, EPOLLIN, 'a'));
    CALL(modify(set, pipes[0], EPOLLIN, 'a'));
    CALL(add(set, -1, EPOLLIN, 'a'));
    CALL(add(set, 9999, EPOLLIN, 'a'));
    CALL(add(-1, fd, EPOLLIN, 'a'));
    CALL(add(fd, set, EPOLLIN, 'a'));
    CALL(add(set, set, EPOLLIN, 'a'));
    CALL(add(set, file, EPOLLIN, 'a'));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, pipes[0], NULL));
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], NULL));
    CALL(epoll_ctl(set, 0, fd, NULL) == -1);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
}

CASE(errors_of_creation)
{
    CALL(epoll_create(0));
    CALL(epoll_create(-1));
    CALL(epoll_create1(1));
    CALL(epoll_create(1) >= 0);
    CALL(fcntl(epoll_create1(EPOLL_CLOEXEC), F_GETFD));
}

CASE(errors_of_waiting)
{
    struct epoll_event events[2];
    struct timespec bad = {0, 1000000000}, none = {0, 0};
    int fd = accepted(0), set = epoll_create1(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    add(set, fd, EPOLLIN, 'a');
    CALL(epoll_wait(set, events, 0, 0));
    CALL(epoll_wait(set, events, -1, 0));
    CALL(epoll_wait(fd, events, 2, 0));
    CALL(epoll_wait(pipes[0], events, 2, 0));
    CALL(epoll_wait(-1, events, 2, 0));
    CALL(epoll_pwait2(set, events, 2, &bad, NULL));
    CALL(epoll_pwait2(set, events, 2, &none, NULL));
    CALL(epoll_wait(set, events, 2, -0));
    CALL(epoll_wait(set, events, 0x7fffffff, 0));
}

CASE(closed_descriptor_leaves)
{
    int fd = accepted(0), other = accepted(1), set = epoll_create1(0);
    add(set, fd, EPOLLOUT, 'a');
    add(set, other, EPOLLOUT, 'b');
    see(set, 4, 0);
    close(fd);
    see(set, 4, 0);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
}

CASE(number_used_again)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLOUT, 'a');
    close(fd);
    int next = accepted(1);
    HOLDS(next == fd);
    see(set, 4, 0);
    CALL(modify(set, next, EPOLLOUT, 'b'));
    CALL(add(set, next, EPOLLOUT, 'b'));
    see(set, 4, 0);
}

CASE(duplicate_keeps_it_registered)
{
    int fd = accepted(0), set = epoll_create1(0), copy = dup(fd);
    add(set, fd, EPOLLIN, 'a');
    close(fd);
    ask("s0 3");
    see_soon(set, 4);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, copy, NULL));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    close(copy);
    see(set, 4, 0);
}

CASE(duplicates_are_separate_entries)
{
    int fd = accepted(0), set = epoll_create1(0), copy = dup(fd);
    CALL(add(set, fd, EPOLLIN, 'a'));
    CALL(add(set, copy, EPOLLIN, 'b'));
    ask("s0 3");
    await_bytes(fd, 3);
    see(set, 4, 0);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, copy, NULL));
    see(set, 4, 0);
}

CASE(two_sets)
{
    int fd = connected(0), one = epoll_create1(0), two = epoll_create1(0);
    add(one, fd, EPOLLIN, 'a');
    add(two, fd, EPOLLIN | EPOLLET, 'b');
    ask("s0 3");
    see_soon(one, 4);
    see_soon(two, 4);
    see(one, 4, 0);
    see(two, 4, 0);
    take(fd);
    see(one, 4, 0);
    close(one);
    ask("s0 3");
    see_soon(two, 4);
}

CASE(registered_before_it_connects)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
    CALL(add(set, fd, IO, 'a'));
    see(set, 4, 0);
    CALL(connect(fd, AT(at)));
    await(fd, POLLOUT);
    ask("a0");
    see(set, 4, 0);
    CALL(modify(set, fd, EPOLLIN, 'b'));
    see(set, 4, 0);
    ask("s0 1");
    see_soon(set, 4);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
}

CASE(registered_edge_before_it_connects)
{
    struct sockaddr_in at = peer_at(PEER_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
    CALL(add(set, fd, IO | EPOLLET, 'a'));
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(connect(fd, AT(at)));
    see_soon(set, 4);
    see(set, 4, 0);
    ask("a0");
}

CASE(registered_before_it_listens)
{
    struct sockaddr_in at = any_at(SPARE_PORT);
    int fd = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0);
    set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    CALL(add(set, fd, EPOLLIN, 'a'));
    see(set, 4, 0);
    CALL(bind(fd, AT(at)));
    CALL(listen(fd, 4));
    see(set, 4, 0);
    ask("c0 5");
    see_soon(set, 4);
    CALL(modify(set, fd, EPOLLIN | EPOLLET, 'b'));
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
}

CASE(refused_connection)
{
    struct sockaddr_in at = peer_at(REFUSED_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
    CALL(connect(fd, AT(at)));
    CALL(add(set, fd, IO, 'a'));
    await(fd, POLLHUP);
    see(set, 4, 0);
    CALL(get_int(fd, SOL_SOCKET, SO_ERROR));
    see(set, 4, 0);
}

CASE(refused_connection_by_edge)
{
    struct sockaddr_in at = peer_at(REFUSED_PORT);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
    CALL(connect(fd, AT(at)));
    CALL(add(set, fd, IO | EPOLLET, 'a'));
    await(fd, POLLHUP);
    see(set, 4, 0);
    see(set, 4, 0);
}

CASE(data_is_kept_whole)
{
    int fd = accepted(0), set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 0xfedcba9876543210u}, out;
    CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CALL(epoll_wait(set, &out, 1, 0));
    HOLDS(out.data.u64 == 0xfedcba9876543210u);
    event.data.u64 = ~0ull;
    CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CALL(epoll_wait(set, &out, 1, 0));
    HOLDS(out.data.u64 == ~0ull);
    event.data.u64 = 0;
    CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CALL(epoll_wait(set, &out, 1, 0));
    HOLDS(out.data.u64 == 0);
}

/* ---- exclusive ---- */

CASE(exclusive_rules)
{
    int fd = made_listener(SPARE_PORT, 8), set = epoll_create1(0), inner = epoll_create1(0);
    CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 'a'));
    CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP, 'a'));
    CALL(add(set, inner, EPOLLIN | EPOLLEXCLUSIVE, 'a'));
    CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET, 'a'));
    CALL(modify(set, fd, EPOLLIN, 'a'));
    CALL(modify(set, fd, EPOLLIN | EPOLLEXCLUSIVE, 'a'));
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CALL(add(set, fd, EPOLLIN, 'a'));
    CALL(modify(set, fd, EPOLLIN | EPOLLEXCLUSIVE, 'a'));
}

struct waiter {
    pthread_t thread;
    int set, count;
};

static void *wait_on(void *argument)
{
    struct waiter *waiter = argument;
    struct epoll_event event;
    waiter->count = epoll_wait(waiter->set, &event, 1, 150);
    return NULL;
}

CASE(exclusive_wakes_not_all)
{
    struct waiter waiters[4];
    int fd = made_listener(SPARE_PORT, 8), woken = 0;
    for (int i = 0; i < 4; i++) {
        waiters[i].set = epoll_create1(0);
        add(waiters[i].set, fd, EPOLLIN | EPOLLEXCLUSIVE, 'a');
        pthread_create(&waiters[i].thread, NULL, wait_on, &waiters[i]);
    }
    pause_ms(50);
    ask("c0 5");
    for (int i = 0; i < 4; i++) {
        pthread_join(waiters[i].thread, NULL);
        woken += waiters[i].count == 1;
    }
    HOLDS(woken >= 1);
    /* Those that looked only after the time limit see the level as well. */
    HOLDS(woken <= 4);
}

/* ---- many threads, one set ---- */

CASE(one_event_wakes_one_of_many_by_edge)
{
    struct waiter waiters[3];
    int fd = accepted(0), set = epoll_create1(0), woken = 0;
    add(set, fd, EPOLLIN | EPOLLET, 'a');
    for (int i = 0; i < 3; i++) {
        waiters[i].set = set;
        pthread_create(&waiters[i].thread, NULL, wait_on, &waiters[i]);
    }
    pause_ms(50);
    ask("s0 1");
    for (int i = 0; i < 3; i++) {
        pthread_join(waiters[i].thread, NULL);
        woken += waiters[i].count;
    }
    say("woken %d", woken);
}

struct task {
    int set, fd;
    unsigned events;
};

static void add_task(void *argument)
{
    struct task *task = argument;
    add(task->set, task->fd, task->events, 'x');
}

static void modify_task(void *argument)
{
    struct task *task = argument;
    modify(task->set, task->fd, task->events, 'x');
}

static void close_task(void *argument) { close(((struct task *)argument)->fd); }

static void shut_task(void *argument) { shutdown(((struct task *)argument)->fd, SHUT_RDWR); }

static void write_task(void *argument)
{
    uint64_t one = 1;
    if (write(((struct task *)argument)->fd, &one, sizeof one) != sizeof one)
        die("write");
}

CASE(added_while_another_waits)
{
    struct later later;
    int fd = accepted(0), set = epoll_create1(0);
    struct task task = {set, fd, EPOLLOUT};
    start_later(&later, 20, add_task, &task);
    see_soon(set, 4);
    join(&later);
}

CASE(modified_while_another_waits)
{
    struct later later;
    int fd = accepted(0), set = epoll_create1(0);
    struct task task = {set, fd, EPOLLOUT};
    add(set, fd, EPOLLIN, 'a');
    start_later(&later, 20, modify_task, &task);
    see_soon(set, 4);
    join(&later);
}

CASE(data_while_waiting)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    ask("l 20 s0 4");
    see_soon(set, 4);
    CALL(recv(fd, (char[8]){0}, 8, MSG_DONTWAIT));
}

CASE(connection_while_waiting)
{
    int fd = made_listener(SPARE_PORT, 8), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    ask("l 20 c0 5");
    see_soon(set, 4);
    CALL(accept(fd, NULL, NULL) >= 0);
}

CASE(closed_while_another_waits)
{
    struct later later;
    int fd = accepted(0), other = accepted(1), set = epoll_create1(0);
    struct task task = {set, fd, 0};
    add(set, fd, EPOLLIN, 'a');
    add(set, other, EPOLLIN, 'b');
    start_later(&later, 20, close_task, &task);
    ask("l 60 s1 1");
    see_soon(set, 4);
    join(&later);
}

CASE(shut_down_while_another_waits)
{
    struct later later;
    int fd = accepted(0), set = epoll_create1(0);
    struct task task = {set, fd, 0};
    add(set, fd, EPOLLIN | EPOLLRDHUP, 'a');
    start_later(&later, 20, shut_task, &task);
    /* Just after the call: whether the peer's end has come as well is a matter of time. */
    struct epoll_event event;
    CALL(epoll_wait(set, &event, 1, 3000));
    HOLDS((event.events & EPOLLIN) != 0);
    join(&later);
}

CASE(reset_while_waiting)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    ask("l 20 x0");
    see_soon(set, 4);
}

CASE(fin_while_waiting)
{
    int fd = connected(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN | EPOLLRDHUP, 'a');
    ask("l 20 f0");
    see_soon(set, 4);
}

/* ---- with kernel descriptors ---- */

CASE(eventfd_beside_a_socket)
{
    struct later later;
    int fd = accepted(0), set = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK);
    uint64_t value;
    struct task task = {set, event, 0};
    add(set, fd, EPOLLIN, 'a');
    add(set, event, EPOLLIN, 'e');
    see(set, 4, 0);
    start_later(&later, 20, write_task, &task);
    see_soon(set, 4);
    join(&later);
    ask("s0 1");
    await_bytes(fd, 1);
    see(set, 4, 0);
    CALL(read(event, &value, sizeof value));
    see(set, 4, 0);
}

CASE(pipe_beside_a_socket)
{
    int fd = accepted(0), set = epoll_create1(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    add(set, fd, EPOLLIN, 'a');
    add(set, pipes[0], EPOLLIN, 'p');
    add(set, pipes[1], EPOLLOUT, 'q');
    see(set, 4, 0);
    CALL(write(pipes[1], "x", 1));
    ask("s0 1");
    await_bytes(fd, 1);
    see(set, 4, 0);
    close(pipes[1]);
    see(set, 4, 0);
}

CASE(timerfd_beside_a_socket)
{
    int fd = accepted(0), set = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec soon = {.it_value = {0, 20000000}};
    uint64_t value;
    add(set, fd, EPOLLIN, 'a');
    add(set, timer, EPOLLIN, 't');
    timerfd_settime(timer, 0, &soon, NULL);
    see_soon(set, 4);
    CALL(read(timer, &value, sizeof value));
    see(set, 4, 0);
}

CASE(signalfd_beside_a_socket)
{
    sigset_t mask, old;
    struct signalfd_siginfo info;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &mask, &old);
    int fd = accepted(0), set = epoll_create1(0), signals = signalfd(-1, &mask, 0);
    add(set, fd, EPOLLIN, 'a');
    add(set, signals, EPOLLIN, 's');
    see(set, 4, 0);
    pthread_kill(pthread_self(), SIGUSR1);
    see_soon(set, 4);
    CALL(read(signals, &info, sizeof info) == sizeof info);
    say("signal %d", (int)info.ssi_signo == SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

CASE(kernel_only_set)
{
    int set = epoll_create1(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    add(set, pipes[0], EPOLLIN | EPOLLET, 'p');
    see(set, 4, 0);
    CALL(write(pipes[1], "x", 1));
    see(set, 4, 0);
    see(set, 4, 0);
    CALL(write(pipes[1], "x", 1));
    see(set, 4, 0);
}

CASE(room_for_one_serves_both_kinds)
{
    int fd = accepted(0), set = epoll_create1(0), event = eventfd(1, 0);
    struct epoll_event out;
    unsigned seen = 0;
    ask("s0 1");
    await_bytes(fd, 1);
    add(set, fd, EPOLLIN, 'a');
    add(set, event, EPOLLIN, 'e');
    for (int i = 0; i < 200; i++)
        if (epoll_wait(set, &out, 1, 0) == 1)
            seen |= out.data.u64 == 'a' ? 1 : 2;
    say("seen %u", seen);
}

/* ---- nested, polled, duplicated ---- */

CASE(nested_sets)
{
    int fd = accepted(0), inner = epoll_create1(0), outer = epoll_create1(0);
    CALL(add(inner, fd, EPOLLIN, 'a'));
    CALL(add(outer, inner, EPOLLIN, 'i'));
    see(outer, 4, 0);
    ask("s0 2");
    see_soon(outer, 4);
    see(outer, 4, 0);
    see(inner, 4, 0);
    take(fd);
    see(outer, 4, 0);
    see(inner, 4, 0);
}

CASE(nested_while_waiting)
{
    int fd = accepted(0), inner = epoll_create1(0), outer = epoll_create1(0);
    CALL(add(inner, fd, EPOLLIN, 'a'));
    CALL(add(outer, inner, EPOLLIN, 'i'));
    ask("l 20 s0 2");
    see_soon(outer, 4);
    see(inner, 4, 0);
}

CASE(nested_twice)
{
    int fd = accepted(0), one = epoll_create1(0), two = epoll_create1(0), three = epoll_create1(0);
    CALL(add(one, fd, EPOLLIN, 'a'));
    CALL(add(two, one, EPOLLIN, 'b'));
    CALL(add(three, two, EPOLLIN, 'c'));
    ask("l 20 s0 2");
    see_soon(three, 4);
    see(two, 4, 0);
    see(one, 4, 0);
}

CASE(nested_by_edge)
{
    int fd = accepted(0), inner = epoll_create1(0), outer = epoll_create1(0);
    CALL(add(inner, fd, EPOLLIN, 'a'));
    CALL(add(outer, inner, EPOLLIN | EPOLLET, 'i'));
    ask("s0 2");
    see_soon(outer, 4);
    see(outer, 4, 0);
    ask("s0 2");
    await_bytes(fd, 4);
    see_soon(outer, 4);
}

CASE(nested_loops_are_refused)
{
    int one = epoll_create1(0), two = epoll_create1(0);
    CALL(add(one, two, EPOLLIN, 'a'));
    CALL(add(two, one, EPOLLIN, 'b'));
    CALL(add(one, one, EPOLLIN, 'b'));
}

CASE(polled_set)
{
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    say("poll: %s", poll_text(ready(set, POLLIN | POLLOUT, 0)));
    ask("l 20 s0 1");
    say("poll: %s", poll_text(ready(set, POLLIN | POLLOUT, 3000)));
    take(fd);
    say("poll: %s", poll_text(ready(set, POLLIN | POLLOUT, 0)));
}

CASE(selected_set)
{
    int fd = accepted(0), set = epoll_create1(0);
    struct timeval limit = {3, 0};
    fd_set in;
    add(set, fd, EPOLLIN, 'a');
    FD_ZERO(&in);
    FD_SET(set, &in);
    ask("l 20 s0 1");
    CALL(select(set + 1, &in, NULL, NULL, &limit));
}

CASE(duplicated_set)
{
    int fd = accepted(0), set = epoll_create1(0), copy = fcntl(set, F_DUPFD_CLOEXEC, 0L);
    CALL(add(copy, fd, EPOLLIN, 'a'));
    CALL(add(set, fd, EPOLLIN, 'a'));
    ask("s0 1");
    see_soon(set, 4);
    see(copy, 4, 0);
    close(set);
    see(copy, 4, 0);
    CALL(modify(copy, fd, EPOLLOUT, 'b'));
    see(copy, 4, 0);
    CALL(epoll_ctl(copy, EPOLL_CTL_DEL, fd, NULL));
    see(copy, 4, 0);
}

CASE(set_replaced_by_dup2)
{
    int fd = accepted(0), set = epoll_create1(0), other = epoll_create1(0);
    add(set, fd, EPOLLOUT, 'a');
    CALL(dup2(other, set) == set);
    see(set, 4, 0);
    CALL(add(set, fd, EPOLLOUT, 'b'));
    see(other, 4, 0);
}

/* ---- times and signals ---- */

CASE(timeout_is_kept)
{
    struct epoll_event event;
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    long start = now_ms();
    CALL(epoll_wait(set, &event, 1, 30));
    long took = now_ms() - start;
    HOLDS(took >= 30);
    HOLDS(took < 1000);
}

CASE(nanoseconds)
{
    struct epoll_event event;
    struct timespec span = {0, 2500000};
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    CALL(epoll_pwait2(set, &event, 1, &span, NULL));
    clock_gettime(CLOCK_MONOTONIC, &end);
    long took = (end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec;
    HOLDS(took >= 2500000);
    HOLDS(took < 1000000000);
    ask("s0 1");
    CALL(epoll_pwait2(set, &event, 1, NULL, NULL));
}

static volatile sig_atomic_t handled;

static void on_user(int number)
{
    (void)number;
    handled++;
}

static void kill_task(void *argument) { pthread_kill(*(pthread_t *)argument, SIGUSR1); }

static void handle_user(int flags)
{
    struct sigaction action = {.sa_handler = on_user, .sa_flags = flags};
    sigaction(SIGUSR1, &action, NULL);
    handled = 0;
}

CASE(signal_interrupts)
{
    struct later later;
    struct epoll_event event;
    pthread_t self = pthread_self();
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    handle_user(0);
    start_later(&later, 20, kill_task, &self);
    CALL(epoll_wait(set, &event, 1, 3000));
    say("handled %d", handled);
    join(&later);
    handle_user(SA_RESTART);
    start_later(&later, 20, kill_task, &self);
    CALL(epoll_wait(set, &event, 1, 3000));
    say("handled %d", handled);
    join(&later);
}

CASE(signal_mask_holds_while_waiting)
{
    struct epoll_event event;
    sigset_t block, open_mask, old;
    int fd = accepted(0), set = epoll_create1(0);
    add(set, fd, EPOLLIN, 'a');
    handle_user(0);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    pthread_kill(pthread_self(), SIGUSR1);
    CALL(epoll_wait(set, &event, 1, 5));
    say("handled %d", handled);
    open_mask = old;
    sigdelset(&open_mask, SIGUSR1);
    CALL(epoll_pwait(set, &event, 1, 3000, &open_mask));
    say("handled %d", handled);
    pthread_kill(pthread_self(), SIGUSR1);
    CALL(epoll_pwait(set, &event, 1, 5, &block));
    say("handled %d", handled);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    say("handled %d", handled);
}

CASE(ready_beats_signal)
{
    sigset_t block, old;
    struct epoll_event event;
    int fd = accepted(0), set = epoll_create1(0);
    ask("s0 1");
    await_bytes(fd, 1);
    add(set, fd, EPOLLIN, 'a');
    handle_user(0);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    pthread_kill(pthread_self(), SIGUSR1);
    CALL(epoll_pwait(set, &event, 1, 3000, &old));
    say("handled %d", handled);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    say("handled %d", handled);
}

CASE(handler_that_writes)
{
    struct later later;
    struct epoll_event event;
    pthread_t self = pthread_self();
    int fd = accepted(0), set = epoll_create1(0), pipes[2];
    if (pipe(pipes) != 0)
        die("pipe");
    add(set, fd, EPOLLIN, 'a');
    add(set, pipes[0], EPOLLIN, 'p');
    handle_user(0);
    start_later(&later, 20, kill_task, &self);
    CALL(epoll_wait(set, &event, 1, 3000));
    CALL(write(pipes[1], "x", 1));
    see(set, 4, 0);
    join(&later);
}
