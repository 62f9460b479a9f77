"""Tools of an MCP server: a planner works a number out, a tool user calls one of the server's tools with it.

python examples/tools_mcp.py --url http://127.0.0.1:30000

Any MCP server does: give --server a command or an address. Both models are told the same tools, though only one calls
them: tools stand at the front of the prompt, and a prompt that differs there shares nothing.
"""

import argparse
import asyncio
import json
import shlex
import sys
from pathlib import Path

from market import PEOPLE, REPORT, SUM, final_number
from mcp import StdioServerParameters
from mcp.client.client import Client
from openai import AsyncOpenAI, DefaultAsyncHttpxClient


async def list_tools(server: Client) -> list[dict]:
    """The server's tools as OpenAI's API names them."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
        }
        for tool in (await server.list_tools()).tools
    ]


async def work(client: AsyncOpenAI, server: Client) -> None:
    messages: list = [{"role": "system", "content": PEOPLE}]
    tools = await list_tools(server)

    async def ask(model: str, content: str):
        messages.append({"role": "user", "content": content})
        reply = await client.chat.completions.create(model=model, messages=messages, tools=tools, temperature=0)
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))
        details = reply.usage.prompt_tokens_details
        print(f"[{details.cached_tokens if details else 0} tokens cached] ", end="")
        return reply.choices[0].message

    planned = await ask("math", SUM)
    print(planned.content)
    called = await ask("tool", REPORT.format(number=final_number(planned.content or "")))
    for call in called.tool_calls or []:
        arguments = json.loads(call.function.arguments)
        print(f"{call.function.name} {arguments}")
        result = await server.call_tool(call.function.name, arguments)
        text = "".join(part.text for part in result.content if part.type == "text")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        print(f"tool: {text}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    own = shlex.join([sys.executable, str(Path(__file__).with_name("market_server.py"))])
    parser.add_argument("--server", default=own, help="an MCP server: a command, or the address of one")
    options = parser.parse_args()

    http = DefaultAsyncHttpxClient(trust_env=False)  # no proxy in between, whatever the environment names
    client = AsyncOpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, http_client=http)
    command, *arguments = shlex.split(options.server)
    is_address = command.startswith(("http://", "https://"))
    async with Client(command if is_address else StdioServerParameters(command=command, args=arguments)) as server:
        await work(client, server)


if __name__ == "__main__":
    asyncio.run(main())
