"""Routes that refuse query parameters they do not have: nothing that a client asks for is ignored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute

from palate.serving.problems import Problem


class StrictRoute(APIRoute):
    """A route of the service."""

    async def handle(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer a request; see `fastapi.routing.APIRoute`.

        Raises:
            Problem: The query names a parameter that the route does not have.
        """
        if scope["query_string"]:
            known = {parameter.alias for parameter in self.dependant.query_params}
            given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            unknown = [name for name, _ in given if name not in known]
            if unknown:
                listed = ", ".join(sorted(known)) or "none"
                raise Problem("invalid-request", f"there is no query parameter {unknown[0][:60]!r}; known: {listed}")
        await super().handle(scope, receive, send)
