"""Word problems of two or three steps, answered in GSM8K's form: `3 * 8 = <<3*8=24>>24`, then `#### 19`."""

from dataclasses import dataclass
from random import Random

from prefillshare.tiny.language.tasks.base import Problem, Wording
from prefillshare.tiny.language.workspace import Person, Workspace

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def equation(left: int, sign: str, right: int) -> tuple[str, int]:
    """One worked step and its result."""
    result = OPERATIONS[sign](left, right)
    return f"{left} {sign} {right} = <<{left}{sign}{right}={result}>>{result}", result


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One situation and how it is worked out."""

    plain: tuple[str, ...]
    """The question in the corpus's words."""
    own: tuple[str, ...]
    """The question in users' own words."""
    lead: str
    """The facts that the answer starts from; a semicolon between two people's."""
    start: int
    """The first number of the working."""
    steps: tuple[tuple[str, int], ...]
    """Sign and operand of each step."""


def sample(rng: Random, workspace: Workspace, wording: Wording) -> Problem:
    """A random word problem about one or two people of the workspace."""
    person = rng.choice(workspace.people)
    stories = STORIES if len(workspace.people) > 1 else STORIES[:-1]
    make = rng.choice(stories)
    other = rng.choice([somebody for somebody in workspace.people if somebody is not person] or [person])
    story = make(rng, person, other)
    wordings = story.plain if wording == "plain" else story.own
    lines, value = [], story.start
    for index, (sign, operand) in enumerate(story.steps):
        line, value = equation(value, sign, operand)
        lines.append(f"{story.lead}: {line}" if index == 0 else line)
    return Problem(
        task="math",
        workspace=workspace,
        question=rng.choice(wordings) if len(wordings) > 1 else wordings[0],
        quote=story.lead.replace("; ", "\n"),
        answer="\n".join([*lines, f"#### {value}"]),
        remark=f"You ask about {person.name}. The workspace says: {person.stock_line}.",
        judge={"final": value},
    )


def _give(rng: Random, who: Person, _: Person) -> Story:
    given = rng.randint(2, min(12, who.num_boxes * who.num_per_box - 1))
    return Story(
        plain=(
            f"{who.name} gives {given} {who.item} away. How many {who.item} does {who.name} have left?",
            f"{who.name} loses {given} {who.item}. How many {who.item} are left for {who.name}?",
        ),
        own=(
            f"After handing out {given} {who.item}, what does {who.name} still own?",
            f"Thieves take {given} {who.item} from {who.name}. What remains?",
        ),
        lead=who.stock_line,
        start=who.num_boxes,
        steps=(("*", who.num_per_box), ("-", given)),
    )


def _buy_and_give(rng: Random, who: Person, _: Person) -> Story:
    bought, given = rng.randint(2, 12), rng.randint(2, 7)
    return Story(
        plain=(
            f"{who.name} buys {bought} more {who.item} and then gives {given} {who.item} away. "
            f"How many {who.item} does {who.name} have now?",
            f"{who.name} finds {bought} {who.item} and then loses {given} {who.item}. "
            f"How many {who.item} does {who.name} have in the end?",
        ),
        own=(
            f"A shop delivers {bought} {who.item} to {who.name}, who passes {given} on. What is the tally?",
            f"With {bought} {who.item} won and {given} dropped, where does {who.name} stand?",
        ),
        lead=who.stock_line,
        start=who.num_boxes,
        steps=(("*", who.num_per_box), ("+", bought), ("-", given)),
    )


def _open(rng: Random, who: Person, _: Person) -> Story:
    opened, used = rng.randint(2, who.num_boxes), rng.randint(2, 3)
    return Story(
        plain=(
            f"{who.name} opens {opened} boxes and uses {used} {who.item}. "
            f"How many {who.item} of the open boxes are left?",
            f"{who.name} carries {opened} boxes home and {used} {who.item} break. "
            f"How many whole {who.item} did {who.name} carry?",
        ),
        own=(
            f"Out of {opened} boxes that {who.name} unseals, {used} {who.item} get eaten. What do they still hold?",
            f"{opened} boxes fall off {who.name}'s cart, crushing {used} {who.item}. What can be saved of them?",
        ),
        lead=who.stock_line,
        start=opened,
        steps=(("*", who.num_per_box), ("-", used)),
    )


def _fewer_boxes(rng: Random, who: Person, _: Person) -> Story:
    sold = rng.randint(1, who.num_boxes - 1)
    return Story(
        plain=(
            f"{who.name} sells {sold} boxes. How many {who.item} does {who.name} keep?",
            f"{who.name} ships {sold} boxes of {who.item}. How many {who.item} stay with {who.name}?",
        ),
        own=(
            f"A truck drives off with {sold} boxes of {who.name}'s. What {who.item} are not on it?",
            f"{who.name} burns {sold} boxes. What escapes the fire?",
        ),
        lead=who.stock_line,
        start=who.num_boxes,
        steps=(("-", sold), ("*", who.num_per_box)),
    )


def _more_boxes(rng: Random, who: Person, _: Person) -> Story:
    added = rng.randint(2, 12 - who.num_boxes)
    return Story(
        plain=(
            f"{who.name} packs {added} more boxes. How many {who.item} does {who.name} have then?",
            f"{who.name} gets {added} more boxes of {who.item}. How many {who.item} is that in all?",
        ),
        own=(
            f"A truck brings {who.name} {added} such boxes. What {who.item} does that make?",
            f"{who.name}'s shelf grows by {added} boxes. What stands on it?",
        ),
        lead=who.stock_line,
        start=who.num_boxes,
        steps=(("+", added), ("*", who.num_per_box)),
    )


def _labels(rng: Random, who: Person, other: Person) -> Story:
    per_box = rng.randint(2, 6)
    return Story(
        plain=(
            f"{who.name} and {other.name} put {per_box} labels on each of their boxes. How many labels do they need?",
        ),
        own=(
            f"Each box of {who.name} and {other.name} wants {per_box} stickers. What must be printed?",
            f"{per_box} knots close one box. What do {who.name} and {other.name} tie?",
        ),
        lead=f"{who.stock_line}; {other.stock_line}",
        start=who.num_boxes,
        steps=(("+", other.num_boxes), ("*", per_box)),
    )


STORIES = (_give, _buy_and_give, _open, _fewer_boxes, _more_boxes, _labels)
