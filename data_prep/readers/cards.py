"""Playing cards in many designs: the decks of two Debian packages, split into train and test.

data_prep/decks.tsv lists the decks: which share their artwork ("family"), which split they are in,
how to find their cards in the file ("layout"), and why some decks are left out.

Layouts: "cells <row> <row> ..." is a sheet of 13 x 5 equal cells; "gaps <row> <row> ..." is a
sheet with transparent space between the cards, which need not be even. A row names its cards from
left to right, ranks first and then their suit (`A23456789TJQKc`: ace to king of clubs; `-`:
something else). In the layout "elements" each card is rendered alone, as the SVG element with an
id such as `king_spade`. That takes 52 runs of the renderer instead of one or two, and drops the
shades and frames of some decks, so it is used only for cards that overlap or lie outside the page.
"""

import csv
import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.common import progress
from data_prep.common.errors import UserError
from data_prep.label_tree import TABLES, Hierarchy
from data_prep.opencv import cv2
from data_prep.readers.files import some
from data_prep.records import Record, Source

DESCRIPTION = "playing cards of 41 decks: 52 cards -> 4 suits -> 2 colors"
SIZE = 160
DECKS = Path(__file__).resolve().parent.parent / "decks.tsv"
COLUMNS = ("deck", "package", "file", "layout", "family", "split", "remark")
INSTALL = "docker/packages.sh demo"  # knows the packages' names in each release
INSTALLS = f"`{INSTALL}` installs those that this release of the system provides"
RANKS = dict(zip("A23456789TJQK", "ace 2 3 4 5 6 7 8 9 10 jack queen king".split()))
SUITS = dict(zip("cdhs", "clubs diamonds hearts spades".split()))
BACKGROUND = (128, 128, 128)  # BGR, behind the rounded corners: gray, unlike any suit or card
SECONDS = 120  # time limit for a hanging renderer; a card takes 0.1 s


def add_arguments(parser):
    parser.add_argument(
        "--decks",
        metavar="DECK,...",
        help="use only these decks of data_prep/decks.tsv (default: all with a split)",
    )


def name(args):
    return "cards"


def open_source(args):
    hierarchy = Hierarchy.read(TABLES / "cards.tsv")
    renderer = shutil.which("rsvg-convert")
    if renderer is None:
        raise UserError(f"rsvg-convert, which renders the cards, is not installed: {INSTALL}")
    decks = _installed(_choose(read_decks(), args.decks), named=args.decks is not None)
    version = subprocess.run(
        [renderer, "--version"], capture_output=True, text=True, timeout=SECONDS
    )
    digest = hashlib.sha256(hierarchy.text().encode())
    for deck in decks:
        digest.update("\t".join(deck[key] for key in ("deck", "layout", "split")).encode())
        digest.update(Path(deck["file"]).read_bytes())
    return Source(
        hierarchy,
        digest.hexdigest(),
        partial(_prepare, renderer, decks, hierarchy, max(args.size, *args.scales, 0)),
        {"decks": args.decks, "background_bgr": list(BACKGROUND)},
        {"rsvg-convert": version.stdout.split()[-1]},
    )


def read_decks(path=DECKS):
    """The rows of decks.tsv as dicts; raises UserError for incomplete rows and split families."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.strip() and not line.startswith("#")]
    decks = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    splits = {}
    for deck in decks:
        if tuple(deck) != COLUMNS or None in deck.values():
            raise UserError(f"{path}: every row needs {', '.join(COLUMNS)}; see {deck.get('deck')}")
        if deck["split"] not in ("train", "test", "none"):
            raise UserError(
                f"{path}: {deck['deck']} has the split {deck['split']}, not train, test or none"
            )
        if (
            deck["split"] != "none"
            and splits.setdefault(deck["family"], deck["split"]) != deck["split"]
        ):
            raise UserError(f"{path}: the family {deck['family']} has decks in train and in test")
    if len({deck["deck"] for deck in decks}) < len(decks):
        raise UserError(f"{path}: two decks have the same name")
    return decks


def _choose(decks, names):
    used = {deck["deck"]: deck for deck in decks if deck["split"] != "none"}
    if names is None:
        return list(used.values())
    for wanted in names.split(","):
        if wanted not in used:
            raise UserError(f"deck {wanted} not found; the decks are {', '.join(used)}")
    return [deck for deck in used.values() if deck["deck"] in names.split(",")]


def _installed(decks, named):
    """The decks whose files are on this machine; prints the missing ones.

    Raises UserError if decks that the user `named` are missing, or all decks of a split.
    """
    here = [deck for deck in decks if Path(deck["file"]).is_file()]
    gone = [deck["deck"] for deck in decks if deck not in here]
    lacking = {deck["split"] for deck in decks} - {deck["split"] for deck in here}
    if gone and (named or lacking):
        raise UserError(
            f"{len(gone)} of {len(decks)} decks are not on this machine ({some(gone)}): {INSTALLS}"
        )
    if gone:
        print(
            f"using {len(here)} of {len(decks)} decks, the others are not on this machine "
            f"({some(gone)}): {INSTALLS}"
        )
    return here


def _prepare(renderer, decks, hierarchy, size, folder, jobs):
    """Render all cards as PNG files, shorter side >= size. Returns Records of distinct cards."""
    labels = {card: label for label, card in enumerate(hierarchy.names[0])}
    cards = [(rank, suit) for suit in SUITS for rank in RANKS]
    with (
        ThreadPoolExecutor(jobs) as pool,
        progress.bar("render", "cards", 52 * len(decks)) as bar,
    ):
        zooms = list(pool.map(lambda deck: _zoom(renderer, deck, size), decks))
        tasks = []
        for deck, zoom in zip(decks, zooms):
            (folder / deck["deck"]).mkdir()
            if zoom is None:
                tasks.append((deck, pool.submit(_cut_sheet, renderer, deck, size)))
            else:
                tasks += [
                    (deck, pool.submit(_one_element, renderer, deck, card, zoom, size))
                    for card in cards
                ]
        records, seen = [], {}
        try:
            for number, (deck, task) in enumerate(tasks):
                for (rank, suit), image in task.result().items():
                    card = f"{RANKS[rank]}_of_{SUITS[suit]}"
                    file = f"{deck['deck']}/{card}.png"
                    record = Record(file, folder / file, labels[card], deck["split"])
                    digest = hashlib.sha256(image).digest()
                    same = seen.setdefault(digest, record)
                    if same.label != record.label:
                        raise UserError(
                            f"{same.name} and {file} are the same picture: the layout of "
                            f"{deck['deck']} in {DECKS} is wrong"
                        )
                    if same is record:
                        record.path.write_bytes(image)
                        records.append(record)
                    bar.update()
                tasks[number] = None  # frees the deck's images
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if len(records) < 52 * len(decks):
        print(
            f"{52 * len(decks) - len(records)} cards are exact copies of another deck's: kept once"
        )
    return records


def _render(renderer, deck, *options):
    """The file of a deck as uint8 height x width x 4 (BGR and alpha)."""
    command = [renderer, *options, "--", deck["file"]]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{' '.join(command)} took more than {SECONDS} s: set the deck's split to none in "
            f"{DECKS} to build without it"
        ) from None
    image = None
    if done.returncode == 0 and done.stdout:  # an interrupted renderer leaves half a picture
        image = cv2.imdecode(np.frombuffer(done.stdout, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        said = done.stderr.decode(errors="replace").strip()
        raise UserError(f"{' '.join(command)} failed: {said or 'no error message'}")
    return image


def _trim(image):
    """Remove transparent margins (shadows count as margin); None if nothing is opaque."""
    opaque = image[:, :, 3] > 127
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    if not rows.size:
        return None
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _png(image):
    """The bytes of a PNG file of a BGRA image laid on BACKGROUND."""
    alpha = image[:, :, 3:].astype(np.float32) / 255
    flat = np.rint(image[:, :, :3] * alpha + np.float32(BACKGROUND) * (1 - alpha)).astype(np.uint8)
    return cv2.imencode(".png", flat, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def parse_rows(text):
    """[[(rank, suit) or None, ...], ...] of a layout's rows.

    Raises UserError unless each of the 52 cards occurs once.
    """
    rows = []
    for word in text.split():
        row, waiting = [], []
        for letter in word:
            if letter in SUITS:
                row += [(rank, letter) if rank else None for rank in waiting]
                waiting = []
            elif letter in RANKS or letter == "-":
                waiting.append(letter if letter in RANKS else None)
            else:
                raise UserError(
                    f"{DECKS}: {letter} in the layout row {word} is neither a rank nor a suit"
                )
        rows.append(row + [None] * len(waiting))
    if sorted(card for row in rows for card in row if card) != sorted(
        (r, s) for s in SUITS for r in RANKS
    ):
        raise UserError(f"{DECKS}: the layout {text} doesn't name each of the 52 cards once")
    return rows


def _cut_sheet(renderer, deck, size):
    """{(rank, suit): PNG bytes} of a sheet, rendered with cards at least `size` pixels wide."""
    kind, _, rows = deck["layout"].partition(" ")
    rows = parse_rows(rows)
    if kind == "cells":
        sheet = _render(renderer, deck, "-a", "-w", str(size * 13), "-h", str(size * 100))
        height, width = sheet.shape[0] / 5, sheet.shape[1] / 13
        cells = [
            [
                (
                    round(i * height),
                    round((i + 1) * height),
                    round(j * width),
                    round((j + 1) * width),
                )
                for j in range(13)
            ]
            for i in range(5)
        ]
    else:
        cells = _between_gaps(_render(renderer, deck), deck, rows)
        sides = [
            min(bottom - top, right - left) for row in cells for top, bottom, left, right in row
        ]
        # Two pixels more, because edges are rounded.
        zoom = max(1, (size + 2) / (min(sides) - 2))
        sheet = _render(renderer, deck, "-z", f"{zoom:.4f}")
        cells = _between_gaps(sheet, deck, rows)
    cards = {}
    for row, places in zip(rows, cells):
        for card, (top, bottom, left, right) in zip(row, places):
            if card is None:
                continue
            cell = _trim(sheet[top:bottom, left:right])
            if cell is None:
                raise UserError(
                    f"{deck['file']} is empty where {RANKS[card[0]]} of {SUITS[card[1]]} should "
                    f"be: the layout of {deck['deck']} in {DECKS} is wrong"
                )
            cards[card] = _png(cell)
    return cards


def _runs(flags):
    """[(start, end)] of the runs of True in a 1-d array."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist()))


def _between_gaps(sheet, deck, rows):
    """Per row of the layout, the cells (top, bottom, left, right) of a sheet with gaps."""
    opaque = sheet[:, :, 3] > 127
    cells = [
        [(top, bottom, left, right) for left, right in _runs(opaque[top:bottom].any(axis=0))]
        for top, bottom in _runs(opaque.any(axis=1))[: len(rows)]
    ]
    if [len(row) for row in cells] != [len(row) for row in rows]:
        raise UserError(
            f"{deck['file']} does not have the rows that {DECKS} states: the layout of "
            f"{deck['deck']} is wrong"
        )
    return cells


def _zoom(renderer, deck, size):
    """The scale that makes the deck's two of spades `size` pixels wide; None for sheets."""
    return (
        None if deck["layout"] != "elements" else _element(renderer, deck, ("2", "s"), 1.0, size)[1]
    )


def _one_element(renderer, deck, card, zoom, size):
    return {card: _png(_element(renderer, deck, card, zoom, size)[0])}


def _element(renderer, deck, card, zoom, size):
    """(BGRA image, zoom) of one card, its shorter side at least `size` pixels.

    The image is trimmed because librsvg often reports a far too large extent, and rendered a second
    time if it is too small, since some decks draw their court cards smaller than the others.
    """
    rank, suit = RANKS[card[0]].replace("ace", "1"), SUITS[card[1]].removesuffix("s")
    for _ in range(2):
        image = _trim(_render(renderer, deck, "-z", f"{zoom:.4f}", "-i", f"{rank}_{suit}"))
        if image is None:
            raise UserError(f"{deck['file']}: the element {rank}_{suit} is empty")
        shorter = min(image.shape[:2])
        if shorter >= size:
            break
        zoom *= (size + 1) / (shorter - 1)  # a pixel more, because both are rounded
    return image, zoom
