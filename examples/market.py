"""What the example agents work on: one context for all modules, and steps that each go to one of them.

The texts suit the tiny family that comes with the repository: `math` works numbers out, `code` writes functions,
`tool` calls one of the functions listed in the context.
"""

from dataclasses import dataclass

# Everything that all modules see stands first: its KV is computed once, whoever asks first.
CONTEXT = """Workspace market
People:
- Iris 8 boxes, nails 8 per box
- Kofi 9 boxes, nuts 5 per box
- Boris 3 boxes, cakes 9 per box
Functions:
- {"name": "cancel_remote_map", "parameters": {"level": "integer"}}
- {"name": "update_daily_table", "parameters": {"owner": "string", "floor": "integer"}}
- {"name": "send_final_report", "parameters": {"day": "string", "size": "integer", "owner": "string"}}
- {"name": "copy_draft_table", "parameters": {"day": "string", "count": "integer", "floor": "integer"}}
Constants:
- FACTOR 8
- BONUS 10
- LIMIT 12"""

# For the examples with real tools, which the models are told by themselves.
PEOPLE = """Workspace market
People:
- Iris 8 boxes, nails 8 per box
- Kofi 9 boxes, nuts 5 per box"""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    module: str
    """Decode module that does it."""
    role: str
    """What only this module is told; it stands in the last turn, behind all that is shared."""
    task: str
    """What is asked; {number} is what the planner worked out last."""

    def prompt(self, number: str) -> str:
        """The user's turn. The role at the very front of the prompt would be different for each module: nothing after
        it could be shared."""
        return f"{self.role}\n{self.task.format(number=number)}"


PLANNER, CODER, TOOL_USER = "You are the planner.", "You are the coder.", "You are the tool user."

SUM = "Kofi 9 boxes, nuts 5 per box\nA truck drives off with 3 boxes of Kofi's. What nuts are not on it?"
REPORT = "Please mail the blue report with owner Kofi, size {number}, day Monday."

STEPS = (
    Step("math", PLANNER, SUM),
    Step("code", CODER, "BONUS 10\nFor trim_prices(xs) take what exceeds BONUS, fold 2 times, hand back the chart."),
    Step("tool", TOOL_USER, REPORT),
    Step(
        "math",
        PLANNER,
        "Boris 3 boxes, cakes 9 per box\nBoris's shelf grows by 4 boxes. What stands on it?",
    ),
    Step("code", CODER, "LIMIT 12\nFor count_prices(xs) take what stays under LIMIT, clone it, hand back the blend."),
    Step("tool", TOOL_USER, "I need you to clone the purple table: count {number}, floor 2, day Friday."),
)


def final_number(answer: str) -> str:
    """The result of the planner's working, which ends with `#### 30`."""
    return answer.rpartition("####")[2].strip()
