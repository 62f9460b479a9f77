"""One chart, drawn by plotext: filled areas below, lines above, few marks on the axes."""

from textual.app import RenderResult
from textual.color import Color
from textual.content import Content
from textual_plotext import PlotextPlot

from prefillshare_tui import words
from prefillshare_tui.charts import Chart, Curve
from prefillshare_tui.parts import CROSS, OWN
from prefillshare_tui.widgets.paint import STYLES

_MARKERS = {"area": "hd", "dots": "braille", "line": "braille"}
_LEGEND = {"area": OWN, "dots": CROSS, "line": "⠒"}
_TALL_ROWS = 10


class Plot(PlotextPlot):
    """Shows a chart."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._chart: Chart | None = None

    def show(self, chart: Chart) -> None:
        """Draw another chart."""
        self._chart = chart
        self.border_title = _title(chart)
        self.refresh()

    def render(self) -> RenderResult:
        """Draw the chart at the widget's size."""
        plt = self.plt
        plt.clear_figure()
        if self._chart is None or self.size.width < 12 or self.size.height < 3:
            return ""
        chart = self._chart
        plt.xaxes(False, False)
        plt.yaxes(False, False)
        plt.xlim(-chart.span_s, 0)
        plt.ylim(0, chart.height)
        self._mark_axes(chart)
        for curve in chart.curves:
            self._draw(curve)
        return super().render()

    def _mark_axes(self, chart: Chart) -> None:
        parts = 4 if self.size.height >= _TALL_ROWS else 2
        values = [chart.height * number / parts for number in range(parts + 1)]
        self.plt.yticks(values, [chart.write(value) for value in values])
        moments = [-chart.span_s, -chart.span_s / 2, 0.0]
        self.plt.xticks(moments, [f"-{words.span(-moment)}" if moment else "now" for moment in moments])

    def _draw(self, curve: Curve) -> None:
        colour = self._colour(curve)
        for piece in curve.pieces:
            xs, ys = [x for x, _ in piece], [y for _, y in piece]
            self.plt.plot(xs, ys, marker=_MARKERS[curve.shape], color=colour, fillx=curve.shape != "line")

    def _colour(self, curve: Curve) -> tuple[int, int, int]:
        variable = STYLES[curve.tone].split()[0].removeprefix("$")
        return Color.parse(self.app.theme_variables[variable]).rgb


def _title(chart: Chart) -> Content:
    parts: list[str | tuple[str, str]] = [(chart.title, "bold")]
    for curve in reversed(chart.curves):
        parts += ["  ", (_LEGEND[curve.shape], STYLES[curve.tone]), f" {curve.name}"]
    return Content.assemble(*parts)
