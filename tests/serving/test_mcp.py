"""`palate serve RUN --mcp` speaks the Model Context Protocol with the official client, on standard input and output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from palate.recommender.recommender import Recommender
from palate.serving.keys import add_key
from palate.serving.store import Store
from test_cli import palate as command

mcp = pytest.importorskip("mcp", reason="pip install 'palate[mcp]'")


def speak(run: Path, store: str, say: Callable[[Any], Awaitable[None]], **environment: str) -> None:
    """Start the server, open a session and let `say` ask."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    words = ["-m", "palate", "serve", str(run), "--mcp", "--store", store]
    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ) | environment)

    async def main() -> None:
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            await say(session)

    asyncio.run(asyncio.wait_for(main(), 240))


def content(result: Any) -> dict[str, Any]:
    """What a tool answered."""
    found: dict[str, Any] = json.loads(result.content[0].text)
    return found


def test_an_assistant_asks_and_records(runs: dict[str, Path], tmp_path: Path) -> None:
    rec = Recommender.load(runs["ease"])
    expected = rec.recommend([3], k=4)["item_id"].to_list()

    async def say(session: Any) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"recommend", "search_items", "similar_items", "explain", "record_feedback"}
        assert all(len(tool.description) > 30 for tool in tools.values())
        listed = content(await session.call_tool("recommend", {"user_id": 3, "k": 4}))
        assert [item["item_id"] for item in listed["items"]] == expected
        assert all(item["reason"] for item in listed["items"])
        found = content(await session.call_tool("search_items", {"query": "amélie"}))
        [item] = [one["item_id"] for one in found["items"]]
        assert item == 107
        similar = content(await session.call_tool("similar_items", {"item_id": item, "k": 3}))
        assert len(similar["items"]) == 3
        new = content(await session.call_tool("recommend", {"liked_item_ids": [item], "k": 3}))
        assert new["route"] == "history"
        stored = content(
            await session.call_tool("record_feedback", {"user_id": 3, "item_id": expected[0], "type": "not_interested"})
        )
        assert stored["results"][0]["result"] == "new"
        again = content(await session.call_tool("recommend", {"user_id": 3, "k": 4}))
        assert expected[0] not in [item["item_id"] for item in again["items"]]
        why = content(await session.call_tool("explain", {"user_id": 3, "item_id": expected[1]}))
        assert why["sentence"]
        wrong = await session.call_tool("recommend", {"user_id": 4711})
        assert wrong.is_error
        assert "unknown user 4711" in wrong.content[0].text

    speak(runs["ease"], f"sqlite:///{tmp_path}/store.db", say)


def test_keys_of_the_store_count(runs: dict[str, Path], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    opened = Store(store)
    try:
        key = add_key(opened.engine, "assistant", ["read"])
    finally:
        opened.close()

    async def refused(session: Any) -> None:
        answer = await session.call_tool("recommend", {"user_id": 3})
        assert answer.is_error
        assert "key" in answer.content[0].text

    async def reads(session: Any) -> None:
        assert not (await session.call_tool("recommend", {"user_id": 3})).is_error
        answer = await session.call_tool("record_feedback", {"user_id": 3, "item_id": 101})
        assert answer.is_error
        assert "scope write" in answer.content[0].text

    speak(runs["ease"], store, refused)
    speak(runs["ease"], store, reads, PALATE_API_KEY=key.split()[-1])


def test_what_does_not_go_with_it(runs: dict[str, Path]) -> None:
    done = command("serve", runs["ease"], "--mcp", "--port", "99")
    assert done.code == 2
    assert "leave out what HTTP needs" in done.err
