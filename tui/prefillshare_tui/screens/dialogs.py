"""Windows over a screen: the explanation of terms and keys, and the question before a deployment is left."""

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Label, Static

from prefillshare_tui.parts import CROSS, FREE, MISSED, OWN, PRIVATE, SHARED

Choice = Literal["stop", "keep", "stay"]

HELP = f"""\
[b]Prompt tokens[/]
[$tone-own]{OWN}[/] own       their KV was made by this module's own earlier calls
[$tone-cross]{CROSS}[/] cross     it was first made for [b]another[/] module: what sharing gives
[$tone-missed]{MISSED}[/] missed    computed ("prefilled")      saved: own and cross together
[b]Sessions[/]
  parts at  where the prompts of its modules first differ; [$error]![/] is early:
            put what differs, such as the role, at the end
  re-pin    it moved to another prefill worker, which prefills it again
[b]KV memory[/]
[$tone-own]{SHARED}[/] shared    prefixes for everybody      [$warning]{PRIVATE}[/] private   of calls in work
[$tone-missed]{FREE}[/] free      unused                      retract   a call had to give way
[b]Latency[/]     TTFT time to first token    ITL time between tokens
[b]Keys[/]
  1-6 click   screens                  w    window 1, 5, 30 minutes
  space       hold what is shown       t    light or dark
  / Esc       filter, clear it         s S  next sort column, reverse
  arrows      choose a row             c    copy the row or summary
  e E         export as CSV, JSON      x    save the screen as SVG
  r           ask again now            ^p   all commands
  q           quit        files go to the folder of the start
"""


class HelpScreen(ModalScreen[None]):
    """Terms and keys."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,q", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        """One text."""
        with VerticalScroll(id="help"):
            yield Static(HELP)


class LeaveScreen(ModalScreen[Choice]):
    """Asks what becomes of the deployment that was launched together with the dashboard."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "choose('stop')", "Stop"),
        ("k", "choose('keep')", "Keep"),
        ("escape", "choose('stay')", "Stay"),
        ("left", "app.focus_previous", "Previous"),
        ("right", "app.focus_next", "Next"),
    ]

    def compose(self) -> ComposeResult:
        """A question and three answers."""
        with Vertical(id="leave"):
            yield Label("Stop the deployment, too?")
            with Horizontal():
                yield Button("Stop it (s)", id="stop", variant="error")
                yield Button("Keep serving (k)", id="keep", variant="primary")
                yield Button("Stay here (Esc)", id="stay")

    def on_button_pressed(self, message: Button.Pressed) -> None:
        """Take the answer."""
        self.action_choose(message.button.id or "stay")

    def action_choose(self, choice: str) -> None:
        """Return the answer."""
        self.dismiss("stop" if choice == "stop" else "keep" if choice == "keep" else "stay")
