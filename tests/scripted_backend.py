"""A remote backend behind a scripted proxy: the test decides which requests the proxy responds to."""

from __future__ import annotations

import collections
from collections.abc import Callable
from types import EllipsisType
from typing import Any
from urllib.parse import urlsplit

from tests.services.scripted_proxy import LostResponse, Request, ScriptedProxy, ScriptedResponse


class ScriptedBackend:
    """The base class for both services.

    Args:
        address: The URL of the server.
        operation: Returns the name of a request's operation in the API of the service.
    """

    def __init__(self, address: str, operation: Callable[[Request], str]) -> None:
        server = urlsplit(address)
        assert server.hostname, address
        assert server.port, address
        self.proxy = ScriptedProxy(server.hostname, server.port)
        self.storages: list[Any] = []
        self._operation = operation

    def operations(self) -> list[str]:
        """Return the operations of the requests since the script was set, in order."""
        return [self._operation(exchange.request) for exchange in self.proxy.exchanges]

    def script(self, operation: str, *responses: ScriptedResponse | LostResponse | EllipsisType) -> None:
        """Respond to the first requests of this operation with these responses, in order; forward the others.

        If `...` follows the last response, it is repeated forever.
        """
        queue = collections.deque(responses)
        self.proxy.exchanges.clear()

        def decide(request: Request) -> Any:
            if self._operation(request) != operation or not queue:
                return None
            if len(queue) == 2 and queue[1] is ...:
                return queue[0]
            return queue.popleft()

        self.proxy.script = decide

    def pass_on(self) -> None:
        """Forward all requests."""
        self.proxy.script = lambda request: None

    def close(self) -> None:
        """Stop the proxy and close the storages."""
        self.proxy.close()
        for storage in self.storages:
            storage.close()
