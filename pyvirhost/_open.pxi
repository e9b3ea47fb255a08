# How a connection is opened, for _connection.pyx to include: `open`, the checks of its arguments,
# its questions to the caller, and the limit on its time.

import _thread

from cpython.unicode cimport PyUnicode_AsEncodedString
from libc.string cimport strdup, strlen, strstr
from posix.unistd cimport getpid

from pyvirhost._arguments cimport int_argument, optional_text_argument, uint_argument
from pyvirhost._errors cimport last_error, member, recast
from pyvirhost._events cimport give_room, keep_running, take_room

from pyvirhost._errors import AuthenticationError, NotSupportedError, OperationTimeoutError
from pyvirhost._events import EventLoop, start_thread


cdef enum:
    # One past the last kind of credential that this package knows.
    VIR_CRED_LAST = 10


def open(uri=None, *, readonly=False, auth=None, flags=0, keepalive=None, timeout=None):
    """Open a connection to a hypervisor's driver, in this process or in a libvirt daemon.

    Parameters
    ----------
    uri : str, optional
        Such as ``"qemu:///system"`` or ``"qemu+tls://host/system"``. By default libvirt chooses:
        ``LIBVIRT_DEFAULT_URI``, its client configuration, or the first driver that answers. A URI
        can name programs that libvirt runs (``command=``): whoever writes it runs code.
    readonly : bool, default False
        Ask for a connection that can only read; servers may grant it to more users.
    auth : PasswordAuth, DEFAULT_AUTH or callable, optional
        What answers when the server asks for credentials. A callable takes a list of `Credential`
        and returns a list of as many str, with None for a credential's default, or None to decline.
        By default libvirt's own configuration files answer.
    flags : ConnectFlags or int, default 0
        `ConnectFlags.RO` is the same as `readonly`; `ConnectFlags.NO_ALIASES` takes `uri`
        literally.
    keepalive : (int, int), optional
        An interval in seconds and a count: start the `EventLoop` and, where the driver has
        keepalive, probe the server at that interval and drop the connection when that many probes
        stay unanswered, as `Connection.set_keepalive` does.
    timeout : float, optional
        The longest time to wait, in seconds, including for the answers of `auth`. The attempt runs
        in a thread of its own, and is closed if it succeeds too late. Ctrl-C ends the wait, which
        it can't without a `timeout`.

    Returns
    -------
    Connection

    Raises
    ------
    InvalidArgumentError
        The URI is invalid, or no driver accepts it.
    AuthenticationError
        The server did not get the credentials that it wants, or `auth` returned something invalid.
        What `auth` raises is raised as it is.
    OperationTimeoutError
        `timeout` elapsed.
    LibvirtError
        The server is unreachable.
    OSError
        ``EMFILE``, ``ENFILE``: too few file descriptors are left for libvirt.
    RuntimeError
        The thread for `timeout` or the `EventLoop` can't be started.

    Notes
    -----
    ``virConnectOpenAuth``, since libvirt 0.4.0, in place of ``virConnectOpen`` and
    ``virConnectOpenReadOnly``, since libvirt 0.0.3, which do the same; 4 round trips, 5 with an
    event loop.

    Examples
    --------
    >>> with pyvirhost.open("test:///default", readonly=True) as connection:
    ...     connection.node_info().cpus
    16
    """
    check_open(uri, auth, keepalive, timeout)
    cdef unsigned int c_flags = uint_argument(flags, "flags")
    if readonly:
        c_flags |= lib.VIR_CONNECT_RO
    if keepalive is not None:
        EventLoop().start()
    else:
        keep_running()
    connection = connect(uri, c_flags, auth) if timeout is None else (
        connect_within(timeout, uri, c_flags, auth))
    if keepalive is not None:
        try:
            connection.set_keepalive(*keepalive)
        except NotSupportedError:
            pass
        except BaseException:
            connection.close()
            raise
    return connection


# ---- arguments ----------------------------------------------------------------------------------

def check_open(uri, auth, keepalive, timeout):
    """Raise if arguments of `open` are invalid, for callers that pass them on later."""
    optional_text_argument(uri, "uri")
    check_auth(auth)
    check_keepalive(keepalive)
    check_timeout(timeout)


cdef int check_auth(object auth) except -1:
    if auth is not None and not is_default(auth):
        check_callback(auth, 1, "auth")
    return 0


cdef bint is_default(object auth) except -1:
    from pyvirhost.auth import DEFAULT_AUTH

    return auth is DEFAULT_AUTH


cdef int check_keepalive(object keepalive) except -1:
    if keepalive is None:
        return 0
    if not isinstance(keepalive, tuple) or len(keepalive) != 2:
        raise TypeError("keepalive must be a tuple of an interval in seconds and a count")
    if int_argument(keepalive[0], "keepalive's interval") < 1:
        raise ValueError("keepalive's interval must be at least 1 second")
    uint_argument(keepalive[1], "keepalive's count")
    return 0


cdef int check_timeout(object timeout) except -1:
    if timeout is None:
        return 0
    if not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number, not {type(timeout).__name__}")
    if not 0 < timeout <= _thread.TIMEOUT_MAX:
        raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
    return 0


# ---- the connection -----------------------------------------------------------------------------

cdef int descriptors_taken(const char *uri) noexcept:
    # The most at a time: a socket and what wakes up its loop, or two pipes and both their ends,
    # which ssh has. Without a URI, and by an alias, it can be either.
    return 2 if uri is not NULL and strstr(uri, "://") is not NULL and (
        strstr(uri, "ssh") is NULL) else 4


cdef Connection connect(object uri, unsigned int flags, object auth):
    cdef const char *c_uri = optional_text_argument(uri, "uri")
    cdef Authentication authentication
    cdef lib.virConnectAuth c_auth
    cdef lib.virConnectAuthPtr used = NULL
    cdef lib.virConnectPtr handle
    cdef int types[VIR_CRED_LAST]
    cdef int i
    cdef int descriptors = descriptors_taken(c_uri)
    # Made before the connection, which nobody would close if there were no memory for it.
    cdef Learned learned = Learned.__new__(Learned)
    authentication = Authentication.__new__(Authentication)
    if auth is not None and is_default(auth):
        used = lib.virConnectAuthPtrDefault
    elif auth is not None:
        authentication.answer = auth
        for i in range(VIR_CRED_LAST - 1):
            types[i] = i + 1
        c_auth.credtype = types
        c_auth.ncredtype = VIR_CRED_LAST - 1
        c_auth.cb = collect_credentials
        c_auth.cbdata = <void *>authentication
        used = &c_auth
    take_room(descriptors, "opening a connection")
    with nogil:
        enter_gate()
        handle = lib.virConnectOpenAuth(c_uri, used, flags)
        leave_gate(NULL)
        give_room(descriptors)
    if handle is NULL:
        error = last_error(NULL, "virConnectOpenAuth")
        if authentication.error is not None:
            raise authentication.error
        if authentication.declined:
            error = recast(error, AuthenticationError)
        raise error
    return new_connection(handle, learned)


cdef Connection new_connection(lib.virConnectPtr handle, Learned learned):
    cdef Connection connection
    try:
        connection = Connection.__new__(Connection)
    except BaseException:
        close_in_background(handle, False)
        raise
    connection.handle = handle
    connection.learned = learned
    connection.forks = forks
    connection.process = getpid()
    connection.closing = False
    return connection


# ---- authentication -----------------------------------------------------------------------------

cdef class Authentication:
    # One open's questions to its caller, and what became of them.
    cdef object answer
    cdef object error
    cdef bint declined

    cdef int collect(self, lib.virConnectCredentialPtr credentials,
                     unsigned int count) except -1:
        from pyvirhost.auth import Credential

        cdef unsigned int i
        asked = [
            Credential(member("CredentialType", credentials[i].type),
                       optional_text(credentials[i].prompt),
                       optional_text(credentials[i].challenge),
                       optional_text(credentials[i].defresult))
            for i in range(count)
        ]
        given = self.answer(asked)
        if given is None:
            self.declined = True
            return 0
        if isinstance(given, (str, bytes)):
            raise auth_error(
                f"auth must return a list of str or None, not {type(given).__name__}")
        try:
            answers = list(given)
        except TypeError:
            raise auth_error(f"auth must return a list of str or None, not "
                             f"{type(given).__name__}") from None
        if len(answers) != count:
            raise auth_error(f"auth returned {len(answers)} answers to {count} questions")
        texts = []
        for credential, answer in zip(asked, answers):
            if answer is None:
                answer = credential.default
            if answer is None:
                raise auth_error(f"auth has no answer to {credential.type!r}")
            if not isinstance(answer, str):
                raise auth_error(
                    f"auth must answer with str, not {type(answer).__name__}")
            if "\0" in answer:
                raise auth_error("auth answered with a NUL character")
            texts.append(encoded(answer))
        for i in range(count):
            credentials[i].result = strdup(texts[i])
            if credentials[i].result is NULL:
                raise MemoryError
            credentials[i].resultlen = <unsigned int>strlen(credentials[i].result)
        return 0


cdef bytes encoded(object answer):
    text = None
    try:
        text = PyUnicode_AsEncodedString(answer, "utf-8", "surrogateescape")
    except UnicodeEncodeError:
        pass  # it has the secret, and would be the context of what is raised here
    if text is None:
        raise auth_error("auth answered with a lone surrogate, which UTF-8 can't express")
    return text


cdef object auth_error(str message):
    return AuthenticationError(message, code=member("ErrorCode", lib.VIR_ERR_AUTH_FAILED),
                               function="virConnectOpenAuth")


cdef str optional_text(const char *text):
    return None if text is NULL else text.decode("utf-8", "replace")


cdef int collect_credentials(lib.virConnectCredentialPtr credentials, unsigned int count,
                             void *authentication) noexcept with gil:
    cdef Authentication self = <Authentication>authentication
    try:
        self.collect(credentials, count)
    except BaseException as error:
        self.error = error
    return -1 if self.declined or self.error is not None else 0


# ---- a limit on its time ------------------------------------------------------------------------

class Attempt:
    # An open that somebody may stop waiting for.

    def __init__(self, uri, flags, auth):
        self.arguments = uri, flags, auth
        self.ended = _thread.allocate_lock()  # released at the end
        self.ended.acquire()
        self.abandoned = False
        self.connection = None
        self.error = None

    def run(self):
        try:
            uri, flags, auth = self.arguments
            self.connection = connect(uri, flags, auth)
        except BaseException as error:
            self.error = error
        finally:
            self.ended.release()
        self.close_if_abandoned()

    def abandon(self):
        self.abandoned = True
        self.close_if_abandoned()

    def close_if_abandoned(self):
        # Both sides ask, each after its own step, so at least one of them sees both.
        if self.abandoned and self.connection is not None:
            self.connection.close()


cdef Connection connect_within(object timeout, object uri, unsigned int flags, object auth):
    attempt = Attempt(uri, flags, auth)
    start_thread("pyvirhost-open", attempt.run)
    try:
        ended = attempt.ended.acquire(True, timeout)
    except BaseException:
        attempt.abandon()
        raise
    if not ended:
        attempt.abandon()
        raise OperationTimeoutError(
            f"opening {uri or 'the default URI'} took longer than {timeout} s",
            code=member("ErrorCode", lib.VIR_ERR_OPERATION_TIMEOUT),
            function="virConnectOpenAuth")
    if attempt.error is not None:
        raise attempt.error
    return attempt.connection
