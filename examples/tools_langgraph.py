"""A LangGraph agent whose tool calls arrive as such: a planner works a number out, a tool user calls a Python function
with it.

python examples/tools_langgraph.py --url http://127.0.0.1:30000

The deployment's `tool_call_parser` turns what `tool` writes into `tool_calls`, which LangGraph's ToolNode runs. Both
models are told the same tools, though only one calls them: tools stand at the front of the prompt, and a prompt that
differs there shares nothing.
"""

import argparse

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from market import PEOPLE, REPORT, SUM, final_number
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient


@tool
def update_daily_table(owner: str, floor: int) -> str:
    """Update the daily table."""
    return f"the daily table of {owner} has floor {floor}"


@tool
def send_final_report(day: str, size: int, owner: str) -> str:
    """Send the final report."""
    return f"the final report of {owner} goes out on {day}, {size} lines"


TOOLS = [update_daily_table, send_final_report]


def build(options: argparse.Namespace) -> StateGraph:
    """The graph: planner, tool user, tools."""

    def model(name: str):
        chat = ChatOpenAI(
            model=name,
            base_url=f"{options.url}/v1",
            api_key=options.api_key,
            temperature=0,
            # No proxy in between, whatever the environment names.
            http_client=DefaultHttpxClient(trust_env=False),
            http_async_client=DefaultAsyncHttpxClient(trust_env=False),
        )
        return chat.bind_tools(TOOLS)

    math, calls = model("math"), model("tool")

    def plan(state: MessagesState) -> dict:
        asked = HumanMessage(SUM)
        return {"messages": [asked, math.invoke([*state["messages"], asked])]}

    def call(state: MessagesState) -> dict:
        asked = HumanMessage(REPORT.format(number=final_number(state["messages"][-1].text)))
        return {"messages": [asked, calls.invoke([*state["messages"], asked])]}

    graph = StateGraph(MessagesState)
    graph.add_node("planner", plan)
    graph.add_node("tool_user", call)
    graph.add_node("tools", ToolNode(TOOLS))
    for start, end in ((START, "planner"), ("planner", "tool_user"), ("tool_user", "tools"), ("tools", END)):
        graph.add_edge(start, end)
    return graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    work = build(parser.parse_args()).compile().invoke({"messages": [SystemMessage(PEOPLE)]})
    for message in work["messages"][1:]:
        if isinstance(message, AIMessage):
            called = "".join(f"{call['name']} {call['args']}" for call in message.tool_calls)
            cached = message.usage_metadata.get("input_token_details", {}).get("cache_read", 0)
            print(f"[{cached} tokens cached] {message.text or called}")
        else:
            print(f"{message.type}: {message.text}")


if __name__ == "__main__":
    main()
