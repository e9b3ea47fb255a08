"""The C twin: what the readings cost without Python, through ctypes."""

import ctypes


class Twin:
    """A connection of the C twin's own, whose library `library` is the path of.

    ctypes releases the GIL while the C loop runs, and the loop reads the clock itself.
    """

    def __init__(self, library, uri):
        self.library = ctypes.CDLL(library)
        self.library.twin_open.restype = ctypes.c_void_p
        self.library.twin_open.argtypes = [ctypes.c_char_p]
        self.library.twin_close.restype = None
        self.library.twin_close.argtypes = [ctypes.c_void_p]
        self.library.twin_time.restype = ctypes.c_double
        self.library.twin_time.argtypes = [
            ctypes.c_void_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_long]
        self.twin = self.library.twin_open(uri.encode())
        if not self.twin:
            raise OSError(f"the C twin can't open {uri}")

    def timer(self, readings):
        """Return a function that repeats these readings and returns the seconds it took."""
        names = (ctypes.c_char_p * len(readings))(*(name.encode() for name in readings))

        def time(loops):
            seconds = self.library.twin_time(self.twin, names, len(readings), loops)
            if seconds < 0:
                raise OSError(f"the C twin can't read {', '.join(readings)}")
            return seconds

        return time

    def close(self):
        """Close the connection."""
        self.library.twin_close(self.twin)
