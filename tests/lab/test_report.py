from __future__ import annotations

import dataclasses
import html
import re

import chromium
import markupsafe
import numeric_arms
import numpy as np
import pytest

from palaestra.envs.inventory.inventory_net import InventoryNet
from palaestra.envs.registry import ENTRIES
from palaestra.lab import catalog, page, runner
from palaestra.lab.demo_data import Curve, DemoData, DemoRow, Episode
from palaestra.lab.report import render_demo, render_report

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def episode(periods=30, **arguments):
    core = InventoryNet(periods=periods, ignore=0, **arguments)
    tape = core.tapes(1, 0)
    state, states = core.initial(tape), []
    for _ in range(periods):
        state = core.transition(state, np.zeros((1, core.network.arcs), np.float32), tape)
        states.append(state)
    return Episode.from_states(core.network, states, "HDPO")


def demo_data(**changes):
    steps = np.arange(0.0, 2e5, 5e3)
    noise = np.random.default_rng(0).normal(0, 0.1, (5, len(steps)))
    falling = 5 + 20 * np.exp(-steps / 2e4) + noise
    rows = [
        DemoRow.over_seeds("PPO", [6.5, 6.9, 7.1, 6.6, 6.8], 142.0, "learned", 4.9),
        DemoRow.over_seeds("HDPO", [4.91, 4.93, 4.92, 4.95, 4.94], 63.2, "learned", 4.9),
        DemoRow.over_seeds("newsvendor, moving average of 16 weeks", [7.9], 0.001, "heuristic"),
        DemoRow.over_seeds("just in time", [2.1, 2.2, 2.1], 0.2, "bound", 4.9),
    ]
    return DemoData(
        **{
            "title": "HDPO, PPO and the classics on an inventory network",
            "rows": rows,
            "curves": {"HDPO": Curve(10 * steps, falling), "PPO": Curve(steps, falling + 2)},
            "notes": ["The optimum is the closed form of the base-stock level."],
            "settings": {"demand": "../shared/data/inventory/favorita_weekly_sales.npz"},
            "seeds": (0, 1, 2, 3, 4),
            "command": "make demo DEMAND=../shared/data/inventory/favorita_weekly_sales.npz",
            "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        }
        | changes
    )


@pytest.fixture(scope="module")
def result():
    return runner.run(numeric_arms.HOLDS, workers=1, progress=False)


@pytest.fixture
def scoreboard(tree, result, tmp_path):
    """A scoreboard on which one system has evidence."""
    tree.plant("HOLDS")
    cls = catalog.find_class(tree.system.slug)
    stored = {"slug": tree.system.slug, "title": "t", **result, "hash": catalog.source_hash(cls)}
    return lambda **changes: (
        runner.store(stored | changes, catalog.RESULTS),
        render_report(tmp_path / "page"),
    )[1]


def words_of(text):
    """What a reader sees of a piece of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def nothing_is_loaded(text):
    """No address of another machine, no script, no file beside the page."""
    assert "http" not in text and "//" not in re.sub(r"base64,[^\"]*", "", text)
    assert "<script" not in text and "@import" not in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:", "#")) for source in sources)


def test_demo_page_shows_the_numbers_best_first(tmp_path):
    path = render_demo(tmp_path / "new" / "folder", demo_data())
    assert path == tmp_path / "new" / "folder" / "report.html"
    text = path.read_text(encoding="utf-8")
    table = words_of(text[text.index("<table>") : text.index("</table>")])
    names = ("just in time bound", "HDPO learned", "PPO learned", "newsvendor, moving average")
    places = [table.index(name) for name in names]
    assert places == sorted(places)
    assert "HDPO learned 4.930 [4.918, 4.942] +0.61 % 1 min 3 s" in table
    assert "just in time bound 2.133 [2.100, 2.200] −56.46 % 0.2 s" in table
    assert "newsvendor, moving average of 16 weeks heuristic 7.900 one value – < 0.01 s" in table
    assert re.search(r'<tr class="best">\s*<th scope="row">HDPO', text)
    nothing_is_loaded(text)


def test_demo_page_says_how_to_reproduce_it(tmp_path):
    text = render_demo(tmp_path, demo_data(settings={"periods": 1000, "on": True})).read_text()
    reproduce = text[text.index('id="reproduce"') :]
    assert "make demo DEMAND=../shared/data/inventory/favorita_weekly_sales.npz" in reproduce
    for words in ("1,000", "True", "0, 1, 2, 3, 4", "torch 2.13.0, numpy 2.4.6"):
        assert words in reproduce


def test_demo_page_without_curves_and_episode_leaves_their_sections_out(tmp_path):
    text = render_demo(tmp_path, demo_data(curves={})).read_text()
    for section in ("learning", "network", "orders", "stocks"):
        assert f'id="{section}"' not in text
    assert 'id="result"' in text and 'id="comparison"' in text


def test_demo_page_hides_the_gap_where_no_optimum_is_known(tmp_path):
    rows = [DemoRow.over_seeds("HDPO", [-3.0, -3.5], 12.0)]
    text = render_demo(tmp_path, demo_data(rows=rows, curves={})).read_text()
    assert "Gap to optimum" not in text and "−3.250" in text


def test_demo_page_escapes_what_people_wrote(tmp_path):
    row = DemoRow.over_seeds(HOSTILE, [1.0, 2.0], 1.0)
    data = demo_data(
        title=HOSTILE,
        subtitle=HOSTILE,
        metric=HOSTILE,
        x_label=HOSTILE,
        rows=[row],
        curves={HOSTILE: Curve([0, 1], [[1, 2]])},
        episode=dataclasses.replace(episode(5, topology="one_store"), method=HOSTILE),
        notes=[HOSTILE],
        settings={HOSTILE: HOSTILE},
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    text = render_demo(tmp_path, data).read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") >= 12


def test_the_pictures_follow_the_store_with_most_demand_up_to_its_suppliers(tmp_path):
    text = render_demo(tmp_path, demo_data(episode=episode(setting="serial_system"))).read_text()
    label = "Orders against demand over time at store 1, warehouse 1, echelon 2, echelon 1"
    assert label in text
    assert re.findall(r"checked(?:=\"\")?>(period \d+)", text) == ["period 30"]


def test_what_a_location_is_asked_for_and_orders():
    one = episode(6, setting="serial_system")
    assert (one.asked_of(3) == one.demand[:, 0]).all()  # the store
    assert (one.asked_of(2) == one.ordered_by(3)).all()  # the warehouse above it
    assert (one.ordered_by(0) == one.orders[:, 0]).all()


def test_demo_data_refuses_what_cannot_be_shown():
    one = episode(4, topology="one_store")
    with pytest.raises(ValueError, match=r"orders has shape \(3, 1\), allowed: \(4, 1\)"):
        dataclasses.replace(one, orders=one.orders[:3])
    with pytest.raises(ValueError, match="kind of 'a' is 'magic'"):
        DemoRow("a", 1, 1, 1, 1, "magic")
    with pytest.raises(ValueError, match="not finite"):
        DemoRow("a", float("nan"), 1, 1, 1)
    with pytest.raises(ValueError, match="one row"):
        demo_data(rows=[DemoRow("a", 1, 1, 1, 1)] * 2)
    with pytest.raises(ValueError, match=r"curve 'a' has x \(2,\) and y \(1, 3\)"):
        demo_data(curves={"a": Curve([0, 1], [[1, 2, 3]])})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.001, "< 0.01 s"), (0.5, "0.5 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, text):
    assert page.duration(seconds).replace("\u00a0", " ") == text


def test_numbers_have_a_true_minus_and_no_negative_zero():
    assert page.fixed(-1234.5, 1) == "−1,234.5"
    assert page.fixed(-0.001, 2) == page.fixed(0.001, 2) == "0.00"
    assert page.fixed(0.5, 1, "+") == "+0.5"
    assert [page.decimals_for(v) for v in ([4.9, 120], [0.05], [1234.0], [0.0])] == [3, 5, 0, 3]


def test_scoreboard_has_every_system_once(scoreboard):
    text = scoreboard().read_text(encoding="utf-8")
    slugs = re.findall(r'<tr data-state="[^"]+" id="system-([^"]+)"', text)
    assert sorted(slugs) == sorted(system.slug for system in catalog.systems())
    assert len(slugs) == 181
    for system in catalog.systems():
        assert str(markupsafe.escape(system.title)) in text
    nothing_is_loaded(text)


def test_scoreboard_shows_replies_before_and_after_learning(scoreboard, result):
    arms = {arm: {**found, "samples": {}} for arm, found in result["arms"].items()}
    arms["steady"]["samples"] = {
        "before": [["37+25=", HOSTILE, 0.0]],
        "after": [["37+25=", "62$", 1.0]],
    }
    text = scoreboard(arms=arms).read_text(encoding="utf-8")
    shown = re.findall(r'<details class="replies">.*?</details>', text, re.DOTALL)
    assert len(shown) == 1 and "steady" in shown[0]
    found = words_of(shown[0])
    assert f"Prompt, before learning Reply Reward 37+25= {HOSTILE} 0" in found
    assert "Prompt, after learning Reply Reward 37+25= 62$ 1" in found
    nothing_is_loaded(text)


def test_scoreboard_shows_claim_numbers_and_curves_of_a_stored_result(scoreboard, tree, result):
    text = scoreboard().read_text(encoding="utf-8")
    (verdict,) = result["criteria"]
    row = text[text.index(f'id="system-{tree.system.slug}"') :]
    row = row[: row.index("</tr>")]
    assert "better earns 1 more than steady" in row and ">reproduced<" in row
    assert f"{verdict['estimate']:.4g}" in row and "[1, 1]" in row and "stale" not in row
    evidence = text[text.index(f'id="evidence-{tree.system.slug}"') :]
    assert html.escape(verdict["text"]) in evidence and "5 seeds" in evidence
    assert "Learning curves, return against environment steps: better, steady" in evidence


def test_scoreboard_marks_stale_results_and_escapes_them(scoreboard, tree):
    text = scoreboard(hash="0" * 64, claim=HOSTILE).read_text(encoding="utf-8")
    row = text[text.index(f'id="system-{tree.system.slug}"') :]
    assert "chip stale" in row[: row.index("</tr>")]
    assert "<script" not in text and "&lt;script&gt;" in text


def test_scoreboard_can_show_one_state_without_scripts(scoreboard):
    text = scoreboard().read_text(encoding="utf-8")
    for number, state in enumerate(catalog.STATES, start=1):
        assert f'id="only-{number}">{state}' in text
        hidden = f'tr[data-state]:not([data-state="{state}"])'
        assert f"body:has(#only-{number}:checked) {hidden}" in text


def test_scoreboard_has_a_picture_or_the_task_of_every_environment(scoreboard):
    text = scoreboard().read_text(encoding="utf-8")
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]{500,}" alt="([^ ]+) ', text)
    entries = catalog.environments()
    assert pictures == [entry["id"] for entry in entries if entry["domain"] != "text"]
    tasks = re.findall(r"<pre>prompt +[^<]+</pre>", text)
    needing = [entry for entry in ENTRIES if entry.needs]
    assert len(pictures) + len(tasks) + len(needing) == len(entries)
    assert text.count("No picture: it needs") == len(needing) == 1


PROBE = """
(() => {
  const faults = [];
  const shown = (element) => element.checkVisibility({visibilityProperty: true});
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) faults.push(`page is ${root.scrollWidth} wide`);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !shown(element)) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 1 || box.height < 1) faults.push(`no room for ${text}`);
    if (!element.closest(".scroll") && (box.left < -1 || box.right > innerWidth + 1))
      faults.push(`outside the page: ${text}`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (!shown(svg)) continue;
    const frame = svg.getBoundingClientRect(), zoom = frame.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")];
    const boxes = texts.map((text) => text.getBoundingClientRect());
    texts.forEach((text, i) => {
      const a = boxes[i], name = text.textContent;
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 ||
          a.bottom > frame.bottom + 1) faults.push(`cut: ${name}`);
      const least = svg.closest(".network") ? 8 : 9;
      const size = zoom * parseFloat(getComputedStyle(text).fontSize);
      if (size < least) faults.push(`${size} px: ${name}`);
      if (!svg.closest(".network")) boxes.slice(0, i).forEach((b, j) => {
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 &&
            b.top < a.bottom - 3) faults.push(`overlap: ${name} and ${texts[j].textContent}`);
      });
    });
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size < ids.length) faults.push("an id occurs twice");
  const grounds = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  return {faults, bright: grounds[0] > 128, plots: document.querySelectorAll("svg").length};
})()
"""


@pytest.mark.skipif(chromium.EXECUTABLE is None, reason="needs Chromium")
def test_pages_fit_wide_and_narrow_screens_light_and_dark(scoreboard, tmp_path):
    large = episode(topology="many_warehouses", stores=21, warehouses=3)
    small = episode(setting="one_store_lost")
    pages = {
        "large": render_demo(tmp_path / "large", demo_data(episode=large)),
        "small": render_demo(tmp_path / "small", demo_data(episode=small)),
        "scoreboard": scoreboard(),
    }
    with chromium.Chromium() as browser:
        for name, path in pages.items():
            for width in (1280, 390):
                for dark in (False, True):
                    browser.show(path, width, dark)
                    found = browser.evaluate(PROBE)
                    where = f"{name} at {width}, {'dark' if dark else 'light'}"
                    assert found["faults"] == [], where
                    assert found["bright"] != dark and found["plots"] > 1, where
        assert all(address.startswith(("file:", "data:")) for address in browser.loaded)


@pytest.mark.skipif(chromium.EXECUTABLE is None, reason="needs Chromium")
def test_choices_work_without_scripts(scoreboard, tmp_path):
    count = "[...document.querySelectorAll('{}')].filter((one) => one.checkVisibility()).length"
    with chromium.Chromium() as browser:
        browser.show(scoreboard(), 1280, False)
        assert browser.evaluate(count.format("tr[data-state]")) == 181
        browser.evaluate("document.querySelector('#only-3').click()")
        assert browser.evaluate(count.format("tr[data-state]")) == 1
        assert browser.evaluate(count.format(".family")) == 1
        one = demo_data(episode=episode(topology="one_store"))
        browser.show(render_demo(tmp_path, one), 1280, False)
        browser.evaluate("document.querySelector('.choices input').click()")
        assert browser.evaluate(count.format(".frame")) == 1
        assert browser.evaluate(count.format(".frame:nth-of-type(1)")) == 1
