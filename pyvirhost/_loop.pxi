# An event loop for libvirt, for _events.pyx to include: C alone, without the GIL, so that nothing
# in Python delays it. It costs a call the same over ten connections and over thousands, where
# libvirt's own walks over all of them whenever one is used.
#
# libvirt adds, changes and removes watches of descriptors and timers from any thread, and in their
# callbacks. Whatever that takes is done at once, under one lock. What is removed is only marked,
# and released by the loop's thread, which alone may be looking at it.

from libc.errno cimport EBADF, EEXIST, EINTR, EINVAL, ENOENT, ENOMEM, EPERM
from libc.limits cimport INT_MAX
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from posix.unistd cimport close


cdef extern from *:
    """
    #include <errno.h>
    #include <limits.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/prctl.h>
    #include <time.h>
    #include <unistd.h>

    #define MILLISECOND ((int64_t)1000000)  /* in ns */

    static pthread_mutex_t loop_lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t loop_ended;
    static _Thread_local int in_loop;  /* whether this is the loop's thread */

    static void init_loop_ended(void)
    {
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&loop_ended, &attributes);
        pthread_condattr_destroy(&attributes);
    }

    static void lock_loop(void) { pthread_mutex_lock(&loop_lock); }
    static void unlock_loop(void) { pthread_mutex_unlock(&loop_lock); }
    static void tell_loop_ended(void) { pthread_cond_broadcast(&loop_ended); }

    /* Wait for the loop's end, until a time if it is not 0. */
    static int await_loop_ended(int64_t until)
    {
        struct timespec time = {until / (1000 * MILLISECOND), until % (1000 * MILLISECOND)};
        return until ? pthread_cond_timedwait(&loop_ended, &loop_lock, &time)
                     : pthread_cond_wait(&loop_ended, &loop_lock);
    }

    static int64_t time_now(void)
    {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        return (int64_t)time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
    }

    /* Timers of a second and more, as keepalive has, are up to 100 ms late: of a thousand that are
       due within it the loop's thread is woken once. */
    static int64_t due_time(int64_t now, int timeout)
    {
        int64_t due = now + timeout * MILLISECOND, together = 100 * MILLISECOND;
        return timeout < 1000 ? due : (due + together - 1) / together * together;
    }

    static int whole_ms(int64_t ns)
    {
        int64_t ms = (ns + MILLISECOND - 1) / MILLISECOND;
        return ms < 0 ? 0 : ms > INT_MAX ? INT_MAX : (int)ms;
    }

    /* The signals are for Python's threads to take, except for those that a fault raises here. */
    static int start_loop_thread(void *(*run)(void *))
    {
        static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
        sigset_t signals, before;
        pthread_t thread;
        size_t i;
        int error;
        sigfillset(&signals);
        for (i = 0; i < sizeof faults / sizeof *faults; i++)
            sigdelset(&signals, faults[i]);
        pthread_sigmask(SIG_SETMASK, &signals, &before);
        error = pthread_create(&thread, NULL, run, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!error)
            pthread_detach(thread);
        return error;
    }

    static int control_descriptor(int set, int how, int fd, uint32_t events, uint64_t data)
    {
        struct epoll_event event = {.events = events, .data.u64 = data};
        return epoll_ctl(set, how, fd, &event) < 0 ? errno : 0;
    }
    """
    int64_t MILLISECOND
    bint in_loop
    void init_loop_ended() nogil
    void lock_loop() nogil
    void unlock_loop() nogil
    void tell_loop_ended() nogil
    int await_loop_ended(int64_t until) nogil
    int64_t time_now() nogil
    int64_t due_time(int64_t now, int timeout) nogil
    int whole_ms(int64_t ns) nogil
    int start_loop_thread(void *(*run)(void *) noexcept nogil) nogil
    int control_descriptor(int set, int how, int fd, uint32_t events, uint64_t data) nogil
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)
    int prctl(int option, const char *name) nogil
    int PR_SET_NAME

    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags) nogil
    int epoll_wait(int set, epoll_event *events, int most, int timeout) nogil
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags) nogil
    int eventfd_read(int fd, uint64_t *value) nogil
    int eventfd_write(int fd, uint64_t value) nogil
    int poll(void *descriptors, unsigned long count, int timeout) nogil
    int errno


# ---- entries by number --------------------------------------------------------------------------

cdef struct Entry:  # what begins each struct that is found by its number
    int number
    Entry *next

cdef struct Table:
    Entry **rows  # as many as a power of two
    size_t size
    size_t count


cdef Entry *find(Table *table, int number) noexcept nogil:
    cdef Entry *entry
    if table.size == 0:
        return NULL
    entry = table.rows[number & (table.size - 1)]
    while entry is not NULL and entry.number != number:
        entry = entry.next
    return entry


cdef void link(Table *table, Entry *entry) noexcept nogil:
    cdef Entry **row
    row = &table.rows[entry.number & (table.size - 1)]
    entry.next = row[0]
    row[0] = entry


cdef int insert(Table *table, Entry *entry) noexcept nogil:
    # 0, or ENOMEM.
    cdef Table larger
    cdef Entry *moved
    cdef size_t i
    if table.count == table.size:
        larger.size = table.size * 2 if table.size else 64
        larger.rows = <Entry **>calloc(larger.size, sizeof(Entry *))
        if larger.rows is NULL:
            return ENOMEM
        for i in range(table.size):
            while table.rows[i] is not NULL:
                moved = table.rows[i]
                table.rows[i] = moved.next
                link(&larger, moved)
        free(table.rows)
        table.rows, table.size = larger.rows, larger.size
    link(table, entry)
    table.count += 1
    return 0


cdef void take(Table *table, Entry *entry) noexcept nogil:
    cdef Entry **row
    row = &table.rows[entry.number & (table.size - 1)]
    while row[0] is not entry:
        row = &row[0].next
    row[0] = entry.next
    table.count -= 1


cdef int free_number(Table *table, int *last) noexcept nogil:
    # One that nobody has: a caller may still name an earlier one.
    while True:
        last[0] = last[0] + 1 if last[0] < INT_MAX else 1
        if find(table, last[0]) is NULL:
            return last[0]


cdef void clear(Table *table) noexcept nogil:
    cdef size_t i
    cdef Entry *entry
    for i in range(table.size):
        while table.rows[i] is not NULL:
            entry = table.rows[i]
            table.rows[i] = entry.next
            free(entry)
    free(table.rows)
    table.rows, table.size, table.count = NULL, 0, 0


# ---- the loop's state, under its lock -----------------------------------------------------------

cdef struct Source:  # what libvirt adds and removes
    Entry entry
    bint is_removed
    void *opaque
    lib.virFreeCallback release
    Source *next_removed
    Descriptor *descriptor  # NULL if it is a timer

cdef struct Watch:
    Source source
    int events  # what libvirt wants to know; 0 to be left alone
    lib.virEventHandleCallback call
    Watch *next  # of the same descriptor: libvirt may watch one twice

cdef struct Descriptor:
    Entry entry
    Watch *first
    uint32_t asked  # of epoll, if it is in the set
    uint32_t life  # tells what epoll says of it from what it says of an earlier one of its number
    bint is_in_set
    bint is_file  # which epoll does not take, as it is always ready
    bint is_ready  # a file that somebody wants to know of
    Descriptor *next_ready

cdef struct Timer:
    Source source
    int timeout  # ms, or negative if it is off
    int64_t due
    size_t place  # in the heap, counted from 1; 0 if it is not there
    bint is_due  # in this turn
    lib.virEventTimeoutCallback call
    Timer *next_due

cdef enum:
    MOST_EVENTS = 64
    # In so many turns in a row epoll may tell of a descriptor that nobody watches: another thread
    # may just have removed the watch.
    MOST_STALE = 100

cdef uint64_t WAKER = <uint64_t>-1

cdef Table watches, timers, descriptors
cdef int last_watch, last_timer
cdef uint32_t last_life
cdef int ready_files
cdef Timer **heap  # the first is due first
cdef size_t heap_size, heap_room
cdef Source *removed

cdef int epoll_set = -1
cdef int waker = -1  # an eventfd
cdef int64_t asleep_until = 0  # 0 while the loop is awake
cdef int stale_turns
cdef bint running, ending  # whether there is a thread, and whether it is to end
cdef unsigned long threads  # how many there have been


cdef void wake() noexcept nogil:
    global asleep_until
    if asleep_until:
        asleep_until = 0
        eventfd_write(waker, 1)


cdef int make_set() noexcept nogil:
    # 0, or what failed.
    global epoll_set, waker
    cdef int error = 0
    if epoll_set >= 0:
        return 0
    epoll_set = epoll_create1(EPOLL_CLOEXEC)
    if epoll_set < 0:
        return errno
    waker = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if waker < 0:
        error = errno
    else:
        error = control_descriptor(epoll_set, EPOLL_CTL_ADD, waker, EPOLLIN, WAKER)
    if error:
        close_set()
    return error


cdef void close_set() noexcept nogil:
    global epoll_set, waker
    if waker >= 0:
        close(waker)
    if epoll_set >= 0:
        close(epoll_set)
    epoll_set = waker = -1


# ---- descriptors --------------------------------------------------------------------------------

cdef uint32_t wanted(Descriptor *descriptor) noexcept nogil:
    # For epoll; 0 if nobody watches it. Where nobody wants to know anything just now, epoll tells
    # once of an error or a hang-up, and nobody hears it.
    cdef Watch *watch
    cdef bint is_watched = False
    cdef int events = 0
    cdef uint32_t bits = 0
    watch = descriptor.first
    while watch is not NULL:
        if not watch.source.is_removed:
            is_watched = True
            events |= watch.events
        watch = watch.next
    if is_watched:
        bits = EPOLLERR | EPOLLHUP if events else EPOLLET
        if events & lib.VIR_EVENT_HANDLE_READABLE:
            bits |= EPOLLIN
        if events & lib.VIR_EVENT_HANDLE_WRITABLE:
            bits |= EPOLLOUT
    return bits


cdef uint64_t name(Descriptor *descriptor) noexcept nogil:
    return <uint64_t>descriptor.life << 32 | <uint32_t>descriptor.entry.number


cdef int enter(Descriptor *descriptor, uint32_t events) noexcept nogil:
    # 0, or what failed.
    global last_life
    cdef int fd = descriptor.entry.number
    cdef int error = ENOENT
    if descriptor.is_in_set:
        error = control_descriptor(epoll_set, EPOLL_CTL_MOD, fd, events, name(descriptor))
    if error == ENOENT:  # or it was closed, and this is another of its number
        last_life += 1
        descriptor.life = last_life
        error = control_descriptor(epoll_set, EPOLL_CTL_ADD, fd, events, name(descriptor))
        if error == EEXIST:
            error = control_descriptor(epoll_set, EPOLL_CTL_MOD, fd, events, name(descriptor))
    descriptor.is_in_set = error == 0
    descriptor.asked = events
    return error


cdef int tell(Descriptor *descriptor) noexcept nogil:
    # Tell epoll what is wanted now: 0, or what failed. Of a descriptor that is closed nothing is
    # ever heard, as of one where nothing happens. If the set is what was closed, even if its number
    # is another file's by now, the next one is told as soon as the loop notices.
    global ready_files
    cdef int error = 0
    cdef uint32_t events = wanted(descriptor)
    if events == 0:
        if descriptor.is_in_set:
            control_descriptor(epoll_set, EPOLL_CTL_DEL, descriptor.entry.number, 0, 0)
        descriptor.is_in_set = descriptor.is_file = False
    elif not descriptor.is_file and not (descriptor.is_in_set and events == descriptor.asked):
        error = enter(descriptor, events)
        descriptor.is_file = error == EPERM
    ready_files -= descriptor.is_ready
    descriptor.is_ready = descriptor.is_file and events != EPOLLET
    ready_files += descriptor.is_ready
    if descriptor.is_ready:
        wake()
    return 0 if error == EPERM or error == EBADF or error == EINVAL else error


cdef Descriptor *descriptor_of(int fd) noexcept nogil:
    cdef Descriptor *found
    found = <Descriptor *>find(&descriptors, fd)
    if found is NULL:
        found = <Descriptor *>calloc(1, sizeof(Descriptor))
        if found is not NULL:
            found.entry.number = fd
            if insert(&descriptors, &found.entry):
                free(found)
                found = NULL
    return found


cdef void forget_unwatched(Descriptor *descriptor) noexcept nogil:
    if descriptor.first is NULL:
        take(&descriptors, &descriptor.entry)
        free(descriptor)


cdef int add_watch(int fd, int events, lib.virEventHandleCallback call, void *opaque,
                   lib.virFreeCallback release) noexcept nogil:
    # Its number, or -1, with nothing changed.
    cdef Watch *watch
    cdef Descriptor *descriptor
    if make_set():
        return -1
    watch = <Watch *>calloc(1, sizeof(Watch))
    if watch is NULL:
        return -1
    descriptor = descriptor_of(fd)
    if descriptor is NULL:
        free(watch)
        return -1
    watch.source.entry.number = free_number(&watches, &last_watch)
    watch.source.opaque, watch.source.release = opaque, release
    watch.source.descriptor = descriptor
    watch.events, watch.call, watch.next = events, call, descriptor.first
    descriptor.first = watch
    if tell(descriptor) or insert(&watches, &watch.source.entry):
        descriptor.first = watch.next
        tell(descriptor)
        forget_unwatched(descriptor)
        free(watch)
        return -1
    return watch.source.entry.number


cdef int add_handle(int fd, int events, lib.virEventHandleCallback call, void *opaque,
                    lib.virFreeCallback release) noexcept nogil:
    cdef int number
    lock_loop()
    number = add_watch(fd, events, call, opaque, release)
    unlock_loop()
    return number


cdef void update_handle(int number, int events) noexcept nogil:
    cdef Watch *watch
    lock_loop()
    watch = <Watch *>find(&watches, number)
    if watch is not NULL:
        watch.events = events
        tell(watch.source.descriptor)
    unlock_loop()


cdef int remove_handle(int number) noexcept nogil:
    cdef Watch *watch
    lock_loop()
    watch = <Watch *>find(&watches, number)
    if watch is not NULL:
        remove(&watches, &watch.source)
        tell(watch.source.descriptor)
    unlock_loop()
    return -1 if watch is NULL else 0


# ---- timers -------------------------------------------------------------------------------------

cdef void put(Timer *timer, size_t place) noexcept nogil:
    heap[place - 1] = timer
    timer.place = place


cdef void sift(Timer *timer, size_t place) noexcept nogil:
    # Put it at that place, or where it belongs from there.
    cdef size_t child
    while place > 1 and timer.due < heap[(place >> 1) - 1].due:
        put(heap[(place >> 1) - 1], place)
        place >>= 1
    while True:
        child = place * 2
        if child < heap_size and heap[child].due < heap[child - 1].due:
            child += 1
        if child > heap_size or heap[child - 1].due >= timer.due:
            break
        put(heap[child - 1], place)
        place = child
    put(timer, place)


cdef void unschedule(Timer *timer) noexcept nogil:
    cdef Timer *last
    global heap_size
    cdef size_t place = timer.place
    if place:
        timer.place = 0
        last = heap[heap_size - 1]
        heap_size -= 1
        if last is not timer:
            sift(last, place)


cdef void schedule(Timer *timer, int64_t now) noexcept nogil:
    # The loop is not woken to find that it may sleep longer.
    global heap_size
    if timer.timeout < 0:
        unschedule(timer)
        return
    timer.due = due_time(now, timer.timeout)
    if timer.place == 0:
        heap_size += 1
        timer.place = heap_size
    sift(timer, timer.place)
    if timer.due < asleep_until:
        wake()


cdef int add_timer(int timeout, lib.virEventTimeoutCallback call, void *opaque,
                   lib.virFreeCallback release) noexcept nogil:
    # Its number, or -1, with nothing changed.
    cdef Timer **larger
    cdef Timer *timer
    global heap, heap_room
    cdef size_t room
    if timers.count == heap_room:
        room = heap_room * 2 if heap_room else 64
        larger = <Timer **>realloc(heap, room * sizeof(Timer *))
        if larger is NULL:
            return -1
        heap, heap_room = larger, room
    timer = <Timer *>calloc(1, sizeof(Timer))
    if timer is NULL:
        return -1
    timer.source.entry.number = free_number(&timers, &last_timer)
    timer.source.opaque, timer.source.release = opaque, release
    timer.timeout, timer.call = timeout, call
    if insert(&timers, &timer.source.entry):
        free(timer)
        return -1
    schedule(timer, time_now())
    return timer.source.entry.number


cdef int add_timeout(int timeout, lib.virEventTimeoutCallback call, void *opaque,
                     lib.virFreeCallback release) noexcept nogil:
    cdef int number
    lock_loop()
    number = add_timer(timeout, call, opaque, release)
    unlock_loop()
    return number


cdef int timers_made() noexcept nogil:
    cdef int made
    lock_loop()
    made = last_timer
    unlock_loop()
    return made


cdef void update_timeout(int number, int timeout) noexcept nogil:
    cdef Timer *timer
    lock_loop()
    timer = <Timer *>find(&timers, number)
    if timer is not NULL:
        timer.is_due = False
        timer.timeout = timeout
        schedule(timer, time_now())
    unlock_loop()


cdef int remove_timeout(int number) noexcept nogil:
    cdef Timer *timer
    lock_loop()
    timer = <Timer *>find(&timers, number)
    if timer is not NULL:
        timer.is_due = False
        unschedule(timer)
        remove(&timers, &timer.source)
    unlock_loop()
    return -1 if timer is NULL else 0


# ---- what is removed ----------------------------------------------------------------------------

cdef void remove(Table *table, Source *source) noexcept nogil:
    global removed
    take(table, &source.entry)
    source.is_removed = True
    source.next_removed = removed
    removed = source
    wake()


cdef bint release_one() noexcept nogil:
    # For the loop's thread, or if there is none. Gives the lock away in between.
    cdef Source *source
    global removed
    cdef Watch **place
    source = removed
    if source is NULL:
        return False
    removed = source.next_removed
    if source.descriptor is not NULL:
        place = &source.descriptor.first
        while place[0] is not <Watch *>source:
            place = &place[0].next
        place[0] = place[0].next
        forget_unwatched(source.descriptor)
    unlock_loop()
    if source.release is not NULL:
        source.release(source.opaque)
    free(source)
    lock_loop()
    return True


# ---- a turn of the loop, in its thread, with the lock but in callbacks and asleep ----------------

cdef void call_watches(Descriptor *descriptor, int events) noexcept nogil:
    cdef Watch *watch
    cdef uint32_t life = descriptor.life
    cdef int told
    watch = descriptor.first
    while watch is not NULL and descriptor.life == life:
        told = events & (watch.events | lib.VIR_EVENT_HANDLE_ERROR | lib.VIR_EVENT_HANDLE_HANGUP)
        if told and watch.events and not watch.source.is_removed:
            unlock_loop()
            watch.call(watch.source.entry.number, descriptor.entry.number, told,
                       watch.source.opaque)
            lock_loop()
        watch = watch.next


cdef int libvirts(uint32_t bits) noexcept nogil:
    cdef int events = 0
    if bits & EPOLLIN:
        events |= lib.VIR_EVENT_HANDLE_READABLE
    if bits & EPOLLOUT:
        events |= lib.VIR_EVENT_HANDLE_WRITABLE
    if bits & EPOLLERR:
        events |= lib.VIR_EVENT_HANDLE_ERROR
    if bits & EPOLLHUP:
        events |= lib.VIR_EVENT_HANDLE_HANGUP
    return events


cdef void take_events(epoll_event *events, int count) noexcept nogil:
    cdef Descriptor *descriptor
    global stale_turns
    cdef bint is_stale = False
    cdef uint64_t value = 0
    cdef int i
    for i in range(count):
        if events[i].data.u64 == WAKER:
            eventfd_read(waker, &value)
            continue
        descriptor = <Descriptor *>find(&descriptors, <int><uint32_t>events[i].data.u64)
        if descriptor is not NULL and descriptor.is_in_set and (
                name(descriptor) == events[i].data.u64):
            call_watches(descriptor, libvirts(events[i].events))
        else:
            is_stale = True
    stale_turns = stale_turns + 1 if is_stale else 0


cdef void take_files() noexcept nogil:
    # They are collected first, since callbacks change the table.
    cdef Entry *entry
    cdef Descriptor *descriptor
    cdef Descriptor *first = NULL
    cdef size_t i
    for i in range(descriptors.size):
        entry = descriptors.rows[i]
        while entry is not NULL:
            descriptor = <Descriptor *>entry
            if descriptor.is_ready:
                descriptor.next_ready = first
                first = descriptor
            entry = entry.next
    while first is not NULL:
        call_watches(first, lib.VIR_EVENT_HANDLE_READABLE | lib.VIR_EVENT_HANDLE_WRITABLE)
        first = first.next_ready


cdef void take_timers() noexcept nogil:
    # Each is called once in a turn, also one that is due again at once.
    cdef Timer *timer
    cdef Timer *first = NULL
    cdef Timer **end = &first
    cdef int64_t now = time_now()
    while heap_size and heap[0].due <= now:
        timer = heap[0]
        unschedule(timer)
        timer.next_due = NULL
        end[0] = timer
        end = &timer.next_due
    timer = first
    while timer is not NULL:
        schedule(timer, now)
        timer.is_due = True
        timer = timer.next_due
    timer = first
    while timer is not NULL:
        if timer.is_due and not timer.source.is_removed:
            timer.is_due = False
            unlock_loop()
            timer.call(timer.source.entry.number, timer.source.opaque)
            lock_loop()
        timer = timer.next_due


cdef int renew_set(bint is_broken) noexcept nogil:
    # 0, or what failed.
    cdef Entry *entry
    global epoll_set, waker, stale_turns
    cdef int old_set = epoll_set, old_waker = waker
    cdef int error
    cdef size_t i
    epoll_set = waker = -1
    error = make_set()
    if error:
        epoll_set, waker = old_set, old_waker
        return error
    if not is_broken:  # or the numbers may be another file's now
        close(old_set)
        close(old_waker)
    stale_turns = 0
    for i in range(descriptors.size):
        entry = descriptors.rows[i]
        while entry is not NULL:
            (<Descriptor *>entry).is_in_set = False
            tell(<Descriptor *>entry)
            entry = entry.next
    return 0


cdef void turn() noexcept nogil:
    global asleep_until
    cdef epoll_event events[MOST_EVENTS]
    cdef int count, timeout = -1
    cdef bint is_broken
    asleep_until = INT64_MAX
    if heap_size:
        asleep_until = heap[0].due
        timeout = whole_ms(asleep_until - time_now())
    if ready_files or timeout == 0:
        asleep_until = timeout = 0
    unlock_loop()
    count = epoll_wait(epoll_set, events, MOST_EVENTS, timeout)
    is_broken = count < 0 and errno != EINTR
    lock_loop()
    asleep_until = 0
    take_events(events, count)
    if ready_files:
        take_files()
    take_timers()
    # Somebody else has closed the set, or a descriptor that is watched and lives on in another
    # process, where the set can't be told to leave it.
    if (is_broken or stale_turns > MOST_STALE) and renew_set(is_broken):
        unlock_loop()
        poll(NULL, 0, 100)  # there is no descriptor left; not to spin meanwhile
        lock_loop()


cdef void *run_loop(void *nothing) noexcept nogil:
    global in_loop, running
    cdef unsigned long thread
    prctl(PR_SET_NAME, "pyvirhost-loop")
    in_loop = True
    lock_loop()
    thread = threads
    while True:
        while thread == threads and release_one():
            pass
        if ending or thread != threads:
            break
        turn()
    if thread == threads:
        running = False
        tell_loop_ended()
    unlock_loop()
    return NULL


# ---- its thread ---------------------------------------------------------------------------------

cdef bint is_loop_running() noexcept nogil:
    cdef bint result
    lock_loop()
    result = running and not ending
    unlock_loop()
    return result


cdef int start_loop() noexcept nogil:
    # 0, or why there is no thread. In the loop's own thread, that one goes on.
    global running, ending, threads
    cdef int error = 0
    lock_loop()
    while running and ending and not in_loop:
        await_loop_ended(0)
    ending = False
    if not running:
        error = make_set()
        if error == 0:
            error = start_loop_thread(run_loop)
        running = error == 0
        threads += running
    unlock_loop()
    return error


cdef void stop_loop(int64_t within) noexcept nogil:
    # Waits for its end, but for so many ns at most if that is not 0. In the loop's own thread, that
    # one ends after this turn.
    cdef unsigned long thread
    global ending
    cdef int64_t until
    lock_loop()
    if running:
        until = time_now() + within if within else 0
        thread = threads
        ending = True
        wake()
        while running and thread == threads and not in_loop and await_loop_ended(until) == 0:
            pass
    unlock_loop()


cdef void release_removed() noexcept nogil:
    # Do what a loop that does not run would.
    lock_loop()
    while not running and release_one():
        pass
    unlock_loop()


cdef void disown(Table *table) noexcept nogil:
    # What forks may be a callback, which returns into a turn of the parent's loop.
    cdef Entry *entry
    cdef size_t i
    for i in range(table.size):
        entry = table.rows[i]
        while entry is not NULL:
            (<Source *>entry).is_removed = True
            entry = entry.next
    free(table.rows)
    table.rows, table.size, table.count = NULL, 0, 0


cdef void leave_loop_to_parent() noexcept nogil:
    # In a forked child, where the set is still the parent's. What is watched there is the parent's
    # too, and is neither told nor released. The loop's own thread ends after its turn.
    global heap, heap_size, heap_room, removed, asleep_until, running, ending, ready_files, in_loop
    global threads
    cdef Source *source
    close_set()
    if in_loop:
        disown(&watches)
        disown(&timers)
        descriptors.size = descriptors.count = 0
    else:
        clear(&watches)
        clear(&timers)
        clear(&descriptors)
    threads += 1
    while removed is not NULL:
        source = removed
        removed = source.next_removed
        free(source)
    free(heap)
    heap = NULL
    heap_size = heap_room = 0
    asleep_until = ready_files = 0
    running = ending = in_loop = False
    init_loop_ended()
    unlock_loop()


init_loop_ended()
# While another thread changes something the process does not fork.
pthread_atfork(lock_loop, unlock_loop, leave_loop_to_parent)
