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
[b]What the words mean[/]
[$tone-own]{OWN}[/] own       prompt tokens whose KV this module's earlier calls had made
[$tone-cross]{CROSS}[/] cross     prompt tokens whose KV was first made for [b]another[/] decode module:
            what sharing the prefill gives
[$tone-missed]{MISSED}[/] missed    prompt tokens that had to be computed
  saved     own and cross together, as a part of all prompt tokens
  parts at  token at which the prompts of a session's modules part. [$error]![/] in their first half:
            a role or another text that differs stands at the front and keeps them from
            sharing; put it at the end
[$tone-own]{SHARED}[/] shared    KV memory that holds prefixes for everybody; idle ones make room when needed
[$warning]{PRIVATE}[/] private   KV memory of requests in work   [$tone-missed]{FREE}[/] free   unused
  TTFT      time to first token   [b]ITL[/] time between tokens
  retract   calls put back because KV memory ran out
  re-pin    a session that moved to another prefill worker and is prefilled there again
  >60 s     beyond the last bound that the server counts by

[b]Keys[/]
  1-5, click  screens                   space  pause what is shown (it goes on being recorded)
  w           time window 1, 5, 30 m    t      light or dark
  / Esc       filter; clear it          s S    sort by the next column; reverse (or click a head)
  arrows, PgUp, PgDn, Home, End: choose a row
  c           copy the selected row     e E    export the window as CSV, as JSON
  x           picture of the screen (SVG)
  r           ask again now             ^p     all commands
  q           quit
Files go to the folder in which the dashboard was started. Esc closes this window.
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
