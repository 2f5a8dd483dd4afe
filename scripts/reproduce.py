r"""Rebuilds tables of the papers beside their published numbers.

  python scripts/reproduce.py --table mtlora.main --columns params
  python scripts/reproduce.py --table mtlora.main --scale mini [--seeds 3] [--only mtlora_r64]
  python scripts/reproduce.py --table mtlora.main --scale paper --set backbone.weights=swin_t.pth
  python scripts/reproduce.py --table mini.adapters [--seeds 3] [--only lora,vpt]
  python scripts/reproduce.py --claims --seeds 3
  python scripts/reproduce.py --counts docs/counts.md

With --scale every row is a run of its own, or one per task, in `<out>/<config>/seed<seed>`.
Finished runs are left and stopped ones go on, so the same command continues what was interrupted.
`paper` is the paper's setting on the real datasets, which have to be prepared (docs/datasets.md);
`mini` is the small problem of configs/mini.py, which is prepared here, and `mini_large` the same
for a GPU. Tables named mini are of the small problem alone.
--claims answers what the papers claim, on the small problem.

What is finished is printed and written to `<out>/<table>.<scale>.md`, `.csv` and `.html`, or
`<out>/claims.md` and `.html`; with --show without running anything. --results writes all tables and
answers with finished runs of a scale to one Markdown file.

--columns counts instead, without making an array: `params` the parameters of every row's config,
trained ones of the encoder with its adapters and of the decoders, and all; `work` multiply-adds
too. Padding does not count. A row that no source confirms is marked (?). --counts writes all.
"""

import functools
import pathlib
import time

from absl import flags

from mtl_vision import cli
from mtl_vision.errors import ConfigError, lookup

TABLE = flags.DEFINE_string("table", None, "Table, such as mtlora.main.")
CLAIMS = flags.DEFINE_bool("claims", False, "Answer the papers' claims on the small problem.")
COLUMNS = flags.DEFINE_list("columns", [], "Only count: params, work.")
COUNTS = flags.DEFINE_string("counts", "", "Markdown file for the counts of all tables.")
SCALE = flags.DEFINE_enum("scale", "mini", ["paper", "mini", "mini_large"], "Size of the runs.")
ONLY = flags.DEFINE_list("only", [], "Ids of rows, or names of claims; all by default.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds 0, 1, ... of every row.", lower_bound=1)
OUT = flags.DEFINE_string("out", "", "Folder of runs and tables; runs/mini, or runs/paper.")
SET = flags.DEFINE_multi_string("set", [], "field=value for every run.")
PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time.", lower_bound=1)
RESULTS = flags.DEFINE_string("results", "", "Markdown file for everything that is finished.")
SHOW = flags.DEFINE_bool("show", False, "Only show what is finished.")


def main() -> None:
    from mtl_vision.tables import TABLES
    from mtl_vision.tables.mini import STUDIES

    if COUNTS.value:
        write_counts(pathlib.Path(COUNTS.value))
        return
    if RESULTS.value:
        write_results(pathlib.Path(RESULTS.value))
        return
    if CLAIMS.value:
        if SCALE.value == "paper":
            raise ConfigError("--claims: they are of the small problem; give --scale=mini.")
        answer_claims()
        return
    if TABLE.value is None:
        raise ConfigError(f"--table is missing; there are {', '.join(TABLES | STUDIES)}.")
    table = lookup(TABLES | STUDIES, TABLE.value, "--table")
    if COLUMNS.value:
        print_counts(table)
    else:
        rebuild(TABLE.value, table)


def rebuild(name: str, table) -> None:
    """Runs what is missing of a table, and writes it."""
    from mtl_vision.study import table as tables
    from mtl_vision.study import table_pages

    rows = tables.rows_of(name, table, SCALE.value)
    chosen = chosen_of(rows)
    run([entry for row in chosen for entry in rows[row]])
    found = tables.collect(name, table, SCALE.value, range(SEEDS.value), out())
    print(table_pages.markdown(found), table_pages.note(found), sep="\n")
    print(*table_pages.write(found, out()), sep=", ")


def answer_claims() -> None:
    """Runs what the claims need, and writes the answers."""
    from mtl_vision.study import answers, table_pages
    from mtl_vision.tables.claims import CLAIMS as KNOWN

    claims = {claim.name: claim.at(SCALE.value) for claim in KNOWN}
    chosen = chosen_of(claims)
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
    from mtl_vision.tables.mini import MINI, STUDIES

    scale, seeds = SCALE.value, range(SEEDS.value)
    names = TABLES if scale == "paper" else {**MINI, **STUDIES}
    known = TABLES | STUDIES
    found = [tables.collect(n, known[n], scale, seeds, out()) for n in names]
    claims = [] if scale == "paper" else [claim.at(scale) for claim in KNOWN]
    answered = [answers.answer(claim, seeds, out()) for claim in claims]
    page.write_whole(file, table_pages.results(found, answered, SEEDS.value))
    print(file)


def chosen_of(known) -> list[str]:
    """Returns what --only names, all by default."""
    for name in ONLY.value:
        lookup(known, name, "--only")
    return ONLY.value or list(known)


def out() -> pathlib.Path:
    return pathlib.Path(OUT.value or f"runs/{SCALE.value.partition('_')[0]}")


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
    """Prints what every row trains, and costs, beside what is published."""
    from mtl_vision.study import counts
    from mtl_vision.train.log import table as aligned

    unknown = set(COLUMNS.value) - {"params", "work"}
    if unknown:
        raise ConfigError(f"--columns={','.join(COLUMNS.value)}: choose of params and work.")
    chosen_of(table.configs)
    rows = counts.counted(table, ONLY.value, work="work" in COLUMNS.value)
    head, *lines = counts.lines(rows)
    print(f"{table.title}\n")
    print(aligned([head, *lines], right=range(2, len(head))))
    print("", *counts.reasons(rows), f"{counts.summary(rows)}.", sep="\n")
    print("(?) not confirmed by any source; no bar.")


def write_counts(file: pathlib.Path) -> None:
    """Writes the counts of all tables."""
    from mtl_vision.report import page
    from mtl_vision.study import counts

    page.write_whole(file, counts.document())
    print(file)


if __name__ == "__main__":
    cli.start(main)
