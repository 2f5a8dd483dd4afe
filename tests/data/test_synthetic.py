"""The rendered scenes: determinism, ranges, and agreement of the labels with each other."""

import pickle

import numpy as np
import pytest

from mtl_vision.data import boundaries, verify
from mtl_vision.data.synthetic import (
    HUMAN_PARTS,
    KINDS,
    SEMSEG,
    SceneSource,
    camera,
    in_memory,
    layout,
    raycast,
    render,
    scenes,
    shapes,
    surface,
)
from mtl_vision.data.synthetic import materials as mt
from mtl_vision.data.synthetic.labels import DOMAINS
from mtl_vision.errors import DataError

SIZE = {"synth_pascal": (64, 64), "synth_nyud": (56, 72)}
COUNT = 24


@pytest.fixture(scope="module", params=DOMAINS)
def domain(request):
    return request.param


@pytest.fixture(scope="module")
def examples(domain):
    return list(SceneSource(domain, "train", COUNT, SIZE[domain], KINDS[domain]))


def test_same_index_same_scene(domain, examples):
    again = SceneSource(domain, "train", COUNT, SIZE[domain], KINDS[domain])[3]
    for key, value in examples[3].items():
        assert np.array_equal(value, again[key]), key


def test_splits_and_seeds_are_disjoint(domain):
    seeds = {scenes.seed_of(domain, s, n) for s in scenes.SPLITS for n in range(50)}
    assert len(seeds) == 150
    a, b = (SceneSource(domain, s, 2, SIZE[domain], ())[0] for s in ("train", "val"))
    assert a["id"] != b["id"] and not np.array_equal(a["image"], b["image"])
    other = SceneSource(domain, "train", 2, SIZE[domain], (), seed=1)[0]
    assert not np.array_equal(other["image"], SceneSource(domain, "train", 2, SIZE[domain], ())[0])


def test_labels_obey_the_conventions(domain, examples):
    classes = {"semseg": SEMSEG[domain], "human_parts": HUMAN_PARTS}
    totals = {}
    for example in examples:
        assert set(example) == {"id", "image", *KINDS[domain]}
        verify.check_example(example, classes)
        totals = verify.add(totals, example)
    pixels = totals["pixels"]
    assert np.count_nonzero(totals["semseg"][:255]) > 12
    assert 0.005 < totals["semseg"][255] / pixels < 0.25
    assert 0.005 < totals["edge"][1] / pixels < 0.15
    assert 40 < np.mean([e["image"].mean() for e in examples]) < 200


def test_normals_face_the_camera(domain, examples):
    H, W = SIZE[domain]
    for index, example in enumerate(examples):
        scene = scenes.draw(domain, scenes.seed_of(domain, "train"), index)
        x, y = np.meshgrid(np.arange(W) + 0.5 - W / 2, np.arange(H) + 0.5 - H / 2)
        ray = np.stack([x, y, np.full_like(x, scene.focal * min(H, W))], -1)
        cosine = (example["normals"] * ray).sum(-1) / np.linalg.norm(ray, axis=-1)
        assert cosine.max() < 0.02  # 8-bit rounding


def test_normals_are_undefined_exactly_where_they_should_be(examples, domain):
    known = np.stack([np.any(e["normals"] != 0, -1) for e in examples])
    if domain == "synth_nyud":
        assert known.all()
    else:
        semseg = np.stack([e["semseg"] for e in examples])
        assert known[(semseg > 0) & (semseg < 255)].all()
        assert not known.all()


def test_depth_agrees_with_normals():
    H, W = 112, 144
    checked = 0
    for index in range(6):
        e = render("synth_nyud", "val", index, (H, W))
        scene = scenes.draw("synth_nyud", scenes.seed_of("synth_nyud", "val"), index)
        x, y = np.meshgrid(np.arange(W) + 0.5 - W / 2, np.arange(H) + 0.5 - H / 2)
        ray = np.stack([x, y, np.full_like(x, scene.focal * H)], -1) / (scene.focal * H)
        point = ray * e["depth"][..., None]
        normal = np.cross(point[2:, 1:-1] - point[:-2, 1:-1], point[1:-1, 2:] - point[1:-1, :-2])
        length = np.linalg.norm(normal, axis=-1)
        n = e["normals"][1:-1, 1:-1]
        flat = (e["depth"][1:-1, 1:-1] > 0) & (length > 0)
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            near = e["normals"][dy : H - 2 + dy, dx : W - 2 + dx]
            flat &= (n * near).sum(-1) > 0.9999
        d = e["depth"]
        for bend in (d[2:, 1:-1] + d[:-2, 1:-1], d[1:-1, 2:] + d[1:-1, :-2]):
            flat &= np.abs(bend - 2 * d[1:-1, 1:-1]) < 0.004 * d[1:-1, 1:-1]
        cosine = (normal[flat] * n[flat]).sum(-1) / length[flat]
        assert np.median(cosine) > 0.999 and np.mean(cosine > 0.98) > 0.99
        checked += flat.sum()
    assert checked > 0.4 * 6 * H * W


def test_edge_is_the_boundary_of_the_objects(domain, examples, monkeypatch):
    seen = []
    monkeypatch.setattr(boundaries, "boundaries", lambda ids: seen.append(ids) or ids % 2)
    render(domain, "train", 3, SIZE[domain], ("edge",))
    monkeypatch.undo()
    edge = examples[3]["edge"].astype(bool)
    assert np.array_equal(edge, boundaries.boundaries(seen[0]).astype(bool))
    # Where classes change there is an edge close by.
    semseg = examples[3]["semseg"].astype(int)
    change = np.zeros_like(edge)
    both = (semseg[:, 1:] != 255) & (semseg[:, :-1] != 255)
    change[:, 1:] = both & (semseg[:, 1:] != semseg[:, :-1])
    near = np.pad(edge, 2)
    near = sum(
        near[i : i + edge.shape[0], j : j + edge.shape[1]] for i in range(5) for j in range(5)
    )
    assert (near > 0)[change].all()


def test_parts_and_saliency_agree_with_semseg():
    source = SceneSource("synth_pascal", "val", 60, (64, 64), KINDS["synth_pascal"])
    people = 0
    for e in source:
        semseg, parts = e["semseg"], e["human_parts"]
        assert np.isin(semseg[parts > 0], (15, 255)).all()
        assert (parts[semseg == 15] > 0).all()
        assert not np.isin(0, semseg[e["sal"] == 1])
        things = (semseg > 0) & (semseg < 255)
        if things.mean() > 0.1:
            assert e["sal"].any()
        people += bool(parts.any())
    assert 5 <= people <= 45


@pytest.mark.slow
def test_every_class_occurs():
    for domain in DOMAINS:
        labels = set()
        for index in range(400):
            scene = scenes.draw(domain, 7, index)
            labels |= {t.label for t in scene.things}
        expected = set(range(len(SEMSEG[domain])))
        assert expected <= labels, [SEMSEG[domain][i] for i in expected - labels]


def test_two_sizes_show_the_same_scene(domain):
    H, W = SIZE[domain]
    for index in range(6):
        small = render(domain, "train", index, (H, W))
        large = render(domain, "train", index, (3 * H, 3 * W))
        middle = {k: v[1::3, 1::3] for k, v in large.items() if k != "id"}
        both = (small["semseg"] != 255) & (middle["semseg"] != 255)
        assert np.mean((small["semseg"] == middle["semseg"])[both]) > 0.98
        assert np.mean((small["normals"] * middle["normals"]).sum(-1) > 0.99) > 0.8 or (
            domain == "synth_pascal"
        )
        if "depth" in small:
            both = (small["depth"] > 0) & (middle["depth"] > 0)
            ratio = small["depth"][both] / middle["depth"][both]
            assert np.mean(np.abs(ratio - 1) < 0.02) > 0.95


def test_memory_equals_rendering_and_pickles(domain, examples):
    kinds = KINDS[domain]
    made = in_memory(domain, "train", 5, SIZE[domain], kinds, processes=2, quiet=True)
    source = pickle.loads(pickle.dumps(SceneSource(domain, "train", 5, SIZE[domain], kinds)))
    assert len(made) == len(source) == 5
    for i in range(5):
        assert list(made[i]) == list(source[i])
        for key, value in source[i].items():
            assert np.array_equal(value, made[i][key]), key
            assert key == "id" or value.dtype == made[i][key].dtype


def test_only_the_kinds_asked_for_are_made():
    assert set(render("synth_nyud", "test", 0, (32, 32), ("depth",))) == {"id", "image", "depth"}
    with pytest.raises(DataError, match="no 'sal' labels"):
        render("synth_nyud", "test", 0, (32, 32), ("sal",))
    with pytest.raises(DataError, match="split='dev'"):
        render("synth_nyud", "dev", 0, (32, 32))
    with pytest.raises(IndexError, match="has 3 scenes"):
        SceneSource("synth_nyud", "test", 3, (32, 32), ())[3]


# ---- the ray caster, by hand --------------------------------------------------------------------

WHITE = mt.Material(np.ones(3), np.ones(3))


def look(prims, size=(33, 33), focal=1.0):
    """Casts from the origin along +z; returns depth [H, W] (inf: nothing) and the surface."""
    view = camera.camera(np.zeros(3), 0.0, 0.0, 0.0, focal, size)
    geo = shapes_geometry = raycast.geometry(prims)
    inverse, index = raycast.cast(view, geo)
    with np.errstate(divide="ignore"):
        return 1 / inverse, surface.surface(view, shapes_geometry, inverse, index)


@pytest.mark.parametrize(
    ("prim", "depth"),
    [
        (shapes.ball((0, 0, 5), (2, 2, 2), WHITE), 4.0),
        (shapes.box((0, 0, 5), (2, 2, 1), WHITE), 4.5),
        (shapes.tube((0, -1, 5), (0, 1, 5), (0.5, 0.5), WHITE), 4.5),
        (shapes.tube((0, 0, 4), (0, 0, 6), (1.0, 0.5), WHITE), 4.0),
        (shapes.limb((0, -1, 5), (0, 1, 5), (0.5, 0.5), WHITE), 4.5),
        (shapes.plane((0, 0, 5), (0, 0, -1), WHITE), 5.0),
        (shapes.prism((0, 0, 5), (2, 2, 2), (0, 1.0), WHITE), 4.5),
    ],
)
def test_depth_and_normal_of_each_shape(prim, depth):
    found, met = look([prim])
    assert found[16, 16] == pytest.approx(depth, rel=1e-5)
    middle = np.flatnonzero(met.where == 16 * 33 + 16)[0]
    assert met.normal[2][middle] < -0.8
    lengths = np.sqrt(sum(n**2 for n in met.normal))
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


def test_a_ring_has_a_hole():
    prim = shapes.ring((0, 0, 5), 2.0, 0.5, 0.4, WHITE, axis=np.array([0, 0, 1.0]))
    found, met = look([prim], size=(65, 65))
    assert np.isinf(found[32, 32]) and np.isinf(found[32, 0])
    assert found[32, 32 + 20] == pytest.approx(4.8, rel=1e-5)  # radius 1.48 of 1..2 at z = 4.8


def test_a_tapered_limb_is_smooth():
    _, met = look([shapes.limb((-1, 0, 5), (1, 0.5, 5), (0.7, 0.3), WHITE)], size=(97, 97))
    normals = np.zeros((97 * 97, 3))
    normals[met.where] = np.stack(met.normal, 1)
    normals = normals.reshape(97, 97, 3)
    inside = np.any(normals != 0, -1)
    both = inside[:, 1:] & inside[:, :-1] & (normals[:, 1:, 2] < -0.6) & (normals[:, :-1, 2] < -0.6)
    assert (normals[:, 1:] * normals[:, :-1]).sum(-1)[both].min() > 0.97


def test_an_object_hides_what_is_behind_it():
    far = shapes.box((0, 0, 9), (8, 8, 1), WHITE)
    near = shapes.ball((0, 0, 5), (1, 1, 1), WHITE)
    found, _ = look([near, far])
    assert found[16, 16] == pytest.approx(4.5) and found[16, 8] == pytest.approx(8.5)
    again, _ = look([far, near])
    np.testing.assert_array_equal(found, again)


def test_scenes_do_not_know_the_size_of_the_image():
    for domain in DOMAINS:
        a, b = (scenes.draw(domain, 5, 9) for _ in range(2))
        assert a.focal == b.focal and len(a.things) == len(b.things)
        assert isinstance(a, layout.Scene)
