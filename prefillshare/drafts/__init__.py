"""Deployment files that are written for people: of what they say (`init`), of another server's command (`convert`).

`look` sees what lies in a directory, `draft` makes TOML with comments, `command_line` finds a server's options in a
script or a compose file, `from_vllm` and `from_sglang` say what they mean here.
"""
