# What a fork waits for, and what a forked child leaves alone, for _connection.pyx to include.

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdlib.h>
    #include <time.h>

    /* Opening and closing take locks of libvirt's and GLib's, which a child that is forked
       meanwhile would find locked for ever. So a fork waits for those under way, and they for it.
       One that began more than a second ago most likely waits for its server, and holds no such
       lock. */
    static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t gate_changed;
    static int inside, forking;
    static struct timespec last_entry;
    /* Threads that have closed something. GLib has locks for the end of a thread, too. */
    static struct ending {
        pthread_t thread;
        struct ending *next;
    } *ended;
    static _Thread_local int own;   /* how often this thread is inside; authentication may open */
    /* Counts the forks between this process and the one that loaded the module. A forked child
       shares its parent's sockets: whatever it sends or closes there breaks the parent's
       connections. */
    static unsigned long forks;

    static void make_gate(void)
    {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&gate_changed, &monotonic);
        pthread_condattr_destroy(&monotonic);
    }

    static void enter_gate(void)
    {
        if (own++ > 0)
            return;
        pthread_mutex_lock(&gate);
        while (forking > 0)
            pthread_cond_wait(&gate_changed, &gate);
        inside++;
        clock_gettime(CLOCK_MONOTONIC, &last_entry);
        pthread_mutex_unlock(&gate);
    }

    /* The thread ends next, if it has an ending: the fork waits for that too. */
    static void leave_gate(struct ending *ending)
    {
        if (--own > 0)
            return;
        pthread_mutex_lock(&gate);
        inside--;
        if (ending != NULL) {
            ending->thread = pthread_self();
            ending->next = ended;
            ended = ending;
        }
        pthread_cond_broadcast(&gate_changed);
        pthread_mutex_unlock(&gate);
    }

    static void join_ended(struct ending *list)
    {
        while (list != NULL) {
            struct ending *next = list->next;
            pthread_join(list->thread, NULL);
            free(list);
            list = next;
        }
    }

    static void join_all(void)
    {
        struct ending *list;
        pthread_mutex_lock(&gate);
        list = ended;
        ended = NULL;
        pthread_mutex_unlock(&gate);
        join_ended(list);
    }

    static void before_fork(void)
    {
        struct timespec end;
        pthread_mutex_lock(&gate);
        forking++;
        end = last_entry;
        end.tv_sec++;
        /* libvirt itself forks while it opens, and waits for nobody: what it runs is a program. */
        while (own == 0 && inside > 0 && pthread_cond_timedwait(&gate_changed, &gate, &end) == 0)
            ;
        join_ended(ended);
        ended = NULL;
    }

    static void after_fork_in_parent(void)
    {
        forking--;
        pthread_cond_broadcast(&gate_changed);
        pthread_mutex_unlock(&gate);
    }

    static void after_fork_in_child(void)
    {
        forks++;
        forking = 0;
        inside = own > 0;
        make_gate();
        pthread_mutex_unlock(&gate);
    }

    static int watch_forks(void)
    {
        make_gate();
        return pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    }
    """
    unsigned long forks
    void enter_gate() nogil
    int watch_forks()
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*start)(void *) noexcept nogil,
                       void *argument) nogil
    struct ending:
        pass
    void leave_gate(ending *ending) nogil
    void join_all() nogil


if watch_forks() != 0:
    raise MemoryError


cdef void close_handle(lib.virConnectPtr handle, bint registered, ending *ending) noexcept nogil:
    # A registered callback holds the connection, and its socket open.
    enter_gate()
    if registered:
        lib.virConnectUnregisterCloseCallback(handle, on_close)
    lib.virConnectClose(handle)
    leave_gate(ending)


cdef struct Abandoned:
    ending thread  # first, to be freed by that
    lib.virConnectPtr handle
    bint registered


cdef void *close_abandoned(void *argument) noexcept nogil:
    cdef Abandoned *abandoned = <Abandoned *>argument
    close_handle(abandoned.handle, abandoned.registered, &abandoned.thread)
    return NULL


cdef void close_in_background(lib.virConnectPtr handle, bint registered) noexcept nogil:
    # Closing is a round trip, and a server that hangs must not hang whoever runs a finaliser.
    cdef pthread_t thread = 0
    cdef Abandoned *abandoned = <Abandoned *>malloc(sizeof(Abandoned))
    join_all()
    if abandoned is not NULL:
        abandoned.handle = handle
        abandoned.registered = registered
        if pthread_create(&thread, NULL, close_abandoned, abandoned) != 0:
            free(abandoned)
