"""What an evaluation says of gates."""

import numpy as np

from mtl_vision.evaluate import Result, draw_gates, put_gates
from mtl_vision.viz.gates import gate_map
from tests.train import toy


def test_gates_go_by_task_and_become_a_picture():
    group, means = toy.GROUPS["nyud_v2"], np.arange(12.0).reshape(2, 2, 3) / 12
    result = Result({}, {}, {}, {}, {}, {})
    put_gates(result, "gates/decoder/nyud_v2", means, group)
    put_gates(result, "chosen/backbone/nyud_v2", means[:1], group)
    assert list(result.gates) == [
        "gates/decoder/nyud_v2/depth",
        "gates/decoder/nyud_v2/normals",
        "chosen/backbone/nyud_v2/all tasks",
    ]
    draw_gates(result, "gates/decoder/nyud_v2", ("a", "b", "memory"))
    draw_gates(result, "chosen/backbone/nyud_v2", None)
    drawn = gate_map(means, ["depth", "normals"], ("a", "b", "memory"))
    np.testing.assert_array_equal(result.maps["gates_decoder_nyud_v2"], drawn)
    assert "chosen_backbone_nyud_v2" in result.maps
