#!/usr/bin/env python3
"""Run a study: train and evaluate every cell of a grid, and make its table.

A study is a TOML file in tools/studies (tools/studies/README.md lists its keys). `run` trains and
evaluates the cells that are missing; it can be interrupted anywhere (Ctrl-C, kill -9, a power cut)
and goes on where it stopped. Each cell is an ordinary solver of tools/make_prototxt.py and an
ordinary `caffe train`: --dry-run prints the commands.

Examples:
    tools/study.py run studies/smoke.toml --jobs 2
    tools/study.py status studies/cub50_googlenet.toml
    tools/study.py table studies/cub50_googlenet.toml
    tools/study.py plot studies/table4_lambda.toml
    tools/study.py curves studies/demo_cards.toml
    tools/study.py renew
"""

import argparse
import io
import shlex
import sys
from pathlib import Path

from data_prep.common import files
from data_prep.common.arguments import gpu_numbers, within
from data_prep.common.command import command
from data_prep.common.errors import UserError
from tools import event_files
from tools.studies import (
    cells,
    curves,
    gains,
    lock,
    plan,
    plot,
    progress,
    quotes,
    runner,
    status,
    table,
    table_text,
    work,
)
from tools.studies.machine import Machine

FOLDER = Path(__file__).resolve().parent
DRAWINGS = {"plot": plot.figure, "curves": curves.figure}
TABLE = "table.md"
GAINS = "gains.md"  # over all studies, in the folder of their results
PAGES = ("*.md", "*/*.md", "tools/*/*.md")  # that may quote tables


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    run = what.add_parser("run", help="train and evaluate what is missing, and make the table")
    for name, help_text in (
        ("status", "list the cells: ended, begun, missing; cost of what is missing"),
        ("table", "make the table of what has ended"),
        ("plot", "draw accuracy against the options of the study's grid or sweep"),
        ("curves", "draw accuracy during the trainings, beside that of the first row"),
    ):
        what.add_parser(name, help=help_text)
    for one in what.choices.values():
        one.add_argument("study", type=Path, help="a study file, such as studies/smoke.toml")
    what.add_parser(
        "renew",
        help="make every table and drawing in studies/results again, from the records there, and "
        "the tables that the pages of this repository quote",
    )
    for one in (run, what.choices["status"]):
        one.add_argument(
            "--jobs",
            type=within(int, 1, 256),
            default=1,
            metavar="N",
            help="cells at a time; the cores are shared out among them (default: %(default)s)",
        )
    for name in DRAWINGS:
        what.choices[name].add_argument(
            "--out",
            type=Path,
            metavar="PNG",
            help=f"default: {name}.png in the folder of the results",
        )
    run.add_argument(
        "--gpu", type=gpu_numbers, default=[], metavar="0,1", help="GPUs, one cell on each"
    )
    run.add_argument(
        "--keep",
        choices=work.KEEP,
        default="model",
        help="snapshots of ended cells: all; model, the final weights of those in the table "
        "(default); none",
    )
    run.add_argument(
        "--progress", action="store_true", help="show speed, losses and accuracies of each training"
    )
    run.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="also write event files for TensorBoard"
    )
    run.add_argument("--dry-run", action="store_true", help="print the commands of what is missing")
    args = parser.parse_args()
    if args.what in DRAWINGS and args.out and args.out.suffix != ".png":
        parser.error(f"--out {args.out}: the name must end in .png")
    return args


def open_state(study):
    """progress.State; prints what can't run here, and how to change that."""
    state = progress.State(study, cells.Digests())
    for reason in reasons(state):
        print(f"note: {reason}", file=sys.stderr)
    return state


def reasons(state):
    """Why cells that have not ended can't run here, each reason once."""
    found = state.wanted() + [state.known(cell) for cell in state.later()]
    return list(dict.fromkeys(one.missing for one in found if one.missing and not one.record))


def dry_run(state, gpus):
    """Print the commands of every known cell that has not ended or is evaluated again.

    gpus: numbers, for each.
    """
    for known in state.again():
        print(f"\n# {known.cell.text}: again, for {', '.join(known.lacks)}")
        print(shlex.join(cells.evaluate_command(known.place, known.final, gpus)))
    for known in state.wanted():
        if known.record:
            continue
        place = known.place
        print(f"\n# {known.cell.text}")
        solver = f"snapshots/{place.pair}/model_iter_N.caffemodel"
        for words in (
            cells.make_command(place),
            cells.train_command(place, gpus),
            cells.evaluate_command(place, solver, gpus),
        ):
            print(shlex.join(words))
    for row in state.rows:
        if not state.finals(row):
            print(f"\n# {row.name}: then the same with the options that are best on val, without")
            print(f"# --test-split, with --data {row.data.whole[row.net.name].folder}")


def run(args, study):
    slots = runner.devices(study, args.jobs, args.gpu)
    if not slots:
        raise UserError(f"each training takes {study.ranks} GPUs: --gpu names fewer")
    if args.dry_run:
        return dry_run(open_state(study), slots[0].gpus)
    state, machine = open_state(study), Machine.this()
    study.results.mkdir(parents=True, exist_ok=True)
    events = event_files.EventFiles(args.tensorboard) if args.tensorboard else None
    for line in (
        *status.measures(state),
        *status.cost(state, machine, len(slots), slots[0].name),
    ):
        print(line, flush=True)
    with lock.held(cells.WORK / f"{study.name}.study.lock") as held:
        outcome = runner.Runner(
            state, machine, slots, held, keep=args.keep, shown=args.progress, tensorboard=events
        ).run()
    if events:
        events.close()
    if outcome.interrupted:
        raise KeyboardInterrupt
    if any(known.record for known in state.wanted()):
        write_tables(state)
    for text, reason in outcome.failed.items():
        print(f"failed: {text}: {reason}", file=sys.stderr)
    for reason in reasons(state):
        print(f"not run: {reason}", file=sys.stderr)
    return 1 if outcome.failed or reasons(state) else 0


def write_tables(state):
    """Write the table in three formats, and the list of cells; print it."""
    texts = texts_of(state, table.make(state))
    for name, text in texts.items():
        files.write_whole(state.study.results / name, text)
    print(texts[TABLE])
    print(f"wrote {', '.join(texts)} in {state.study.results}")


def texts_of(state, made):
    """{name of a file in the folder of the results: its text}. made: the state's table.Table."""
    ended = [known.record for known in state.wanted() if known.record]
    return {
        TABLE: table_text.markdown(made),
        "table.csv": table_text.csv_text(made),
        "table.tex": table_text.latex(made),
        "cells.tsv": table_text.cells_text(ended),
    }


def show_table(args, study):
    state = open_state(study)
    if not any(known.record for known in state.wanted()):
        raise UserError(f"no cell of {study.path} has ended: tools/study.py run {study.path}")
    write_tables(state)


def show_status(args, study):
    state = open_state(study)
    found = state.wanted()
    for known in found:
        print(f"{status.word(known):12} {known.cell.text}{status.more(state, known)}")
    ended = sum(known.record is not None for known in found)
    print(f"{ended} of {state.count()} cells have ended")
    for line in (*status.measures(state), *status.cost(state, Machine.this(), args.jobs)):
        print(line)


def draw(args, study):
    out = args.out or study.results / f"{args.what}.png"
    files.write_whole(out, drawing(args.what, open_state(study)))
    print(f"wrote {out}")


def drawing(kind, state):
    """The bytes of a PNG. kind: of DRAWINGS."""
    picture = io.BytesIO()
    DRAWINGS[kind](state).savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def renew():
    """Write every file again that exists and follows from records; print which ones changed."""
    count, changed, made = 0, [], []

    def write(path, content):
        nonlocal count
        count += 1
        content = content if isinstance(content, bytes) else content.encode()
        if not path.exists() or path.read_bytes() != content:
            files.write_whole(path, content)
            changed.append(path)

    for path in sorted((FOLDER / "studies").glob("*.toml")):
        study = plan.read(path, FOLDER)
        table_path = study.results / TABLE
        drawn = [kind for kind in DRAWINGS if (study.results / f"{kind}.png").exists()]
        if not (table_path.exists() or drawn):
            continue
        state = progress.State(study, cells.Digests())
        if table_path.exists():
            made.append(table.make(state))
            for name, text in texts_of(state, made[-1]).items():
                write(study.results / name, text)
        for kind in drawn:
            write(study.results / f"{kind}.png", drawing(kind, state))
    if text := gains.markdown(made):
        write(FOLDER / "studies/results" / GAINS, text)
    root = FOLDER.parent
    for page in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        text, quoted = quotes.renewed(page, root)
        if quoted:
            write(page, text)
    for path in changed:
        print(f"wrote {path}")
    print(f"{len(changed)} of {count} files have changed")


def main():
    args = parse()
    if args.what == "renew":
        return renew()
    study = plan.read(args.study, FOLDER)
    doing = {"run": run, "status": show_status, "table": show_table} | dict.fromkeys(DRAWINGS, draw)
    return doing[args.what](args, study)


if __name__ == "__main__":
    command(main)
