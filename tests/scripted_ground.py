"""A remote place behind a proxy with a script: which requests of the service's are answered by the test."""

from __future__ import annotations

import collections
from collections.abc import Callable
from types import EllipsisType
from typing import Any
from urllib.parse import urlsplit

from tests.services.scripted_proxy import Answer, Lose, Request, ScriptedProxy


class ScriptedGround:
    """What both services need for it.

    Args:
        address: Of the server.
        operation: Names what a request asks for, in the service's own words.
    """

    def __init__(self, address: str, operation: Callable[[Request], str]) -> None:
        server = urlsplit(address)
        assert server.hostname, address
        assert server.port, address
        self.proxy = ScriptedProxy(server.hostname, server.port)
        self.storages: list[Any] = []
        self._operation = operation

    def asked(self) -> list[str]:
        """Which requests came through since the script was set, in order."""
        return [self._operation(exchange.request) for exchange in self.proxy.exchanges]

    def script(self, wanted: str, *answers: Answer | Lose | EllipsisType) -> None:
        """Give these answers, in this order, to the first requests of this operation; the rest pass.

        The last answer is given for ever when `...` comes after it.
        """
        waiting = collections.deque(answers)
        self.proxy.exchanges.clear()

        def decide(request: Request) -> Any:
            if self._operation(request) != wanted or not waiting:
                return None
            if len(waiting) == 2 and waiting[1] is ...:
                return waiting[0]
            return waiting.popleft()

        self.proxy.script = decide

    def pass_on(self) -> None:
        """Let everything through."""
        self.proxy.script = lambda request: None

    def close(self) -> None:
        """Stop the proxy and the storages."""
        self.proxy.close()
        for storage in self.storages:
            storage.close()
