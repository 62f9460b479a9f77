"""An answer as a Python object: the openai client sends a class's JSON schema, which holds the module to it.

python examples/structured_openai.py --url http://127.0.0.1:30000
"""

import argparse
from typing import Literal

from market import CONTEXT, STEPS
from openai import DefaultHttpxClient, OpenAI
from pydantic import BaseModel


class Arguments(BaseModel):
    """What a report is told."""

    owner: str
    size: int
    day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]


class Report(BaseModel):
    """A call of one of the market's functions."""

    name: Literal["send_final_report"]
    arguments: Arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:30000")
    parser.add_argument("--api-key", default="none")
    options = parser.parse_args()

    http = DefaultHttpxClient(trust_env=False)  # no proxy in between, whatever the environment names
    client = OpenAI(base_url=f"{options.url}/v1", api_key=options.api_key, http_client=http)
    asked = STEPS[2].prompt("30")
    messages = [{"role": "system", "content": CONTEXT}, {"role": "user", "content": asked}]
    reply = client.chat.completions.parse(
        model="tool", messages=messages, response_format=Report, max_tokens=120, temperature=0
    )
    report = reply.choices[0].message.parsed
    print(f"{report.name}: {report.arguments.size} lines of {report.arguments.owner}, on {report.arguments.day}")


if __name__ == "__main__":
    main()
