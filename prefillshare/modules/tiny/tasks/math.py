"""Word problems of two or three steps, answered in GSM8K's form: `3 * 8 = <<3*8=24>>24`, then `#### 19`."""

from random import Random

from prefillshare.modules.tiny.tasks.base import Problem
from prefillshare.modules.tiny.workspace import Person, Workspace

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def equation(left: int, sign: str, right: int) -> tuple[str, int]:
    """One worked step and its result."""
    result = OPERATIONS[sign](left, right)
    return f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}", result


def sample(rng: Random, workspace: Workspace) -> Problem:
    """A random word problem about one or two people of the workspace."""
    person = rng.choice(workspace.people)
    story = rng.choice(STORIES if len(workspace.people) > 1 else STORIES[:-1])
    other = rng.choice([one for one in workspace.people if one is not person] or [person])
    question, lead, start, steps = story(rng, person, other)
    lines, value = [], start
    for index, (sign, operand) in enumerate(steps):
        line, value = equation(value, sign, operand)
        lines.append(f"{lead}: {line}" if index == 0 else line)
    return Problem(
        task="math",
        workspace=workspace,
        question=question,
        quote=lead.replace("; ", "\n"),
        answer="\n".join([*lines, f"#### {value}"]),
        remark=f"You ask about {person.name}. The workspace says: {person.stock_line}.",
        judge={"final": value},
    )


Story = tuple[str, str, int, list[tuple[str, int]]]


def _give(rng: Random, who: Person, _: Person) -> Story:
    given = rng.randint(2, min(12, who.num_boxes * who.num_per_box - 1))
    question = rng.choice(
        (
            f"{who.name} gives {given} {who.item} away. How many {who.item} does {who.name} have left?",
            f"{who.name} loses {given} {who.item}. How many {who.item} are left for {who.name}?",
        )
    )
    return question, who.stock_line, who.num_boxes, [("*", who.num_per_box), ("-", given)]


def _buy_and_give(rng: Random, who: Person, _: Person) -> Story:
    bought, given = rng.randint(2, 12), rng.randint(2, 7)
    question = rng.choice(
        (
            f"{who.name} buys {bought} more {who.item} and then gives {given} {who.item} away. "
            f"How many {who.item} does {who.name} have now?",
            f"{who.name} finds {bought} {who.item} and then loses {given} {who.item}. "
            f"How many {who.item} does {who.name} have in the end?",
        )
    )
    return question, who.stock_line, who.num_boxes, [("*", who.num_per_box), ("+", bought), ("-", given)]


def _open(rng: Random, who: Person, _: Person) -> Story:
    opened, used = rng.randint(2, who.num_boxes), rng.randint(2, 3)
    question = rng.choice(
        (
            f"{who.name} opens {opened} boxes and uses {used} {who.item}. "
            f"How many {who.item} of the open boxes are left?",
            f"{who.name} carries {opened} boxes home and {used} {who.item} break. "
            f"How many whole {who.item} did {who.name} carry?",
        )
    )
    return question, who.stock_line, opened, [("*", who.num_per_box), ("-", used)]


def _fewer_boxes(rng: Random, who: Person, _: Person) -> Story:
    sold = rng.randint(1, who.num_boxes - 1)
    question = rng.choice(
        (
            f"{who.name} sells {sold} boxes. How many {who.item} does {who.name} keep?",
            f"{who.name} ships {sold} boxes of {who.item}. How many {who.item} stay with {who.name}?",
        )
    )
    return question, who.stock_line, who.num_boxes, [("-", sold), ("*", who.num_per_box)]


def _more_boxes(rng: Random, who: Person, _: Person) -> Story:
    added = rng.randint(2, 12 - who.num_boxes)
    question = rng.choice(
        (
            f"{who.name} packs {added} more boxes. How many {who.item} does {who.name} have then?",
            f"{who.name} gets {added} more boxes of {who.item}. How many {who.item} is that in all?",
        )
    )
    return question, who.stock_line, who.num_boxes, [("+", added), ("*", who.num_per_box)]


def _labels(rng: Random, who: Person, other: Person) -> Story:
    per_box = rng.randint(2, 6)
    question = f"{who.name} and {other.name} put {per_box} labels on each of their boxes. How many labels do they need?"
    lead = f"{who.stock_line}; {other.stock_line}"
    return question, lead, who.num_boxes, [("+", other.num_boxes), ("*", per_box)]


STORIES = (_give, _buy_and_give, _open, _fewer_boxes, _more_boxes, _labels)
