"""The `synth_nyud` domain: furnished rooms."""

import numpy as np

from mtl_vision.data.synthetic import fittings, hangings
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic.figures import person
from mtl_vision.data.synthetic.layout import Floor, Scene, Thing, moved, sensor
from mtl_vision.data.synthetic.placed import LABEL, Placed
from mtl_vision.data.synthetic.scenery import indoor_light
from mtl_vision.data.synthetic.shapes import bounds, plane, rot_y

Rng = np.random.Generator

# Per room: what stands against walls, what stands free, what hangs on walls. Repeated words are
# likelier.
ROOMS = {
    "bedroom": (
        "bed bed bed dresser dresser cabinet desk bookshelf chair lamp_floor shelves clothes_rack",
        "chair box bag floor_mat person clothes_heap",
        "picture picture window curtain mirror door blinds television_wall clothes_hung",
    ),
    "living": (
        "sofa sofa tv_stand bookshelf shelves cabinet table chair lamp_floor plant piano",
        "table chair floor_mat person box sofa bag",
        "picture picture picture window curtain door blinds mirror television_wall",
    ),
    "office": (
        "desk desk bookshelf cabinet shelves table chair box lamp_floor",
        "chair chair table person box bag",
        "whiteboard whiteboard whiteboard window blinds door picture paper_sheet paper_sheet",
    ),
    "kitchen": (
        "counter counter counter refridgerator cabinet table chair shelves stove",
        "table chair chair floor_mat person box",
        "cabinet_wall cabinet_wall window blinds door towel_hung paper_sheet picture",
    ),
    "bathroom": (
        "toilet sink_stand bathtub bathtub cabinet toilet sink_stand",
        "floor_mat box bag clothes_heap person",
        "mirror towel_hung towel_hung window door picture",
    ),
    "dining": (
        "cabinet dresser shelves bookshelf plant chair lamp_floor counter",
        "table_set table_set chair person floor_mat",
        "picture picture window curtain door mirror",
    ),
}


class Room:
    """A rectangular room while it is being furnished: x in +-w, z in 0..d, walls by side."""

    def __init__(self, rng: Rng, name: str) -> None:
        self.rng, self.name = rng, name
        small = name in ("bathroom", "kitchen")
        self.w = rng.uniform(1.1, 1.7) if small else rng.uniform(1.5, 3.2)
        self.d = rng.uniform(2.2, 3.4) if small else rng.uniform(2.8, 6.5)
        self.h = rng.uniform(2.3, 3.0)
        self.things: list[Thing] = []
        self.floor = Floor()
        self.walls: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}

    def wall(self, side: int) -> tuple[np.ndarray, float, float]:
        """Middle of a wall, yaw of a thing with its back to it, and half its length.

        Sides: 0 the far wall, 1 the left one, 2 the right one.
        """
        if side == 0:
            return np.array([0, 0, self.d]), 0.0, self.w
        sign = -1 if side == 1 else 1
        return np.array([sign * self.w, 0, self.d / 2]), sign * np.pi / 2, self.d / 2

    def add(self, placed: list[Placed], position, yaw: float) -> None:
        turn = rot_y(yaw)
        for item in placed:
            at = position + turn @ np.asarray(item.offset, float)
            thing = moved(item.model, item.label, at, yaw + item.yaw)
            self.things.append(thing._replace(casts=item.casts))


def _extent(placed: list[Placed]) -> np.ndarray:
    """Lowest and highest corner [2, 3] of a group in its own frame."""
    corners = []
    for item in placed:
        low, high = bounds(item.model.prims)
        turn = np.abs(rot_y(item.yaw))
        middle = rot_y(item.yaw) @ ((low + high) / 2) + item.offset
        reach = turn @ ((high - low) / 2)
        corners += [middle - reach, middle + reach]
    return np.stack([np.min(corners, 0), np.max(corners, 0)])


def _against_wall(room: Room, placed: list[Placed]) -> None:
    """Puts a group with its back to a wall where the floor is free."""
    low, high = _extent(placed)
    width, depth = high[0] - low[0], high[2] - low[2]
    for _ in range(6):
        side = int(room.rng.choice(3, p=[0.5, 0.25, 0.25]))
        middle, yaw, half = room.wall(side)
        if width / 2 > half:
            continue
        along = room.rng.uniform(-1, 1) * (half - width / 2)
        gap = 0.02 if room.rng.random() < 0.8 else room.rng.uniform(0, 0.3)
        at = middle + rot_y(yaw) @ [along - (low[0] + high[0]) / 2, 0, -high[2] - gap]
        centre = middle + rot_y(yaw) @ [along, 0, -gap - depth / 2]
        if _take(room, centre, yaw, width, depth):
            room.add(placed, at, yaw)
            return


def _take(room: Room, centre, yaw: float, width: float, depth: float) -> bool:
    """Covers a rectangle with circles; takes them if all are free."""
    radius = max(min(width, depth) / 2, 0.12)
    count = max(1, int(np.ceil(max(width, depth) / (2 * radius))))
    steps = (np.arange(count) + 0.5) / count * 2 - 1
    axis = rot_y(yaw) @ ([1, 0, 0] if width > depth else [0, 0, 1])
    reach = max(width, depth) / 2 - radius
    spots = [centre + axis * s * reach / (max(abs(steps)) or 1) for s in steps]
    if not all(room.floor.free(p[0], p[2], radius * 0.9) for p in spots):
        return False
    for p in spots:
        room.floor.take(p[0], p[2], radius * 0.9)
    return True


def _free_standing(room: Room, placed: list[Placed], flat: bool) -> None:
    low, high = _extent(placed)
    width, depth = high[0] - low[0], high[2] - low[2]
    radius = float(np.hypot(width, depth)) / 2
    if radius > min(room.w, room.d / 2):
        return
    for _ in range(5):
        x = room.rng.uniform(-1, 1) * (room.w - radius)
        z = room.rng.uniform(radius, room.d - radius)
        yaw = room.rng.choice([0, 1, 2, 3]) * np.pi / 2 + room.rng.normal(0, 0.3)
        if flat or _take(room, np.array([x, 0, z]), yaw, width, depth):
            room.add(placed, np.array([x, 0, z]), yaw)
            return


def _hang(room: Room, placed: list[Placed]) -> None:
    """Hangs a group on a free stretch of a wall; its offsets hold the height."""
    low, high = _extent(placed)
    width = high[0] - low[0]
    for _ in range(5):
        side = int(room.rng.choice(3, p=[0.5, 0.25, 0.25]))
        middle, yaw, half = room.wall(side)
        if width / 2 > half:
            continue
        along = room.rng.uniform(-1, 1) * (half - width / 2)
        start, end = along - width / 2, along + width / 2
        if all(end < a or start > b for a, b in room.walls[side]):
            room.walls[side].append((start, end))
            room.add(placed, middle + rot_y(yaw) @ [along, 0, 0], yaw)
            return


def _shell(room: Room) -> None:
    """Floor, ceiling and four walls; the wall behind the camera is far enough not to be met."""
    rng, w, d, h = room.rng, room.w, room.d, room.h
    paint = mt.wall(rng)
    accent = mt.wall(rng) if rng.random() < 0.35 else paint
    sides = (
        ((0, 0, d), (0, 0, -1), accent),
        ((-w, 0, 0), (1, 0, 0), paint),
        ((w, 0, 0), (-1, 0, 0), paint),
        ((0, 0, -2.5), (0, 0, 1), paint),
    )
    flags = dict(casts=False)
    room.things.append(Thing([plane((0, 0, 0), (0, 1, 0), mt.floor(rng))], LABEL["floor"], **flags))
    white = mt.hsv(rng.uniform(0, 0.2), rng.uniform(0, 0.15), rng.uniform(0.7, 1))
    ceiling = mt.paint(rng, white, 0.0)
    top = [plane((0, h, 0), (0, -1, 0), ceiling)]
    room.things.append(Thing(top, LABEL["ceiling"], **flags))
    for point, normal, material in sides:
        room.things.append(Thing([plane(point, normal, material)], LABEL["wall"], **flags))
    if rng.random() < 0.6:
        room.add(hangings.ceiling_light(rng, h), np.array([rng.uniform(-w, w) / 2, 0, d / 2]), 0.0)
    if rng.random() < 0.3:
        room.add(hangings.beam(rng, w, h), np.array([0, 0, rng.uniform(0.4, 0.95) * d]), 0.0)
    if rng.random() < 0.5:
        room.add(hangings.skirting(rng, w), np.array([0, 0, d]), 0.0)


def _camera(room: Room) -> tuple[np.ndarray, float, float, float]:
    """Position, yaw, pitch and focal length: held by a person near the open end of the room."""
    rng = room.rng
    for _ in range(8):
        x, z = rng.uniform(-0.7, 0.7) * room.w, rng.uniform(-1.3, 0.3 * room.d)
        if room.floor.free(x, z, 0.45):
            break
    height = rng.uniform(0.9, 1.8)
    yaw = np.clip(rng.normal(0, 0.3) - 0.25 * x / room.w, -0.8, 0.8)
    pitch = rng.normal(-0.2, 0.14)
    return np.array([x, height, z]), float(yaw), float(pitch), float(rng.uniform(0.85, 1.3))


def scene(rng: Rng) -> Scene:
    """Draws a room, furnishes it, and puts the camera into it."""
    name = str(rng.choice(list(ROOMS), p=[0.22, 0.22, 0.17, 0.15, 0.12, 0.12]))
    room = Room(rng, name)
    _shell(room)
    standing, free, hanging = (words.split() for words in ROOMS[name])
    size = room.w * room.d
    for _ in range(int(rng.integers(5, 9 + int(size)))):
        _against_wall(room, fittings.make(rng, str(rng.choice(standing))))
    for _ in range(int(rng.integers(4, 10))):
        _hang(room, fittings.make(rng, str(rng.choice(hanging))))
    for _ in range(int(rng.integers(2, 7))):
        word = str(rng.choice(free))
        if word == "person":
            placed = [Placed(person(rng), LABEL["person"])]
        else:
            placed = fittings.make(rng, word)
        _free_standing(room, placed, word == "floor_mat")
    eye, yaw, pitch, focal = _camera(room)
    light = indoor_light(rng, eye)
    return Scene(room.things, eye, yaw, pitch, rng.normal(0, 0.02), focal, light, sensor(rng))
