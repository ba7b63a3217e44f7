"""One module per data set. Each has

DESCRIPTION          one line for --help
SIZE                 default of --size
add_arguments(p)     its own options
name(args)           name of the data set, e.g. cub_bbox
open_source(args)    records.Source; raises UserError where the archive is not as it should be
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
