"""The modules in READERS read a data set, or a form of data set; the others here help them.

A reader defines:

DESCRIPTION          one line for --help
SIZE                 default of --size
add_arguments(p)     adds its own options
name(args)           name of the data set, e.g. cub_bbox
open_source(args)    records.Source; raises UserError if the archive is incomplete or damaged

To add an official archive NAME:

1. NAME.py, starting from aircraft.py, and a line in READERS. It passes its images through
   files.records_with_files, which makes the fingerprint of the sources; --validation needs no code
   in it.
2. hierarchies/NAME.tsv, the label tree with its source. `folder` and `table` refuse this name then.
3. A row of DATASETS in tools/nets/tables.py, whose `side` is the reader's SIZE, and one in
   prototxt/README.md: `make_prototxt.py --dataset NAME` works from here on. Nets are committed only
   for what GRID there names.
4. Tests: a tiny archive in the official layout and what the reader refuses, as in
   tests/data_prep/test_aircraft.py.

After --validation, nets take `make_prototxt.py --data data/NAME`: --dataset counts the official
training images.
"""

from data_prep.readers import aircraft, cards, cars, cub, folder, table

READERS = {
    "cub": cub,
    "cars": cars,
    "aircraft": aircraft,
    "cards": cards,
    "folder": folder,
    "table": table,
}
