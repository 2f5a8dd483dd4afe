r"""Rebuilds tables of the papers beside their published numbers.

  python scripts/reproduce.py --table mtlora.main --columns params
  python scripts/reproduce.py --table mtlora.main --scale mini [--seeds 3] [--only mtlora_r64]
  python scripts/reproduce.py --table mtlora.main --scale paper --set backbone.weights=swin_t.pth
  python scripts/reproduce.py --claims --seeds 3

With --scale every row is a run of its own, or one per task, in `<out>/<config>/seed<seed>`.
Finished runs are left and stopped ones go on, so the same command continues what was interrupted.
`paper` is the paper's setting on the real datasets, which have to be prepared (docs/datasets.md);
`mini` is the small problem of configs/mini.py, which is prepared here, and `mini_large` the same
for a GPU.
--claims answers what the papers claim, on the small problem.

What is finished is printed and written to `<out>/<table>.<scale>.md`, `.csv` and `.html`, or
`<out>/claims.md` and `.html`; with --show without running anything. --results writes all tables and
answers with finished runs of a scale to one Markdown file.

The column `params` counts the trainable parameters of the config of every row, without making an
array: those of the encoder with its adapters, those of the decoders, and both. Padding does not
count. A row that no source confirms is marked (?).
"""

import functools
import pathlib
import time

from absl import flags

from mtl_vision import cli
from mtl_vision.errors import ConfigError, lookup

TABLE = flags.DEFINE_string("table", None, "Table, such as mtlora.main.")
CLAIMS = flags.DEFINE_bool("claims", False, "Answer the papers' claims on the small problem.")
COLUMNS = flags.DEFINE_list("columns", [], "Only count: params.")
SCALE = flags.DEFINE_enum("scale", "mini", ["paper", "mini", "mini_large"], "Size of the runs.")
ONLY = flags.DEFINE_list("only", [], "Ids of rows, or names of claims; all by default.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds 0, 1, ... of every row.", lower_bound=1)
OUT = flags.DEFINE_string("out", "runs/mini", "Folder of the runs and the tables.")
SET = flags.DEFINE_multi_string("set", [], "field=value for every run.")
PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time.", lower_bound=1)
RESULTS = flags.DEFINE_string("results", "", "Markdown file for everything that is finished.")
SHOW = flags.DEFINE_bool("show", False, "Only show what is finished.")


def main() -> None:
    from mtl_vision.tables import TABLES

    if RESULTS.value:
        write_results(pathlib.Path(RESULTS.value))
        return
    if CLAIMS.value:
        if SCALE.value == "paper":
            raise ConfigError("--claims: they are of the small problem; give --scale=mini.")
        answer_claims()
        return
    if TABLE.value is None:
        raise ConfigError(f"--table is missing; there are {', '.join(TABLES)}.")
    table = lookup(TABLES, TABLE.value, "table")
    if COLUMNS.value:
        print_counts(table)
    else:
        rebuild(TABLE.value, table)


def rebuild(name: str, table) -> None:
    """Runs what is missing of a table, and writes it."""
    from mtl_vision.study import table as tables
    from mtl_vision.study import table_pages

    rows = tables.rows_of(name, table, SCALE.value)
    chosen = chosen_of(rows, "row")
    run([entry for row in chosen for entry in rows[row]])
    found = tables.collect(name, table, SCALE.value, range(SEEDS.value), out())
    print(table_pages.markdown(found), table_pages.note(found), sep="\n")
    print(*table_pages.write(found, out()), sep=", ")


def answer_claims() -> None:
    """Runs what the claims need, and writes the answers."""
    from mtl_vision.study import answers, table_pages
    from mtl_vision.tables.claims import CLAIMS as KNOWN

    claims = {claim.name: claim.at(SCALE.value) for claim in KNOWN}
    chosen = chosen_of(claims, "claim")
    run([entry for name in chosen for row in claims[name].rows.values() for entry in row])
    found = [answers.answer(claim, range(SEEDS.value), out()) for claim in claims.values()]
    print(table_pages.claims_markdown(found))
    print(*table_pages.write_claims(found, out()), sep=", ")


def write_results(file: pathlib.Path) -> None:
    """Writes what all finished runs of a scale found."""
    from mtl_vision.report import page
    from mtl_vision.study import answers, table_pages
    from mtl_vision.study import table as tables
    from mtl_vision.tables import TABLES
    from mtl_vision.tables.claims import CLAIMS as KNOWN
    from mtl_vision.tables.mini import MINI as SMALL

    scale, seeds = SCALE.value, range(SEEDS.value)
    names = TABLES if scale == "paper" else SMALL
    found = [tables.collect(n, TABLES[n], scale, seeds, out()) for n in names]
    claims = [] if scale == "paper" else [claim.at(scale) for claim in KNOWN]
    answered = [answers.answer(claim, seeds, out()) for claim in claims]
    page.write_whole(file, table_pages.results(found, answered))
    print(file)


def chosen_of(known, what: str) -> list[str]:
    """Returns what --only names, all by default."""
    for name in ONLY.value:
        lookup(known, name, what)
    return ONLY.value or list(known)


def out() -> pathlib.Path:
    return pathlib.Path(OUT.value)


def run(wanted: list[str]) -> None:
    """Runs what is not finished, the backbones that others start from first."""
    if SHOW.value:
        return
    from mtl_vision.study import entries, jobs

    stages = entries.plan(wanted, range(SEEDS.value), out(), SET.value)
    prepare([job for stage in stages for job in stage])
    missing = [jobs.check_all(stage, out()) for stage in stages]
    count = sum(map(len, stages))
    print(f"{count} runs, {sum(map(len, missing))} to do", flush=True)
    start = time.monotonic()
    for stage in missing:
        jobs.run(stage, out(), parallel=PARALLEL.value, say=functools.partial(print, flush=True))
    print(f"{time.monotonic() - start:.0f} s\n", flush=True)


def prepare(todo) -> None:
    """Renders the synthetic datasets that runs read, where they are not there."""
    from mtl_vision.data.synthetic import builders
    from mtl_vision.study import jobs

    needed = {}
    for job in todo:
        data = jobs.values(job)["data"]
        sections = {k: v for k, v in data.items() if k.startswith("synth_")}
        needed |= {(k, v["config"], v["root"] or data["root"]): None for k, v in sections.items()}
    for name, config, root in needed:
        place, made = builders.prepare(name, config, root)
        if made:
            print(f"{name}/{config}: prepared in {place}", flush=True)


def print_counts(table) -> None:
    """Prints what every row trains beside what is published."""
    from mtl_vision.tables import published_rows
    from mtl_vision.train.log import table as aligned

    if COLUMNS.value != ["params"]:
        raise ConfigError(f"--columns={','.join(COLUMNS.value)}: this command counts params.")
    rows = {row.id: row for row in published_rows(table)}
    lines = [["row", "published (M)", "here (M)", "total", "encoder", "decoders"]]
    for row in (rows[name] for name in chosen_of(rows, "row")):
        published = row.values.get(table.params)
        shown = "-" if published is None else f"{published:.2f}{'' if row.sure else ' (?)'}"
        here = ["-"] * 4
        if names := table.configs.get(row.id):
            encoder, decoder = counts(names)
            total = encoder + decoder
            here = [f"{total / 1e6:.2f}", f"{total:,}", f"{encoder:,}", f"{decoder:,}"]
        lines.append([row.label, shown, *here])
    print(f"{table.title}: trainable parameters\n")
    print(aligned(lines, right=range(1, 6)))
    print("\n(?) not confirmed by any source; no bar.")


def counts(names: tuple[str, ...]) -> tuple[int, int]:
    """Returns the trainable parameters of encoder and decoders, summed over entries."""
    from mtl_vision.check import check
    from mtl_vision.study import entries, jobs
    from mtl_vision.train import plan

    found = [plan.trained(check(jobs.values(entries.of(name, 0, ())))) for name in names]
    encoder, decoder = (sum(column) for column in zip(*found, strict=True))
    return encoder, decoder


if __name__ == "__main__":
    cli.start(main)
