import numpy as np

from mtl_vision.viz.gates import HEIGHT, WIDTH, gate_map


def test_a_gate_has_a_cell_that_is_bluer_the_larger_it_is():
    gates = np.array([[[0.1, 0.9]], [[0.6, 0.4]]])
    picture = gate_map(gates, ("a/depth", "a/edge"), ("expert 1", "memory"))
    shades = {round(gate, 1): picture[..., 0] == round(255 - 222 * gate) for gate in gates.flat}
    rows = [np.nonzero(shade.sum(1) > WIDTH // 2)[0] for shade in shades.values()]
    assert [len(row) for row in rows] == [HEIGHT] * 4
    assert rows[0][0] == rows[1][0] < rows[2][0]
    middle = rows[0][0] + 2  # above the figures
    assert shades[0.9][middle].argmax() == shades[0.1][middle].argmax() + WIDTH
