"""The command line: `commands` has one module per command, with its options and its output.

The other modules are shared by all commands (`output`, `text`, `errors`, `server_options`, `progress`) or belong to the
command that they are named after (`bench_plan`, `chat_history`). Heavy imports stand inside the functions.
"""
