"""Planner, coder and tool user with the openai client: `model` says which decode module answers.

python examples/agents_openai.py --url http://127.0.0.1:30000
"""

import argparse

from market import CONTEXT, STEPS, final_number
from openai import DefaultHttpxClient, OpenAI
from savings import Savings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()

    http = DefaultHttpxClient(trust_env=False)  # no proxy in between, whatever the environment names
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, http_client=http)
    messages = [{"role": "system", "content": CONTEXT}]  # shared by all modules, so it stands first
    number, savings = "", Savings()
    for step in STEPS:
        messages.append({"role": "user", "content": step.prompt(number)})  # role and task stand last
        reply = client.chat.completions.create(model=step.module, messages=messages, max_tokens=120, temperature=0)
        answer = reply.choices[0].message.content or ""
        # Every module reads on in one conversation: an answer is part of the next module's prompt.
        messages.append({"role": "assistant", "content": answer})
        if step.module == "math":
            number = final_number(answer)
        print(f"[{step.module}] {answer}\n")
        usage = reply.usage
        details = usage.prompt_tokens_details  # absent when nothing was cached
        savings.add(step.module, usage.prompt_tokens, details and details.cached_tokens, usage.completion_tokens)
    print(savings.report())


if __name__ == "__main__":
    main()
