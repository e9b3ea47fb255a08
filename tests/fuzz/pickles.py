"""Pickles of every result that were changed, and the arguments that restore one."""

import contextlib
import io
import pickle
import pickletools

from daemon import Daemon

import pyvirhost
from fuzz.odd import LOOKING, Answered, Odd, call, readings, walk

# More than a pickle of the package holds. Python's own reader takes memory for what it is told.
FEW = 10_000


class Unpickler(pickle.Unpickler):
    """Finds what the package's own pickles name, and nothing else of what there is in Python."""

    def __init__(self, data, names):
        super().__init__(io.BytesIO(data))
        self.names = names

    def find_class(self, module, name):
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def names_in(data):
    """Return the modules and names that a pickle of protocol 3 or older speaks of."""
    return {tuple(argument.split(" ")) for code, argument, _ in pickletools.genops(data)
            if code.name == "GLOBAL"}


def is_small(data):
    try:
        for code, argument, _ in pickletools.genops(data):
            if "PUT" in code.name and argument is not None and argument > FEW:
                return False
    except Exception as error:
        # CPython loses its way where a bytearray is cut off.
        return "bytearray" not in str(error)
    return True


class Pickles:
    def __init__(self, results):
        self.results = results
        self.pickles = [pickle.dumps(result, protocol) for result in results
                        for protocol in (2, 3, 4, 5)]
        self.names = set().union(*(names_in(pickle.dumps(result, 2)) for result in results))
        assert {name for _, name in self.names} >= {
            "_restore_snapshot", "_restore_page_counts", "Version"}

    def step(self, random):
        random.choice((self.arguments, self.arguments, self.data))(random)

    def arguments(self, random):
        odd = Odd(random, results=self.results)
        # A tuple's own __reduce__ is that of every tuple.
        restore, arguments = random.choice(
            [result for result in self.results if not isinstance(result, tuple)]).__reduce__()[:2]
        for _ in range(random.choice((1, 1, 1, 2, 4))):
            arguments = self.changed(random, odd, arguments)
        self.read(lambda: call(restore, *arguments))

    def changed(self, random, odd, value):
        """Return a value in which one thing, at whatever depth, is another."""
        if type(value) is tuple and random.random() < 0.9:
            items = list(value)
            place = random.randrange(len(items) + 1)
            if random.random() < 0.2 or place == len(items):
                change = random.choice((
                    lambda: items[place:place + 1], lambda: items.insert(place, odd.value()),
                    lambda: items.pop(place) if place < len(items) else None,
                    lambda: items.extend(items[:FEW])))
                change()
            else:
                items[place] = self.changed(random, odd, items[place])
            return tuple(items)
        if type(value) is dict and random.random() < 0.9:
            entries = dict(value)
            key = random.choice([*entries, odd.text()])
            entries[key] = self.changed(random, odd, entries.get(key))
            return entries
        if type(value) is int and random.random() < 0.5:
            return random.choice((odd.number(), value + 1, value - 1, ~value, odd.scalar()))
        if type(value) is bytes and random.random() < 0.5:
            return value + bytes(random.choice((1, 7, 100))) if random.random() < 0.5 else value[1:]
        return odd.value()

    def data(self, random):
        data = bytearray(random.choice(self.pickles))
        for _ in range(random.choice((1, 1, 2, 5))):
            place = random.randrange(len(data))
            change = random.choice((
                lambda: data.__setitem__(place, random.randrange(256)),  # noqa: B023
                lambda: data.__setitem__(place, data[place] ^ 1 << random.randrange(8)),  # noqa: B023
                lambda: data.insert(place, random.randrange(256)),  # noqa: B023
                lambda: data.__delitem__(slice(place, place + random.randrange(4))),  # noqa: B023
                lambda: data.__setitem__(slice(place, place), data[place:place + 9])))  # noqa: B023
            change()
        if data and is_small(bytes(data)):
            # What Python's own reader makes of it is a matter of its own.
            with Answered(*LOOKING, pickle.UnpicklingError, EOFError, UnicodeError, NameError):
                loaded = Unpickler(bytes(data), self.names).load()
                self.read(lambda: loaded)

    def read(self, load):
        with Answered(*LOOKING, pickle.PicklingError):
            result = load()
            walk(result)
            if type(result).__module__ == "pyvirhost":
                again = pickle.loads(pickle.dumps(result))
                assert repr(again) == repr(result)


@contextlib.contextmanager
def prepare():
    with Daemon() as daemon, pyvirhost.open("test:///default") as test, \
            pyvirhost.open(daemon.qemu_uri) as qemu:
        yield Pickles(readings(test) + readings(qemu)).step
