# Python arguments as C values, or an exception that names the argument. All of it runs before
# libvirt is called.

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.limits cimport INT_MAX, INT_MIN, UINT_MAX, ULLONG_MAX
from libc.string cimport strlen


cdef inline const char *text_argument(object value, str name) except NULL:
    # The text lives as long as the str.
    cdef const char *text
    cdef Py_ssize_t size = 0
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    try:
        text = PyUnicode_AsUTF8AndSize(value, &size)
    except UnicodeEncodeError:
        raise ValueError(f"{name} has a lone surrogate, which UTF-8 can't express") from None
    if strlen(text) != <size_t>size:
        raise ValueError(f"{name} must not contain a NUL character")
    return text


cdef inline const char *optional_text_argument(object value, str name) except? NULL:
    if value is None:
        return NULL
    return text_argument(value, name)


cdef inline object integer_argument(object value, str name, object lowest, object highest):
    try:
        number = PyNumber_Index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None
    if not lowest <= number <= highest:
        raise OverflowError(f"{name} must be between {lowest} and {highest}, not {number}")
    return number


cdef inline bint is_within(object value, long long lowest, long long highest,
                           long long *number) except -1:
    # Whether it is a plain int in that range, which is then `number`.
    cdef int overflow = 0
    if not PyLong_CheckExact(value):
        return False
    number[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    return not overflow and lowest <= number[0] <= highest


cdef inline int int_argument(object value, str name) except? INT_MIN:
    cdef long long number = 0
    if is_within(value, INT_MIN, INT_MAX, &number):
        return <int>number
    return integer_argument(value, name, INT_MIN, INT_MAX)


cdef inline unsigned int uint_argument(object value, str name) except? 0xffffffff:
    cdef long long number = 0
    if is_within(value, 0, UINT_MAX, &number):
        return <unsigned int>number
    return integer_argument(value, name, 0, UINT_MAX)


cdef inline unsigned long long ullong_argument(object value, str name) except? 0xffffffff:
    return integer_argument(value, name, 0, ULLONG_MAX)


cdef inline list items_argument(object values, str name, str of_what):
    # At least one item; a str, whose items are its characters, is never a list of anything.
    if isinstance(values, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a list of {of_what}, not {type(values).__name__}")
    try:
        items = list(values)
    except TypeError:
        raise TypeError(
            f"{name} must be a list of {of_what}, not {type(values).__name__}") from None
    if not items:
        raise ValueError(f"{name} must not be empty")
    return items


cdef inline const char **texts_argument(list values, str name) except NULL:
    # For PyMem_Free; the texts live as long as the list.
    cdef const char **texts = <const char **>PyMem_Malloc(len(values) * sizeof(char *))
    cdef Py_ssize_t i
    if texts is NULL:
        raise MemoryError
    try:
        for i in range(len(values)):
            texts[i] = text_argument(values[i], f"{name}[{i}]")
    except BaseException:
        PyMem_Free(texts)
        raise
    return texts


cdef inline unsigned int page_size_argument(object value, str name) except 0:
    cdef unsigned int size = uint_argument(value, name)
    if size == 0:
        raise ValueError(f"{name} must be a page size in KiB, not 0")
    return size
