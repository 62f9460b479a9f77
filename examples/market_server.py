"""An MCP server with the market's tools, over its standard input and output: `tools_mcp.py` starts it."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("market")


@server.tool()
def update_daily_table(owner: str, floor: int) -> str:
    """Update the daily table."""
    return f"the daily table of {owner} has floor {floor}"


@server.tool()
def send_final_report(day: str, size: int, owner: str) -> str:
    """Send the final report."""
    return f"the final report of {owner} goes out on {day}, {size} lines"


if __name__ == "__main__":
    server.run("stdio")
