"""`chat` at a real terminal and behind a pipe: questions of several lines, and what is kept of them."""

from collections.abc import Callable
from pathlib import Path

from prefillshare.cli.chat_history import NAME, NUM_KEPT, open_history
from prefillshare.cli.chat_questions import Piped
from prefillshare.serving.launch import RunningDeployment
from tests.support.tmux import Terminal, prefillshare

ANSWERED = "generated 2"
PROMPT = "math>"


def _kept(state: Path) -> list[str]:
    entries = (state / "prefillshare" / NAME).read_text().split("\n#")[1:]
    return ["\n".join(line[1:] for line in entry.splitlines() if line.startswith("+")) for entry in entries]


def _asks_after(said: str, times: int = 1) -> Callable[[str], bool]:
    """Whether that was said so often and the next question is asked for: keys that come before reach no editor."""
    return lambda screen: screen.count(said) == times and screen.rstrip().endswith(PROMPT)


def test_what_is_pasted_is_one_question(random_server: RunningDeployment, tmp_path: Path) -> None:
    state = tmp_path / "state"
    chat = prefillshare("chat", "math", "--max-tokens", "2", "--url", random_server.url)
    with Terminal(["env", f"XDG_STATE_HOME={state}", *chat], tmp_path) as terminal:
        terminal.wait_for(PROMPT)
        terminal.paste("pasted one\n/models two\nthree")
        terminal.press("Enter")
        terminal.wait_for(_asks_after(ANSWERED))
        terminal.press("typed", "M-Enter", "more", "Enter")
        terminal.wait_for(_asks_after(ANSWERED, 2))
        terminal.press('"""', "Enter", "quoted", "Enter", "last", '"""', "Enter")
        terminal.wait_for(_asks_after(ANSWERED, 3))
        terminal.press("-H", "e9")
        terminal.press("Enter")
        terminal.wait_for(_asks_after("is not UTF-8 text"))
        terminal.press("C-d")
        assert terminal.wait_for_end() == 0
    assert _kept(state)[:3] == ["pasted one\n/models two\nthree", "typed\nmore", '"""\nquoted\nlast"""']
    assert [file.name for file in (state / "prefillshare").iterdir()] == [NAME]
    assert (state / "prefillshare" / NAME).stat().st_mode & 0o077 == 0


def test_a_pipe_gives_a_question_a_line_and_more_between_quotes() -> None:
    piped = Piped(["one", '"""', "two", "", 'three"""', '"""four"""', '"""', "the end"])
    found = []
    while (text := piped.next("math")) is not None:
        found.append(text)
    assert found == ["one", "two\n\nthree", "four", "the end"]


def test_the_history_keeps_its_bounds_and_never_stands_in_the_way(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = open_history()
    for number in range(2 * NUM_KEPT + 5):
        history.store_string(f"question {number}")
    newest = list(open_history().load_history_strings())
    assert len(newest) == NUM_KEPT
    assert newest[0] == f"question {2 * NUM_KEPT + 4}"
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/none")
    open_history().store_string("not kept")
