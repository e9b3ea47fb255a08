from collections.abc import Callable
from types import TracebackType
from typing import Self

def start_thread(name: str, function: Callable[..., object], *arguments: object) -> None: ...

class EventLoop:
    __slots__ = ()
    def start(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def running(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
