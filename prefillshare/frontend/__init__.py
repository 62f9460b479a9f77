"""SGLang frontend programs that move between decode modules over one growing context.

A program is an ordinary one (`import sglang as sgl`); this package adds the question who answers:

    endpoint = frontend.Endpoint("http://127.0.0.1:30000")

    @frontend.function
    def agent(s, context):
        s += sgl.user(context)
        with s.module("math"):
            s += sgl.assistant(sgl.gen("sum"))

    frontend.usage(agent.run(context="...", backend=endpoint), "sum").cached_tokens

Importing it loads what `import sglang` loads, no engine and no GPU library beyond that. docs/frontend.md says more.
"""

from prefillshare.frontend.calls import choose, gen
from prefillshare.frontend.endpoint import Endpoint, UnknownModuleError
from prefillshare.frontend.program import ProgramError, State, function
from prefillshare.frontend.usage import Usage, usage

__all__ = ["Endpoint", "ProgramError", "State", "UnknownModuleError", "Usage", "choose", "function", "gen", "usage"]
