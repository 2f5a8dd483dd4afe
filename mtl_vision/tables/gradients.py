"""Tables of methods for conflicting gradients: NYUv2, and ours on NYUD-v2 with a Swin-T.

The published rows are of SegNet on 13 classes; ours have another network, 40 classes and their own
schedule, so the tables show two rankings side by side and no number of one is a bar for the other.
"""

from mtl_vision.tables.published import Table

KINDS = ("semseg", "depth", "normals")
PLAIN = ("LS", "SI", "RLW", "DWA", "UW", "GradDrop", "Nash-MTL", "MGDA", "PCGrad", "CAGrad", "IMTL")
FLAT = ("LS", "MGDA", "PCGrad", "CAGrad", "IMTL", "Nash-MTL", "FairGrad")
MORE = ("MoCo", "Aligned-MTL", "FAMO", "SDMGrad", "DB-MTL", "STCH", "FairGrad")
MORE += ("GradNorm", "GradVac", "IMGrad")
# Depth is missing: they print the mean absolute error, ours is its root mean square.
SCORES = {"semseg": "miou", "normals": "angle_mean"}


def _rows(file: str, *names: str) -> dict[str, tuple[str, ...]]:
    return {name: (f"tables/{file}:{name}",) for name in names}


def _alone(entry: str) -> tuple[str, ...]:
    return tuple(f"{entry}@{kind}" for kind in KINDS)


TABLES: dict[str, Table] = {
    "flat.nyud": Table(
        title="Task-wise SAM, Tables 3 and 7 (arXiv 2211.13723): NYUv2, three tasks, SegNet",
        configs={
            "STL": _alone("tables/flat:LS"),
            "F-STL": _alone("tables/flat:F-LS"),
            **_rows("flat", *PLAIN, "FairGrad", *(f"F-{name}" for name in FLAT)),
        },
        file="flat.yaml",
        section="nyuv2",
        base="STL",
        scores=SCORES,
        delta="delta_m",
        higher_is_better_delta=False,
        labels={name: f"{name} (ours)" for name in ("F-Nash-MTL", "FairGrad", "F-FairGrad")},
    ),
    "aggregators.nyud": Table(
        title="Gradient methods on NYUv2, three tasks, SegNet (tables of NTKMTL and others)",
        configs={"STL": _alone("tables/flat:LS"), **_rows("flat", *PLAIN, *MORE)},
        file="aggregators.yaml",
        section="nyuv2",
        base="STL",
        scores=SCORES,
        delta="delta_m",
        higher_is_better_delta=False,
    ),
}
