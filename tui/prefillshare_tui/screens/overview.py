"""Overview: what sharing gives, how fast answers come, what is going on, and how full the memory is."""

from textual.app import ComposeResult
from textual.containers import Container, Horizontal

from prefillshare_tui import charts
from prefillshare_tui.charts import Chart
from prefillshare_tui.overview import hits_lines, latency_lines, load_lines, memory_lines
from prefillshare_tui.parts import FREE, PRIVATE, SHARED
from prefillshare_tui.screens.base import BaseScreen
from prefillshare_tui.summary import summary_text
from prefillshare_tui.view import View
from prefillshare_tui.widgets.panel import Panel
from prefillshare_tui.widgets.plot import Plot


class OverviewScreen(BaseScreen):
    """The first screen."""

    TAB = "overview"

    def compose_body(self) -> ComposeResult:
        """Text above, plots, text below."""
        with Horizontal(id="tiles", classes="body"):
            yield Panel("[b]Prefix hits[/]", id="hits")
            yield Panel("[b]Latency[/]", id="latency")
        with Container(id="charts", classes="body"):
            yield Plot(id="hits-chart")
            yield Plot(id="tokens-chart")
            yield Plot(id="ttft-chart", classes="second")
            yield Plot(id="load-chart", classes="second")
        with Horizontal(id="bottom", classes="body"):
            yield Panel("[b]Load[/]", id="load")
            yield Panel(
                f"[b]KV memory[/]  [$tone-own]{SHARED}[/] shared  [$warning]{PRIVATE}[/] private  "
                f"[$tone-missed]{FREE}[/] free",
                id="memory",
            )

    def show_view(self, view: View) -> None:
        """Fill the blocks and the plots in sight."""
        hits, latency, load, memory = (
            self.query_one(f"#{name}", Panel) for name in ("hits", "latency", "load", "memory")
        )
        hits.show(hits_lines(view, hits.content_size.width))
        latency.show(latency_lines(view, latency.content_size.width))
        load.show(load_lines(view))
        memory.show(memory_lines(view, memory.content_size.width, memory.content_size.height))
        trail = charts.trail(view.samples, view.span_s, lambda sample: sample.total)
        self._plot("hits-chart", charts.hits_chart(trail, view.span_s))
        self._plot("tokens-chart", charts.tokens_chart(trail, view.span_s))
        if self.query_one("#ttft-chart").display:
            self._plot("ttft-chart", charts.latency_chart(trail, view.span_s, "ttft", "TTFT"))
            self._plot("load-chart", charts.load_chart(view.samples, view.span_s, lambda sample: sample.total))

    def text_for_clipboard(self) -> tuple[str, str]:
        """The window in a few lines."""
        view = self.dashboard.view
        return (summary_text(view), "the summary of this window") if view else ("", "")

    def _plot(self, id: str, chart: Chart) -> None:
        self.query_one(f"#{id}", Plot).show(chart)
