"""The service for assistants that speak the Model Context Protocol, over standard input and output.

The tools ask the same application as HTTP does, in this process, so that checks, errors and the feedback store are the
same. It needs the extra `mcp`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from palate.extras import missing_extra
from palate.serving.app import create_app
from palate.serving.settings import Settings

KEY = "PALATE_API_KEY"
"""Environment variable with the API key to use, if the store has keys."""
INSTRUCTIONS = (
    "Recommendations from a trained model. Find items by search_items, then ask recommend for a user id, or for the "
    "ids of items that a person likes. record_feedback stores what a user says of an item; it counts in the next list."
)


async def serve_mcp(runs: Sequence[Path], settings: Settings) -> None:
    """Serve runs over standard input and output until the input ends.

    Args:
        runs: Folders of runs; the first one is the default.
        settings: Settings of the application.

    Raises:
        ArtifactError: A run cannot be loaded.
        MissingExtra: The extra `mcp` is not installed.
    """
    try:
        import httpx
        from mcp.server import MCPServer
    except ImportError as error:
        raise missing_extra(f"the Model Context Protocol needs {error.name}", "mcp") from error
    app = create_app(list(runs), settings)
    key = os.environ.get(KEY)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers
    ) as http:  # fmt: skip
        server: Any = MCPServer("palate", instructions=INSTRUCTIONS)
        for tool in tools(http):
            server.tool()(tool)
        await server.run_stdio_async()


def tools(http: Any) -> list[Any]:
    """The tools, as functions whose names, types and docstrings describe them to an assistant.

    Args:
        http: An `httpx.AsyncClient` whose requests reach the application.
    """

    ask = _asker(http)

    async def recommend(
        user_id: int | str | None = None,
        liked_item_ids: list[int | str] | None = None,
        k: int = 10,
        filter: str | None = None,
        diversity: float = 0.0,
        explain: bool = True,
    ) -> dict[str, Any]:
        """Recommend k items to a user (user_id), or to a person who likes some items (liked_item_ids).

        filter is an SQL condition on the item columns, for example "year >= 1990". diversity goes from 0 (the best
        items) to 1 (the most different ones). Each item has a title, a score and, with explain, a reason.
        """
        body = {
            "user_id": user_id, "history": liked_item_ids, "k": k, "filter": filter, "diversity": diversity,
            "explain": explain, "fields": True,
        }  # fmt: skip
        return await ask("POST", "/v1/recommend", body)

    async def search_items(query: str, limit: int = 20) -> dict[str, Any]:
        """Find items by the beginnings of words of their titles; gives their ids."""
        return await ask("GET", "/v1/items", None, search=query, limit=limit)

    async def similar_items(item_id: int | str, k: int = 10) -> dict[str, Any]:
        """List the k items most similar to an item."""
        return await ask("GET", f"/v1/similar/{quote(str(item_id), safe='')}", None, k=k)

    async def explain(item_id: int | str, user_id: int | str) -> dict[str, Any]:
        """Explain why an item gets its score for a user, and what would remove it from the user's list."""
        body = {"user_id": user_id, "item_id": item_id, "counterfactual": True}
        return await ask("POST", "/v1/explain", body)

    async def record_feedback(
        user_id: int | str,
        item_id: int | str,
        type: Literal["like", "rating", "not_interested", "seen"] = "like",
        value: float | None = None,
    ) -> dict[str, Any]:
        """Store what a user says of an item. A rating needs a value. It counts in the user's next list."""
        body = {"user_id": user_id, "item_id": item_id, "type": type, "value": value}
        return await ask("POST", "/v1/feedback", body)

    return [recommend, search_items, similar_items, explain, record_feedback]


def _asker(http: Any) -> Callable[..., Awaitable[dict[str, Any]]]:
    """What sends a request and gives the answer; a problem becomes an error that the assistant reads."""
    from mcp.server.mcpserver.exceptions import ToolError

    async def ask(method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> dict[str, Any]:
        sent = None if body is None else {name: value for name, value in body.items() if value is not None}
        response = await http.request(method, path, json=sent, params=query)
        found: dict[str, Any] = response.json()
        if response.is_error:
            raise ToolError(found["detail"])
        return found

    return ask
