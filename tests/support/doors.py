"""What both topologies are asked alike, and the parts of their answers."""

import json
from typing import Any

import httpx

QUESTION = "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"
MESSAGES = [{"role": "user", "content": QUESTION}]
CHAT: dict[str, Any] = {"model": "math", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    """The JSON answer, which must be one."""
    reply = httpx.post(url + path, json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer that are JSON."""
    reply = httpx.post(url + path, json={**body, "stream": True}, timeout=300)
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def answers(reply: dict[str, Any]) -> list[str]:
    """What each sample of a chat says."""
    return [choice["message"]["content"] for choice in reply["choices"]]
