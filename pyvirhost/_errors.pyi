from pyvirhost.constants import ErrorCode, ErrorDomain, ErrorLevel

class LibvirtError(Exception):
    message: str
    code: ErrorCode | int
    domain: ErrorDomain | int
    level: ErrorLevel | int
    str1: str | None
    str2: str | None
    str3: str | None
    int1: int
    int2: int
    function: str | None
    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | int = 0,
        domain: ErrorDomain | int = 0,
        level: ErrorLevel | int = 0,
        str1: str | None = None,
        str2: str | None = None,
        str3: str | None = None,
        int1: int = 0,
        int2: int = 0,
        function: str | None = None,
        summary: str | None = None,
    ) -> None: ...

class NotSupportedError(LibvirtError, NotImplementedError): ...
class InvalidArgumentError(LibvirtError, ValueError): ...
class AccessDeniedError(LibvirtError, PermissionError): ...
class AuthenticationError(LibvirtError, PermissionError): ...
class ConnectionLostError(LibvirtError, ConnectionError): ...
class OperationTimeoutError(LibvirtError, TimeoutError): ...
class CPUIncompatibleError(LibvirtError): ...
class ConnectionClosedError(LibvirtError, ValueError): ...

def server_error(function: str, problem: str) -> LibvirtError: ...
