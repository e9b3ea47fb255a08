# How a program is told that a connection is lost, for _connection.pyx to include. libvirt's threads
# only say so: a callback may take its time, and keepalive can't wait for it.

cdef extern from *:
    """
    #include <pthread.h>

    static pthread_mutex_t losses_lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t losses_grew = PTHREAD_COND_INITIALIZER;
    static void lock_losses(void) { pthread_mutex_lock(&losses_lock); }
    static void unlock_losses(void) { pthread_mutex_unlock(&losses_lock); }
    static void tell_losses_grew(void) { pthread_cond_signal(&losses_grew); }
    static void await_losses(void) { pthread_cond_wait(&losses_grew, &losses_lock); }
    static void renew_losses_grew(void) { pthread_cond_init(&losses_grew, NULL); }
    """
    void lock_losses() nogil
    void unlock_losses() nogil
    void tell_losses_grew() nogil
    void await_losses() nogil
    void renew_losses_grew() nogil
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)


# The close callbacks that have not been called: number, as a str -> weak reference to the
# connection, which has the callback. libvirt is given the number only, so that it may call when it
# likes: whose number is gone is not called.
cdef dict close_callbacks = {}

cdef struct Loss:
    uintptr_t number
    int reason
    Loss *next

# Both under the lock.
cdef Loss *first_loss = NULL
cdef Loss **last_loss = &first_loss
# Whether there is a thread that calls back.
cdef bint losses_are_told = False


cdef void on_close(lib.virConnectPtr handle, int reason, void *number) noexcept nogil:
    global last_loss
    cdef Loss *loss = <Loss *>malloc(sizeof(Loss))
    if loss is NULL:
        tell_loss(<uintptr_t>number, reason)
        return
    loss.number, loss.reason, loss.next = <uintptr_t>number, reason, NULL
    lock_losses()
    last_loss[0] = loss
    last_loss = &loss.next
    tell_losses_grew()
    unlock_losses()


cdef Loss *await_loss() noexcept nogil:
    global first_loss, last_loss
    cdef Loss *loss
    lock_losses()
    while first_loss is NULL:
        await_losses()
    loss = first_loss
    first_loss = loss.next
    if first_loss is NULL:
        last_loss = &first_loss
    unlock_losses()
    return loss


cdef void tell_loss(uintptr_t number, int reason) noexcept with gil:
    cdef Connection connection
    reference = close_callbacks.pop(str(number), None)
    if reference is None:
        return
    connection = reference()
    if connection is None:
        return
    with cython.critical_section(connection):
        callback = connection.callback
    if callback is None:
        return  # unregistered since
    try:
        callback(connection, member("CloseReason", reason))
    except BaseException as error:
        PyErr_SetObject(type(error), error)
        PyErr_WriteUnraisable(callback)


def tell_losses():
    cdef Loss *loss
    while True:
        with nogil:
            loss = await_loss()
        tell_loss(loss.number, loss.reason)
        free(loss)


cdef bint set_told(bint told) noexcept nogil:
    # What it was before.
    global losses_are_told
    cdef bint before
    lock_losses()
    before, losses_are_told = losses_are_told, told
    unlock_losses()
    return before


cdef int start_telling_losses() except -1:
    if not set_told(True):
        try:
            start_thread("pyvirhost-lost", tell_losses)
        except BaseException:
            set_told(False)
            raise
    return 0


cdef void forget_losses() noexcept nogil:
    # In a forked child, which has no such thread, nor any use for its parent's connections.
    global first_loss, last_loss, losses_are_told
    cdef Loss *loss
    while first_loss is not NULL:
        loss = first_loss
        first_loss = loss.next
        free(loss)
    last_loss = &first_loss
    losses_are_told = False
    renew_losses_grew()
    unlock_losses()


pthread_atfork(lock_losses, unlock_losses, forget_losses)
