"""Your own cities: a CSV file in, the route and its picture out.

    python examples/route_my_cities.py [cities.csv] [--steps 3000] [--picture route.png]

The file has a column `name` and either `x` and `y`, in any unit, or `latitude` and `longitude` in
degrees (the route is then in km). Without a file, one with European capitals is written and used. A
policy learns on random cities to imitate 2-opt, for a minute or so, and then routes yours, however
many there are. `--save` keeps it, and `--load` takes it instead of learning again.
"""

import argparse
from pathlib import Path

import gymnasium as gym
import matplotlib.image
import numpy as np
import pandas as pd

import palaestra
from palaestra.envs.routing.instance import RoutingInstance

CAPITALS = """name,latitude,longitude
Amsterdam,52.37,4.90
Athens,37.98,23.73
Belgrade,44.79,20.45
Berlin,52.52,13.40
Bern,46.95,7.45
Bratislava,48.15,17.11
Brussels,50.85,4.35
Bucharest,44.43,26.10
Budapest,47.50,19.04
Copenhagen,55.68,12.57
Lisbon,38.72,-9.14
Ljubljana,46.06,14.51
London,51.51,-0.13
Luxembourg,49.61,6.13
Madrid,40.42,-3.70
Paris,48.86,2.35
Prague,50.08,14.44
Riga,56.95,24.11
Rome,41.90,12.50
Sarajevo,43.86,18.41
Skopje,42.00,21.43
Sofia,42.70,23.32
Tallinn,59.44,24.75
Tirana,41.33,19.82
Vienna,48.21,16.37
Vilnius,54.69,25.28
Warsaw,52.23,21.01
Zagreb,45.81,15.98
"""
KM_PER_DEGREE = 111.2

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("cities", nargs="?", type=Path)
parser.add_argument("--steps", type=int, default=3_000, help="gradient steps")
parser.add_argument("--instances", type=int, default=3_000, help="random instances to learn from")
parser.add_argument("--beam", type=int, default=16, help="routes that are kept while searching")
parser.add_argument("--picture", type=Path, default=Path("route.png"))
parser.add_argument("--save", type=Path, help="where to keep the policy")
parser.add_argument("--load", type=Path, help="a policy that was kept")
arguments = parser.parse_args()

if arguments.cities is None:
    arguments.cities = Path("cities.csv")
    arguments.cities.write_text(CAPITALS, encoding="utf-8")
cities = pd.read_csv(arguments.cities)
if "latitude" in cities:
    across = cities.longitude * np.cos(np.radians(cities.latitude.mean()))
    points = KM_PER_DEGREE * np.stack([across, cities.latitude], axis=1)
else:
    points = cities[["x", "y"]].to_numpy(dtype=float)

if arguments.load is not None:
    agent = palaestra.agents.BQNCO.load(arguments.load, device="cpu")
else:
    agent = palaestra.agents.BQNCO(
        *("AttentionPolicy", gym.make("TSP-v0", nodes=30)),
        instances=arguments.instances,
        seed=0,
        device="cpu",
    ).learn(arguments.steps, progress_bar=True)
if arguments.save is not None:
    agent.save(arguments.save)

instance = RoutingInstance(arguments.cities.stem, "tsp", coordinates=points)
route = agent.solve(instance, beam=arguments.beam)[0]
print(" - ".join(cities.name[node] for node in [*route.tour, 0]))
print(f"length of the route: {route.objective:.1f}")

env = gym.make("TSP-v0", instance=instance, render_mode="rgb_array")
env.reset(seed=0)
for node in route.tour[1:]:
    env.step(node)
matplotlib.image.imsave(arguments.picture, np.asarray(env.render()))
print(f"its picture: {arguments.picture}")
