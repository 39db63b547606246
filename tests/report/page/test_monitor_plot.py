"""The plot of a monitor's wealth: its lines, axis, file formats."""

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from support import monitored

from kdjax.errors import InputError
from kdjax.predict import monitoring
from kdjax.report.page import monitor_plot


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("monitored")
    model = monitored.model(root / "model")
    results = [*monitored.rows(200), *monitored.rows(150, seed=5, wrong=0.5, labelled=1)]
    for index, row in enumerate(results):
        row["time"] = f"2026-03-{1 + index // 50:02d}"
    return monitoring.watch(model, [monitored.write_csv(root / "labels.csv", results)])


def test_each_test_has_its_wealth_and_its_first_alarm(session):
    figure, report = Figure(layout="constrained"), monitoring.report(session)
    numbered = [[point[0], None, *point[2:]] for point in session.history]
    monitor_plot.draw(figure, history=numbered, report=report)
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}
    assert list(lines) == ["risk", "coverage", "drift", "alarm, 60"]
    for index, name in enumerate(report["tests"]):
        x, y = lines[name].get_data()
        assert_allclose(x, [point[0] for point in session.history])
        assert_allclose(y, [point[2 + index] / math.log(10) for point in session.history])
        assert y[-1] == pytest.approx(session.monitor.status(name).log_wealth / math.log(10))
    assert_allclose(lines["alarm, 60"].get_ydata(), math.log10(60))
    (diamond,) = (line for line in axes.lines if line.get_marker() == "D")
    alarm = session.monitor.alarms()["risk"]
    assert diamond.get_data() == ([alarm.example], [alarm.log_wealth / math.log(10)])
    assert axes.get_xlabel() == "number of the image"


def test_the_axis_has_dates_if_all_times_are_dates_in_order(session):
    def label(times):
        positions, text, examples = monitor_plot.axis([[k, t] for k, t in enumerate(times, 1)])
        assert len(positions) == len(times) and examples.tolist() == [*range(1, len(times) + 1)]
        return text

    assert label(["2026-01-01", "2026-01-01", "2026-02-01T12:30"]) == "time"
    for times in (
        [None, None],
        ["noon", "night"],
        ["2026-02-01", "2026-01-01"],  # not in order
        ["2026-01-01", "2026-01-01"],  # all the same
        ["2026-01-01T00:00", "2026-01-02T00:00+00:00"],  # cannot be compared
    ):
        assert label(times) == "number of the image"


def test_svg_file_stands_alone(session, tmp_path):
    path = tmp_path / "wealth.svg"
    monitor_plot.write(path, session.history, monitoring.report(session), [])
    root = ElementTree.fromstring(path.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == "Wealth of each test over the images"
    assert "var(--" not in path.read_text()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"risk", "coverage", "drift", "time", "wealth, power of ten"} <= set(texts)


def test_page_has_the_table_and_the_alarms(session, tmp_path):
    path = tmp_path / "wealth.html"
    alarms = [monitoring.alarm_line(session, name) for name in session.places]
    monitor_plot.write(path, session.history, monitoring.report(session), alarms)
    page = path.read_text()
    assert len(re.findall("<svg", page)) == 1 and page.count('<th scope="row">') == 3
    assert "Risk: alarm at image" in page and "at most 0.05, at whatever time" in page
    assert not re.search(r'(src|href)="http', page)


def test_a_long_history_is_drawn_from_few_points(session):
    values = np.linspace(0, 5, 1024)
    history = [[k, None, value, value, value] for k, value in enumerate(values, 1)]
    figure = Figure(layout="constrained")
    monitor_plot.draw(figure, history=history, report=monitoring.report(session))
    assert len(figure.axes[0].lines[0].get_xdata()) == 1024


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a.png", "the name must end in .svg or .html"),
        ("a.htm", "did you mean '.html'?"),
        ("nowhere/a.svg", "no folder 'nowhere'"),
    ],
)
def test_other_files_are_refused_before_anything_is_read(name, part):
    with pytest.raises(InputError) as raised:
        monitor_plot.check_path(name)
    assert part in str(raised.value)
