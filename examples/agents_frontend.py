"""Planner, coder and tool user as one SGLang frontend program.

python examples/agents_frontend.py --url http://127.0.0.1:30000
"""

import argparse

import sglang as sgl
from market import CONTEXT, STEPS, final_number
from savings import Savings

from prefillshare import frontend


@frontend.function
def agents(s, steps):
    s += sgl.system(CONTEXT)  # shared by all modules, so it stands first
    number = ""
    for index, step in enumerate(steps):
        s += sgl.user(step.prompt(number))  # role and task stand last
        with s.module(step.module):  # who answers; the context stays the same
            s += sgl.assistant(sgl.gen(f"answer_{index}", max_tokens=120, temperature=0))
        if step.module == "math":
            number = final_number(s[f"answer_{index}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key")
    options = parser.parse_args()

    endpoint = frontend.Endpoint(options.url, api_key=options.api_key)
    state = agents.run(steps=STEPS, backend=endpoint)
    savings = Savings()
    for index in range(len(STEPS)):
        used = frontend.usage(state, f"answer_{index}")
        print(f"[{used.module}] {state[f'answer_{index}']}\n")
        savings.add(used.module, used.prompt_tokens, used.cached_tokens, used.completion_tokens)
    print(savings.report())


if __name__ == "__main__":
    main()
