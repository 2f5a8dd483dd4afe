"""The `synth_pascal` domain: objects in front of varied surroundings."""

import numpy as np

from mtl_vision.data.synthetic import craft, figures, furniture, household, scenery, vehicles
from mtl_vision.data.synthetic.camera import look_at
from mtl_vision.data.synthetic.labels import PASCAL21
from mtl_vision.data.synthetic.layout import Floor, Scene, Thing, footprint, moved, sensor
from mtl_vision.data.synthetic.shapes import Model, bounds

Rng = np.random.Generator
CLASS = {name: i for i, name in enumerate(PASCAL21)}

# Where a class is met. The first word is drawn for the main object, the rest keep it company.
SETTINGS = {
    "meadow": "horse cow sheep dog cat bird person person bicycle motorbike car horse sheep cow",
    "street": "car bus bicycle bicycle motorbike person person person train train dog cat car",
    "water": "boat boat boat person",
    "airfield": "aeroplane aeroplane aeroplane person car bus",
    "air": "aeroplane bird bird",
    "home": "chair chair diningtable sofa sofa sofa tvmonitor tvmonitor tvmonitor pottedplant cat "
    "pottedplant dog person person person bottle bottle bottle chair",
}
WEIGHTS = {"meadow": 5, "street": 5, "water": 1.6, "airfield": 1.2, "air": 1.2, "home": 6}
RIDDEN = ("horse", "bicycle", "motorbike")


def model(rng: Rng, name: str, setting: str) -> Model:
    """A new object of class `name`."""
    if name in figures.SPECIES:
        return figures.animal(rng, name)
    if name == "bird":
        return figures.bird(rng, setting == "air")
    makers = {
        "person": figures.person,
        "aeroplane": craft.aeroplane,
        "bicycle": vehicles.bicycle,
        "boat": craft.boat,
        "bottle": household.bottle,
        "bus": vehicles.bus,
        "car": vehicles.car,
        "chair": furniture.chair,
        "diningtable": furniture.table,
        "motorbike": vehicles.motorbike,
        "pottedplant": household.potted_plant,
        "sofa": furniture.sofa,
        "train": vehicles.train,
        "tvmonitor": household.television,
    }
    return makers[name](rng)


def _extent(prims) -> tuple[np.ndarray, float]:
    """Middle of the bounding box, and the mean of its height and half its width."""
    low, high = bounds(prims)
    size = high - low
    return (low + high) / 2, float(0.6 * size[1] + 0.4 * np.hypot(size[0], size[2]) * 0.8)


def _group(rng: Rng, name: str, setting: str, position, yaw: float) -> list[Thing]:
    """The object, with who rides or sits on it and what stands on it or under it."""
    position = np.asarray(position, float)
    base = model(rng, name, setting)
    things = []
    if name in ("bottle", "tvmonitor") and setting == "home":
        support = furniture.table(rng) if rng.random() < 0.6 else scenery.cabinet(rng)
        on_table = CLASS["diningtable"] if support.top > 0.66 else 0
        things.append(moved(support, on_table, position, yaw, salient=on_table > 0))
        position = position + [0, support.top, 0]
        things += _tabletop(rng, position, int(rng.integers(0, 4)))
    if name == "person" and setting == "water":
        name, base = "boat", model(rng, "boat", setting)
    if name == "boat":
        position = position - [0, 0.1, 0]
    things.append(moved(base, CLASS[name], position, yaw))
    if name in RIDDEN and rng.random() < 0.45 and base.top > 0:
        rider = figures.person(rng, "ride")
        things.append(moved(rider, CLASS["person"], position + [0, base.top - rider.top, 0], yaw))
    if name in ("chair", "sofa") and rng.random() < 0.35:
        sitter = figures.person(rng, "sit")
        at = position + [0, base.top - sitter.top, 0]
        things.append(moved(sitter, CLASS["person"], at, yaw))
    if name == "boat" and rng.random() < 0.6:
        crew = figures.person(rng)
        z = rng.uniform(0.4, 1.2)
        at = position + [np.sin(yaw) * z, base.top, np.cos(yaw) * z]
        things.append(moved(crew, CLASS["person"], at, yaw + rng.uniform(-1, 1)))
    if name == "diningtable":
        things += _tabletop(rng, position + [0, base.top, 0], int(rng.integers(0, 5)))
    return things


def _yaw(rng: Rng, setting: str) -> float:
    """Any heading; at home, things mostly turn their faces to the room."""
    if setting == "home" and rng.random() < 0.7:
        return rng.normal(0, 0.6)
    return rng.uniform(-np.pi, np.pi)


def _tabletop(rng: Rng, middle, count: int) -> list[Thing]:
    things, floor = [], Floor()
    floor.take(0, 0, 0.12)
    for _ in range(count):
        name = rng.choice(["bottle", "bottle", "clutter", "clutter", "pottedplant"])
        item = scenery.clutter(rng) if name == "clutter" else model(rng, name, "home")
        radius, _ = footprint(item.prims)
        x, z = rng.uniform(-0.4, 0.4), rng.uniform(-0.25, 0.25)
        if floor.free(x, z, radius):
            floor.take(x, z, radius)
            label = 0 if name == "clutter" else CLASS[name]
            flags = dict(salient=label > 0)
            things.append(
                moved(item, label, middle + np.array([x, 0, z]), rng.uniform(0, 6), **flags)
            )
    return things


def scene(rng: Rng) -> Scene:
    """Draws a scene: a setting, a main object the camera is aimed at, company, surroundings."""
    names = list(WEIGHTS)
    weights = np.array([WEIGHTS[n] for n in names])
    setting = str(rng.choice(names, p=weights / weights.sum()))
    pool = SETTINGS[setting].split()
    name, focal = str(rng.choice(pool)), float(np.exp(rng.uniform(np.log(0.7), np.log(1.9))))
    lift = rng.uniform(8, 60) if setting == "air" else 0.0
    if setting == "air" and name == "bird":
        lift = rng.uniform(2, 12)
    group = _group(rng, name, setting, (0, lift, 0), _yaw(rng, setting))
    main = next((t for t in group if t.label == CLASS[name]), group[0])
    middle, size = _extent(main.prims)
    distance = max(focal * size / rng.uniform(0.4, 1.3), 0.5)
    slant = rng.uniform(-0.02, 0.3) if setting != "air" else rng.uniform(-0.6, -0.1)
    eye = np.array([0.0, max(middle[1] + distance * np.tan(slant), 0.15), middle[2] - distance])
    offset = rng.normal(0, 0.12, 2) * distance / focal
    turn, pitch = look_at(eye, middle + [offset[0], offset[1], 0])
    floor = Floor()
    radius, _ = footprint(main.prims)
    floor.take(0, 0, radius)
    things = group + _company(rng, pool, setting, (eye, middle, distance, focal, lift), floor)
    ground, lighting = scenery.surroundings(rng, setting, (eye, middle, distance, focal), floor)
    roll = rng.normal(0, 0.03)
    return Scene([*ground, *things], eye, turn, pitch, roll, focal, lighting, sensor(rng))


def _company(rng: Rng, pool, setting: str, view, floor: Floor) -> list[Thing]:
    """Further objects in front of the camera, none so far that it would be a speck."""
    eye, middle, distance, focal, lift = view
    things = []
    for _ in range(int(rng.choice([0, 1, 2, 3, 5, 8], p=[0.1, 0.15, 0.2, 0.25, 0.2, 0.1]))):
        name = str(rng.choice(pool))
        z = eye[2] + distance * rng.uniform(0.7, 2.6)
        x = rng.uniform(-0.75, 0.75) * (z - eye[2]) / focal
        group = _group(rng, name, setting, (x, lift, z), _yaw(rng, setting))
        radius, _ = footprint([p for t in group for p in t.prims])
        _, size = _extent(group[-1].prims)
        near = z - radius > eye[2] + 0.5 * distance
        if near and focal * size / (z - eye[2]) > 0.07 and floor.free(x, z, radius):
            floor.take(x, z, radius)
            things += group
    return things
