"""The tables of the papers: published numbers with their evidence, and our configs of their rows.

Published numbers are facts in ``published/*.yaml``. A row that is recalled or unconfirmed is shown
as such and never used as a bar. The configs are those of ``configs/tables/``, on the real datasets
and at the papers' scale.
"""

from mtl_vision.tables import decoders, gradients, ours, parameter_efficient
from mtl_vision.tables.published import Row, Table, published_rows

TABLES: dict[str, Table] = {
    **parameter_efficient.TABLES,
    **decoders.TABLES,
    **gradients.TABLES,
    **ours.TABLES,
}

__all__ = ["TABLES", "Row", "Table", "published_rows"]
