import re
import subprocess
import sys
import time

import networkx as nx
import numpy as np
import pytest

from palaestra.envs.inventory.canvas import DARK, LIGHT, round_up, short, shortened, text_width
from palaestra.envs.inventory.inventory_net import InventoryNetEnv
from palaestra.envs.inventory.layout import BOTTOM, TOP, arrange, ordered_layers
from palaestra.envs.inventory.network import SupplyNetwork
from palaestra.envs.inventory.render import draw_network, network_figure, network_svg
from palaestra.envs.inventory.topologies import build

SIZES = [(960, 600), (640, 400)]


def random_network(locations, layers, seed=0):
    """A network in which every location buys from one or two of the layer above it."""
    rng = np.random.default_rng(seed)
    stores = int(0.6 * locations)
    above = [f"echelon {i}" for i in range(locations - stores)]
    cuts = np.linspace(0, len(above), layers).astype(int)
    levels = [above[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    levels.append([f"store {i}" for i in range(stores)])
    graph = nx.DiGraph()
    for name in above:
        graph.add_node(name, kind="echelon", holding=0.3)
    for name in levels[-1]:
        graph.add_node(name, kind="store", holding=1.0, underage=9.0)
    for upper, lower in zip(levels[:-1], levels[1:], strict=True):
        for name in lower:
            for supplier in rng.choice(upper, min(2, len(upper)), replace=False):
                graph.add_edge(str(supplier), name, lead=int(rng.integers(1, 4)))
        for name in upper:
            if not graph.out_degree(name):
                graph.add_edge(name, str(rng.choice(lower)), lead=1)
    return SupplyNetwork.from_graph(graph)


def stores_only(count):
    graph = nx.DiGraph()
    for k in range(count):
        graph.add_node(f"shop {k}", kind="store", holding=1.0, underage=2.0, lead=3)
    return SupplyNetwork.from_graph(graph)


RNG = np.random.default_rng(0)
NETWORKS = {
    "one store": build("one_store"),
    "serial": build("serial"),
    "long chain": build("serial", echelon_lead=[1] * 9, echelon_holding=[0.1] * 9),
    "transshipment": build("transshipment"),
    "one warehouse": build("one_warehouse", stores=10, rng=RNG),
    "one warehouse, 30 stores": build("one_warehouse", stores=30, rng=RNG),
    "many warehouses": build("many_warehouses", stores=21, warehouses=3, rng=RNG),
    "shops": stores_only(12),
    "40 shops": stores_only(40),
    "28 locations": random_network(28, 4),
    "60 stores": build("one_warehouse", stores=60, rng=RNG),
    "200 locations": random_network(200, 5),
    "1000 locations": random_network(1000, 8),
}
LABELLED = [name for name, network in NETWORKS.items() if network.locations <= 32]


def contents(network, seed=0):
    """Random stock (with backlog), orders and demand."""
    rng = np.random.default_rng(seed)
    inventory = rng.uniform(0, 20, (network.locations, int(network.slots.max())))
    inventory[network.locations - network.stores :, 0] -= 8
    return inventory, rng.uniform(0, 10, network.arcs), rng.uniform(0, 8, network.stores)


def texts(figure):
    """(text, bounding box in pixels, y downwards) of everything written."""
    renderer, height = figure.canvas.get_renderer(), figure.bbox.height
    found = []
    for text in figure.axes[0].texts:
        box = text.get_window_extent(renderer)
        found.append((text.get_text(), (box.x0, height - box.y1, box.x1, height - box.y0)))
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_has_the_size_that_was_asked_for(name, size):
    network = NETWORKS[name]
    picture = draw_network(network, *contents(network), size=size, title=name)
    assert picture.dtype == np.uint8 and picture.shape == (size[1], size[0], 3)
    assert picture.std() > 5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_is_cut_off_or_overlaps_another(name, size):
    network = NETWORKS[name]
    figure = network_figure(network, *contents(network), size=size, title="period 3 of 50")
    boxes = texts(figure)
    for text, (left, top, right, bottom) in boxes:
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1], text
    for i, (text, a) in enumerate(boxes):
        for other, b in boxes[:i]:
            wide = min(a[2], b[2]) - max(a[0], b[0])
            high = min(a[3], b[3]) - max(a[1], b[1])
            assert wide <= 0.5 or high <= 2.0, (text, other)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_lie_inside_the_picture_and_apart(name, size):
    network = NETWORKS[name]
    layout = arrange(network, *size)
    assert layout.labelled == (name in LABELLED) or size != SIZES[0]
    left, right = layout.x - layout.width / 2, layout.x + layout.width / 2
    top, bottom = layout.y - layout.height / 2, layout.y + layout.height / 2
    assert left.min() >= 0 and right.max() <= size[0]
    assert top.min() >= TOP - 1 and bottom.max() <= size[1] - BOTTOM + 1
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    overlap = (wide > 0) & (high > 0)
    np.fill_diagonal(overlap, False)
    assert not overlap.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_arc_leads_to_the_right_and_stores_are_last(name):
    network = NETWORKS[name]
    layout = arrange(network, *SIZES[0])
    inner = network.source >= 0
    assert (layout.x[network.source[inner]] < layout.x[network.target[inner]]).all()
    stores = np.arange(network.locations - network.stores, network.locations)
    np.testing.assert_array_equal(layout.layers[-1], stores)
    members = np.sort(np.concatenate(layout.layers))
    np.testing.assert_array_equal(members, np.arange(network.locations))


def test_suppliers_stand_beside_their_customers():
    graph = nx.DiGraph()
    for w in range(3):
        graph.add_node(f"w{w}", kind="warehouse", holding=0.1)
    for k in range(6):
        graph.add_node(f"s{k}", kind="store", holding=1.0, underage=5.0)
        graph.add_edge(f"w{2 - k // 2}", f"s{k}")
    network = SupplyNetwork.from_graph(graph)
    assert [network.names[node] for node in ordered_layers(network)[0]] == ["w2", "w1", "w0"]


@pytest.mark.parametrize("name", LABELLED)
def test_names_stock_and_demand_are_written(name):
    network = NETWORKS[name]
    inventory, orders, demand = contents(network)
    written = [text for text, _ in texts(network_figure(network, inventory, orders, demand))]
    for units in [*inventory[:, 0], *demand]:
        assert short(units) in written
    whole = [text for text in written if text in network.names]
    assert len(whole) >= 0.9 * network.locations


LEGEND = int(BOTTOM)  # rows at the bottom that show every colour


def test_backlog_is_drawn_in_the_warning_colour_and_only_then():
    network = build("one_store")
    red = np.array([0xD1, 0x35, 0x2B])
    none = np.zeros(network.arcs), np.zeros(network.stores)

    def warning(on_hand):
        inventory = np.zeros((1, 4))
        inventory[0, 0] = on_hand
        picture = draw_network(network, inventory, *none)[:-LEGEND]
        return int((picture == red).all(axis=-1).sum())

    assert warning(5.0) == 0 and warning(0.0) == 0
    assert warning(-5.0) > 200


def test_bars_grow_with_stock():
    network = build("one_warehouse", stores=2, lead=2, holding=1.0, underage=9.0)
    colour = np.array([0x1F, 0x6F, 0x8B])

    def filled(units):
        inventory = np.zeros((3, int(network.slots.max())))
        inventory[1, 0], inventory[2, 0] = 80.0, units
        picture = draw_network(network, inventory, np.zeros(3), np.zeros(2))
        store = picture[330:540, 800:876]  # the bars of the lower store
        return int((store == colour).all(axis=-1).sum())

    amounts = [filled(units) for units in (0, 20, 40, 80)]
    assert amounts[0] == 0
    assert amounts[2] == pytest.approx(2 * amounts[1], rel=0.2)
    assert amounts[3] == pytest.approx(2 * amounts[2], rel=0.2)


def test_the_same_state_gives_the_same_picture_and_another_state_another():
    network = NETWORKS["many warehouses"]
    first = draw_network(network, *contents(network))
    np.testing.assert_array_equal(first, draw_network(network, *contents(network)))
    assert (first != draw_network(network, *contents(network, seed=1))).any()


def test_empty_network_without_orders_can_be_drawn():
    for name in ("one warehouse", "200 locations"):
        network = NETWORKS[name]
        empty = np.zeros((network.locations, int(network.slots.max())))
        picture = draw_network(network, empty, np.zeros(network.arcs), np.zeros(network.stores))
        assert picture.std() > 0


def test_themes_change_the_background_and_transparency_removes_it():
    network = NETWORKS["one store"]
    assert (draw_network(network, *contents(network))[0, 0] == 255).all()
    assert (draw_network(network, *contents(network), theme=DARK)[0, 0] == (0x12, 0x17, 0x1D)).all()
    figure = network_figure(network, *contents(network), transparent=True)
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba())[0, 0, 3] == 0


def test_svg_is_one_element_that_repeats_exactly():
    network = NETWORKS["many warehouses"]
    svg = network_svg(network, *contents(network), title="test", theme=LIGHT)
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert svg == network_svg(network, *contents(network), title="test", theme=LIGHT)
    assert re.search(r'viewBox="0 0 691\.2\d* 432', svg)


def test_names_are_written_as_they_are_and_long_ones_are_cut():
    names = ["$\\alpha_1$", "two\nlines", "A very long name of a location in the north " * 3]
    graph = nx.DiGraph()
    for name in names:
        graph.add_node(name, kind="store", holding=1.0, underage=2.0)
    network = SupplyNetwork.from_graph(graph)
    written = [text for text, _ in texts(network_figure(network, *contents(network)))]
    assert "$\\alpha_1$" in written and "two lines" in written
    assert any(text.startswith("A very long") and text.endswith("…") for text in written)


def test_a_wrong_shape_or_size_is_refused():
    network = NETWORKS["one warehouse"]
    inventory, orders, demand = contents(network)
    with pytest.raises(ValueError, match=r"inventory has shape \(10, 3\)"):
        draw_network(network, inventory[1:], orders, demand)
    with pytest.raises(ValueError, match=r"orders has shape \(3,\), .* \(11,\)"):
        draw_network(network, inventory, orders[:3], demand)
    with pytest.raises(ValueError, match=r"demand has shape \(11,\), .* \(10,\)"):
        draw_network(network, inventory, orders, orders)
    with pytest.raises(ValueError, match=r"size=\(100, 100\)"):
        draw_network(network, inventory, orders, demand, size=(100, 100))


@pytest.mark.parametrize("name, seconds", [("one warehouse", 0.4), ("1000 locations", 2.0)])
def test_a_frame_is_drawn_in_time(name, seconds):
    network = NETWORKS[name]
    draw_network(network, *contents(network))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        draw_network(network, *contents(network))
        times.append(time.perf_counter() - start)
    assert min(times) < seconds


def test_drawing_leaves_pyplot_and_its_settings_alone():
    code = (
        "import sys, matplotlib, numpy as np\n"
        "from palaestra.envs.inventory import render, topologies\n"
        "def settings():  # reading the backend would import pyplot\n"
        "    return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = settings()\n"
        "net = topologies.build('one_store')\n"
        "state = np.zeros((1, 4)), np.zeros(1), np.zeros(1)\n"
        "render.draw_network(net, *state), render.network_svg(net, *state)\n"
        "assert settings() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_environment_renders_its_current_period():
    env = InventoryNetEnv(render_mode="rgb_array", setting="one_warehouse_lost")
    env.reset(seed=0)
    first = env.render()
    env.step(np.zeros(env.action_space.shape, dtype=np.float32))
    second = env.render()
    assert first.shape == second.shape == (600, 960, 3)
    assert (first != second).any()


@pytest.mark.parametrize(
    "units, text",
    [
        (0, "0"),
        (-0.01, "0"),
        (3.44, "3.4"),
        (9.96, "10"),
        (-35.2, "−35"),
        (999.4, "999"),
        (999.6, "1k"),
        (12_345, "12k"),
        (1.24e6, "1.2M"),
        (4e12, "4e12"),
    ],
)
def test_numbers_are_short(units, text):
    assert short(units) == text


def test_scales_are_round_and_never_below_the_units():
    assert [round_up(x) for x in (0, 0.7, 1, 1.2, 31, 450, 1000)] == [1, 0.8, 1, 1.5, 40, 600, 1000]


def test_shortened_text_fits():
    text = "central distribution centre"
    assert shortened(text, 11, 400) == text
    cut = shortened(text, 11, 80)
    assert cut.endswith("…") and text_width(cut, 11) <= 80
