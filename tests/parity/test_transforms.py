"""Every transform against the records of MTLoRA's and InvPT's loaders, with their random numbers.

Steps that take the nearest pixel are equal, but for source coordinates half-way between two pixels:
the references warp float64 maps, for which OpenCV takes the other one. Cubics differ in the last
float32 digit, which truncation to uint8 turns into one grey level on a few pixels.
"""

import cv2
import numpy as np
import pytest

from mtl_vision.data.boundaries import boundaries
from mtl_vision.data.transforms import color, geometry
from mtl_vision.data.transforms.maps import CLASS_MAPS, pack, unpack
from tests.parity import records

META, ARRAYS = {}, {}  # of the record at hand
KINDS = ("semseg", "depth", "normals", "edge", "sal", "human_parts")
LEVEL = (1 / 255 / color.STD).astype(np.float64)  # one grey level after normalisation


@pytest.fixture(
    params=records.records("transforms"), ids=lambda f: f.stem, scope="module", autouse=True
)
def record(request):
    """Repeats every test for each record."""
    global META, ARRAYS
    META, ARRAYS = records.load(request.param)


def example(family="", step="input/"):
    names = ("image", *KINDS)
    found = {n: np.squeeze(ARRAYS[f"{family}{step}{n}"]) for n in names}
    return found | {n: found[n].astype(np.uint8) for n in CLASS_MAPS}


def scene():
    return unpack(example(), KINDS)


def check(maps, family, step, tolerance=0.0, halfway=False):
    """Asserts that planes equal a recorded step, labels only where not `halfway`."""
    expected = unpack(example(f"{family}/", f"{step}."), KINDS)
    np.testing.assert_array_equal(
        np.where(np.expand_dims(halfway, -1), 0, maps["index"][0] - expected["index"][0]), 0
    )
    for name in ("image", "depth", "normals"):
        atol = tolerance * (255 if name == "image" else 1)
        for plane, want in zip(maps[name], expected[name], strict=True):
            plane = np.where(halfway, want, plane) if name == "depth" else plane
            np.testing.assert_allclose(plane, want, rtol=1e-6, atol=atol, err_msg=name)


def halfway(degrees, factor):
    """Whether a target pixel comes from half-way between two pixels, to 1/512 of a pixel."""
    H, W = ARRAYS["input/image"].shape[:2]
    matrix = cv2.getRotationMatrix2D((W / 2, H / 2), degrees, factor)
    inverse = cv2.invertAffineTransform(matrix)
    y, x = np.mgrid[:H, :W]
    source = np.einsum("ij,jyx->iyx", inverse, np.stack([x, y, np.ones_like(x)]))
    return (np.abs(source % 1 - 0.5) < 1 / 512).any(0)


@pytest.mark.parametrize("family", ["mtlora", "invpt"])
def test_flip(family):
    check(geometry.flip(scene()), family, "flip")


@pytest.mark.parametrize("case", [0, 1])
def test_rotate_and_scale(case):
    drawn = META["mtlora"]["scale_rotate"][case]
    drawn = drawn["rot_degrees"], drawn["scale"]
    maps = geometry.rotate_and_scale(scene(), *drawn)
    check(maps, "mtlora", f"scale_rotate{case}", 1e-6, halfway(*drawn))
    assert halfway(*drawn).mean() < 0.01


@pytest.mark.parametrize("case", [0, 1])
def test_scale_list(case):
    drawn = 0, META["mtlora"]["scale_list"][case]
    maps = geometry.rotate_and_scale(scene(), *drawn)
    check(maps, "mtlora", f"scale_list{case}", 1e-6, halfway(*drawn))


def squashed():
    return geometry.squash(scene(), tuple(META["mtlora"]["resize"]))


def test_squash():
    # Where normals of opposite sides cancel, their direction hangs on the last digits.
    check(squashed(), "mtlora", "resize", 1e-4)


MARKED = ["mtlora/ignore", "mtlora/tensor", "mtlora/chain", "invpt/pad_ignore"]


@pytest.mark.parametrize("step", MARKED)
def test_masks_are_the_references_ignore_marks(step):
    ties = np.zeros((1, 1), bool)
    channels_first = step in ("mtlora/tensor", "mtlora/chain")
    if step in ("mtlora/ignore", "mtlora/tensor"):
        maps = squashed()
    elif step == "mtlora/chain":
        maps, ties = chain()
    else:
        maps = geometry.pad(scene(), tuple(META["invpt"]["pad_size"]))
    labels, masks = pack(maps, KINDS)
    for kind in KINDS:
        want = ARRAYS[f"{step}.{kind}"]
        want = np.squeeze(np.moveaxis(want, 0, -1) if channels_first else want)
        ignored = (want == 255).all(-1) if kind == "normals" else want == 255
        if kind == "normals":
            np.testing.assert_array_equal(masks[kind], ~ignored)
            want = np.where(ignored[..., None], 0, want)
            off = np.abs(labels[kind] - want).max(-1)
            assert off.max() < 5e-3 and (off > 1e-4).mean() < 1e-3
            continue
        np.testing.assert_array_equal(masks[kind] | ties, ~ignored | ties, err_msg=kind)
        want = np.where(ignored | ties, 0, want)
        np.testing.assert_allclose(np.where(ties, 0, labels[kind]), want, rtol=1e-6, err_msg=kind)


def test_taskprompter_marks_the_same_depth_with_minus_one():
    maps = geometry.pad(scene(), tuple(META["invpt"]["pad_size"]))
    mask = pack(maps, KINDS)[1]["depth"]
    want = np.squeeze(ARRAYS["taskprompter/pad_ignore.depth"])
    np.testing.assert_array_equal(mask, want != -1)


def test_human_parts_without_people_are_masked_everywhere():
    nobody = example()
    nobody["human_parts"] = np.zeros_like(nobody["human_parts"])
    mask = pack(unpack(nobody, KINDS), KINDS)[1]["human_parts"]
    np.testing.assert_array_equal(~mask, ARRAYS["mtlora/ignore_no_person.human_parts"] == 255)


def test_image_is_clipped_then_truncated_then_normalised():
    planes = list(np.moveaxis(ARRAYS["mtlora/ignore.image"], -1, 0))
    want = np.moveaxis(ARRAYS["mtlora/tensor.image"], 0, -1)
    wrapped = ARRAYS["mtlora/tensor_wrapped_mask"].astype(bool)  # where clipping must differ
    got = color.quantise(planes)
    np.testing.assert_array_equal(color.normalise(got)[~wrapped], want[~wrapped])
    assert wrapped.any() and set(np.unique(got[wrapped])) <= {0, 255}


def chain():
    """Protocol A up to the squash, and where its labels may come from either of two pixels."""
    drawn = META["mtlora"]["chain"]
    size = tuple(drawn["resize"])
    ties = halfway(drawn["rot_degrees"], drawn["scale"]).astype(np.uint8)
    maps = geometry.flip(scene()) if drawn["flip"] else scene()
    maps = geometry.rotate_and_scale(maps, drawn["rot_degrees"], drawn["scale"])
    ties = cv2.resize(ties, size[::-1], interpolation=cv2.INTER_NEAREST)
    return geometry.squash(maps, size), ties > 0


def test_chain_of_protocol_a():
    image = color.quantise(chain()[0]["image"])
    want = np.moveaxis(ARRAYS["mtlora/chain.image"], 0, -1)
    off = np.abs(color.normalise(image) - want) / LEVEL
    # Black and white are where the reference wraps overshoots around.
    assert off[(image > 0) & (image < 254)].max() < 1.001
    assert (off > 1e-3).mean() < 0.1


@pytest.mark.parametrize("case", [0, 1])
def test_rescale(case):
    maps = geometry.rescale(scene(), META["invpt"]["scale_factors"][case])
    check(maps, "invpt", f"scale{case}", 1e-6)


def test_crop():
    info = META["invpt"]
    check(geometry.crop(scene(), info["crop_offset"], info["crop_size"]), "invpt", "crop")


def test_pad():
    check(geometry.pad(scene(), tuple(META["invpt"]["pad_size"])), "invpt", "pad")


def test_normalise():
    got = color.normalise(ARRAYS["input/image"])
    np.testing.assert_array_equal(got, ARRAYS["invpt/normalize.image"])


def distortion(draws):
    """The recorded coins and values, in program order, as one `Distortion`."""
    left = iter(draws)

    def step(low, high):
        return low + (high - low) * next(left) if next(left) < 0.5 else None

    brightness = step(-32, 32)
    first = next(left) < 0.5
    contrast = step(0.5, 1.5) if first else None
    saturation = step(0.5, 1.5)
    hue = next(left) if next(left) < 0.5 else None
    contrast = contrast if first else step(0.5, 1.5)
    assert next(left, None) is None
    return color.Distortion(brightness, contrast, saturation, hue, first)


@pytest.mark.parametrize("case", [0, 1])
def test_distort(case):
    got = color.distort(ARRAYS["input/image"], distortion(META["invpt"]["photo"][case]))
    np.testing.assert_array_equal(got, ARRAYS[f"invpt/photo{case}.image"])


def test_edges_of_a_label_map():
    labels = ARRAYS["edges/labelmap"]
    np.testing.assert_array_equal(boundaries(labels), ARRAYS["edges/edge"])
    # What cancels is no edge, before and after thinning.
    assert not (boundaries(labels).astype(bool) & (ARRAYS["edges/laplacian"] == 0)).any()


# The steps that the tests above read.
STEPS = {
    "edges": {"labelmap", "laplacian", "edge"},
    "input": {"image", *KINDS},
    "invpt": {*("scale0 scale1 crop flip photo0 photo1 normalize pad pad_ignore".split())},
    "mtlora": {
        *("flip scale_rotate0 scale_rotate1 scale_list0 scale_list1 resize ignore".split()),
        *("ignore_no_person tensor tensor_wrapped_mask chain".split()),
    },
    "taskprompter": {"pad_ignore"},
}


def test_no_step_of_a_record_is_left_out():
    found = {}
    for name in ARRAYS.files:
        if name != "meta":
            family, step = name.split("/")
            found.setdefault(family, set()).add(step.split(".")[0])
    assert found == STEPS
